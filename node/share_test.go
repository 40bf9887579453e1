package node_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// One tenant's endless copies get it refused, and nobody else.
func TestCopiesLeaveRoomForOthers(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		epoch := openRepo(t, m)
		ctx, c := t.Context(), callers(t, m)[0]
		require.NoError(t, m.Client.Workspace("repo").Command(ctx, "sh", "-c", "mkdir holes; truncate -s 8G holes/f holes/g").Run())
		copyHoles := func(n int) *nats.Msg {
			args := mesh.CopyRequest{From: "holes", To: mesh.Path(fmt.Sprintf("copy-%d", n)), Recursive: true}
			req, err := mesh.NewRequest(c.owner(epoch, mesh.VerbCopy), mesh.NewID(), "", args, nil)
			require.NoError(t, err)
			req.Reply = c.inbox + ".copies"
			return req
		}
		var refused atomic.Int64
		sub, err := c.Subscribe(c.inbox+".copies", func(m *nats.Msg) {
			if _, err := mesh.DecodeReply(m, nil); mesh.CodeOf(err) == mesh.CodeBusy {
				refused.Add(1)
			}
		})
		require.NoError(t, err)
		defer sub.Unsubscribe() //nolint:errcheck // the connection ends
		for n := range 40 {
			require.NoError(t, c.PublishMsg(copyHoles(n)))
		}
		require.Eventually(t, func() bool { return refused.Load() == 36 }, 10*time.Second, 10*time.Millisecond, "a quarter of the slots is a tenant's")
		other := m.Connect(t, m.Token(t, "other")).Workspace("repo")
		require.NoError(t, other.Copy(ctx, "secret", "copy"))
	})
}

// Lists read whole directories: no tenant does that with every processor.
func TestListsAreShared(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		epoch := openRepo(t, m)
		c := callers(t, m)[0]
		require.NoError(t, m.Client.Workspace("repo").Command(t.Context(), "sh", "-c", "mkdir flat; cd flat; seq 10000 | xargs touch").Run())
		var answered, refused atomic.Int64
		sub, err := c.Subscribe(c.inbox+".lists", func(m *nats.Msg) {
			if _, err := mesh.DecodeReply(m, nil); mesh.CodeOf(err) == mesh.CodeBusy {
				refused.Add(1)
			}
			answered.Add(1)
		})
		require.NoError(t, err)
		defer sub.Unsubscribe() //nolint:errcheck // the connection ends
		const all = 200
		for range all {
			req, err := mesh.NewRequest(c.owner(epoch, mesh.VerbList), "", "", mesh.ListRequest{Path: "flat", Limit: 1}, nil)
			require.NoError(t, err)
			req.Reply = c.inbox + ".lists"
			require.NoError(t, c.PublishMsg(req))
		}
		require.Eventually(t, func() bool { return answered.Load() == all }, 30*time.Second, 10*time.Millisecond)
		require.Positive(t, refused.Load())
		require.Less(t, refused.Load(), int64(all))
	})
}

// A burst of creations does not pass the quota all at once: few are between the
// look at the number of workspaces and the record.
func TestCreationsAreFewAtATime(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		openRepo(t, m)
		c := callers(t, m)[0]
		codes := make(chan mesh.Code, 200)
		sub, err := c.Subscribe(c.inbox+".made", func(m *nats.Msg) {
			_, err := mesh.DecodeReply(m, nil)
			codes <- mesh.CodeOf(err)
		})
		require.NoError(t, err)
		defer sub.Unsubscribe() //nolint:errcheck // the connection ends
		for n := range cap(codes) {
			args := mesh.WorkspaceRequest{Workspace: mesh.Workspace(fmt.Sprintf("burst-%d", n))}
			req, err := mesh.NewRequest(c.api(mesh.ServiceWorkspace, mesh.VerbWorkspaceCreate), "", "", args, nil)
			require.NoError(t, err)
			req.Reply = c.inbox + ".made"
			require.NoError(t, c.PublishMsg(req))
		}
		made := 0
		for range cap(codes) {
			switch code := <-codes; code {
			case "":
				made++
			default:
				require.Equal(t, mesh.CodeBusy, code)
			}
		}
		require.Positive(t, made)
		require.Less(t, made, cap(codes))
	})
}
