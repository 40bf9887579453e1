package node_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// A workspace's directory says that what is made in it, one tree after the other, goes into
// different corners of the disk; on file systems that have such a hint.
func TestTreesAreMadeApart(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("w")
	dir := filepath.Join(m.Dir, "workspaces", string(nodetest.Tenant), "w")
	apart := func() {
		t.Helper()
		var fs unix.Statfs_t
		require.NoError(t, unix.Statfs(dir, &fs))
		if fs.Type != unix.EXT4_SUPER_MAGIC {
			return
		}
		f, err := os.Open(dir)
		require.NoError(t, err)
		defer f.Close()
		flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		require.NoError(t, err)
		require.NotZero(t, flags&0x00020000)
	}
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("kept"), 0))
	apart()
	m.StopNode(t)
	require.NoError(t, os.RemoveAll(dir))
	m.StartNode(t)
	b, err := ws.ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
	apart()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	require.Equal(t, []string{"id", "stage", "workspace"}, names)
}
