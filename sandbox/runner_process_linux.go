package sandbox

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

type credential = syscall.Credential

// Process is a command that was started. Its methods may be called concurrently.
// It cleans up after itself when it ends, whether or not anyone waits.
type Process struct {
	tree   tree
	done   chan struct{}
	result Result // once done is closed

	stopping atomic.Bool // by Stop
}

// tree is the processes of one command, as its way of starting reaches them.
type tree interface {
	// kill signals all of them and does not wait.
	kill()
	// terminate asks all of them to end and does not wait.
	terminate()
	// signal reaches the command's process group. CodeNotFound: it has ended.
	signal(sig syscall.Signal) error
}

// Wait returns how the command ended, after every process of its tree is gone.
// It may be called more than once.
func (p *Process) Wait() Result {
	<-p.done
	return p.result
}

// Kill ends the whole tree of the command with SIGKILL and returns at once; Wait
// returns when it is gone. It may be called at any time and more than once.
func (p *Process) Kill() { p.tree.kill() }

// Signal sends sig to the command's process group: the command and what it
// started in the foreground. SIGKILL is Kill. After the end it is CodeNotFound;
// a number that is no signal is CodeInvalid.
func (p *Process) Signal(sig syscall.Signal) error {
	switch {
	case sig == syscall.SIGKILL:
		p.Kill()
		return nil
	case sig < 1 || sig > lastSignal:
		return mesh.Errorf(mesh.CodeInvalid, "signal %d does not exist", int(sig))
	}
	return p.tree.signal(sig)
}

// lastSignal is SIGRTMAX of Linux.
const lastSignal = 64

func errEnded() *mesh.Error { return mesh.Errorf(mesh.CodeNotFound, "the command has ended") }

// cold is a command with a sandbox of its own.
type cold struct {
	Process
	runner  *Runner
	group   *group
	mounted string    // where the spawner mounted the directory, or ""
	outlet  *outlet   // its way out, nil without one
	tty     *Terminal // nil without one; its own once it has begun
	gate    *gate     // while the process is being started
	child   *os.Process

	mu       sync.Mutex
	leader   int // the process whose end is the end of the command; 0 before it is known
	leaderFD int // its pidfd, -1 when not open
	ended    bool
	killed   bool
}

// lead records the leader. Its pidfd is taken while our own child, which is it
// or its parent, has not been reaped, so the number cannot be someone else's.
func (p *cold) lead(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("hold the sandbox's first process: %w", err)
	}
	if pid != p.child.Pid {
		if stat, err := readStat(pid); err != nil || stat.parent != p.child.Pid {
			return errors.Join(errors.New("the sandbox's first process is gone"), err, unix.Close(fd))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leader, p.leaderFD = pid, fd
	if p.killed {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	return nil
}

func (p *cold) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.killed = true
	if p.leaderFD < 0 {
		// Only Close can come this early; Start cleans up.
		p.gate.interrupt()
		return
	}
	_ = unix.PidfdSendSignal(p.leaderFD, unix.SIGKILL, nil, 0)
	_ = p.child.Kill()
}

// terminate spares bubblewrap's monitor and init, with which the rest would end.
func (p *cold) terminate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.killed || p.leaderFD < 0 {
		return
	}
	var spared []int
	if p.leader != p.child.Pid {
		spared = []int{p.child.Pid, p.leader}
	}
	if p.group.terminate(spared...) == 0 {
		terminateAll(family(p.leader), spared...)
	}
}

// others reports whether processes of the command outlive its first one.
func (p *cold) others() bool {
	if p.leader != p.child.Pid {
		return false // they have ended with bubblewrap
	}
	if p.group.kind == limitsRlimit {
		return len(family(p.leader)) > 0
	}
	pids, err := members(p.group.where(), 0)
	return err == nil && len(pids) > 0
}

func (p *cold) wasKilled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

// isLed reports whether the leader is known, and so can be killed alone.
func (p *cold) isLed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leaderFD >= 0
}

func (p *cold) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return errEnded()
	}
	// Until watch sets ended, the leader is at most a zombie and keeps the
	// number of the group. Under bwrap it is in the group itself, and as init
	// of its namespace deaf to everything but KILL and STOP.
	err := unix.Kill(-p.leader, sig)
	switch {
	case errors.Is(err, unix.ESRCH):
		return errEnded()
	case err != nil:
		return mesh.Errorf(mesh.CodeInternal, "signal %d: %v", int(sig), err)
	}
	return nil
}

