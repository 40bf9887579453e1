package objstore_test

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

func idOf(s string) objstore.ID { return objstore.IDOf([]byte(s)) }

// golden compares bytes with a file: what is stored must stay readable, and be
// written the same as long as its format byte does not change.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(hex.Dump(got)), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), hex.Dump(got))
	return got
}

var goldenTime = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)

func goldenTree() objstore.Tree {
	return objstore.Tree{
		{Name: "bin", Type: objstore.TypeDir, Mode: 0o1777, ModTime: goldenTime, Content: []objstore.Chunk{{ID: idOf("bin"), Size: 2}}},
		{Name: "empty", Type: objstore.TypeFile, Mode: 0o644, ModTime: time.Unix(-1, 5).UTC()},
		{Name: "fifo", Type: objstore.TypeFIFO, Mode: 0o600, ModTime: time.Unix(0, 0).UTC()},
		{Name: "link", Type: objstore.TypeLink, Target: "bin/tool"},
		{
			Name: "n\xff\n", Type: objstore.TypeFile, Mode: 0o4755, ModTime: goldenTime, Size: 300,
			Xattrs:  []objstore.Xattr{{Name: "user.a", Value: "1\x00"}, {Name: "user.b"}},
			Content: []objstore.Chunk{{ID: idOf("x"), Size: 200}, {ID: idOf("y"), Size: 100}},
		},
		{Name: "sparse", Type: objstore.TypeFile, ModTime: goldenTime, Size: 1 << 40, Holes: []objstore.Extent{{0, 4096}, {8192, 1<<40 - 8192}}, Content: []objstore.Chunk{{ID: idOf("z"), Size: 4096}}},
		{Name: "sym", Type: objstore.TypeSymlink, Mode: 0o777, ModTime: goldenTime, Target: "../\xfe"},
	}
}

func goldenCommit() *objstore.Commit {
	packs := []objstore.ID{idOf("a"), idOf("b")}
	if bytes.Compare(packs[0][:], packs[1][:]) > 0 {
		packs[0], packs[1] = packs[1], packs[0]
	}
	return &objstore.Commit{
		Workspace: "w-id", Epoch: 41, Sequence: 1234, Number: 7, Record: idOf("record"),
		Parent: objstore.Ref{Pack: idOf("pack"), Commit: idOf("commit")}, Time: goldenTime, Cause: "idle",
		Root:  objstore.Entry{Type: objstore.TypeDir, Mode: 0o755, ModTime: goldenTime, Content: []objstore.Chunk{{ID: idOf("root"), Size: 100}}},
		Packs: packs, Unfinished: []mesh.ExecID{exec1},
		Answers: []objstore.Answer{{ID: "4b7b0d3e", Time: goldenTime, Code: mesh.CodeExists, Body: "{}"}, {ID: "x", Time: goldenTime}},
		Changes: 1001, History: []objstore.Chunk{{ID: idOf("history"), Size: 300}},
	}
}

func TestTreeGolden(t *testing.T) {
	got, err := objstore.DecodeTree(golden(t, "tree", goldenTree().Encode()))
	require.NoError(t, err)
	require.Equal(t, goldenTree(), got)
}

func TestCommitGolden(t *testing.T) {
	got, err := objstore.DecodeCommit(golden(t, "commit-2", goldenCommit().Encode()))
	require.NoError(t, err)
	require.Equal(t, goldenCommit(), got)

	dump, err := os.ReadFile("testdata/commit-1.golden")
	require.NoError(t, err)
	old := goldenCommit()
	old.Changes, old.History = 0, nil
	got, err = objstore.DecodeCommit(undump(t, string(dump)))
	require.NoError(t, err, "of the format before")
	require.Equal(t, old, got)
}

// undump is the inverse of hex.Dump.
func undump(t *testing.T, dump string) (b []byte) {
	for line := range strings.Lines(dump) {
		if len(line) < 58 {
			continue // its last line is the length
		}
		part, err := hex.DecodeString(strings.ReplaceAll(line[10:58], " ", ""))
		require.NoError(t, err)
		b = append(b, part...)
	}
	return b
}

func TestID(t *testing.T) {
	id := idOf("abc")
	require.Equal(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", id.String())
	got, err := objstore.ParseID(id.String())
	require.NoError(t, err)
	require.Equal(t, id, got)
	require.False(t, id.IsZero())
	require.True(t, objstore.ID{}.IsZero())
	for _, wrong := range []string{"", "ba78", strings.ToUpper(id.String()), id.String() + "0", strings.Repeat("g", 64)} {
		_, err := objstore.ParseID(wrong)
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), wrong)
	}
}

