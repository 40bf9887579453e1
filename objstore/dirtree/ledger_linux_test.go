package dirtree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// contents is where a test's scans store what they read: up to 1000 bytes in the
// ops, and the rest in chunks.
type contents map[objstore.ID][]byte

func (c contents) scan() *dirtree.Scan {
	return &dirtree.Scan{Content: func(_ context.Context, r io.Reader, _ int64) (chunks []objstore.Chunk, data []byte, err error) {
		all, err := io.ReadAll(r)
		size := 4096
		if len(all) <= 1000 {
			data, size = all, 1000
		}
		for b := range slices.Chunk(all, size) {
			id := objstore.IDOf(b)
			c[id] = b
			chunks = append(chunks, objstore.Chunk{ID: id, Size: int64(len(b))})
		}
		return chunks, data, err
	}}
}

func (c contents) chunk(_ context.Context, chunk objstore.Chunk) ([]byte, error) {
	b, ok := c[chunk.ID]
	if !ok {
		return nil, errors.New("no such chunk")
	}
	return b, nil
}

func itemsOf(s dirtree.Snapshot) iter.Seq2[objstore.Item, error] {
	return func(yield func(objstore.Item, error) bool) {
		for it := range s.Items() {
			if !yield(it, nil) {
				return
			}
		}
	}
}

// capture brings a ledger up to date, and returns what it was told.
func capture(t require.TestingT, d *dirtree.Dir, l *dirtree.Ledger, stored contents) (ops []objstore.Op) {
	ops, _ = captureWith(t, d, l, stored.scan(), 0)
	return ops
}

// captureWith is a capture of that number by a scan of one's own.
func captureWith(t require.TestingT, d *dirtree.Dir, l *dirtree.Ledger, scan *dirtree.Scan, number uint64) (ops []objstore.Op, whole bool) {
	at := time.Now()
	found, err := d.Changes(context.Background(), scan, l.Snapshot())
	require.NoError(t, err)
	require.Zero(t, found.Left)
	for i := range found.Changes {
		if op := &found.Changes[i].Op; op.Kind != "" {
			l.Apply(op, at)
			ops = append(ops, *op)
		}
	}
	for _, c := range found.Changes {
		if c.Seen != (dirtree.Stat{}) {
			require.True(t, l.Seen(string(c.Op.Path), c.Seen, number), c.Op.Path)
		}
	}
	return ops, found.Whole
}

// TestLedgerFollowsADirectory changes a directory at random. What a scan finds
// makes a copy of the ledger equal in every attribute, whatever a restart of the
// ledger comes between, and a scan of what is known finds nothing.
func TestLedgerFollowsADirectory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(rt, err)
		defer os.RemoveAll(dir)
		d, err := dirtree.Open(dir)
		require.NoError(rt, err)
		defer d.Close()
		stored, l, replica := contents{}, dirtree.NewLedger(), dirtree.NewLedger()
		for range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			for range rapid.IntRange(0, 12).Draw(rt, "changes") {
				changeSomething(rt, dir)
			}
			for _, op := range capture(rt, d, l, stored) {
				replica.Apply(&op, time.Unix(1, 1))
				replica.Apply(&op, time.Unix(2, 2)) // it sets state: twice is once
			}
			require.Empty(rt, capture(rt, d, l, stored), "a second scan")
			l = restart(rt, l)
			differs, err := d.Differs(t.Context(), &dirtree.Scan{}, l.Snapshot())
			require.NoError(rt, err)
			require.False(rt, differs, "after a restart")
		}
		require.Equal(rt, describe(t, dir), describe(t, restored(t, rt, replica.Snapshot(), stored)))
		require.Equal(rt, slices.Collect(l.Snapshot().Items()), slices.Collect(replica.Snapshot().Items()))
		require.Equal(rt, len(describe(t, dir))-1, l.Len())
	})
}

