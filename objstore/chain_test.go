package objstore_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore"
)

// TestChain: what is not one chain is a gap, wherever it is missing or foreign.
func TestChain(t *testing.T) {
	m := meshtest.Server(t)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	stream, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	leader := mesh.AtLeader(js.Conn(), mesh.JournalStream(0))

	var places []objstore.Place // of the records 1 to 5
	at := objstore.Place{}
	store := func(root string) {
		r := objstore.Record{Epoch: 1, Number: at.Number + 1, Prev: at.Sequence, Root: root, ID: mesh.NewID()}
		msg, hash, err := r.Message(subject)
		require.NoError(t, err)
		seq, err := mesh.Publish(t.Context(), js, msg, at.Sequence)
		require.NoError(t, err)
		at = objstore.Place{Sequence: seq, Number: r.Number, Hash: hash}
		places = append(places, at)
		_, err = js.Publish(t.Context(), mesh.JournalSubject(0, "acme", "other"), []byte("of another journal"))
		require.NoError(t, err)
	}
	for range 5 {
		store(at.Hash)
	}
	read := func(after objstore.Place, last uint64) (numbers []uint64, err error) {
		for r, err := range objstore.Chain(t.Context(), objstore.AtLeader(leader), subject, after, last) {
			if err != nil {
				return numbers, err
			}
			numbers = append(numbers, r.Number)
		}
		return numbers, nil
	}
	all := func(want []uint64, after objstore.Place, last uint64) {
		t.Helper()
		numbers, err := read(after, last)
		require.NoError(t, err)
		require.Equal(t, want, numbers)
	}
	all([]uint64{1, 2, 3, 4, 5}, objstore.Place{}, places[4].Sequence)
	all([]uint64{3, 4}, places[1], places[3].Sequence)
	all(nil, places[4], places[4].Sequence)

	foreign := places[1]
	foreign.Hash = places[0].Hash
	_, err = read(foreign, places[4].Sequence)
	require.ErrorIs(t, err, objstore.ErrGap, "another record was at the place")
	_, err = read(objstore.Place{}, places[4].Sequence+1)
	require.ErrorIs(t, err, objstore.ErrGap, "nothing is there to end with")

	store("of no record")
	numbers, err := read(objstore.Place{}, places[5].Sequence)
	require.ErrorIs(t, err, objstore.ErrGap)
	require.Len(t, numbers, 5)

	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(places[2].Sequence)))
	all([]uint64{3, 4, 5}, objstore.Place{}, places[4].Sequence)
	_, err = read(places[0], places[4].Sequence)
	require.ErrorIs(t, err, objstore.ErrGap, "a record was purged")
}
