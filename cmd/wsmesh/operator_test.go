package main

import (
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// A node that is frozen goes on being a member of the group, and swallows its share of
// what the operator asks. The others are asked too.
func TestTheOperatorAsksPastAFrozenNode(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	creds, err := m.Keys.Signer().Admin()
	require.NoError(t, err)
	o, err := connectOperator(m.URL(), creds, nil)
	require.NoError(t, err)
	defer o.Close()
	frozen := m.Door(t, "frozen")
	var swallowed atomic.Int64
	sub, err := frozen.QueueSubscribe(mesh.AdminWildcard, mesh.AdminQueue, func(*nats.Msg) { swallowed.Add(1) })
	require.NoError(t, err)
	const most = 3 // in a row: the test is of asking again, not of luck
	require.NoError(t, sub.AutoUnsubscribe(most))
	require.NoError(t, frozen.Flush())
	for swallowed.Load() < most {
		var status mesh.StatusReply
		require.NoError(t, o.ask(t.Context(), mesh.VerbAdminStatus, struct{}{}, &status))
		require.Len(t, status.Nodes, 1)
	}
}
