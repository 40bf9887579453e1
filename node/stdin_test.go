package node_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// inputOf is a running command of acme/repo in a scope, whose standard input is
// open, and a way to write to it without a client of ours.
type inputOf struct {
	id    mesh.ExecID
	epoch mesh.Epoch
	by    *caller // of the whole tenant
}

func openInput(t *testing.T, m *nodetest.Mesh, scope string, args ...string) *inputOf {
	t.Helper()
	cmd := m.Client.Workspace("repo").Scope(scope).Command(t.Context(), args[0], args[1:]...)
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	info, err := m.Client.Workspace("repo").Info(t.Context())
	require.NoError(t, err)
	return &inputOf{id: mesh.ExecID(cmd.ID), epoch: info.Epoch, by: callers(t, m)[0]}
}

func (in *inputOf) send(t *testing.T, meshID string, a mesh.StdinRequest, content string) (r mesh.StdinReply, err error) {
	t.Helper()
	a.ID = in.id
	raw, err := json.Marshal(a)
	require.NoError(t, err)
	msg := &nats.Msg{Subject: in.by.owner(in.epoch, mesh.VerbStdin), Header: nats.Header{}}
	msg.Header.Set(mesh.HeaderID, meshID)
	if msg.Data = raw; content != "" {
		msg.Header.Set(mesh.HeaderArgs, string(raw))
		msg.Data = []byte(content)
	}
	answer, err := in.by.RequestMsg(msg, 10*time.Second)
	require.NoError(t, err)
	_, err = mesh.DecodeReply(answer, &r)
	return r, err
}

// What is written once is read once: a repeat is answered, other content for the
// same place is refused, and what comes too early waits for what is before it.
func TestStdinIsTakenOnce(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx := t.Context()
		in := openInput(t, m, ".", "sh", "-c", "cat > got; echo > finished")
		one, two := mesh.NewID(), mesh.NewID()
		early := make(chan mesh.StdinReply, 1)
		go func() {
			r, err := in.send(t, two, mesh.StdinRequest{Offset: 4}, "two.")
			if err != nil {
				t.Error(err)
			}
			early <- r
		}()
		first, err := in.send(t, one, mesh.StdinRequest{}, "one.")
		require.NoError(t, err)
		require.EqualValues(t, 4, first.Next)
		require.EqualValues(t, 8, (<-early).Next)
		for range 2 {
			again, err := in.send(t, one, mesh.StdinRequest{}, "one.")
			require.NoError(t, err)
			require.Equal(t, first, again)
		}
		for _, offset := range []uint64{0, 2, 4, 7} {
			_, err = in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: offset}, "XX")
			requireCode(t, mesh.CodeConflict, err)
		}
		ahead, err := in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: 100}, "never")
		require.NoError(t, err)
		require.EqualValues(t, 8, ahead.Next, "nothing came before it")
		state, err := in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: 8, WaitMS: 100}, "")
		require.NoError(t, err)
		require.EqualValues(t, 8, state.Next)

		end := mesh.NewID()
		last, err := in.send(t, end, mesh.StdinRequest{Offset: 8, EOF: true}, "end")
		require.NoError(t, err)
		require.True(t, last.EOF)
		_, err = in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: 11}, "more")
		require.Contains(t, []mesh.Code{mesh.CodeConflict, mesh.CodeNotFound}, mesh.CodeOf(err), "%v", err)
		require.Eventually(t, func() bool {
			_, err := m.Client.Workspace("repo").Stat(ctx, "finished")
			return err == nil
		}, 10*time.Second, 10*time.Millisecond)
		got, err := m.Client.Workspace("repo").ReadFile(ctx, "got")
		require.NoError(t, err)
		require.Equal(t, "one.two.end", string(got))
		require.Eventually(t, func() bool {
			_, err = in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: 11}, "more")
			return mesh.CodeOf(err) == mesh.CodeNotFound
		}, 10*time.Second, 10*time.Millisecond, "%v", err)
	})
}

