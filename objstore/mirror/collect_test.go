package mirror_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/mirror"
)

// What nothing refers to goes: not what a head, a snapshot, a fork or a memory does, nor
// what the mesh itself does, nor what is young.
func TestCollect(t *testing.T) {
	ctx, r, from := t.Context(), remote(t), source(t)
	m := newMirror(t, r, "m")
	has := func(ref objstore.Ref) bool {
		there, err := m.Packs(tenant).Has(ctx, ref.Pack)
		require.NoError(t, err)
		return there
	}
	head := mirror.Head{Workspace: "id", Epoch: 1}
	old := commit(t, from, 1)
	for i, ref := range []objstore.Ref{old, commit(t, from, 2)} {
		head.Sequence, head.Ref = uint64(i+1), ref
		_, err := m.Commit(ctx, tenant, workspace, head, from)
		require.NoError(t, err)
	}
	snapshot, fork, meshs := commit(t, from, 3), commit(t, from, 4), commit(t, from, 5)
	for _, ref := range []objstore.Ref{snapshot, fork, meshs} {
		require.NoError(t, m.Content(ctx, tenant, ref, from))
	}
	value, err := json.Marshal(map[string]any{"commit": snapshot.String()})
	require.NoError(t, err)
	require.NoError(t, m.Record(ctx, mirror.SnapshotName(tenant, workspace, "s"), mirror.Record{Revision: 1, Value: value}))
	value, err = json.Marshal(map[string]any{"name": "fork", "origin": map[string]any{"commit": fork.String()}})
	require.NoError(t, err)
	require.NoError(t, m.Record(ctx, mirror.WorkspaceName(tenant, "fork"), mirror.Record{Revision: 1, Value: value}))
	entries := func(values ...string) func(context.Context, func(mirror.MemoryEntry) error) (uint64, error) {
		return func(_ context.Context, yield func(mirror.MemoryEntry) error) (uint64, error) {
			for i, v := range values {
				if err := yield(mirror.MemoryEntry{Key: v, Revision: uint64(i + 1), Value: []byte(v)}); err != nil {
					return 0, err
				}
			}
			return uint64(len(values)), nil
		}
	}
	_, err = m.Memory(ctx, tenant, "main", 1, entries("a"))
	require.NoError(t, err)
	memory, err := m.Memory(ctx, tenant, "main", 2, entries("a", "b"))
	require.NoError(t, err)

	kept := map[objstore.ID]bool{meshs.Pack: true}
	done, err := m.Collect(ctx, tenant, kept, time.Hour, false)
	require.NoError(t, err)
	require.Zero(t, done.Deleted)
	require.NotZero(t, done.Young)
	dry, err := m.Collect(ctx, tenant, kept, -time.Hour, true)
	require.NoError(t, err)
	require.True(t, has(old))
	done, err = m.Collect(ctx, tenant, kept, -time.Hour, false)
	require.NoError(t, err)
	require.Equal(t, dry, done)
	require.False(t, has(old))
	for _, ref := range []objstore.Ref{head.Ref, snapshot, fork, meshs} {
		require.True(t, has(ref))
	}
	whole(t, r)
	n := 0
	for _, err := range m.Entries(ctx, tenant, memory) {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, 2, n)
	again, err := m.Collect(ctx, tenant, kept, -time.Hour, false)
	require.NoError(t, err)
	require.Zero(t, again.Deleted)

	// What cannot be read may refer to anything.
	require.NoError(t, objstore.PutSmall(ctx, r, "tenants/acme/snapshots/repo/bad.json", []byte("{"), ""))
	_, err = m.Collect(ctx, tenant, nil, -time.Hour, false)
	require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%v", err)
	require.True(t, has(meshs))
}

// A commit of which only its own pack is there, since a later one lists that, is copied
// whole.
func TestCommitIsCopiedWhole(t *testing.T) {
	ctx, r, from := t.Context(), remote(t), source(t)
	m := newMirror(t, r, "m")
	ref := commit(t, from, 1)
	data, err := from.Pack(ctx, ref.Pack)
	require.NoError(t, err)
	require.NoError(t, m.Packs(tenant).Put(ctx, ref.Pack, data))
	_, err = m.Commit(ctx, tenant, workspace, mirror.Head{Workspace: "id", Epoch: 1, Sequence: 1, Ref: ref}, from)
	require.NoError(t, err)
	whole(t, r)
}
