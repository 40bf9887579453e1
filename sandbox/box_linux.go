package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/sandbox/inside"
)

const (
	// agentMemory and agentPids bound process 1, its threads and bubblewrap's
	// monitor. Commands are not counted there.
	agentMemory = 128 << 20
	agentPids   = 64
	// maxGroups bounds the cgroups that are kept, and idleGroups those of a
	// sandbox without commands: the kernel takes some 100 KiB for each.
	maxGroups  = 32
	idleGroups = 2
	// sendTime bounds the writing of one request: the socket's buffer is full
	// only if process 1 does not read.
	sendTime = 5 * time.Second
)

var errRetired = errors.New("the sandbox was retired")

// box is one sandbox that is kept. Whatever comes from its process 1 is the
// tenant's word: each message is checked against what is going on, and the first
// that does not fit ends the sandbox.
type box struct {
	warm     *warm
	key      boxKey
	built    chan struct{} // closed when build is through
	gone     chan struct{} // closed when no process of it is left
	landlock int
	feeding  atomic.Bool

	// Owned by warm.mu.
	users   int
	used    time.Time
	retired bool

	mu       sync.Mutex
	process  *cold // bubblewrap; nil until it is up
	conn     *net.UnixConn
	outlet   *outlet // its way out, nil without one
	scratch  []int   // its /tmp and /dev/shm, and its /dev/pts
	commands map[uint64]*warmRun
	next     uint64
	groups   []*group // of ended commands, for the next ones
	err      error    // why it is of no more use
}

func newBox(w *warm, key boxKey) *box {
	return &box{
		warm: w, key: key, users: 1, used: time.Now(),
		built: make(chan struct{}), gone: make(chan struct{}), commands: make(map[uint64]*warmRun),
	}
}

// build brings the sandbox up for the command that asked for it first. It leaves
// an error in b instead of returning it: others wait for the same.
func (b *box) build(ctx context.Context, spec *Spec) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildTime)
	defer cancel()
	defer close(b.built)
	err := b.launch(ctx, spec)
	if err != nil {
		b.warm.runner.log.Warn("a sandbox to keep could not be built", "err", err)
		b.fail(err)
	}
	if b.process == nil {
		if b.conn != nil {
			_ = b.conn.Close()
		}
		close(b.gone)
		b.warm.forget(b)
		return
	}
	go b.read()
}

func (b *box) launch(ctx context.Context, spec *Spec) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "sandbox"), os.NewFile(uintptr(pair[1]), "agent")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return fmt.Errorf("use a socket pair: %w", err)
	}
	b.conn = conn.(*net.UnixConn)
	note, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer note.Close()
	run := *spec
	run.agent, run.Stdin, run.Stdout, run.Stderr = b.warm.runner.agent, theirs, nil, write
	run.Terminal, run.Dir, run.MemoryBytes, run.Pids, run.CPUMillis = nil, spec.Mount, agentMemory, agentPids, 0
	process, said, err := b.warm.runner.holdCold(ctx, &run)
	_ = write.Close()
	if err != nil {
		return fmt.Errorf("%w %s", err, said)
	}
	b.mu.Lock()
	b.process = process
	b.mu.Unlock()
	if _, err := process.begin(); err != nil {
		return err
	}
	_ = theirs.Close()
	if err := b.greet(ctx, spec.Egress); err != nil {
		_ = note.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		text, _ := io.ReadAll(io.LimitReader(note, 1024))
		return fmt.Errorf("process 1 did not come up: %w %s", err, strings.TrimSpace(string(text)))
	}
	return nil
}

// greet waits for the first message, before which no command can have run: until
// then what is inside can be believed.
func (b *box) greet(ctx context.Context, egress Egress) error {
	deadline, _ := ctx.Deadline()
	if err := b.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	buf, oob := make([]byte, inside.MaxReply), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := b.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.scratch = append(b.scratch, fds...)
		b.mu.Unlock()
	}
	reply, err := inside.DecodeReply(buf[:n])
	if err != nil || reply.Kind != inside.KindHello || flags&unix.MSG_CTRUNC != 0 {
		return fmt.Errorf("it said %q", buf[:n])
	}
	b.landlock = reply.Landlock
	if err := b.boundTerminals(); err != nil {
		b.warm.runner.log.Warn("the terminals of a sandbox are not bounded", "err", err)
	}
	if egress != nil {
		if err := b.openOutlet(egress); err != nil {
			return err
		}
	}
	return b.conn.SetReadDeadline(time.Time{})
}

// openOutlet serves the listener that came last.
func (b *box) openOutlet(egress Egress) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.scratch) != 4 {
		return errors.New("it has no listener")
	}
	fd := b.scratch[3]
	b.scratch = b.scratch[:3]
	b.outlet, err = openOutlet(egress, fd)
	return err
}

// boundTerminals limits the terminals of the sandbox. An ordinary user may not, whose
// tenants have but one host user's share of everything anyway.
func (b *box) boundTerminals() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.warm.runner.level.Uids || len(b.scratch) < 3 {
		return nil
	}
	return boundTerminals(b.scratch[2])
}

