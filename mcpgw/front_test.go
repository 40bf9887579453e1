package mcpgw

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// gateway is an HTTP gateway on a mesh, with the servers' own loopback address.
type gateway struct {
	*nodetest.Mesh
	url   string // of /mcp
	token string // of all of nodetest.Tenant
	front *front
}

// serve runs a gateway until the test ends; more adds to its server.
func serve(t *testing.T, m *nodetest.Mesh, cfg HTTPConfig, more ...func(*server.MCPServer)) *gateway {
	t.Helper()
	pool := client.NewPool(client.PoolConfig{Client: client.Config{URL: m.URL(), Wait: 5 * time.Second}})
	t.Cleanup(pool.Close)
	cfg.Pool = pool
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gateway{Mesh: m, url: "http://" + l.Addr().String() + "/mcp", token: m.Token(t, nodetest.Tenant)}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	f := newFront(cfg)
	g.front = f
	for _, change := range more {
		change(f.server)
	}
	go func() { ended <- f.serve(ctx, l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop()
		require.NoError(t, <-ended)
	})
	return g
}

func eachGateway(t *testing.T, test func(t *testing.T, g *gateway)) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) { test(t, serve(t, m, HTTPConfig{})) })
}

type headers = map[string]string

// post sends a body with the gateway's token; a header "" is left out.
func (g *gateway) post(t *testing.T, body io.Reader, h headers) *http.Response {
	t.Helper()
	return g.do(t, http.MethodPost, g.url, body, h)
}

func (g *gateway) do(t *testing.T, method, url string, body io.Reader, h headers) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+g.token)
	req.Header.Set("Content-Type", "application/json")
	for name, value := range h {
		req.Header.Set(name, value)
		if value == "" {
			req.Header.Del(name)
		}
		if name == "Host" {
			req.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func toolCall(id any, name string, a args) io.Reader {
	return bytes.NewReader(asJSON(args{"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": args{"name": name, "arguments": a}}))
}

// call calls a tool and returns the status and, of a 200, the text of the result.
func (g *gateway) call(t *testing.T, name string, a args, h headers) (status int, text string, isError bool) {
	t.Helper()
	resp := g.post(t, toolCall(1, name, a), h)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, string(body), true
	}
	var m struct{ Result *mcp.CallToolResult }
	require.NoError(t, json.Unmarshal(body, &m), "%s", body)
	require.NotNil(t, m.Result, "%s", body)
	return resp.StatusCode, m.Result.Content[0].(mcp.TextContent).Text, m.Result.IsError
}

func (g *gateway) requireText(t *testing.T, want string, path string, h headers) {
	t.Helper()
	status, text, isError := g.call(t, "read_text_file", args{"path": path}, h)
	require.Equal(t, http.StatusOK, status, text)
	require.False(t, isError, text)
	require.Equal(t, want, text)
}

func bearerOf(token string) headers { return headers{"Authorization": "Bearer " + token} }

func TestToolsNeedNoHandshake(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		status, text, isError := g.call(t, "write_file", args{"path": "a", "content": "x"}, nil)
		require.Equal(t, http.StatusOK, status, text)
		require.False(t, isError, text)
		g.requireText(t, "x", "a", nil)
		for _, version := range []string{"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"} {
			resp := g.post(t, bytes.NewReader(asJSON(args{
				"jsonrpc": "2.0", "id": 1, "method": "initialize",
				"params": args{"protocolVersion": version, "capabilities": args{}, "clientInfo": args{"name": "t", "version": "1"}},
			})), nil)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Contains(t, string(body), `"protocolVersion":"`+version+`"`)
			require.Empty(t, resp.Header.Get("Mcp-Session-Id"))
		}
		// The revision without a handshake.
		resp := g.post(t, bytes.NewReader(asJSON(args{
			"jsonrpc": "2.0", "id": 1, "method": "tools/call",
			"params": args{"name": "read_text_file", "arguments": args{"path": "a"}, "_meta": args{
				"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": args{},
			}},
		})), headers{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "read_text_file"})
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Contains(t, string(body), `"resultType":"complete"`)
		require.Contains(t, string(body), `"text":"x"`)
	})
}

