package node_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func forkTree(m *nodetest.Mesh, workspace string) string {
	return filepath.Join(m.Dir, "workspaces", string(nodetest.Tenant), workspace, "workspace")
}

// TestFork: a fork is what its origin was, to every attribute, and from then on the two
// have nothing to do with each other: not their journals, nor their ends.
func TestFork(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.Command(ctx, "sh", "-c", everything).Run())
		require.NoError(t, ws.WriteFile(ctx, "big", noise(5, 2<<20), 0))
		_, err := ws.CreateSnapshot(ctx, "first", "")
		require.NoError(t, err)
		want := allOf(t, hostTree(m))
		require.NoError(t, ws.WriteFile(ctx, "later", []byte("later"), 0))

		origin, err := m.Client.Fork(ctx, "repo", "first", "one")
		require.NoError(t, err)
		require.Equal(t, mesh.Workspace("repo"), origin.Workspace)
		_, err = m.Client.Fork(ctx, "repo", "first", "one")
		require.Equal(t, mesh.CodeExists, mesh.CodeOf(err))
		_, err = m.Client.Fork(ctx, "repo", "second", "two")
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		one := m.Client.Workspace("one")
		got, err := one.ReadFile(ctx, "big")
		require.NoError(t, err)
		require.Equal(t, noise(5, 2<<20), got)
		info, err := one.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, origin.Commit, info.Origin.Commit)
		require.Equal(t, origin.Commit, info.Commit)
		require.Equal(t, want, allOf(t, forkTree(m, "one")))

		// Each changes alone, and a fork of the fork is what that one is.
		before := journalOf(t, m)
		require.NoError(t, one.Command(ctx, "sh", "-c", "echo mine > mine; rm big").Run())
		require.NoError(t, ws.WriteFile(ctx, "later", []byte("even later"), 0))
		require.Len(t, journalOf(t, m), len(before)+1)
		_, err = ws.Stat(ctx, "mine")
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		_, err = one.Stat(ctx, "later")
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		_, err = m.Client.Fork(ctx, "one", "", "two")
		require.NoError(t, err)
		two := m.Client.Workspace("two")
		require.NoError(t, two.Command(ctx, "cat", "mine").Run())
		require.Equal(t, allOf(t, forkTree(m, "one")), allOf(t, forkTree(m, "two")))
		require.Empty(t, snapshotNames(t, two))

		// Its history says where it came from, and ends there.
		var kinds, causes []string
		for e, err := range two.History(ctx) {
			require.NoError(t, err)
			kinds, causes = append(kinds, e.Kind), append(causes, e.Cause)
		}
		require.Equal(t, []string{mesh.HistoryCommit}, kinds)
		require.Equal(t, []string{"forked from workspace one"}, causes)

		// The origin goes; the fork stays, on any node, with its own commits.
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
		_, err = one.CreateSnapshot(ctx, "own", "")
		require.NoError(t, err)
		want = allOf(t, forkTree(m, "one"))
		m.StopNode(t)
		wipe(t, m)
		m.StartNode(t)
		require.NoError(t, one.Command(ctx, "cat", "mine").Run())
		require.Equal(t, want, allOf(t, forkTree(m, "one")))
		verified, err := one.Verify(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, verified.Broken)
		require.Equal(t, []string{"removed big", "added mine"}, differences(t, one.Diff(ctx, origin.Commit, "own", noOptions)))
		kinds = nil
		for e, err := range one.Commits(ctx) {
			require.NoError(t, err)
			kinds = append(kinds, e.Commit)
		}
		require.Contains(t, kinds, origin.Commit)
	})
}

// TestForkOfUsedName: a fork under the name of a workspace that was removed is the fork,
// whatever the old journal and directory hold.
func TestForkOfUsedName(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx := t.Context()
		old := m.Client.Workspace("used")
		require.NoError(t, old.WriteFile(ctx, "old", []byte("old"), 0))
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "used"))
		require.NoError(t, m.Client.Workspace("repo").WriteFile(ctx, "new", []byte("new"), 0))
		_, err := m.Client.Fork(ctx, "repo", "", "used")
		require.NoError(t, err)
		require.NoError(t, old.WriteFile(ctx, "more", []byte("more"), 0))
		check := func() {
			got, err := old.ReadFile(ctx, "new")
			require.NoError(t, err)
			require.Equal(t, "new", string(got))
			_, err = old.Stat(ctx, "more")
			require.NoError(t, err)
			_, err = old.Stat(ctx, "old")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		}
		check()
		m.StopNode(t)
		wipe(t, m)
		m.StartNode(t)
		check()
	})
}

// TestTwentyForks: twenty at once, while their origin is written, are equal and then
// independent.
func TestTwentyForks(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		for i := range 20 {
			require.NoError(t, ws.WriteFile(ctx, fmt.Sprintf("d%d/file", i%4), []byte(fmt.Sprint(i)), 0))
		}
		_, err := ws.CreateSnapshot(ctx, "first", "")
		require.NoError(t, err)
		want := allOf(t, hostTree(m))
		stop := make(chan struct{})
		var writing, forking sync.WaitGroup
		writing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					_ = ws.WriteFile(ctx, "d0/file", []byte(fmt.Sprint("other ", i)), 0)
				}
			}
		})
		errs := make([]error, 20)
		for i := range errs {
			forking.Go(func() {
				name := fmt.Sprintf("fork-%d", i)
				_, errs[i] = m.Client.Fork(ctx, "repo", "first", name)
				if errs[i] == nil {
					errs[i] = m.Client.Workspace(name).WriteFile(ctx, "own", []byte(name), 0)
				}
			})
		}
		forking.Wait()
		close(stop)
		writing.Wait()
		for i, err := range errs {
			require.NoError(t, err)
			name := fmt.Sprintf("fork-%d", i)
			own, err := m.Client.Workspace(name).ReadFile(ctx, "own")
			require.NoError(t, err)
			require.Equal(t, name, string(own))
			require.NoError(t, m.Client.Workspace(name).Remove(ctx, "own"))
			require.Equal(t, withoutRoot(want), withoutRoot(allOf(t, forkTree(m, name))))
		}
	})
}

// withoutRoot leaves out the directory itself, whose time has changed.
func withoutRoot(lines []string) []string { return lines[1:] }
