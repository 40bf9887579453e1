package node_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// Many clients ask for one id at the same time: the command leaves one mark.
func TestOneIDStartsOnce(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx := t.Context()
		require.NoError(t, m.Client.CreateWorkspace(ctx, "repo"))
		for round := range 5 {
			id := string(mesh.NewExecID())
			mark := fmt.Sprintf("mark%d", round)
			var wg sync.WaitGroup
			outputs := make([]string, 8)
			errs := make([]error, 8)
			for i := range 8 {
				c := m.Client
				if i%2 == 1 {
					c = m.Connect(t, m.Token(t, "acme"))
				}
				wg.Go(func() {
					cmd := c.Workspace("repo").Command(ctx, "sh", "-c", "echo x >> "+mark+"; echo out")
					cmd.ID = id
					out, err := cmd.Output()
					outputs[i], errs[i] = string(out), err
				})
			}
			wg.Wait()
			for i := range outputs {
				require.NoError(t, errs[i])
				require.Equal(t, "out\n", outputs[i])
			}
			b, err := m.Client.Workspace("repo").ReadFile(ctx, mark)
			require.NoError(t, err)
			require.Equal(t, "x\n", string(b), "the command ran more than once")
		}
	})
}

// The claim is the fence of an id: one that is there already is not overwritten,
// whoever wrote it, and its command does not start.
func TestForeignClaimIsNotRun(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		store, id := m.Streams(t), mesh.NewExecID()
		js, err := jetstream.New(store)
		require.NoError(t, err)
		claim := mesh.Frame{Kind: mesh.FrameClaim, Claim: &mesh.Claim{Node: "n0", Epoch: 1, Nonce: "other", Hash: "other"}}
		msg := nats.NewMsg(mesh.ExecLogSubject(0, "acme", "repo", id))
		msg.Data, err = claim.Encode()
		require.NoError(t, err)
		_, err = mesh.Publish(ctx, js, msg, 0)
		require.NoError(t, err)

		cmd := ws.Command(ctx, "touch", "ran")
		cmd.ID = string(id)
		require.Equal(t, mesh.CodeConflict, mesh.CodeOf(cmd.Run()), "another command's id")
		_, err = ws.Stat(ctx, "ran")
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
	})
}

// An owner that was overruled by a higher epoch answers nothing and writes
// nothing more.
func TestStepDownOnHigherEpoch(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("1"), 0))
		before, err := ws.Info(ctx)
		require.NoError(t, err)

		store := m.Streams(t)
		js, err := jetstream.New(store)
		require.NoError(t, err)
		records, err := kv.Open(ctx, js)
		require.NoError(t, err)
		epoch, err := records.Owners.Take(ctx, "acme", "repo", "n2", "i2", before.Epoch)
		require.NoError(t, err)
		require.Greater(t, epoch, before.Epoch)

		raw := m.DialToken(t, m.Token(t, nodetest.Tenant))
		require.Eventually(t, func() bool {
			req, err := mesh.NewRequest(mesh.OwnerSubject("acme", "repo", before.Epoch, mesh.VerbInfo), "", "", struct{}{}, nil)
			require.NoError(t, err)
			_, err = raw.RequestMsg(req, time.Second)
			return err == nats.ErrNoResponders
		}, 10*time.Second, 10*time.Millisecond, "the old owner still answers")

		b, err := ws.ReadFile(ctx, "f")
		require.NoError(t, err, "nobody is n2: another node takes over")
		require.Equal(t, "1", string(b))
	})
}

// A command that the node did not survive is lost by name, and is not started
// again by a repeat of its request.
func TestExecOfADeadNodeIsLost(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		info, err := ws.Info(ctx)
		require.NoError(t, err)
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		m.StopNode(t)

		// What a node leaves that was killed after the claim and the record.
		id := mesh.NewExecID()
		claim := mesh.Frame{Kind: mesh.FrameClaim, Claim: &mesh.Claim{Node: "n1", Epoch: info.Epoch, Nonce: "gone", Hash: "h"}}
		publish := func(f mesh.Frame, expect uint64) uint64 {
			msg := nats.NewMsg(mesh.ExecLogSubject(0, "acme", "repo", id))
			msg.Data, err = f.Encode()
			require.NoError(t, err)
			seq, err := mesh.Publish(ctx, js, msg, expect)
			require.NoError(t, err)
			return seq
		}
		seq := publish(claim, 0)
		publish(mesh.Frame{Kind: mesh.FrameOutput, Number: 1, Chunks: []mesh.Chunk{{Stream: mesh.Stdout, Data: []byte("half")}}}, seq)
		appendExecRecord(t, js, id)

		m.StartNode(t)
		require.NoError(t, ws.WriteFile(ctx, "g", nil, 0)) // opens it
		stream, err := js.Stream(ctx, mesh.ExecLogStream(0))
		require.NoError(t, err)
		last, err := stream.GetLastMsgForSubject(ctx, mesh.ExecLogSubject(0, "acme", "repo", id))
		require.NoError(t, err)
		f, err := mesh.DecodeFrame(last.Data)
		require.NoError(t, err)
		require.NotNil(t, f.Final, "the log has no end")
		require.Equal(t, mesh.CodeLost, f.Final.ErrorCode)
		require.Equal(t, uint64(4), f.Final.Output, "the last offset")
	})
}

