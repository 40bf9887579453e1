package node_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// collect has the tenant's garbage collected and keeps as little as may be.
func collect(t *testing.T, m *nodetest.Mesh, dry bool) (reply mesh.CollectReply, err error) {
	t.Helper()
	req := mesh.CollectRequest{ID: mesh.NewID(), Tenant: nodetest.Tenant, KeepLast: 1, KeepWithinMS: 1, DryRun: dry}
	for !reply.Done && err == nil {
		err = m.Ask(t, mesh.VerbAdminCollect, req, &reply)
	}
	return reply, err
}

// restartOnEmptyDisk makes a commit, forgets all files, and starts again.
func restartOnEmptyDisk(t *testing.T, m *nodetest.Mesh) {
	t.Helper()
	m.StopNode(t)
	require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces")))
	m.StartNode(t)
}

func blobOf(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func storedPacks(t *testing.T, m *nodetest.Mesh) uint64 {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), mesh.PackStream(0))
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}

// What nothing refers to is deleted, and nothing else: what only the journal's tail
// refers to stays, and so does what the last commit does.
func TestCollect(t *testing.T) {
	nodetest.LocalWith(t, nodetest.Config{CollectAge: time.Nanosecond}, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		kept, gone, tail := blobOf(1, 1<<20), blobOf(2, 2<<20), blobOf(3, 1<<20)
		require.NoError(t, ws.WriteFile(ctx, "kept", kept, 0))
		require.NoError(t, ws.WriteFile(ctx, "gone", gone, 0))
		require.NoError(t, m.Client.Workspace("other").WriteFile(ctx, "kept", kept, 0))
		restartOnEmptyDisk(t, m)
		require.NoError(t, ws.Remove(ctx, "gone"))
		restartOnEmptyDisk(t, m)
		require.NoError(t, ws.WriteFile(ctx, "tail", tail, 0)) // is in no commit

		// The part of a pack whose writer died.
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		_, err = js.Publish(ctx, mesh.PackSubject(0, nodetest.Tenant, objstore.IDOf([]byte("dead")), 0), bytes.Repeat([]byte{1}, 1000))
		require.NoError(t, err)

		before := storedPacks(t, m)
		dry, err := collect(t, m, true)
		require.NoError(t, err)
		require.Equal(t, before, storedPacks(t, m), "a dry run deletes nothing")
		got, err := collect(t, m, false)
		require.NoError(t, err)
		require.Equal(t, dry, got)
		require.Equal(t, 2, got.Workspaces)
		require.GreaterOrEqual(t, got.Deleted, 2, "what is gone, and the one without an end")
		require.GreaterOrEqual(t, got.Bytes, int64(len(gone)))
		require.Less(t, got.Bytes, int64(len(gone)+len(tail)))
		require.Less(t, storedPacks(t, m), before)
		again, err := collect(t, m, false)
		require.NoError(t, err)
		require.Zero(t, again.Deleted)
		require.Equal(t, got.Packs-got.Deleted, again.Packs)

		// Who began before a commit may refer to what the records before it named.
		brief := blobOf(4, 1<<20)
		require.NoError(t, ws.WriteFile(ctx, "brief", brief, 0))
		require.NoError(t, ws.Remove(ctx, "brief"))
		restartOnEmptyDisk(t, m)
		require.NoError(t, ws.Mkdir(ctx, "changed", 0o755)) // opened
		got, err = collect(t, m, false)
		require.NoError(t, err)
		require.Less(t, got.Bytes, int64(len(brief)))
		restartOnEmptyDisk(t, m)
		got, err = collect(t, m, false)
		require.NoError(t, err)
		require.Greater(t, got.Bytes, int64(len(brief)))

		restartOnEmptyDisk(t, m)
		for path, want := range map[string][]byte{"kept": kept, "tail": tail} {
			content, err := ws.ReadFile(ctx, path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, content), path)
		}
		for _, name := range []string{"repo", "other"} {
			v, err := m.Client.Workspace(name).Verify(ctx, nil)
			require.NoError(t, err)
			require.Empty(t, v.Broken)
			require.NoError(t, m.Client.RemoveWorkspace(ctx, name))
		}
		_, err = collect(t, m, false)
		require.NoError(t, err)
		require.Zero(t, storedPacks(t, m), "of workspaces that are removed nothing stays")
	})
}

