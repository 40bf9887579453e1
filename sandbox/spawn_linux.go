package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// grounds are the places where the spawner mounts its tmpfs, in its own mount
// namespace; the first is made if it can be, the second hides nothing a command
// needs.
var grounds = []string{"/run/wsmesh", "/mnt"}

// commandNice is the niceness of commands, which none of them can lower: the node
// goes on answering while commands take every processor. With 512 busy processes
// on two processors a stat of another tenant took up to seconds without it.
const commandNice = 10

// spawner is one operating-system thread from which every command is forked. It
// lives as long as the Runner, because the kernel sends the parent-death signal
// when the forking thread ends, and it alone has the mount namespace that
// commands start in. close ends it.
type spawner struct {
	calls  chan func()
	quit   chan struct{}
	ended  chan struct{}
	ground string // where trees are mounted; "" when there is no own namespace

	mu   sync.Mutex
	next uint64
}

// spawnerConfig says what the thread, and so every command, is like.
type spawnerConfig struct {
	mounts       bool // an own mount namespace
	noPrivileges bool // no program can raise its rights, set-uid ones included
}

// newSpawner starts the thread; an error says what it could not get.
func newSpawner(cfg spawnerConfig) (*spawner, error) {
	s := &spawner{calls: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{})}
	ready := make(chan error)
	go s.run(cfg, ready)
	if err := <-ready; err != nil {
		<-s.ended
		return nil, err
	}
	return s, nil
}

// run keeps its thread locked to the end, so that the runtime destroys the
// thread, and with it the mount namespace, instead of lending it out again.
func (s *spawner) run(cfg spawnerConfig, ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread cannot end, and /proc/self would show its namespace
		// as the process's: hold it until another goroutine has another thread.
		moved := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(moved)
			s.loop(cfg, ready)
		}()
		<-moved
		runtime.UnlockOSThread()
		return
	}
	s.loop(cfg, ready)
}

func (s *spawner) loop(cfg spawnerConfig, ready chan<- error) {
	defer close(s.ended)
	yieldProcessor()
	var err error
	if cfg.mounts {
		err = s.takeNamespace()
	}
	if err == nil && cfg.noPrivileges {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case call := <-s.calls:
			call()
		case <-s.quit:
			return
		}
	}
}

// yieldProcessor sets the niceness of the calling thread alone, which its children
// inherit. Where the host forbids that, commands run as the node does.
func yieldProcessor() {
	const base = 20 // the kernel says 20 - niceness
	if n, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && base-n < commandNice {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, commandNice)
	}
}

// takeNamespace gives the calling thread its own mount namespace. Mounts flow in
// from the host (a disk unmounted there is not kept busy here), never out.
func (s *spawner) takeNamespace() error {
	s.ground = grounds[0]
	if err := os.Mkdir(s.ground, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		s.ground = grounds[1]
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach the mount namespace: %w", err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("wsmesh", s.ground, "tmpfs", flags, "mode=0711,size=64k"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	return nil
}

// do runs call on the thread. It returns ctx's error if the thread was not free
// before ctx ended; once begun, a call is waited for.
func (s *spawner) do(ctx context.Context, call func()) error {
	done := make(chan struct{})
	select {
	case s.calls <- func() { defer close(done); call() }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ended:
		return os.ErrClosed
	}
}

// mount makes root reachable at a fresh path inside the spawner's namespace. The
// descriptor decides what is mounted, so no link swapped in on the way matters,
// and no directory above it is ever looked at.
func (s *spawner) mount(ctx context.Context, root *os.File) (string, error) {
	// The mount must be one of the namespace that root was opened in, hence the
	// calling thread and not the spawner's.
	fd, err := unix.OpenTree(int(root.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return "", fmt.Errorf("clone the mount of the tree: %w", err)
	}
	defer unix.Close(fd)
	attr := &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return "", fmt.Errorf("restrict the mount of the tree: %w", err)
	}
	s.mu.Lock()
	s.next++
	path := filepath.Join(s.ground, strconv.FormatUint(s.next, 10))
	s.mu.Unlock()
	var failure error
	err = s.do(ctx, func() {
		if failure = os.Mkdir(path, 0o711); failure != nil {
			return
		}
		failure = unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if failure != nil {
			_ = os.Remove(path)
		}
	})
	if err := errors.Join(err, failure); err != nil {
		return "", fmt.Errorf("mount the tree: %w", err)
	}
	return path, nil
}

// unmount undoes mount. A closed spawner has taken its mounts with it.
func (s *spawner) unmount(path string) error {
	var failure error
	err := s.do(context.Background(), func() {
		failure = errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))
	})
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return errors.Join(err, failure)
}

// fork starts l from the spawner's thread, inside the group's cgroups. It marks
// every descriptor of this process above 2 close-on-exec: one that was inherited
// or planted without the flag would reach the command.
func (s *spawner) fork(ctx context.Context, l *launch, g *group) (*os.Process, error) {
	var (
		child   *os.Process
		failure error
	)
	err := s.do(ctx, func() {
		if failure = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); failure != nil {
			return
		}
		if failure = g.enter(l); failure == nil {
			child, failure = os.StartProcess(l.path, l.argv, l.attr())
		}
		// The thread must not stay in the cgroups of a command, whatever failed.
		failure = errors.Join(failure, g.leave())
	})
	if err := errors.Join(err, failure); err != nil {
		if child != nil {
			_ = child.Kill()
			_, _ = child.Wait()
		}
		return nil, err
	}
	return child, nil
}

// close ends the thread and returns when it has; commands it forked with a
// parent-death signal die with it.
func (s *spawner) close() {
	s.mu.Lock()
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
	s.mu.Unlock()
	<-s.ended
}
