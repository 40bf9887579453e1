package dirtree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// TestUnkept: what cannot be kept is told of and keeps nothing else from being found; what
// was known of it stays.
func TestUnkept(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	at := func(p string) string { return filepath.Join(dir, p) }
	require.NoError(t, os.WriteFile(at("torn"), []byte("whole"), 0o644))
	require.NoError(t, os.Mkdir(at("shut"), 0o755))
	require.NoError(t, os.WriteFile(at("shut/f"), []byte("in"), 0o644))
	capture(t, d, l, stored)
	holes(t, at("torn"), 200)
	require.NoError(t, os.Link(at("torn"), at("other")))
	require.NoError(t, os.WriteFile(at("plain"), []byte("x"), 0o644))
	want := map[string]mesh.Code{"torn": mesh.CodeTooLarge, "other": mesh.CodeTooLarge}
	if os.Geteuid() != 0 { // root reads them
		require.NoError(t, os.Chmod(at("shut"), 0))
		t.Cleanup(func() { os.Chmod(at("shut"), 0o755) })
		require.NoError(t, os.WriteFile(at("secret"), []byte("x"), 0))
		want["shut"], want["secret"] = mesh.CodeDenied, mesh.CodeDenied
	}
	scan := stored.scan()
	scan.MaxOp = 2000
	now := dirtree.Tick()
	for range 2 { // it is told each time
		found, err := d.Changes(t.Context(), scan, l.Snapshot())
		require.NoError(t, err)
		require.Zero(t, found.Left)
		told := map[string]mesh.Code{}
		for i := range found.Unkept {
			u := &found.Unkept[i]
			told[u.Path] = u.Why.Code
			require.False(t, u.Since(dirtree.Timespec{Sec: now.Sec + 2}))
			require.True(t, u.Since(dirtree.Timespec{Sec: now.Sec - 60}))
		}
		require.Equal(t, want, told)
		for i := range found.Changes {
			c := &found.Changes[i]
			l.Apply(&c.Op, time.Now())
			l.Seen(string(c.Op.Path), c.Seen, 0)
		}
	}
	kept := restored(t, t, l.Snapshot(), stored)
	t.Cleanup(func() { os.Chmod(filepath.Join(kept, "shut"), 0o755) })
	require.NoFileExists(t, filepath.Join(kept, "other"))
	for p, content := range map[string]string{"torn": "whole", "plain": "x"} {
		b, err := os.ReadFile(filepath.Join(kept, p))
		require.NoError(t, err)
		require.Equal(t, content, string(b))
	}
	_, shut := l.Entry("shut/f")
	require.True(t, shut)
	differs, err := d.Differs(t.Context(), &dirtree.Scan{}, l.Snapshot())
	require.NoError(t, err)
	require.True(t, differs)

	require.NoError(t, os.Remove(at("torn")))
	require.NoError(t, os.Remove(at("other")))
	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(at("shut"), 0o700))
		require.NoError(t, os.Chmod(at("secret"), 0o600))
	}
	capture(t, d, l, stored)
	require.Equal(t, describe(t, dir), describe(t, restored(t, t, l.Snapshot(), stored)))
}

// TestUnkeptPaths: what is deeper than a path can say is told of, and not its other names.
func TestUnkeptPaths(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	name := strings.Repeat("d", 250)
	for range 16 {
		require.NoError(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	defer func() { require.NoError(t, unix.Close(fd)) }()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644))
	capture(t, d, l, stored)
	require.NoError(t, unix.Linkat(unix.AT_FDCWD, filepath.Join(dir, "f"), fd, name, 0))
	for range 2 {
		found, err := d.Changes(t.Context(), stored.scan(), l.Snapshot())
		require.NoError(t, err)
		require.Zero(t, found.Left)
		require.Len(t, found.Unkept, 1)
		require.Equal(t, mesh.CodeTooLarge, found.Unkept[0].Why.Code)
		require.Len(t, found.Unkept[0].Path, 17*251-1)
		for i := range found.Changes {
			c := &found.Changes[i]
			require.LessOrEqual(t, len(c.Op.Path), mesh.MaxPathBytes)
			l.Apply(&c.Op, time.Now())
			l.Seen(string(c.Op.Path), c.Seen, 0)
		}
	}
	differs, err := d.Differs(t.Context(), &dirtree.Scan{}, l.Snapshot())
	require.NoError(t, err)
	require.False(t, differs, "of what is kept")
	_, kept := l.Entry("f")
	require.True(t, kept)
}

// holes makes a file with so many holes.
func holes(t *testing.T, p string, n int) {
	t.Helper()
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	require.NoError(t, err)
	defer f.Close()
	for i := range n {
		_, err := f.WriteAt([]byte("x"), int64(i)*128<<10+64<<10)
		require.NoError(t, err)
	}
}

// TestLeasedFile: a process with a lease on a file can keep everybody from opening it.
// That is no reason to try it all the time.
func TestLeasedFile(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	leased := filepath.Join(dir, "leased")
	require.NoError(t, os.WriteFile(leased, []byte("x"), 0o644))
	f, err := os.OpenFile(leased, os.O_WRONLY, 0)
	require.NoError(t, err)
	release := func() { require.NoError(t, f.Close()) }
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		release()
		t.Logf("this file system has no leases: %v", err)
		return
	}
	type result struct {
		found dirtree.Changed
		err   error
	}
	done := make(chan result, 1)
	go func() {
		found, err := d.Changes(t.Context(), stored.scan(), l.Snapshot())
		done <- result{found, err}
	}()
	select {
	case r := <-done:
		release()
		require.NoError(t, r.err)
		require.Equal(t, 1, r.found.Left)
	case <-time.After(20 * time.Second): // the kernel takes the lease away after 45
		release()
		<-done
		require.Fail(t, "the scan waits for the lease to end")
	}
	capture(t, d, l, stored)
	require.Equal(t, describe(t, dir), describe(t, restored(t, t, l.Snapshot(), stored)))
}

// TestAttributesComeAndGo: they may be gone between the list of them and a look at one.
func TestAttributesComeAndGo(t *testing.T) {
	dir, stored, l := t.TempDir(), contents{}, dirtree.NewLedger()
	d := openDir(t, dir)
	p := filepath.Join(dir, "f")
	require.NoError(t, os.WriteFile(p, []byte("x"), 0o644))
	require.NoError(t, unix.Setxattr(p, "user.a", []byte("1"), 0))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Removexattr(p, "user.a")
				_ = unix.Setxattr(p, "user.a", []byte("1"), 0)
			}
		}
	}()
	var failed error
	for range 2000 {
		if _, failed = d.Changes(t.Context(), stored.scan(), l.Snapshot()); failed != nil {
			break
		}
	}
	close(stop)
	<-stopped
	require.NoError(t, failed)
	capture(t, d, l, stored)
	require.Equal(t, describe(t, dir), describe(t, restored(t, t, l.Snapshot(), stored)))
}
