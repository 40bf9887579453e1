package dirtree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// TestScanOfWhatMoves: a directory is away when it is to be looked at, and may be back
// when it is asked for why. That is no failure: the scan says that something moved, and
// the next one finds all of it.
func TestScanOfWhatMoves(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	at := func(p string) string { return filepath.Join(dir, p) }
	require.NoError(t, os.MkdirAll(at("a/deep"), 0o755))
	require.NoError(t, os.WriteFile(at("a/deep/f"), []byte("made"), 0o644))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Rename(at("a"), at("b"))
				_ = os.Rename(at("b"), at("a"))
			}
		}
	}()
	moved := 0
	for range 500 {
		found, err := d.Changes(t.Context(), stored.scan(), l.Snapshot())
		if err != nil {
			close(stop)
			<-stopped
			require.NoError(t, err)
		}
		if found.Moved {
			moved++
		}
	}
	close(stop)
	<-stopped
	require.NotZero(t, moved)
	capture(t, d, l, stored)
	require.Equal(t, describe(t, dir), describe(t, restored(t, t, l.Snapshot(), stored)))
}

// TestMovedPastAScan: a file goes from a directory that is still to be looked at into
// one that was. Where nothing says so, it would be found nowhere, and be taken for
// removed.
func TestMovedPastAScan(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	for _, p := range []string{"a", "b"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, p, "below"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, p, "below/f"), []byte(p), 0o644))
	}
	capture(t, d, l, stored)
	scan, first := stored.scan(), ""
	scan.Skip = func(p string) bool {
		above, is := strings.CutSuffix(p, "/below")
		switch {
		case is && first == "":
			first = above
		case is && first != above: // of the first directory all names are known
			require.NoError(t, os.Rename(filepath.Join(dir, above, "below/f"), filepath.Join(dir, first, "moved")))
			first = above
		}
		return false
	}
	found, err := d.Changes(t.Context(), scan, l.Snapshot())
	require.NoError(t, err)
	require.True(t, found.Moved)
	found, err = d.Changes(t.Context(), stored.scan(), l.Snapshot())
	require.NoError(t, err)
	require.False(t, found.Moved)
	require.NotEmpty(t, found.Changes)
}

// TestTimeOfADirectoryThatChanges: what a scan found in a directory is recorded, and the
// time of the directory is not, since a request has written there meanwhile. The next
// scan finds that time.
func TestTimeOfADirectoryThatChanges(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	capture(t, d, l, stored)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d/found"), []byte("x"), 0o644))
	found, err := d.Changes(t.Context(), stored.scan(), l.Snapshot())
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "d/written"), nil, 0o644))
	at := time.Unix(1_700_000_000, 0)
	st, err := d.Stat("d/written")
	require.NoError(t, err)
	written := objstore.PutFile("d/written", objstore.Entry{Mode: 0o644, ModTime: time.Unix(st.Mtime.Sec, st.Mtime.Nsec)}, nil)
	l.Apply(&written, at)
	require.True(t, l.Seen("d/written", st, 0))
	require.NoError(t, d.SetTime("d", at))
	now, err := d.Stat("d")
	require.NoError(t, err)
	l.Moved("d", now, 0)

	for _, c := range found.Changes {
		if st, err := d.Stat(string(c.Op.Path)); err == nil && st == c.Seen && c.Op.Kind != "" {
			l.Apply(&c.Op, time.Unix(1_800_000_000, 0))
		}
	}
	_, known := l.Entry("d/found")
	require.True(t, known)
	capture(t, d, l, stored)
	require.Equal(t, describe(t, dir), describe(t, restored(t, t, l.Snapshot(), stored)))
}

// TestChangedWithinATick: a file is changed again without a sign, as it happens where
// times are no finer than a tick. A scan for those who began by then reads it, and one for
// others does not.
func TestChangedWithinATick(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	f, err := os.Create(filepath.Join(dir, "f"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(4096))
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(m)) }()
	m[0] = 1
	before := dirtree.Tick()
	capture(t, d, l, stored)
	m[0] = 2 // the page is dirty already
	scan := stored.scan()
	scan.Tick = dirtree.Timespec{Sec: before.Sec + 1, Nsec: 1}
	ops, _ := captureWith(t, d, l, scan, 0)
	require.Empty(t, ops)
	st, err := d.Stat("f")
	require.NoError(t, err)
	scan.Tick = st.Ctime
	ops, _ = captureWith(t, d, l, scan, 0)
	require.Len(t, ops, 2, "the file, and the time of its directory")
	require.Equal(t, describe(t, dir), describe(t, restored(t, t, l.Snapshot(), stored)))
}
