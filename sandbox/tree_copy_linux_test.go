package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestTreeCopyFile(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View(".")
		body := "\x00\xff" + strings.Repeat("content", 100_000)
		f.put("src", body)
		f.put("old", "old")
		f.put("other", "other")
		past := time.Unix(1_500_000_000, 123_456_789)
		require.NoError(t, os.Chmod(f.tenant("src"), 0o751|os.ModeSetuid|os.ModeSticky))
		require.NoError(t, os.Chtimes(f.tenant("src"), past, past))
		require.NoError(t, os.Mkdir(f.tenant("dir"), 0o755))
		require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o644))
		require.NoError(t, os.Link(f.tenant("src"), f.tenant("same")))
		f.link("src", "link")
		f.link("other", "tolink")
		f.link("nowhere", "dangling")
		for _, c := range []struct {
			name, from, to string
			opt            CopyOptions
			code           mesh.Code
		}{
			{name: "new", from: "src", to: "new"},
			{name: "makes parents", from: "src", to: "p/q/new"},
			{name: "replaces a file", from: "src", to: "old"},
			{name: "replaces a link", from: "src", to: "tolink"},
			{name: "replaces a dangling link", from: "src", to: "dangling"},
			{name: "from a link", from: "link", to: "new2"},
			{name: "recursive is allowed", from: "src", to: "new3", opt: CopyOptions{Recursive: true}},
			{name: "no replace, new", from: "src", to: "new4", opt: CopyOptions{NoReplace: true}},
			{name: "no replace", from: "src", to: "old", opt: CopyOptions{NoReplace: true}, code: mesh.CodeExists},
			{name: "no replace, a link", from: "src", to: "link", opt: CopyOptions{NoReplace: true}, code: mesh.CodeExists},
			{name: "over a directory", from: "src", to: "dir", code: mesh.CodeInvalid},
			{name: "over a fifo", from: "src", to: "fifo", code: mesh.CodeInvalid},
			{name: "over itself", from: "src", to: "src", code: mesh.CodeInvalid},
			{name: "over its other name", from: "src", to: "same", code: mesh.CodeInvalid},
			{name: "over the root", from: "src", to: ".", code: mesh.CodeDenied},
			{name: "out of the scope", from: "src", to: "../x", code: mesh.CodeDenied},
			{name: "a fifo", from: "fifo", to: "new5", code: mesh.CodeInvalid},
			{name: "missing", from: "nope", to: "new5", code: mesh.CodeNotFound},
			{name: "below a file", from: "src", to: "src/x", code: mesh.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				count, err := v.Copy(t.Context(), c.from, c.to, c.opt)
				requireCode(t, c.code, err)
				require.Empty(t, f.staged())
				if c.code != "" {
					require.Zero(t, count)
					return
				}
				require.Equal(t, mesh.CopyReply{Entries: 1, Bytes: int64(len(body))}, count)
				require.Equal(t, body, f.content(c.to))
				requireTenants(t, f.tenant(c.to), 0o1751)
				st, err := os.Lstat(f.tenant(c.to))
				require.NoError(t, err)
				require.True(t, st.Mode().IsRegular())
				require.True(t, past.Equal(st.ModTime()))
			})
		}
		require.Equal(t, "other", f.content("other"), "what a link at to leads to")
	})
}

