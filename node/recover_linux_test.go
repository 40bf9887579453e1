package node_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// damage flips a bit in what is stored on a subject, or takes it away.
func damage(t *testing.T, m *nodetest.Mesh, stream, subject string, gone bool) {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	raw, err := s.GetLastMsgForSubject(t.Context(), subject)
	require.NoError(t, err)
	require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject(subject)))
	if gone {
		return
	}
	raw.Data[len(raw.Data)/3] ^= 1
	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: raw.Header, Data: raw.Data})
	require.NoError(t, err)
}

func damagePack(t *testing.T, m *nodetest.Mesh, pack objstore.ID, gone bool) {
	t.Helper()
	damage(t, m, mesh.PackStream(0), mesh.PackEndSubject(0, nodetest.Tenant, pack), gone)
}

func wipe(t *testing.T, m *nodetest.Mesh) {
	t.Helper()
	require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces")))
}

// noise is content of which no two parts are alike.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// TestVerify: what is damaged is named, in the store and on the node's disk; a
// workspace that is whole is said to be.
func TestVerify(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "d/kept", noise(1, 300_000), 0))
		require.NoError(t, ws.WriteFile(ctx, "d/other", []byte("other"), 0))
		m.StopNode(t)
		m.StartNode(t)
		require.NoError(t, ws.WriteFile(ctx, "tail", noise(2, 300_000), 0))
		require.NoError(t, ws.WriteFile(ctx, "small", []byte("in a record"), 0))

		got, err := ws.Verify(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, got.Broken)
		require.Greater(t, got.Records, 2)
		require.Greater(t, got.Packs, 1)
		require.Equal(t, 4, got.Names)
		require.Equal(t, 6, got.Local)
		require.Greater(t, got.Read, int64(600_000))

		var packs []objstore.ID // that of the tail
		for _, r := range journalOf(t, m) {
			for _, op := range r.Ops {
				packs = append(packs, op.Packs...)
			}
		}
		require.Len(t, packs, 1)
		damagePack(t, m, packs[0], false)
		local := filepath.Join(hostTree(m), "d/other")
		info, err := os.Stat(local)
		require.NoError(t, err)
		flipOnDisk(t, local, info)

		got, err = ws.Verify(ctx, nil)
		require.NoError(t, err)
		byKind := map[string]mesh.Broken{}
		for _, b := range got.Broken {
			byKind[b.Kind] = b
		}
		require.Len(t, got.Broken, len(byKind), "%+v", got.Broken)
		require.Equal(t, packs[0].String(), byKind[mesh.BrokenPack].Name)
		require.Equal(t, mesh.Path("tail"), byKind[mesh.BrokenContent].Path)
		if got.Changed == 0 { // where the change of time can be hidden
			require.Equal(t, mesh.Path("d/other"), byKind[mesh.BrokenLocal].Path)
		}
		scoped, err := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", "d")).Workspace("repo").Verify(ctx, nil)
		require.NoError(t, err)
		for _, b := range scoped.Broken {
			require.Contains(t, []mesh.Path{"", "other"}, b.Path)
		}
	})
}

// flipOnDisk changes a file behind the back of everyone, as a failing disk would:
// as far as a program can, its description stays.
func flipOnDisk(t *testing.T, file string, info os.FileInfo) {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("X"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(file, info.ModTime(), info.ModTime()))
}