func TestEntryData(t *testing.T) {
	for _, c := range []struct {
		name  string
		size  int64
		holes []objstore.Extent
		want  []objstore.Extent
	}{
		{"empty", 0, nil, nil},
		{"whole", 10, nil, []objstore.Extent{{0, 10}}},
		{"one hole", 10, []objstore.Extent{{0, 10}}, nil},
		{"at the start", 10, []objstore.Extent{{0, 4}}, []objstore.Extent{{4, 6}}},
		{"at the end", 10, []objstore.Extent{{4, 6}}, []objstore.Extent{{0, 4}}},
		{"between", 10, []objstore.Extent{{2, 2}, {6, 1}}, []objstore.Extent{{0, 2}, {4, 2}, {7, 3}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := objstore.Entry{Type: objstore.TypeFile, Size: c.size, Holes: c.holes}
			require.Equal(t, c.want, e.Data())
			var sum int64
			for _, d := range c.want {
				sum += d.Length
			}
			require.Equal(t, sum, e.DataSize())
		})
	}
}

// TestDecodeTreeRefuses alters a good tree in one place each.
func TestDecodeTreeRefuses(t *testing.T) {
	file := func(change func(*objstore.Entry)) objstore.Tree {
		e := objstore.Entry{Name: "f", Type: objstore.TypeFile, ModTime: goldenTime, Size: 10, Content: []objstore.Chunk{{ID: idOf("x"), Size: 10}}}
		change(&e)
		return objstore.Tree{e}
	}
	_, err := objstore.DecodeTree(file(func(*objstore.Entry) {}).Encode())
	require.NoError(t, err)
	named := func(names ...string) (t objstore.Tree) {
		for _, n := range names {
			t = append(t, objstore.Entry{Name: n, Type: objstore.TypeFIFO, ModTime: goldenTime})
		}
		return t
	}
	for _, c := range []struct {
		name string
		tree objstore.Tree
	}{
		{"no name", named("")},
		{"dot", named(".")},
		{"dot dot", named("..")},
		{"slash", named("a/b")},
		{"NUL", named("a\x00")},
		{"long name", named(strings.Repeat("x", 256))},
		{"unsorted", named("b", "a")},
		{"twice", named("a", "a")},
		{"type", file(func(e *objstore.Entry) { e.Type = 9 })},
		{"type 0", file(func(e *objstore.Entry) { e.Type = 0 })},
		{"mode", file(func(e *objstore.Entry) { e.Mode = 0o10000 })},
		{"size", file(func(e *objstore.Entry) { e.Size = 11 })},
		{"size without content", file(func(e *objstore.Entry) { e.Content = nil })},
		{"negative size", file(func(e *objstore.Entry) { e.Size = -1 })},
		{"huge size", file(func(e *objstore.Entry) { e.Size = math.MaxInt64 })},
		{"empty chunk", file(func(e *objstore.Entry) { e.Content = append(e.Content, objstore.Chunk{}) })},
		{"huge chunk", file(func(e *objstore.Entry) { e.Content[0].Size, e.Size = objstore.MaxBlob+1, objstore.MaxBlob+1 })},
		{"hole beyond the end", file(func(e *objstore.Entry) { e.Size, e.Holes = 12, []objstore.Extent{{10, 3}} })},
		{"hole at the end", file(func(e *objstore.Entry) { e.Holes = []objstore.Extent{{10, 0}} })},
		{"holes that touch", file(func(e *objstore.Entry) { e.Size, e.Holes = 12, []objstore.Extent{{10, 1}, {11, 1}} })},
		{"holes that overlap", file(func(e *objstore.Entry) { e.Size, e.Holes = 12, []objstore.Extent{{2, 1}, {2, 1}} })},
		{"attribute without a name", file(func(e *objstore.Entry) { e.Xattrs = []objstore.Xattr{{}} })},
		{"attribute twice", file(func(e *objstore.Entry) { e.Xattrs = []objstore.Xattr{{Name: "a"}, {Name: "a"}} })},
		{"directory without content", file(func(e *objstore.Entry) { e.Type, e.Content = objstore.TypeDir, nil })},
		{"link to nothing", file(func(e *objstore.Entry) { e.Type = objstore.TypeSymlink })},
		{"link with a NUL", file(func(e *objstore.Entry) { e.Type, e.Target = objstore.TypeSymlink, "a\x00" })},
		{"name of nothing", file(func(e *objstore.Entry) { e.Type = objstore.TypeLink })},
	} {
		t.Run(c.name, func(t *testing.T) { requireDamaged(t, c.tree.Encode()) })
	}
	good := goldenTree().Encode()
	for n := range good {
		requireDamaged(t, good[:n])
	}
	requireDamaged(t, append(good, 0))
	requireDamaged(t, append([]byte{objstore.TreeFormat + 1}, good[1:]...))
	requireDamaged(t, []byte{objstore.TreeFormat, 0x80, 0x00}) // 0 in two bytes
}

