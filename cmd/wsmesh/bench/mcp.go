package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// gateway calls tools over plain HTTP, as the least of all MCP clients would.
type gateway struct {
	url, token, workspace string
	http                  *http.Client
}

func newGateway(cfg Config, ws *client.Workspace) (*gateway, error) {
	if cfg.HTTP == "" {
		return nil, mesh.Errorf(mesh.CodeUnavailable, "client.json names no gateway; start one with: wsmesh dev --http ADDR")
	}
	return &gateway{cfg.HTTP + "/mcp", cfg.Token, ws.Name(), &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}}, nil
}

func (g *gateway) close() { g.http.CloseIdleConnections() }

// call calls a tool and returns the text of its result.
func (g *gateway) call(ctx context.Context, tool string, args any) (string, error) {
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{"name": tool, "arguments": args},
	})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+g.token)
	req.Header.Set("X-Workspace", g.workspace)
	resp, err := g.http.Do(req)
	if err != nil {
		return "", mesh.Errorf(mesh.CodeUnavailable, "no gateway answers at %s (%s)", g.url, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Result struct {
			Content []struct{ Text string }
			IsError bool
		}
	}
	err = json.NewDecoder(resp.Body).Decode(&answer)
	r := answer.Result
	switch {
	case resp.StatusCode != http.StatusOK || err != nil || len(r.Content) != 1:
		return "", mesh.Errorf(mesh.CodeInternal, "bench: the gateway answers %s to %s", resp.Status, tool)
	case r.IsError:
		return "", mesh.Errorf(mesh.CodeInternal, "bench: %s: %s", tool, r.Content[0].Text)
	}
	return r.Content[0].Text, nil
}

// mcpExecPair runs the same shell line through the gateway and through our client.
func mcpExecPair(cfg Config, ws *client.Workspace) (*pair, error) {
	g, err := newGateway(cfg, ws)
	if err != nil {
		return nil, err
	}
	return &pair{
		floorName: "our exec",
		ours: func(ctx context.Context, _ int) error {
			_, err := g.call(ctx, "exec", map[string]any{"command": command})
			return err
		},
		floor: func(ctx context.Context, _ int) error { return ws.Command(ctx, "sh", "-c", command).Run() },
		close: g.close,
	}, nil
}

// mcpReadPair reads the same files both ways; they are text, since the tool reads
// nothing else.
func mcpReadPair(ctx context.Context, cfg Config, ws *client.Workspace) (*pair, error) {
	g, err := newGateway(cfg, ws)
	if err != nil {
		return nil, err
	}
	contents := make([][]byte, files)
	for i := range contents {
		text := base64.StdEncoding.AppendEncode(nil, random())[:payload]
		for line := 79; line < payload; line += 80 {
			text[line] = '\n'
		}
		contents[i] = text
	}
	if err := putFiles(ctx, ws, contents); err != nil {
		return nil, err
	}
	return &pair{
		floorName: "our read",
		ours: func(ctx context.Context, i int) error {
			text, err := g.call(ctx, "read_text_file", map[string]any{"path": fileName(i)})
			return same([]byte(text), contents[i%files], err)
		},
		floor: func(ctx context.Context, i int) error {
			b, err := ws.ReadFile(ctx, fileName(i))
			return same(b, contents[i%files], err)
		},
		close: g.close,
	}, nil
}
