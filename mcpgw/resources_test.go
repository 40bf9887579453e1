package mcpgw

import (
	"context"
	"encoding/base64"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mcpclient "github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// heard is what a client was told of.
type heard struct {
	mu   sync.Mutex
	uris []string
	acks int // of requests that subscribe and stay open
}

func (h *heard) acknowledged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acks
}

func (h *heard) note(n mcp.JSONRPCNotification) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch n.Method {
	case mcp.MethodNotificationSubscriptionsAcknowledged:
		h.acks++
	case mcp.MethodNotificationResourceUpdated:
		uri, _ := n.Params.AdditionalFields["uri"].(string)
		h.uris = append(h.uris, uri)
	}
}

func (h *heard) of(uri string) func() bool {
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return slices.Contains(h.uris, uri)
	}
}

// forget drops what was heard once nothing more comes of it.
func (h *heard) forget() {
	time.Sleep(3 * DefaultNoticeEvery)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uris = nil
}

// overPipes serves a client of mcp-go's own over stdio.
func overPipes(t *testing.T, version string, cfg StdioConfig) (*mcpclient.Client, *heard) {
	t.Helper()
	in, fromClient := io.Pipe()
	toClient, out := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServeStdio(ctx, in, out, cfg) }()
	c := mcpclient.NewClient(transport.NewIO(toClient, fromClient, io.NopCloser(strings.NewReader(""))))
	h := &heard{}
	c.OnNotification(h.note)
	require.NoError(t, c.Start(t.Context()))
	t.Cleanup(func() {
		cancel()
		require.NoError(t, fromClient.Close())
		require.NoError(t, <-served)
		require.NoError(t, out.Close())
		require.NoError(t, c.Close())
	})
	var hello mcp.InitializeRequest
	hello.Params.ProtocolVersion = version
	hello.Params.ClientInfo = mcp.Implementation{Name: "test", Version: "1"}
	_, err := c.Initialize(t.Context(), hello)
	require.NoError(t, err)
	return c, h
}

// A client reads files by URI, and hears when one that it has subscribed to was changed,
// by whomever, and of no other.
func TestResources(t *testing.T) {
	for _, version := range []string{"2025-06-18", mcp.ProtocolVersion20260728} {
		t.Run(version, func(t *testing.T) { testResources(t, version) })
	}
}

func testResources(t *testing.T, version string) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace(DefaultWorkspace)
	require.NoError(t, ws.WriteFile(ctx, "d/odd %name\n", []byte("text"), 0))
	require.NoError(t, ws.WriteFile(ctx, "d/raw", []byte{0, 1, 2}, 0))
	require.NoError(t, ws.WriteFile(ctx, "d/big", make([]byte, MaxResource+1), 0))
	require.NoError(t, ws.WriteFile(ctx, "other", nil, 0))
	c, h := overPipes(t, version, StdioConfig{Client: func(context.Context) (*client.Client, error) { return m.Client, nil }, Scope: "d"})
	read := func(uri string) (any, error) {
		var req mcp.ReadResourceRequest
		req.Params.URI = uri
		result, err := c.ReadResource(ctx, req)
		if err != nil {
			return nil, err
		}
		require.Len(t, result.Contents, 1)
		return result.Contents[0], nil
	}
	templates, err := c.ListResourceTemplates(ctx, mcp.ListResourceTemplatesRequest{})
	require.NoError(t, err)
	require.Len(t, templates.ResourceTemplates, 1)
	odd := "wsmesh:///odd%20%25name%0A"
	got, err := read(odd)
	require.NoError(t, err)
	require.Equal(t, mcp.TextResourceContents{URI: odd, MIMEType: "text/plain", Text: "text"}, got)
	got, err = read("wsmesh:///raw")
	require.NoError(t, err)
	require.Equal(t, base64.StdEncoding.EncodeToString([]byte{0, 1, 2}), got.(mcp.BlobResourceContents).Blob)
	for uri, says := range map[string]string{"wsmesh:///big": "too_large", "wsmesh:///none": "not_found", "wsmesh:///..%2Fother": "denied", "wsmesh:///../other": "denied"} {
		_, err = read(uri)
		require.ErrorContains(t, err, says, uri)
	}

	var ended func()
	subscribe := func(uris ...string) {
		if version == mcp.ProtocolVersion20260728 {
			before := h.acknowledged()
			end, err := c.ListenAsync(ctx, mcp.SubscriptionFilter{ResourceSubscriptions: uris}, func(err error) { t.Error(err) })
			require.NoError(t, err)
			require.Eventually(t, func() bool { return h.acknowledged() > before }, 30*time.Second, 10*time.Millisecond)
			ended = end
			return
		}
		for _, uri := range uris {
			var req mcp.SubscribeRequest
			req.Params.URI = uri
			//lint:ignore SA1019 it is what clients of earlier revisions do
			require.NoError(t, c.Subscribe(ctx, req))
		}
	}
	eventually := func(uri string) {
		t.Helper()
		require.Eventually(t, h.of(uri), 10*time.Second, 10*time.Millisecond, uri)
	}
	subscribe(odd, "wsmesh:///sub")
	require.NoError(t, ws.WriteFile(ctx, "other", []byte("not in the view"), 0))
	require.NoError(t, ws.WriteFile(ctx, "d/raw", nil, 0))
	require.NoError(t, ws.WriteFile(ctx, "d/odd %name\n", []byte("changed"), 0))
	eventually(odd)
	require.False(t, h.of("wsmesh:///sub")())
	require.NoError(t, ws.WriteFile(ctx, "d/sub/dir/f", nil, 0))
	eventually("wsmesh:///sub")
	h.forget()
	require.NoError(t, ws.Rename(ctx, "d/sub", "d/away"))
	eventually("wsmesh:///sub")
	require.False(t, h.of(odd)())
	nodetest.Commands(t)
	h.forget()
	require.NoError(t, ws.Command(ctx, "sh", "-c", `for f in d/odd*; do echo more >> "$f"; done`).Run())
	eventually(odd)

	if ended != nil {
		ended()
		subscribe("wsmesh:///sub")
	} else {
		var req mcp.UnsubscribeRequest
		req.Params.URI = odd
		//lint:ignore SA1019 as above
		require.NoError(t, c.Unsubscribe(ctx, req))
	}
	h.forget()
	require.NoError(t, ws.Remove(ctx, "d/odd %name\n"))
	require.NoError(t, ws.WriteFile(ctx, "d/sub", nil, 0))
	eventually("wsmesh:///sub")
	require.False(t, h.of(odd)())
	if ended != nil {
		ended()
	}
}
