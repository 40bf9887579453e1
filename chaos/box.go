package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/wsmesh/wsmesh/client"
)

// Box is a one box: a process of the program under test, that is killed and
// started again on the same data and addresses. Its methods are called by one
// goroutine.
type Box struct {
	Program string
	Data    string
	Args    []string // further arguments of dev
	Env     []string // further environment of the next starts

	nats string
	cmd  *exec.Cmd
	log  lockedBuffer
}

// startTime bounds a start with the restore of what an experiment writes.
const startTime = 60 * time.Second

// Begin starts the process, which may end before it is ready.
func (b *Box) Begin() error {
	if b.nats == "" {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		b.nats = address
	}
	args := append([]string{"dev", "--data", b.Data, "--http", "", "--nats", b.nats}, b.Args...)
	b.cmd = exec.Command(b.Program, args...)
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	b.cmd.Env = append(append(os.Environ(), "WSMESH_URL=", "WSMESH_TOKEN=", "WSMESH_WORKSPACE=", "WSMESH_DATA="+b.Data), b.Env...)
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C of a test is not its
	if err := b.cmd.Start(); err != nil {
		return fmt.Errorf("start a box: %w", err)
	}
	return nil
}

// Start starts the process and returns when it is ready.
func (b *Box) Start(ctx context.Context) error {
	if err := b.Begin(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		status := exec.CommandContext(ctx, b.Program, "status", "--data", b.Data)
		status.Env = b.cmd.Env
		if status.Run() == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the box was not ready within %s:\n%s", startTime, b.log.String()), b.Kill())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the process with SIGKILL and returns when it is gone. One that is gone
// already is no error.
func (b *Box) Kill() error { return b.end(syscall.SIGKILL) }

// Stop ends the process with SIGTERM and returns when it is gone.
func (b *Box) Stop() error { return b.end(syscall.SIGTERM) }

func (b *Box) end(sig syscall.Signal) error {
	if b.cmd == nil {
		return nil
	}
	err := b.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	_ = b.cmd.Wait() // how it ended is what the caller wanted
	b.cmd = nil
	return err
}

// Gone waits until the process has ended by itself, as at a crash point.
func (b *Box) Gone(ctx context.Context) bool {
	done := make(chan struct{})
	cmd := b.cmd
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
		b.cmd = nil
		return true
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-done
		b.cmd = nil
		return false
	}
}

// Dial connects a client of the box's first tenant.
func (b *Box) Dial(ctx context.Context) (*client.Client, error) {
	file, err := client.ReadFile(filepath.Join(b.Data, "client.json"))
	if err != nil {
		return nil, err
	}
	return client.Dial(ctx, client.Config{URL: file.URL, Token: file.Token, Name: "chaos"})
}

// LoseFiles takes the workspaces' files away, as the loss of a node's disk does;
// what NATS holds stays. The box must not run.
func (b *Box) LoseFiles() error {
	lost := filepath.Join(b.Data, fmt.Sprintf("lost-%d", time.Now().UnixNano()))
	return os.Rename(filepath.Join(b.Data, "workspaces"), lost)
}

// Run runs the program with arguments against the box and returns its output.
func (b *Box) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.Program, args...)
	cmd.Env = append(os.Environ(), "WSMESH_URL=", "WSMESH_TOKEN=", "WSMESH_WORKSPACE=", "WSMESH_DATA="+b.Data)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Log is what the processes said.
func (b *Box) Log() string { return b.log.String() }

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
