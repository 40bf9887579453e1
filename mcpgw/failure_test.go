package mcpgw

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
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
		require.Equal(t, "[FILE] f (1 byte)", text)
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

// A failure says one next move, and one that a model can make.
func TestOneNextMove(t *testing.T) {
	_, token := mesh.ParseToken("abc")
	for _, c := range []struct {
		name string
		err  error
		text string
	}{
		{"token", &advice{mesh.AsError(token), "Tell the person you work for."}, "denied: the token is not a whole wsmesh token. Tell the person you work for."},
		{"said twice", mesh.Errorf(mesh.CodeBusy, "node a is busy; try again"), "busy: node a is busy. Call again in a few seconds."},
		{"question", mesh.Errorf(mesh.CodeUnavailable, "no node answers; is one running?"), "unavailable: no node answers. Nothing was done. Call again in some seconds; if that fails, tell the person you work for."},
		{"ends as a question", mesh.Errorf(mesh.CodeInternal, "why?"), "internal: why? Tell the person you work for."},
		{"command line", mesh.Errorf(mesh.CodeQuota, "it has 9 workspaces; remove one with: wsmesh workspace rm NAME"), "quota: it has 9 workspaces. " + nextMove[mesh.CodeQuota]},
		{"no code", errors.New("host path /x"), "internal: the tool failed because of a defect in the gateway. Tell the person you work for."},
		{"not a next move", mesh.Errorf(mesh.CodeLost, "it stopped; it was not started again"), "lost: it stopped; it was not started again. " + nextMove[mesh.CodeLost]},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.text, failed(c.err, nil, false).StructuredContent.(failure).Message)
		})
	}
}

func TestRefusedTokenIsForThePerson(t *testing.T) {
	x := &tools{t: t, server: newServer("test", slog.New(slog.DiscardHandler), nil)}
	x.who.client = func(ctx context.Context) (*client.Client, error) {
		return client.Dial(ctx, client.Config{Token: "abc"})
	}
	body := asJSON(args{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": args{"name": "list_directory", "arguments": args{}}})
	answer := asJSON(x.server.HandleMessage(withCaller(t.Context(), x.who), body))
	require.Contains(t, string(answer), `"denied: the token is not a whole wsmesh token. Tell the person you work for."`)
}
