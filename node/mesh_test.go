package node_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// appendExecRecord adds an exec record to the journal of acme/repo, as its owner
// would have.
func appendExecRecord(t *testing.T, js jetstream.JetStream, id mesh.ExecID) {
	t.Helper()
	subject := mesh.JournalSubject(0, "acme", "repo")
	stream, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	raw, err := stream.GetLastMsgForSubject(t.Context(), subject)
	require.NoError(t, err)
	last, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
	require.NoError(t, err)
	r := objstore.Record{
		Epoch: last.Epoch, Number: last.Number + 1, Prev: last.Sequence, Root: last.Hash, Open: last.Open, Checkpoint: last.Checkpoint,
		ID: mesh.NewID(), Time: time.Now(), Ops: []objstore.Op{{Kind: objstore.KindExec, Exec: id}},
	}
	if r.Open == 0 {
		r.Open = last.Sequence
	}
	if last.Has(objstore.KindCheckpoint) {
		r.Checkpoint = last.Sequence
	}
	m, _, err := r.Message(subject)
	require.NoError(t, err)
	_, err = mesh.Publish(t.Context(), js, m, last.Sequence)
	require.NoError(t, err)
}
