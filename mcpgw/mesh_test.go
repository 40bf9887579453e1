package mcpgw

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tools calls the tools of a server in process, as one caller.
type tools struct {
	t       *testing.T
	server  *server.MCPServer
	who     caller
	schemas map[string]*jsonschema.Resolved
	ws      *client.Workspace // what the tools work on
}

func toolsOf(t *testing.T, c *client.Client) *tools {
	t.Helper()
	x := &tools{t: t, server: newServer("test", slog.New(slog.DiscardHandler), nil), schemas: map[string]*jsonschema.Resolved{}, ws: c.Workspace(DefaultWorkspace)}
	x.who = caller{client: func(context.Context) (*client.Client, error) { return c, nil }}
	for name, tool := range x.server.ListTools() {
		var s jsonschema.Schema
		require.NoError(t, json.Unmarshal(tool.Tool.RawOutputSchema, &s))
		resolved, err := s.Resolve(nil)
		require.NoError(t, err)
		x.schemas[name] = resolved
	}
	return x
}

// eachTools runs a test of tools, see nodetest.Local.
func eachTools(t *testing.T, test func(t *testing.T, x *tools)) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) { test(t, toolsOf(t, m.Client)) })
}

type args = map[string]any

// call calls a tool. Whatever it answers must fit its output schema, and have the
// message of a failure as its text.
func (x *tools) call(t *testing.T, name string, a args) (text string, structured args, isError bool) {
	t.Helper()
	return x.callRaw(t, name, asJSON(a))
}

// callRaw is call with arguments as they travel.
func (x *tools) callRaw(t *testing.T, name string, a json.RawMessage) (text string, structured args, isError bool) {
	t.Helper()
	body := asJSON(args{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": args{"name": name, "arguments": a}})
	answer := x.server.HandleMessage(withCaller(t.Context(), x.who), body)
	response, ok := answer.(mcp.JSONRPCResponse)
	require.True(t, ok, "%+v", answer)
	result, ok := response.Result.(*mcp.CallToolResult)
	require.True(t, ok, "%+v", response.Result)
	require.Len(t, result.Content, 1)
	text = result.Content[0].(mcp.TextContent).Text
	require.NoError(t, json.Unmarshal(asJSON(result.StructuredContent), &structured))
	if schema := x.schemas[name]; schema != nil {
		require.NoError(t, schema.Validate(structured), "%s: %v", name, structured)
	}
	if result.IsError {
		require.Equal(t, structured["message"], text)
	}
	return text, structured, result.IsError
}

// ok calls a tool that must succeed.
func (x *tools) ok(t *testing.T, name string, a args) (string, args) {
	t.Helper()
	text, structured, isError := x.call(t, name, a)
	require.False(t, isError, "%s: %s", name, text)
	return text, structured
}

// fails calls a tool that must fail with a code and say what to do next.
func (x *tools) fails(t *testing.T, code mesh.Code, name string, a args) string {
	t.Helper()
	text, structured, isError := x.call(t, name, a)
	require.True(t, isError, "%s: %s", name, text)
	require.Equal(t, string(code), structured["code"], text)
	require.Regexp(t, "^"+string(code)+": (?s:.+)[.]$", text)
	require.NotContains(t, text, x.t.TempDir())
	return text
}

func (x *tools) write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, x.ws.WriteFile(t.Context(), path, []byte(content), 0))
}

func (x *tools) requireFile(t *testing.T, path, content string) {
	t.Helper()
	b, err := x.ws.ReadFile(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, content, string(b))
}
