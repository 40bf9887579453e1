package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// A command is followed, signalled and waited for by its id, from another client,
// and is listed while it runs and after.
func TestAttach(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, mine := t.Context(), m.Client.Workspace("w")
		cmd := mine.Scope("sub").Command(ctx, "sh", "-c", "trap 'echo bye >&2; exit 7' INT; echo hello; while :; do sleep 0.02; done")
		require.NoError(t, cmd.Start())
		cmd.Detach()
		require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(cmd.Wait()))

		ws := m.Connect(t, m.Token(t, nodetest.Tenant)).Workspace("w")
		running, err := ws.Running(ctx)
		require.NoError(t, err)
		require.Len(t, running, 1)
		e := running[0]
		require.Equal(t, cmd.ID, string(e.ID))
		require.True(t, e.Running)
		require.Equal(t, mesh.Path("sub"), e.Scope)
		require.Equal(t, mesh.Path("sh"), e.Args[0])
		same, err := ws.Exec(ctx, cmd.ID)
		require.NoError(t, err)
		require.True(t, same.Running)

		x, err := ws.Attach(ctx, cmd.ID, client.FromOffset(2))
		require.NoError(t, err)
		defer x.Close()
		for o, err := range x.Output(ctx) {
			require.NoError(t, err)
			require.Equal(t, client.Output{Offset: 2, Data: []byte("llo\n")}, o)
			break // and go on later
		}
		require.NoError(t, x.Signal(ctx, "INT"))
		var out, errs bytes.Buffer
		var exit *client.ExitError
		require.ErrorAs(t, x.Copy(ctx, &out, &errs), &exit)
		require.Equal(t, 7, exit.Code)
		require.Equal(t, "", out.String())
		require.Equal(t, "bye\n", errs.String())

		requireCode(t, mesh.CodeNotFound, ws.Signal(ctx, cmd.ID, "INT"))
		running, err = ws.Running(ctx)
		require.NoError(t, err)
		require.Empty(t, running)
		ended, err := ws.Exec(ctx, cmd.ID)
		require.NoError(t, err)
		require.False(t, ended.Running)
		require.Equal(t, 7, ended.Final.Code)
		require.Equal(t, uint64(10), ended.Output)

		_, err = ws.Attach(ctx, string(mesh.NewExecID()))
		requireCode(t, mesh.CodeNotFound, err)
		_, err = ws.Scope("other").Attach(ctx, cmd.ID)
		requireCode(t, mesh.CodeNotFound, err)
		_, err = ws.Scope("other").Exec(ctx, cmd.ID)
		requireCode(t, mesh.CodeNotFound, err)
	})
}

// Listings are in pages, the newest first, and show a scope its own.
func TestExecs(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		for _, err := range ws.Execs(ctx) {
			requireCode(t, mesh.CodeNotFound, err)
		}
		require.NoError(t, ws.Mkdir(ctx, "sub", 0o755))
		for range ws.Execs(ctx) {
			require.Fail(t, "nobody ran a command")
		}
		var want []string
		for i := range mesh.MaxExecPage + 11 {
			view := ws
			if i%2 == 1 {
				view = ws.Scope("sub")
			}
			cmd := view.Command(ctx, "true", fmt.Sprint(i))
			require.NoError(t, cmd.Run())
			want = append([]string{cmd.ID}, want...)
		}
		var all, sub []string
		for e, err := range ws.Execs(ctx) {
			require.NoError(t, err)
			require.NotNil(t, e.Final)
			all = append(all, string(e.ID))
		}
		require.Equal(t, want, all)
		for e, err := range ws.Scope("sub").Execs(ctx) {
			require.NoError(t, err)
			require.Empty(t, e.Scope)
			sub = append(sub, string(e.ID))
		}
		require.Len(t, sub, len(want)/2)

		require.NoError(t, m.Client.RemoveWorkspace(ctx, "w"))
		require.NoError(t, ws.Command(ctx, "true").Run())
		n := 0
		for _, err := range ws.Execs(ctx) {
			require.NoError(t, err)
			n++
		}
		require.Equal(t, 1, n, "a name used again is another workspace")
	})
}

