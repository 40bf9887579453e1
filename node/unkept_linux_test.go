package node_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// TestWhatCannotBeKept: a command hears that a file which it has changed is not stored, and
// nobody else suffers from it: neither who works in another scope, nor who comes later.
func TestWhatCannotBeKept(t *testing.T) {
	t.Parallel() // it waits more than it works
	eachCapture(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("repo")
		run := func(ws *client.Workspace, line string) error {
			_, err := ws.Command(t.Context(), "sh", "-c", line).Output()
			return err
		}
		require.NoError(t, run(ws, "mkdir -p users/u1 users/u2"))
		u1 := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", "users/u1")).Workspace("repo")
		u2 := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", "users/u2")).Workspace("repo")
		f, err := os.Create(filepath.Join(hostTree(m), "users/u1/torn"))
		require.NoError(t, err)
		for i := range 20_000 { // as a command could, in more time
			_, err := f.WriteAt([]byte("x"), int64(i)*8192)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())

		beside := u2.Command(t.Context(), "sh", "-c", "touch begun; until [ -e go ]; do sleep 0.05; done; echo 4 > h")
		require.NoError(t, beside.Start())
		require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(hostTree(m), "users/u2/begun")); return err == nil }, 30*time.Second, 10*time.Millisecond)
		err = run(u1, "mv torn torn2; echo 1 > f")
		requireCode(t, mesh.CodeTooLarge, err)
		require.ErrorContains(t, err, `"torn2": its 19999 holes`)
		require.NoError(t, run(u1, "echo 2 > g"), "it has not changed it")
		require.NoError(t, run(u2, "echo 3 > f; touch go"))
		require.NoError(t, beside.Wait(), "it cannot have changed it")
		requireCode(t, mesh.CodeTooLarge, run(ws, "mv users/u1/torn2 users/u1/torn"))
		_, err = ws.CreateSnapshot(t.Context(), "s", "")
		require.NoError(t, err)
		requireCode(t, mesh.CodeTooLarge, run(u1, "mv torn torn2"))
		require.NoError(t, run(u1, "rm torn2"))
		restoredElsewhere(t, m)
		require.NoError(t, run(ws, "test $(cat users/*/[fgh] | tr -d '\\n') = 1234"))
	})
}
