package objstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
)

// random returns n bytes that do not compress.
func random(seed, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// watched is a bucket that tells of each Put before it is done, and fails it when
// told so.
type watched struct {
	objstore.Bucket
	puts atomic.Int64
	mu   sync.Mutex // one call of put at a time
	put  func(id objstore.ID, data []byte) error
}

func (w *watched) Put(ctx context.Context, id objstore.ID, data []byte) error {
	w.puts.Add(1)
	if w.put != nil {
		w.mu.Lock()
		err := w.put(id, data)
		w.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return w.Bucket.Put(ctx, id, data)
}

// newStore returns a store in a directory, the bucket below it and the directory.
func newStore(t testing.TB) (*objstore.Store, *watched, string) {
	t.Helper()
	dir := t.TempDir()
	b, err := dirbucket.Open(dir)
	require.NoError(t, err)
	w := &watched{Bucket: b}
	return reopen(t, w), w, dir
}

// reopen returns another store on a bucket, with nothing cached.
func reopen(t testing.TB, b objstore.Bucket) *objstore.Store {
	t.Helper()
	s, err := objstore.New(b, objstore.Config{Workers: 4})
	require.NoError(t, err)
	return s
}

func TestBlobs(t *testing.T) {
	s, bucket, _ := newStore(t)
	w := s.Writer(nil)
	contents := [][]byte{
		[]byte("a"), bytes.Repeat([]byte("text "), 1000), random(1, 100), random(2, objstore.MaxBlob), make([]byte, objstore.MaxBlob),
		random(3, 3<<20), random(4, 3<<20), random(5, 600<<10), random(6, 511<<10),
	}
	var g errgroup.Group
	for range 3 { // three writers of everything at once
		for _, b := range contents {
			g.Go(func() error {
				c, err := w.Blob(t.Context(), b)
				if err == nil && (c.ID != objstore.IDOf(b) || c.Size != int64(len(b))) {
					err = errors.New("a blob has a wrong name")
				}
				return err
			})
		}
	}
	require.NoError(t, g.Wait())
	packs, err := w.Flush(t.Context())
	require.NoError(t, err)
	stored, err := s.Packs(t.Context())
	require.NoError(t, err)
	require.Equal(t, stored, packs)
	for name, s := range map[string]*objstore.Store{"the same store": s, "another one": reopen(t, bucket)} {
		r, err := s.Reader(t.Context(), packs...)
		require.NoError(t, err, name)
		for range 2 {
			for i, b := range contents {
				got, err := r.Blob(t.Context(), objstore.IDOf(b))
				require.NoError(t, err, name)
				require.True(t, bytes.Equal(b, got), "%s: blob %d", name, i)
			}
		}
		_, err = r.Blob(t.Context(), idOf("nothing"))
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
		for _, id := range packs {
			require.NoError(t, s.CheckStored(t.Context(), id))
		}
	}
	for _, n := range []int{0, objstore.MaxBlob + 1} {
		_, err = w.Blob(t.Context(), make([]byte, n))
		require.Equal(t, mesh.CodeTooLarge, mesh.CodeOf(err))
	}
}

// TestPackSizes: packs are neither small, where there is enough to put into them,
// nor larger than they may be.
func TestPackSizes(t *testing.T) {
	s, bucket, _ := newStore(t)
	var sizes []int
	bucket.put = func(_ objstore.ID, data []byte) error {
		sizes = append(sizes, len(data))
		return nil
	}
	w := s.Writer(nil)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 60 {
		_, err := w.Blob(t.Context(), random(i, 1+r.IntN(objstore.MaxBlob/4)))
		require.NoError(t, err)
	}
	for i := range objstore.MaxPackBlobs + 10 { // more than one index holds
		_, err := w.Blob(t.Context(), fmt.Append(nil, i))
		require.NoError(t, err)
	}
	_, err := w.Flush(t.Context())
	require.NoError(t, err)
	require.Greater(t, len(sizes), 10)
	for i, n := range sizes {
		require.Less(t, n, objstore.MaxPackBytes+400<<10)
		if i < len(sizes)-2 {
			require.Greater(t, n, objstore.MaxPackBytes/4)
		}
	}
}

// TestReuse: a writer refers to what it was given and to what it stored, and
// stores all else again.
func TestReuse(t *testing.T) {
	s, bucket, _ := newStore(t)
	put := func(base *objstore.Reader, seeds ...int) []objstore.ID {
		w := s.Writer(base)
		for _, seed := range seeds {
			_, err := w.Blob(t.Context(), random(seed, 1000))
			require.NoError(t, err)
		}
		packs, err := w.Flush(t.Context())
		require.NoError(t, err)
		return packs
	}
	first := put(nil, 1, 2, 1)
	second := put(nil, 3)
	require.Len(t, first, 1)
	r, err := s.Reader(t.Context(), first...)
	require.NoError(t, err)
	before := bucket.puts.Load()
	require.Equal(t, first, put(r, 1, 2), "known content costs nothing and names its pack")
	require.Empty(t, put(r), "nothing given, nothing referred to")
	require.Equal(t, before, bucket.puts.Load())
	third := put(r, 3)
	require.NotEqual(t, second, third, "stored again, under a name of its own: the other one may be about to be collected")
	require.Equal(t, before+1, bucket.puts.Load())
	mixed := put(r, 1, 4)
	require.Len(t, mixed, 2)
	require.Contains(t, mixed, first[0])
}

// TestTenantsShareNothing: equal content of two tenants is stored twice, and one
// cannot tell that the other has it.
func TestTenantsShareNothing(t *testing.T) {
	a, bucketA, _ := newStore(t)
	b, bucketB, _ := newStore(t)
	var packs []objstore.ID
	for _, s := range []*objstore.Store{a, b} {
		w := s.Writer(nil)
		_, err := w.Blob(t.Context(), random(1, 1000))
		require.NoError(t, err)
		packs, err = w.Flush(t.Context())
		require.NoError(t, err)
		require.Len(t, packs, 1)
	}
	require.EqualValues(t, 1, bucketA.puts.Load())
	require.EqualValues(t, 1, bucketB.puts.Load())
	require.NoError(t, bucketA.Delete(t.Context(), packs[0]))
	_, err := reopen(t, bucketA).Reader(t.Context(), packs...)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
	_, err = reopen(t, bucketB).Reader(t.Context(), packs...)
	require.NoError(t, err)
}

func rootOf(t testing.TB, w *objstore.Writer, items ...objstore.Item) objstore.Entry {
	t.Helper()
	root, err := w.Tree(t.Context(), seq(items...))
	require.NoError(t, err)
	return root
}

func seq(items ...objstore.Item) iter.Seq2[objstore.Item, error] {
	return func(yield func(objstore.Item, error) bool) {
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
		}
	}
}

func dirItem(path string) objstore.Item {
	e := objstore.Entry{Name: filepath.Base(path), Type: objstore.TypeDir, Mode: 0o755, ModTime: goldenTime}
	if path == "." {
		e.Name = ""
	}
	return objstore.Item{Path: path, Entry: e}
}

func fileItem(path string, data []byte) objstore.Item {
	return objstore.Item{
		Path:  path,
		Entry: objstore.Entry{Name: filepath.Base(path), Type: objstore.TypeFile, Mode: 0o644, ModTime: goldenTime, Size: int64(len(data))},
		Open:  func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

// TestCommitComesLast looks at each Put: when the pack with the commit is stored,
// every pack that the commit lists is there.
func TestCommitComesLast(t *testing.T) {
	s, bucket, _ := newStore(t)
	var last objstore.ID
	bucket.put = func(id objstore.ID, _ []byte) error {
		last = id
		return nil
	}
	w := s.Writer(nil)
	items := []objstore.Item{dirItem(".")}
	for i := range 40 {
		items = append(items, fileItem(fmt.Sprintf("%02d", i), random(i, 700<<10)))
	}
	commit := *goldenCommit()
	commit.Root = rootOf(t, w, items...)
	ref, err := w.Commit(t.Context(), commit)
	require.NoError(t, err)
	require.Equal(t, last, ref.Pack)
	r, got, err := reopen(t, bucket).CommitReader(t.Context(), ref)
	require.NoError(t, err)
	require.Greater(t, len(got.Packs), 5)
	require.NotContains(t, got.Packs, ref.Pack)
	require.NoError(t, r.Verify(t.Context(), got.Root))
	commit.Packs = got.Packs
	require.Equal(t, &commit, got)
	all, err := s.Packs(t.Context())
	require.NoError(t, err)
	listed := append(got.Packs, ref.Pack)
	slices.SortFunc(listed, func(a, b objstore.ID) int { return bytes.Compare(a[:], b[:]) })
	require.Equal(t, all, listed)
}

// TestFailedPut fails one Put after another: there is never a commit whose packs
// are not all stored, and the writer says so from then on.
func TestFailedPut(t *testing.T) {
	items := []objstore.Item{dirItem(".")}
	for i := range 20 {
		items = append(items, fileItem(fmt.Sprintf("%02d", i), random(i, 700<<10)))
	}
	full := mesh.Errorf(mesh.CodeQuota, "full")
	for fail := 1; ; fail++ {
		s, bucket, _ := newStore(t)
		var n atomic.Int64
		bucket.put = func(objstore.ID, []byte) error {
			if n.Add(1) == int64(fail) {
				return full
			}
			return nil
		}
		w := s.Writer(nil)
		root, err := w.Tree(t.Context(), seq(items...))
		if err == nil {
			_, err = w.Commit(t.Context(), objstore.Commit{Time: goldenTime, Root: root})
		}
		if n.Load() < int64(fail) {
			require.NoError(t, err)
			require.Greater(t, fail, 3)
			return
		}
		require.ErrorIs(t, err, full, "put %d", fail)
		_, err = w.Flush(t.Context())
		require.ErrorIs(t, err, full, "put %d", fail)
		_, err = w.Commit(t.Context(), *goldenCommit())
		require.ErrorIs(t, err, full, "put %d", fail)
		_, err = w.Blob(t.Context(), []byte("more"))
		require.ErrorIs(t, err, full, "put %d", fail)
	}
}

// TestDamage changes the stored packs byte by byte, in places all over: what is
// read is right or an error that names the pack.
func TestDamage(t *testing.T) {
	s, bucket, dir := newStore(t)
	w := s.Writer(nil)
	text := bytes.Repeat([]byte("some text "), 3000)
	commit := *goldenCommit()
	commit.Root = rootOf(t, w, dirItem("."), dirItem("d"), fileItem("d/a", random(1, 3000)), fileItem("d/b", text), fileItem("z", random(2, 100)))
	ref, err := w.Commit(t.Context(), commit)
	require.NoError(t, err)
	path := filepath.Join(dir, ref.Pack.String()[:2], ref.Pack.String())
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	check := func() error {
		r, c, err := reopen(t, bucket).CommitReader(t.Context(), ref)
		if err != nil {
			return err
		}
		return r.Verify(t.Context(), c.Root)
	}
	require.NoError(t, check())
	for at := range good {
		if at%41 != 0 && at < len(good)-20 {
			continue
		}
		bad := bytes.Clone(good)
		bad[at] ^= 1
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		if err := check(); err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "byte %d: %v", at, err)
			require.Contains(t, err.Error(), ref.Pack.String(), "byte %d", at)
		} else {
			require.Zero(t, at, "a change of byte %d was not seen", at) // the pack's format byte is read with the whole pack
		}
		require.Equal(t, mesh.CodeInternal, mesh.CodeOf(reopen(t, bucket).CheckStored(t.Context(), ref.Pack)))
	}
	for _, n := range []int{0, 10, len(good) / 2, len(good) - 1} {
		require.NoError(t, os.WriteFile(path, good[:n], 0o600))
		require.Equal(t, mesh.CodeInternal, mesh.CodeOf(check()), "cut to %d bytes", n)
	}
	require.NoError(t, os.Remove(path))
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(check()))
}