// TestRecover: a workspace that cannot be restored goes back to the newest state that
// is whole: a commit, and what of the records behind it is; and says what is lost.
func TestRecover(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		_, err := ws.Recover(ctx, "", nil)
		require.Error(t, err)
		write := func(name string, content []byte) { require.NoError(t, ws.WriteFile(ctx, name, content, 0)) }
		commit := func() mesh.HistoryEntry {
			m.StopNode(t)
			m.StartNode(t)
			for e, err := range ws.Commits(ctx) {
				require.NoError(t, err)
				return e
			}
			return mesh.HistoryEntry{}
		}
		write("one", []byte("1"))
		first := commit()
		write("two", noise(2, 300_000))
		var ofTwo objstore.ID
		for _, r := range journalOf(t, m) {
			for _, op := range r.Ops {
				if op.Path == "two" {
					ofTwo = op.Packs[0]
				}
			}
		}
		second := commit()
		require.NotEqual(t, first.Commit, second.Commit)
		write("three", []byte("3"))
		_, err = ws.Recover(ctx, first.Commit, nil)
		requireCode(t, mesh.CodeConflict, err) // it can be opened

		// The pack of the second commit is lost, and with it what is in that only.
		m.StopNode(t)
		damagePack(t, m, checkpointIn(t, journalOf(t, m)).Ref.Pack, true)
		wipe(t, m)
		m.StartNode(t)
		_, err = ws.ReadFile(ctx, "one")
		requireCode(t, mesh.CodeInternal, err)
		require.ErrorContains(t, err, "wsmesh workspace recover repo")
		found, err := ws.Verify(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, mesh.BrokenCommit, found.Broken[0].Kind, "%+v", found.Broken)
		var commits []mesh.HistoryEntry
		for e, err := range ws.Commits(ctx) {
			require.NoError(t, err)
			commits = append(commits, e)
		}
		require.NotEmpty(t, commits[0].Error)
		require.Equal(t, []string{second.Commit, first.Commit}, []string{commits[1].Commit, commits[2].Commit}, "found without the one that named them")

		_, err = ws.Recover(ctx, objstore.IDOf([]byte("none")).String(), nil)
		requireCode(t, mesh.CodeNotFound, err)
		_, err = ws.Scope("d").Recover(ctx, "", nil)
		requireCode(t, mesh.CodeDenied, err)
		got, err := ws.Recover(ctx, "", nil)
		require.NoError(t, err)
		require.Equal(t, second.Commit, got.From)
		require.NotEmpty(t, got.Reason)
		require.NotZero(t, got.Records)
		_, err = ws.Stat(ctx, "three")
		requireCode(t, mesh.CodeNotFound, err)
		b, err := ws.ReadFile(ctx, "two")
		require.NoError(t, err)
		require.True(t, bytes.Equal(noise(2, 300_000), b))
		found, err = ws.Verify(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, found.Broken, "whole again")
		require.Equal(t, got.Commit, found.Commit)

		// A record in the middle of the tail is lost: what is before it is kept.
		write("four", []byte("4"))
		lostAt, err := ws.Info(ctx)
		require.NoError(t, err)
		five := mesh.NewID()
		require.NoError(t, writeAs(t, m, five, "five"))
		write("six", []byte("6"))
		abandon(t, m) // no commit at the end
		deleteRecord(t, m, lostAt.JournalSeq+1)
		m.StartNode(t)
		_, err = ws.ReadFile(ctx, "one")
		requireCode(t, mesh.CodeInternal, err)
		got, err = ws.Recover(ctx, "", nil)
		require.NoError(t, err)
		require.Len(t, got.Lost, 1, "of what can be read still")
		require.Equal(t, mesh.Path("six"), got.Lost[0].Path)
		for name, there := range map[string]bool{"one": true, "two": true, "three": false, "four": true, "five": false, "six": false} {
			_, err := ws.Stat(ctx, name)
			require.Equal(t, there, err == nil, "%s: %v", name, err)
		}

		// The answer to what was given up is not known any more: a repeat does it.
		require.NoError(t, writeAs(t, m, five, "five"))
		_, err = ws.Stat(ctx, "five")
		require.NoError(t, err)

		// To a commit by name, which has to be whole; and the end of the journal cannot be read at all.
		write("seven", []byte("7"))
		abandon(t, m)
		garbage(t, m)
		damagePack(t, m, ofTwo, false)
		m.StartNode(t)
		_, err = ws.ReadFile(ctx, "one")
		requireCode(t, mesh.CodeInternal, err)
		_, err = ws.Recover(ctx, second.Commit, nil)
		requireCode(t, mesh.CodeConflict, err)
		require.ErrorContains(t, err, "not whole")
		got, err = ws.Recover(ctx, first.Commit, nil)
		require.NoError(t, err)
		require.Equal(t, first.Commit, got.From)
		entries := 0
		for e, err := range ws.ReadDir(ctx, "") {
			require.NoError(t, err)
			require.Equal(t, mesh.Path("one"), e.Path)
			entries++
		}
		require.Equal(t, 1, entries)
		write("eight", []byte("8"))
		commit()
		_, err = ws.Stat(ctx, "eight")
		require.NoError(t, err)
	})
}

