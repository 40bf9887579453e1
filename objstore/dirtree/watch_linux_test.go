package dirtree_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// watcher listens where a test's directories are, or skips the test.
func watcher(t *testing.T) (*dirtree.Watcher, string) {
	t.Helper()
	base := t.TempDir()
	w, err := dirtree.NewWatcher(base)
	if mesh.CodeOf(err) == mesh.CodeUnsupported {
		t.Skipf("fanotify: %s", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w, base
}

// watched is a directory whose ledger follows it by what is heard.
type watched struct {
	dir    string
	d      *dirtree.Dir
	l      *dirtree.Ledger
	stored contents
	watch  *dirtree.Watch
	number uint64
	whole  int // captures that looked at all names
}

func newWatched(t require.TestingT, w *dirtree.Watcher, base string) *watched {
	area, err := os.MkdirTemp(base, "")
	require.NoError(t, err)
	x := &watched{dir: filepath.Join(area, "tree"), l: dirtree.NewLedger(), stored: contents{}}
	require.NoError(t, os.Mkdir(x.dir, 0o755))
	x.d, err = dirtree.Open(x.dir)
	require.NoError(t, err)
	x.watch, err = w.Watch(area)
	require.NoError(t, err)
	return x
}

func (x *watched) close() {
	x.watch.Close()
	x.d.Close()
}

// capture reads again what captures since have read while somebody could write it;
// quiet says that nobody can now.
func (x *watched) capture(t require.TestingT, since uint64, quiet bool) {
	scan := x.stored.scan()
	scan.Dirty, scan.Since = x.watch.Take(), since
	x.number++
	number := x.number
	if quiet {
		number = 0
	}
	if _, whole := captureWith(t, x.d, x.l, scan, number); whole {
		x.whole++
	}
}

// exact compares what is known with the directory, in every attribute.
func (x *watched) exact(t *testing.T, rt require.TestingT) {
	differs, err := x.d.Differs(t.Context(), &dirtree.Scan{Since: ^uint64(0)}, x.l.Snapshot())
	require.NoError(rt, err)
	require.False(rt, differs, "something changed unheard")
	copied := restored(t, rt, x.l.Snapshot(), x.stored)
	require.Equal(rt, describe(t, x.dir), describe(t, copied))
	require.NoError(rt, os.RemoveAll(copied))
}

// TestWatchFollowsADirectory is TestLedgerFollowsADirectory by what is heard: no name
// is looked at that nobody has touched, and none is missed.
func TestWatchFollowsADirectory(t *testing.T) {
	w, base := watcher(t)
	rapid.Check(t, func(rt *rapid.T) {
		x := newWatched(rt, w, base)
		defer x.close()
		for range rapid.IntRange(1, 5).Draw(rt, "rounds") {
			for range rapid.IntRange(0, 12).Draw(rt, "changes") {
				changeSomething(rt, x.dir)
			}
			x.capture(rt, ^uint64(0), true)
			x.exact(t, rt)
		}
		require.Zero(rt, x.whole, "all names were looked at")
	})
}

// churn builds the program that does random things to its working directory.
func churn(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "churn")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./testdata/churn")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return bin
}

// TestCaptureOfRandomOperations: what other processes do is found, by a scan and by
// what is heard, at the end of each, and also while others go on. What is known at the
// end of the last is the directory in every attribute.
func TestCaptureOfRandomOperations(t *testing.T) {
	rounds, operations := 12, 60
	if meshtest.Long() {
		rounds, operations = 200, 100
	}
	w, base := watcher(t)
	bin := churn(t)
	for _, mode := range []string{"fanotify", "scan"} {
		t.Run(mode, func(t *testing.T) {
			x := newWatched(t, w, base)
			defer x.close()
			if mode == "scan" {
				x.watch.Close() // it knows nothing from now on
			}
			seed := rand.Uint64()
			t.Log("seed", seed)
			for i := range rounds {
				began := x.number
				var running []*exec.Cmd
				for j := range 1 + i%2 { // by turns alone, and beside another
					c := exec.CommandContext(t.Context(), bin, fmt.Sprint(seed+uint64(10*i+j)), fmt.Sprint(operations))
					c.Dir, c.Stderr = x.dir, os.Stderr
					require.NoError(t, c.Start())
					running = append(running, c)
				}
				for j, c := range running {
					if i%3 == 0 {
						x.tryCapture(t) // while it works
					}
					require.NoError(t, c.Wait())
					if j < len(running)-1 {
						x.tryCapture(t)
					}
				}
				x.capture(t, began, true)
				x.exact(t, t)
			}
			require.Equal(t, mode == "scan", x.whole > 0, "%d captures looked at all names", x.whole)
			t.Logf("%d names, %d captures, %d of all names", x.l.Len(), x.number, x.whole)
		})
	}
}

// tryCapture is a capture while others change the directory: what it cannot read, or
// is another by then, is left for the next one.
func (x *watched) tryCapture(t *testing.T) {
	scan := x.stored.scan()
	scan.Dirty, scan.Since = x.watch.Take(), ^uint64(0)
	x.number++
	found, err := x.d.Changes(t.Context(), scan, x.l.Snapshot())
	require.NoError(t, err)
	at, left := time.Now(), found.Left > 0
	for i := range found.Changes {
		c := &found.Changes[i]
		if st, err := x.d.Stat(string(c.Op.Path)); err == nil != (c.Op.Kind != "remove") || err == nil && st != c.Seen {
			left = true
			continue
		}
		if c.Op.Kind != "" {
			x.l.Apply(&c.Op, at)
		}
		if c.Seen != (dirtree.Stat{}) {
			left = !x.l.Seen(string(c.Op.Path), c.Seen, x.number) || left
		}
	}
	if left {
		x.watch.Return(scan.Dirty)
	}
}

// TestWatchAfterOverflow: when the kernel loses events, all names are looked at, and
// once that is done only those that are heard of.
func TestWatchAfterOverflow(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	listen := w.Deaf()
	for i := range 9000 { // two events each, of 16,384 that fit
		p := filepath.Join(x.dir, fmt.Sprint(i))
		require.NoError(t, unix.Mknod(p, unix.S_IFREG|0o600, 0))
		require.NoError(t, os.Remove(p))
	}
	require.NoError(t, os.WriteFile(filepath.Join(x.dir, "f"), []byte("unheard"), 0o600))
	listen()
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)
	require.Equal(t, 1, x.whole, "no event was lost: the test is of no use")
	require.NoError(t, os.WriteFile(filepath.Join(x.dir, "f"), []byte("heard"), 0o600))
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)
	require.Equal(t, 1, x.whole)
}

