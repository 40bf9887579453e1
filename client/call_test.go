package client_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// owners plays a router and the owners of workspace acme/w in its first two
// tenures.
type owners struct {
	epoch  atomic.Uint64          // where the router sends requests
	gone   atomic.Bool            // the router knows no such workspace
	answer map[uint64]mesh.Answer // of the owner in a tenure, to all but info
	subs   map[uint64]*nats.Subscription
}

// newOwners starts them and a client whose calls take at most wait. That the client asks
// whether an owner is still there is no matter of the answers.
func newOwners(t *testing.T, wait time.Duration, o *owners) *client.Client {
	t.Helper()
	m := meshtest.Server(t)
	r := mesh.NewResponder(m.Door(t, "n1"), "n1", nil)
	o.epoch.Store(1)
	_, err := r.Subscribe(t.Context(), mesh.APIWildcards[0], "", func(context.Context, *mesh.Request) (*mesh.Reply, error) {
		if o.gone.Load() {
			return nil, mesh.Errorf(mesh.CodeNotFound, "no such workspace")
		}
		return &mesh.Reply{Args: mesh.Route{Node: "n1", Epoch: mesh.Epoch(o.epoch.Load())}}, nil
	})
	require.NoError(t, err)
	o.subs = map[uint64]*nats.Subscription{}
	for epoch, answer := range o.answer {
		o.subs[epoch], err = r.Subscribe(t.Context(), mesh.OwnerWildcard("acme", "w", mesh.Epoch(epoch)), "", func(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
			if req.Verb == mesh.VerbInfo {
				return &mesh.Reply{Args: struct{}{}}, nil
			}
			return answer(ctx, req)
		})
		require.NoError(t, err)
	}
	t.Cleanup(r.Wait)
	c, err := client.Dial(t.Context(), client.Config{URL: m.URL(), Token: m.Token(t, "acme"), Wait: wait})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// A change that an owner left unanswered is done when the next owner says so, which
// knows what the first one did. Of one that is made in parts it does not, and where
// there is no workspace nobody does: then it is lost.
func TestUnansweredChange(t *testing.T) {
	mkdir := func(ws *client.Workspace) error { return ws.Mkdir(t.Context(), "d", 0) }
	for _, r := range []struct {
		name string
		move func(*owners)
		do   func(*client.Workspace) error
		code mesh.Code
	}{
		{"another owner", func(o *owners) { o.epoch.Store(2) }, mkdir, ""},
		{"parts, another owner", func(o *owners) { o.epoch.Store(2) }, func(ws *client.Workspace) error { return ws.Copy(t.Context(), "a", "b") }, mesh.CodeLost},
		{"no workspace now", func(o *owners) { o.gone.Store(true) }, mkdir, mesh.CodeLost},
		{"a command, no workspace now", func(o *owners) { o.gone.Store(true) }, func(ws *client.Workspace) error { return ws.Command(t.Context(), "x").Run() }, mesh.CodeLost},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel() // each waits for one try to end
			var asked atomic.Int32
			over := make(chan struct{})
			defer close(over)
			o := &owners{}
			o.answer = map[uint64]mesh.Answer{
				1: func(context.Context, *mesh.Request) (*mesh.Reply, error) {
					r.move(o)
					<-over
					return nil, nil
				},
				2: func(context.Context, *mesh.Request) (*mesh.Reply, error) {
					asked.Add(1)
					return nil, nil
				},
			}
			requireCode(t, r.code, r.do(newOwners(t, 20*time.Second, o).Workspace("w")))
			require.Equal(t, r.code == "", asked.Load() > 0, "whether the next owner was asked")
		})
	}
}

// An owner that is gone while it is waited for is found out long before a silent one
// would be.
func TestOwnerGoesUnderARequest(t *testing.T) {
	over, asked := make(chan struct{}), make(chan struct{}, 10)
	defer close(over)
	o := &owners{answer: map[uint64]mesh.Answer{
		1: func(context.Context, *mesh.Request) (*mesh.Reply, error) {
			asked <- struct{}{}
			<-over
			return nil, nil
		},
		2: func(context.Context, *mesh.Request) (*mesh.Reply, error) { return nil, nil },
	}}
	c := newOwners(t, 4*time.Second, o) // a silent owner is waited for longer
	done := make(chan error, 1)
	go func() { done <- c.Workspace("w").Mkdir(t.Context(), "d", 0) }()
	<-asked
	o.epoch.Store(2)
	require.NoError(t, o.subs[1].Unsubscribe())
	require.NoError(t, <-done)
	require.Equal(t, uint64(1), c.Retries())
}

