package client_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// Nobody takes the output any more: the command does not run on unseen.
func TestWriterThatFailsEndsTheCommand(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		cmd := ws.Command(ctx, "sh", "-c", "echo x; sleep 600")
		errFull := errors.New("full")
		cmd.Stdout = write(func([]byte) (int, error) { return 0, errFull })
		require.ErrorIs(t, cmd.Run(), errFull)
		require.Eventually(t, func() bool {
			info, err := ws.Info(ctx)
			return err == nil && info.Execs == 0
		}, 10*time.Second, 20*time.Millisecond)
	})
}

// A closed client says so at once, to what is waiting too.
func TestClosedClient(t *testing.T) {
	s, c := newStage(t)
	waiting := c.Workspace("w").Command(t.Context(), "x")
	require.NoError(t, waiting.Start())
	s.put(t, mesh.ExecID(waiting.ID), out(1, 0, "a"))
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, call := range map[string]func() error{
		"a workspace not used before": func() error { return c.Workspace("other").Mkdir(ctx, "d", 0) },
		"one with a route":            func() error { return c.Workspace("w").Mkdir(ctx, "d", 0) },
		"any node":                    func() error { return c.CreateWorkspace(ctx, "new") },
		"a command under way":         waiting.Wait,
	} {
		requireCode(t, mesh.CodeUnavailable, call(), name)
		require.Less(t, time.Since(began), 10*time.Second, name)
	}
}

// A token of one path hears no frames: it reads the log.
func TestCommandsOfABoundToken(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx := t.Context()
		ws := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "w", "a/b")).Workspace("w")
		fill(t, ws, "own")
		out, err := ws.Command(ctx, "sh", "-c", "pwd; cat own; echo e >&2; exit 3").Output()
		var exit *client.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 3, exit.Code)
		require.Equal(t, "e\n", string(exit.Stderr))
		require.Equal(t, "/workspace/a/b\nown", string(out))

		out, err = ws.Command(ctx, "sh", "-c", "for i in 1 2 3; do head -c 600000 /dev/zero; sleep 0.1; done").Output()
		require.NoError(t, err)
		require.True(t, bytes.Equal(make([]byte, 1_800_000), out), len(out))

		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		require.ErrorIs(t, ws.Command(short, "sleep", "600").Run(), context.DeadlineExceeded)
		require.Eventually(t, func() bool {
			info, err := ws.Info(ctx)
			return err == nil && info.Execs == 0
		}, 10*time.Second, 20*time.Millisecond)
	})
}

// The caller's own guard is asked first, and may change the command.
func TestGuardOfTheClient(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	errNo := errors.New("not here")
	c, err := client.Dial(t.Context(), client.Config{URL: m.URL(), Token: m.Token(t, nodetest.Tenant), Guard: func(_ context.Context, cmd *client.Cmd) error {
		if cmd.Args[0] == "false" {
			return errNo
		}
		cmd.Args = append(cmd.Args, "more")
		return nil
	}})
	require.NoError(t, err)
	defer c.Close()
	out, err := c.Workspace("w").Command(t.Context(), "echo", "one").Output()
	require.NoError(t, err)
	require.Equal(t, "one more\n", string(out))
	require.ErrorIs(t, c.Workspace("w").Command(t.Context(), "false").Run(), errNo)
}
