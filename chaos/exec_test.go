package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// countLines is how many lines the command of these rounds writes, in some time.
const countLines = 3000

// countScript leaves a mark where its end cannot undo it, and then counts.
func countScript(mark string) string {
	return fmt.Sprintf(`echo x >> %s; i=0; while [ $i -lt %d ]; do seq -f %%07.0f $i $((i+99)); i=$((i+100)); sleep 0.01; done`, mark, countLines)
}

// counted is what the script writes.
func counted() []byte {
	var b bytes.Buffer
	for i := range countLines {
		fmt.Fprintf(&b, "%07d\n", i)
	}
	return b.Bytes()
}

// TestExecsSurviveKills kills, at random instants of a command, who asked for it (a
// client, or a gateway), or the node that runs it. The command started once, its log
// has one end, and what is read again is what was written: all of it, or with the
// node up to the loss, which its end names.
func TestExecsSurviveKills(t *testing.T) {
	if !canIsolate() {
		t.Skip("bubblewrap is missing, or may not make namespaces")
	}
	r := startKilling(t)
	all := rand.New(rand.NewPCG(seed(t), 0))
	for i := range rounds(100) {
		victims := []string{"client", "gateway", "node"}
		victim := victims[all.IntN(len(victims))]
		after := time.Duration(all.IntN(600)) * time.Millisecond
		ok := t.Run(fmt.Sprintf("%02d %s after %s", i, victim, after), func(t *testing.T) { r.round(t, victim, after) })
		if !ok {
			t.Log(r.box.Log())
			break
		}
	}
	t.Logf("ends: %v", r.ends)
}

// killing is the mesh of these rounds. Its workspace is a directory of this machine,
// so that a mark stays when its node dies.
type killing struct {
	box   *Box
	marks string // directory
	want  []byte
	ends  map[string]int
}

func startKilling(t *testing.T) *killing {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	k := &killing{box: &Box{Program: program(t, ""), Data: filepath.Join(base, "data")}, marks: filepath.Join(base, "project"), want: counted(), ends: map[string]int{}}
	require.NoError(t, os.MkdirAll(k.box.Data, 0o755))
	require.NoError(t, os.Mkdir(k.marks, 0o755))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(k.marks, 41002, 41002)) // root's directories are no workspaces
	}
	t.Cleanup(func() { k.box.Kill() }) //nolint:errcheck // gone already
	require.NoError(t, k.box.Start(t.Context()))
	out, err := k.box.Run(t.Context(), "workspace", "create", "main", "--dir", k.marks)
	require.NoError(t, err, out)
	return k
}

// round starts one command, kills the victim, and looks at what is left.
func (k *killing) round(t *testing.T, victim string, after time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id, mark := string(mesh.NewExecID()), "mark-"+mesh.NewID()
	line := countScript(mark)
	seen := &lockedBuffer{}
	kill := map[string]func() func(){
		"client":  func() func() { return k.byClient(t, id, line, seen) },
		"gateway": func() func() { return k.byGateway(ctx, t, line) },
		"node":    func() func() { return k.byNode(ctx, t, id, line, seen) },
	}[victim]()
	time.Sleep(after) // the instant is the experiment
	kill()
	c, err := k.box.Dial(ctx)
	require.NoError(t, err)
	defer c.Close()
	ws := c.Workspace("main")
	if victim == "gateway" {
		if id = k.find(ctx, t, ws, line); id == "" {
			return // its request was not sent, or is lost
		}
	}
	k.judge(ctx, t, ws, id, mark, line, victim, []byte(seen.String()))
}

