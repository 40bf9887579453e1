package node_test

import (
	"context"
	"fmt"
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

// silentOwner makes a node that subscribes to its pings, answers none, and owns the
// workspace "repo", in which the file "f" holds 1.
func silentOwner(t *testing.T, m *nodetest.Mesh) (records *kv.Store, epoch mesh.Epoch, sub *nats.Subscription) {
	t.Helper()
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("1"), 0))
	before, err := ws.Info(ctx)
	require.NoError(t, err)
	silent := m.Store(t, "silent")
	sub, err = silent.SubscribeSync(mesh.NodeSubject("silent", "*"))
	require.NoError(t, err)
	require.NoError(t, silent.Flush())
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	records, err = kv.Open(ctx, js)
	require.NoError(t, err)
	_, err = records.Nodes.Put(ctx, kv.NodeRecord{Node: "silent", Incarnation: "i"}, 0)
	require.NoError(t, err)
	epoch, err = records.Owners.Take(ctx, nodetest.Tenant, "repo", "silent", "i", before.Epoch)
	require.NoError(t, err)
	raw := m.DialToken(t, m.Token(t, nodetest.Tenant))
	require.Eventually(t, func() bool { // the node before has heard of it
		req, err := mesh.NewRequest(mesh.OwnerSubject(nodetest.Tenant, "repo", before.Epoch, mesh.VerbInfo), "", "", struct{}{}, nil)
		require.NoError(t, err)
		_, err = raw.RequestMsg(req, time.Second)
		return err == nats.ErrNoResponders
	}, 10*time.Second, 10*time.Millisecond)
	return records, epoch, sub
}

// unwritable lets nobody write to a bucket until writable is called.
func unwritable(t *testing.T, m *nodetest.Mesh, bucket string) (writable func()) {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "KV_"+bucket)
	require.NoError(t, err)
	broken := stream.CachedInfo().Config
	broken.MaxMsgSize = 10 // no record is as small
	_, err = js.UpdateStream(t.Context(), broken)
	require.NoError(t, err)
	return func() {
		_, err := js.UpdateStream(t.Context(), stream.CachedInfo().Config)
		require.NoError(t, err)
	}
}

// refuses says that the workspace is asked for, and stays whose it is.
func refuses(t *testing.T, m *nodetest.Mesh, records *kv.Store, epoch mesh.Epoch, wait time.Duration) {
	t.Helper()
	soon, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	_, err := m.Client.Workspace("repo").ReadFile(soon, "f")
	require.Error(t, err)
	_, now, err := records.Owners.Get(t.Context(), nodetest.Tenant, "repo")
	require.NoError(t, err)
	require.Equal(t, epoch, now, "it was taken from an owner who may be alive")
}

// An owner who is asked and is silent may be alive: nobody takes a workspace from it for
// that. One whose subscription is gone is dead.
func TestSilentOwnerKeepsItsWorkspace(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	records, epoch, sub := silentOwner(t, m)
	refuses(t, m, records, epoch, 3*time.Second)
	asked, _, err := sub.Pending()
	require.NoError(t, err)
	require.NotZero(t, asked)

	require.NoError(t, sub.Unsubscribe())
	b, err := m.Client.Workspace("repo").ReadFile(t.Context(), "f")
	require.NoError(t, err)
	require.Equal(t, "1", string(b))
}

// Who asks where a workspace is that is open does not take it from its owner, whichever
// node is asked.
func TestALivingOwnerKeepsItsWorkspace(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	m.AddNode(t, "n2")
	for i := range 4 {
		name := fmt.Sprintf("w-%d", i)
		require.NoError(t, m.Client.Workspace(name).WriteFile(t.Context(), "f", []byte("1"), 0))
		has, err := m.Client.Workspace(name).Info(t.Context())
		require.NoError(t, err)
		for range 3 {
			info, err := m.Connect(t, m.Token(t, nodetest.Tenant)).Workspace(name).Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, has.Node, info.Node)
			require.Equal(t, has.Epoch, info.Epoch)
		}
	}
}

// A silent owner who does not renew its record, while the others renew theirs, is dead.
// That nobody can renew one says nothing of it.
func TestSilentOwnerIsDeadByTheRegistry(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{Silence: 3 * kv.RenewEvery})
	records, epoch, _ := silentOwner(t, m)
	require.Eventually(t, func() bool { // once the other renews its own record, and then nobody can
		own, err := records.Nodes.Get(t.Context(), nodetest.NodeName)
		require.NoError(t, err)
		other, err := records.Nodes.Get(t.Context(), "silent")
		require.NoError(t, err)
		return own.Revision > other.Revision
	}, 10*time.Second, 5*time.Millisecond)
	writable := unwritable(t, m, mesh.BucketNodes)
	refuses(t, m, records, epoch, 4*kv.RenewEvery)
	writable()

	b, err := m.Client.Workspace("repo").ReadFile(t.Context(), "f")
	require.NoError(t, err)
	require.Equal(t, "1", string(b))
	_, now, err := records.Owners.Get(t.Context(), nodetest.Tenant, "repo")
	require.NoError(t, err)
	require.Greater(t, now, epoch)
}

// The tenure of an owner who has said that it is open may be over a moment later, and
// then it refuses to give the workspace away. That is no end of a move: it is asked for
// again, and finds the next owner.
func TestAMoveOutlivesATenure(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	_, _, sub := silentOwner(t, m)
	require.NoError(t, sub.Unsubscribe())
	ending := m.Store(t, "silent")
	refused := make(chan struct{})
	responder := mesh.NewResponder(ending, "silent", nil)
	sub, err := responder.Subscribe(t.Context(), mesh.NodeSubject("silent", "*"), "", func(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
		if req.Verb == mesh.VerbNodePing {
			return &mesh.Reply{Args: mesh.NodePingReply{State: mesh.PingOpen}}, nil
		}
		close(refused) // once: the test ends its subscription
		return nil, mesh.Errorf(mesh.CodeStale, "node silent does not host workspace repo")
	})
	require.NoError(t, err)
	move := mesh.WorkspaceMoveRequest{Tenant: nodetest.Tenant, Workspace: "repo", Node: nodetest.NodeName}
	var reply mesh.WorkspaceMoveReply
	require.NoError(t, m.Ask(t, mesh.VerbAdminMove, move, &reply))
	require.False(t, reply.Done)
	<-refused
	require.NoError(t, sub.Unsubscribe())
	require.NoError(t, m.Move(t, "repo", nodetest.NodeName))
	info, err := m.Client.Workspace("repo").Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, nodetest.NodeName, info.Node)
}
