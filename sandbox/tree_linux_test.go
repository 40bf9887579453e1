package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

const testUID = 41001

// treeFixture is an open Tree with a directory beside it that nothing may ever
// touch, which is compared at the end of the test, as is the stage.
type treeFixture struct {
	*Tree
	t      *testing.T
	cfg    TreeConfig
	secret string // a directory outside of the tree
}

func newTreeFixture(t *testing.T) *treeFixture {
	t.Helper()
	base := t.TempDir()
	f := &treeFixture{
		t:      t,
		cfg:    TreeConfig{Dir: filepath.Join(base, "ws"), Stage: filepath.Join(base, "stage"), UID: testUID, GID: testUID},
		secret: filepath.Join(base, "secret"),
	}
	require.NoError(t, os.Mkdir(f.secret, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(f.secret, "token"), []byte("SECRET"), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(f.secret, "f"), []byte("SECRET"), 0o666))
	before := snapshotOf(t, f.secret)
	tree, err := OpenTree(f.cfg)
	require.NoError(t, err)
	f.Tree = tree
	t.Cleanup(func() {
		require.NoError(t, tree.Close())
		require.Equal(t, before, snapshotOf(t, f.secret), "the outside changed")
		require.Empty(t, f.staged(), "left in the stage")
	})
	return f
}

// eachWalk runs the test with the kernel's resolution and with ours alone.
func eachWalk(t *testing.T, run func(t *testing.T, f *treeFixture)) {
	for name, noBatch := range map[string]bool{"openat2": false, "walk only": true} {
		t.Run(name, func(t *testing.T) {
			f := newTreeFixture(t)
			f.noBatch = noBatch
			run(t, f)
		})
	}
}

// staged returns what is in the stage, without the directory that is always
// there.
func (f *treeFixture) staged() []string {
	var left []string
	err := filepath.WalkDir(f.cfg.Stage, func(p string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(f.cfg.Stage, p)
		if rel != "." && (filepath.Dir(rel) != "." || !strings.HasPrefix(rel, "rm-")) {
			left = append(left, rel)
		}
		return err
	})
	require.NoError(f.t, err)
	return left
}

// tenant returns the host path of what the tenant calls /workspace/rel.
func (f *treeFixture) tenant(rel ...string) string {
	return filepath.Join(append([]string{f.cfg.Dir}, rel...)...)
}

func (f *treeFixture) put(rel, content string) {
	f.t.Helper()
	require.NoError(f.t, os.MkdirAll(filepath.Dir(f.tenant(rel)), 0o755))
	require.NoError(f.t, os.WriteFile(f.tenant(rel), []byte(content), 0o644))
	require.NoError(f.t, os.Chmod(f.tenant(rel), 0o644)) // some tests set the umask
}

func (f *treeFixture) link(target, rel string) {
	f.t.Helper()
	require.NoError(f.t, os.MkdirAll(filepath.Dir(f.tenant(rel)), 0o755))
	require.NoError(f.t, os.Symlink(target, f.tenant(rel)))
}

func (f *treeFixture) content(rel string) string {
	f.t.Helper()
	b, err := os.ReadFile(f.tenant(rel))
	require.NoError(f.t, err)
	return string(b)
}

func requireCode(t *testing.T, code mesh.Code, err error) {
	t.Helper()
	if code == "" {
		require.NoError(t, err)
		return
	}
	var e *mesh.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code, e.Text)
	require.NotContains(t, e.Text, os.TempDir()+"/", "a host path in the text")
}

// readAll reads a file through the view, in pieces.
func readAll(v *View, p string) (string, error) {
	var all []byte
	rev := ""
	for {
		b, info, err := v.ReadAt(p, int64(len(all)), 5, rev)
		if err != nil {
			return "", err
		}
		rev = info.Revision
		all = append(all, b...)
		if len(b) < 5 {
			return string(all), nil
		}
	}
}

