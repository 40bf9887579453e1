package kv_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// TestSnapshots: a name is one request's in the life of a workspace, and free again when
// it was removed.
func TestSnapshots(t *testing.T) {
	for name, servers := range map[string]int{"single": 1, "cluster": 3} {
		t.Run(name, func(t *testing.T) {
			m, _, s := start(t, servers)
			ctx := t.Context()
			made := func(id, name, request string) (kv.SnapshotRecord, error) {
				return s.Snapshots.Create(ctx, "acme", "repo", kv.SnapshotRecord{Workspace: id, Name: mesh.Snapshot(name), Commit: request, Created: time.Now(), Request: request})
			}
			_, err := s.Snapshots.Get(ctx, "acme", "repo", "id1", "first")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
			first, err := made("id1", "first", "r1")
			require.NoError(t, err)
			again, err := made("id1", "first", "r1")
			require.NoError(t, err)
			require.True(t, first.Created.Equal(again.Created))
			_, err = made("id1", "first", "r2")
			require.Equal(t, mesh.CodeExists, mesh.CodeOf(err))

			require.NoError(t, s.Snapshots.Remove(ctx, "acme", "repo", "id1", "first"))
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(s.Snapshots.Remove(ctx, "acme", "repo", "id1", "first")))
			_, err = made("id1", "first", "r2")
			require.NoError(t, err)
			_, err = made("id1", "second", "r3")
			require.NoError(t, err)

			// Another workspace of the name has none of them, and takes their names.
			list, err := s.Snapshots.List(ctx, "acme", "repo", "id2")
			require.NoError(t, err)
			require.Empty(t, list)
			_, err = made("id2", "second", "r4")
			require.NoError(t, err)
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(s.Snapshots.Remove(ctx, "acme", "repo", "id1", "second")))
			require.NoError(t, s.Snapshots.RemoveAll(ctx, "acme", "repo", "id1"))
			list, err = s.Snapshots.ListTenant(ctx, "acme")
			require.NoError(t, err)
			require.Len(t, list, 1)
			require.Equal(t, "id2", list[0].Workspace)

			testSnapshotRace(t, m)
		})
	}
}

func testSnapshotRace(t *testing.T, m *meshtest.Mesh) {
	var mu sync.Mutex
	won := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 4 {
		s := open(t, connect(t, m, mesh.Node([]string{"a", "b", "c", "d"}[i])))
		wg.Go(func() {
			id := mesh.NewID()
			r, err := s.Snapshots.Create(t.Context(), "acme", "race", kv.SnapshotRecord{Workspace: "id", Name: "one", Request: id})
			if mesh.CodeOf(err) == mesh.CodeExists && err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			won[r.Request] = true
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
}