// What is young stays, whatever refers to it: its writer may be about to say so. And
// where it is not known what a workspace refers to, nothing is deleted.
func TestCollectOnDoubt(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{CollectAge: time.Hour})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "a", blobOf(1, 2<<20), 0))
	require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
	got, err := collect(t, m, false)
	require.NoError(t, err)
	require.Zero(t, got.Deleted)
	require.NotZero(t, got.Young)

	req := mesh.CollectRequest{ID: mesh.NewID(), Tenant: "nobody"}
	requireCode(t, mesh.CodeNotFound, m.Ask(t, mesh.VerbAdminCollect, req, nil))
	requireCode(t, mesh.CodeInvalid, m.Ask(t, mesh.VerbAdminCollect, mesh.CollectRequest{Tenant: nodetest.Tenant}, nil))

	require.NoError(t, ws.WriteFile(ctx, "b", blobOf(2, 2<<20), 0))
	m.StopNode(t)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	_, err = js.Publish(ctx, mesh.JournalSubject(0, nodetest.Tenant, "repo"), []byte{255})
	require.NoError(t, err)
	m.StartNode(t)
	_, err = collect(t, m, false)
	requireCode(t, mesh.CodeInternal, err)
	require.ErrorContains(t, err, "record")
}

// Collecting goes on beside writers, and takes nothing from them.
func TestCollectBesideWriters(t *testing.T) {
	t.Parallel()                 // it waits more than it works
	const age = 16 * time.Second // far above what one write and one commit take to be recorded
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{CollectAge: age})
	ctx := t.Context()
	deleted, enough := atomic.Int64{}, int64(10)
	if meshtest.Long() {
		enough = 2000
	}
	until := time.Now().Add(2 * time.Minute)
	goOn := func() bool { return deleted.Load() < enough && time.Now().Before(until) && ctx.Err() == nil }
	var all sync.WaitGroup
	models := make([]map[string][]byte, 2)
	for w := range models {
		ws, model, rnd := m.Client.Workspace(fmt.Sprint("w", w)), map[string][]byte{}, rand.New(rand.NewPCG(uint64(w), 1))
		models[w] = model
		all.Go(func() {
			for i := 0; goOn(); i++ {
				path := fmt.Sprint("f", rnd.IntN(12))
				// The same contents come back: a writer would like to refer to what was stored.
				content := blobOf(byte(rnd.IntN(6)), objstore.MaxInline+1)
				if i%5 == 4 {
					if model[path] != nil && !write(t, ws.Remove(ctx, path)) {
						return
					}
					delete(model, path)
				} else if write(t, ws.WriteFile(ctx, path, content, 0)) {
					model[path] = content
				} else {
					return
				}
				if !meshtest.Long() {
					time.Sleep(100 * time.Millisecond) // the most of the time goes by until anything is old enough
				}
				// Many changes in one record, for a commit each few rounds.
				deep := fmt.Sprint("d", i) + strings.Repeat("/x", 100)
				if !write(t, ws.MkdirAll(ctx, deep, 0o755)) || !write(t, ws.RemoveAll(ctx, fmt.Sprint("d", i))) {
					return
				}
			}
		})
	}
	for goOn() {
		got, err := collect(t, m, false)
		require.NoError(t, err)
		deleted.Add(int64(got.Deleted))
		time.Sleep(100 * time.Millisecond)
	}
	all.Wait()
	require.GreaterOrEqual(t, deleted.Load(), enough, "too little was collected: this shows nothing")
	restartOnEmptyDisk(t, m)
	for w, model := range models {
		for path, want := range model {
			got, err := m.Client.Workspace(fmt.Sprint("w", w)).ReadFile(ctx, path)
			require.NoError(t, err, path)
			require.True(t, bytes.Equal(want, got), path)
		}
	}
}

func write(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

// A fork of an old commit is made when no collection goes on: one that began before the
// fork's record may delete what that refers to.
func TestForkWaitsForCollection(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{CollectAge: time.Nanosecond})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("x"), 0))
	_, err := ws.CreateSnapshot(ctx, "s", "")
	require.NoError(t, err)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	store, err := kv.Open(ctx, js)
	require.NoError(t, err)
	running, err := store.Garbage.Begin(ctx, nodetest.Tenant, nodetest.NodeName, mesh.NewID())
	require.NoError(t, err)
	_, err = collect(t, m, false)
	requireCode(t, mesh.CodeBusy, err)
	forked := make(chan error, 1)
	go func() {
		_, err := m.Client.Fork(ctx, "repo", "s", "fork")
		forked <- err
	}()
	select {
	case err := <-forked:
		require.Fail(t, "forked beside a collection", "%v", err)
	case <-time.After(500 * time.Millisecond):
	}
	require.NoError(t, store.Garbage.End(ctx, nodetest.Tenant, running))
	require.NoError(t, <-forked)
	got, err := m.Client.Workspace("fork").ReadFile(ctx, "f")
	require.NoError(t, err)
	require.Equal(t, "x", string(got))
}