// TestWatchOfManyChanges: more names than are held are looked for by a scan.
func TestWatchOfManyChanges(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	last := filepath.Join(x.dir, "first")
	require.NoError(t, os.WriteFile(last, nil, 0o600))
	for i := range 20_000 {
		next := filepath.Join(x.dir, fmt.Sprint(i))
		require.NoError(t, unix.Rename(last, next))
		last = next
		if i%4000 == 0 {
			w.Drain() // nothing is lost by the kernel
		}
	}
	require.Nil(t, x.watch.Take())
	require.NotNil(t, x.watch.Take())
}

// TestWatchOfManyFilesOfOneName: one name that was many files is one name to look at.
func TestWatchOfManyFilesOfOneName(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	for i := range 15_000 {
		p := filepath.Join(x.dir, "f")
		require.NoError(t, unix.Mknod(p, unix.S_IFREG|0o600, 0))
		require.NoError(t, os.Remove(p))
		if i%4000 == 0 {
			w.Drain()
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(x.dir, "f"), []byte("last"), 0o600))
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)
	require.Zero(t, x.whole)
}

// TestWatchOfTheLongestPaths: the kernel cannot say where a directory is whose whole
// path is too long for it, and what happens there is found all the same: in
// one that is made, and in one that is heard of again by a shorter path.
func TestWatchOfTheLongestPaths(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	fd, err := unix.Open(x.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	deep := strings.Repeat(strings.Repeat("d", 249)+"/", 16) + strings.Repeat("e", 80) // 4,080 bytes
	for name := range strings.SplitSeq(deep, "/") {
		require.NoError(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	defer func() { require.NoError(t, unix.Close(fd)) }()
	make := func(name, path string) {
		require.NoError(t, unix.Mknodat(fd, name, unix.S_IFREG|0o600, 0))
		x.capture(t, ^uint64(0), true)
		_, ok := x.l.Entry(path + "/" + name)
		require.True(t, ok, "%s was not heard of", name)
	}
	x.capture(t, ^uint64(0), true)
	make("f", deep)
	make("g", deep)
	top, rest, _ := strings.Cut(deep, "/")
	require.NoError(t, os.Rename(filepath.Join(x.dir, top), filepath.Join(x.dir, "d")))
	make("h", "d/"+rest)
	x.whole = 0
	make("i", "d/"+rest)
	require.Zero(t, x.whole)
}

// TestWatchOfWhatIsMoved: the directory itself may be renamed, as one that was
// restored is, and others may be moved into it; neighbours are not heard.
func TestWatchOfWhatIsMoved(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	outside := filepath.Join(base, "outside")
	require.NoError(t, os.MkdirAll(filepath.Join(outside, "deep"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "deep/f"), []byte("old"), 0o600))
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)
	require.Empty(t, x.l.Len())
	require.NoError(t, os.Rename(outside, filepath.Join(x.dir, "inside")))
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)

	// One is changed while it is elsewhere, where nobody listens, and comes back.
	require.NoError(t, os.Rename(filepath.Join(x.dir, "inside"), outside))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "deep/f"), []byte("else"), 0o600))
	w.Drain()
	require.NoError(t, os.Rename(outside, filepath.Join(x.dir, "inside")))
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)

	require.NoError(t, os.WriteFile(filepath.Join(x.dir, "inside/deep/f"), []byte("new"), 0o600))
	require.NoError(t, os.Rename(x.dir, x.dir+".moved"))
	x.dir += ".moved"
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)
	require.Zero(t, x.whole)

	// One comes while nothing is known, and is heard afterwards.
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "f"), nil, 0o600))
	w.Drain()
	x.watch.Lose()
	require.NoError(t, os.Rename(outside, filepath.Join(x.dir, "late")))
	x.capture(t, ^uint64(0), true)
	require.Equal(t, 1, x.whole)
	require.NoError(t, os.WriteFile(filepath.Join(x.dir, "late/f"), []byte("new"), 0o600))
	x.capture(t, ^uint64(0), true)
	x.exact(t, t)
	require.Equal(t, 1, x.whole)
}