// TestTreeRefuses: what could not be read again is not stored.
func TestTreeRefuses(t *testing.T) {
	file := func(p string) objstore.Item { return fileItem(p, []byte("x")) }
	wrong := func(change func(*objstore.Item)) []objstore.Item {
		it := file("f")
		change(&it)
		return []objstore.Item{dirItem("."), it}
	}
	boom := errors.New("boom")
	for _, c := range []struct {
		name  string
		items []objstore.Item
		code  mesh.Code
	}{
		{"nothing", nil, mesh.CodeInvalid},
		{"no root", []objstore.Item{file("f")}, mesh.CodeInvalid},
		{"root that is a file", []objstore.Item{{Path: ".", Entry: objstore.Entry{Type: objstore.TypeFile}}}, mesh.CodeInvalid},
		{"two roots", []objstore.Item{dirItem("."), dirItem(".")}, mesh.CodeInvalid},
		{"unsorted", []objstore.Item{dirItem("."), file("b"), file("a")}, mesh.CodeInvalid},
		{"twice", []objstore.Item{dirItem("."), file("a"), file("a")}, mesh.CodeInvalid},
		{"without its directory", []objstore.Item{dirItem("."), file("d/a")}, mesh.CodeInvalid},
		{"below a file", []objstore.Item{dirItem("."), file("a"), file("a/b")}, mesh.CodeInvalid},
		{"after its directory", []objstore.Item{dirItem("."), dirItem("d"), file("e"), file("d/a")}, mesh.CodeInvalid},
		{"up", []objstore.Item{dirItem("."), file("..")}, mesh.CodeInvalid},
		{"long name", []objstore.Item{dirItem("."), file(strings.Repeat("x", 256))}, mesh.CodeInvalid},
		{"shorter than it said", wrong(func(it *objstore.Item) { it.Entry.Size++ }), mesh.CodeConflict},
		{"longer than it said", wrong(func(it *objstore.Item) { it.Entry.Size-- }), mesh.CodeConflict},
		{"unknown type", wrong(func(it *objstore.Item) { it.Entry.Type = 7 }), mesh.CodeInternal},
		{"kept, but not there", wrong(func(it *objstore.Item) {
			it.Open, it.Entry.Content = nil, []objstore.Chunk{{ID: idOf("nothing"), Size: 1}}
		}), mesh.CodeNotFound},
		{"that cannot be opened", wrong(func(it *objstore.Item) { it.Open = func() (io.ReadCloser, error) { return nil, fs404 } }), mesh.CodeNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, _ := newStore(t)
			_, err := s.Writer(nil).Tree(t.Context(), seq(c.items...))
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
		})
	}
	s, _, _ := newStore(t)
	_, err := s.Writer(nil).Tree(t.Context(), func(yield func(objstore.Item, error) bool) {
		_ = yield(dirItem("."), nil) && yield(objstore.Item{}, boom)
	})
	require.ErrorIs(t, err, boom)
}

