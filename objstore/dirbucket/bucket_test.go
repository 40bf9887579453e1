package dirbucket_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/buckettest"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
)

func open(t *testing.T, dir string) *dirbucket.Bucket {
	t.Helper()
	b, err := dirbucket.Open(dir)
	require.NoError(t, err)
	return b
}

func TestBucket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "bucket")
	buckettest.Run(t, func(t *testing.T) objstore.Bucket { return open(t, dir) })
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.True(t, e.IsDir(), "%s was left", e.Name())
	}
}

// TestTemporaryFiles: what a crash leaves is never seen, and goes when nobody can
// be writing it.
func TestTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tmp-new", "tmp-old", "note.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	old := time.Now().Add(-dirbucket.TempAge - time.Hour)
	for _, name := range []string{"tmp-old", "note.txt"} {
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), old, old))
	}
	b := open(t, dir)
	require.NoFileExists(t, filepath.Join(dir, "tmp-old"))
	require.FileExists(t, filepath.Join(dir, "tmp-new"))
	require.FileExists(t, filepath.Join(dir, "note.txt"), "a stranger's file")
	for id := range b.List(t.Context()) {
		require.Fail(t, "listed", "%s", id)
	}
}

// TestErrorsNameNoPath: what leaves the bucket may reach a tenant.
func TestErrorsNameNoPath(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	id, data := buckettest.Object(1, 10)
	require.NoError(t, os.WriteFile(filepath.Join(dir, id.String()[:2]), nil, 0o600))
	err := b.Put(t.Context(), id, data)
	require.Error(t, err)
	require.NotContains(t, err.Error(), dir)
	_, err = b.Get(t.Context(), id, 0, 1)
	require.Error(t, err)
	require.NotContains(t, err.Error(), dir)
}
