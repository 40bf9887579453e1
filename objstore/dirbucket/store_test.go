package dirbucket_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/buckettest"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
)

func open(t *testing.T, dir string) *dirbucket.Store {
	t.Helper()
	s, err := dirbucket.OpenStore(dir)
	require.NoError(t, err)
	return s
}

func TestRemote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "objects")
	buckettest.RunRemote(t, func(t *testing.T) objstore.Remote { return open(t, dir) })
	for _, own := range []string{"tmp", "meta"} {
		entries, err := os.ReadDir(filepath.Join(dir, ".wsmesh", own))
		require.NoError(t, err)
		require.Empty(t, entries, own)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "a directory was left")
}

// TestTemporaryFiles: what a crash leaves is never seen, and goes when nobody can
// be writing it.
func TestTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	tmp := filepath.Join(dir, ".wsmesh", "tmp")
	for _, name := range []string{"new", "old"} {
		require.NoError(t, os.WriteFile(filepath.Join(tmp, name), []byte("x"), 0o600))
	}
	old := time.Now().Add(-dirbucket.TempAge - time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(tmp, "old"), old, old))
	s := open(t, dir)
	require.NoFileExists(t, filepath.Join(tmp, "old"))
	require.FileExists(t, filepath.Join(tmp, "new"))
	for o := range s.List(t.Context(), "", "") {
		require.Fail(t, "listed", "%s", o.Name)
	}
}

// TestErrorsNameNoPath: what leaves the store may reach a tenant.
func TestErrorsNameNoPath(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	_, err := s.Put(t.Context(), "file/child", strings.NewReader("x"), 1, objstore.PutOptions{})
	require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), "%v", err)
	require.NotContains(t, err.Error(), dir)
	_, _, err = s.Get(t.Context(), "file/child", 0, 1)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
	require.NotContains(t, err.Error(), dir)
	for _, name := range []string{"", "/", "..", "a/../../b", "/a", "a//b", "a\x00b", ".wsmesh/tmp/x", ".wsmesh", strings.Repeat("x/", 600) + "x"} {
		_, err := s.Put(t.Context(), name, strings.NewReader("x"), 1, objstore.PutOptions{})
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%q: %v", name, err)
	}
}
