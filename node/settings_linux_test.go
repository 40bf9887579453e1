package node_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// Commands and captures go by the settings of their workspace, from the answer to a change
// on, in this tenure and in all that follow.
func TestCommandsGoByTheSettings(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{Net: "full"})
	ctx, c := t.Context(), m.Client
	m.AddNode(t, "n2", func(c *node.Config) { c.Zone = "b" })
	require.NoError(t, c.CreateWorkspaceWith(ctx, "w", client.WorkspaceConfig{Durability: "none", Net: "none", Ephemeral: []mesh.Path{"build", "web/out"}}))
	ws := c.Workspace("w")
	run := func(line string) *client.Cmd {
		t.Helper()
		cmd := ws.Command(ctx, "sh", "-c", line)
		require.NoError(t, cmd.Run())
		return cmd
	}
	require.Zero(t, run("echo 1 >late").Final().Position, "durability none captures nothing at the end")
	net := ws.Command(ctx, "true")
	net.Net = "full"
	requireCode(t, mesh.CodeDenied, net.Run())

	none, full := "none", "full"
	now, err := c.SetWorkspace(ctx, "w", mesh.SettingsChange{Durability: new(string), Net: &full})
	require.NoError(t, err)
	require.Equal(t, mesh.Settings{Net: "full", Ephemeral: []mesh.Path{"build", "web/out"}}, now)
	require.NotZero(t, run("mkdir -p build web/out a/build out; echo 2 | tee kept build/x web/out/x a/build/x >out/x").Final().Position)
	net = ws.Command(ctx, "true")
	net.Net = "full"
	require.NoError(t, net.Run())

	info, err := ws.Info(ctx)
	require.NoError(t, err)
	require.Subset(t, info.Ephemeral, []mesh.Path{".cache/", "build/", "web/out/"})
	if info.Node == "n1" {
		require.NoError(t, m.Move(t, "w", "n2"))
	}
	require.NoError(t, m.Move(t, "w", "n1"))
	for name, there := range map[string]bool{"late": true, "kept": true, "out/x": true, "build/x": false, "web/out/x": false, "a/build/x": false} {
		_, err := ws.Stat(ctx, name)
		require.Equal(t, there, err == nil, name)
	}

	// What is not ephemeral any more is kept, also what was made before.
	run("mkdir -p build; echo 3 >build/y")
	_, err = c.SetWorkspace(ctx, "w", mesh.SettingsChange{Ephemeral: []mesh.Path{}})
	require.NoError(t, err)
	run("echo 4 >build/z")
	zone := "b"
	_, err = c.SetWorkspace(ctx, "w", mesh.SettingsChange{Zone: &zone})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err = ws.Info(ctx)
		require.NoError(t, err)
		return info.Node == "n2"
	}, 20*time.Second, 20*time.Millisecond, "its node has not what it needs now")
	require.Equal(t, "b", info.Settings.Zone)
	for _, name := range []string{"build/y", "build/z"} {
		_, err := ws.Stat(ctx, name)
		require.NoError(t, err, name)
	}

	_, err = c.SetWorkspace(ctx, "missing", mesh.SettingsChange{Durability: &none})
	requireCode(t, mesh.CodeNotFound, err)
	odd := "never"
	for _, change := range []mesh.SettingsChange{{Durability: &odd}, {Idle: &odd}, {Isolation: &odd}, {Net: &odd}, {Ephemeral: []mesh.Path{"../x"}}, {Labels: map[string]string{"A": "b"}}} {
		_, err = c.SetWorkspace(ctx, "w", change)
		requireCode(t, mesh.CodeInvalid, err)
	}
	bound := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "w", ""))
	_, err = bound.SetWorkspace(ctx, "w", mesh.SettingsChange{Durability: &none})
	requireCode(t, mesh.CodeDenied, err)
	_, err = bound.SetWorkspace(ctx, "missing", mesh.SettingsChange{Durability: &none})
	requireCode(t, mesh.CodeDenied, err)
}

// What its settings say becomes of a workspace when nobody uses it, and not while a
// command runs or somebody comes back.
func TestWhatBecomesOfUnusedWorkspaces(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{Idle: time.Second, Sweep: 200 * time.Millisecond})
	ctx, c := t.Context(), m.Client
	stop := m.AddNode(t, "n2", func(c *node.Config) { c.Labels = map[string]string{"n": "2"} })
	require.NoError(t, c.CreateWorkspaceWith(ctx, "never-used", mesh.Settings{Idle: "keep=2s"}))
	require.NoError(t, c.CreateWorkspaceWith(ctx, "gone", mesh.Settings{Need: mesh.Need{Labels: map[string]string{"n": "2"}}}))
	cmd := c.Workspace("busy").Command(ctx, "sh", "-c", "read x")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	// Used first: who is slow would find none to use.
	for name, idle := range map[string]string{"close": "close", "delete": "delete", "keep": "keep=2s", "long": "keep=7d", "gone": "keep=2s", "busy": "delete"} {
		if name != "busy" {
			require.NoError(t, c.Workspace(name).WriteFile(ctx, "f", []byte("x"), 0))
		}
		_, err := c.SetWorkspace(ctx, name, mesh.SettingsChange{Idle: &idle})
		require.NoError(t, err)
	}
	stop()
	left := func(want ...string) {
		t.Helper()
		var last []string
		require.Eventually(t, func() bool {
			var names []string
			for w, err := range c.Workspaces(ctx) {
				require.NoError(t, err)
				names = append(names, string(w.Name))
			}
			last = names
			return slices.Equal(want, names)
		}, time.Minute, 50*time.Millisecond, "%v are to be left, not %v", want, &last)
	}
	left("busy", "close", "long")
	require.Eventually(t, func() bool { return m.Opened(t, "n1") == 1 }, 30*time.Second, 50*time.Millisecond)
	b, err := c.Workspace("long").ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
	_, err = c.Workspace("delete").ReadFile(ctx, "f")
	requireCode(t, mesh.CodeNotFound, err)
	require.NoError(t, in.Close())
	_ = cmd.Wait()
	left("close", "long")

	// Set later, and taken back.
	keep, stays := "keep=3s", ""
	require.NoError(t, c.Workspace("again").WriteFile(ctx, "f", []byte("x"), 0))
	for _, idle := range []*string{&keep, &stays} {
		_, err = c.SetWorkspace(ctx, "again", mesh.SettingsChange{Idle: idle})
		require.NoError(t, err)
	}
	_, err = c.SetWorkspace(ctx, "close", mesh.SettingsChange{Idle: &keep})
	require.NoError(t, err)
	left("again", "long")
}
