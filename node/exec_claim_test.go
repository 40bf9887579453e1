package node_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// execIDOf makes an id of a moment.
func execIDOf(at time.Time) mesh.ExecID {
	ms := fmt.Sprintf("%012x", at.UnixMilli())
	return mesh.ExecID(ms[:8] + "-" + ms[8:] + string(mesh.NewExecID())[13:])
}

// An id is good from a little before its moment to the half of the time that a log
// is kept: an older one's log may be gone, and its claim could be won again.
func TestIDsOfOtherTimes(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		for name, c := range map[string]struct {
			age  time.Duration
			code mesh.Code
		}{
			"old":      {mesh.DefaultLogAge/2 - time.Minute, ""},
			"too old":  {mesh.DefaultLogAge/2 + time.Minute, mesh.CodeInvalid},
			"late":     {-4 * time.Minute, ""},
			"too late": {-6 * time.Minute, mesh.CodeInvalid},
		} {
			t.Run(name, func(t *testing.T) {
				cmd := ws.Command(ctx, "true")
				cmd.ID = string(execIDOf(time.Now().Add(-c.age)))
				requireCode(t, c.code, cmd.Run())
			})
		}
	})
}

// A claim of a higher epoch is another owner's, who may run the command: whoever
// reads its log, this node does not end it.
func TestClaimOfALaterOwnerIsLeftAlone(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		info, err := ws.Info(ctx)
		require.NoError(t, err)
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		for epoch, want := range map[mesh.Epoch]int{info.Epoch: 1, info.Epoch + 1: 0} {
			id := mesh.NewExecID()
			claim := mesh.Frame{Kind: mesh.FrameClaim, Claim: &mesh.Claim{Node: "n2", Epoch: epoch, Nonce: "x", Hash: "h", Time: time.Now()}}
			msg := nats.NewMsg(mesh.ExecLogSubject(0, nodetest.Tenant, "repo", id))
			msg.Data, err = claim.Encode()
			require.NoError(t, err)
			_, err = mesh.Publish(ctx, js, msg, 0)
			require.NoError(t, err)
			for range 2 {
				x, err := ws.Attach(ctx, string(id))
				require.NoError(t, err)
				for _, err := range x.Stored(ctx) {
					require.NoError(t, err)
				}
				x.Close()
			}
			require.Equal(t, want, finals(t, m, string(id)), "epoch %d of %d", epoch, info.Epoch)
		}
	})
}

// A node that died after the journal's record of an exec and before its claim: the
// next owner ends the log as its first frame, so that no late claim starts it.
func TestExecWithoutItsClaimIsLost(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		m.StopNode(t)
		id := mesh.NewExecID()
		appendExecRecord(t, js, id)
		m.StartNode(t)
		require.NoError(t, ws.WriteFile(ctx, "g", nil, 0)) // opens it
		require.Equal(t, 1, finals(t, m, string(id)))
		cmd := ws.Command(ctx, "touch", "ran")
		cmd.ID = string(id)
		requireCode(t, mesh.CodeLost, cmd.Run())
		_, err = ws.Stat(ctx, "ran")
		requireCode(t, mesh.CodeNotFound, err)
	})
}

// A command does not start before both of its claim and the journal's record are
// acknowledged: where one of them is refused, it never does, and its id is used up
// only if the claim stands.
func TestBothRecordsComeBeforeTheCommand(t *testing.T) {
	nodetest.Commands(t)
	for name, stream := range map[string]string{"claim": mesh.ExecLogStream(0), "record": mesh.JournalStream(0)} {
		t.Run(name, func(t *testing.T) {
			m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
			ctx, ws := t.Context(), m.Client.Workspace("repo")
			require.NoError(t, ws.Command(ctx, "true").Run())
			limitStream(t, m, stream, 1)
			cmd := ws.Command(ctx, "sh", "-c", "touch ran; echo out")
			cmd.ID = string(mesh.NewExecID())
			out, err := cmd.Output()
			requireCode(t, mesh.CodeQuota, err)
			require.Empty(t, out)
			limitStream(t, m, stream, -1)
			_, err = ws.Stat(ctx, "ran")
			requireCode(t, mesh.CodeNotFound, err)
			again := ws.Command(ctx, "sh", "-c", "touch ran; echo out")
			again.ID = cmd.ID
			if name == "claim" {
				require.NoError(t, again.Run())
				return
			}
			requireCode(t, mesh.CodeCanceled, again.Run())
			require.Equal(t, 1, finals(t, m, cmd.ID))
			_, err = ws.Stat(ctx, "ran")
			requireCode(t, mesh.CodeNotFound, err)
		})
	}
}

// What an environment variable holds is in no stream of the mesh; its name is in
// the claim.
func TestValuesOfTheEnvironmentAreNotKept(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		value := mesh.NewID()
		cmd := ws.Command(ctx, "sh", "-c", `echo ${#SECRET}; touch f`)
		cmd.Env = []string{"SECRET=" + value}
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintln(len(value)), string(out))
		m.StopNode(t)

		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		messages, named := 0, false
		streams := js.StreamNames(ctx)
		for name := range streams.Name() {
			for raw, err := range mesh.Messages(ctx, js.Conn(), name, ">", 1, 10_000) {
				require.NoError(t, err)
				messages++
				require.NotContains(t, string(raw.Data), value, "%s", raw.Subject)
				require.NotContains(t, fmt.Sprint(raw.Header), value, "%s", raw.Subject)
				named = named || name == mesh.ExecLogStream(0) && bytes.Contains(raw.Data, []byte("SECRET"))
			}
		}
		require.NoError(t, streams.Err())
		require.Greater(t, messages, 5)
		require.True(t, named, "the claim does not name it")
	})
}
