package node_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// TestRestoreEveryTree: trees of every kind of name and attribute, changed in every way,
// are what they were after a restore, on the disk and in the journal; what was before it
// is a snapshot, to which it can be taken back.
func TestRestoreEveryTree(t *testing.T) {
	t.Parallel() // it waits more than it works
	rounds := 2
	if meshtest.Long() {
		rounds = 40
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "first", nil, 0))
		g := &grower{t: t, root: hostTree(m), rand: rand.New(rand.NewPCG(seed, 1))}
		for round := range rounds {
			for range 50 {
				g.step()
			}
			require.NoError(t, ws.Command(ctx, "true").Run())
			name := fmt.Sprintf("round-%d", round)
			_, err := ws.CreateSnapshot(ctx, name, "")
			require.NoError(t, err)
			want := allOf(t, g.root)
			for range 40 {
				g.step()
			}
			require.NoError(t, ws.Command(ctx, "true").Run())
			changed := allOf(t, g.root)

			done, err := ws.Restore(ctx, name, nil, nil)
			require.NoError(t, err)
			require.Equal(t, want, allOf(t, g.root), "round %d", round)
			again, err := ws.Restore(ctx, name, nil, nil)
			require.NoError(t, err)
			require.Zero(t, again.Changed)
			m.StopNode(t)
			require.NoError(t, os.RemoveAll(m.Dir+"/workspaces"))
			m.StartNode(t)
			_, err = ws.Info(ctx)
			require.NoError(t, err)
			require.Equal(t, want, allOf(t, g.root), "round %d, from the journal", round)

			_, err = ws.Restore(ctx, string(done.Before), nil, nil)
			require.NoError(t, err)
			require.Equal(t, changed, allOf(t, g.root), "round %d, back again", round)
		}
	})
}

// TestRestorePaths: what is not asked for stays; what is there no more goes, and what
// was not, too.
func TestRestorePaths(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		for _, name := range []string{"d/a", "d/b", "other"} {
			require.NoError(t, ws.WriteFile(ctx, name, []byte("old"), 0))
		}
		_, err := ws.CreateSnapshot(ctx, "first", "")
		require.NoError(t, err)
		for _, name := range []string{"d/a", "d/new", "other"} {
			require.NoError(t, ws.WriteFile(ctx, name, []byte("new"), 0))
		}
		require.NoError(t, ws.Remove(ctx, "d/b"))

		for _, paths := range [][]string{{"nothing"}, {"../x"}} {
			_, err = ws.Restore(ctx, "first", paths, nil)
			require.Error(t, err)
		}
		_, err = ws.Restore(ctx, "second", nil, nil)
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		_, err = ws.Scope("d").Restore(ctx, "first", nil, nil)
		require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err))

		done, err := ws.Restore(ctx, "first", []string{"d/a", "d/b", "d/new", "d/a"}, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"changed other"}, differences(t, ws.Diff(ctx, "first", "", noOptions)))
		require.Equal(t, []string{"changed d/a", "added d/b", "removed d/new"}, differences(t, ws.Diff(ctx, string(done.Before), "", noOptions)))
		require.Contains(t, snapshotNames(t, ws), string(done.Before))
		require.True(t, strings.HasPrefix(string(done.Before), "before-first-"))
	})
}

// TestRestoreBesideWriters: while files are written a restore leaves a workspace whose
// disk is what its journal says, and what nobody writes is what it was.
func TestRestoreBesideWriters(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		for i := range 40 {
			require.NoError(t, ws.WriteFile(ctx, fmt.Sprintf("d%d/file%d", i%4, i), []byte("old"), 0))
		}
		_, err := ws.CreateSnapshot(ctx, "first", "")
		require.NoError(t, err)
		require.NoError(t, ws.RemoveAll(ctx, "d1"))
		stop := make(chan struct{})
		var writing sync.WaitGroup
		for w := range 3 {
			writing.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("d0/file%d", 4*w)
					switch i % 4 {
					case 0, 1:
						_ = ws.WriteFile(ctx, name, []byte(fmt.Sprint(w, i)), 0)
					case 2:
						_ = ws.Rename(ctx, name, name+"x")
					case 3:
						_ = ws.RemoveAll(ctx, name+"x")
					}
				}
			})
		}
		for range 3 {
			_, err = ws.Restore(ctx, "first", nil, nil)
			if err != nil { // somebody was in the way each time
				require.NotEqual(t, mesh.CodeInternal, mesh.CodeOf(err), "%v", err)
			}
		}
		close(stop)
		writing.Wait()
		for i := range 40 {
			if i%4 == 0 && i <= 8 {
				continue
			}
			got, err := ws.ReadFile(ctx, fmt.Sprintf("d%d/file%d", i%4, i))
			require.NoError(t, err)
			require.Equal(t, "old", string(got))
		}
		want := allOf(t, hostTree(m))
		m.StopNode(t)
		wipe(t, m)
		m.StartNode(t)
		_, err = ws.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, want, allOf(t, hostTree(m)))
		_, err = ws.Restore(ctx, "first", nil, nil)
		require.NoError(t, err)
		require.Empty(t, differences(t, ws.Diff(ctx, "first", "", noOptions)))
	})
}
