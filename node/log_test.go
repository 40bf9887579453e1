package node_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// ownerRequest sends one raw request to the owner of acme/repo.
func ownerRequest(t *testing.T, m *nodetest.Mesh, conn *nats.Conn, verb string, args any, edit func(*nats.Msg)) (*nats.Msg, error) {
	t.Helper()
	info, err := m.Client.Workspace("repo").Info(t.Context())
	require.NoError(t, err)
	req, err := mesh.NewRequest(mesh.OwnerSubject("acme", "repo", info.Epoch, verb), mesh.NewID(), "", args, nil)
	require.NoError(t, err)
	if edit != nil {
		edit(req)
	}
	return conn.RequestMsg(req, 5*time.Second)
}

// A cancel that overtakes its exec request wins: the command never starts.
func TestCancelBeforeTheClaim(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		id := mesh.NewExecID()
		conn := m.DialToken(t, m.Token(t, nodetest.Tenant))
		answer, err := ownerRequest(t, m, conn, mesh.VerbSignal, mesh.SignalRequest{ID: id, Signal: "KILL"}, nil)
		require.NoError(t, err)
		_, err = mesh.DecodeReply(answer, nil)
		require.NoError(t, err)

		cmd := ws.Command(ctx, "touch", "ran")
		cmd.ID = string(id)
		require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(cmd.Run()))
		_, err = ws.Stat(ctx, "ran")
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
	})
}

// A caller with no patience is the caller's problem: repeats of an exec with
// deadlines of a millisecond do not end the tenure.
func TestImpatientRepeatsDoNotEndTheTenure(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		first := ws.Command(ctx, "true")
		require.NoError(t, first.Run())
		before, err := ws.Info(ctx)
		require.NoError(t, err)
		conn := m.DialToken(t, m.Token(t, nodetest.Tenant))
		for range 50 {
			_, err := ownerRequest(t, m, conn, mesh.VerbExec, mesh.ExecRequest{ID: mesh.ExecID(first.ID), Args: []mesh.Path{"true"}},
				func(r *nats.Msg) { r.Header.Set(mesh.HeaderDeadline, "1") })
			require.NoError(t, err)
		}
		after, err := ws.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, before.Epoch, after.Epoch)
	})
}

// A log that nobody writes any more gets its end when somebody reads it, while
// the workspace stays open.
func TestReadingALogWithoutAnEndEndsIt(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		info, err := ws.Info(ctx)
		require.NoError(t, err)
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		id := mesh.NewExecID()
		claim := mesh.Frame{Kind: mesh.FrameClaim, Claim: &mesh.Claim{Node: "n1", Epoch: info.Epoch, Nonce: "x", Hash: "h"}}
		msg := nats.NewMsg(mesh.ExecLogSubject(0, "acme", "repo", id))
		msg.Data, err = claim.Encode()
		require.NoError(t, err)
		seq, err := mesh.Publish(ctx, js, msg, 0)
		require.NoError(t, err)

		conn := m.DialToken(t, m.Token(t, nodetest.Tenant))
		req, err := mesh.NewRequest(mesh.APISubject("acme", mesh.ServiceLog, mesh.VerbLogRead), "", "", mesh.LogRequest{Workspace: "repo", ID: id, After: seq}, nil)
		require.NoError(t, err)
		answer, err := conn.RequestMsg(req, 10*time.Second)
		require.NoError(t, err)
		raw, err := mesh.DecodeReply(answer, nil)
		require.NoError(t, err)
		frames, err := mesh.UnpackFrames(raw)
		require.NoError(t, err)
		require.Len(t, frames, 1)
		f, err := mesh.DecodeFrame(frames[0].Data)
		require.NoError(t, err)
		require.Equal(t, mesh.CodeLost, f.Final.ErrorCode)
	})
}

// A log lasts longer than its claim, which is the oldest of its frames. What is
// left of it is no scope's: neither output frames nor a final frame with output.
func TestLogWithoutItsClaimIsNoScopes(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx := t.Context()
		openRepo(t, m)
		all := map[string]*caller{}
		for _, c := range callers(t, m) {
			all[c.name] = c
		}
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		stream, err := js.Stream(ctx, mesh.ExecLogStream(0))
		require.NoError(t, err)
		for name, script := range map[string]string{
			"only the end is left": "echo private",
			"output is left":       "head -c 200000 /dev/zero",
		} {
			t.Run(name, func(t *testing.T) {
				cmd := m.Client.Workspace("repo").Scope("users/u2").Command(ctx, "sh", "-c", script)
				require.NoError(t, cmd.Run())
				id := mesh.ExecID(cmd.ID)
				claim, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(mesh.ExecLogSubject(0, nodetest.Tenant, "repo", id)))
				require.NoError(t, err)
				require.NoError(t, stream.DeleteMsg(ctx, claim.Sequence))
				read := mesh.LogRequest{Workspace: "repo", ID: id}
				c := all["scope"]
				requireCode(t, mesh.CodeNotFound, c.ask(t, c.api(mesh.ServiceLog, mesh.VerbLogRead), "", read, nil))
				c = all["tenant"]
				requireCode(t, mesh.CodeNotFound, c.ask(t, c.api(mesh.ServiceLog, mesh.VerbLogRead), "users/u1", read, nil))
				requireCode(t, "", c.ask(t, c.api(mesh.ServiceLog, mesh.VerbLogRead), "", read, nil))
			})
		}
		t.Run("canceled before it started", func(t *testing.T) {
			id := mesh.NewExecID()
			info, err := m.Client.Workspace("repo").Info(ctx)
			require.NoError(t, err)
			c := all["scope"]
			requireCode(t, "", c.ask(t, c.owner(info.Epoch, mesh.VerbSignal), "", mesh.SignalRequest{ID: id, Signal: "KILL"}, nil))
			requireCode(t, "", c.ask(t, c.api(mesh.ServiceLog, mesh.VerbLogRead), "", mesh.LogRequest{Workspace: "repo", ID: id}, nil))
		})
	})
}