// restart saves a ledger and reads it again.
func restart(t require.TestingT, l *dirtree.Ledger) *dirtree.Ledger {
	var b bytes.Buffer
	require.NoError(t, l.Snapshot().Save(&b, "header"))
	var header string
	again, err := dirtree.ReadSaved(&b, &header)
	require.NoError(t, err)
	require.Equal(t, "header", header)
	require.Equal(t, l.Snapshot().Len(), again.Len())
	return again
}

// restored makes a snapshot's tree in a new directory.
func restored(t *testing.T, rt require.TestingT, s dirtree.Snapshot, stored contents) string {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	require.NoError(rt, err)
	d, err := dirtree.Open(dir)
	require.NoError(rt, err)
	defer d.Close()
	require.NoError(rt, d.RestoreItems(t.Context(), itemsOf(s), stored.chunk))
	return dir
}

var someNames = []string{"a", "b", "c", "a/x", "a/y", "b/x", "a/x/1", "a/x/2", "b/x/1", "\xff\n", "a/\xfe"}

// changeSomething does one thing that processes do; what cannot be done is none.
func changeSomething(rt *rapid.T, dir string) {
	name := func(label string) string { return filepath.Join(dir, rapid.SampledFrom(someNames).Draw(rt, label)) }
	p := name("name")
	size := rapid.SampledFrom([]int{0, 1, 10, 1000, 1001, 5000, 20000}).Draw(rt, "size")
	fill := strings.Repeat(rapid.SampledFrom([]string{"x", "yz"}).Draw(rt, "fill"), size)
	switch rapid.SampledFrom([]string{"write", "write", "mkdir", "mkdir", "append", "in place", "remove", "rename", "rename", "link", "link", "symlink", "fifo", "chmod", "xattr", "times", "sparse", "replace"}).Draw(rt, "what") {
	case "write":
		if f, err := os.OpenFile(p, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|unix.O_NONBLOCK, 0o644); err == nil {
			_, _ = f.WriteString(fill)
			_ = f.Close()
		}
	case "mkdir":
		_ = os.MkdirAll(p, 0o755)
	case "append":
		if f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			_, _ = f.WriteString("more")
			_ = f.Close()
		}
	case "in place": // same size, same time
		var st unix.Stat_t
		if unix.Lstat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > 0 {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			require.NoError(rt, err)
			_, _ = f.WriteAt([]byte(rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "byte")), 0)
			_ = f.Close()
			require.NoError(rt, setTime(p, time.Unix(st.Mtim.Sec, st.Mtim.Nsec)))
		}
	case "remove":
		if info, err := os.Lstat(filepath.Dir(p)); err == nil && info.IsDir() { // it would wait in a FIFO's place
			_ = os.RemoveAll(p)
		}
	case "rename":
		_ = os.Rename(p, name("to"))
	case "link":
		_ = os.Link(p, name("to"))
	case "symlink":
		_ = os.Symlink("some/where", p)
	case "fifo":
		_ = unix.Mkfifo(p, 0o600)
	case "chmod":
		_ = unix.Fchmodat(unix.AT_FDCWD, p, uint32(rapid.SampledFrom([]int{0o600, 0o755, 0o4711, 0o1777}).Draw(rt, "mode")), 0)
	case "xattr":
		_ = unix.Lsetxattr(p, "user.x", []byte(fill[:min(size, 100)]), 0)
	case "times":
		_ = setTime(p, time.Unix(rapid.Int64Range(-1e9, 4e9).Draw(rt, "time"), int64(size)))
	case "sparse":
		if f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			_ = f.Truncate(int64(size) * 1000)
			_ = f.Close()
		}
	case "replace":
		if os.WriteFile(p+".new", []byte(fill), 0o640) == nil && os.Rename(p+".new", p) != nil {
			_ = os.Remove(p + ".new")
		}
	}
}

