package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// MaxCollected is how much of each stream Output and CombinedOutput keep: 64
// MiB. More is CodeTooLarge; give Stdout a writer instead.
const MaxCollected = 64 << 20

// Cmd is a command to run in a workspace. It mirrors os/exec: fill the fields,
// then Run, Output, CombinedOutput, or Start and Wait, once. When the context
// ends, everything that the command started is asked to end, with SIGTERM, and
// killed if that takes it longer than two seconds; Signal with KILL kills at once,
// and Detach leaves it running.
type Cmd struct {
	Args        []string      // program and arguments
	Dir         string        // working directory, relative to the scope; default its root
	Env         []string      // NAME=value, over the scope's and the sandbox's own; NAME alone takes one of those away
	Stdin       io.Reader     // passed on as it is read; what it holds beyond the command's end is not read
	Stdout      io.Writer     // nil drops it; a writer that fails ends the command
	Stderr      io.Writer     // the same
	ID          string        // a UUIDv7; default a fresh one. The same id never starts twice
	Timeout     time.Duration // how long the command may live; 0: no limit
	MaxOutput   int64         // bytes of output after which it is killed; 0: no limit
	MemoryBytes int64         // of all of its processes; this and what follows: 0 is what the tenant may use
	Pids        int64         // processes and threads
	CPUMillis   int64         // processors, in thousandths of one

	Net        string // none, full or allow:HOST,…; default as the workspace and the mesh are set
	Durability string // sync (default): Wait returns when what it changed is stored; async, none: at its exit

	// Cancel is called instead of the kill when the context ends, for instance to
	// send a milder signal. Wait then goes on to the command's end, and returns as
	// that of os/exec does.
	Cancel func() error
	// WaitDelay bounds the time from the end of the context to the command's: what
	// runs on is killed. 0 is no bound with Cancel; without, Wait does not wait.
	WaitDelay time.Duration
	// Patience is how long Wait waits; 0: to the end. What it returns then is
	// CodeDeadline, the command goes on, and one may wait again, or Detach. How long
	// the command may live is Timeout.
	Patience time.Duration

	// Terminal gives the command a terminal of that size for its standard files: what
	// it shows is all on Stdout, and Stdin is typed.
	Terminal *Terminal

	// AllowDangerous runs what the node's command guard would refuse with
	// CodeDenied, such as the removal of the whole workspace.
	AllowDangerous bool

	ctx       context.Context
	workspace *Workspace
	operation *operation // from Start to the end
	recorded  sync.Once  // that of it
	follower  *follower
	stdin     *stdinStream // of a Stdin that is streamed, or of pipe
	pipe      *stdinPipe   // made by StdinPipe
	fed       chan error   // how Stdin ended
	err       error        // of a command that cannot be
	waited    bool
	broken    error // of Stdout or Stderr
	final     *mesh.Final
	following context.Context // of Wait: ends with ctx, and with Detach
	leave     context.CancelCauseFunc
	pipes     []*io.PipeWriter
	pumped    chan error // what Wait returns; nil without pipes
}

// Command returns a command; nothing is asked of the mesh yet.
func (w *Workspace) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{ctx: ctx, workspace: w, Args: append([]string{name}, args...)}
}

// Run starts the command and waits for its end. The error is an *ExitError when
// the command itself failed; any other says that the mesh did: CodeLost when
// the outcome is unknown, CodeUnsupported when the node cannot isolate it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. An *ExitError then
// carries the end of standard error if Stderr is nil.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "Output: Stdout is set")
	}
	out := &bounded64{}
	errs := &tail{}
	c.Stdout = out
	collect := c.Stderr == nil
	if collect {
		c.Stderr = errs
	}
	err := c.Run()
	var exit *ExitError
	if collect && errors.As(err, &exit) {
		exit.Stderr = errs.b
	}
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns both streams, mixed roughly as
// they were written.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "CombinedOutput: Stdout or Stderr is set")
	}
	out := &bounded64{}
	c.Stdout, c.Stderr = out, out
	err := c.Run()
	return out.Bytes(), err
}

// bounded64 collects up to MaxCollected bytes.
type bounded64 struct{ bytes.Buffer }

func (b *bounded64) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxCollected {
		return 0, mesh.Errorf(mesh.CodeTooLarge, "output is larger than %d bytes; give the command a writer", MaxCollected)
	}
	return b.Buffer.Write(p)
}

