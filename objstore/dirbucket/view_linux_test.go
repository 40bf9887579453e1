package dirbucket_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
)

// TestView: any directory can be read as objects that say what its files are. Links are
// not followed, what would block is not there, and nothing is made.
func TestView(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("elsewhere"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "d", "empty"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d", "run"), []byte("run"), 0o711))
	require.NoError(t, os.Chtimes(filepath.Join(dir, "d", "run"), time.Time{}, time.Unix(5, 6)))
	require.NoError(t, os.Symlink(secret, filepath.Join(dir, "link")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	s := dirbucket.View(dir)
	var names []string
	for o, err := range s.List(t.Context(), "", "") {
		require.NoError(t, err)
		names = append(names, o.Name)
	}
	require.Equal(t, []string{"d/", "d/empty/", "d/run", "link"}, names)
	data, o, err := s.Get(t.Context(), "d/run", 0, 9)
	require.NoError(t, err)
	require.Equal(t, "run", string(data))
	require.Equal(t, map[string]string{"mode": "0711", "mtime": "5.000000006"}, o.Meta)
	data, o, err = s.Get(t.Context(), "link", 1, 3)
	require.NoError(t, err)
	require.Equal(t, secret[1:4], string(data))
	require.Equal(t, "true", o.Meta["symlink"])
	require.Equal(t, int64(len(secret)), o.Size)
	o, err = s.Stat(t.Context(), "d/empty/")
	require.NoError(t, err)
	require.Equal(t, "0750", o.Meta["mode"])
	_, _, err = s.Get(t.Context(), "pipe", 0, 1)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
	require.NoDirExists(t, filepath.Join(dir, ".wsmesh"))
	require.Equal(t, filepath.Join(dir, "d"), dirbucket.Root(filepath.Join(dir, "d")))

	store, err := dirbucket.OpenStore(dir)
	require.NoError(t, err)
	require.Equal(t, dir, dirbucket.Root(filepath.Join(dir, "d")))
	_, err = store.Put(t.Context(), "d/said", strings.NewReader("x"), 1, objstore.PutOptions{Meta: map[string]string{"mode": "0444"}})
	require.NoError(t, err)
	o, err = s.Stat(t.Context(), "d/said")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"mode": "0444"}, o.Meta, "what a store says counts")
}
