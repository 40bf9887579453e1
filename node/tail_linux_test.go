package node_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// limitStream bounds a stream of the mesh to so many bytes; -1 is no bound.
func limitStream(t *testing.T, m *nodetest.Mesh, name string, bytes int64) {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	for _, cfg := range mesh.Streams(mesh.Storage{Shards: 1, Replicas: m.Replicas()}) {
		if cfg.Name != name {
			continue
		}
		cfg.MaxBytes = bytes
		_, err = js.UpdateStream(t.Context(), cfg)
		require.NoError(t, err)
		return
	}
	require.Fail(t, "no such stream", name)
}

// Where no commit can be made, the changes that wait for one have an end: then they
// are refused with the reason, reading goes on, what was acknowledged survives, and
// all goes on by itself when there is room.
func TestTailIsBounded(t *testing.T) {
	const most = 1 << 20
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{MaxTail: most})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "first", []byte("1"), 0))
	limitStream(t, m, mesh.PackStream(0), 1)
	content := bytes.Repeat([]byte("content "), objstore.MaxInline/8)
	n := 0
	var err error
	for ; err == nil && n < 2*most/len(content); n++ {
		err = ws.WriteFile(ctx, fmt.Sprint("d/", n), content, 0) // which waits while a commit is being tried
	}
	requireCode(t, mesh.CodeQuota, err)
	require.ErrorContains(t, err, "commit")
	require.ErrorContains(t, err, "operator")
	requireCode(t, mesh.CodeQuota, ws.Remove(ctx, "first"))
	info, err := ws.Info(ctx)
	require.NoError(t, err)
	require.Contains(t, info.CommitError, "full")
	require.NoError(t, os.WriteFile(filepath.Join(treeOf(m), "made"), nil, 0o600))
	if nodetest.Isolation() != "auto" {
		cmd := ws.Command(ctx, "true")
		require.Error(t, cmd.Run(), "what the command changed is not stored")
		require.Equal(t, mesh.CodeQuota, cmd.Final().ErrorCode)
	}

	m.StopNode(t)
	require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces")))
	m.StartNode(t)
	got, err := ws.ReadFile(ctx, fmt.Sprint("d/", n-2))
	require.NoError(t, err)
	require.Equal(t, content, got)
	limitStream(t, m, mesh.PackStream(0), -1)
	within, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.NoError(c, ws.WriteFile(within, "after", nil, 0))
	}, 30*time.Second, 100*time.Millisecond)
	info, err = ws.Info(ctx)
	require.NoError(t, err)
	require.Empty(t, info.CommitError)
	require.NotEmpty(t, info.Commit)
}

// Content that is too large for a record and has no room in packs: quota, and
// nothing of the change is seen.
func TestFullPacks(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		old := bytes.Repeat([]byte("old"), objstore.MaxInline)
		require.NoError(t, ws.WriteFile(ctx, "f", old, 0))
		limitStream(t, m, mesh.PackStream(0), 1)
		var i int
		require.EventuallyWithT(t, func(c *assert.CollectT) { // every replica learns of the limit in its time
			i++
			assert.Equal(c, mesh.CodeQuota, mesh.CodeOf(ws.WriteFile(ctx, "f", bytes.Repeat(fmt.Append(nil, i), objstore.MaxInline), 0)))
		}, 10*time.Second, 10*time.Millisecond)
		tree := describeTree(t, m)
		require.Equal(t, tree, replay(t, m))
		requireCode(t, mesh.CodeQuota, ws.WriteFile(ctx, "g", bytes.Repeat([]byte("new"), objstore.MaxInline), 0))
		require.Equal(t, tree, describeTree(t, m))
		require.Equal(t, tree, replay(t, m))
		require.NoError(t, ws.WriteFile(ctx, "small", []byte("fits into a record"), 0))
		limitStream(t, m, mesh.PackStream(0), -1)
		require.Eventually(t, func() bool { return ws.WriteFile(ctx, "after", old, 0) == nil }, 10*time.Second, 10*time.Millisecond)
	})
}

// Records that change no file are committed as well: who opens the workspace need
// not read all that ever were.
func TestRecordsWithoutChangesAreCommitted(t *testing.T) {
	t.Parallel() // it waits more than it works
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("1"), 0))
	m.StopNode(t)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	all := journalOf(t, m)
	for last := all[len(all)-1]; last.Number < 2100; {
		r := objstore.Record{
			Epoch: last.Epoch, Number: last.Number + 1, Prev: last.Sequence, Root: last.Hash, Open: last.Open, Checkpoint: last.LastCheckpoint(),
			ID: mesh.NewID(), Time: time.Now(), Ops: []objstore.Op{{Kind: objstore.KindRefused, Code: mesh.CodeExists}},
		}
		msg, hash, err := r.Message(mesh.JournalSubject(0, "acme", "repo"))
		require.NoError(t, err)
		_, err = js.PublishMsgAsync(msg) // nobody else writes there
		require.NoError(t, err)
		last = &objstore.StoredRecord{Record: r, Sequence: last.Sequence + 1, Hash: hash}
	}
	<-js.PublishAsyncComplete()
	m.StartNode(t)
	content, err := ws.ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "1", string(content))
	require.Eventually(t, func() bool {
		stream, err := js.Stream(ctx, mesh.JournalStream(0))
		return err == nil && stream.CachedInfo().State.Msgs < 10
	}, 30*time.Second, 20*time.Millisecond)
	all = journalOf(t, m)
	require.Equal(t, checkpointIn(t, all).Number+1, all[0].Number)
}
