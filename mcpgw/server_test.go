package mcpgw

import (
	"bytes"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What models and clients are told is an interface: names, schemas and hints
// change by intention only.
func TestToolsAreAsDescribed(t *testing.T) {
	s := newServer("test", slog.New(slog.DiscardHandler), nil)
	answer := s.HandleMessage(t.Context(), json.RawMessage(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	var list struct {
		Result struct{ Tools []json.RawMessage }
	}
	require.NoError(t, json.Unmarshal(asJSON(answer), &list))
	require.NotEmpty(t, list.Result.Tools)
	for _, raw := range list.Result.Tools {
		var tool mcp.Tool
		require.NoError(t, json.Unmarshal(raw, &tool))
		a := tool.Annotations
		require.NotEmpty(t, tool.Description, tool.Name)
		require.NotEmpty(t, a.Title, tool.Name)
		for _, hint := range []*bool{a.ReadOnlyHint, a.DestructiveHint, a.IdempotentHint, a.OpenWorldHint} {
			require.NotNil(t, hint, tool.Name)
		}
		require.False(t, *a.ReadOnlyHint && *a.DestructiveHint, tool.Name)
		require.NotContains(t, string(raw), `"null"`, "%s: many clients cannot express it", tool.Name)
	}
	var got bytes.Buffer
	require.NoError(t, json.Indent(&got, asJSON(list.Result.Tools), "", "\t"))
	got.WriteByte('\n')
	path := filepath.Join("testdata", "tools.golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got.Bytes(), 0o644))
	}
	golden, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(golden), got.String(), "if it is meant: go test ./mcpgw -run TestToolsAreAsDescribed -update")
}
