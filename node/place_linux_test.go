package node_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/router"
)

// A workspace that needs something of its node is on one that has it, or nowhere: not when
// it is made, not by a move, and not when that node is gone.
func TestAWorkspaceIsWhereItNeedsToBe(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{Zone: "a"})
	ctx := t.Context()
	stop := m.AddNode(t, "n2", func(c *node.Config) { c.Zone, c.Labels = "b", map[string]string{"gpu": "a100", "rack": "r7"} })
	hostOf := func(w string) mesh.Node {
		info, err := m.Client.Workspace(w).Info(ctx)
		require.NoError(t, err)
		return info.Node
	}
	for i := range 4 { // none of them by luck
		for zone, on := range map[string]mesh.Node{"a": "n1", "b": "n2"} {
			name := fmt.Sprintf("%s-%d", zone, i)
			require.NoError(t, m.Client.CreateWorkspaceWith(ctx, name, client.WorkspaceConfig{Need: mesh.Need{Zone: zone}}))
			require.Equal(t, on, hostOf(name))
		}
		name := fmt.Sprintf("gpu-%d", i)
		require.NoError(t, m.Client.CreateWorkspaceWith(ctx, name, client.WorkspaceConfig{Need: mesh.Need{Labels: map[string]string{"gpu": "a100"}}}))
		require.Equal(t, mesh.Node("n2"), hostOf(name))
	}
	gpu := m.Client.Workspace("gpu-0")
	require.NoError(t, gpu.WriteFile(ctx, "f", []byte("kept"), 0))

	err := m.Ask(t, mesh.VerbAdminMove, mesh.WorkspaceMoveRequest{Tenant: nodetest.Tenant, Workspace: "gpu-0", Node: "n1"}, nil)
	requireCode(t, mesh.CodeUnsupported, err)
	require.Contains(t, err.Error(), "label gpu=a100")
	require.Equal(t, mesh.Node("n2"), hostOf("gpu-0"))

	require.NoError(t, m.Client.CreateWorkspaceWith(ctx, "tpu", client.WorkspaceConfig{Need: mesh.Need{Zone: "b", Labels: map[string]string{"tpu": "v5"}}}))
	err = m.Client.Workspace("tpu").WriteFile(ctx, "f", nil, 0)
	requireCode(t, mesh.CodeUnsupported, err)
	require.Contains(t, err.Error(), "needs: zone b, label tpu=v5")
	requireCode(t, mesh.CodeInvalid, m.Client.CreateWorkspaceWith(ctx, "odd", client.WorkspaceConfig{Need: mesh.Need{Isolation: "none"}}))

	stop()
	err = gpu.WriteFile(ctx, "f", nil, 0)
	requireCode(t, mesh.CodeUnsupported, err)
	m.AddNode(t, "n3", func(c *node.Config) { c.Labels = map[string]string{"gpu": "a100"} })
	b, err := gpu.ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
	require.Equal(t, mesh.Node("n3"), hostOf("gpu-0"))
}

// A node that has as many workspaces open as it may says so, and the next one gets them;
// where there is none, the caller hears that.
func TestAFullNodeIsPassedOver(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{MaxOpen: 2})
	ctx := t.Context()
	m.AddNode(t, "n2", func(c *node.Config) { c.MaxOpen = 3 })
	on := map[mesh.Node]int{}
	var onSecond mesh.Workspace
	for i := range 5 { // faster than the nodes tell what room they have
		info, err := writtenOn(t, m.Client.Workspace(fmt.Sprintf("w-%d", i)))
		require.NoError(t, err)
		if on[info.Node]++; info.Node == "n2" {
			onSecond = info.Workspace
		}
	}
	require.Equal(t, map[mesh.Node]int{"n1": 2, "n2": 3}, on)
	c, err := client.Dial(ctx, client.Config{URL: m.URL(), Token: m.Token(t, nodetest.Tenant), Wait: time.Second})
	require.NoError(t, err)
	defer c.Close()
	err = c.Workspace("w-5").WriteFile(ctx, "f", nil, 0)
	requireCode(t, mesh.CodeBusy, err)
	require.Contains(t, err.Error(), "as many workspaces open as it may")

	// Nor is a workspace moved to it, which would be taken from its node, time and again.
	err = m.Move(t, onSecond, nodetest.NodeName)
	requireCode(t, mesh.CodeConflict, err)
	require.Contains(t, err.Error(), "as many workspaces open as it may")
	b, err := m.Client.Workspace(string(onSecond)).ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
}