// TestSkippedDirectories: what is in them is neither found nor missed, be it known
// or not.
func TestSkippedDirectories(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	for _, p := range []string{"a/.cache", "known/.cache"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, p), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, p, "f"), []byte("x"), 0o644))
	}
	at := time.Unix(1, 0)
	l.Apply(ptr(objstore.PutFile("known/.cache/f", objstore.Entry{Size: 1}, []byte("x"))), at)
	l.Apply(ptr(objstore.PutFile("known/.cache/g", objstore.Entry{Size: 1}, []byte("x"))), at)
	scan := stored.scan()
	scan.Skip = func(dir string) bool { return filepath.Base(dir) == ".cache" }
	changes, err := d.Changes(t.Context(), scan, l.Snapshot())
	require.NoError(t, err)
	for i := range changes.Changes {
		op := &changes.Changes[i].Op
		require.NotContains(t, op.Path, ".cache")
		if op.Kind != "" {
			l.Apply(op, at)
		}
	}
	var paths []string
	for it := range l.Snapshot().Items() {
		paths = append(paths, it.Path)
	}
	require.Equal(t, []string{".", "a", "known", "known/.cache", "known/.cache/f", "known/.cache/g"}, paths)
}

func ptr[T any](v T) *T { return &v }

// TestProvisional: what was read while it could be written to is read again, also
// when nothing shows that it changed.
func TestProvisional(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	p := filepath.Join(dir, "f")
	require.NoError(t, os.WriteFile(p, []byte("old"), 0o644))
	require.NotEmpty(t, capture(t, d, l, stored))
	st, err := d.Stat("f")
	require.NoError(t, err)

	old, _ := l.Snapshot().Entry("f")
	l.Apply(ptr(objstore.PutFile("f", old, []byte("new"))), time.Now()) // as if it had been read before the store
	for _, c := range []struct {
		read, since uint64
		again       bool
	}{{0, 0, false}, {7, 8, false}, {7, 7, true}, {7, 0, true}} {
		l.Seen("f", dirtree.Stat{}, 0)
		l.Seen("f", st, c.read)
		scan := stored.scan()
		scan.Since = c.since
		changes, err := d.Changes(t.Context(), scan, l.Snapshot())
		require.NoError(t, err)
		found := slices.ContainsFunc(changes.Changes, func(ch dirtree.Change) bool { return ch.Op.Kind == objstore.KindPut })
		require.Equal(t, c.again, found, "%v", c)
	}
}

// TestLinkedWhileRead: a file gets another name while a scan reads it.
func TestLinkedWhileRead(t *testing.T) {
	for _, name := range []string{"z", "0"} { // the new name comes after the other, and before
		dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
		d := openDir(t, dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644))
		scan := stored.scan()
		keep := scan.Content
		scan.Content = func(ctx context.Context, r io.Reader, size int64) ([]objstore.Chunk, []byte, error) {
			_ = os.Link(filepath.Join(dir, "f"), filepath.Join(dir, name))
			return keep(ctx, r, size)
		}
		captureWith(t, d, l, scan, 0)
		_, known := l.Entry("f")
		require.True(t, known)
		capture(t, d, l, stored)
		require.Equal(t, describe(t, dir), describe(t, restored(t, t, l.Snapshot(), stored)))
	}
}

// BenchmarkScan looks at 10,000 files, none of which changed, and then one.
func BenchmarkScan(b *testing.B) {
	dir, stored, l := b.TempDir(), contents{}, dirtree.NewLedger()
	makeSmallFiles(b, dir)
	d := openDir(b, dir)
	capture(b, d, l, stored)
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			require.Empty(b, capture(b, d, l, stored))
		}
	})
	b.Run("one file", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			require.NoError(b, os.WriteFile(filepath.Join(dir, "d01/e01/new"), fmt.Append(nil, i), 0o644))
			require.NotEmpty(b, capture(b, d, l, stored))
		}
	})
	b.Run("ten files in all", func(b *testing.B) {
		small := b.TempDir()
		for i := range 10 {
			require.NoError(b, os.WriteFile(filepath.Join(small, fmt.Sprint(i)), nil, 0o644))
		}
		d, l := openDir(b, small), dirtree.NewLedger()
		capture(b, d, l, stored)
		for b.Loop() {
			require.Empty(b, capture(b, d, l, stored))
		}
	})
}
