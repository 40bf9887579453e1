package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// mcpProcess is a real `wsmesh mcp`, as an MCP client runs it.
type mcpProcess struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr string // file with what it says
	id     int
}

func startMCP(t *testing.T, dir string, more ...string) *mcpProcess {
	t.Helper()
	p := &mcpProcess{cmd: exec.Command("wsmesh", append([]string{"mcp", "--data", dir}, more...)...)}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+os.Getenv(name))
	}
	p.cmd.Env = append(p.cmd.Env, "GORACE=atexit_sleep_ms=0", "WSMESH_ISOLATION="+nodetest.Isolation())
	var err error
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewReader(out)
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	defer stderr.Close()
	p.cmd.Stderr, p.stderr = stderr, stderr.Name()
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			p.cmd.Wait() //nolint:errcheck // killed
		}
	})
	return p
}

// said is what the process wrote to standard error.
func (p *mcpProcess) said() string {
	b, _ := os.ReadFile(p.stderr)
	return string(b)
}

// ask sends a request and returns its result.
func (p *mcpProcess) ask(t *testing.T, method string, params any) map[string]any {
	t.Helper()
	p.id++
	line, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": p.id, "method": method, "params": params})
	require.NoError(t, err)
	_, err = p.in.Write(append(line, '\n'))
	require.NoError(t, err, p.said())
	answer, err := p.out.ReadBytes('\n')
	require.NoError(t, err, p.said())
	var m struct {
		JSONRPC string         `json:"jsonrpc"`
		ID      int            `json:"id"`
		Result  map[string]any `json:"result"`
	}
	require.NoError(t, json.Unmarshal(answer, &m), "standard output is the protocol's: %s", answer)
	require.Equal(t, p.id, m.ID, "%s", answer)
	require.NotNil(t, m.Result, "%s", answer)
	return m.Result
}

func (p *mcpProcess) initialize(t *testing.T) {
	t.Helper()
	r := p.ask(t, "initialize", map[string]any{
		"protocolVersion": "2025-06-18", "capabilities": map[string]any{}, "clientInfo": map[string]any{"name": "test", "version": "1"},
	})
	require.Equal(t, "2025-06-18", r["protocolVersion"])
}

// call calls a tool that must succeed and returns its structured content.
func (p *mcpProcess) call(t *testing.T, tool string, args map[string]any) map[string]any {
	t.Helper()
	r := p.ask(t, "tools/call", map[string]any{"name": tool, "arguments": args})
	require.NotEqual(t, true, r["isError"], "%v", r["content"])
	return r["structuredContent"].(map[string]any)
}

// ends waits for the process, whose standard output must hold nothing more.
func (p *mcpProcess) ends(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(p.out)
	require.NoError(t, err)
	require.Empty(t, string(rest))
	require.NoError(t, p.cmd.Wait(), "%s", p.said())
}

// One line in a client's configuration is enough: the first process runs a one
// box, others join it, and when it is killed the next one takes over.
func TestMCPRunsItsOwnBox(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := startMCP(t, dir)
	first.initialize(t)
	first.call(t, "write_file", map[string]any{"path": "a.txt", "content": "kept"})
	cfg, err := client.ReadFile(filepath.Join(dir, "client.json"))
	require.NoError(t, err)

	second := startMCP(t, dir, "--scope", "sub")
	second.initialize(t)
	second.call(t, "write_file", map[string]any{"path": "b.txt", "content": "of a scope"})
	require.Equal(t, "of a scope", first.call(t, "read_text_file", map[string]any{"path": "sub/b.txt"})["content"])
	third := startMCP(t, dir)
	third.initialize(t)
	require.Equal(t, "kept", third.call(t, "read_text_file", map[string]any{"path": "a.txt"})["content"])

	require.NoError(t, first.cmd.Process.Kill())
	first.cmd.Wait() //nolint:errcheck // killed
	require.Equal(t, "of a scope", second.call(t, "read_text_file", map[string]any{"path": "b.txt"})["content"])
	require.Equal(t, "kept", third.call(t, "read_text_file", map[string]any{"path": "a.txt"})["content"])
	third.call(t, "write_file", map[string]any{"path": "a.txt", "content": "again"})
	again, err := client.ReadFile(filepath.Join(dir, "client.json"))
	require.NoError(t, err)
	require.Equal(t, cfg, again, "the address and the token of before")

	// The end of the input, and SIGTERM, are the end of the process, whoever runs
	// the box; the last one has it in any case.
	require.NoError(t, second.in.Close())
	second.ends(t)
	require.Equal(t, "again", third.call(t, "read_text_file", map[string]any{"path": "a.txt"})["content"])
	require.NoError(t, third.cmd.Process.Signal(syscall.SIGTERM))
	third.ends(t)
}