// Holes stay holes, in a file and below a directory.
func TestTreeCopySparse(t *testing.T) {
	f := newTreeFixture(t)
	v := f.View(".")
	const size = 64 << 20
	f.put("d/f", "start")
	require.NoError(t, os.Truncate(f.tenant("d/f"), size))
	w, err := os.OpenFile(f.tenant("d/f"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = w.WriteAt([]byte("middle"), 30<<20)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	for _, c := range []struct{ from, to, file string }{{"d/f", "g", "g"}, {"d", "e", "e/f"}} {
		count, err := v.Copy(t.Context(), c.from, c.to, CopyOptions{Recursive: true})
		require.NoError(t, err)
		require.Equal(t, int64(size), count.Bytes)
		var st unix.Stat_t
		require.NoError(t, unix.Stat(f.tenant(c.file), &st))
		require.Equal(t, int64(size), st.Size)
		require.Less(t, st.Blocks*512, int64(2<<20))
		b, _, err := v.ReadAt(c.file, 30<<20, 6, "")
		require.NoError(t, err)
		require.Equal(t, "middle", string(b))
		b, _, err = v.ReadAt(c.file, 0, 6, "")
		require.NoError(t, err)
		require.Equal(t, "start\x00", string(b))
	}
}

// Where the kernel does not copy ranges, the bytes go through memory.
func TestTreeCopyByHand(t *testing.T) {
	f := newTreeFixture(t)
	body := strings.Repeat("0123456789", copyBuffer/7)
	f.put("in", body)
	in, err := os.Open(f.tenant("in"))
	require.NoError(t, err)
	defer in.Close()
	out, err := os.Create(f.tenant("out"))
	require.NoError(t, err)
	defer out.Close()
	c := copier{View: f.View("."), ctx: t.Context()}
	require.NoError(t, c.spanByHand(int(out.Fd()), int(in.Fd()), span{0, int64(len(body)) + 5}))
	require.Equal(t, body, f.content("out"))
}

func TestTreeCopyDirectory(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		makeVariety(t, f)
		v := f.View(".")
		f.link("src", "link")
		f.put("taken/x", "x")
		want := treeState(t, f.tenant("src"))
		for _, c := range []struct {
			name, from, to string
			flat           bool
			code           mesh.Code
		}{
			{name: "new", from: "src", to: "dst"},
			{name: "makes parents", from: "src", to: "p/q/dst"},
			{name: "from a link", from: "link", to: "dst2"},
			{name: "not recursive", from: "src", to: "dst3", flat: true, code: mesh.CodeInvalid},
			{name: "onto a directory", from: "src", to: "taken", code: mesh.CodeExists},
			{name: "onto a file", from: "src", to: "taken/x", code: mesh.CodeExists},
			{name: "onto a link", from: "src", to: "link", code: mesh.CodeExists},
			{name: "onto itself", from: "src", to: "src", code: mesh.CodeExists},
			{name: "into itself", from: "src", to: "src/a/b", code: mesh.CodeInvalid},
			{name: "into itself, with parents", from: "src", to: "src/n/e/w", code: mesh.CodeInvalid},
			{name: "into itself by a link", from: "src", to: "link/new", code: mesh.CodeInvalid},
			{name: "into itself from a link", from: "link", to: "src/new/er", code: mesh.CodeInvalid},
			{name: "the root into itself", from: ".", to: "all", code: mesh.CodeInvalid},
			{name: "onto the root", from: "src", to: ".", code: mesh.CodeDenied},
			{name: "below a file", from: "src", to: "taken/x/y", code: mesh.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				count, err := v.Copy(t.Context(), c.from, c.to, CopyOptions{Recursive: !c.flat})
				requireCode(t, c.code, err)
				require.Empty(t, f.staged())
				if c.code != "" {
					return
				}
				require.Equal(t, want, treeState(t, f.tenant(c.to)))
				require.Equal(t, int64(len(want)+1), count.Entries)
				var from, to unix.Stat_t
				require.NoError(t, unix.Stat(f.tenant(c.from), &from))
				require.NoError(t, unix.Stat(f.tenant(c.to), &to))
				require.Equal(t, from.Mtim, to.Mtim)
				requireTenants(t, f.tenant(c.to), from.Mode&0o1777)
				t.Cleanup(func() { _ = os.Chmod(f.tenant(c.to, "ro"), 0o755) })
			})
		}
		require.Equal(t, want, treeState(t, f.tenant("src")), "the source")
		require.NoDirExists(t, f.tenant("src/n"))
	})
}

