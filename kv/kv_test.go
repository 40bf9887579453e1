package kv_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, m *meshtest.Mesh, node mesh.Node) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(m.Store(t, node))
	require.NoError(t, err)
	return js
}

func open(t *testing.T, js jetstream.JetStream) *kv.Store {
	t.Helper()
	s, err := kv.Open(t.Context(), js)
	require.NoError(t, err)
	return s
}

// start makes a mesh with its streams, and a store on its first connection.
func start(t *testing.T, servers int) (*meshtest.Mesh, jetstream.JetStream, *kv.Store) {
	t.Helper()
	var m *meshtest.Mesh
	if servers == 1 {
		m = meshtest.Server(t)
	} else {
		m = meshtest.Cluster(t, servers)
	}
	js := connect(t, m, "n0")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, mesh.EnsureStreams(ctx, js, mesh.Storage{Shards: 1, Replicas: m.Replicas()}))
	return m, js, open(t, js)
}

// TestRaces runs on one server and on a cluster of three, where a replica could
// give an old answer.
func TestRaces(t *testing.T) {
	for name, servers := range map[string]int{"single": 1, "cluster": 3} {
		t.Run(name, func(t *testing.T) {
			m, _, _ := start(t, servers)
			t.Run("take", func(t *testing.T) { testTakeRace(t, m) })
			t.Run("create", func(t *testing.T) { testCreateRace(t, m) })
		})
	}
}

// lossy loses the answers of the next publishes: they are stored, and the
// writer does not learn it.
type lossy struct {
	jetstream.JetStream
	lose atomic.Int64
}

func (l *lossy) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := l.JetStream.PublishMsg(ctx, m, opts...)
	if l.lose.Add(-1) >= 0 {
		return nil, nats.ErrTimeout
	}
	return ack, err
}

// testTakeRace lets eight nodes take one workspace from the same epoch, again
// and again: one of them wins each time, and the epochs grow.
func testTakeRace(t *testing.T, m *meshtest.Mesh) {
	const takers, rounds = 8, 6
	var stores []*kv.Store
	for i := range takers {
		stores = append(stores, open(t, connect(t, m, mesh.Node(fmt.Sprintf("n%d", i)))))
	}
	var last mesh.Epoch
	for round := range rounds {
		epochs, errs := make([]mesh.Epoch, takers), make([]error, takers)
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() {
				epochs[i], errs[i] = s.Owners.Take(t.Context(), "acme", "repo", mesh.Node(fmt.Sprintf("n%d", i)), "inc", last)
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			if err == nil {
				require.Equal(t, -1, winner, "round %d: two winners", round)
				winner = i
				continue
			}
			require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), "%v", err)
		}
		require.NotEqual(t, -1, winner, "round %d: no winner: %v", round, errs)
		require.Greater(t, epochs[winner], last)
		last = epochs[winner]
		for _, s := range stores {
			owner, epoch, err := s.Owners.Get(t.Context(), "acme", "repo")
			require.NoError(t, err)
			require.Equal(t, last, epoch, "every node reads what was acknowledged")
			require.Equal(t, mesh.Node(fmt.Sprintf("n%d", winner)), owner.Node)
		}
	}
}