// writeAs writes a file by a request with this Mesh-Id.
func writeAs(t *testing.T, m *nodetest.Mesh, id, name string) error {
	t.Helper()
	info, err := m.Client.Workspace("repo").Info(t.Context())
	require.NoError(t, err)
	req, err := mesh.NewRequest(mesh.OwnerSubject(nodetest.Tenant, "repo", info.Epoch, mesh.VerbWrite), id, ".", mesh.WriteRequest{Path: mesh.Path(name)}, []byte(name))
	require.NoError(t, err)
	reply, err := m.DialToken(t, m.Token(t, nodetest.Tenant)).RequestMsg(req, 20*time.Second)
	require.NoError(t, err)
	_, err = mesh.DecodeReply(reply, nil)
	return err
}

// abandon ends the node without a commit, as a crash would.
func abandon(t *testing.T, m *nodetest.Mesh) {
	t.Helper()
	wipe(t, m) // under the node
	m.StopNode(t)
}

func journalStream(t *testing.T, m *nodetest.Mesh) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	return js, s
}

func deleteRecord(t *testing.T, m *nodetest.Mesh, sequence uint64) {
	t.Helper()
	_, s := journalStream(t, m)
	require.NoError(t, s.DeleteMsg(t.Context(), sequence))
}

// garbage is the last record of the journal now.
func garbage(t *testing.T, m *nodetest.Mesh) {
	t.Helper()
	js, _ := journalStream(t, m)
	_, err := js.Publish(t.Context(), mesh.JournalSubject(0, nodetest.Tenant, "repo"), []byte("no record"))
	require.NoError(t, err)
}

// TestRemoveByForce: a workspace of which nothing can be read is removed, and one whose
// owner is alive and would not; the name is another workspace's then, and an owner that
// is late stores nothing.
func TestRemoveByForce(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		requireCode(t, mesh.CodeNotFound, m.Client.RemoveWorkspaceByForce(ctx, "repo"))
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("old"), 0))
		abandon(t, m)
		garbage(t, m)
		m.StartNode(t)
		bound := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", ""))
		requireCode(t, mesh.CodeDenied, bound.RemoveWorkspaceByForce(ctx, "repo"))
		require.NoError(t, m.Client.RemoveWorkspaceByForce(ctx, "repo"))
		_, err := ws.ReadFile(ctx, "f")
		requireCode(t, mesh.CodeNotFound, err)
		records := journalOf(t, m)
		require.Len(t, records, 1, "the last one stays, and no other")
		require.Equal(t, objstore.KindDeleted, records[0].Ops[0].Kind)

		// Its owner is another node, and alive.
		m.AddNode(t, "n2")
		m.StopNode(t)
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("new"), 0))
		owner, err := ws.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, mesh.Node("n2"), owner.Node)
		m.StartNode(t)
		for range 3 { // whichever node is asked
			require.NoError(t, m.Client.RemoveWorkspaceByForce(ctx, "repo"))
			_, err = ws.ReadFile(ctx, "f")
			requireCode(t, mesh.CodeNotFound, err)
			require.NoError(t, ws.WriteFile(ctx, "f", []byte("new"), 0))
		}
	})
}
