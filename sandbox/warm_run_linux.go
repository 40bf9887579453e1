package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox/inside"
)

// replyTime bounds the wait for process 1 to do its part of a start.
const replyTime = 10 * time.Second

// warmRun is a command in a sandbox that is kept.
type warmRun struct {
	Process
	box   *box
	spec  *Spec
	group *group
	id    uint64
	tty   *Terminal // nil without one; the caller's once it has begun
	gate  *os.File  // a byte lets the command begin, the end of it never

	ready chan *inside.Reply // the gate is what it waits for
	over  chan *inside.Reply // refused or ended

	mu     sync.Mutex
	killed bool
	ended  bool
}

// hold makes a complete spec ready in a sandbox that is kept; nil and no error
// when it has to start cold.
func (w *warm) hold(ctx context.Context, spec *Spec) (*warmRun, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err := w.runner.begin(); err != nil {
		return nil, err
	}
	b, err := w.take(ctx, spec)
	if b == nil {
		w.runner.started.Done()
		return nil, err
	}
	c := &warmRun{box: b, spec: spec, ready: make(chan *inside.Reply, 1), over: make(chan *inside.Reply, 1)}
	c.Process = Process{tree: c, done: make(chan struct{})}
	sent, err := c.prepare(ctx)
	if err != nil {
		c.abandon(sent)
		switch {
		case !errors.Is(err, errBoxEnded):
			return nil, err
		case w.runner.closing():
			return nil, errEnding()
		}
		return nil, nil
	}
	return c, nil
}

// errBoxEnded says that a sandbox ended before the command began.
var errBoxEnded = errors.New("the sandbox has ended")

// prepare sends the command and waits until nothing but the gate is in its way.
// sent: process 1 will still say how it went.
func (c *warmRun) prepare(ctx context.Context) (sent bool, err error) {
	if c.group, err = c.box.takeGroup(c.spec); err != nil {
		return false, err
	}
	if c.spec.Terminal != nil {
		if c.tty, err = c.box.terminal(c.spec); err != nil {
			return false, err
		}
	}
	if err := c.send(); err != nil {
		return false, err
	}
	timer := time.NewTimer(replyTime)
	defer timer.Stop()
	select {
	case <-c.ready:
		return true, nil
	case reply := <-c.over:
		return false, refusal(c.spec, reply)
	case <-c.box.gone:
		return false, errBoxEnded
	case <-ctx.Done():
		return true, ctx.Err()
	case <-timer.C:
		c.box.fail(errors.New("process 1 does not make a command ready"))
		return true, errBoxEnded
	}
}

func (c *warmRun) send() error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the gate: %w", err)
	}
	defer read.Close()
	c.gate = write
	spec := c.spec
	if c.tty != nil {
		spec = c.tty.files(spec)
	}
	files := []*os.File{spec.Stdin, spec.Stdout, spec.Stderr, read}
	for i, f := range files {
		if f == nil {
			files[i] = c.box.warm.null
		}
	}
	doors, err := c.group.doors()
	if err != nil {
		return err
	}
	if c.box.warm.whole() {
		home, err := c.box.process.group.doors()
		if err != nil {
			return err
		}
		doors = append(doors, home...)
	}
	req := c.request(c.spec)
	c.box.mu.Lock()
	c.box.next++
	c.id = c.box.next
	req.ID = c.id
	c.box.commands[c.id] = c
	c.box.mu.Unlock()
	c.box.warm.runner.track(&c.Process)
	if err := c.box.send(req, append(files, doors...)); err != nil {
		c.box.fail(err)
		return errBoxEnded
	}
	return nil
}

// begin implements held. Only the byte in the gate lets the command begin, so if
// the sandbox has ended before it, the command may begin elsewhere.
func (c *warmRun) begin() (*Process, error) {
	runner := c.box.warm.runner
	_, err := c.gate.Write([]byte{1})
	if err == nil {
		_ = c.gate.Close()
		go c.watch()
		return &c.Process, nil
	}
	c.abandon(true)
	if c.tty != nil { // the caller has our side of this terminal already
		return nil, mesh.Errorf(mesh.CodeUnavailable, "exec: the sandbox ended before the command began")
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	h, said, err := runner.holdCold(ctx, c.spec)
	if err != nil {
		return nil, runner.explain(ctx, c.spec, err, said)
	}
	return h.begin()
}

// drop implements held.
func (c *warmRun) drop() { c.abandon(true) }

// terminal implements held.
func (c *warmRun) terminal() *Terminal { return c.tty }

func (c *warmRun) request(spec *Spec) *inside.Request {
	req := &inside.Request{
		Kind: inside.KindRun, Alone: c.box.warm.alone, Whole: c.box.warm.whole(), Terminal: c.tty != nil, Dir: spec.Dir, Argv: spec.Argv, Env: spec.Env,
	}
	// The shell sets on itself what no cgroup holds.
	if limits := c.box.warm.runner.ownLimits(spec, bwrapOwn+agentThreads); limits != "" {
		req.Argv, req.Env = gateArgv(spec, limits+limitScript)
	}
	return req
}

// refusal translates a reply about a command of which nothing ran.
func refusal(spec *Spec, reply *inside.Reply) error {
	switch {
	case reply.Stage == inside.StageDir && (reply.Errno == unix.ENOENT || reply.Errno == unix.ENOTDIR):
		return mesh.Errorf(mesh.CodeNotFound, "exec: working directory %q does not exist", spec.Dir)
	case reply.Stage == inside.StageDir && reply.Errno == unix.EACCES:
		return mesh.Errorf(mesh.CodeDenied, "exec: working directory %q cannot be entered", spec.Dir)
	}
	return fmt.Errorf("process 1 refused the command at stage %d: %w", reply.Stage, reply.Errno)
}

// hear takes a reply; false: it is out of turn. box.mu is held.
func (c *warmRun) hear(reply *inside.Reply) bool {
	to := c.over
	switch reply.Kind {
	case inside.KindHello:
		return false
	case inside.KindReady:
		to = c.ready
	}
	select {
	case to <- reply:
		return true
	default:
		return false
	}
}

func (c *warmRun) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.killed {
		return
	}
	c.killed = true
	c.signalInside(syscall.SIGKILL)
	c.group.killNow()
}