func TestBadExecs(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "file", nil, 0))
		for _, c := range []struct {
			name string
			code mesh.Code
			args []string
			dir  string
			env  []string
			id   string
			net  string
			dur  string
		}{
			{name: "directory leaves", dir: "../..", code: mesh.CodeDenied},
			{name: "directory is a file", dir: "file", code: mesh.CodeInvalid},
			{name: "directory is missing", dir: "nowhere", code: mesh.CodeNotFound},
			{name: "NUL in an argument", args: []string{"echo", "a\x00b"}, code: mesh.CodeInvalid},
			{name: "empty program", args: []string{""}, code: mesh.CodeInvalid},
			{name: "environment name that is a command", env: []string{"X=1 touch k; Y"}, code: ""},
			{name: "environment without a name", env: []string{"=x"}, code: mesh.CodeInvalid},
			{name: "environment name with a space", env: []string{"A B=x"}, code: mesh.CodeInvalid},
			{name: "NUL in the environment", env: []string{"A=\x00"}, code: mesh.CodeInvalid},
			{name: "too many arguments", args: []string{"echo", strings.Repeat("x", mesh.MaxArgs)}, code: mesh.CodeTooLarge},
			{name: "no id", id: "not-an-id", code: mesh.CodeInvalid},
			{name: "old id", id: "01890a5d-ac96-774b-bcce-b302099a8057", code: mesh.CodeInvalid},
			{name: "network not granted", net: "full", code: mesh.CodeDenied},
			{name: "host not granted", net: "allow:x", code: mesh.CodeDenied},
			{name: "unknown network", net: "some", code: mesh.CodeInvalid},
			{name: "unknown durability", dur: "later", code: mesh.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.args == nil {
					c.args = []string{"true"}
				}
				cmd := ws.Command(ctx, c.args[0], c.args[1:]...)
				cmd.Dir, cmd.Env, cmd.ID, cmd.Net, cmd.Durability = c.dir, c.env, c.id, c.net, c.dur
				if c.code == "" {
					nodetest.Commands(t)
				}
				require.Equal(t, c.code, mesh.CodeOf(cmd.Run()))
			})
		}
	})
}

// Without isolation nothing runs, and files still work.
func TestNoIsolationNoExec(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("WSMESH_TEST_ISOLATION", "auto")
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("x"), 0))
	cmd := ws.Command(ctx, "true")
	err := cmd.Run()
	require.Equal(t, mesh.CodeUnsupported, mesh.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "bubblewrap")
	b, err := ws.ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

// The guard is asked before the id is claimed: a refused command leaves no log.
func TestGuardedExec(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx := t.Context()
		ws := m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "users/u1/kept", nil, 0o644))
		scope := ws.Scope("users/u1")
		cmd := scope.Command(ctx, "sh", "-c", "rm -rf ~/*")
		cmd.ID = string(mesh.NewExecID())
		require.ErrorIs(t, cmd.Run(), mesh.Errorf(mesh.CodeDenied, ""))
		_, err := ws.Stat(ctx, "users/u1/kept")
		require.NoError(t, err)
		again := scope.Command(ctx, "sh", "-c", "rm -rf ~/*")
		again.ID, again.AllowDangerous = cmd.ID, true
		require.NoError(t, again.Run())
		_, err = ws.Stat(ctx, "users/u1/kept")
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeNotFound, ""))
		require.NotEmpty(t, again.Final().Rung)

		for dangerous, want := range map[string][2]mesh.Code{
			mesh.DangerousNever: {mesh.CodeDenied, mesh.CodeDenied}, mesh.DangerousAlways: {"", ""}, mesh.DangerousAsked: {mesh.CodeDenied, ""},
		} {
			setLimits(t, m, mesh.Limits{Dangerous: dangerous})
			for i, allow := range []bool{false, true} {
				require.Eventually(t, func() bool { // once the node has heard of it
					cmd := scope.Command(ctx, "sh", "-c", "rm -rf ~/*")
					cmd.AllowDangerous = allow
					return mesh.CodeOf(cmd.Run()) == want[i]
				}, 10*time.Second, 10*time.Millisecond, "%s, allowed by name: %t", dangerous, allow)
			}
		}
	})
}