func TestOwners(t *testing.T) {
	_, _, s := start(t, 1)
	ctx := t.Context()
	_, epoch, err := s.Owners.Get(ctx, "acme", "repo")
	require.NoError(t, err)
	require.Zero(t, epoch, "never owned")

	first, err := s.Owners.Take(ctx, "acme", "repo", "n1", "inc-1", 0)
	require.NoError(t, err)
	owner, epoch, err := s.Owners.Get(ctx, "acme", "repo")
	require.NoError(t, err)
	require.Equal(t, first, epoch)
	require.Equal(t, mesh.Node("n1"), owner.Node)
	require.Equal(t, "inc-1", owner.Incarnation)
	require.False(t, owner.Released)

	for name, prev := range map[string]mesh.Epoch{"as if never owned": 0, "an epoch ahead": first + 1} {
		_, err = s.Owners.Take(ctx, "acme", "repo", "n2", "inc-2", prev)
		require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), name)
	}
	require.Equal(t, mesh.CodeConflict, mesh.CodeOf(s.Owners.Release(ctx, "acme", "repo", owner, first+1)))

	require.NoError(t, s.Owners.Release(ctx, "acme", "repo", owner, first))
	released, after, err := s.Owners.Get(ctx, "acme", "repo")
	require.NoError(t, err)
	require.True(t, released.Released)
	require.Equal(t, mesh.Node("n1"), released.Node, "the files are still there")
	require.Greater(t, after, first)
	require.NotEqual(t, owner.Take, released.Take)
	_, err = s.Owners.Take(ctx, "acme", "repo", "n2", "inc-2", first)
	require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), "a taker from before the release is late")
	second, err := s.Owners.Take(ctx, "acme", "repo", "n2", "inc-2", after)
	require.NoError(t, err)
	require.Equal(t, mesh.CodeConflict, mesh.CodeOf(s.Owners.Release(ctx, "acme", "repo", owner, first)), "a stale owner releases nothing")
	owner, epoch, err = s.Owners.Get(ctx, "acme", "repo")
	require.NoError(t, err)
	require.Equal(t, second, epoch)
	require.False(t, owner.Released)
}

// TestLostAnswers: a write whose answer was lost is repeated, refused because
// the first is stored, and recognized by reading.
func TestLostAnswers(t *testing.T) {
	_, js, _ := start(t, 1)
	l := &lossy{JetStream: js}
	s := open(t, l)
	ctx := t.Context()
	for lost := int64(1); lost <= 3; lost++ {
		t.Run(fmt.Sprintf("%d lost", lost), func(t *testing.T) {
			w := mesh.Workspace(fmt.Sprintf("w%d", lost))
			l.lose.Store(lost)
			epoch, err := s.Owners.Take(ctx, "acme", w, "n1", "inc", 0)
			require.NoError(t, err)
			owner, now, err := s.Owners.Get(ctx, "acme", w)
			require.NoError(t, err)
			require.Equal(t, now, epoch)

			l.lose.Store(lost)
			require.NoError(t, s.Owners.Release(ctx, "acme", w, owner, epoch))

			l.lose.Store(lost)
			record, err := s.Workspaces.Create(ctx, kv.WorkspaceRecord{Tenant: "acme", Name: w, Shard: 3})
			require.NoError(t, err)
			again, err := s.Workspaces.Get(ctx, "acme", w)
			require.NoError(t, err)
			require.Equal(t, again, record)

			l.lose.Store(lost)
			require.NoError(t, s.Workspaces.MarkRemoved(ctx, "acme", w, record.ID))
			_, err = s.Workspaces.Get(ctx, "acme", w)
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))

			l.lose.Store(lost)
			node := kv.NodeRecord{Node: mesh.Node(w), Incarnation: "inc", Renewed: time.Now()}
			rev, err := s.Nodes.Put(ctx, node, 0)
			require.NoError(t, err)
			entry, err := s.Nodes.Get(ctx, node.Node)
			require.NoError(t, err)
			require.Equal(t, entry.Revision, rev)

			l.lose.Store(lost)
			tenant, err := s.Tenants.Create(ctx, mesh.Tenant(w))
			require.NoError(t, err)
			same, err := s.Tenants.Get(ctx, mesh.Tenant(w))
			require.NoError(t, err)
			require.Equal(t, same, tenant)

			l.lose.Store(lost)
			require.NoError(t, s.Tenants.PutToken(ctx, kv.TokenRecord{Tenant: mesh.Tenant(w), ID: mesh.NewTokenID()}))
		})
	}
}

// TestUnknownTake: who cannot find out whether it took is told so, and the take
// may be there.
func TestUnknownTake(t *testing.T) {
	_, js, plain := start(t, 1)
	l := &lossy{JetStream: js}
	l.lose.Store(1 << 40)
	s := open(t, l)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Owners.Take(ctx, "acme", "repo", "n1", "inc", 0)
	require.Equal(t, mesh.CodeLost, mesh.CodeOf(err), "%v", err)
	owner, _, err := plain.Owners.Get(t.Context(), "acme", "repo")
	require.NoError(t, err)
	require.Equal(t, mesh.Node("n1"), owner.Node)
}