// snapshotOf describes everything below dir.
func snapshotOf(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		content := ""
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = string(b)
		}
		rel, _ := filepath.Rel(dir, p)
		all = append(all, strings.Join([]string{rel, d.Type().String(), revisionOf(&st), content}, "|"))
		return nil
	})
	require.NoError(t, err)
	sort.Strings(all)
	return all
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if strings.Contains(os.Getenv("WSMESH_REQUIRE"), "root") {
			t.Fatal("WSMESH_REQUIRE asks for root, and this is not root")
		}
		t.Skip("needs root: sets owners, makes devices or mounts a tmpfs")
	}
}

func TestTreePaths(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("file.txt", "root file")
		f.put("a/b/f", "in b")
		f.put("a/c.txt", "in a")
		f.put("~/x", "tilde")
		odd := "we\"ird $(touch x) `id` ' \n\xff\xfe 文 🙂"
		f.put(odd+"/"+odd, "odd")
		f.put("workspace2/x", "look-alike")
		f.link("../a/c.txt", "links/inside")
		f.link("/workspace/a", "links/abs")
		f.link("abs/b", "links/chained")
		f.link("../a/b/../c.txt", "links/dotted")
		f.link(".", "links/self")
		for name, c := range map[string]struct {
			path, want string
			code       mesh.Code
		}{
			"plain":                  {"file.txt", "root file", ""},
			"nested":                 {"a/b/f", "in b", ""},
			"tilde is a name":        {"~/x", "tilde", ""},
			"any bytes":              {odd + "/" + odd, "odd", ""},
			"look-alike prefix":      {"workspace2/x", "look-alike", ""},
			"relative link":          {"links/inside", "in a", ""},
			"absolute link":          {"links/abs/c.txt", "in a", ""},
			"chained links":          {"links/chained/f", "in b", ""},
			"dots in a link":         {"links/dotted", "in a", ""},
			"link to its directory":  {"links/self/self/self/inside", "in a", ""},
			"etc is ours":            {"etc/passwd", "", mesh.CodeNotFound},
			"root as a file":         {".", "", mesh.CodeInvalid},
			"directory as a file":    {"a/b", "", mesh.CodeInvalid},
			"file as a directory":    {"file.txt/x", "", mesh.CodeInvalid},
			"missing":                {"a/nope", "", mesh.CodeNotFound},
			"missing parent":         {"nope/x", "", mesh.CodeNotFound},
			"dots that were not cut": {"a/../file.txt", "", mesh.CodeInvalid},
			"leaves":                 {"../secret/token", "", mesh.CodeDenied},
			"absolute":               {"/file.txt", "", mesh.CodeInvalid},
			"empty":                  {"", "", mesh.CodeInvalid},
			"NUL":                    {"a\x00b", "", mesh.CodeInvalid},
			"name too long":          {strings.Repeat("n", 256), "", mesh.CodeInvalid},
		} {
			t.Run(name, func(t *testing.T) {
				got, err := readAll(f.View("."), c.path)
				requireCode(t, c.code, err)
				require.Equal(t, c.want, got)
			})
		}
	})
}