// tail keeps the last 32 KiB.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 32 << 10
	t.b = append(t.b, p...)
	if len(t.b) > 2*keep {
		t.b = append(t.b[:0], t.b[len(t.b)-keep:]...)
	}
	return len(p), nil
}

// Start starts the command. When it returns nil, the id is claimed: the command
// runs, or has run, exactly once.
func (c *Cmd) Start() error {
	if c.follower != nil || c.err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "exec: already started")
	}
	_, c.operation = c.workspace.changes(c.ctx, "exec")
	if err := c.start(); err != nil {
		c.err = err
		for _, w := range c.pipes {
			w.Close()
		}
		c.ended(nil, err)
		return err
	}
	if len(c.pipes) > 0 {
		c.pumped = make(chan error, 1)
		go c.pump() // ends with the command or its context; Wait waits for it
	}
	return nil
}

func (c *Cmd) start() error {
	if guard := c.workspace.client.cfg.Guard; guard != nil {
		if err := guard(c.ctx, c); err != nil {
			return err
		}
	}
	switch {
	case len(c.Args) == 0:
		return mesh.Errorf(mesh.CodeInvalid, "exec: no command")
	case c.Patience > 0 && len(c.pipes) > 0:
		return mesh.Errorf(mesh.CodeInvalid, "exec: Patience and a pipe, which is read to the end")
	}
	if c.ID == "" {
		c.ID = string(mesh.NewExecID())
	}
	id, err := mesh.ParseExecID(c.ID)
	if err != nil {
		return err
	}
	if c.workspace.err != nil {
		return c.workspace.err
	}
	stdin, open, err := c.inlineStdin()
	if err != nil {
		return err
	}
	terminal, err := c.Terminal.size()
	if err != nil {
		return err
	}
	req := mesh.ExecRequest{
		ID: id, Dir: mesh.Path(c.Dir), TimeoutMS: c.Timeout.Milliseconds(), MaxOutput: c.MaxOutput,
		MemoryBytes: c.MemoryBytes, Pids: c.Pids, CPUMillis: c.CPUMillis,
		Net: c.Net, Durability: c.Durability, AllowDangerous: c.AllowDangerous,
		Terminal: terminal, OpenStdin: open,
	}
	if c.Timeout > 0 && req.TimeoutMS == 0 {
		req.TimeoutMS = 1
	}
	for _, a := range c.Args {
		req.Args = append(req.Args, mesh.Path(a))
	}
	for _, e := range slices.Concat(c.Terminal.env(), c.workspace.env, c.Env) {
		req.Env = append(req.Env, mesh.Path(e))
	}
	f, err := newFollower(c.workspace, id)
	if err != nil {
		return err
	}
	// Frames can arrive before the reply: the subscription came first.
	var reply mesh.ExecReply
	if _, err := c.workspace.request(c.ctx, call{verb: mesh.VerbExec, args: req, content: stdin, create: true}, &reply); err != nil {
		f.close()
		if c.ctx.Err() != nil { // it may have been claimed: do not leave it running
			c.end(mesh.SignalCancel)
		}
		return err
	}
	f.behind = reply.Attached // its frames went by before we subscribed
	c.follower = f
	c.following, c.leave = context.WithCancelCause(c.ctx)
	if open {
		return c.streamStdin(&reply)
	}
	return nil
}

// Wait waits for the end of the command and for all of its output. A Stdin that
// could not be read is an error then, if the command itself did not fail; a Read of
// it that is still under way is left behind.
func (c *Cmd) Wait() error {
	if c.follower == nil || c.waited {
		return mesh.Errorf(mesh.CodeInvalid, "exec: not started, or waited for already")
	}
	c.waited = true
	if c.pumped != nil {
		return c.awaitPump()
	}
	return c.wait()
}

func (c *Cmd) wait() (err error) {
	ctx := c.following
	if c.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Patience)
		defer cancel()
	}
	final, err := c.follower.follow(ctx, c.deliver)
	if err != nil && c.broken == nil && ctx.Err() != nil && c.following.Err() == nil {
		c.waited = false
		return mesh.Errorf(mesh.CodeDeadline, "exec %s did not end within %s and runs on", c.ID, c.Patience)
	}
	defer func() { c.ended(c.final, err) }()
	defer c.leave(nil)
	defer c.follower.close()
	unread := c.endStdin()
	switch {
	case err == nil:
		c.final = final
		return cmp.Or(ended(final), unread)
	case context.Cause(c.following) == error(errDetached):
		return errDetached
	case c.broken != nil:
		c.end(mesh.SignalCancel)
		return err
	case c.ctx.Err() != nil:
		return c.canceled()
	}
	return err
}

