package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/mesh/natsd"
	"github.com/wsmesh/wsmesh/objstore"
)

// unreliable is a JetStream whose answers to publishes may be other ones than what
// happened: it publishes, or not, and says what it is told to.
type unreliable struct {
	jetstream.JetStream
	faults []fault // of the next publishes, in order
}

type fault struct {
	drop   bool   // nothing is published
	then   func() // happens before the answer
	answer error  // instead of the true one
}

func (u *unreliable) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	var f fault
	if len(u.faults) > 0 {
		f, u.faults = u.faults[0], u.faults[1:]
	}
	if f.drop {
		return nil, f.answer
	}
	ack, err := u.JetStream.PublishMsg(ctx, m, opts...)
	if f.then != nil {
		f.then()
	}
	if f.answer != nil {
		return nil, f.answer
	}
	return ack, err
}

var (
	errWrongLast  = &jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequence}
	errInProcess  = &jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant}
	errUnanswered = context.DeadlineExceeded
)

// TestJournalSettlesAnswers: whatever the answers to publishes are, what append
// says is what the chain has.
func TestJournalSettlesAnswers(t *testing.T) {
	m := meshtest.Cluster(t, 3)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 3}))
	stream := mesh.AtLeader(js.Conn(), mesh.JournalStream(0))

	for _, c := range []struct {
		name   string
		faults []fault
		next   mesh.Epoch // of an owner that opens before the first of them
		code   mesh.Code
		stored bool
	}{
		{name: "acknowledged", stored: true},
		{name: "stored and not answered", faults: []fault{{answer: errUnanswered}}, stored: true},
		{name: "stored and refused", faults: []fault{{answer: errWrongLast}}, stored: true},
		{name: "not stored and not answered", faults: []fault{{drop: true, answer: errUnanswered}}, stored: true},
		{name: "refused by a leader that is behind", faults: []fault{{drop: true, answer: errWrongLast}, {drop: true, answer: errWrongLast}}, stored: true},
		{name: "refused for a publish in process", faults: []fault{{drop: true, answer: errInProcess}, {answer: errInProcess}}, stored: true},
		{name: "stored, not answered, refused", faults: []fault{{answer: errUnanswered}, {drop: true, answer: errWrongLast}}, stored: true},
		{name: "a later owner came first", next: 9, code: mesh.CodeStale},
		{name: "a later owner came first, no answer", faults: []fault{{drop: true, answer: errUnanswered}}, next: 9, code: mesh.CodeStale},
		{name: "stored and purged behind a checkpoint", faults: []fault{{answer: errWrongLast}}, next: 9, code: mesh.CodeLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			subject := mesh.JournalSubject(0, "acme", mesh.Workspace("w"+mesh.NewID()[:8]))
			u := &unreliable{JetStream: js}
			open := []objstore.Op{{Kind: objstore.KindOpen}}
			j, err := openJournal(t.Context(), u, stream, subject, 5, nil, open[0])
			require.NoError(t, err)
			end := j.end
			if c.next != 0 && c.code == mesh.CodeStale {
				_, err := openJournal(t.Context(), js, stream, subject, c.next, &end, open[0])
				require.NoError(t, err)
			}
			u.faults = slices.Clone(c.faults)
			if c.code == mesh.CodeLost {
				u.faults[0].then = func() {
					last, err := lastRecord(t.Context(), stream, subject)
					require.NoError(t, err)
					_, err = openJournal(t.Context(), js, stream, subject, c.next, last, open[0])
					require.NoError(t, err)
					require.NoError(t, stream.Purge(t.Context(), subject, last.Sequence+1))
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- j.run(ctx) }()
			op := []objstore.Op{{Kind: objstore.KindRemove, Path: "f"}}
			seq, err := j.append(ctx, op, nil)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			if c.code != "" {
				require.Error(t, <-ended, "the tenure goes on")
				_, err = j.append(ctx, op, nil)
				require.Equal(t, mesh.CodeStale, mesh.CodeOf(err))
			}
			if c.stored {
				again, err := j.append(ctx, op, nil)
				require.NoError(t, err)
				n := 0
				for r, err := range objstore.Chain(ctx, objstore.AtLeader(stream), subject, end.Place(), again) {
					require.NoError(t, err)
					if n++; n == 1 {
						require.Equal(t, seq, r.Sequence)
					}
				}
				require.Equal(t, 2, n, "a record is there twice, or not at all")
				cancel()
				require.NoError(t, <-ended)
			}
		})
	}
}

// TestLateOpener: who opens with an epoch that was overtaken does not fence out its
// successor, and publishes nothing.
func TestLateOpener(t *testing.T) {
	for name, m := range map[string]*meshtest.Mesh{"one server": meshtest.Server(t), "cluster": meshtest.Cluster(t, 3)} {
		t.Run(name, func(t *testing.T) {
			js, err := jetstream.New(m.Streams(t))
			require.NoError(t, err)
			require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: m.Replicas()}))
			stream := mesh.AtLeader(js.Conn(), mesh.JournalStream(0))
			subject := mesh.JournalSubject(0, "acme", "repo")
			open := objstore.Op{Kind: objstore.KindOpen}
			j, err := openJournal(t.Context(), js, stream, subject, 7, nil, open)
			require.NoError(t, err)
			for _, prev := range []*objstore.StoredRecord{&j.end, nil} { // nil: it has read before the successor came
				_, err = openJournal(t.Context(), js, stream, subject, 6, prev, open)
				require.Equal(t, mesh.CodeStale, mesh.CodeOf(err))
			}
			last, err := lastRecord(t.Context(), stream, subject)
			require.NoError(t, err)
			require.Equal(t, j.end.Sequence, last.Sequence)
		})
	}
}

// TestJournalSurvivesItsLeader: while the stream's leader is killed, every append
// that was acknowledged is in the chain, once, and the tenure goes on.
func TestJournalSurvivesItsLeader(t *testing.T) {
	m := meshtest.Cluster(t, 3)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 3}))
	stream, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	leader := mesh.AtLeader(js.Conn(), mesh.JournalStream(0))
	subject := mesh.JournalSubject(0, "acme", "repo")
	j, err := openJournal(t.Context(), js, leader, subject, 5, nil, objstore.Op{Kind: objstore.KindOpen})
	require.NoError(t, err)
	begin := j.end.Place()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- j.run(ctx) }()

	const writers, each = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if w == 0 && i == each/2 {
					info, err := stream.Info(ctx)
					if !assert.NoError(t, err) {
						return
					}
					m.Stop(slices.IndexFunc(m.Servers, func(s *natsd.Server) bool { return s.Name() == info.Cluster.Leader }))
				}
				_, err := j.append(ctx, []objstore.Op{{Kind: objstore.KindRemove, Path: mesh.Path(fmt.Sprintf("%d/%d", w, i))}}, nil)
				if !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	wg.Wait()
	seen := map[mesh.Path]int{}
	for r, err := range objstore.Chain(t.Context(), objstore.AtLeader(leader), subject, begin, j.last.Load()) {
		require.NoError(t, err)
		for _, op := range r.Ops {
			seen[op.Path]++
		}
	}
	require.Len(t, seen, writers*each)
	for p, n := range seen {
		require.Equal(t, 1, n, "%s is in the chain more than once", p)
	}
	cancel()
	require.NoError(t, <-ended)
}
