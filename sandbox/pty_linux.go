package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is our side of a command's terminal: Read is what the command shows,
// Write is typed. The other side is of the sandbox's own /dev/pts under bwrap, and
// of the host's otherwise. It is never a terminal of ours, so nothing that a command
// does with it can be typed anywhere but into its own.
//
// Its methods may be called concurrently. The caller of Begin closes it.
type Terminal struct {
	master *os.File

	mu   sync.Mutex
	tty  *os.File // the command's side, kept open: it may close all of its own and come back
	last byte     // that was typed
}

// newTerminal opens the other side of a terminal that was just made, for its owner;
// uid 0 leaves it ours. It takes the descriptor over.
func newTerminal(master int, size Winsize, uid, gid int) (*Terminal, error) {
	t := &Terminal{master: os.NewFile(uintptr(master), "terminal"), last: '\n'}
	fail := func(err error) (*Terminal, error) {
		return nil, errors.Join(fmt.Errorf("set a terminal up: %w", err), t.Close())
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	// Through the master and not by a name, which would be one of our /dev/pts.
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail(errno)
	}
	t.tty = os.NewFile(fd, "tty")
	if uid > 0 {
		if err := unix.Fchown(int(fd), uid, gid); err != nil {
			return fail(err)
		}
	}
	if err := unix.Fchmod(int(fd), 0o600); err != nil {
		return fail(err)
	}
	if err := t.Resize(size); err != nil {
		return fail(err)
	}
	return t, nil
}

const ptmxFlags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NONBLOCK

// hostTerminal makes a terminal of the host.
func hostTerminal(size Winsize, uid, gid int) (*Terminal, error) {
	fd, err := unix.Open("/dev/ptmx", ptmxFlags, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	return newTerminal(fd, size, uid, gid)
}

// terminalIn makes a terminal of the /dev/pts that is open as dir.
func terminalIn(dir int, size Winsize, uid, gid int) (*Terminal, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil || st.Type != unix.DEVPTS_SUPER_MAGIC {
		return nil, errors.Join(errors.New("the sandbox has no terminals"), err)
	}
	fd, err := unix.Openat(dir, "ptmx", ptmxFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the sandbox's ptmx: %w", err)
	}
	return newTerminal(fd, size, uid, gid)
}

// boundTerminals limits how many terminals a sandbox may have. It is for before any
// command runs there.
func boundTerminals(dir int) error {
	fs, err := unix.Fspick(dir, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	// What is not said again would be as by default, and that is no ptmx for others.
	for _, option := range [][2]string{{"mode", "620"}, {"ptmxmode", "666"}, {"max", strconv.Itoa(DefaultTerminals)}} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return err
		}
	}
	return unix.FsconfigReconfigure(fs)
}

// files are the command's standard files.
func (t *Terminal) files(spec *Spec) *Spec {
	with := *spec
	with.Stdin, with.Stdout, with.Stderr = t.tty, t.tty, t.tty
	return &with
}

// Read returns what the command shows; io.EOF after Hangup, once all was read.
func (t *Terminal) Read(p []byte) (int, error) {
	n, err := t.master.Read(p)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}

// Write types p. It waits while the command does not read, until Hangup.
func (t *Terminal) Write(p []byte) (int, error) {
	n, err := t.master.Write(p)
	if n > 0 {
		t.mu.Lock()
		t.last = p[n-1]
		t.mu.Unlock()
	}
	return n, err
}

// EndInput types what means the end of input to a program that reads lines. One that
// reads keys gets nothing: it knows no end but that of its terminal.
func (t *Terminal) EndInput() error {
	var mode *unix.Termios
	err := t.control(func(fd int) (err error) {
		mode, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	if err != nil || mode.Lflag&unix.ICANON == 0 || mode.Cc[unix.VEOF] == 0 {
		return err
	}
	end := []byte{mode.Cc[unix.VEOF]}
	t.mu.Lock()
	if t.last != '\n' {
		end = append(end, end[0]) // the first one ends the line
	}
	t.mu.Unlock()
	_, err = t.master.Write(end)
	return err
}

// Resize tells the command that its terminal has another size.
func (t *Terminal) Resize(size Winsize) error {
	return t.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
}

// control keeps the descriptor as it is: Fd would take its deadlines away.
func (t *Terminal) control(do func(fd int) error) error {
	conn, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	return errors.Join(conn.Control(func(fd uintptr) { failure = do(int(fd)) }), failure)
}

// Hangup lets Read come to its end, which a process that still has the terminal
// delays until the given time, and ends every Write. It is for after the end of
// the command.
func (t *Terminal) Hangup(until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tty != nil {
		_ = t.tty.Close()
		t.tty = nil
	}
	_ = t.master.SetReadDeadline(until)
	_ = t.master.SetWriteDeadline(time.Unix(1, 0))
}

// Close hangs up at once.
func (t *Terminal) Close() error {
	t.Hangup(time.Unix(1, 0))
	return t.master.Close()
}