// Who pipes requests in gets their answers.
func TestMCPAnswersWhatItWasAskedBeforeItsInputEnded(t *testing.T) {
	p := startMCP(t, filepath.Join(t.TempDir(), "data"))
	for range 3 {
		p.id++
		line, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": p.id, "method": "tools/call", "params": map[string]any{"name": "list_directory"}})
		require.NoError(t, err)
		_, err = p.in.Write(append(line, '\n'))
		require.NoError(t, err)
	}
	require.NoError(t, p.in.Close())
	all, err := io.ReadAll(p.out)
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(all), `"result"`), "%s", all)
	require.NoError(t, p.cmd.Wait())
}

// A process that cannot have a mesh says so to whoever calls a tool.
func TestMCPWithoutAMesh(t *testing.T) {
	p := startMCP(t, t.TempDir(), "--url", "nats://127.0.0.1:1")
	p.initialize(t)
	r := p.ask(t, "tools/call", map[string]any{"name": "list_directory"})
	require.Equal(t, true, r["isError"])
	require.Regexp(t, "^[a-z]+: .*[.]$", r["content"].([]any)[0].(map[string]any)["text"])
	require.NoError(t, p.in.Close())
	p.ends(t)
}

// dev and gateway serve the same, dev with the address in client.json.
func TestGatewayProcesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	dev := exec.Command("wsmesh", "dev", "--data", dir, "--nats", "127.0.0.1:0", "--http", "127.0.0.1:0", "--isolation", nodetest.Isolation())
	dev.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	require.NoError(t, dev.Start())
	ended := make(chan error, 1)
	go func() { ended <- dev.Wait() }()
	t.Cleanup(func() { dev.Process.Signal(syscall.SIGTERM); require.NoError(t, <-ended) })
	var file client.File
	require.Eventually(t, func() bool {
		raw, err := os.ReadFile(filepath.Join(dir, "client.json"))
		return err == nil && json.Unmarshal(raw, &file) == nil
	}, patience, 20*time.Millisecond)

	out, in, err := os.Pipe()
	require.NoError(t, err)
	gateway := exec.Command("wsmesh", "gateway", "--nats", file.URL, "--http", "127.0.0.1:0")
	gateway.Env, gateway.Stderr = dev.Env, in
	require.NoError(t, gateway.Start())
	in.Close()
	t.Cleanup(func() { gateway.Process.Signal(syscall.SIGTERM); require.NoError(t, gateway.Wait()) })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	words := strings.Fields(line)

	for _, at := range []string{file.HTTP, strings.TrimSuffix(words[len(words)-1], "/mcp")} {
		resp, err := http.Get(at + "/health")
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write_file","arguments":{"path":"f","content":"x"}}}`
		req, err := http.NewRequest(http.MethodPost, at+"/mcp", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+file.Token)
		resp, err = http.DefaultClient.Do(req)
		require.NoError(t, err)
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err)
		require.Contains(t, string(answer), "Wrote 1 byte to f")
	}
}