// terminate leaves it to process 1 where the command is not forked yet, or where
// no cgroup tells its processes.
func (c *warmRun) terminate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.killed || c.group.terminate() > 0 {
		return
	}
	if err := c.box.send(&inside.Request{Kind: inside.KindStop, ID: c.id}, nil); err != nil {
		c.box.fail(err)
	}
}

// others reports whether processes of the command outlive its first one.
func (c *warmRun) others() bool {
	dir := c.group.where()
	if dir == "" {
		return false // process 1 has waited for them
	}
	pids, err := members(dir, c.group.spare)
	return err == nil && len(pids) > 0
}

func (c *warmRun) signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return errEnded()
	}
	c.signalInside(sig)
	return nil
}

// signalInside asks process 1, which knows whether the command's process group
// is still its own.
func (c *warmRun) signalInside(sig syscall.Signal) {
	if err := c.box.send(&inside.Request{Kind: inside.KindSignal, ID: c.id, Signal: int(sig)}, nil); err != nil {
		c.box.fail(err)
	}
}

func (c *warmRun) wasKilled() bool {
	c.mu.Lock()
	killed := c.killed
	c.mu.Unlock()
	return killed || c.box.warm.runner.closing()
}

// watch waits for the command, ends what is left of its tree, cleans up and
// makes the result.
func (c *warmRun) watch() {
	reply := c.awaitEnd()
	c.linger(c.wasKilled, c.others)
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	err := c.group.kill()
	c.result = c.judge(reply)
	if c.result.Limit == LimitMemory || reply == nil {
		// Process 1 may have lost a thread or a page it needs.
		c.box.warm.drop(c.box)
	}
	c.release(err)
}

// awaitEnd returns how the first process ended, nil if the sandbox ended first.
// A killed command that does not end takes the sandbox with it.
func (c *warmRun) awaitEnd() *inside.Reply {
	tick := time.NewTicker(goneWait)
	defer tick.Stop()
	killed := false
	for {
		select {
		case reply := <-c.over:
			return reply
		case <-c.box.gone:
			select {
			case reply := <-c.over:
				return reply
			default:
				return nil
			}
		case <-tick.C:
			if killed {
				c.box.fail(errors.New("a command outlives SIGKILL"))
			}
			killed = c.wasKilled()
		}
	}
}

// abandon undoes a start of which nothing ran. A command that was sent is over
// when process 1 has said so.
func (c *warmRun) abandon(sent bool) {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	if c.gate != nil {
		_ = c.gate.Close()
	}
	if c.tty != nil {
		_ = c.tty.Close()
	}
	if sent {
		timer := time.AfterFunc(replyTime, func() { c.box.fail(errors.New("process 1 does not give a command up")) })
		select {
		case <-c.over:
		case <-c.box.gone:
		}
		timer.Stop()
	}
	c.box.mu.Lock()
	delete(c.box.commands, c.id)
	c.box.mu.Unlock()
	c.result = Result{Code: 255}
	c.release(nil)
}

// release ends the account of the command; the result stands.
func (c *warmRun) release(err error) {
	runner := c.box.warm.runner
	c.box.warm.give(c.box)
	close(c.done)
	// Nobody needs to wait for what becomes of the empty cgroups; Close does.
	if c.group != nil && err == nil && c.box.giveGroup(c.group) {
		c.group = nil
	}
	if c.group != nil {
		err = errors.Join(err, c.group.remove())
	}
	if err != nil {
		runner.log.Warn("a command was not cleaned up after", "err", err)
	}
	runner.forget(&c.Process)
	runner.started.Done()
}

// judge makes the result from what process 1 said and the group's account.
func (c *warmRun) judge(reply *inside.Reply) Result {
	r := Result{Warm: true}
	if reply != nil && reply.Kind == inside.KindRefused {
		r.Code = 255
		r.Err = c.box.warm.runner.explain(context.Background(), c.spec, refusal(c.spec, reply), "")
		return r
	}
	if reply != nil {
		r.User, r.System, r.MaxRSS = reply.User, reply.System, reply.MaxRSS
	}
	c.group.account(&r)
	killed := unix.WaitStatus(unix.SIGKILL)
	status := killed
	switch {
	case reply != nil:
		status = unix.WaitStatus(reply.Status)
	case !c.wasKilled() && r.Limit != LimitMemory:
		r.Code = 255
		r.Err = mesh.Errorf(mesh.CodeInternal, "exec: the sandbox ended under the command; its outcome is unknown")
		return r
	}
	switch {
	case status.Exited():
		r.Code = status.ExitStatus()
	default:
		r.Code = 128 + int(status&0x7f)
		r.Signal = unix.SignalName(unix.Signal(status & 0x7f))
	}
	r.judgeFiles()
	return r
}