func TestRefusals(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		g := serve(t, m, HTTPConfig{Origins: []string{"https://app.example.com"}})
		host := strings.TrimSuffix(strings.TrimPrefix(g.url, "http://"), "/mcp")
		_, port, err := net.SplitHostPort(host)
		require.NoError(t, err)
		forged := g.token[:len(g.token)-20] + "AAAAAAAAAAAAAAAAAAAA"
		bound := bearerOf(m.BoundToken(t, nodetest.Tenant, "repo", "users/u1"))
		within := func(h headers) headers {
			h["Authorization"] = bound["Authorization"]
			return h
		}
		for _, c := range []struct {
			name   string
			h      headers
			status int
		}{
			{"nothing special", nil, 200},
			{"evil origin", headers{"Origin": "https://evil.example"}, 403},
			{"origin null", headers{"Origin": "null"}, 403},
			{"origin of another port", headers{"Origin": "http://127.0.0.1:1"}, 403},
			{"origin that begins like ours", headers{"Origin": "http://localhost.evil.example:" + port}, 403},
			{"own origin", headers{"Origin": "http://localhost:" + port}, 200},
			{"origin that is configured", headers{"Origin": "https://app.example.com"}, 200},
			{"host of a rebinding", headers{"Host": "evil.example:" + port}, 403},
			{"host that is configured", headers{"Host": "app.example.com"}, 200},
			{"host localhost", headers{"Host": "localhost:" + port}, 200},
			{"no token", headers{"Authorization": ""}, 401},
			{"other scheme", headers{"Authorization": "Basic " + g.token}, 401},
			{"not a token", bearerOf("hello"), 401},
			{"other content", headers{"Content-Type": "text/plain"}, 415},
			{"content of no type", headers{"Content-Type": ""}, 415},
			{"forged token", bearerOf(forged), 401},
			{"root as we call it", headers{headerRoot: "/workspace/"}, 200},
			{"root not set", headers{headerRoot: "undefined"}, 200},
			{"other root", headers{headerRoot: "/home/me"}, 403},
			{"root elsewhere in the workspace", headers{headerRoot: "/workspace/users"}, 403},
			{"scope", headers{headerScope: "users/u1"}, 200},
			{"scope, absolute", headers{headerScope: "/users/u1"}, 200},
			{"scope, in the workspace", headers{headerScope: "/workspace/users"}, 200},
			{"scope that climbs out", headers{headerScope: "../x"}, 400},
			{"scope that climbs within", headers{headerScope: "users/u1/../u2"}, 400},
			{"scope with a backslash", headers{headerScope: `users\u1`}, 400},
			{"workspace", headers{headerWorkspace: "other"}, 200},
			{"workspace that is none", headers{headerWorkspace: "No Such"}, 400},
			{"bound, its workspace", within(headers{headerWorkspace: "repo"}), 200},
			{"bound, another workspace", within(headers{headerWorkspace: "main"}), 403},
			{"bound, its root", within(headers{headerRoot: "/workspace/users/u1"}), 200},
			{"bound, scope below", within(headers{headerScope: "sub"}), 200},
			{"bound, scope that climbs", within(headers{headerScope: "../u2"}), 400},
			{"bound, scope of the whole workspace", within(headers{headerScope: "/workspace"}), 400},
			{"bound, scope elsewhere", within(headers{headerScope: "/workspace/users/u2"}), 400},
		} {
			t.Run(c.name, func(t *testing.T) {
				status, body, _ := g.call(t, "exec", args{}, c.h) // fails where it is let in: nothing is run
				require.Equal(t, c.status, status, body)
				if c.status != 200 {
					require.Contains(t, body, `"jsonrpc":"2.0"`)
				}
			})
		}
		resp := g.post(t, toolCall(1, "exec", args{}), headers{"Authorization": ""})
		require.Equal(t, `Bearer realm="wsmesh"`, resp.Header.Get("WWW-Authenticate"))
		resp = g.post(t, toolCall(1, "exec", args{}), bearerOf("hello"))
		require.Equal(t, `Bearer realm="wsmesh", error="invalid_token"`, resp.Header.Get("WWW-Authenticate"))
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			resp = g.do(t, method, g.url, nil, nil)
			require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
			require.Equal(t, "POST", resp.Header.Get("Allow"))
		}
		resp = g.do(t, http.MethodOptions, g.url, nil, headers{"Origin": "https://app.example.com", "Access-Control-Request-Headers": "authorization", "Authorization": ""})
		require.Equal(t, http.StatusNoContent, resp.StatusCode)
		require.Equal(t, "https://app.example.com", resp.Header.Get("Access-Control-Allow-Origin"))
	})
}

