package node

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore"
)

// TestCollectOfAMovingJournal: every record of a journal names one pack, and each takes
// all before it away as soon as it is there. Whoever marks what is needed meanwhile has
// that pack, or gives up.
func TestCollectOfAMovingJournal(t *testing.T) {
	m := meshtest.Server(t)
	conn := m.Streams(t)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	leader := mesh.AtLeader(conn, mesh.JournalStream(0))
	record := kv.WorkspaceRecord{ID: mesh.NewID(), Tenant: "acme", Name: "repo", Served: true}
	subject, pack := mesh.JournalSubject(0, record.Tenant, record.Name), objstore.IDOf([]byte("needed"))

	at := objstore.Place{}
	step := func() error {
		r := objstore.Record{
			Epoch: 1, Number: at.Number + 1, Prev: at.Sequence, Root: at.Hash, ID: mesh.NewID(),
			Ops: []objstore.Op{{Kind: objstore.KindCheckpoint, Packs: []objstore.ID{pack}}},
		}
		msg, hash, err := r.Message(subject)
		if err != nil {
			return err
		}
		seq, err := mesh.Publish(t.Context(), js, msg, at.Sequence)
		if err != nil {
			return err
		}
		at = objstore.Place{Sequence: seq, Number: r.Number, Hash: hash}
		return leader.Purge(t.Context(), subject, seq)
	}
	require.NoError(t, step())
	ended := make(chan struct{})
	var moving sync.WaitGroup
	var failed error
	moving.Go(func() {
		for failed == nil {
			select {
			case <-ended:
				return
			default:
				failed = step()
			}
			time.Sleep(rand.N(5 * time.Millisecond)) // now and then it stands still
		}
	})
	marked := 0
	for range 200 {
		c := &collection{
			n: &Node{cfg: Config{Store: conn}, shards: []shard{{journal: leader}}}, tenant: record.Tenant,
			until: time.Now().Add(200 * time.Millisecond), used: map[objstore.ID]bool{},
		}
		err := (&marks{collection: c}).workspace(t.Context(), record)
		if mesh.CodeOf(err) == mesh.CodeUnavailable {
			continue
		}
		require.NoError(t, err)
		require.True(t, c.used[pack], "what is needed is taken for garbage")
		marked++
	}
	close(ended)
	moving.Wait()
	require.NoError(t, failed)
	require.NotZero(t, marked, "nothing was read: this shows nothing")
}