// How long one waits and how long the command may live are two things.
func TestPatienceIsNoTimeout(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		cmd := ws.Command(ctx, "sh", "-c", "read x < gate; echo $x")
		require.NoError(t, ws.Command(ctx, "mkfifo", "gate").Run())
		var out bytes.Buffer
		cmd.Stdout, cmd.Patience = &out, 50*time.Millisecond
		require.NoError(t, cmd.Start())
		requireCode(t, mesh.CodeDeadline, cmd.Wait())
		requireCode(t, mesh.CodeDeadline, cmd.Wait())
		require.NoError(t, ws.Command(ctx, "sh", "-c", "echo open > gate").Run())
		cmd.Patience = 0
		require.NoError(t, cmd.Wait())
		require.Equal(t, "open\n", out.String())

		short := ws.Command(ctx, "sleep", "600")
		short.Timeout = 100 * time.Millisecond
		var exit *client.ExitError
		require.ErrorAs(t, short.Run(), &exit)
		require.Equal(t, 124, exit.Code)
	})
}

// Cancel and WaitDelay mean what they mean in os/exec.
func TestCancelAndWaitDelay(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("w")
		run := func(script string, edit func(*client.Cmd)) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := ws.Command(ctx, "sh", "-c", script)
			cmd.Stdout = write(func(b []byte) (int, error) { cancel(); return len(b), nil })
			cmd.Cancel = func() error { return cmd.Signal(t.Context(), "TERM") }
			edit(cmd)
			return cmd.Run()
		}
		var exit *client.ExitError
		require.ErrorAs(t, run("trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done", func(*client.Cmd) {}), &exit)
		require.Equal(t, 3, exit.Code)
		clean := "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done"
		require.ErrorIs(t, run(clean, func(*client.Cmd) {}), context.Canceled)
		errOwn := errors.New("own")
		require.ErrorIs(t, run(clean, func(c *client.Cmd) {
			end := c.Cancel
			c.Cancel = func() error { return errors.Join(errOwn, end()) }
		}), errOwn)
		require.ErrorIs(t, run("trap '' TERM; echo up; while :; do sleep 0.02; done", func(c *client.Cmd) { c.WaitDelay = 100 * time.Millisecond }), context.Canceled)
		require.Eventually(t, func() bool {
			running, err := ws.Running(t.Context())
			return err == nil && len(running) == 0
		}, 10*time.Second, 20*time.Millisecond)
	})
}

func TestPipes(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		cmd := ws.Command(ctx, "sh", "-c", "seq 100000; exit 4")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		b, err := io.ReadAll(out)
		require.NoError(t, err)
		require.Len(t, b, 588895)
		var exit *client.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.Equal(t, 4, exit.Code)

		unread := ws.Command(ctx, "seq", "100000")
		_, err = unread.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, unread.Start())
		require.NoError(t, unread.Wait(), "what nobody reads is dropped")
	})
}

// Of several commands the first one to end is found.
func TestWaitAny(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		var ids []string
		for range 3 {
			cmd := ws.Command(ctx, "sleep", "600")
			require.NoError(t, cmd.Start())
			ids = append(ids, cmd.ID)
		}
		require.NoError(t, ws.Signal(ctx, ids[1], "TERM"))
		id, final, err := ws.WaitAny(ctx, ids...)
		require.NoError(t, err)
		require.Equal(t, ids[1], id)
		require.Equal(t, 143, final.Code)
		id, _, err = ws.WaitAny(ctx, ids...)
		require.NoError(t, err)
		require.Equal(t, ids[1], id, "one that had ended before")
		_, _, err = ws.WaitAny(ctx)
		requireCode(t, mesh.CodeInvalid, err)
	})
}