var fs404 = mesh.Errorf(mesh.CodeNotFound, "gone")

// TestKeep changes one file of a tree: only its directories are stored again, and
// the commit lists what the unchanged part is in.
func TestKeep(t *testing.T) {
	s, bucket, _ := newStore(t)
	w := s.Writer(nil)
	items := []objstore.Item{dirItem("."), dirItem("a")}
	for i := range 300 {
		items = append(items, fileItem(fmt.Sprintf("a/%03d", i), random(i, 1000)))
	}
	items = append(items, dirItem("b"), dirItem("b/c"), fileItem("b/c/x", []byte("old")), fileItem("b/y", []byte("y")))
	first, err := w.Commit(t.Context(), objstore.Commit{Time: goldenTime, Root: rootOf(t, w, items...)})
	require.NoError(t, err)
	r, c, err := s.CommitReader(t.Context(), first)
	require.NoError(t, err)
	kept := map[string]objstore.Entry{}
	for it, err := range r.Walk(t.Context(), c.Root) {
		require.NoError(t, err)
		kept[it.Path] = it.Entry
	}

	w = s.Writer(r)
	root := rootOf(t, w, dirItem("."), objstore.Item{Path: "a", Entry: kept["a"]}, dirItem("b"), dirItem("b/c"),
		fileItem("b/c/x", []byte("new")), objstore.Item{Path: "b/y", Entry: kept["b/y"]})
	second, err := w.Commit(t.Context(), objstore.Commit{Time: goldenTime, Parent: first, Root: root})
	require.NoError(t, err)
	r, c, err = reopen(t, bucket).CommitReader(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, []objstore.ID{first.Pack}, c.Packs)
	require.NoError(t, r.Verify(t.Context(), c.Root))
	read := map[string]string{}
	for it, err := range r.Walk(t.Context(), c.Root) {
		require.NoError(t, err)
		if it.Entry.Type == objstore.TypeFile {
			b, err := io.ReadAll(r.Open(t.Context(), &it.Entry))
			require.NoError(t, err)
			read[it.Path] = string(b)
		}
	}
	require.Len(t, read, 302)
	require.Equal(t, "new", read["b/c/x"])
	require.Equal(t, "y", read["b/y"])
	require.Equal(t, string(random(7, 1000)), read["a/007"])
}