func TestWatchOwners(t *testing.T) {
	m, _, s := start(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before, err := s.Owners.Take(ctx, "acme", "before", "n1", "inc", 0)
	require.NoError(t, err)

	events, ended := make(chan kv.OwnerEvent, 16), make(chan error, 1)
	watcher := open(t, connect(t, m, "n2"))
	go func() { ended <- watcher.Owners.Watch(ctx, func(e kv.OwnerEvent) { events <- e }) }()
	next := func() kv.OwnerEvent {
		select {
		case e := <-events:
			return e
		case <-time.After(10 * time.Second):
			require.Fail(t, "no event")
			return kv.OwnerEvent{}
		}
	}
	e := next()
	require.Equal(t, kv.OwnerEvent{Tenant: "acme", Workspace: "before", Owner: e.Owner, Epoch: before}, e, "what is there comes first")
	require.Equal(t, mesh.Node("n1"), e.Owner.Node)

	epoch, err := s.Owners.Take(ctx, "a-b", "repo", "n3", "inc", 0)
	require.NoError(t, err)
	e = next()
	require.Equal(t, kv.OwnerEvent{Tenant: "a-b", Workspace: "repo", Owner: e.Owner, Epoch: epoch}, e)
	require.NoError(t, s.Owners.Release(ctx, "a-b", "repo", e.Owner, epoch))
	e = next()
	require.True(t, e.Owner.Released)
	require.Greater(t, e.Epoch, epoch)

	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestNodes(t *testing.T) {
	_, _, s := start(t, 1)
	ctx := t.Context()
	e, err := s.Nodes.Get(ctx, "n1")
	require.NoError(t, err)
	require.Zero(t, e.Revision)
	mine := kv.NodeRecord{Node: "n1", Incarnation: "one", Renewed: time.Now()}
	rev, err := s.Nodes.Put(ctx, mine, 0)
	require.NoError(t, err)
	mine.Renewed = mine.Renewed.Add(kv.RenewEvery)
	renewed, err := s.Nodes.Put(ctx, mine, rev)
	require.NoError(t, err)
	require.Greater(t, renewed, rev, "a renewal shows in the revision")

	other := kv.NodeRecord{Node: "n1", Incarnation: "two", Renewed: time.Now()}
	for name, prev := range map[string]uint64{"new": 0, "from an old revision": rev} {
		_, err = s.Nodes.Put(ctx, other, prev)
		require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), name)
	}
	_, err = s.Nodes.Put(ctx, kv.NodeRecord{Node: "m0", Incarnation: "x"}, 0)
	require.NoError(t, err)
	all, err := s.Nodes.List(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, mesh.Node("m0"), all[0].Node, "sorted")
	require.Equal(t, "one", all[1].Incarnation)
	require.Equal(t, renewed, all[1].Revision)
}

// TestUnreachable: a read that fails says that nothing was done.
func TestUnreachable(t *testing.T) {
	m, _, s := start(t, 1)
	m.Stop(0)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, _, err := s.Owners.Get(ctx, "acme", "repo")
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "%v", err)
	_, err = s.Workspaces.Get(ctx, "acme", "repo")
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "%v", err)
	_, err = s.Tenants.Create(ctx, "acme")
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "%v", err)

	canceled, stop := context.WithCancel(t.Context())
	stop()
	_, _, err = s.Owners.Get(canceled, "acme", "repo")
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(err))
}

// A list has every record that is there all the time, also those that are written
// meanwhile: nodes write theirs each second, and who is not in the list gets no workspace.
func TestAListHasWhatIsBeingWritten(t *testing.T) {
	_, _, s := start(t, 1)
	const keys = 20
	put := func(i int, rev uint64) uint64 {
		rev, err := s.Nodes.Put(t.Context(), kv.NodeRecord{Node: mesh.Node(fmt.Sprintf("n%d", i)), Incarnation: "i", Workspaces: int(rev)}, rev)
		require.NoError(t, err)
		return rev
	}
	var revs [keys]uint64
	for i := range revs {
		revs[i] = put(i, 0)
	}
	ctx, end := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i = (i + 1) % keys {
			revs[i] = put(i, revs[i])
		}
	})
	defer func() { end(); writer.Wait() }()
	for range 300 {
		all, err := s.Nodes.List(t.Context())
		require.NoError(t, err)
		require.Len(t, all, keys)
	}
}