func TestTreeScopes(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("users/u1/f", "one")
		f.put("users/u2/f", "two")
		f.link("/workspace/users/u1/f", "users/u1/abs")
		f.link("/workspace/./users//u1/./f", "users/u1/messy")
		f.link("/workspace/users/u2/f", "users/u1/sibling")
		f.link("../u2/f", "users/u1/relsibling")
		f.link("../u1/f", "users/u1/outandback")
		f.link("/workspace/users/u2/../u1/f", "users/u1/absoutandback")
		f.link("/workspace", "users/u1/top")
		f.link("/workspace/users/u1", "users/u1/here")
		f.link("users/u1", "alias")
		for name, c := range map[string]struct {
			scope, path string
			code        mesh.Code
		}{
			"own file":                    {"users/u1", "users/u1/f", ""},
			"absolute link to it":         {"users/u1", "users/u1/abs", ""},
			"with empty names and dots":   {"users/u1", "users/u1/messy", ""},
			"link to the scope":           {"users/u1", "users/u1/here/here/f", ""},
			"sibling by absolute link":    {"users/u1", "users/u1/sibling", mesh.CodeDenied},
			"sibling by relative link":    {"users/u1", "users/u1/relsibling", mesh.CodeDenied},
			"out and back":                {"users/u1", "users/u1/outandback", mesh.CodeDenied},
			"absolute out and back":       {"users/u1", "users/u1/absoutandback", mesh.CodeDenied},
			"over the workspace root":     {"users/u1", "users/u1/top/users/u1/f", mesh.CodeDenied},
			"the same, wider view":        {".", "users/u1/top/users/u1/f", ""},
			"out and back, wider view":    {"users", "users/u1/outandback", ""},
			"sibling's path":              {"users/u1", "users/u2/f", mesh.CodeDenied},
			"prefix look-alike":           {"users/u1", "users/u11", mesh.CodeDenied},
			"workspace root":              {"users/u1", ".", mesh.CodeDenied},
			"scope is a link":             {"alias", "alias/f", mesh.CodeDenied},
			"scope passes through a link": {"alias/x", "alias/x/f", mesh.CodeDenied},
			"scope is a file":             {"users/u1/f", "users/u1/f/x", mesh.CodeInvalid},
			"scope is missing":            {"users/u3", "users/u3/f", mesh.CodeNotFound},
		} {
			t.Run(name, func(t *testing.T) {
				got, err := readAll(f.View(c.scope), c.path)
				requireCode(t, c.code, err)
				if c.code == "" {
					require.Equal(t, "one", got)
				}
			})
		}
		t.Run("paths are shown from the scope", func(t *testing.T) {
			info, err := f.View("users/u1").Stat("users/u1/f", true)
			require.NoError(t, err)
			require.Equal(t, mesh.Path("f"), info.Path)
			info, err = f.View("users/u1").Stat("users/u1", true)
			require.NoError(t, err)
			require.Equal(t, mesh.Path("."), info.Path)
		})
	})
}

func TestTreeScopeIsMade(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View("p/q/r")
		_, err := v.OpenRoot(false)
		requireCode(t, mesh.CodeNotFound, err)
		root, err := v.OpenRoot(true)
		require.NoError(t, err)
		defer root.Close()
		var st, want unix.Stat_t
		require.NoError(t, unix.Fstat(int(root.Fd()), &st))
		require.NoError(t, unix.Stat(f.tenant("p/q/r"), &want))
		require.Equal(t, want.Ino, st.Ino)
		for _, p := range []string{"p", "p/q", "p/q/r"} {
			requireTenants(t, f.tenant(p), 0o755)
		}

		_, err = f.View("w/x").Write("w/x/f", []byte("1"), WriteOptions{})
		require.NoError(t, err)
		require.NoError(t, f.View("m").Mkdir("m/d", 0, false))
		require.NoError(t, f.View("n").Mkdir("n", 0, true))
		requireCode(t, mesh.CodeNotFound, f.View("o").Mkdir("o/x/y", 0, false))
		f.link(f.secret, "evil")
		_, err = f.View("evil").OpenRoot(true)
		requireCode(t, mesh.CodeDenied, err)
		_, err = f.View("evil/new").OpenRoot(true)
		requireCode(t, mesh.CodeDenied, err)
		_, err = f.View("evil").Write("evil/new", []byte("1"), WriteOptions{})
		requireCode(t, mesh.CodeDenied, err)
	})
}

// requireTenants checks owner and mode, whatever the umask is.
func requireTenants(t *testing.T, p string, mode uint32) {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(p, &st))
	require.Equal(t, mode, st.Mode&0o7777, "mode of %s", filepath.Base(p))
	if os.Geteuid() == 0 {
		require.Equal(t, [2]uint32{testUID, testUID}, [2]uint32{st.Uid, st.Gid}, "owner of %s", filepath.Base(p))
	}
}

