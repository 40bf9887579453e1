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

// replyTime bounds the wait for process 1 to fork.
const replyTime = 10 * time.Second

// warmRun is a command in a sandbox that is kept.
type warmRun struct {
	Process
	box   *box
	group *group
	id    uint64

	begun chan *inside.Reply // started or refused, or ended if that came first
	over  chan *inside.Reply // ended

	mu     sync.Mutex
	killed bool
	ended  bool
}

// start starts a complete spec in a sandbox that is kept; nil and no error when
// it has to start cold.
func (w *warm) start(ctx context.Context, spec *Spec) (*Process, error) {
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
	c := &warmRun{box: b, begun: make(chan *inside.Reply, 1), over: make(chan *inside.Reply, 1)}
	c.Process = Process{tree: c, done: make(chan struct{})}
	if err := c.begin(spec); err != nil {
		c.abandon()
		if errors.Is(err, errNotSent) {
			return nil, nil
		}
		return nil, err
	}
	go c.watch()
	return &c.Process, nil
}

// begin sends the command and waits until it runs. Once it is sent, ctx is not
// asked any more: only process 1 knows whether it began.
func (c *warmRun) begin(spec *Spec) error {
	runner := c.box.warm.runner
	var err error
	if c.group, err = c.box.takeGroup(spec); err != nil {
		return err
	}
	files, err := c.files(spec)
	if err != nil {
		return err
	}
	defer files[len(files)-1].Close()
	req := c.request(spec)
	c.box.mu.Lock()
	c.box.next++
	c.id = c.box.next
	req.ID = c.id
	c.box.commands[c.id] = c
	c.box.mu.Unlock()
	runner.track(&c.Process)
	if err := c.box.send(req, files); err != nil {
		c.box.fail(err)
		return errNotSent
	}
	timer := time.NewTimer(replyTime)
	defer timer.Stop()
	select {
	case reply := <-c.begun:
		return refusal(spec, reply)
	case <-c.box.gone:
	case <-timer.C:
		c.box.fail(errors.New("process 1 does not fork"))
	}
	return nil // it may have begun: the result says that its end is unknown
}

// errNotSent says that the sandbox ended before the command was sent to it.
var errNotSent = errors.New("the sandbox has ended")

func (c *warmRun) files(spec *Spec) ([]*os.File, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	doors, err := c.group.doors()
	if err != nil {
		return nil, errors.Join(err, null.Close())
	}
	files := []*os.File{spec.Stdin, spec.Stdout, spec.Stderr}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	return append(append(files, doors...), null), nil
}

func (c *warmRun) request(spec *Spec) *inside.Request {
	req := &inside.Request{
		Kind: inside.KindRun, Alone: c.box.warm.alone, Dir: spec.Dir, Argv: spec.Argv, Env: spec.Env,
	}
	// The shell sets on itself what no cgroup holds.
	if limits := c.box.warm.runner.ownLimits(spec, bwrapOwn+agentThreads); limits != "" {
		req.Argv, req.Env = gateArgv(spec, limits+limitScript)
	}
	return req
}

// refusal translates the first reply; nil: the command runs.
func refusal(spec *Spec, reply *inside.Reply) error {
	switch {
	case reply.Kind != inside.KindRefused:
		return nil
	case reply.Stage == inside.StageDir && (reply.Errno == unix.ENOENT || reply.Errno == unix.ENOTDIR):
		return mesh.Errorf(mesh.CodeNotFound, "exec: working directory %q does not exist", spec.Dir)
	case reply.Stage == inside.StageDir && reply.Errno == unix.EACCES:
		return mesh.Errorf(mesh.CodeDenied, "exec: working directory %q cannot be entered", spec.Dir)
	}
	return fmt.Errorf("process 1 refused the command at stage %d: %w", reply.Stage, reply.Errno)
}

// hear takes a reply; false: it is out of turn. box.mu is held.
func (c *warmRun) hear(reply *inside.Reply) bool {
	to := c.begun
	if reply.Kind == inside.KindEnded {
		to = c.over
		select {
		case c.begun <- reply: // a command that could not be run never started
		default:
		}
	}
	select {
	case to <- reply:
		return reply.Kind != inside.KindHello
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

// abandon undoes a start that failed.
func (c *warmRun) abandon() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.box.mu.Lock()
	delete(c.box.commands, c.id)
	c.box.mu.Unlock()
	c.result = Result{Code: 255}
	c.release(nil)
}

// release ends the account of the command; the result stands.
func (c *warmRun) release(err error) {
	runner := c.box.warm.runner
	if c.group != nil && err == nil && c.box.giveGroup(c.group) {
		c.group = nil
	}
	c.box.warm.give(c.box)
	close(c.done)
	// Nobody needs to wait for the empty cgroups to go; Close does.
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
	var r Result
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
	return r
}
