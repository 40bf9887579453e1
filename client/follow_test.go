package client_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// stage plays the part of a node towards one client: it claims every exec and
// leaves writing the log to the test.
type stage struct {
	js      jetstream.JetStream
	subject func(mesh.ExecID) string
}

func newStage(t *testing.T) (*stage, *client.Client) {
	m := meshtest.Server(t)
	door := m.Door(t, "n1")
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	s := &stage{js: js, subject: func(id mesh.ExecID) string { return mesh.ExecLogSubject(0, "acme", "w", id) }}
	r := mesh.NewResponder(door, "n1", nil)
	_, err = r.Subscribe(t.Context(), mesh.APIWildcards[0], "", s.api(t))
	require.NoError(t, err)
	_, err = r.Subscribe(t.Context(), mesh.OwnerWildcard("acme", "w", 1), "", func(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
		var e mesh.ExecRequest
		if err := req.Args(&e); err != nil {
			return nil, err
		}
		s.put(t, e.ID, mesh.Frame{Kind: mesh.FrameClaim, Claim: &mesh.Claim{Node: "n1", Epoch: 1}})
		return &mesh.Reply{Args: mesh.ExecReply{}}, nil
	})
	require.NoError(t, err)
	c, err := client.Dial(t.Context(), client.Config{URL: m.URL(), Token: m.Token(t, "acme")})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return s, c
}

// api answers placement, and log read from the real stream.
func (s *stage) api(t *testing.T) mesh.Answer {
	stream, err := s.js.Stream(t.Context(), mesh.ExecLogStream(0))
	require.NoError(t, err)
	return func(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
		if mesh.Verb(req.Subject) == mesh.VerbPlaceOpen {
			return &mesh.Reply{Args: mesh.Route{Node: "n1", Epoch: 1}}, nil
		}
		var a mesh.LogRequest
		if err := req.Args(&a); err != nil {
			return nil, err
		}
		reply := mesh.LogReply{Last: a.After}
		var frames []mesh.StoredFrame
		for {
			raw, err := stream.GetMsg(ctx, reply.Last+1, jetstream.WithGetMsgSubject(s.subject(a.ID)))
			if err != nil {
				return &mesh.Reply{Args: reply, Content: mesh.PackFrames(frames)}, nil
			}
			frames = append(frames, mesh.StoredFrame{Sequence: raw.Sequence, Data: raw.Data})
			reply.Last = raw.Sequence
		}
	}
}

func (s *stage) put(t *testing.T, id mesh.ExecID, f mesh.Frame) {
	m := nats.NewMsg(s.subject(id))
	var err error
	m.Data, err = f.Encode()
	require.NoError(t, err)
	_, err = s.js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
}

func out(n uint64, offset uint64, text string) mesh.Frame {
	return mesh.Frame{Kind: mesh.FrameOutput, Number: n, Offset: offset, Chunks: []mesh.Chunk{{Stream: mesh.Stdout, Data: []byte(text)}}}
}

func final(n uint64, f mesh.Final) mesh.Frame {
	return mesh.Frame{Kind: mesh.FrameFinal, Number: n, Final: &f}
}

// Frames that came twice, out of order, or not at all: the output is what the
// log holds, in the order of the numbers.
func TestFollowerOrdersByNumber(t *testing.T) {
	s, c := newStage(t)
	for name, frames := range map[string][]mesh.Frame{
		"in order":             {out(1, 0, "a"), out(2, 1, "b"), out(3, 2, "c"), final(4, mesh.Final{})},
		"twice":                {out(1, 0, "a"), out(1, 0, "a"), out(2, 1, "b"), out(3, 2, "c"), out(2, 1, "b"), final(4, mesh.Final{})},
		"out of order":         {out(2, 1, "b"), out(3, 2, "c"), out(1, 0, "a"), final(4, mesh.Final{})},
		"the end numbered low": {out(2, 1, "b"), out(3, 2, "c"), out(1, 0, "a"), final(2, mesh.Final{})},
		"one was never stored": {out(1, 0, "a"), out(3, 1, "b"), out(4, 2, "c"), final(5, mesh.Final{})},
		"the rest in the end":  {out(1, 0, "a"), {Kind: mesh.FrameFinal, Number: 2, Offset: 1, Final: &mesh.Final{}, Chunks: []mesh.Chunk{{Stream: mesh.Stdout, Data: []byte("bc")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			cmd := c.Workspace("w").Command(t.Context(), "x")
			cmd.Stdout = &got
			require.NoError(t, cmd.Start())
			for _, f := range frames {
				s.put(t, mesh.ExecID(cmd.ID), f)
			}
			require.NoError(t, cmd.Wait())
			require.Equal(t, "abc", got.String())
		})
	}
}

// A client that comes late, after the frames were published, reads the log and
// meets the first final frame, not a stale owner's later one.
func TestFirstFinalFrameCounts(t *testing.T) {
	s, c := newStage(t)
	cmd := c.Workspace("w").Command(t.Context(), "x")
	require.NoError(t, cmd.Start())
	id := mesh.ExecID(cmd.ID)
	// The lost that another owner stored is not republished here, as it can
	// happen around a change of the leader: only the log has it.
	s.put(t, id, out(1, 0, "a"))
	s.quietly(t, func() { s.put(t, id, final(2, mesh.Final{ErrorCode: mesh.CodeLost, ErrorText: "first"})) })
	s.put(t, id, out(2, 1, "b"))
	s.put(t, id, final(3, mesh.Final{}))
	began := time.Now()
	err := cmd.Wait()
	require.Equal(t, mesh.CodeLost, mesh.CodeOf(err), "%v after %s", err, time.Since(began))
}

// quietly switches republishing off for what is put meanwhile.
func (s *stage) quietly(t *testing.T, put func()) {
	cfg := mesh.Streams(mesh.Storage{Shards: 1, Replicas: 1})[1]
	loud := cfg.RePublish
	cfg.RePublish = nil
	_, err := s.js.UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
	put()
	cfg.RePublish = loud
	_, err = s.js.UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
}

// Republishing may skip a frame: the next one, or the end, shows it, and the log has
// what is missing.
func TestSkippedFramesAreRead(t *testing.T) {
	s, c := newStage(t)
	var got bytes.Buffer
	cmd := c.Workspace("w").Command(t.Context(), "x")
	cmd.Stdout = &got
	require.NoError(t, cmd.Start())
	id := mesh.ExecID(cmd.ID)
	s.quietly(t, func() { s.put(t, id, out(1, 0, "a")) })
	s.put(t, id, out(2, 1, "b"))
	s.quietly(t, func() { s.put(t, id, out(3, 2, "c")) })
	s.put(t, id, final(4, mesh.Final{}))
	require.NoError(t, cmd.Wait())
	require.Equal(t, "abc", got.String())
}

// A number that was given up is not waited for: once the log is so far that it cannot
// come any more, what follows is shown while the command still runs.
func TestMissingNumberIsPassed(t *testing.T) {
	s, c := newStage(t)
	cmd := c.Workspace("w").Command(t.Context(), "x")
	require.NoError(t, cmd.Start())
	cmd.Detach()
	id := mesh.ExecID(cmd.ID)
	for n := uint64(2); n <= mesh.LogWindow+2; n++ {
		s.put(t, id, out(n, n, "b"))
	}
	x, err := c.Workspace("w").Attach(t.Context(), cmd.ID)
	require.NoError(t, err)
	defer x.Close()
	for o, err := range x.Output(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, client.Output{Offset: 2, Missing: 2, Data: []byte("b")}, o)
		break
	}
}
