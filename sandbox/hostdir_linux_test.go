package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestFindHostDir(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir, file := filepath.Join(base, "dir"), filepath.Join(base, "file")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Symlink("dir", filepath.Join(base, "link")))
	require.NoError(t, os.Symlink("link", filepath.Join(base, "link2")))
	require.NoError(t, os.Symlink("loop", filepath.Join(base, "loop")))
	for _, name := range []string{"dir", "link", "link2"} {
		got, err := FindHostDir(filepath.Join(base, name))
		require.NoError(t, err)
		require.Equal(t, HostDir{Path: dir, UID: os.Getuid(), GID: os.Getgid()}, got)
	}
	for name, c := range map[string]struct {
		path string
		code mesh.Code
	}{
		"empty":     {"", mesh.CodeInvalid},
		"relative":  {"dir", mesh.CodeInvalid},
		"not clean": {dir + "/../dir", mesh.CodeInvalid},
		"missing":   {filepath.Join(base, "none"), mesh.CodeNotFound},
		"a file":    {file, mesh.CodeInvalid},
		"a loop":    {filepath.Join(base, "loop"), mesh.CodeInternal},
		"too long":  {"/" + strings.Repeat("x", 300), mesh.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := FindHostDir(c.path)
			requireCode(t, c.code, err)
			require.NotContains(t, err.Error(), base, "a host path in the text")
		})
	}
}

func TestHostDirOwner(t *testing.T) {
	for name, c := range map[string]struct {
		euid, uid, gid int
		ok             bool
	}{
		"root, a user's":         {0, 1000, 1000, true},
		"root, root's":           {0, 0, 0, false},
		"root, of root's group":  {0, 1000, 0, false},
		"root, a tenant's":       {0, DefaultTenantBase + 1, DefaultTenantBase + 1, false},
		"root, a tenant's group": {0, 1000, DefaultTenantBase + 1, false},
		"a user, its own":        {1000, 1000, 0, true},
		"a user, another's":      {1000, 1001, 1000, false},
		"a user, root's":         {1000, 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := HostDir{UID: c.uid, GID: c.gid}.checkOwner(c.euid)
			require.Equal(t, c.ok, err == nil, "%v", err)
		})
	}
}

// A tree that is a directory of the host is neither made nor found through a link,
// keeps its owner and mode, and is one mount with its stage.
func TestHostTree(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir, stage := filepath.Join(base, "up", "dir"), filepath.Join(base, "stage")
	require.NoError(t, os.MkdirAll(dir, 0o750))
	require.NoError(t, os.Symlink("up", filepath.Join(base, "link")))
	open := func(dir string) error {
		tree, err := OpenTree(TreeConfig{Dir: dir, Host: true, Stage: stage, UID: testUID, GID: testUID})
		if err == nil {
			err = tree.Close()
		}
		return err
	}
	require.NoError(t, open(dir))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o750), info.Mode().Perm())
	requireCode(t, mesh.CodeNotFound, open(filepath.Join(base, "none")))
	require.NoDirExists(t, filepath.Join(base, "none"))
	requireCode(t, mesh.CodeInvalid, open(filepath.Join(base, "link", "dir")))
	requireCode(t, mesh.CodeInvalid, open(base))
	if os.Getuid() != 0 {
		return
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		requireOrSkip(t, "bwrap", err.Error())
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // the test is over
	requireCode(t, mesh.CodeInvalid, open(dir))
}

// Root acts as the owner of a directory of the host: what neither it nor its group
// may do fails, whatever groups the node has besides.
func TestHostTreeHasTheOwnersRights(t *testing.T) {
	requireRoot(t, "an ordinary user has its own rights anyway")
	const group = 41003
	before, err := os.Getgroups()
	require.NoError(t, err)
	require.NoError(t, syscall.Setgroups(append(before, group)))
	defer func() { require.NoError(t, syscall.Setgroups(before)) }()
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir := filepath.Join(base, "dir")
	for name, gid := range map[string]int{"owner's": testUID, "others'": group} {
		at := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(at, 0o770))
		require.NoError(t, os.WriteFile(filepath.Join(at, "f"), []byte("x"), 0o660))
		for _, p := range []string{at, filepath.Join(at, "f")} {
			require.NoError(t, os.Chown(p, 0, gid))
			require.NoError(t, os.Chmod(p, 0o770))
		}
	}
	require.NoError(t, os.Chown(dir, testUID, testUID))
	tree, err := OpenTree(TreeConfig{Dir: dir, Host: true, Stage: filepath.Join(base, "stage"), UID: testUID, GID: testUID})
	require.NoError(t, err)
	defer func() { require.NoError(t, tree.Close()) }()
	v := tree.View(".")
	read := func(path string) error {
		_, _, err := v.ReadAt(path, 0, 10, "")
		return err
	}
	require.NoError(t, read("owner's/f"))
	requireCode(t, mesh.CodeDenied, read("others'/f"))
	requireCode(t, mesh.CodeDenied, v.Mkdir("others'/new", 0o755, false))
	after, err := os.Getgroups()
	require.NoError(t, err)
	require.Equal(t, append(before, group), after)
}

// A file system that is mounted in a directory of the host is no place to move
// things to, and one that is read-only takes nothing; both are said by their code.
func TestHostTreeWithAMount(t *testing.T) {
	requireRoot(t, "only root mounts file systems")
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir := filepath.Join(base, "dir")
	mounted := filepath.Join(dir, "mounted")
	require.NoError(t, os.MkdirAll(mounted, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644))
	for _, p := range []string{dir, filepath.Join(dir, "f")} {
		require.NoError(t, os.Chown(p, testUID, testUID))
	}
	options := fmt.Sprintf("size=1m,uid=%d,gid=%d,mode=755", testUID, testUID)
	if err := unix.Mount("x", mounted, "tmpfs", 0, options); err != nil {
		requireOrSkip(t, "mount", err.Error())
	}
	defer unix.Unmount(mounted, unix.MNT_DETACH) //nolint:errcheck // the test is over
	tree, err := OpenTree(TreeConfig{Dir: dir, Host: true, Stage: filepath.Join(base, "stage"), UID: testUID, GID: testUID})
	require.NoError(t, err)
	defer func() { require.NoError(t, tree.Close()) }()
	v := tree.View(".")
	requireCode(t, mesh.CodeUnsupported, v.Rename("f", "mounted/f", false, ""))
	_, err = v.Write("mounted/new", []byte("x"), WriteOptions{})
	requireCode(t, mesh.CodeUnsupported, err)
	require.NoError(t, os.Mkdir(filepath.Join(mounted, "d"), 0o755))
	require.NoError(t, os.Chown(filepath.Join(mounted, "d"), testUID, testUID))
	require.NoError(t, v.Chmod("mounted/d", 0o700))
	require.NoError(t, unix.Mount("", mounted, "", unix.MS_REMOUNT|unix.MS_RDONLY, options))
	requireCode(t, mesh.CodeDenied, v.Chmod("mounted/d", 0o755))
	require.FileExists(t, filepath.Join(dir, "f"))
}
