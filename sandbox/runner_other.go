//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

const onlyLinux = "commands run on Linux nodes only; point this client at a mesh with a Linux node"

// limiter makes cgroups, which other systems do not have.
type limiter struct{}

// Runner refuses every command: only Linux hosts can run them.
type Runner struct{}

// New returns a Runner that refuses every command, or CodeUnsupported when an
// isolation is named.
func New(_ context.Context, cfg Config) (*Runner, error) {
	if cfg.Isolation != "" && cfg.Isolation != IsolationAuto {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "isolation %s: %s", cfg.Isolation, onlyLinux)
	}
	return &Runner{}, nil
}

// Level says that commands are refused.
func (r *Runner) Level() Level { return Level{Reason: onlyLinux} }

// Refusal is why no command runs here.
func (r *Runner) Refusal() error { return errors.New(onlyLinux) }

// Check is Refusal.
func (r *Runner) Check(context.Context) error { return r.Refusal() }

// WarmUsage returns zeros.
func (r *Runner) WarmUsage() (int, int64) { return 0, 0 }

// Prepare returns CodeUnsupported.
func (r *Runner) Prepare(context.Context, *Spec) (*Held, error) {
	return nil, mesh.Errorf(mesh.CodeUnsupported, "%s", onlyLinux)
}

// Start returns CodeUnsupported.
func (r *Runner) Start(context.Context, *Spec) (*Process, error) {
	return nil, mesh.Errorf(mesh.CodeUnsupported, "%s", onlyLinux)
}

// Close does nothing.
func (r *Runner) Close() error { return nil }

// Held is never made here.
type Held struct{}

// Begin returns CodeUnsupported.
func (h *Held) Begin() (*Process, error) {
	return nil, mesh.Errorf(mesh.CodeUnsupported, "%s", onlyLinux)
}

// Drop does nothing.
func (h *Held) Drop() {}

// Terminal returns nil.
func (h *Held) Terminal() *Terminal { return nil }

// Terminal is never made here.
type Terminal struct{}

// Read returns io.EOF.
func (t *Terminal) Read([]byte) (int, error) { return 0, io.EOF }

// Write returns io.ErrClosedPipe.
func (t *Terminal) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// EndInput does nothing.
func (t *Terminal) EndInput() error { return nil }

// Resize does nothing.
func (t *Terminal) Resize(Winsize) error { return nil }

// Hangup does nothing.
func (t *Terminal) Hangup(time.Time) {}

// Close does nothing.
func (t *Terminal) Close() error { return nil }

// Process is never made here.
type Process struct{}

// Wait returns at once.
func (p *Process) Wait() Result {
	return Result{Err: mesh.Errorf(mesh.CodeUnsupported, "%s", onlyLinux)}
}

// Kill does nothing.
func (p *Process) Kill() {}

// Stop does nothing.
func (p *Process) Stop(time.Duration) {}

// Signal returns CodeUnsupported.
func (p *Process) Signal(syscall.Signal) error {
	return mesh.Errorf(mesh.CodeUnsupported, "%s", onlyLinux)
}
