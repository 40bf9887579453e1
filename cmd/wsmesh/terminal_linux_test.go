package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// person sits at a terminal in which the program runs.
type person struct {
	cmd  *exec.Cmd
	host *os.File // the terminal's other side
	tty  *os.File
	ends chan error

	mu    sync.Mutex
	shown string
}

func sitDown(t *testing.T, m *nodetest.Mesh, args ...string) *person {
	t.Helper()
	host, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(host.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(host.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { tty.Close() })
	p := &person{cmd: exec.Command("wsmesh", args...), host: host, tty: tty, ends: make(chan error, 1)}
	p.resize(t, 30, 90)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p.cmd.Env = append(os.Environ(), "TERM=xterm", "WSMESH_URL="+m.URL(), "WSMESH_TOKEN="+m.Token(t, nodetest.Tenant), "WSMESH_WORKSPACE=w", "GORACE=atexit_sleep_ms=0")
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { p.cmd.Process.Kill() }) //nolint:errcheck // it has ended, if all went well
	go func() { p.ends <- p.cmd.Wait() }()
	go func() { // ends with the terminal
		buf := make([]byte, 4096)
		for {
			n, err := host.Read(buf)
			p.mu.Lock()
			p.shown += string(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *person) resize(t *testing.T, rows, cols uint16) {
	t.Helper()
	require.NoError(t, unix.IoctlSetWinsize(int(p.host.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}))
}

func (p *person) types(t *testing.T, text string) {
	t.Helper()
	_, err := p.host.WriteString(text)
	require.NoError(t, err)
}

// sees waits for what matches, and forgets what was shown up to there.
func (p *person) sees(t *testing.T, pattern string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	deadline := time.Now().Add(patience)
	for {
		p.mu.Lock()
		at, shown := want.FindStringIndex(p.shown), p.shown
		if at != nil {
			p.shown = p.shown[at[1]:]
		}
		p.mu.Unlock()
		if at != nil {
			return
		}
		require.True(t, time.Now().Before(deadline), "%s is not seen in %q", pattern, shown)
		time.Sleep(10 * time.Millisecond)
	}
}

// mode is how the terminal works.
func (p *person) mode(t *testing.T) unix.Termios {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(p.host.Fd()), unix.TCGETS)
	require.NoError(t, err)
	return *mode
}

func TestExecAtATerminal(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	t.Run("a shell", func(t *testing.T) {
		p := sitDown(t, m, "exec", "-it", "--env", "PS1=> ", "bash", "--norc", "-i")
		p.sees(t, `> $`)
		p.types(t, "stty size; echo $TERM\r")
		p.sees(t, "30 90\r\nxterm\r\n")
		p.resize(t, 11, 22)
		p.types(t, "while [ \"$(stty size)\" != '11 22' ]; do sleep 0.05; done; echo re''sized\r")
		p.sees(t, "resized")
		p.types(t, "sh -c 'echo u''p; exec sleep 100'\r")
		p.sees(t, "up\r\n")
		p.types(t, "\x03")
		p.sees(t, `> $`)
		p.types(t, "echo stat''us $?\r")
		p.sees(t, `status 130[^>]*> $`)
		p.types(t, "\x04")
		require.NoError(t, <-p.ends)
	})
	t.Run("gives the terminal back", func(t *testing.T) {
		for name, end := range map[string]func(t *testing.T, p *person){
			"at its end":  func(t *testing.T, p *person) { p.types(t, "x\n") },
			"at a signal": func(t *testing.T, p *person) { require.NoError(t, p.cmd.Process.Signal(unix.SIGTERM)) },
			"at the command's signal": func(t *testing.T, p *person) {
				p.types(t, "\x03")
			},
		} {
			t.Run(name, func(t *testing.T) {
				p := sitDown(t, m, "exec", "-it", "sh", "-c", "echo up; read line")
				before := p.mode(t)
				p.sees(t, "up")
				require.Eventually(t, func() bool { return p.mode(t).Lflag&unix.ISIG == 0 }, patience, 10*time.Millisecond)
				end(t, p)
				<-p.ends
				before.Lflag |= unix.ISIG | unix.ICANON | unix.ECHO
				after := p.mode(t)
				require.Equal(t, before.Lflag, after.Lflag)
				require.Equal(t, before.Oflag|unix.OPOST, after.Oflag)
			})
		}
	})
	t.Run("left with ~.", func(t *testing.T) {
		p := sitDown(t, m, "exec", "-it", "sh", "-c", "stty -echo; echo up; while read line; do echo got $line; echo $line > last; done; echo end > last")
		before := p.mode(t)
		p.sees(t, "up")
		p.types(t, "x~.\r")
		p.sees(t, `got x~\.`)
		p.types(t, "~~.\r")
		p.sees(t, `got ~\.`)
		p.types(t, "~")
		p.types(t, "a\r")
		p.sees(t, `got ~a`)
		p.types(t, "~.")
		p.sees(t, `exec \S+ runs on`)
		var exit *exec.ExitError
		require.ErrorAs(t, <-p.ends, &exit)
		require.Equal(t, 130, exit.ExitCode())
		require.Equal(t, before.Lflag|unix.ISIG|unix.ICANON|unix.ECHO, p.mode(t).Lflag)
		ws := m.Client.Workspace("w")
		running, err := ws.Running(t.Context())
		require.NoError(t, err)
		require.Len(t, running, 1)
		_, err = ws.WriteStdin(t.Context(), string(running[0].ID), []byte("later\r"))
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			b, err := ws.ReadFile(t.Context(), "last")
			return err == nil && string(b) == "later\n"
		}, patience, 20*time.Millisecond)
		require.NoError(t, ws.Signal(t.Context(), string(running[0].ID), "KILL"))
	})
	t.Run("killed it leaves the command", func(t *testing.T) {
		p := sitDown(t, m, "exec", "-it", "sh", "-c", "trap '' HUP; echo up; sleep 0.5; echo after > after")
		p.sees(t, "up")
		require.NoError(t, p.cmd.Process.Kill())
		<-p.ends
		require.Eventually(t, func() bool {
			b, err := m.Client.Workspace("w").ReadFile(t.Context(), "after")
			return err == nil && strings.HasPrefix(string(b), "after")
		}, patience, 20*time.Millisecond)
	})
}
