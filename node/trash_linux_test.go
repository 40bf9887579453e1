package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// TestTrashIsEmptied: what an earlier process has moved aside goes when the node starts,
// and what is moved aside meanwhile; nothing that a link in it leads to does.
func TestTrashIsEmptied(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		trash := filepath.Join(m.Dir, "workspaces/.trash")
		emptied := func() {
			t.Helper()
			require.Eventually(t, func() bool {
				left, err := os.ReadDir(trash)
				return err == nil && len(left) == 0
			}, 30*time.Second, 10*time.Millisecond, "something stays in the trash")
		}
		outside := filepath.Join(t.TempDir(), "kept")
		require.NoError(t, os.WriteFile(outside, nil, 0o600))
		m.StopNode(t)
		tree := filepath.Join(trash, mesh.NewID())
		deep := filepath.Join(tree, strings.Repeat("d/", 200))
		require.NoError(t, os.MkdirAll(deep, 0o700))
		require.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(tree, "link")))
		for i := range 1000 {
			require.NoError(t, os.WriteFile(filepath.Join(tree, "d", fmt.Sprint("f", i)), nil, 0o400))
		}
		m.StartNode(t)
		emptied()
		require.FileExists(t, outside)

		require.NoError(t, ws.WriteFile(ctx, "d/f", []byte("x"), 0))
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
		emptied()
	})
}
