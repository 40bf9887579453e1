package node_test

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// loseJournal takes every record of the workspace away, as the loss of the stream
// does; with its stream, so that sequences begin anew, or alone.
func loseJournal(t *testing.T, m *nodetest.Mesh, stream bool) {
	t.Helper()
	js, s := journalStream(t, m)
	if stream {
		require.NoError(t, js.DeleteStream(t.Context(), mesh.JournalStream(0)))
		return // a node makes it again when it starts
	}
	require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject(mesh.JournalSubject(0, nodetest.Tenant, "repo"))))
}

// record is the workspace's record as it is stored.
func record(t *testing.T, m *nodetest.Mesh) (kv jetstream.KeyValue, fields map[string]any) {
	t.Helper()
	js, _ := journalStream(t, m)
	kv, err := js.KeyValue(t.Context(), mesh.BucketWorkspaces)
	require.NoError(t, err)
	e, err := kv.Get(t.Context(), string(nodetest.Tenant)+".repo")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(e.Value(), &fields))
	return kv, fields
}

// unmark makes the workspace's record one of an earlier version.
func unmark(t *testing.T, m *nodetest.Mesh) {
	t.Helper()
	kv, fields := record(t, m)
	require.Equal(t, true, fields["served"])
	delete(fields, "served")
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), string(nodetest.Tenant)+".repo", raw)
	require.NoError(t, err)
}

// TestLostJournalIsNotEmpty: a workspace whose journal is empty although it has been
// served shows no empty tree, however often it is opened: it says what to do. Its last
// commit can be gone back to, and it can be given up.
func TestLostJournalIsNotEmpty(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "d/f", []byte("kept"), 0))
		refused := func() {
			t.Helper()
			_, err := ws.ReadFile(ctx, "d/f")
			requireCode(t, mesh.CodeInternal, err)
			require.ErrorContains(t, err, "the journal of workspace repo was lost")
			require.ErrorContains(t, err, "wsmesh workspace recover repo")
			require.ErrorContains(t, err, "wsmesh workspace rm --force repo")
			requireCode(t, mesh.CodeInternal, ws.WriteFile(ctx, "new", nil, 0))
			for _, err := range ws.ReadDir(ctx, "") {
				requireCode(t, mesh.CodeInternal, err)
			}
		}
		for _, stream := range []bool{false, true} {
			m.StopNode(t) // commits
			loseJournal(t, m, stream)
			m.StartNode(t)
			refused()
			m.StopNode(t)
			m.StartNode(t) // the journal has the record of a tenure now
			refused()
			found, err := ws.Verify(ctx, nil)
			require.NoError(t, err)
			require.Equal(t, mesh.BrokenJournal, found.Broken[0].Kind, "%+v", found.Broken)
			got, err := ws.Recover(ctx, "", nil)
			require.NoError(t, err)
			require.Contains(t, got.Reason, "was lost")
			b, err := ws.ReadFile(ctx, "d/f")
			require.NoError(t, err)
			require.Equal(t, "kept", string(b))
			require.NoError(t, ws.WriteFile(ctx, "more", nil, 0))
		}

		// Nothing is left to go back to: the name can be used again.
		m.StopNode(t)
		js, _ := journalStream(t, m)
		require.NoError(t, js.DeleteStream(ctx, mesh.PackStream(0)))
		loseJournal(t, m, false)
		m.StartNode(t)
		refused()
		_, err := ws.Recover(ctx, "", nil)
		requireCode(t, mesh.CodeNotFound, err)
		require.ErrorContains(t, err, "rm --force repo")
		require.NoError(t, m.Client.RemoveWorkspaceByForce(ctx, "repo"))
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("another"), 0))
		names := 0
		for _, err := range ws.ReadDir(ctx, "") {
			require.NoError(t, err)
			names++
		}
		require.Equal(t, 1, names)
		m.StopNode(t) // and its journal begins behind the deleted record
		m.StartNode(t)
		_, err = ws.ReadFile(ctx, "f")
		require.NoError(t, err)
	})
}

// TestRecordWithoutMark: a workspace whose record an earlier version has made, or whose
// opener died before it set the mark, opens and has it then.
func TestRecordWithoutMark(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, m.Client.CreateWorkspace(ctx, "repo"))
		_, fields := record(t, m)
		require.NotContains(t, fields, "served", "nobody has opened it")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("kept"), 0))
		m.StopNode(t)
		unmark(t, m)
		m.StartNode(t)
		b, err := ws.ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "kept", string(b))
		_, fields = record(t, m)
		require.Equal(t, true, fields["served"])
	})
}
