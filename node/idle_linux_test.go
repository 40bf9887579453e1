package node_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// A workspace that is not used is closed, with all that was acknowledged in a commit, and
// opens again where it was, caches and all. One in which a command runs stays open.
func TestWhatIsNotUsedIsClosed(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{Idle: 400 * time.Millisecond})
	ctx, ws, busy := t.Context(), m.Client.Workspace("repo"), m.Client.Workspace("busy")
	cmd := busy.Command(ctx, "sh", "-c", "read x")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("kept"), 0o600))
	require.NoError(t, ws.Command(ctx, "sh", "-c", "mkdir -p .cache && echo warm >.cache/c").Run())
	info, err := ws.Info(ctx)
	require.NoError(t, err)
	running, err := busy.Info(ctx)
	require.NoError(t, err)

	open := func() int {
		var status mesh.StatusReply
		require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
		return status.Nodes[0].Workspaces
	}
	require.Eventually(t, func() bool { return open() == 1 }, 30*time.Second, 100*time.Millisecond)
	b, err := ws.ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
	b, err = ws.ReadFile(ctx, ".cache/c")
	require.NoError(t, err)
	require.Equal(t, "warm\n", string(b))
	again, err := ws.Info(ctx)
	require.NoError(t, err)
	require.Greater(t, again.Epoch, info.Epoch)
	require.NotEmpty(t, again.Commit)

	still, err := busy.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, running.Epoch, still.Epoch)
	require.NoError(t, in.Close())
	require.Error(t, cmd.Wait()) // read has met the end
	require.Eventually(t, func() bool { return open() == 0 }, 30*time.Second, 100*time.Millisecond)
}