// A copy that ends early leaves nothing.
func TestTreeCopyStops(t *testing.T) {
	many := func(f *treeFixture) {
		for i := range 50 {
			f.put(fmt.Sprintf("src/%d/f", i), strings.Repeat("x", 100))
		}
	}
	for name, c := range map[string]struct {
		change func(f *treeFixture)
		ctx    func(context.Context) context.Context
		code   mesh.Code
	}{
		"too many entries": {change: func(f *treeFixture) { f.copies.Entries = 99 }, code: mesh.CodeTooLarge},
		"too many bytes":   {change: func(f *treeFixture) { f.copies.Bytes = 4999 }, code: mesh.CodeTooLarge},
		"just fits":        {change: func(f *treeFixture) { f.copies = TarLimits{Entries: 100, Bytes: 5000} }},
		"canceled": {ctx: func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}, code: mesh.CodeCanceled},
		"deeper than a path": {change: func(f *treeFixture) { makeDeep(f.t, f.tenant("src"), 900) }, code: mesh.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTreeFixture(t)
			many(f)
			if c.change != nil {
				c.change(f)
			}
			ctx := t.Context()
			if c.ctx != nil {
				ctx = c.ctx(ctx)
			}
			before := openDescriptors(t)
			_, err := f.View(".").Copy(ctx, "src", "p/dst", CopyOptions{Recursive: true})
			requireCode(t, c.code, err)
			require.Empty(t, f.staged())
			require.LessOrEqual(t, openDescriptors(t), before) // tests before this one may still be closing theirs
			if c.code != "" {
				require.NoDirExists(t, f.tenant("p"))
			}
		})
	}
	t.Run("one file", func(t *testing.T) {
		f := newTreeFixture(t)
		f.put("f", "12345")
		f.copies.Bytes = 4
		_, err := f.View(".").Copy(t.Context(), "f", "g", CopyOptions{})
		requireCode(t, mesh.CodeTooLarge, err)
		f.copies.Bytes = 5
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = f.View(".").Copy(ctx, "f", "g", CopyOptions{})
		requireCode(t, mesh.CodeCanceled, err)
		require.NoFileExists(t, f.tenant("g"))
	})
}

// The source changes all the time. The copy is made or refused, and is a whole
// directory.
func TestTreeCopyOfWhatChanges(t *testing.T) {
	f := newTreeFixture(t)
	for i := range 30 {
		f.put(fmt.Sprintf("src/%d/f", i), "inside")
	}
	f.put("away/x", "inside")
	stops := []func() int{
		swap(t, f.tenant("src/3"), f.tenant("src/4/f")),
		swap(t, f.tenant("src/7"), f.tenant("away")),
	}
	v := f.View(".")
	for i, end := 0, time.Now().Add(300*time.Millisecond); time.Now().Before(end); i++ {
		to := fmt.Sprintf("dst%d", i)
		if _, err := v.Copy(t.Context(), "src", to, CopyOptions{Recursive: true}); err == nil {
			names, err := os.ReadDir(f.tenant(to))
			require.NoError(t, err)
			require.Len(t, names, 30)
		} else {
			require.NotEqual(t, mesh.CodeInternal, mesh.CodeOf(err), err)
			require.NoDirExists(t, f.tenant(to))
		}
	}
	for _, stop := range stops {
		require.Positive(t, stop())
	}
}

// Deeper than the walker holds descriptors.
func TestTreeCopyDeep(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		depth := 4 * maxOpenDirs
		switch {
		case f.noBatch:
			depth = 2 * maxOpenDirs // each name is looked up alone, for each directory again
		case os.Getenv("WSMESH_LONG") == "1":
			depth = 2047 // as long as a path may be
		}
		v := f.View(".")
		require.NoError(t, v.Mkdir(strings.Repeat("d/", depth-1)+"d", 0, true))
		count, err := v.Copy(t.Context(), "d", "flat", CopyOptions{Recursive: true})
		require.NoError(t, err)
		require.Equal(t, int64(depth), count.Entries)
		require.NoError(t, f.View(".").Remove("flat", true, ""))
	})
}

// manyFiles is a Tree of 10,000 files of 6,400 bytes in 100 directories.
func manyFiles(b *testing.B) *Tree {
	b.Helper()
	base := b.TempDir()
	tree, err := OpenTree(TreeConfig{Dir: filepath.Join(base, "ws"), Stage: filepath.Join(base, "stage"), UID: testUID, GID: testUID})
	require.NoError(b, err)
	b.Cleanup(func() { tree.Close() })
	text := bytes.Repeat([]byte("func handle(w http.ResponseWriter, r *http.Request) error {\n\n}\n"), 100)
	for i := range 10_000 {
		p := filepath.Join(base, "ws/src", fmt.Sprint(i%100), fmt.Sprintf("%d.go", i))
		require.NoError(b, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(b, os.WriteFile(p, text, 0o644))
	}
	return tree
}

func BenchmarkTreeCopy(b *testing.B) {
	tree := manyFiles(b)
	for i := 0; b.Loop(); i++ {
		_, err := tree.View(".").Copy(b.Context(), "src", fmt.Sprint("dst", i), CopyOptions{Recursive: true})
		require.NoError(b, err)
	}
}