// terminal makes a terminal for a command, in the sandbox's own /dev/pts. We make it
// and not process 1, of which we take no descriptor once commands may have run.
func (b *box) terminal(spec *Spec) (*Terminal, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.scratch) < 3 {
		return nil, errBoxEnded
	}
	return terminalIn(b.scratch[2], *spec.Terminal, b.warm.runner.owner(spec.UID), spec.GID)
}

// read takes what process 1 says until the sandbox ends, and cleans up after it.
func (b *box) read() {
	defer b.warm.forget(b)
	buf := make([]byte, inside.MaxReply+1)
	for {
		// Without room for descriptors the kernel drops those that are sent.
		n, _, flags, _, err := b.conn.ReadMsgUnix(buf, nil)
		if err == nil && flags&unix.MSG_TRUNC != 0 {
			err = errors.New("process 1 said too much")
		}
		if err == nil {
			err = b.hear(buf[:n])
		}
		if err != nil {
			b.fail(err)
			break
		}
	}
	b.process.Wait()
	close(b.gone)
	b.outlet.close()
	_ = b.conn.Close()
	b.mu.Lock()
	for _, fd := range b.scratch {
		_ = unix.Close(fd)
	}
	b.scratch = nil
	spare := b.spareGroups(0)
	b.mu.Unlock()
	b.removeGroups(spare)
}

// takeGroup returns cgroups for a command, which it alone is in.
func (b *box) takeGroup(spec *Spec) (*group, error) {
	want := spec.bounds(b.warm.guests())
	b.mu.Lock()
	var g *group
	if n := len(b.groups); n > 0 {
		g, b.groups = b.groups[n-1], b.groups[:n-1]
	}
	b.mu.Unlock()
	if g != nil && g.bounds == want {
		return g, nil
	}
	if g != nil {
		b.removeGroups([]*group{g})
	}
	g, err := b.warm.runner.limiter.open(want)
	if err != nil {
		return nil, err
	}
	g.spare = b.process.leader
	return g, nil
}

// giveGroup keeps the cgroups of an ended command, if they are as good as new.
func (b *box) giveGroup(g *group) bool {
	if !g.renew() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || len(b.groups) >= maxGroups {
		return false
	}
	b.groups = append(b.groups, g)
	return true
}

// spareGroups takes all but n of the cgroups that are kept. b.mu is held.
func (b *box) spareGroups(n int) []*group {
	n = min(n, len(b.groups))
	spare := slices.Clone(b.groups[n:])
	b.groups = b.groups[:n]
	return spare
}

func (b *box) removeGroups(all []*group) {
	for _, g := range all {
		if err := g.remove(); err != nil {
			b.warm.runner.log.Warn("a cgroup was not removed", "err", err)
		}
	}
}

// hear gives a message to its command.
func (b *box) hear(text []byte) error {
	reply, err := inside.DecodeReply(text)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.commands[reply.ID]
	if c == nil || !c.hear(reply) {
		return fmt.Errorf("process 1 said %q of command %d out of turn", reply.Kind, reply.ID)
	}
	if reply.Kind != inside.KindReady {
		delete(b.commands, reply.ID)
	}
	return nil
}

// fail ends the sandbox, with all that runs in it, and returns at once.
func (b *box) fail(err error) {
	closing := b.warm.runner.closing()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return
	}
	b.err = err
	if !errors.Is(err, errRetired) && !closing {
		b.warm.runner.log.Info("a sandbox that was kept is ended", "err", err)
	}
	if b.process != nil {
		b.process.Kill()
	}
}

func (b *box) failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// feed tells process 1 that we are alive. One that does not read is of no use.
func (b *box) feed() {
	select {
	case <-b.built:
	default:
		return
	}
	var spare []*group
	b.mu.Lock()
	failed := b.err != nil
	if len(b.commands) == 0 && !failed {
		spare = b.spareGroups(idleGroups)
	}
	b.mu.Unlock()
	b.removeGroups(spare)
	if failed {
		return
	}
	if err := b.send(&inside.Request{Kind: inside.KindFeed}, nil); err != nil {
		b.fail(err)
	}
}

// send writes one request; files travel with it and stay the caller's.
func (b *box) send(req *inside.Request, files []*os.File) error {
	text := req.Encode()
	if len(text) > inside.MaxMessage {
		large, err := memfile(text)
		if err != nil {
			return err
		}
		defer large.Close()
		text = (&inside.Request{Kind: inside.KindLarge}).Encode()
		files = append([]*os.File{large}, files...)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	if err := b.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	_, _, err := b.conn.WriteMsgUnix(text, oob, nil)
	return err
}

// scratchBytes is how much memory the files in /tmp and /dev/shm take.
func (b *box) scratchBytes() (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fd := range b.scratch {
		var st unix.Statfs_t
		if unix.Fstatfs(fd, &st) == nil && st.Type == unix.TMPFS_MAGIC {
			sum += int64(st.Blocks-st.Bfree) * st.Bsize
		}
	}
	return sum
}