// canceled ends the command after its context has ended.
func (c *Cmd) canceled() error {
	cause := error(mesh.AsError(context.Cause(c.ctx)))
	if c.Cancel == nil {
		c.end(mesh.SignalCancel)
	} else if err := c.Cancel(); err != nil {
		cause = err
	}
	if c.Cancel == nil && c.WaitDelay == 0 {
		return cause
	}
	ctx := context.WithoutCancel(c.ctx)
	if c.WaitDelay > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.WaitDelay)
		defer cancel()
	}
	final, err := c.follower.follow(ctx, c.deliver)
	if err != nil {
		c.end("KILL")
		return cause
	}
	c.final = final
	if err := ended(final); err != nil || errors.Is(cause, os.ErrProcessDone) {
		return err
	}
	return cause
}

// errDetached is what Wait returns of a command that was given up.
var errDetached = mesh.Errorf(mesh.CodeCanceled, "detached: the command runs on; Attach follows it")

// Detach gives a started command up: it goes on whatever becomes of the context,
// and a Wait that is under way, or comes later, is CodeCanceled. Workspace.Attach
// follows the command by its ID. Unlike other methods, Detach may be called while
// one waits.
func (c *Cmd) Detach() {
	if c.leave != nil {
		c.ended(nil, errDetached)
		c.leave(errDetached)
	}
}

// StdoutPipe returns a pipe with the command's standard output, before Start. Read
// it to its end before Wait, which closes it; of two pipes, read both at a time.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { return c.outputPipe("Stdout", &c.Stdout) }

// StderrPipe is StdoutPipe of standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { return c.outputPipe("Stderr", &c.Stderr) }

func (c *Cmd) outputPipe(name string, to *io.Writer) (io.ReadCloser, error) {
	if *to != nil || c.follower != nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: %s is set, or the command has started", name)
	}
	r, w := io.Pipe()
	*to = dropping{w}
	c.pipes = append(c.pipes, w)
	return r, nil
}

// dropping writes to a pipe and drops what nobody reads any more.
type dropping struct{ *io.PipeWriter }

func (d dropping) Write(p []byte) (int, error) {
	n, err := d.PipeWriter.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		return len(p), nil
	}
	return n, err
}

// pump feeds the pipes; awaitPump waits for its end.
func (c *Cmd) pump() {
	err := c.wait()
	for _, w := range c.pipes {
		w.Close()
	}
	c.pumped <- err
}

func (c *Cmd) awaitPump() error {
	for _, w := range c.pipes {
		w.CloseWithError(io.EOF) // a reader that is late reads no more, as with os/exec
	}
	return <-c.pumped
}

// Final is what is known about the end after Wait: usage, output, and a limit
// that was hit even though the command then succeeded. Nil before, and when the
// end could not be learnt.
func (c *Cmd) Final() *mesh.Final { return c.final }

func (c *Cmd) deliver(o Output) error {
	out := c.Stdout
	if o.Stderr {
		out = c.Stderr
	}
	if out == nil {
		return nil
	}
	_, err := out.Write(o.Data)
	c.broken = err
	return err
}

// end ends the command after its context did, or when nobody takes its output.
func (c *Cmd) end(how string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), 3*time.Second)
	defer cancel()
	c.workspace.signal(ctx, mesh.ExecID(c.ID), how) //nolint:errcheck // it may be over, or out of reach
}

// Signal sends a signal, one of mesh.SignalNames. KILL ends everything the command
// started. CodeNotFound: it has ended.
func (c *Cmd) Signal(ctx context.Context, name string) error {
	return c.workspace.Signal(ctx, c.ID, name)
}

func (w *Workspace) signal(ctx context.Context, id mesh.ExecID, name string) error {
	_, err := w.request(ctx, call{verb: mesh.VerbSignal, args: mesh.SignalRequest{ID: id, Signal: name}}, nil)
	return err
}
