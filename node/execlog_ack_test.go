package node

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// PublishMsgAsync does as PublishMsg with the next fault: what is not stored, or whose
// answer is lost, has no acknowledgement.
func (u *unreliable) PublishMsgAsync(m *nats.Msg, opts ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	var f fault
	if len(u.faults) > 0 {
		f, u.faults = u.faults[0], u.faults[1:]
	}
	if f.drop {
		return unanswered(m, f.answer), nil
	}
	future, err := u.JetStream.PublishMsgAsync(m, opts...)
	if err == nil && f.answer != nil {
		<-future.Ok()
		return unanswered(m, f.answer), nil
	}
	return future, err
}

type lostAck struct {
	m   *nats.Msg
	err chan error
}

func unanswered(m *nats.Msg, err error) *lostAck {
	l := &lostAck{m, make(chan error, 1)}
	l.err <- err
	return l
}

func (l *lostAck) Ok() <-chan *jetstream.PubAck { return nil }
func (l *lostAck) Err() <-chan error            { return l.err }
func (l *lostAck) Msg() *nats.Msg               { return l.m }

type endless struct{}

func (endless) take(int) bool { return true }
func (endless) give(int)      {}
func (endless) enter() bool   { return true }
func (endless) leave()        {}

// A frame that is not acknowledged is published again: the log holds all of the
// output, once more where only the answer was lost, and readers drop that.
func TestFramesWithoutAnswer(t *testing.T) {
	m := meshtest.Server(t)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	stream, err := js.Stream(t.Context(), mesh.ExecLogStream(0))
	require.NoError(t, err)
	lost := errors.New("no answer")
	for name, faults := range map[string][]fault{
		"all acknowledged":     nil,
		"one is not stored":    {{}, {drop: true, answer: lost}},
		"the last one":         {{}, {}, {}, {drop: true, answer: lost}},
		"none is stored":       {{drop: true, answer: lost}, {drop: true, answer: lost}, {drop: true, answer: lost}, {drop: true, answer: lost}},
		"stored, not answered": {{answer: lost}, {}, {answer: lost}},
	} {
		t.Run(name, func(t *testing.T) {
			subject := mesh.ExecLogSubject(0, "acme", "repo", mesh.NewExecID())
			claim := mesh.Frame{Kind: mesh.FrameClaim, Claim: &mesh.Claim{}}
			first := nats.NewMsg(subject)
			first.Data, err = claim.Encode()
			require.NoError(t, err)
			l := newExecLog(&Node{js: &unreliable{js, faults}, cfg: Config{MaxLog: DefaultMaxLog}}, stream, subject, "nonce", endless{})
			seq, err := mesh.Publish(t.Context(), js, first, 0)
			require.NoError(t, err)
			l.claimed(seq)
			var want bytes.Buffer
			for i := range 5 {
				part := bytes.Repeat([]byte(fmt.Sprint(i)), frameBytes)
				want.Write(part)
				l.write(mesh.Stdout, part, 0)
			}
			final := &mesh.Final{}
			require.NoError(t, l.finish(final))
			require.Zero(t, final.Missing)
			require.Equal(t, want.Bytes(), outputOf(t, stream, subject))
		})
	}
}

// outputOf reads a log as readers do: by number, dropping repeats.
func outputOf(t *testing.T, stream jetstream.Stream, subject string) []byte {
	t.Helper()
	frames := map[uint64]*mesh.Frame{}
	for seq := uint64(1); ; seq++ {
		f, err := decodeStored(stream.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject(subject)))
		require.NoError(t, err)
		require.NotNil(t, f.frame, "the log has no end")
		frames[f.frame.Number], seq = f.frame, f.sequence
		if f.frame.Final != nil {
			break
		}
	}
	var output []byte
	for n := range uint64(len(frames)) {
		require.Contains(t, frames, n)
		for _, c := range frames[n].Chunks {
			output = append(output, c.Data...)
		}
	}
	return output
}