// TestLargeDirectory: a directory whose tree is longer than a blob should be is
// cut as a file is, and a new name in it stores a part of it only.
func TestLargeDirectory(t *testing.T) {
	s, bucket, _ := newStore(t)
	const names = 30000
	store := func(w *objstore.Writer, extra string) objstore.Entry {
		root, err := w.Tree(t.Context(), func(yield func(objstore.Item, error) bool) {
			if !yield(dirItem("."), nil) {
				return
			}
			for i := range names {
				id := objstore.IDOf(fmt.Append(nil, i))
				name := fmt.Sprintf("%06d-%s%s%s", i, id, id, id)
				if i == 10 && extra != "" && !yield(objstore.Item{Path: extra, Entry: objstore.Entry{Name: extra, Type: objstore.TypeFIFO}}, nil) {
					return
				}
				if !yield(objstore.Item{Path: name, Entry: objstore.Entry{Name: name, Type: objstore.TypeFIFO}}, nil) {
					return
				}
			}
		})
		require.NoError(t, err)
		return root
	}
	w := s.Writer(nil)
	root := store(w, "")
	require.Greater(t, len(root.Content), 1)
	packs, err := w.Flush(t.Context())
	require.NoError(t, err)
	r, err := reopen(t, bucket).Reader(t.Context(), packs...)
	require.NoError(t, err)
	tree, err := r.Tree(t.Context(), &root)
	require.NoError(t, err)
	require.Len(t, tree, names)
	w = s.Writer(r)
	changed := store(w, "000010")
	require.NotEqual(t, root.Content, changed.Content)
	common := 0
	for _, c := range changed.Content {
		if slices.Contains(root.Content, c) {
			common++
		}
	}
	require.Positive(t, common)
}

// TestMemory stores and reads a content much longer than what may be in memory.
func TestMemory(t *testing.T) {
	_, bucket, _ := newStore(t)
	s, err := objstore.New(bucket, objstore.Config{Workers: 2})
	require.NoError(t, err)
	const size, bound = 160 << 20, 120 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // the heap is what is in use
	runtime.GC()                                     // what tests before this one left
	runtime.GC()                                     // and what pools kept of it
	var peak atomic.Uint64
	stop := sampleHeap(&peak)
	w := s.Writer(nil)
	chunks, err := w.Content(t.Context(), io.LimitReader(rand.NewChaCha8([32]byte{1}), size))
	require.NoError(t, err)
	packs, err := w.Flush(t.Context())
	require.NoError(t, err)
	r, err := reopen(t, bucket).Reader(t.Context(), packs...)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, r.Open(t.Context(), &objstore.Entry{Type: objstore.TypeFile, Size: size, Content: chunks}))
	stop()
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	t.Logf("heap of at most %d MiB for %d MiB of content", peak.Load()>>20, size>>20)
	require.Less(t, peak.Load(), uint64(bound))
}

func sampleHeap(peak *atomic.Uint64) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapAlloc))
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
