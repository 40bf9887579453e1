package inside

import (
	"errors"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arguments of the program: the first says what it is.
const (
	// Arg makes it process 1 of a sandbox. ArgEgress after it makes it listen at
	// EgressAddr, for which the node answers.
	Arg       = "wsmesh-process-1"
	ArgEgress = "egress"
	// ArgListen makes it listen at EgressAddr, hand the listener out through
	// descriptor 3, and become the program that the other arguments are.
	ArgListen = "wsmesh-listen"
)

// DefaultStarve is how long the program lives without a word of the node: a
// frozen node does not freeze its sandboxes, and its workspaces go to another
// one after 15 s.
const DefaultStarve = 10 * time.Second

// maxFiles bounds the descriptors of one message: three of the command, its
// gate, one memory file, one per cgroup hierarchy.
const maxFiles = 16

// filesOfRun is the least that comes with KindRun.
const filesOfRun = 4

// Asked reports whether this process was started to be this program.
func Asked() bool {
	return len(os.Args) > 1 && os.Args[1] == Arg && os.Getpid() == 1 || len(os.Args) > 2 && os.Args[1] == ArgListen
}

// Main is the program; it is called from an init function, where the calling
// thread is the main one. As process 1 it ends when the node is gone, and with it
// every process of the sandbox.
func Main() {
	if len(os.Args) > 2 && os.Args[1] == ArgListen {
		listenAndBecome(os.Args[2:])
	}
	// A thread ends with the command it forked, but the main thread cannot: no
	// command may be forked from there.
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		die("keep the main thread", unix.EINVAL)
	}
	conn, err := withdraw()
	if err != nil {
		die("withdraw from the commands", err)
	}
	name := [16]byte{'w', 's', 'm', 'e', 's', 'h'} // for who looks with ps: it is called by a descriptor
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0, 0, 0)
	// The heap is tiny; half a megabyte matters in every sandbox.
	debug.SetGCPercent(25)
	a, err := newAgent(conn)
	if err != nil {
		die("set up", err)
	}
	if err := a.hello(len(os.Args) > 2 && os.Args[2] == ArgEgress); err != nil {
		die("greet the node", err)
	}
	go a.starve()
	go a.reap()
	for range spareThreads {
		a.addThread()
	}
	for send := range a.signals {
		if send.Kind == KindStop {
			a.stop(send.ID)
			continue
		}
		a.signal(send.ID, unix.Signal(send.Signal))
	}
}

// die ends the program; its standard error is seen until the sandbox is up.
func die(doing string, err error) {
	os.Stderr.WriteString("sandbox agent: " + doing + ": " + err.Error() + "\n") //nolint:errcheck // nobody else to tell
	os.Exit(1)
}

// withdraw takes this process out of the commands' reach, in the order that the
// package comment gives, and moves our end of the pair away from descriptor 0.
func withdraw() (conn int, err error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return -1, err
	}
	if err := defaultSignals(); err != nil {
		return -1, err
	}
	// To any free number: the runtime has descriptors of its own by now.
	if conn, err = unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return -1, err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for fd := range 2 { // 2 is how we tell why we do not come up
		if err := unix.Dup3(null, fd, 0); err != nil {
			return -1, err
		}
	}
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return -1, err
	}
	return conn, os.Chdir("/")
}

// defaultSignals undoes what the Go runtime and whoever started us have set. The
// runtime keeps SIGURG, with which it interrupts its own threads; it ignores the
// ones it did not send.
func defaultSignals() error {
	var def [4]uint64 // struct sigaction: SIG_DFL, no flags, empty mask
	for sig := 1; sig <= 64; sig++ {
		switch unix.Signal(sig) {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGURG:
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&def)), 0, 8, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	return nil
}

// spareThreads wait for requests when nothing goes on. With two, a command is
// forked by the thread that read it, and the one that takes its place is made
// afterwards.
const spareThreads = 2

// addThread makes one more thread that waits for a request.
func (a *agent) addThread() {
	a.waiting.Add(1)
	go a.serve()
}

