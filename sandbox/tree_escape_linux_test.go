package sandbox

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// attempt is one call on a path that must not succeed.
type attempt struct {
	name string
	call func(v *View, p string) error
}

// followers are the calls that follow a link which is the path's last name.
var followers = []attempt{
	{"stat", func(v *View, p string) error { _, err := v.Stat(p, true); return err }},
	{"list", func(v *View, p string) error { _, err := v.List(p, "", 10); return err }},
	{"open", func(v *View, p string) error {
		f, _, err := v.Open(p)
		if err == nil {
			f.Close()
		}
		return err
	}},
	{"read", func(v *View, p string) error { _, err := readAll(v, p); return err }},
	{"write", func(v *View, p string) error { _, err := v.Write(p, []byte("evil"), WriteOptions{}); return err }},
	{"mkdir parents", func(v *View, p string) error { return v.Mkdir(p, 0, true) }},
	{"chmod", func(v *View, p string) error { return v.Chmod(p, 0o777) }},
	{"touch", func(v *View, p string) error { return v.Touch(p, time.Unix(1, 0), false) }},
	{"touch old", func(v *View, p string) error { return v.Touch(p, time.Unix(1, 0), true) }},
	{"copy from", func(v *View, p string) error {
		_, err := v.Copy(v.tree.testContext(), p, "safe/copy", CopyOptions{Recursive: true})
		return err
	}},
	{"search", func(v *View, p string) error {
		_, err := v.Search(v.tree.testContext(), p, &mesh.SearchRequest{})
		return err
	}},
	{"grep", func(v *View, p string) error {
		_, err := v.Grep(v.tree.testContext(), p, &mesh.GrepRequest{Pattern: "."})
		return err
	}},
	{"tar", func(v *View, p string) error { return v.WriteTar(v.tree.testContext(), p, io.Discard) }},
	{"untar", func(v *View, p string) error {
		_, err := v.ReadTar(v.tree.testContext(), p, tarOf(tar.Header{Name: "x", Typeflag: tar.TypeReg}), TarLimits{})
		return err
	}},
}

// others stop at the last name, so they are tried on what is below it.
var others = []attempt{
	{"stat link", func(v *View, p string) error { _, err := v.Stat(p, false); return err }},
	{"write new", func(v *View, p string) error {
		_, err := v.Write(p, []byte("evil"), WriteOptions{CreateOnly: true})
		return err
	}},
	{"mkdir", func(v *View, p string) error { return v.Mkdir(p, 0, false) }},
	{"remove", func(v *View, p string) error { return v.Remove(p, false, "") }},
	{"remove all", func(v *View, p string) error { return v.Remove(p, true, "") }},
	{"rename from", func(v *View, p string) error { return v.Rename(p, "safe/y", false, "") }},
	{"rename to", func(v *View, p string) error { return v.Rename("safe/x", p, false, "") }},
	{"copy to", func(v *View, p string) error {
		_, err := v.Copy(v.tree.testContext(), "safe/x", p, CopyOptions{})
		return err
	}},
	{"copy tree to", func(v *View, p string) error {
		_, err := v.Copy(v.tree.testContext(), "other", p, CopyOptions{Recursive: true})
		return err
	}},
	{"symlink", func(v *View, p string) error { return v.Symlink("x", p) }},
	{"readlink", func(v *View, p string) error { _, err := v.Readlink(p); return err }},
	{"stage", func(v *View, p string) error {
		const id = "0190b8a0-0000-4000-8000-000000000001"
		defer v.tree.StageDrop(id)
		if err := v.tree.StageWrite(id, 0, []byte("evil")); err != nil {
			return err
		}
		_, err := v.StageCommit(id, 4, p, WriteOptions{})
		return err
	}},
}