// TestMovedPastAWatch: a file is moved after it was told of, and before it is looked for
// there. That the first look misses it is known.
func TestMovedPastAWatch(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	at := func(p string) string { return filepath.Join(x.dir, p) }
	require.NoError(t, os.Mkdir(at("a"), 0o755))
	require.NoError(t, os.Mkdir(at("b"), 0o755))
	x.capture(t, ^uint64(0), true)
	require.NoError(t, os.WriteFile(at("a/f"), []byte("made"), 0o600))
	scan := x.stored.scan()
	scan.Dirty = x.watch.Take()
	require.False(t, x.watch.Moved())
	require.NoError(t, os.Rename(at("a/f"), at("b/f")))
	captureWith(t, x.d, x.l, scan, 0)
	_, known := x.l.Entry("b/f")
	require.False(t, known)
	require.True(t, x.watch.Moved())
	x.capture(t, ^uint64(0), true)
	require.False(t, x.watch.Moved())
	x.exact(t, t)
}

// TestWatchOfAHeldFile: a file is written through a descriptor whose name is gone,
// while it has another one, and the directory that it was opened in is gone as well.
func TestWatchOfAHeldFile(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	for _, gone := range []string{"a", "d/a", "again/a"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(x.dir, gone)), 0o755))
		f, err := os.Create(filepath.Join(x.dir, gone))
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, os.Link(f.Name(), filepath.Join(x.dir, "b")))
		x.capture(t, ^uint64(0), true)
		switch gone {
		case "a":
			require.NoError(t, os.Remove(f.Name()))
		case "d/a":
			require.NoError(t, os.RemoveAll(filepath.Join(x.dir, "d")))
		default: // another file has the name, and nothing is done to that
			require.NoError(t, os.Remove(f.Name()))
			require.NoError(t, os.WriteFile(f.Name(), nil, 0o600))
		}
		x.capture(t, ^uint64(0), true)
		x.exact(t, t)
		_, err = f.WriteString("through the descriptor")
		require.NoError(t, err)
		x.capture(t, ^uint64(0), true)
		x.exact(t, t)
		require.NoError(t, os.Remove(filepath.Join(x.dir, "b")))
	}
	require.Zero(t, x.whole)
}

// A name that goes with its directory is none of the names of its file: what is left
// unread because of it would be in no capture.
func TestLinkMovesWithItsDirectory(t *testing.T) {
	w, base := watcher(t)
	x := newWatched(t, w, base)
	defer x.close()
	at := func(p string) string { return filepath.Join(x.dir, p) }
	require.NoError(t, os.Mkdir(at("a"), 0o755))
	require.NoError(t, os.WriteFile(at("a/f"), []byte("data"), 0o600))
	require.NoError(t, os.Link(at("a/f"), at("b")))
	x.capture(t, ^uint64(0), true)
	require.NoError(t, os.Rename(at("a"), at("c")))
	x.capture(t, ^uint64(0), true) // and nothing is left out
	x.exact(t, t)
}
