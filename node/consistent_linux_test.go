package node_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// An owner that was overruled and has not heard of it may tell what was true before. Who
// asks for a consistent answer gets none of it.
func TestConsistentReadOfAnOverruledOwner(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("old"), 0o644))
		before, err := ws.Info(ctx)
		require.NoError(t, err)
		b, err := ws.Consistent().ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "old", string(b))
		confirmed, err := ws.Info(ctx)
		require.NoError(t, err)
		require.Greater(t, confirmed.JournalSeq, before.JournalSeq)

		// A later owner, of whom the journal alone knows.
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		stream, err := js.Stream(ctx, mesh.JournalStream(0))
		require.NoError(t, err)
		subject := mesh.JournalSubject(0, nodetest.Tenant, "repo")
		raw, err := stream.GetLastMsgForSubject(ctx, subject)
		require.NoError(t, err)
		last, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
		require.NoError(t, err)
		later := objstore.Record{
			Epoch: last.Epoch + 1, Number: last.Number + 1, Prev: last.Sequence, Root: last.Hash, Open: last.Open, Checkpoint: last.LastCheckpoint(),
			ID: mesh.NewID(), Time: time.Now().UTC(),
			Ops: []objstore.Op{objstore.PutFile("f", objstore.Entry{Mode: 0o644, ModTime: time.Now().UTC(), Size: 3}, []byte("new"))},
		}
		msg, _, err := later.Message(subject)
		require.NoError(t, err)
		_, err = mesh.Publish(ctx, js, msg, last.Sequence)
		require.NoError(t, err)

		b, err = ws.ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "old", string(b), "the owner has heard of it, and the test shows nothing")
		b, err = ws.Consistent().ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "new", string(b))
	})
}

// Consistent readings at the same time share records.
func TestConsistentReadsShareRecords(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("1"), 0o644))
		before, err := ws.Info(ctx)
		require.NoError(t, err)
		const readings = 300
		var all errgroup.Group
		for range readings {
			all.Go(func() error {
				_, err := ws.Consistent().Stat(ctx, "f")
				return err
			})
		}
		require.NoError(t, all.Wait())
		after, err := ws.Info(ctx)
		require.NoError(t, err)
		require.Less(t, after.JournalSeq-before.JournalSeq, uint64(readings))
		require.Greater(t, after.JournalSeq, before.JournalSeq)
	})
}