func TestTreeEscapes(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("safe/x", "x")
		f.put("deep/er/f", "x")
		f.put("other/f", "x")
		links := map[string]string{
			"absolute":         f.secret,
			"absolute file":    f.secret + "/token",
			"relative":         "../secret",
			"far up":           strings.Repeat("../", 40) + "etc",
			"root":             "/",
			"etc":              "/etc/passwd",
			"environ":          "/proc/self/environ",
			"descriptors":      "/proc/self/fd",
			"magic root":       "/proc/self/root" + f.secret,
			"own host path":    f.cfg.Dir + "/safe",
			"stage":            f.cfg.Stage,
			"look-alike":       "/workspace2/safe",
			"parent of it":     "/workspace/../etc",
			"up from within":   "/workspace/safe/../../secret",
			"dots then down":   "deep/er/../../../secret",
			"out and back":     "../" + filepath.Base(f.cfg.Dir) + "/safe",
			"chain":            "absolute",
			"chain in a dir":   "deep/out",
			"dangling":         f.secret + "/new",
			"dangling dir":     f.secret + "/new/dir",
			"dangling up":      "../new",
			"through a good":   "good/../../secret",
			"relative by file": "../secret/token",
		}
		for name, target := range links {
			f.link(target, "links/"+name)
			f.link(target, name)
		}
		f.link("../../../secret", "deep/out")
		f.link("/workspace/safe", "good")
		v := f.View(".")
		for name := range links {
			for _, a := range followers {
				t.Run(a.name+"/"+name, func(t *testing.T) {
					requireCode(t, mesh.CodeDenied, a.call(v, name))
					requireCode(t, mesh.CodeDenied, a.call(v, name+"/token"))
					requireCode(t, mesh.CodeDenied, a.call(v, name+"/new/x"))
				})
			}
			for _, a := range others {
				t.Run(a.name+"/"+name, func(t *testing.T) {
					requireCode(t, mesh.CodeDenied, a.call(v, name+"/token"))
					requireCode(t, mesh.CodeDenied, a.call(v, name+"/new"))
				})
			}
		}
		require.Equal(t, "x", f.content("safe/x"))
		require.Equal(t, "x", f.content("other/f"))
	})
}

func TestTreeLinkLimits(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("f", "end")
		f.link("f", "l1")
		for i := 2; i <= 41; i++ {
			f.link(fmt.Sprintf("l%d", i-1), fmt.Sprintf("l%d", i))
		}
		f.link("loop", "loop")
		f.link("pong", "ping")
		f.link("ping", "pong")
		f.link("x/"+strings.Repeat("../x/", 600), "spin")
		require.NoError(t, os.Mkdir(f.tenant("x"), 0o755))
		v := f.View(".")
		got, err := readAll(v, "l40")
		require.NoError(t, err)
		require.Equal(t, "end", got)
		for _, p := range []string{"l41", "loop", "ping", "loop/x"} {
			for _, a := range followers {
				t.Run(a.name+"/"+p, func(t *testing.T) { requireCode(t, mesh.CodeInvalid, a.call(v, p)) })
			}
		}
		info, err := v.Stat("spin", true)
		require.NoError(t, err)
		require.Equal(t, TypeDir, info.Type)
	})
}

// None of these may be opened: each would block, or do something.
func TestTreeSpecialFiles(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		names := []string{"fifo", "socket"}
		f.put("safe/x", "x")
		require.NoError(t, unix.Mkfifo(f.tenant("safe/fifo"), 0o666))
		require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o666))
		makeSocket(t, f.tenant("socket"))
		if os.Geteuid() == 0 {
			require.NoError(t, unix.Mknod(f.tenant("tty"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))))
			require.NoError(t, unix.Mknod(f.tenant("block"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
			names = append(names, "tty", "block")
		}
		v := f.View(".")
		for _, name := range names {
			f.link(name, "to-"+name)
			for _, p := range []string{name, "to-" + name} {
				for _, a := range []string{"list", "open", "read", "write", "untar", "copy from", "copy to", "search", "grep"} {
					if a == "copy to" && p != name {
						continue // it replaces the link
					}
					t.Run(a+"/"+p, func(t *testing.T) { requireCode(t, mesh.CodeInvalid, call(a)(v, p)) })
				}
			}
		}
		var buf bytes.Buffer
		require.NoError(t, v.WriteTar(t.Context(), ".", &buf))
		_, err := v.Copy(t.Context(), "safe", "safe2", CopyOptions{Recursive: true})
		require.NoError(t, err)
		_, err = v.Grep(t.Context(), ".", &mesh.GrepRequest{Pattern: "."})
		require.NoError(t, err)
		require.NoError(t, v.Chmod("fifo", 0o600))
		require.NoError(t, v.Touch("to-fifo", time.Unix(1, 0), false))
		require.NoError(t, v.Rename("fifo", "pipe", false, ""))
		require.NoError(t, v.Remove("pipe", false, ""))
		require.NoError(t, v.Remove("socket", true, ""))
	})
}