// serve reads requests until one of them is to run a command, which it forks. No
// word has to be passed between threads before that.
func (a *agent) serve() {
	runtime.LockOSThread() // and never unlocked; see the package comment
	if err := a.landlock.enter(); err != nil {
		die("enter Landlock", err)
	}
	buf, oob := a.buffer(), make([]byte, unix.CmsgSpace(4*maxFiles))
	for {
		req, fds, err := a.next(buf, oob)
		if err != nil {
			die("read a request", err)
		}
		a.fed.Store(bootTime())
		switch req.Kind {
		case KindRun:
			a.keep(buf) // nothing of req is in it
			last := a.waiting.Add(-1) == 0
			if last { // the gate may stay shut for long
				a.addThread()
			}
			a.run(req, fds)
			if !last {
				a.addThread()
			}
			return
		case KindSignal, KindStop:
			// From a thread that no Landlock domain keeps from signalling.
			a.signals <- req
		}
	}
}

// buffer is room for a message, and keep takes it back: to make one for each command
// would have the memory collected after a dozen of them.
func (a *agent) buffer() []byte {
	select {
	case buf := <-a.buffers:
		return buf
	default:
		return make([]byte, MaxMessage)
	}
}

func (a *agent) keep(buf []byte) {
	select {
	case a.buffers <- buf:
	default:
	}
}

// next reads one request. An error means that the node has gone, or that the two
// ends no longer agree.
func (a *agent) next(buf, oob []byte) (*Request, []int, error) {
	n, oobn, flags, err := a.receive(buf, oob)
	switch {
	case err != nil:
		return nil, nil, err
	case n == 0 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, nil, unix.EPIPE
	}
	fds, err := received(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	req, err := DecodeRequest(buf[:n])
	if err == nil && req.Kind == KindLarge && len(fds) > 0 {
		req, err = readLarge(fds[0])
		closeAll(fds[:1])
		fds = fds[1:]
	}
	if err == nil && req.Kind == KindRun && (len(fds) < filesOfRun || req.Whole && len(fds) != filesOfRun+2) {
		err = errMessage
	}
	return req, fds, err
}

func (a *agent) receive(buf, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(a.conn, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return n, oobn, flags, err
		}
	}
}

// received returns the descriptors of a message.
func received(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var all []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

// readLarge reads a request that is a memory file.
func readLarge(fd int) (*Request, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	buf := make([]byte, st.Size)
	for at := 0; at < len(buf); {
		n, err := unix.Pread(fd, buf[at:], int64(at))
		if err != nil || n == 0 {
			return nil, unix.EIO
		}
		at += n
	}
	return DecodeRequest(buf)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// hello says that the program is ready, and hands out its scratch directories,
// so that the node can see how full they are whatever it is told later, and the one
// where it makes terminals, and the listener, if there is to be one.
func (a *agent) hello(egress bool) error {
	var fds []int
	for _, dir := range []string{"/tmp", "/dev/shm", "/dev/pts"} {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	if egress {
		fd, err := listen()
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	defer closeAll(fds)
	if err := unix.Dup3(0, 2, 0); err != nil {
		return err
	}
	reply := Reply{Kind: KindHello, Landlock: a.landlock.version}
	return unix.Sendmsg(a.conn, reply.Encode(), unix.UnixRights(fds...), nil, 0)
}

func (a *agent) send(r *Reply) {
	// A failure means that the node is gone, which serve finds out.
	_ = unix.Sendmsg(a.conn, r.Encode(), nil, nil, 0)
}

// bootTime is CLOCK_BOOTTIME: it goes on while the machine is suspended.
func bootTime() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return ts.Nano()
}

// starve ends the sandbox when nothing has come from the node for too long.
func (a *agent) starve() {
	for {
		time.Sleep(DefaultStarve / 10)
		if time.Duration(bootTime()-a.fed.Load()) > DefaultStarve {
			die("wait for the node", unix.ETIMEDOUT)
		}
	}
}
