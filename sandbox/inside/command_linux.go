package inside

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const shell = "/bin/sh"

// maxEarly bounds the signals that wait for one fork.
const maxEarly = 64

// defaultPath is where programs are looked for when PATH is not set.
const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// Statuses of a command that could not be run, as a shell has them.
const (
	codeNotRun   = 126
	codeNotFound = 127
)

// agent is the state of the program.
type agent struct {
	conn     int // our end of the pair
	signals  chan *Request
	waiting  atomic.Int32 // threads that wait for a request
	fed      atomic.Int64 // CLOCK_BOOTTIME of the last request
	landlock landlock
	buffers  chan []byte // that no thread reads into

	// mu is held over every fork and every reaping: while it is, a number in
	// running is that command's process and no other's.
	mu      sync.Mutex
	forked  *sync.Cond
	running map[int]running          // by process number
	coming  map[uint64][]unix.Signal // by id, before the fork: what it will be sent after it
	rest    *Reply                   // about a command whose other processes have time to end; then it is sent
}

type running struct {
	id      uint64
	alone   bool
	stopped bool // asked to end: its other processes may outlive the first one
}

func newAgent(conn int) (*agent, error) {
	a := &agent{conn: conn, buffers: make(chan []byte, spareThreads+1), signals: make(chan *Request), running: make(map[int]running), coming: make(map[uint64][]unix.Signal)}
	a.forked = sync.NewCond(&a.mu)
	a.fed.Store(bootTime())
	var err error
	a.landlock, err = newLandlock()
	return a, err
}

// run starts one command from a thread that serves for nothing else: the runtime
// ends it with its goroutine, and with it its place in the command's cgroups and
// its Landlock domain.
func (a *agent) run(req *Request, fds []int) {
	defer closeAll(fds)
	a.mu.Lock()
	a.coming[req.ID] = nil
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.coming, req.ID)
		a.mu.Unlock()
	}()
	if !req.Whole {
		for _, group := range fds[filesOfRun:] {
			if err := enter(group); err != nil {
				a.refuse(req, StageSetup, err)
				return
			}
		}
	}
	dir, err := unix.Open(req.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		a.refuse(req, StageDir, err)
		return
	}
	_ = unix.Close(dir)
	a.send(&Reply{Kind: KindReady, ID: req.ID})
	if n, err := readGate(fds[3]); n != 1 || err != nil {
		a.refuse(req, StageGate, unix.ECANCELED)
		return
	}
	a.start(req, fds)
}

func enter(group int) error {
	_, err := unix.Write(group, []byte("0"))
	return err
}

func readGate(fd int) (int, error) {
	var b [1]byte
	for {
		n, err := unix.Read(fd, b[:])
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// start forks the command. One that cannot be run has ended, as under a shell.
func (a *agent) start(req *Request, fds []int) {
	path, err := find(req.Argv[0], req.Env, req.Dir)
	if err == nil {
		err = a.fork(path, req.Argv, req, fds)
		if errors.Is(err, unix.ENOEXEC) {
			err = a.fork(shell, append([]string{shell, path}, req.Argv[1:]...), req, fds)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, errKilled):
		a.send(&Reply{Kind: KindEnded, ID: req.ID, Status: uint32(unix.SIGKILL)})
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.E2BIG):
		a.refuse(req, StageFork, err)
	default:
		code := codeNotRun
		text := err.Error()
		if errors.Is(err, unix.ENOENT) {
			code, text = codeNotFound, "not found"
		} else if errors.Is(err, unix.EACCES) {
			text = "Permission denied"
		}
		say(fds[2], req.Argv[0]+": "+text+"\n")
		a.send(&Reply{Kind: KindEnded, ID: req.ID, Status: uint32(code) << 8})
	}
}

// errKilled says that a command was killed before it was forked.
var errKilled = errors.New("killed")

func (a *agent) fork(path string, argv []string, req *Request, fds []int) error {
	attr := &syscall.ProcAttr{
		Dir: req.Dir, Env: req.Env, Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2])},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: req.Terminal}, // Ctty: descriptor 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.coming[req.ID], unix.SIGKILL) {
		return errKilled
	}
	if req.Whole {
		if err := enter(fds[filesOfRun]); err != nil {
			return err
		}
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if req.Whole {
		// In a command's group we would end with it.
		if err := enter(fds[filesOfRun+1]); err != nil {
			die("leave a command's cgroup", err)
		}
	}
	if err != nil {
		return err
	}
	a.running[pid] = running{id: req.ID, alone: req.Alone}
	a.forked.Signal()
	for _, sig := range a.coming[req.ID] {
		_ = unix.Kill(-pid, sig)
	}
	delete(a.coming, req.ID)
	return nil
}