func call(name string) func(*View, string) error {
	for _, a := range append(followers, others...) {
		if a.name == name {
			return a.call
		}
	}
	panic("no such attempt: " + name)
}

// A lease would hold an open for 45 s.
func TestTreeLease(t *testing.T) {
	f := newTreeFixture(t)
	f.put("f", "x")
	fd, err := unix.Open(f.tenant("f"), unix.O_RDWR, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("no leases on this file system: %v", err)
	}
	defer func() { _, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) }()
	start := time.Now()
	v := f.View(".")
	_, err = readAll(v, "f")
	requireCode(t, mesh.CodeBusy, err)
	_, err = v.Copy(t.Context(), "f", "g", CopyOptions{})
	requireCode(t, mesh.CodeBusy, err)
	require.NoError(t, os.Mkdir(f.tenant("d"), 0o755))
	require.NoError(t, os.Link(f.tenant("f"), f.tenant("d/f")))
	_, err = v.Copy(t.Context(), "d", "e", CopyOptions{Recursive: true})
	requireCode(t, mesh.CodeBusy, err)
	require.NoDirExists(t, f.tenant("e"))
	reply, err := v.Grep(t.Context(), "f", &mesh.GrepRequest{Pattern: "x"})
	require.NoError(t, err)
	require.Equal(t, mesh.GrepReply{Matches: []mesh.GrepMatch{}, Files: 1, Skipped: 1}, reply)
	require.Less(t, time.Since(start), 5*time.Second)
}

// swap exchanges two names as fast as it can, as a hostile process would, until
// the returned stop is called, which tells how often.
func swap(t *testing.T, a, b string) (stop func() int) {
	t.Helper()
	require.NoError(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
	var ended atomic.Bool
	n, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for !ended.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			n++
		}
	}()
	return func() int {
		ended.Store(true)
		<-done
		return n
	}
}