// A path that a scope names by detours is no longer the one its owner meant.
func TestScopeOnlyNarrows(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		ws := g.Client.Workspace("main")
		require.NoError(t, ws.WriteFile(t.Context(), "users/u1/f", []byte("one"), 0))
		require.NoError(t, ws.WriteFile(t.Context(), "users/u2/f", []byte("two"), 0))
		g.requireText(t, "one", "f", headers{headerScope: "users/u1"})
		for _, scope := range []string{"users/u1/../u2", "users/u1/../../users/u2"} {
			status, text, _ := g.call(t, "read_text_file", args{"path": "f"}, headers{headerScope: scope})
			require.Equal(t, http.StatusBadRequest, status, text)
		}
		_, text, isError := g.call(t, "read_text_file", args{"path": "../u2/f"}, headers{headerScope: "users/u1"})
		require.True(t, isError)
		require.Regexp(t, "^denied: ", text)

		bound := bearerOf(g.BoundToken(t, nodetest.Tenant, "main", "users/u1"))
		g.requireText(t, "one", "f", bound)
		bound[headerScope] = "/workspace/users/u2"
		status, text, _ := g.call(t, "read_text_file", args{"path": "f"}, bound)
		require.Equal(t, http.StatusBadRequest, status, text)
	})
}

// Whose workspace it is, the token says and nothing else.
func TestTenantIsTheTokens(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		g.CreateTenant(t, "mallory")
		mallory := g.Token(t, "mallory")
		require.NoError(t, g.Client.Workspace("main").WriteFile(t.Context(), "f", []byte("acme's"), 0))
		require.NoError(t, g.Connect(t, mallory).Workspace("main").WriteFile(t.Context(), "f", []byte("mallory's"), 0))
		g.requireText(t, "acme's", "f", nil) // a client of the tenant is at hand
		for _, name := range []string{"X-Tenant", "X-Tenant-Id", "X-Wsmesh-Tenant", "Mesh-Tenant"} {
			h := bearerOf(mallory)
			h[name] = string(nodetest.Tenant)
			g.requireText(t, "mallory's", "f", h)
		}
	})
}