func (a *agent) refuse(req *Request, stage int, err error) {
	errno := unix.EIO
	errors.As(err, &errno)
	a.send(&Reply{Kind: KindRefused, ID: req.ID, Stage: stage, Errno: errno})
}

// say writes to a command's standard error if that does not have to wait.
func say(fd int, text string) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(fds, 0); n == 1 && err == nil && fds[0].Revents&unix.POLLOUT != 0 {
		_, _ = unix.Write(fd, []byte(text))
	}
}

// find looks a program up as a shell does: what is there and may not be run is
// EACCES, but only if nothing else fits.
func find(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := defaultPath
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	var denied error = unix.ENOENT
	for at := range strings.SplitSeq(path, ":") {
		candidate := at + "/" + name
		if !strings.HasPrefix(candidate, "/") || at == "" {
			candidate = strings.TrimSuffix(dir+"/"+at, "/") + "/" + name
		}
		var st unix.Stat_t
		if unix.Stat(candidate, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if unix.Access(candidate, unix.X_OK) == nil {
			return candidate, nil
		}
		denied = unix.EACCES
	}
	return "", denied
}

// signal reaches the process group of a command that has not been reaped, as soon
// as it is forked.
func (a *agent) signal(id uint64, sig unix.Signal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if early, ok := a.coming[id]; ok {
		if len(early) < maxEarly || sig == unix.SIGKILL {
			a.coming[id] = append(early, sig)
		}
		return
	}
	for pid, r := range a.running {
		if r.id == id {
			_ = unix.Kill(-pid, sig)
		}
	}
	if a.rest != nil && a.rest.ID == id && sig == unix.SIGKILL {
		_ = unix.Kill(-1, sig)
	}
}

// stop asks a command's processes to end: all of the sandbox where it is alone in
// it, else those of its group.
func (a *agent) stop(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if early, ok := a.coming[id]; ok {
		a.coming[id] = append(early, unix.SIGTERM)
		return
	}
	for pid, r := range a.running {
		if r.id != id {
			continue
		}
		to := -pid
		if r.alone {
			to, r.stopped = -1, true
			a.running[pid] = r
		}
		_ = unix.Kill(to, unix.SIGTERM)
		_ = unix.Kill(to, unix.SIGCONT)
	}
}

// reap waits for every process that ends here: the commands, and what they left
// to process 1.
func (a *agent) reap() {
	for {
		// Look, and take it only under the lock.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // no process at all
			a.mu.Lock()
			if a.rest != nil {
				a.send(a.rest)
				a.rest = nil
			}
			for len(a.running) == 0 {
				a.forked.Wait()
			}
			a.mu.Unlock()
			continue
		}
		a.reapOne()
	}
}

func (a *agent) reapOne() {
	a.mu.Lock()
	defer a.mu.Unlock()
	var status unix.WaitStatus
	var usage unix.Rusage
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, &usage)
	if err != nil || pid <= 0 {
		return
	}
	r, ours := a.running[pid]
	if !ours {
		return
	}
	delete(a.running, pid)
	reply := &Reply{
		Kind: KindEnded, ID: r.id, Status: uint32(status),
		User: time.Duration(usage.Utime.Nano()), System: time.Duration(usage.Stime.Nano()), MaxRSS: usage.Maxrss << 10,
	}
	switch {
	case r.stopped:
		a.rest = reply
		return
	case r.alone:
		endOthers()
	}
	a.send(reply)
}

// endOthers returns when this process is the only one of the sandbox.
func endOthers() {
	for {
		_ = unix.Kill(-1, unix.SIGKILL)
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
