package mcpgw

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// The first calls on a mesh look around, before there is anything.
func TestViewThatIsNotThereYetIsEmpty(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		whole := toolsOf(t, m.Client)
		requireEmptyView(t, whole, ".", "/", "/workspace")
		require.Contains(t, whole.fails(t, mesh.CodeNotFound, "memory_get", args{"key": "k"}), "memory_list")
		whole.write(t, "f", "x")
		text, _ := whole.ok(t, "list_directory", args{})
		require.Equal(t, "[FILE] f (1 bytes)", text)
		scoped := toolsOf(t, m.Client)
		scoped.who.scope = "users/u1"
		requireEmptyView(t, scoped, ".", "/", "/workspace/users/u1")
		bound := toolsOf(t, m.Connect(t, m.BoundToken(t, nodetest.Tenant, "main", "users/u2")))
		requireEmptyView(t, bound, ".", "/workspace/users/u2")
		bound.ok(t, "write_file", args{"path": "f", "content": ""})
		require.NotContains(t, bound.fails(t, mesh.CodeNotFound, "list_directory", args{"path": "no"}), "nothing is here yet")
	})
}

func requireEmptyView(t *testing.T, x *tools, roots ...string) {
	t.Helper()
	for _, root := range roots {
		text, r := x.ok(t, "list_directory", args{"path": root})
		require.Equal(t, "[empty: nothing is here yet; write_file or exec makes it]", text)
		require.Empty(t, r["entries"])
		for _, tool := range []string{"search_files", "grep"} {
			text, _ = x.ok(t, tool, args{"pattern": "x", "path": root})
			require.Equal(t, "No matches found\n[empty: nothing is here yet; write_file or exec makes it]", text)
		}
	}
	for tool, a := range map[string]args{
		"list_directory": {"path": "sub"}, "search_files": {"path": "sub", "pattern": "*"}, "grep": {"path": "sub", "pattern": "x"},
		"read_text_file": {"path": "f"}, "get_file_info": {"path": "f"}, "delete_path": {"path": "f"},
	} {
		text := x.fails(t, mesh.CodeNotFound, tool, a)
		require.Contains(t, text, ": nothing is here yet, no file at all. Make the first file with write_file or exec.")
		require.NotContains(t, text, "wsmesh")
	}
}
