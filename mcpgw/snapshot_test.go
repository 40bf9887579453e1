package mcpgw

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestSnapshotTools(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		x := toolsOf(t, m.Client)
		x.ok(t, "write_file", args{"path": "d/a.txt", "content": "one\n"})
		text, made := x.ok(t, "snapshot_create", args{"name": "first", "message": "before"})
		require.Contains(t, text, "Made snapshot first")
		x.fails(t, mesh.CodeExists, "snapshot_create", args{"name": "first"})
		text, _ = x.ok(t, "snapshot_list", args{})
		require.Contains(t, text, "first  ")
		x.ok(t, "write_file", args{"path": "d/a.txt", "content": "two\n"})
		x.ok(t, "write_file", args{"path": "new", "content": "n"})
		text, r := x.ok(t, "snapshot_diff", args{"from": "first", "text": true})
		require.Contains(t, text, "changed d/a.txt\n--- a/d/a.txt")
		require.Contains(t, text, "-one\n+two\n")
		require.Contains(t, text, "added new\n")
		text, next := x.ok(t, "snapshot_diff", args{"from": "first", "limit": 1})
		require.Contains(t, text, "there may be more")
		_, r2 := x.ok(t, "snapshot_diff", args{"from": next["from"], "to": next["to"], "cursor": next["nextCursor"]})
		require.Len(t, r2["changes"], len(r["changes"].([]any))-1)

		text, _ = x.ok(t, "read_text_file", args{"path": "d/a.txt", "at": "first"})
		require.Contains(t, text, "one")
		text, _ = x.ok(t, "list_directory", args{"at": made["commit"]})
		require.NotContains(t, text, "new")
		x.ok(t, "get_file_info", args{"path": "d/a.txt", "at": "first"})
		x.fails(t, mesh.CodeNotFound, "get_file_info", args{"path": "new", "at": "first"})
		x.fails(t, mesh.CodeNotFound, "read_text_file", args{"path": "new", "at": "second"})

		text, _ = x.ok(t, "workspace_fork", args{"name": "other", "at": "first"})
		require.Contains(t, text, "Made workspace other of main")
		x.fails(t, mesh.CodeExists, "workspace_fork", args{"name": "other"})
		got, err := m.Client.Workspace("other").ReadFile(t.Context(), "d/a.txt")
		require.NoError(t, err)
		require.Equal(t, "one\n", string(got))

		text, _ = x.ok(t, "snapshot_restore", args{"at": "first", "paths": []string{"d"}})
		require.Contains(t, text, "snapshot before-first-")
		text, _ = x.ok(t, "read_text_file", args{"path": "d/a.txt"})
		require.Contains(t, text, "one")
		x.ok(t, "get_file_info", args{"path": "new"})
		x.fails(t, mesh.CodeNotFound, "snapshot_restore", args{"at": "second"})
	})
}
