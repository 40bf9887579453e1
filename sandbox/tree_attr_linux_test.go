package sandbox

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestTreeChmod(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View(".")
		f.put("d/f", "x")
		f.link("d/f", "link")
		f.link("nowhere", "dangling")
		require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o600))
		for _, c := range []struct {
			name, path string
			mode       uint32
			code       mesh.Code
			at         string
		}{
			{name: "file", path: "d/f", mode: 0o640, at: "d/f"},
			{name: "nothing allowed", path: "d/f", mode: 0, at: "d/f"},
			{name: "through a link", path: "link", mode: 0o751, at: "d/f"},
			{name: "directory", path: "d", mode: 0o1777, at: "d"},
			{name: "fifo is not opened", path: "fifo", mode: 0o622, at: "fifo"},
			{name: "setuid", path: "d/f", mode: 0o4755, code: mesh.CodeDenied},
			{name: "setgid", path: "d", mode: 0o2755, code: mesh.CodeDenied},
			{name: "a file type", path: "d/f", mode: 0o100644, code: mesh.CodeInvalid},
			{name: "missing", path: "nope", mode: 0o644, code: mesh.CodeNotFound},
			{name: "dangling", path: "dangling", mode: 0o644, code: mesh.CodeNotFound},
			{name: "below a file", path: "d/f/x", mode: 0o644, code: mesh.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				requireCode(t, c.code, v.Chmod(c.path, c.mode))
				if c.code == "" {
					st, err := os.Stat(f.tenant(c.at))
					require.NoError(t, err)
					require.Equal(t, c.mode, modeBits(st))
				}
			})
		}
		require.NoError(t, os.Chmod(f.tenant("d/f"), 0o755|os.ModeSetuid))
		require.NoError(t, v.Chmod("d/f", 0o755))
		st, err := os.Stat(f.tenant("d/f"))
		require.NoError(t, err)
		require.Equal(t, uint32(0o755), modeBits(st), "a setuid bit that was there")
	})
}

func TestTreeSymlink(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View(".")
		f.put("f", "x")
		f.link("nowhere", "dangling")
		for _, c := range []struct {
			name, target, path string
			code               mesh.Code
		}{
			{name: "to a file", target: "f", path: "l"},
			{name: "to nothing", target: "no/where", path: "l2"},
			{name: "leads out, which shows when followed", target: "/etc/passwd", path: "l3"},
			{name: "makes parents", target: "../../f", path: "p/q/l"},
			{name: "any bytes", target: "\xff\n", path: "odd\xfe\n"},
			{name: "the longest", target: strings.Repeat("x/", 2047) + "x", path: "long"},
			{name: "over a file", target: "f", path: "f", code: mesh.CodeExists},
			{name: "over a link", target: "f", path: "dangling", code: mesh.CodeExists},
			{name: "the root", target: "f", path: ".", code: mesh.CodeExists},
			{name: "empty target", path: "e", code: mesh.CodeInvalid},
			{name: "NUL", target: "a\x00b", path: "e", code: mesh.CodeInvalid},
			{name: "too long", target: strings.Repeat("x", 4096), path: "e", code: mesh.CodeInvalid},
			{name: "below a file", target: "f", path: "f/l", code: mesh.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				requireCode(t, c.code, v.Symlink(c.target, c.path))
				require.Empty(t, f.staged())
				if c.code != "" {
					return
				}
				requireTenants(t, f.tenant(c.path), 0o777)
				got, err := v.Readlink(c.path)
				require.NoError(t, err)
				require.Equal(t, c.target, got)
			})
		}
		requireTenants(t, f.tenant("p/q"), 0o755)
		_, err := readAll(v, "l3")
		requireCode(t, mesh.CodeDenied, err)
	})
}

func TestTreeReadlink(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View(".")
		f.put("d/f", "x")
		f.link("d", "dir")
		f.link("/etc/passwd", "d/out")
		for path, c := range map[string]struct {
			want string
			code mesh.Code
		}{
			"dir":     {"d", ""},
			"dir/out": {"/etc/passwd", ""},
			"d/f":     {"", mesh.CodeInvalid},
			"d":       {"", mesh.CodeInvalid},
			".":       {"", mesh.CodeInvalid},
			"nope":    {"", mesh.CodeNotFound},
		} {
			t.Run(path, func(t *testing.T) {
				got, err := v.Readlink(path)
				requireCode(t, c.code, err)
				require.Equal(t, c.want, got)
			})
		}
	})
}

func TestTreeTouch(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View(".")
		f.put("f", "content")
		require.NoError(t, os.Chmod(f.tenant("f"), 0o400))
		require.NoError(t, os.Mkdir(f.tenant("d"), 0o711))
		require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o600))
		f.link("f", "link")
		f.link("made/by/link", "dangling")
		f.link("missing", "dangling2")
		past := time.Unix(1_400_000_000, 123_456_789)
		for _, c := range []struct {
			name, path string
			at         time.Time
			noCreate   bool
			code       mesh.Code
			changed    string
		}{
			{name: "file", path: "f", at: past, changed: "f"},
			{name: "now", path: "f", changed: "f"},
			{name: "directory", path: "d", at: past, changed: "d"},
			{name: "fifo is not opened", path: "fifo", at: past, changed: "fifo"},
			{name: "through a link", path: "link", at: past, noCreate: true, changed: "f"},
			{name: "makes it and its parents", path: "p/q/new", at: past, changed: "p/q/new"},
			{name: "makes it now", path: "new", changed: "new"},
			{name: "a dangling link's target", path: "dangling", at: past, changed: "made/by/link"},
			{name: "before 1970", path: "f", at: time.Unix(-5, 7), changed: "f"},
			{name: "not made", path: "n/n", noCreate: true, code: mesh.CodeNotFound},
			{name: "dangling, not made", path: "dangling2", noCreate: true, code: mesh.CodeNotFound},
			{name: "below a file", path: "f/x", code: mesh.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				start := time.Now().Add(-time.Second)
				requireCode(t, c.code, v.Touch(c.path, c.at, c.noCreate))
				require.Empty(t, f.staged())
				if c.code != "" {
					return
				}
				st, err := os.Stat(f.tenant(c.changed))
				require.NoError(t, err)
				if c.at.IsZero() {
					require.WithinRange(t, st.ModTime(), start, time.Now().Add(time.Second))
				} else {
					require.True(t, c.at.Equal(st.ModTime()), "%v", st.ModTime())
				}
			})
		}
		require.NoDirExists(t, f.tenant("n"))
		require.NoFileExists(t, f.tenant("missing"))
		require.Equal(t, "content", f.content("f"))
		require.Equal(t, "", f.content("new"))
		requireTenants(t, f.tenant("new"), 0o644)
		requireTenants(t, f.tenant("p/q"), 0o755)
		target, err := os.Readlink(f.tenant("dangling"))
		require.NoError(t, err)
		require.Equal(t, "made/by/link", target, "the link is still one")
	})
}