// A node that is full when it is asked, which its record does not tell yet, is passed over
// within the same request: nobody has to ask again.
func TestAFullNodeIsPassedOverAtOnce(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{MaxOpen: 2})
	m.AddNode(t, "n2")
	unwritable(t, m, mesh.BucketNodes)
	both := []router.Candidate{{Node: nodetest.NodeName, Weight: 1}, {Node: "n2", Weight: 4}}
	conn := m.DialToken(t, m.Token(t, nodetest.Tenant))
	var on []mesh.Node
	for i := 0; len(on) < 3; i++ {
		w := mesh.Workspace(fmt.Sprintf("w-%d", i))
		if router.Choose(string(nodetest.Tenant)+"."+string(w), mesh.Need{}, both)[0] != nodetest.NodeName {
			continue // it would be on the other one anyway
		}
		req, err := mesh.NewRequest(mesh.APISubject(nodetest.Tenant, mesh.ServicePlace, mesh.VerbPlaceOpen), mesh.NewID(), "", mesh.PlaceRequest{Workspace: w, Create: true}, nil)
		require.NoError(t, err)
		answer, err := conn.RequestMsg(req, 30*time.Second)
		require.NoError(t, err)
		var route mesh.Route
		_, err = mesh.DecodeReply(answer, &route)
		require.NoError(t, err)
		on = append(on, route.Node)
	}
	require.Equal(t, []mesh.Node{nodetest.NodeName, nodetest.NodeName, "n2"}, on)
}

func writtenOn(t *testing.T, ws *client.Workspace) (mesh.InfoReply, error) {
	t.Helper()
	require.NoError(t, ws.WriteFile(t.Context(), "f", []byte("kept"), 0))
	return ws.Info(t.Context())
}

// A node whose sandbox or disk fails says so and gets no workspace, not even one back that
// it had, until it works again. Where no other node is, the files can be reached.
func TestAnUnfitNodeIsPassedOver(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Need(t, os.Geteuid() == 0, "root", "only root mounts a small file system")
	bin, err := os.MkdirTemp("", "bin-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(bin)) })
	require.NoError(t, os.Chmod(bin, 0o755)) //nolint:gosec // tenants' users run what is in it
	bwrap, err := exec.LookPath("bwrap")
	require.NoError(t, err)
	ours := filepath.Join(bin, "bwrap")
	require.NoError(t, os.Symlink(bwrap, ours))
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	disk := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=32m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, 0)) })
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	m.AddNode(t, "n2", func(c *node.Config) {
		c.Data, c.Probe, c.Labels, c.Idle = disk, 200*time.Millisecond, map[string]string{"n": "2"}, 300*time.Millisecond
	})
	ctx := t.Context()
	waitFor := func(unfit string) {
		t.Helper()
		require.Eventually(t, func() bool {
			var status mesh.StatusReply
			require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
			for _, n := range status.Nodes {
				if n.Node == "n2" {
					return unfit == "" && n.Unfit == "" || unfit != "" && len(n.Unfit) > len(unfit) && n.Unfit[:len(unfit)] == unfit
				}
			}
			return false
		}, 30*time.Second, 50*time.Millisecond)
	}
	waitFor("")
	ws := m.Client.Workspace("w")
	require.NoError(t, m.Client.CreateWorkspaceWith(ctx, "only", client.WorkspaceConfig{Need: mesh.Need{Labels: map[string]string{"n": "2"}}}))
	only := m.Client.Workspace("only")
	info, err := writtenOn(t, only)
	require.NoError(t, err)
	require.Equal(t, mesh.Node("n2"), info.Node)
	_, err = writtenOn(t, ws)
	require.NoError(t, err)
	require.NoError(t, m.Move(t, "w", "n2"))

	require.NoError(t, os.Remove(ours))
	waitFor("the sandbox: ")
	require.Eventually(t, func() bool { return m.Opened(t, "n2") == 0 }, 30*time.Second, 50*time.Millisecond)
	b, err := ws.ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
	info, err = ws.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, nodetest.NodeName, info.Node, "it went back to a node that runs no commands")
	requireCode(t, mesh.CodeConflict, m.Move(t, "w", "n2"))
	b, err = only.ReadFile(ctx, "f")
	require.NoError(t, err, "no other node can have it")
	require.Equal(t, "kept", string(b))
	require.Eventually(t, func() bool { // it is closed at once, and that is another matter
		_, err := only.ReadFile(ctx, "f")
		return err == nil && m.Move(t, "only", "n2") == nil
	}, 30*time.Second, time.Millisecond, "it is there already")
	require.NoError(t, os.Symlink(bwrap, ours))
	waitFor("")
	require.NoError(t, m.Move(t, "w", "n2"))

	// The disk.
	require.Eventually(t, func() bool { return m.Opened(t, "n2") == 0 }, 30*time.Second, 50*time.Millisecond)
	filler := filepath.Join(disk, "filler")
	require.Error(t, os.WriteFile(filler, make([]byte, 64<<20), 0o600))
	waitFor("the disk: ")
	info, err = ws.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, nodetest.NodeName, info.Node)
	require.NoError(t, os.Remove(filler))
	waitFor("")
	_, err = only.ReadFile(ctx, "f")
	require.NoError(t, err)
}

