package dirtree_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// TestUpdate changes a directory at random. A copy that is updated from one state to
// the next is like one that is made anew, in every attribute; it is seldom refused.
func TestUpdate(t *testing.T) {
	updated, anew := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(rt, err)
		defer os.RemoveAll(dir)
		d, err := dirtree.Open(dir)
		require.NoError(rt, err)
		defer d.Close()
		stored, l := contents{}, dirtree.NewLedger()
		capture(rt, d, l, stored)
		before := l.Snapshot()
		copied := restored(t, rt, before, stored)
		for range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			for range rapid.IntRange(0, 8).Draw(rt, "changes") {
				changeSomething(rt, dir)
			}
			capture(rt, d, l, stored)
			after := l.Snapshot()
			c, err := dirtree.Open(copied)
			require.NoError(rt, err)
			err = c.Update(t.Context(), before, after, stored.chunk)
			require.NoError(rt, c.Close())
			if err != nil {
				anew++
				copied = restored(t, rt, after, stored)
			} else {
				updated++
			}
			require.Equal(rt, describe(t, restored(t, rt, after, stored)), describe(t, copied), "%v", err)
			before = after
		}
	})
	t.Logf("%d updated, %d made anew", updated, anew)
	require.Greater(t, updated, 10*anew)
}

// TestUpdateOfHardLinks: the other names of a file that is made anew are made anew too.
func TestUpdateOfHardLinks(t *testing.T) {
	dir := t.TempDir()
	d, err := dirtree.Open(dir)
	require.NoError(t, err)
	defer d.Close()
	stored, l := contents{}, dirtree.NewLedger()
	require.NoError(t, os.WriteFile(dir+"/a", []byte("old"), 0o644))
	require.NoError(t, os.Link(dir+"/a", dir+"/b"))
	capture(t, d, l, stored)
	before := l.Snapshot()
	copied := restored(t, t, before, stored)
	require.NoError(t, os.WriteFile(dir+"/a", []byte("newer"), 0o644))
	capture(t, d, l, stored)
	c, err := dirtree.Open(copied)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Update(t.Context(), before, l.Snapshot(), stored.chunk))
	require.Equal(t, describe(t, dir), describe(t, copied))
}