func requireDamaged(t *testing.T, b []byte) {
	t.Helper()
	got, err := objstore.DecodeTree(b)
	require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%v", err)
	require.Nil(t, got)
}

func TestDecodeCommitRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*objstore.Commit)
	}{
		{"root with a name", func(c *objstore.Commit) { c.Root.Name = "x" }},
		{"root that is a file", func(c *objstore.Commit) { c.Root = objstore.Entry{Type: objstore.TypeFile} }},
		{"unsorted packs", func(c *objstore.Commit) { c.Packs[0], c.Packs[1] = c.Packs[1], c.Packs[0] }},
		{"a pack twice", func(c *objstore.Commit) { c.Packs[0] = c.Packs[1] }},
		{"no exec id", func(c *objstore.Commit) { c.Unfinished[0] = "x" }},
		{"long cause", func(c *objstore.Commit) { c.Cause = strings.Repeat("x", objstore.MaxCause+1) }},
		{"long answer", func(c *objstore.Commit) { c.Answers[0].Body = strings.Repeat("x", objstore.MaxAnswer+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			commit := goldenCommit()
			c.change(commit)
			_, err := objstore.DecodeCommit(commit.Encode())
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%v", err)
		})
	}
	good := goldenCommit().Encode()
	for n := range good {
		_, err := objstore.DecodeCommit(good[:n])
		require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%d bytes", n)
	}
}

func drawTree(r *rapid.T) (tree objstore.Tree) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z\x{80}-\x{90}]{1,8}`), 0, 6, rapid.ID[string]).Draw(r, "names")
	for _, name := range names {
		e := objstore.Entry{
			Name: name, Type: objstore.Type(rapid.IntRange(1, 4).Draw(r, "type")), Mode: rapid.Uint32Max(objstore.ModeMask).Draw(r, "mode"),
			ModTime: time.Unix(rapid.Int64().Draw(r, "s"), rapid.Int64Range(0, 999999999).Draw(r, "ns")).UTC(),
		}
		switch e.Type {
		case objstore.TypeFile:
			e.Size = rapid.Int64Range(0, 3*objstore.MaxBlob).Draw(r, "size")
			for left := e.Size; left > 0; {
				n := min(left, objstore.MaxBlob)
				e.Content, left = append(e.Content, objstore.Chunk{ID: idOf(name), Size: n}), left-n
			}
		case objstore.TypeDir:
			e.Content = []objstore.Chunk{{ID: idOf(name), Size: 2}}
		case objstore.TypeSymlink:
			e.Target = rapid.StringN(1, 20, -1).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }).Draw(r, "target")
		}
		tree = append(tree, e)
	}
	sortTree(tree)
	return tree
}

func TestTreeRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		tree := drawTree(r)
		got, err := objstore.DecodeTree(tree.Encode())
		require.NoError(r, err)
		require.Equal(r, tree, got)
	})
}

// The fuzz targets: whatever is read is written the same, so that content has one
// spelling, and what is read takes no more memory than a constant times the input.

func FuzzDecodeTree(f *testing.F) {
	f.Add(goldenTree().Encode())
	f.Add(objstore.Tree(nil).Encode())
	f.Add([]byte{objstore.TreeFormat, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := objstore.DecodeTree(b)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			return
		}
		require.Equal(t, b, tree.Encode())
		require.LessOrEqual(t, 4*len(tree), len(b))
	})
}

func FuzzDecodeCommit(f *testing.F) {
	f.Add(goldenCommit().Encode())
	f.Add((&objstore.Commit{Root: goldenCommit().Root}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		commit, err := objstore.DecodeCommit(b)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			return
		}
		if b[0] == objstore.CommitFormat {
			require.Equal(t, b, commit.Encode())
		}
	})
}

func sortTree(tree objstore.Tree) {
	slices.SortFunc(tree, func(a, b objstore.Entry) int { return strings.Compare(a.Name, b.Name) })
}
