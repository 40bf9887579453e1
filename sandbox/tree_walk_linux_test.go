package sandbox

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

// deepPath is the longest path there is: 2,048 names.
var deepPath = strings.Repeat("d/", 2047) + "f"

func TestTreeLongestPath(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		require.Len(t, deepPath, mesh.MaxPathBytes)
		dir := strings.TrimSuffix(deepPath, "/f")
		v := f.View(".")
		before := openDescriptors(t)
		require.NoError(t, v.Mkdir(dir, 0, true))
		_, err := v.Write(deepPath, []byte("deep"), WriteOptions{})
		require.NoError(t, err)
		got, err := readAll(v, deepPath)
		require.NoError(t, err)
		require.Equal(t, "deep", got)
		_, err = v.Copy(t.Context(), deepPath, "flat", CopyOptions{})
		require.NoError(t, err)
		require.Equal(t, "deep", f.content("flat"))
		_, err = v.Copy(t.Context(), "flat", strings.Replace(deepPath, "f", "g", 1), CopyOptions{})
		require.NoError(t, err)

		f.link(dir, "to")
		info, err := v.Stat("to/f", true)
		require.NoError(t, err, "through a link")
		require.Equal(t, TypeFile, info.Type)
		require.NoError(t, v.Remove(deepPath, false, ""))
		require.NoError(t, v.Remove("d", true, ""))
		require.LessOrEqual(t, openDescriptors(t), before+3)
	})
}

// A link that leads further up than the walk has kept descriptors for.
func TestTreeTooFarUp(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View(".")
		const depth = maxHeld + 50
		dir := strings.Repeat("d/", depth)
		require.NoError(t, v.Mkdir(strings.TrimSuffix(dir, "/"), 0, true))
		for name, c := range map[string]struct {
			up   int
			code mesh.Code
		}{
			"some":            {100, ""},
			"to the last":     {maxHeld - 2, ""},
			"its parent is":   {maxHeld - 1, mesh.CodeInvalid},
			"closed":          {maxHeld, mesh.CodeInvalid},
			"all the way":     {depth, mesh.CodeInvalid},
			"out of the tree": {depth + 1, mesh.CodeInvalid},
		} {
			t.Run(name, func(t *testing.T) {
				f.link(dir+strings.Repeat("../", c.up), name)
				before := openDescriptors(t)
				info, err := v.Stat(name, true)
				requireCode(t, c.code, err)
				if c.code == "" {
					require.Equal(t, TypeDir, info.Type)
				}
				require.LessOrEqual(t, openDescriptors(t), before) // tests before this one may still be closing theirs
			})
		}
	})
}

// What is done in a directory that the host has removed fails at once, and the
// Tree says why.
func TestTreeGone(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("f", "x")
		v := f.View(".")
		require.False(t, f.Gone())
		require.NoError(t, os.RemoveAll(f.cfg.Dir))
		require.True(t, f.Gone())
		start := time.Now()
		_, err := v.Stat("f", true)
		requireCode(t, mesh.CodeNotFound, err)
		_, err = v.Write("f", nil, WriteOptions{})
		requireCode(t, mesh.CodeNotFound, err)
		_, err = v.Write("a/b/f", nil, WriteOptions{})
		requireCode(t, mesh.CodeNotFound, err)
		requireCode(t, mesh.CodeNotFound, v.Mkdir("a/b", 0, true))
		requireCode(t, mesh.CodeNotFound, v.Mkdir("a", 0, false))
		requireCode(t, mesh.CodeNotFound, v.Symlink("x", "l"))
		requireCode(t, mesh.CodeNotFound, v.Touch("f", time.Time{}, false))
		requireCode(t, mesh.CodeNotFound, v.Remove("f", true, ""))
		_, err = v.Search(t.Context(), ".", &mesh.SearchRequest{})
		require.NoError(t, err)
		_, err = v.ReadTar(t.Context(), ".", bytes.NewReader(tarOf(tarFile("f", 3)).Bytes()), TarLimits{})
		requireCode(t, mesh.CodeNotFound, err)
		require.Less(t, time.Since(start), 2*time.Second)
		require.NoError(t, f.Close())
		require.False(t, f.Gone(), "closed")
	})
}