// watch waits for the child, ends what is left of the tree, cleans up and makes
// the result. Owned by one goroutine.
func (p *cold) watch() {
	defer p.runner.started.Done()
	// The child stays a zombie meanwhile, so that its numbers remain ours.
	for {
		err := unix.Waitid(unix.P_PID, p.child.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.linger(p.wasKilled, p.others)
	p.mu.Lock()
	p.ended = true
	killed := p.killed
	p.mu.Unlock()
	err := p.endTree()
	state, waited := p.child.Wait()
	if waited != nil {
		p.result = Result{Code: 255, Err: mesh.Errorf(mesh.CodeInternal, "exec: its end is unknown: %v", waited)}
	} else {
		p.result = p.judge(state, killed)
	}
	err = errors.Join(err, p.release())
	close(p.done)
	// Nobody needs to wait for the empty cgroups to go; Close does.
	if err := errors.Join(err, p.group.remove()); err != nil {
		p.runner.log.Warn("a command was not cleaned up after", "err", err)
	}
	p.runner.forget(&p.Process)
}

// endTree returns when no process of the command is left. Under bwrap the leader
// is init of the namespace: the kernel lets go of it after all others.
func (p *cold) endTree() error {
	if p.leaderFD >= 0 && p.leader != p.child.Pid {
		_ = unix.PidfdSendSignal(p.leaderFD, unix.SIGKILL, nil, 0)
		if err := awaitExit(p.leaderFD); err != nil {
			return err
		}
		// It is ours to reap if we are the init, or the subreaper, it fell to.
		_ = unix.Waitid(unix.P_PIDFD, p.leaderFD, nil, unix.WEXITED|unix.WNOHANG, nil)
	}
	if p.leader == p.child.Pid && p.group.kind == limitsRlimit {
		killStragglers(p.leader)
	}
	return p.group.kill()
}

// awaitExit waits until the process behind a pidfd has exited.
func awaitExit(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(goneWait.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for a process: %w", err)
		case n == 0:
			return errors.New("a process outlives SIGKILL")
		default:
			return nil
		}
	}
}

// judge makes the result from the child's status and the group's account.
func (p *cold) judge(state *os.ProcessState, killed bool) Result {
	status := state.Sys().(syscall.WaitStatus)
	direct := p.leader == p.child.Pid
	var r Result
	if direct {
		r.User, r.System = state.UserTime(), state.SystemTime()
		if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
			r.MaxRSS = usage.Maxrss << 10
		}
	}
	p.group.account(&r)
	if status.Signaled() {
		r.Code = 128 + int(status.Signal())
		r.Signal = unix.SignalName(status.Signal())
		r.judgeFiles()
		if !direct && !killed && r.Limit != LimitMemory {
			r.Err = mesh.Errorf(mesh.CodeInternal, "exec: the sandbox was ended by %s from outside", r.Signal)
		}
		return r
	}
	r.Code = status.ExitStatus()
	r.judgeFiles()
	// Bubblewrap tells a signal as a status, which the command could have
	// chosen itself, unless it is the end that we or the kernel gave it.
	if !direct && r.Code == 128+int(unix.SIGKILL) && (killed || r.Limit == LimitMemory) {
		r.Signal = unix.SignalName(unix.SIGKILL)
	}
	return r
}

// judgeFiles names the limit of a command that ended for the size of a file; a
// shell ends with that status if a command of its own did.
func (r *Result) judgeFiles() {
	if r.Code == 128+int(unix.SIGXFSZ) {
		r.meet(LimitDisk)
	}
}

// release gives back everything on the host that belonged to the command but its
// cgroups, which have to be read first.
func (p *cold) release() error {
	p.outlet.close()
	var all error
	p.mu.Lock()
	if p.leaderFD >= 0 {
		all = unix.Close(p.leaderFD)
		p.leaderFD = -1
	}
	p.mu.Unlock()
	if p.mounted != "" {
		all = errors.Join(all, p.runner.spawner.unmount(p.mounted))
	}
	return all
}