// Two tenants whose requests have the same ids cancel at the same time: each ends
// its own by closing the connection, and nobody's by a notification.
func TestCancelEndsOnlyOnesOwn(t *testing.T) {
	nodetest.Commands(t)
	eachGateway(t, func(t *testing.T, g *gateway) {
		g.CreateTenant(t, "mallory")
		tokens := []string{g.token, g.Token(t, "mallory")}
		var calls sync.WaitGroup
		results := make([]string, len(tokens))
		for i, token := range tokens {
			g.Connect(t, token).Workspace("main").WriteFile(t.Context(), "f", nil, 0) //nolint:errcheck // opens the workspace
			calls.Go(func() {
				_, results[i], _ = g.call(t, "exec", args{"command": "touch begun; sleep 1; echo whole"}, bearerOf(token))
			})
		}
		for _, token := range tokens {
			ws := g.Connect(t, token).Workspace("main")
			require.Eventually(t, func() bool { _, err := ws.Stat(t.Context(), "begun"); return err == nil }, 20*time.Second, 10*time.Millisecond)
		}
		for _, token := range tokens {
			for _, message := range []string{
				`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
				`{"jsonrpc":"2.0","id":null,"method":"notifications/cancelled","params":{"requestId":1}}`,
				`{"JSONRPC":"2.0","METHOD":"notifications/cancelled","Params":{"requestId":1}}`,
				`{"jsonrpc":"2.0","id":1,"id":null,"method":"notifications/cancelled","params":{"requestId":1}}`,
			} {
				resp := g.post(t, strings.NewReader(message), bearerOf(token))
				require.Equal(t, http.StatusAccepted, resp.StatusCode, message)
			}
		}
		calls.Wait()
		for _, r := range results {
			require.Contains(t, r, "whole\n")
		}

		// Closing the connection is a cancel: the command is killed.
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url, toolCall(1, "exec", args{"command": "touch again; sleep 60"}))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+g.token)
		req.Header.Set("Content-Type", "application/json")
		calls.Go(func() {
			_, err := http.DefaultClient.Do(req) //nolint:bodyclose // there is none
			require.ErrorIs(t, err, context.Canceled)
		})
		ws := g.Client.Workspace("main")
		require.Eventually(t, func() bool { _, err := ws.Stat(t.Context(), "again"); return err == nil }, 20*time.Second, 10*time.Millisecond)
		cancel()
		calls.Wait()
		require.Eventually(t, func() bool {
			info, err := ws.Info(t.Context())
			return err == nil && info.Execs == 0
		}, 20*time.Second, 20*time.Millisecond)
	})
}

// A notification right before the result is the one that mcp-go loses.
func TestNoNotificationIsLost(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		g := serve(t, m, HTTPConfig{}, func(s *server.MCPServer) {
			add(s, tool[pathArgs, pathResult]{name: "notify", run: func(ctx context.Context, c *call, in pathArgs) (pathResult, error) {
				c.progress(ctx, 1, "almost")
				return pathResult{}, nil
			}})
		})
		for i := range 200 {
			resp := g.post(t, bytes.NewReader(asJSON(args{"jsonrpc": "2.0", "id": i, "method": "tools/call", "params": args{
				"name": "notify", "arguments": args{"path": ""}, "_meta": args{"progressToken": i},
			}})), headers{"Accept": "application/json, text/event-stream"})
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Contains(t, string(body), "notifications/progress", "call %d", i)
			require.Contains(t, string(body), `"result"`)
		}
	})
}

func TestDefectsStayInside(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		g := serve(t, m, HTTPConfig{}, func(s *server.MCPServer) {
			add(s, tool[pathArgs, pathResult]{name: "panic", run: func(context.Context, *call, pathArgs) (pathResult, error) {
				panic("at /host/path")
			}})
			add(s, tool[pathArgs, pathResult]{name: "error", run: func(context.Context, *call, pathArgs) (pathResult, error) {
				return pathResult{}, io.ErrClosedPipe
			}})
		})
		for _, name := range []string{"panic", "error"} {
			status, text, isError := g.call(t, name, args{"path": ""}, nil)
			require.Equal(t, http.StatusOK, status)
			require.True(t, isError)
			require.Regexp(t, "^internal: the tool failed because of a defect", text)
			require.NotContains(t, text, "host")
		}
	})
}

func TestTenantHasItsShareOfCalls(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		g.CreateTenant(t, "other")
		taken := 0
		for g.front.slots.Take(string(nodetest.Tenant)) {
			taken++
		}
		require.Equal(t, DefaultMaxCalls/4, taken)
		resp := g.post(t, toolCall(1, "exec", args{}), nil)
		require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
		status, text, _ := g.call(t, "exec", args{}, bearerOf(g.Token(t, "other")))
		require.Equal(t, http.StatusOK, status, text)
		g.front.slots.Give(string(nodetest.Tenant))
		status, text, _ = g.call(t, "exec", args{}, nil)
		require.Equal(t, http.StatusOK, status, text)
	})
}

// endless is a body of n bytes that is not in memory.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	if e.n <= 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.n)
	e.n -= n
	for i := range p[:n] {
		p[i] = 'x'
	}
	return n, nil
}

func TestLargeBodyIsRefusedInLittleMemory(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		g.call(t, "exec", args{}, nil) // connections are there
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		var peak atomic.Uint64
		stop := make(chan struct{})
		var watch sync.WaitGroup
		watch.Go(func() {
			for {
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				peak.Store(max(peak.Load(), now.HeapInuse))
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
		for name, known := range map[string]int64{"of known length": 64 << 20, "in chunks": -1} {
			t.Run(name, func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url, &endless{64 << 20})
				require.NoError(t, err)
				req.ContentLength = known
				req.Header.Set("Authorization", "Bearer "+g.token)
				req.Header.Set("Content-Type", "application/json")
				resp, err := http.DefaultClient.Do(req)
				if err == nil { // else the server was quicker than we read
					defer resp.Body.Close()
					require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
				}
			})
		}
		close(stop)
		watch.Wait()
		require.Less(t, int64(peak.Load())-int64(before.HeapInuse), int64(50<<20))
		status, text, _ := g.call(t, "exec", args{}, nil)
		require.Equal(t, http.StatusOK, status, text)
	})
}

// Who sends a little too much reads why, and is not just cut off.
func TestTooLargeIsExplained(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		for name, known := range map[string]int64{"of known length": DefaultMaxBody + 1, "in chunks": -1} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url, &endless{DefaultMaxBody + 1})
			require.NoError(t, err)
			req.ContentLength = known
			req.Header.Set("Authorization", "Bearer "+g.token)
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err, name)
			defer resp.Body.Close()
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err, name)
			require.Contains(t, string(body), "too_large: ")
		}
	})
}

func TestHealth(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		var away atomic.Bool
		g := serve(t, m, HTTPConfig{Version: "1.2.3", Reachable: func(context.Context) error {
			if away.Load() {
				return mesh.Errorf(mesh.CodeUnavailable, "away")
			}
			return nil
		}})
		url := strings.TrimSuffix(g.url, "mcp") + "health"
		resp := g.do(t, http.MethodGet, url, nil, headers{"Authorization": ""})
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.JSONEq(t, `{"status":"ok","version":"1.2.3","rootDir":"/workspace","transports":["streamable-http"]}`, string(body))
		away.Store(true)
		require.Equal(t, http.StatusServiceUnavailable, g.do(t, http.MethodGet, url, nil, nil).StatusCode)
	})
}

// The first contact of a token finds the mesh away: 503. Later it is the tool's
// error.
func TestMeshAway(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		g := serve(t, m, HTTPConfig{})
		g.call(t, "write_file", args{"path": "f", "content": "x"}, nil)
		fresh := bearerOf(m.Token(t, nodetest.Tenant))
		m.StopNode(t)
		for i := range m.Servers {
			m.Stop(i)
		}
		status, text, isError := g.call(t, "read_text_file", args{"path": "f"}, nil)
		require.Equal(t, http.StatusOK, status)
		require.True(t, isError)
		require.Regexp(t, "^(unavailable|deadline): .* Call again in some seconds", text) // deadline: it was on its way
		resp := g.post(t, toolCall(1, "exec", args{}), fresh)
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
	})
}

// certificate makes one for 127.0.0.1 and returns its files and what trusts it.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(certFile, cert, 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	roots = x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(cert))
	return certFile, keyFile, roots
}

// With TLS it speaks HTTP/2 as well, where deadlines belong to streams.
func TestOverTLS(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		certFile, keyFile, roots := certificate(t)
		g := serve(t, m, HTTPConfig{CertFile: certFile, KeyFile: keyFile})
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, strings.Replace(g.url, "http", "https", 1), toolCall(1, "write_file", args{"path": "f", "content": "x"}))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+g.token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := (&http.Client{Transport: transport}).Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, 2, resp.ProtoMajor)
		require.Contains(t, string(body), "Wrote 1 byte to f")
	})
}

// Bodies that are worked on are bounded in all: a large one waits for others.
func TestLargeBodiesWait(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		g.CreateTenant(t, "other")
		other := bearerOf(g.Token(t, "other"))
		large := strings.Repeat("x", 2*DefaultSmallBody)
		share := holdBodies(t, g, string(nodetest.Tenant), DefaultBodies/4)
		status, text, _ := g.call(t, "write_file", args{"path": "f", "content": "small"}, nil)
		require.Equal(t, http.StatusOK, status, text)
		status, text, _ = g.call(t, "write_file", args{"path": "f", "content": large}, other)
		require.Equal(t, http.StatusOK, status, text)

		answered := make(chan struct{})
		go func() {
			defer close(answered)
			g.call(t, "write_file", args{"path": "f", "content": large}, nil)
		}()
		require.Never(t, func() bool {
			select {
			case <-answered:
				return true
			default:
				return false
			}
		}, 300*time.Millisecond, 10*time.Millisecond)
		share.give()
		<-answered
		info, err := g.Client.Workspace(DefaultWorkspace).Stat(t.Context(), "f")
		require.NoError(t, err)
		require.EqualValues(t, len(large), info.Size)
		require.Empty(t, g.front.bodies.shares)
		require.True(t, g.front.bodies.all.TryAcquire(DefaultBodies), "all is given back")
	})
}

func holdBodies(t *testing.T, g *gateway, tenant string, size int64) *room {
	r, err := g.front.bodies.take(t.Context(), tenant, size)
	require.NoError(t, err)
	return r
}

// A call that goes on for long holds what its body has, and not what a body of
// unknown length might have had.
func TestBodyOfUnknownLengthHoldsWhatItHas(t *testing.T) {
	release, running := make(chan struct{}), make(chan struct{}, 1)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	g := serve(t, m, HTTPConfig{}, func(s *server.MCPServer) {
		s.AddTool(mcp.Tool{Name: "hold", RawInputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			running <- struct{}{}
			<-release
			return mcp.NewToolResultText("held"), nil
		})
	})
	body, err := io.ReadAll(toolCall(1, "hold", args{"text": strings.Repeat("x", 2*DefaultSmallBody)}))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.post(t, io.MultiReader(bytes.NewReader(body)), nil) // of unknown length
	}()
	<-running
	left := g.front.bodies.all.TryAcquire(int64(DefaultBodies - len(body)))
	close(release)
	<-done
	require.True(t, left)
}
