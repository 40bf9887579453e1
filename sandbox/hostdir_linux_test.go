package sandbox

import (
	"os"
	"path/filepath"
	"strings"
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