func TestTreeRaces(t *testing.T) {
	const rounds, atMost = 20_000, 250 * time.Millisecond
	body := []byte("inside")
	for _, c := range []struct {
		name string
		op   func(v *View, i int) error
	}{
		{"read", func(v *View, _ int) error {
			got, err := readAll(v, "a/d/f")
			if err == nil && got != "inside" {
				return fmt.Errorf("read %q", got)
			}
			return err
		}},
		{"list", func(v *View, _ int) error {
			page, err := v.List("a/d", "", mesh.MaxList)
			for _, e := range page.Entries {
				if e.Path == "token" {
					return fmt.Errorf("listed %q", e.Path)
				}
			}
			return err
		}},
		{"write", func(v *View, _ int) error { _, err := v.Write("a/d/f", body, WriteOptions{}); return err }},
		{"write new", func(v *View, i int) error {
			_, err := v.Write(fmt.Sprintf("a/d/n%d", i%50), body, WriteOptions{CreateOnly: true})
			return err
		}},
		{"mkdir", func(v *View, i int) error { return v.Mkdir(fmt.Sprintf("a/d/m%d/x/y", i%50), 0, true) }},
		{"remove", func(v *View, i int) error {
			if i%2 == 0 {
				_, err := v.Write("a/d/token", body, WriteOptions{})
				return err
			}
			return v.Remove("a/d/token", false, "")
		}},
		{"remove all", func(v *View, _ int) error {
			if err := v.Mkdir("a/e/sub/sub", 0, true); err != nil {
				return err
			}
			return v.Remove("a/d/sub", true, "")
		}},
		{"rename", func(v *View, i int) error {
			if i%2 == 0 {
				return v.Rename("a/d/f", "a/d/token", false, "")
			}
			return v.Rename("a/d/token", "a/d/f", false, "")
		}},
		{"untar", func(v *View, _ int) error {
			_, err := v.ReadTar(v.tree.testContext(), "a", tarOf(
				tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o751},
				tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o600},
				tar.Header{Name: "d/s", Typeflag: tar.TypeSymlink, Linkname: "f"},
				tar.Header{Name: "d/h", Typeflag: tar.TypeLink, Linkname: "d/f"},
				tar.Header{Name: "d/q/w/e", Typeflag: tar.TypeReg},
			), TarLimits{})
			return err
		}},
		{"copy from", func(v *View, i int) error {
			_, err := v.Copy(v.tree.testContext(), "a/d/f", "got", CopyOptions{})
			return err
		}},
		{"copy from tree", func(v *View, i int) error {
			_, err := v.Copy(v.tree.testContext(), "a", fmt.Sprintf("got%d", i), CopyOptions{Recursive: true})
			return err
		}},
		{"copy to", func(v *View, i int) error {
			if i%3 == 0 {
				_, err := v.Copy(v.tree.testContext(), "b", fmt.Sprintf("a/d/b%d", i), CopyOptions{Recursive: true})
				return err
			}
			_, err := v.Copy(v.tree.testContext(), "b/f", "a/d/token", CopyOptions{})
			return err
		}},
		{"chmod", func(v *View, i int) error { return v.Chmod("a/d/f", uint32(0o600|i%8)) }},
		{"touch", func(v *View, i int) error { return v.Touch("a/d/token", time.Unix(int64(i), 0), i%2 == 0) }},
		{"symlink", func(v *View, i int) error { return v.Symlink("token", fmt.Sprintf("a/d/l%d", i)) }},
		{"readlink", func(v *View, _ int) error {
			target, err := v.Readlink("a/d/link")
			if err == nil && target != "f" {
				return fmt.Errorf("read the link %q", target)
			}
			return err
		}},
		{"search", func(v *View, i int) error {
			reply, err := v.Search(v.tree.testContext(), "a", &mesh.SearchRequest{Limit: 1 + i%3, Cursor: []mesh.Path{"", "a/d", "a/d/f"}[i%3]})
			for _, e := range reply.Entries {
				if strings.HasSuffix(string(e.Path), "token") {
					return fmt.Errorf("found %q", e.Path)
				}
			}
			return err
		}},
		{"grep", func(v *View, i int) error {
			req := &mesh.GrepRequest{Pattern: "SECRET"}
			if i%2 == 0 {
				req.Cursor = &mesh.GrepCursor{Path: "a/d/f"}
			}
			reply, err := v.Grep(v.tree.testContext(), "a", req)
			if len(reply.Matches) > 0 {
				return fmt.Errorf("found %v", reply.Matches)
			}
			return err
		}},
		{"tar", func(v *View, _ int) error {
			var buf bytes.Buffer
			err := v.WriteTar(v.tree.testContext(), "a", &buf)
			if bytes.Contains(buf.Bytes(), []byte("SECRET")) {
				return fmt.Errorf("archived a secret")
			}
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWalk(t, func(t *testing.T, f *treeFixture) {
				f.put("a/d/f", "inside")
				f.link(f.secret, "a/e")
				f.link("f", "a/d/link")
				f.put("b/f", "inside")
				stop := swap(t, f.tenant("a/d"), f.tenant("a/e"))
				v := f.View(".")
				good, bad := 0, 0
				for i, end := 0, time.Now().Add(atMost); i < rounds && time.Now().Before(end); i++ {
					err := c.op(v, i)
					var e *mesh.Error
					switch {
					case err == nil:
						good++
					case !requireMesh(err, &e):
						stop()
						require.NoError(t, err)
					default:
						bad++
						require.NotEqual(t, mesh.CodeInternal, e.Code, e.Text)
					}
				}
				swaps := stop()
				t.Logf("%d succeeded, %d refused, %d swaps", good, bad, swaps)
				require.Positive(t, good+bad)
				require.NotContains(t, snapshotText(t, f.cfg.Dir), "SECRET")
				f.purgeAll(t)
			})
		})
	}
}

func requireMesh(err error, e **mesh.Error) bool {
	known, ok := err.(*mesh.Error)
	*e = known
	return ok
}

func snapshotText(t *testing.T, dir string) string {
	return strings.Join(snapshotOf(t, dir), "\n")
}

// The last name changes between a file and a link to a secret file.
func TestTreeRacesLastName(t *testing.T) {
	f := newTreeFixture(t)
	f.put("f", "inside")
	f.link(f.secret+"/token", "l")
	stop := swap(t, f.tenant("f"), f.tenant("l"))
	v := f.View(".")
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		if got, err := readAll(v, "f"); err == nil {
			require.Equal(t, "inside", got)
		}
		info, err := v.Stat("f", true)
		if err == nil {
			require.Equal(t, TypeFile, info.Type)
		}
		page, err := v.List(".", "", 10)
		require.NoError(t, err)
		for _, e := range page.Entries {
			require.Equal(t, e.Type == TypeSymlink, e.Target != "")
		}
	}
	require.Positive(t, stop())
}
