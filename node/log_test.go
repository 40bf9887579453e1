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
		js, err := jetstream.New(m.Store(t, "n1"))
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
