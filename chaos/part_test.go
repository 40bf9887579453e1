package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/natsd"
	"github.com/wsmesh/wsmesh/node"
)

// partFile makes a test process a part of a mesh: it names what part.
const partFile = "WSMESH_CHAOS_PART"

// TestMain is also each process of a mesh that a test kills.
func TestMain(m *testing.M) {
	if file := os.Getenv(partFile); file != "" {
		fmt.Fprintln(os.Stderr, "ended:", runPart(file))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// part is one process of a mesh, a NATS server or a node, that is killed and started
// again on the same data and address.
type part struct {
	Name string
	Dir  string
	Keys string // directory

	// Of a server; a node has no Port.
	Port    int
	Cluster natsd.Cluster

	// Of a node.
	URL string // of all servers

	cmd *exec.Cmd
	log lockedBuffer
}

// partReady is what a part says when it serves.
const partReady = "ready"

// start starts the process and returns when it serves. An address that somebody has
// got meanwhile is waited for.
func (p *part) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		err := p.startOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (p *part) startOnce(ctx context.Context) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	file := filepath.Join(p.Keys, p.Name+".part")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	p.cmd = exec.Command(os.Args[0], "-test.run=^$")
	p.cmd.Env = append(os.Environ(), partFile+"="+file)
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C of a test is not its
	if _, err := p.cmd.StdinPipe(); err != nil {            // which ends with this process
		return err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(out).ReadString('\n')
		if err == nil && strings.TrimSpace(line) != partReady {
			err = fmt.Errorf("it said %q", line)
		}
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		p.kill()
		return fmt.Errorf("start %s: %w\n%s", p.Name, err, p.log.String())
	}
	return nil
}

// kill ends the process with SIGKILL and returns when it is gone.
func (p *part) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may be gone already
	_ = p.cmd.Wait()
	p.cmd = nil
}

// runPart is the process of a part. It ends when nobody holds its standard input.
func runPart(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var p part
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	keys, err := auth.LoadOrCreate(p.Keys)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	if p.Port != 0 {
		return p.runServer(keys)
	}
	return p.runNode(keys.Signer())
}

func (p *part) runServer(keys *auth.Keys) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	_, err := natsd.Start(natsd.Config{Dir: p.Dir, Name: p.Name, Port: p.Port, Keys: keys, Cluster: &p.Cluster, Log: log})
	if err != nil {
		return err
	}
	fmt.Println(partReady)
	select {}
}

func (p *part) runNode(signer *auth.Signer) error {
	door, err := signer.Door(mesh.Node(p.Name))
	if err != nil {
		return err
	}
	store, err := signer.Store(mesh.Node(p.Name))
	if err != nil {
		return err
	}
	cfg := node.Config{
		Name: mesh.Node(p.Name), Data: p.Dir, Signer: signer, Storage: threeServers,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	for _, c := range []struct {
		creds auth.Creds
		conn  **nats.Conn
	}{{door, &cfg.Door}, {store, &cfg.Store}} {
		if *c.conn, err = connect(p.URL, c.creds); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	n, err := node.New(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(n.Run(context.Background(), func() { fmt.Println(partReady) }), errors.New("the node gave up"))
}

func connect(url string, creds auth.Creds) (*nats.Conn, error) {
	return nats.Connect(url, append(mesh.ConnOptions(creds.Name, creds.Inbox), creds.Option())...)
}