func TestOpenTree(t *testing.T) {
	base := t.TempDir()
	at := func(p string) string { return filepath.Join(base, p) }
	for name, cfg := range map[string]TreeConfig{
		"no dir":            {Stage: at("s")},
		"no stage":          {Dir: at("w")},
		"the same":          {Dir: at("same"), Stage: at("same")},
		"stage in dir":      {Dir: at("in"), Stage: at("in/s")},
		"dir in stage":      {Dir: at("on/w"), Stage: at("on")},
		"another device":    {Dir: at("dev"), Stage: "/dev/shm/wsmesh-" + filepath.Base(base)},
		"same through link": {Dir: at("real"), Stage: at("alias")},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "another device" {
				var here, there unix.Stat_t
				require.NoError(t, unix.Stat(base, &here))
				if unix.Stat("/dev/shm", &there) != nil || here.Dev == there.Dev {
					t.Skip("needs /dev/shm on another device than the temporary directory")
				}
				t.Cleanup(func() { os.RemoveAll(cfg.Stage) })
			}
			if name == "same through link" {
				require.NoError(t, os.Mkdir(at("real"), 0o755))
				require.NoError(t, os.WriteFile(at("real/keep"), nil, 0o644))
				require.NoError(t, os.Symlink("real", at("alias")))
			}
			_, err := OpenTree(cfg)
			requireCode(t, mesh.CodeInvalid, err)
		})
	}
	require.FileExists(t, at("real/keep"))

	t.Run("makes, empties, closes", func(t *testing.T) {
		f := newTreeFixture(t)
		requireTenants(t, f.cfg.Dir, 0o700)
		st, err := os.Stat(f.cfg.Stage)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), st.Mode().Perm())
		f.put("keep", "me")
		require.NoError(t, f.Close())
		require.NoError(t, f.Close(), "twice")
		_, err = f.View(".").Stat("keep", true)
		requireCode(t, mesh.CodeUnavailable, err)

		require.NoError(t, os.MkdirAll(filepath.Join(f.cfg.Stage, "rm-old/7/deep/er"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(f.cfg.Stage, "rm-old/7/deep/x"), nil, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(f.cfg.Stage, "3"), []byte("half"), 0o600))
		require.NoError(t, os.Symlink(f.secret, filepath.Join(f.cfg.Stage, "4")))
		again, err := OpenTree(f.cfg)
		require.NoError(t, err)
		defer again.Close()
		require.Empty(t, f.staged())
		got, err := readAll(again.View("."), "keep")
		require.NoError(t, err)
		require.Equal(t, "me", got)
	})
}

// A failing call gives back its descriptors like any other.
func TestTreeKeepsNoDescriptors(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("a/b/f", "x")
		f.link("/etc/passwd", "a/out")
		f.link("loop", "a/loop")
		f.link("b/..", "a/up")
		f.link("/workspace/a/b", "a/abs")
		v := f.View(".")
		all := func() {
			for _, p := range []string{".", "a", "a/b/f", "a/out", "a/out/x", "a/loop", "a/up/b/f", "a/abs/f/x", "no/x", "a/b/f/x"} {
				_, _ = v.Stat(p, true)
				_, _ = readAll(v, p)
				_, _ = v.List(p, "", 10)
				_, _ = v.Write(p, []byte("y"), WriteOptions{CreateOnly: true})
				_ = v.Mkdir(p, 0, true)
				_ = v.Rename(p, p+"/x", true, "")
				if root, err := f.View(p).OpenRoot(false); err == nil {
					root.Close()
				}
				_ = v.Remove(p+"/gone", true, "")
			}
		}
		all()
		before := openDescriptors(t)
		for range 20 {
			all()
		}
		require.LessOrEqual(t, openDescriptors(t), before) // tests before this one may still be closing theirs
	})
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

func TestFailedNamesNoHostPath(t *testing.T) {
	_, err := os.Open(filepath.Join(t.TempDir(), "x"))
	requireCode(t, mesh.CodeNotFound, failed(err))
	requireCode(t, mesh.CodeInternal, failed(errors.New(os.TempDir()+"/y: odd")))
	require.NoError(t, failed(nil))
}