// Before a workspace moves, the next node has its files: the owner still has it, since a
// command of it runs, when they are there.
func TestAMoveIsCopiedAhead(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	m.AddNode(t, "n2", func(c *node.Config) { c.Grace = time.Minute })
	ctx, ws := t.Context(), m.Client.Workspace("w")
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("kept"), 0))
	require.NoError(t, m.Move(t, "w", "n2"))
	data := t.TempDir()
	var said lines
	m.AddNode(t, "n3", func(c *node.Config) { // which has never had it
		c.Data, c.Log = data, slog.New(slog.NewTextHandler(&said, nil))
	})
	cmd := ws.Command(ctx, "sh", "-c", "until test -e go; do sleep 0.02; done; echo went")
	require.NoError(t, cmd.Start())
	moved := make(chan error, 1)
	go func() {
		defer close(moved)
		moved <- m.Move(t, "w", "n3")
	}()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(filepath.Join(data, "workspaces", string(nodetest.Tenant), "w", "workspace", "f"))
		return err == nil && string(b) == "kept"
	}, 20*time.Second, 10*time.Millisecond, "there is no copy")
	info, err := ws.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, mesh.Node("n2"), info.Node)
	require.NoError(t, ws.WriteFile(ctx, "go", nil, 0))
	require.NoError(t, cmd.Wait())
	require.NoError(t, <-moved)
	require.Equal(t, 1, strings.Count(said.String(), "workspace restored"), "the copy was made more than once:\n%s", said.String())
	b, err := ws.ReadFile(ctx, "go")
	require.NoError(t, err)
	require.Empty(t, b)
	info, err = ws.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, mesh.Node("n3"), info.Node)
}

// While it is made sure that an owner is gone, the next one copies the files: when it opens
// the workspace, they are there.
func TestATakeoverIsCopiedAhead(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	m.StopNode(t)
	var said lines
	m.AddNode(t, "n2", func(c *node.Config) {
		c.Log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	records, epoch, gone := silentOwner(t, m)
	require.NoError(t, gone.Unsubscribe())
	for i := 0; !strings.Contains(said.String(), "the local tree is what the journal says"); i++ {
		require.Less(t, i, 20, "no copy was there in time: %s", said.String())
		if i > 0 {
			info, err := ws.Info(ctx)
			require.NoError(t, err)
			epoch, err = records.Owners.Take(ctx, nodetest.Tenant, "repo", "silent", "i", info.Epoch)
			require.NoError(t, err)
		}
		b, err := ws.ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "1", string(b))
	}
	info, err := ws.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, mesh.Node("n2"), info.Node)
	require.Greater(t, info.Epoch, epoch)
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("2"), 0))
}

// lines is what a logger has said.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
