package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// An owner who is asked and is silent may be alive: nobody takes a workspace from it for
// that. One whose subscription is gone is dead.
func TestSilentOwnerKeepsItsWorkspace(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("1"), 0))
	before, err := ws.Info(ctx)
	require.NoError(t, err)

	silent := m.Store(t, "silent")
	pings := make(chan *nats.Msg, 100)
	sub, err := silent.ChanSubscribe(mesh.NodeSubject("silent", "*"), pings)
	require.NoError(t, err)
	require.NoError(t, silent.Flush())
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	records, err := kv.Open(ctx, js)
	require.NoError(t, err)
	epoch, err := records.Owners.Take(ctx, nodetest.Tenant, "repo", "silent", "i", before.Epoch)
	require.NoError(t, err)

	raw := m.DialToken(t, m.Token(t, nodetest.Tenant))
	require.Eventually(t, func() bool { // the node before has heard of it
		req, err := mesh.NewRequest(mesh.OwnerSubject(nodetest.Tenant, "repo", before.Epoch, mesh.VerbInfo), "", "", struct{}{}, nil)
		require.NoError(t, err)
		_, err = raw.RequestMsg(req, time.Second)
		return err == nats.ErrNoResponders
	}, 10*time.Second, 10*time.Millisecond)

	soon, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err = ws.ReadFile(soon, "f")
	require.Error(t, err)
	require.NotEmpty(t, pings)
	_, now, err := records.Owners.Get(ctx, nodetest.Tenant, "repo")
	require.NoError(t, err)
	require.Equal(t, epoch, now, "it was taken from an owner who may be alive")

	require.NoError(t, sub.Unsubscribe())
	b, err := ws.ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "1", string(b))
}
