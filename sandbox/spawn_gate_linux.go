package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors of the process that becomes the command, while it waits at the
// gate. The shell names them in one digit.
const (
	fdGate   = 3 // our socket
	fdStderr = 4 // the command's stderr
	fdExtra  = 5 // the driver's, from here on
	// fdAgent is the first that gateScript does not close.
	fdAgent = 10
)

// gateScript is what every command starts as. It says that it is there, waits
// for our word, and becomes the command. So until everything about the command
// is settled (limits, its place among our processes) it has not begun, and it
// never begins if we are gone: our end of the socket is closed then, and the
// read fails. Until the exec, fd 2 is a pipe of ours that takes what the sandbox
// and the shell have to say; from the exec on it is the command's.
//
// The line is read into PWD, since any other name could be a variable of the
// caller; bubblewrap and some shells set these three by themselves. Limits come
// before it (see rlimits).
const gateScript = `echo >&3; read -r PWD <&3 || exit 126; unset PWD OLDPWD SHLVL
exec "$@" 2>&4 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-`

// limitScript follows limits that a shell sets on what it becomes; there is
// nothing to wait for.
const limitScript = `unset PWD OLDPWD SHLVL; exec "$@"`

const (
	shell  = "/bin/sh"
	envBin = "/usr/bin/env"
)

// launch is one process to fork.
type launch struct {
	path  string
	argv  []string
	env   []string
	dir   string
	files []*os.File // by descriptor
	sys   *syscall.SysProcAttr
}

// attr never passes a nil environment: that would mean ours.
func (l *launch) attr() *os.ProcAttr {
	return &os.ProcAttr{Dir: l.dir, Env: append([]string{}, l.env...), Files: l.files, Sys: l.sys}
}

var (
	shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// shellOwn are variables that some shell sets, resets or refuses.
	shellOwn = []string{
		"PWD", "OLDPWD", "SHLVL", "_", "IFS", "OPTIND", "OPTARG", "OPTERR", "PPID", "LINENO",
		"PS1", "PS2", "PS4", "UID", "EUID", "RANDOM", "SECONDS", "BASHOPTS", "SHELLOPTS",
	}
)

// gateArgv is the shell that runs a script which ends as the command, and the
// part of its variables that the shell can be started with. What a shell would not hand on,
// or would itself be changed by, is set after it by env(1).
func gateArgv(spec *Spec, script string) (gated, rest []string) {
	argv := spec.Argv
	var late []string
	for _, kv := range spec.Env {
		name, _, _ := strings.Cut(kv, "=")
		if !shellName.MatchString(name) || slices.Contains(shellOwn, name) ||
			strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "BASH_") {
			late = append(late, kv)
			continue
		}
		rest = append(rest, kv)
	}
	gated = []string{shell, "-c", script, "sh"}
	// Some shells take a first word with a dash as an option of exec.
	if len(late) > 0 || strings.HasPrefix(argv[0], "-") {
		gated = append(append(gated, envBin, "--"), late...)
		if strings.Contains(argv[0], "=") {
			// env(1) would take the program for one more variable.
			gated = append(gated, shell, "-c", `exec "$@"`, "sh")
		}
	}
	return append(gated, argv...), rest
}

// gate is our side of a command that has not begun.
type gate struct {
	conn *os.File // to the shell
	note *os.File // what the sandbox writes to fd 2
	mine []*os.File
}

// newGate makes the descriptors for a launch with the given standard files; nil
// ones become /dev/null. The caller closes the gate.
func newGate(spec *Spec) (*gate, []*os.File, error) {
	g := &gate{}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	g.mine = append(g.mine, null)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		g.close()
		return nil, nil, fmt.Errorf("make the gate: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "gate")
	g.mine = append(g.mine, theirs)
	if err := unix.SetNonblock(pair[0], true); err != nil {
		g.close()
		return nil, nil, errors.Join(fmt.Errorf("make the gate: %w", err), unix.Close(pair[0]))
	}
	g.conn = os.NewFile(uintptr(pair[0]), "gate")
	note, write, err := os.Pipe()
	if err != nil {
		g.close()
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	g.note = note
	g.mine = append(g.mine, write)
	or := func(f *os.File) *os.File {
		if f == nil {
			return null
		}
		return f
	}
	return g, []*os.File{or(spec.Stdin), or(spec.Stdout), write, theirs, or(spec.Stderr)}, nil
}

// forked closes the ends that only the child needs.
func (g *gate) forked() {
	for _, f := range g.mine {
		_ = f.Close()
	}
	g.mine = nil
}

// wait returns when the shell stands at the gate; ctx bounds it.
func (g *gate) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, g.interrupt)
	defer stop()
	if _, err := io.ReadFull(g.conn, make([]byte, 1)); err != nil {
		return errors.Join(fmt.Errorf("the sandbox did not come up: %w", err), ctx.Err())
	}
	return nil
}

// listener returns the listener that comes out before the shell is at the gate;
// ctx bounds that.
func (g *gate) listener(ctx context.Context) (fd int, err error) {
	stop := context.AfterFunc(ctx, g.interrupt)
	defer stop()
	raw, err := g.conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	n, size, oob := 0, 0, make([]byte, unix.CmsgSpace(4))
	var failure error
	err = raw.Read(func(conn uintptr) bool {
		n, size, _, _, failure = unix.Recvmsg(int(conn), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(failure, unix.EAGAIN)
	})
	if err := errors.Join(err, failure); err != nil || n == 0 {
		return -1, errors.Join(errors.New("the sandbox did not come up"), err, ctx.Err())
	}
	messages, err := unix.ParseSocketControlMessage(oob[:size])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(errors.New("no listener came out of the sandbox"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(errors.New("no listener came out of the sandbox"), err)
	}
	return fds[0], nil
}

// open lets the command begin.
func (g *gate) open() error {
	_, err := g.conn.Write([]byte("\n"))
	return err
}

// said returns what the sandbox had to say, without waiting for more of it.
func (g *gate) said() string {
	if err := g.note.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(g.note, 4096))
	return strings.TrimSpace(string(text))
}

// interrupt makes wait return, from any goroutine.
func (g *gate) interrupt() { _ = g.conn.SetDeadline(time.Unix(1, 0)) }

// shut makes sure that the command never begins. It may be called again.
func (g *gate) shut() {
	g.forked()
	if g.conn != nil {
		_ = g.conn.Close()
	}
}

func (g *gate) close() {
	g.shut()
	if g.note != nil {
		_ = g.note.Close()
	}
}

// memfile returns a descriptor with the given content, at its beginning. It is
// not close-on-exec in the child only, through launch.files.
func memfile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("wsmesh", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfile")
	_, err = f.Write(content)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fill a memory file: %w", err), f.Close())
	}
	return f, nil
}