// byClient has a client of its own process ask for the command.
func (k *killing) byClient(t *testing.T, id, line string, seen io.Writer) (kill func()) {
	cmd := exec.Command(k.box.Program, "exec", "--id", id, "-c", line)
	cmd.Env, cmd.Stdout = k.env(), seen
	require.NoError(t, cmd.Start())
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// byNode has a client of ours ask for the command. The kill is that of the box, which
// is started again.
func (k *killing) byNode(ctx context.Context, t *testing.T, id, line string, seen io.Writer) (kill func()) {
	c, err := k.box.Dial(ctx)
	require.NoError(t, err)
	var asking sync.WaitGroup
	asking.Go(func() {
		cmd := c.Workspace("main").Command(ctx, "sh", "-c", line)
		cmd.ID, cmd.Stdout = id, seen
		_ = cmd.Run() // how it ended is looked at from outside
	})
	return func() {
		require.NoError(t, k.box.Kill())
		require.NoError(t, k.box.Start(ctx), k.box.Log())
		asking.Wait() // the log has an end
		require.NoError(t, c.Close())
	}
}

// byGateway has a gateway of its own process ask for the command.
func (k *killing) byGateway(ctx context.Context, t *testing.T, line string) (kill func()) {
	file, err := client.ReadFile(filepath.Join(k.box.Data, "client.json"))
	require.NoError(t, err)
	out, in, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(k.box.Program, "gateway", "--nats", file.URL, "--http", "127.0.0.1:0")
	cmd.Env, cmd.Stderr = k.env(), in
	require.NoError(t, cmd.Start())
	in.Close()
	said := bufio.NewReader(out)
	ready, err := said.ReadString('\n')
	require.NoError(t, err)
	go func() {
		_, _ = io.Copy(io.Discard, said) // ends with the gateway
		out.Close()
	}()
	words := strings.Fields(ready)
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": "tools/call",
		"params": map[string]any{"name": "exec", "arguments": map[string]any{"command": line}},
	})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, words[len(words)-1], bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Authorization", "Bearer "+file.Token)
	var asking sync.WaitGroup
	asking.Go(func() {
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		asking.Wait()
	}
}

func (k *killing) env() []string {
	return append(os.Environ(), "WSMESH_URL=", "WSMESH_TOKEN=", "WSMESH_WORKSPACE=", "WSMESH_DATA="+k.box.Data)
}

// find is the id of the one command with a line, "" if there is none.
func (k *killing) find(ctx context.Context, t *testing.T, ws *client.Workspace, line string) (id string) {
	t.Helper()
	for e, err := range ws.Execs(ctx) {
		require.NoError(t, err)
		if len(e.Args) == 3 && string(e.Args[2]) == line {
			require.Empty(t, id, "two commands for one request")
			id = string(e.ID)
		}
	}
	return id
}

// judge asks for the command again, from three clients at a time, and reads its log
// twice.
func (k *killing) judge(ctx context.Context, t *testing.T, ws *client.Workspace, id, mark, line, victim string, seen []byte) {
	var again sync.WaitGroup
	outputs, ends := make([]bytes.Buffer, 3), make([]error, 3)
	for i := range outputs {
		again.Go(func() {
			cmd := ws.Command(ctx, "sh", "-c", line)
			cmd.ID, cmd.Stdout = id, &outputs[i]
			ends[i] = cmd.Run()
		})
	}
	again.Wait()
	var finals []mesh.Final
	for range 2 {
		x, err := ws.Attach(ctx, id)
		require.NoError(t, err)
		var read bytes.Buffer
		err = x.Copy(ctx, &read, io.Discard)
		require.NotNil(t, x.Final(), "%v", err)
		finals = append(finals, *x.Final())
		x.Close()
		for i := range outputs {
			require.Equal(t, read.String(), outputs[i].String(), "a repeat has other output")
			require.Equal(t, mesh.CodeOf(err), mesh.CodeOf(ends[i]))
		}
	}
	require.Equal(t, finals[0], finals[1])
	e, err := ws.Exec(ctx, id)
	require.NoError(t, err)
	require.Equal(t, finals[0], *e.Final)
	final, read := finals[0], outputs[0].Bytes()
	require.True(t, bytes.HasPrefix(k.want, read), "%d bytes that the command did not write so", len(read))
	require.True(t, bytes.HasPrefix(read, seen), "%d bytes were seen, and %d are there", len(seen), len(read))
	require.Equal(t, uint64(len(read)), final.Output, "the end names another offset")
	marks, err := os.ReadFile(filepath.Join(k.marks, mark))
	if final.ErrorCode == mesh.CodeLost && len(read) == 0 && os.IsNotExist(err) {
		marks = []byte("x\n") // it was claimed, and had not begun
	} else {
		require.NoError(t, err)
	}
	require.Equal(t, "x\n", string(marks), "it started more than once, or never")
	switch {
	case final.ErrorCode == mesh.CodeLost && victim == "node":
	default:
		require.NoError(t, final.Err())
		require.Zero(t, final.Code)
		require.Equal(t, len(k.want), len(read))
	}
	k.ends[victim+" "+string(final.ErrorCode)]++
}