// Many who write to a command that never reads get no more into it than the node
// holds for one command, and are in nobody's way.
func TestWritersOfACommandThatNeverReads(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx := t.Context()
		in := openInput(t, m, ".", "sleep", "600")
		part := string(bytes.Repeat([]byte("x"), 100_000))
		var writers sync.WaitGroup
		for range 64 {
			writers.Go(func() {
				for range 4 {
					r, err := in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: 1 << 30, WaitMS: 1000}, "")
					if err == nil {
						_, err = in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: r.Next}, part)
					}
					if code := mesh.CodeOf(err); err != nil && code != mesh.CodeConflict && code != mesh.CodeBusy {
						t.Error(err)
					}
				}
			})
		}
		for i := range 5 {
			out, err := m.Client.Workspace("repo").Command(ctx, "echo", fmt.Sprint(i)).Output()
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintln(i), string(out))
		}
		writers.Wait()
		for range 32 { // to the brim
			state, err := in.send(t, mesh.NewID(), mesh.StdinRequest{}, "")
			require.NoError(t, err)
			if state.Room == 0 {
				break
			}
			_, err = in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: state.Next}, part)
			require.NoError(t, err)
		}
		state, err := in.send(t, mesh.NewID(), mesh.StdinRequest{}, "")
		require.NoError(t, err)
		require.Zero(t, state.Room)
		require.LessOrEqual(t, state.Next-state.Read, uint64(mesh.DefaultStdinBuffer))
		full, err := in.send(t, mesh.NewID(), mesh.StdinRequest{Offset: state.Next}, part)
		require.NoError(t, err)
		require.Equal(t, state.Next, full.Next)
		kill := mesh.SignalRequest{ID: in.id, Signal: "KILL"}
		require.NoError(t, in.by.ask(t, in.by.owner(in.epoch, mesh.VerbSignal), "", kill, nil))
	})
}

// Standard input belongs to who may see the command.
func TestStdinOfOthers(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		openRepo(t, m)
		in := openInput(t, m, "users/u2", "cat")
		all := map[string]*caller{}
		for _, c := range callers(t, m) {
			all[c.name] = c
		}
		for _, r := range []struct {
			token, header string
			code          mesh.Code
		}{
			{"scope", "", mesh.CodeNotFound},
			{"scope", "users/u2", mesh.CodeDenied},
			{"tenant", "users/u1", mesh.CodeNotFound},
			{"tenant", "users/u2/deeper", mesh.CodeNotFound},
			{"tenant", "users/u2", ""},
			{"workspace", "users", ""},
		} {
			t.Run(r.token+" in "+r.header, func(t *testing.T) {
				c := all[r.token]
				requireCode(t, r.code, c.ask(t, c.owner(in.epoch, mesh.VerbStdin), r.header, mesh.StdinRequest{ID: in.id}, nil))
				if r.code == "" {
					r.code = mesh.CodeInvalid // it has no terminal
				}
				requireCode(t, r.code, c.ask(t, c.owner(in.epoch, mesh.VerbResize), r.header, mesh.ResizeRequest{ID: in.id}, nil))
			})
		}
		t.Run("without any", func(t *testing.T) {
			cmd := m.Client.Workspace("repo").Command(t.Context(), "sleep", "600")
			require.NoError(t, cmd.Start())
			_, err := m.Client.Workspace("repo").WriteStdin(t.Context(), cmd.ID, []byte("x"))
			requireCode(t, mesh.CodeInvalid, err)
			require.NoError(t, cmd.Signal(t.Context(), "KILL"))
		})
		other := m.Connect(t, m.Token(t, "other")).Workspace("repo")
		_, err := other.WriteStdin(t.Context(), string(in.id), []byte("x"))
		requireCode(t, mesh.CodeNotFound, err)
		end := mesh.StdinRequest{ID: in.id, EOF: true}
		require.NoError(t, all["tenant"].ask(t, all["tenant"].owner(in.epoch, mesh.VerbStdin), "", end, nil))
	})
}
