package node_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// Nothing follows the last record of a workspace that is removed, whatever goes on in it:
// captures that nobody waits for, checkpoints that so many changes ask for. Its name can
// be used again, also by a node that reads the journal anew.
func TestNothingFollowsARemoval(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	for round := range 6 {
		cmd := ws.Command(ctx, "sh", "-c", "for i in $(seq 1200); do echo $i >f$i; done")
		cmd.Durability = "async"
		require.NoError(t, cmd.Run())
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
		if round%2 == 0 {
			m.StopNode(t)
			m.StartNode(t)
		}
		require.NoError(t, ws.WriteFile(ctx, "new", fmt.Append(nil, round), 0))
		b, err := ws.ReadFile(ctx, "new")
		require.NoError(t, err, "round %d", round)
		require.Equal(t, fmt.Sprint(round), string(b))
		page, err := ws.ReadDirPage(ctx, mesh.ListRequest{Path: "."})
		require.NoError(t, err)
		require.Len(t, page.Entries, 1, "round %d", round)
	}
}
