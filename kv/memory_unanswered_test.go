package kv

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// deafStream is a JetStream whose acknowledgements get lost while deaf.
type deafStream struct {
	jetstream.JetStream
	deaf atomic.Int32
}

func (d *deafStream) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := d.JetStream.PublishMsg(ctx, m, opts...)
	if d.deaf.Add(-1) >= 0 {
		return nil, nats.ErrTimeout
	}
	return ack, err
}

// behindStream is a stream whose first reading is of a leader that is behind:
// meanwhile others go on.
type behindStream struct {
	jetstream.Stream
	meanwhile func()
}

func (b *behindStream) GetMsg(ctx context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	if f := b.meanwhile; f != nil {
		b.meanwhile = nil
		f()
		return nil, jetstream.ErrMsgNotFound
	}
	return b.Stream.GetMsg(ctx, seq, opts...)
}

// A change is stored, its acknowledgement gets lost, the repeat is refused, and
// what is read then is old: that nothing seems to have come after does not show
// that it was not done. Others have changed the key again, and whoever says
// "nothing was done" makes its client do it twice.
func TestUnansweredChangeStaysOpen(t *testing.T) {
	servers := meshtest.Server(t)
	conn := servers.Store(t, "n1")
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	open := func(js jetstream.JetStream) *Memory {
		m := NewMemory(conn, js, mesh.Storage{Shards: 1, Replicas: 1})
		t.Cleanup(m.Close)
		return m
	}
	others, deaf := open(js), &deafStream{JetStream: js}
	m := open(deaf)
	put := func(m *Memory, id string, after uint64, remove bool) (mesh.MemoryCommitReply, error) {
		c := &MemoryChange{Tenant: "acme", ID: id, Values: [][]byte{[]byte(id)}}
		c.Namespace, c.After = "main", after
		c.Ops = []mesh.MemoryOp{{Key: "k", Size: len(id), Delete: remove}}
		return m.Commit(t.Context(), c)
	}
	first, err := put(others, "first", 0, false)
	require.NoError(t, err)
	s, err := m.shard(t.Context(), "acme")
	require.NoError(t, err)
	require.NoError(t, s.index.catchUp(t.Context(), mesh.MemoryWildcard))
	s.index.stop() // what it knows from here on is what it reads
	behind := &behindStream{Stream: s.stream}
	s.stream, s.index.stream = behind, behind

	deaf.deaf.Store(1)
	behind.meanwhile = func() {
		for _, remove := range []bool{true, false} {
			_, err := put(others, mesh.NewID(), first.Revision+1, remove)
			require.NoError(t, err)
		}
	}
	reply, err := put(m, "second", first.Revision, false)
	require.Equal(t, mesh.CodeLost, mesh.CodeOf(err), "%+v %v", reply, err)
}
