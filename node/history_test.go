package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// TestHistory: what changed is told newest first, by whom, across commits and after
// the records are purged, in pages of any size; a scope hears of its own paths only.
func TestHistory(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "a/f", []byte("one"), 0))
		require.NoError(t, ws.WriteFile(ctx, "secret", []byte("one"), 0))
		cmd := ws.Command(ctx, "sh", "-c", "echo two > a/g; echo three > a/h")
		require.NoError(t, cmd.Run())
		m.StopNode(t)
		m.StartNode(t)
		require.NoError(t, ws.Rename(ctx, "a/f", "secret2"))
		m.StopNode(t)
		m.StartNode(t)
		require.NoError(t, ws.Chmod(ctx, "a/g", 0o600))
		by := "exec " + cmd.ID
		inCommits := []string{
			"commit", "rename a/f secret2 rename",
			"commit", "put a/h  " + by, "put a/g  " + by, "put secret  write", "put a/f  write", "put a  write",
		}
		want := append([]string{"attr a/g  chmod"}, inCommits...)
		all := historyOf(t, ctx, ws, 0)
		require.Equal(t, want, linesOf(all))
		require.Equal(t, all, historyOf(t, ctx, ws, 1), "a page for each")
		require.Equal(t, all, historyOf(t, ctx, ws, 3))
		require.Equal(t, "release", all[1].Cause)
		require.Equal(t, uint64(1), all[1].Changes)
		info, err := ws.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, info.Commit, all[1].Commit)

		var commits []mesh.HistoryEntry
		for e, err := range ws.Commits(ctx) {
			require.NoError(t, err)
			commits = append(commits, e)
		}
		require.Len(t, commits, 2)

		// A commit that comes between two pages moves changes into it.
		page, err := ws.HistoryPage(ctx, mesh.HistoryRequest{Limit: 1})
		require.NoError(t, err)
		require.NoError(t, ws.Chmod(ctx, "a/h", 0o600))
		m.StopNode(t)
		m.StartNode(t)
		page, err = ws.HistoryPage(ctx, mesh.HistoryRequest{Cursor: page.Cursor})
		require.NoError(t, err)
		require.Equal(t, inCommits, linesOf(page.Entries))

		scoped := []string{
			"attr h  chmod", "attr g  chmod", "remove f  rename",
			"put h  " + by, "put g  " + by, "put f  write", "put .  write",
		}
		require.Equal(t, scoped, linesOf(historyOf(t, ctx, ws.Scope("a"), 0)))
		bound := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", "a")).Workspace("repo")
		require.Equal(t, scoped, linesOf(historyOf(t, ctx, bound, 2)))
		_, err = bound.HistoryPage(ctx, mesh.HistoryRequest{Cursor: "1.0.x.y"})
		requireCode(t, mesh.CodeInvalid, err)
	})
}

// historyOf reads a history in pages of so many entries.
func historyOf(t *testing.T, ctx context.Context, ws *client.Workspace, limit int) (all []mesh.HistoryEntry) {
	t.Helper()
	for req := (mesh.HistoryRequest{Limit: limit}); ; {
		page, err := ws.HistoryPage(ctx, req)
		require.NoError(t, err)
		all = append(all, page.Entries...)
		if req.Cursor = page.Cursor; !page.More {
			return all
		}
	}
}

func linesOf(all []mesh.HistoryEntry) (lines []string) {
	for _, e := range all {
		line := fmt.Sprintf("%s %s %s %s", e.Kind, e.Path, e.To, e.Verb)
		for _, id := range e.Execs {
			line += " " + string(id)
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}