// The content that WriteFile stages is all on one owner: when the workspace gets
// another one midway, it starts over there.
func TestWriteFileOfAMovingWorkspace(t *testing.T) {
	content := noise(1, 5*mesh.MaxMessage+1)
	var mu sync.Mutex
	var parts int
	got := map[string][]byte{} // by stage, on the second owner
	var whole []byte
	o := &owners{}
	o.answer = map[uint64]mesh.Answer{
		1: func(context.Context, *mesh.Request) (*mesh.Reply, error) {
			mu.Lock()
			defer mu.Unlock()
			if parts++; parts <= 2 {
				return nil, nil
			}
			o.epoch.Store(2)
			return nil, mesh.Errorf(mesh.CodeStale, "not the owner any more")
		},
		2: func(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
			mu.Lock()
			defer mu.Unlock()
			var a mesh.WriteRequest
			if err := req.Args(&a); err != nil {
				return nil, err
			}
			if a.Commit {
				whole = got[a.Stage][:a.Size]
				return nil, nil
			}
			if got[a.Stage] == nil {
				got[a.Stage] = make([]byte, len(content))
			}
			copy(got[a.Stage][a.Offset:], req.Content())
			return nil, nil
		},
	}
	ws := newOwners(t, 20*time.Second, o).Workspace("w")
	require.NoError(t, ws.WriteFile(t.Context(), "f", content, 0))
	require.Len(t, got, 1, "parts of the first try on the second owner")
	require.True(t, bytes.Equal(content, whole))

	// A reader cannot be read again: Put says so.
	o.epoch.Store(1)
	parts = 0
	ws = newOwners(t, 20*time.Second, o).Workspace("w")
	requireCode(t, mesh.CodeConflict, ws.Put(t.Context(), "f", bytes.NewReader(content), 0))
}

// A read that is shorter than the file it describes is no content of it.
func TestShortRead(t *testing.T) {
	o := &owners{answer: map[uint64]mesh.Answer{1: func(context.Context, *mesh.Request) (*mesh.Reply, error) {
		return &mesh.Reply{Args: mesh.ReadReply{File: mesh.FileInfo{Type: "file", Size: 9}}, Content: []byte("short")}, nil
	}}}
	ws := newOwners(t, 5*time.Second, o).Workspace("w")
	_, err := ws.ReadFile(t.Context(), "f")
	requireCode(t, mesh.CodeConflict, err)
	_, err = ws.FS(t.Context()).Open("f")
	requireCode(t, mesh.CodeConflict, err)
}

// A node that is frozen goes on being a member of the group, and swallows its share of
// the requests. Nobody waits for it longer than a moment.
func TestFrozenMemberOfTheGroup(t *testing.T) {
	m := nodetest.Start(t, meshServer(t), nodetest.Config{})
	frozen := m.Door(t, "frozen")
	var swallowed atomic.Int64
	for _, subject := range mesh.APIWildcards {
		_, err := frozen.QueueSubscribe(subject, mesh.APIQueue, func(*nats.Msg) { swallowed.Add(1) })
		require.NoError(t, err)
	}
	require.NoError(t, frozen.Flush())
	memory := m.Client.Memory("main")
	for i := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		switch i % 3 {
		case 0:
			_, err := m.Client.Workspace(fmt.Sprintf("w%d", i)).Stat(ctx, "none")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "call %d: %v", i, err)
		case 1:
			_, err := memory.Get(ctx, "none")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "call %d: %v", i, err)
		default:
			for _, err := range m.Client.Workspaces(ctx) {
				require.NoError(t, err, "call %d", i)
			}
		}
		cancel()
	}
	require.Positive(t, swallowed.Load(), "the experiment was none")
}

// A memory's change is asked of two nodes, or of one twice. The first does not
// know what became of it, while the second finds that others have changed the key
// since: whoever only hears the second one does the change again.
func TestUnsureBesideLost(t *testing.T) {
	m := meshtest.Server(t)
	r := mesh.NewResponder(m.Door(t, "n1"), "n1", nil)
	var asked atomic.Int32
	unsure := make(chan struct{})
	answer := func(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
		switch asked.Add(1) {
		case 1: // of the change before, so that the client knows a node
			return &mesh.Reply{Args: mesh.MemoryCommitReply{Revision: 1, Head: 1}}, nil
		case 2:
			<-unsure
			time.Sleep(50 * time.Millisecond) // the other answer is first
			return nil, mesh.Errorf(mesh.CodeLost, "unknown outcome")
		case 3:
			defer close(unsure)
			return &mesh.Reply{Args: mesh.MemoryCommitReply{Head: 9, Unsure: true}}, nil
		}
		return &mesh.Reply{Args: mesh.MemoryCommitReply{Revision: 10, Head: 10}}, nil
	}
	_, err := r.Subscribe(t.Context(), mesh.APIWildcards[0], mesh.APIQueue, answer)
	require.NoError(t, err)
	_, err = r.Subscribe(t.Context(), mesh.APINodeWildcards("n1")[0], "", answer)
	require.NoError(t, err)
	t.Cleanup(r.Wait)
	c, err := client.Dial(t.Context(), client.Config{URL: m.URL(), Token: m.Token(t, "acme")})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	mem := c.Memory("main")
	_, err = mem.Put(t.Context(), "k", []byte("a"))
	require.NoError(t, err)
	_, err = mem.Put(t.Context(), "k", []byte("b"))
	requireCode(t, mesh.CodeLost, err)
	require.EqualValues(t, 3, asked.Load())
}
