package onebox_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/onebox"
)

func TestBoxHostDir(t *testing.T) {
	base := t.TempDir()
	data, dir := filepath.Join(base, "data"), filepath.Join(base, "project")
	require.NoError(t, os.Mkdir(dir, 0o755))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir, 41002, 41002))
	}
	box, err := onebox.Start(t.Context(), onebox.Config{Data: data})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, box.Close()) })
	require.NoError(t, box.HostDir(t.Context(), "project", dir))
	require.Equal(t, mesh.CodeExists, mesh.CodeOf(box.HostDir(t.Context(), "project", dir)))
	require.Equal(t, mesh.CodeDenied, mesh.CodeOf(box.HostDir(t.Context(), "all", base)), "the data directory is in it")
	c, err := client.Dial(t.Context(), box.Client())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.Workspace("project").WriteFile(t.Context(), "f", []byte("1"), 0))
	require.FileExists(t, filepath.Join(dir, "f"))
}
