package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
)

// Fleet is a mesh as people run it on several machines: what wsmesh init makes, and
// each NATS server and node a process. Its methods, and those of its processes, are
// called by one goroutine.
type Fleet struct {
	Program        string
	Dir            string // of init
	Servers, Nodes []*Process

	urls string
}

// Process is one process of a fleet, that is killed and started again with the same
// data and address.
type Process struct {
	Name string
	Data string // directory

	program string
	args    []string
	serves  string // what it says once it does
	cmd     *exec.Cmd
	gone    chan struct{} // closed when cmd has ended
	log     lockedBuffer
}

// NewFleet sets a mesh up below dir, which does not exist yet, and starts nothing.
func NewFleet(ctx context.Context, program, dir string, servers, nodes int) (*Fleet, error) {
	f := &Fleet{Program: program, Dir: dir}
	port, err := freePorts(servers)
	if err != nil {
		return nil, err
	}
	made, err := exec.CommandContext(ctx, program, "init", "--dir", dir, "--servers", strconv.Itoa(servers), "--port", strconv.Itoa(port)).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("set up a fleet: %w\n%s", err, made)
	}
	file, err := client.ReadFile(filepath.Join(dir, "client.json"))
	if err != nil {
		return nil, err
	}
	f.urls = file.URL
	for i := range servers {
		name := fmt.Sprintf("nats-%d", i+1)
		f.Servers = append(f.Servers, &Process{
			Name: name, Data: filepath.Join(dir, name), program: program, serves: "listens on",
			args: []string{"nats", "--config", filepath.Join(dir, name+".conf")},
		})
	}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		data := filepath.Join(dir, name)
		f.Nodes = append(f.Nodes, &Process{
			Name: name, Data: data, program: program, serves: "serves",
			args: []string{"node", "--nats", f.urls, "--creds", filepath.Join(dir, "node.creds"), "--data", data, "--name", name, "--log-level", "info"},
		})
	}
	return f, nil
}

// freePorts finds a row of n ports that are free, and those that init puts the servers'
// own beside.
func freePorts(n int) (first int, err error) {
	for range 100 {
		first = 20000 + rand.IntN(10000)
		free := true
		for i := range n {
			for _, port := range []int{first + i, first + i + 2000} {
				l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
				if err != nil {
					free = false
					continue
				}
				l.Close()
			}
		}
		if free {
			return first, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row", n)
}

// Start starts every process and returns when all serve: servers together, since one
// that campaigns alone keeps its vote from the others for seconds.
func (f *Fleet) Start(ctx context.Context) error {
	for _, kind := range [][]*Process{f.Servers, f.Nodes} {
		var all errgroup.Group
		for _, p := range kind {
			all.Go(func() error { return p.Start(ctx) })
		}
		if err := all.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// Kill ends every process with SIGKILL.
func (f *Fleet) Kill() {
	for _, p := range append(f.Nodes, f.Servers...) {
		p.Kill()
	}
}

// Dial connects a client of the first tenant.
func (f *Fleet) Dial(ctx context.Context) (*client.Client, error) {
	cfg, err := client.ReadFile(filepath.Join(f.Dir, "client.json"))
	if err != nil {
		return nil, err
	}
	cfg.Name = "chaos"
	return client.Dial(ctx, cfg)
}

// Run runs the program with arguments as the operator and returns its output.
func (f *Fleet) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, f.Program, args...)
	cmd.Env = append(os.Environ(), "WSMESH_URL=", "WSMESH_TOKEN=", "WSMESH_WORKSPACE=", "WSMESH_DATA="+f.Dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Log is what the processes said.
func (f *Fleet) Log() string {
	var b strings.Builder
	for _, p := range append(f.Nodes, f.Servers...) {
		fmt.Fprintf(&b, "== %s\n%s", p.Name, p.log.String())
	}
	return b.String()
}

// Start starts the process and returns when it serves. An address that somebody has got
// meanwhile, and a dead predecessor that the mesh still believes in, are waited for.
func (p *Process) Start(ctx context.Context) error {
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

func (p *Process) startOnce(ctx context.Context) error {
	before := len(p.log.String())
	cmd := exec.Command(p.program, p.args...)
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.Env = append(os.Environ(), "WSMESH_URL=", "WSMESH_TOKEN=", "WSMESH_WORKSPACE=", "WSMESH_DATA=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C of a test is not its
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	for {
		if strings.Contains(p.log.String()[before:], p.serves) {
			p.cmd, p.gone = cmd, gone
			return nil
		}
		select {
		case <-gone:
			return fmt.Errorf("start %s: it ended:\n%s", p.Name, p.log.String()[before:])
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-gone
			return fmt.Errorf("start %s: %w\n%s", p.Name, ctx.Err(), p.log.String()[before:])
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Kill ends the process with SIGKILL and returns when it is gone. One that is gone
// already is no error.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop ends the process with SIGTERM and returns when it is gone.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

func (p *Process) end(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig) // it may be gone already
	<-p.gone
	p.cmd = nil
}

// Freeze stops the process where it is, and Thaw lets it go on.
func (p *Process) Freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }
