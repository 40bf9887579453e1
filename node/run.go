package node

import (
	"context"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// afterExit is how long output may still arrive once the process tree is gone.
// The pipes are closed by then; this only guards against a driver without
// isolation that let a process slip away.
const afterExit = 2 * time.Second

// run is one command from its claim to its final frame.
type run struct {
	workspace *workspace
	command   *command
	subject   string
	nonce     string
	root      *os.File // the scope's directory
	log       *execLog
	claimed   chan struct{}              // closed when the claim stands and the command may start
	claim     atomic.Pointer[mesh.Claim] // once it stands
	held      *held                      // set by hold
	stdin     *stdin                     // nil: the command has none
	since     beginning                  // when it was started

	mu      sync.Mutex
	process *sandbox.Process // nil before the start and after the end
	ended   bool             // the process has been started and is over
	verdict *mesh.Error      // set by abort: the mesh ends the command
	limit   atomic.Pointer[string]
}

func newRun(w *workspace, c *command) *run {
	x := &run{workspace: w, command: c, subject: w.logSubject(c.ID), nonce: mesh.NewID(), claimed: make(chan struct{})}
	x.log = newExecLog(w.node, w.streams.log, x.subject, x.nonce, &tenantSpace{w.node, key{w.tenant, w.name}})
	if len(c.stdin) > 0 || c.OpenStdin {
		x.stdin = newStdin(c.stdin, c.OpenStdin)
	}
	return x
}

// abort ends the command with a verdict of the mesh: at once, unless it is only
// that the node stops.
func (x *run) abort(verdict *mesh.Error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.verdict == nil {
		x.verdict = verdict
	}
	if x.process == nil {
		return
	}
	if verdict.Code == mesh.CodeCanceled {
		x.process.Stop(sandbox.DefaultGrace)
		return
	}
	x.process.Kill()
}

// end ends the command because it hit a limit, after a grace in which it may end
// by itself.
func (x *run) end(limit string, grace time.Duration) {
	x.limit.CompareAndSwap(nil, &limit)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.process != nil {
		x.process.Stop(grace)
	}
}

func (x *run) signal(name string) error {
	sig, ok := signals[name]
	cancel := name == mesh.SignalCancel
	if !ok && !cancel {
		return mesh.Errorf(mesh.CodeInvalid, "signal %.20q is not one of %s", name, strings.Join(mesh.SignalNames, " "))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.process == nil && (cancel || sig == syscall.SIGKILL) && !x.ended {
		if x.verdict == nil {
			x.verdict = errCanceled
		}
		return nil // start looks at the verdict
	}
	if x.process == nil {
		return mesh.Errorf(mesh.CodeBusy, "exec %s is not running yet, or no more; try again", x.command.ID)
	}
	switch {
	case cancel:
		x.process.Stop(sandbox.DefaultGrace)
		return nil
	case sig == syscall.SIGKILL:
		x.process.Kill() // the whole tree, as the end of an exec is
		return nil
	}
	return x.process.Signal(sig)
}

// run starts the command and writes its log to the final frame.
func (x *run) run() {
	close(x.claimed)
	began := time.Now()
	final := mesh.Final{Isolation: x.workspace.node.runner.Level().Driver, Net: x.networkHad()}
	watch := x.workspace.node.network.proxy.Watch(x.who())
	result, err := x.execute()
	final.Refused = watch.Stop()
	if x.stdin != nil {
		x.stdin.stop(errStdinOver) // also of a command that never began
	}
	final.DurationUS = time.Since(began).Microseconds()
	x.mu.Lock()
	x.process, x.ended = nil, true
	verdict := x.verdict
	x.mu.Unlock()

	if verdict != nil && (verdict.Code == mesh.CodeStale || verdict.Code == mesh.CodeLost) {
		x.log.discard() // the next owner ends the log
		return
	}
	switch {
	case verdict == errCanceled:
		final.ErrorCode, final.ErrorText = verdict.Code, verdict.Text
	case verdict != nil:
		final.ErrorCode, final.ErrorText = mesh.CodeLost, "outcome unknown: "+verdict.Text+" while the command ran"
	case err != nil:
		e := mesh.AsError(err)
		if mesh.CodeOf(err) == mesh.CodeInternal {
			x.workspace.log.Error("command not run", "exec", string(x.command.ID), "err", err)
			e = mesh.Errorf(mesh.CodeInternal, "the sandbox failed on node %s; its log has the details", x.workspace.node.cfg.Name)
		}
		final.ErrorCode, final.ErrorText = e.Code, e.Text
	default:
		x.tell(&final, &result)
	}
	x.capture(&final)
	if err := x.log.finish(&final); err != nil {
		x.workspace.log.Warn("exec log not finished", "exec", string(x.command.ID), "err", err)
		x.workspace.execMu.Lock()
		x.workspace.endless = append(x.workspace.endless, x.command.ID)
		x.workspace.execMu.Unlock()
		if c := mesh.CodeOf(err); c == mesh.CodeLost {
			x.workspace.stop(mesh.AsError(err))
		}
	}
}

// held is a command that is made ready while its claim is stored, so that one
// does not wait for the other. It begins when the claim stands, or never.
type held struct {
	ends
	theirs [3]*os.File // the other ends of pipes, until the command has begun

	ready   chan struct{} // closed when the rest is set
	command *sandbox.Held
	err     error
}

// hold begins to make the command ready. execute ends it, or drop.
func (x *run) hold() {
	h := &held{ready: make(chan struct{})}
	x.held = h
	go func() { // ends within the 30 s of prepare; drop and execute wait for it
		defer close(h.ready)
		h.err = h.prepare(x)
	}()
}

// drop gives a command up that was made ready.
func (h *held) drop() {
	<-h.ready
	if h.command != nil {
		h.command.Drop()
	}
	h.close()
}

func (h *held) close() {
	h.ends.close()
	closeFiles(h.theirs[:]...)
}

// closeFiles closes those that are open.
func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (h *held) prepare(x *run) (err error) {
	if x.command.Terminal == nil {
		if h.theirs, err = h.pipes(x.stdin != nil); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	h.command, err = x.workspace.node.runner.Prepare(ctx, x.spec(h.theirs))
	if err == nil {
		h.terminal = h.command.Terminal()
	}
	return err
}

// spec is the command as the sandbox takes it.
func (x *run) spec(files [3]*os.File) *sandbox.Spec {
	c, w := x.command, x.workspace
	env := make([]string, len(c.Env))
	for i, e := range c.Env {
		env[i] = string(e)
	}
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = string(a)
	}
	spec := &sandbox.Spec{
		Root: x.root, Mount: path.Join(mesh.WorkspaceRoot, c.scope), Dir: path.Join(mesh.WorkspaceRoot, c.dir),
		Argv: args, Env: env, Terminal: (*sandbox.Winsize)(c.Terminal), Stdin: files[0], Stdout: files[1], Stderr: files[2],
		UID: w.uid, GID: w.gid, Tenant: string(w.tenant),
		MemoryBytes: c.MemoryBytes, Pids: int(c.Pids), CPUMillis: c.CPUMillis,
		Files: int(c.limits.Files), FileBytes: c.limits.FileBytes, Full: w.disk.isFull(),
	}
	switch {
	case c.net.Full():
		spec.Net = sandbox.NetFull
	case c.net.Lists():
		spec.Egress = w.node.network.proxy.Gate(x.who(), c.net)
	}
	return spec
}

// execute runs the command and pumps its output into the log; both are over
// when it returns.
func (x *run) execute() (sandbox.Result, error) {
	h := x.held
	process, err := x.start()
	if err != nil {
		return sandbox.Result{}, err
	}
	defer h.close()
	defer x.workspace.files.leave()
	over := x.flow(&h.ends)
	if x.command.TimeoutMS > 0 {
		timer := time.AfterFunc(time.Duration(x.command.TimeoutMS)*time.Millisecond, func() { x.end("timeout", sandbox.DefaultGrace) })
		defer timer.Stop()
	}
	ended := make(chan struct{})
	var captures sync.WaitGroup
	if x.command.Durability != mesh.DurabilityNone && x.workspace.record.Dir == "" {
		captures.Go(func() { x.captureMeanwhile(ended) })
	}
	result := process.Wait()
	close(ended)
	over()
	captures.Wait()
	return result, result.Err
}

func (x *run) aborted() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.verdict == nil {
		return nil
	}
	return x.verdict
}

// start lets the command begin unless the run was aborted meanwhile. After an
// error nothing is left of it.
func (x *run) start() (*sandbox.Process, error) {
	h := x.held
	if verdict := x.aborted(); verdict != nil {
		h.drop()
		return nil, verdict
	}
	<-h.ready
	if h.err != nil {
		h.close()
		return nil, h.err
	}
	x.since = x.workspace.files.enter()
	process, err := h.command.Begin()
	closeFiles(h.theirs[:]...)
	if err != nil {
		x.workspace.files.leave()
		h.close()
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.process = process
	if x.verdict != nil {
		process.Kill()
	}
	return process, nil
}

// pump moves output into the log until the pipe ends. Beyond the command's own
// bound it kills and keeps what fits.
func (x *run) pump(r io.Reader, stream byte, total *atomic.Int64) {
	buf := make([]byte, frameBytes)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			keep := n
			sum := total.Add(int64(n))
			if bound := x.command.MaxOutput; bound > 0 && sum > bound {
				x.end("output", 0)
				keep = int(max(0, int64(n)-(sum-bound)))
			}
			x.log.write(stream, buf[:keep], n-keep)
		}
		if err != nil {
			return
		}
	}
}
