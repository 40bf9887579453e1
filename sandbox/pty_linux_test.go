package sandbox

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// screen is a command with a terminal, whose output is being read.
type screen struct {
	*Process
	tty *Terminal
	out *collector
}

func (b *bench) onTerminal(t *testing.T, argv ...string) *screen {
	t.Helper()
	spec := b.spec(t, argv...)
	spec.Env = []string{"TERM=xterm", "PS1=> "}
	spec.Terminal = &Winsize{Rows: 33, Cols: 101}
	h, err := b.runner.Prepare(t.Context(), spec)
	require.NoError(t, err)
	tty := h.Terminal()
	require.NotNil(t, tty)
	p, err := h.Begin()
	require.NoError(t, err)
	s := &screen{Process: p, tty: tty, out: &collector{done: make(chan struct{})}}
	go func() {
		defer close(s.out.done)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			s.out.mu.Lock()
			s.out.text = append(s.out.text, buf[:n]...)
			s.out.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) types(t *testing.T, text string) {
	t.Helper()
	_, err := s.tty.Write([]byte(text))
	require.NoError(t, err)
}

// ends waits for the end of the command and returns what it showed.
func (s *screen) ends(t *testing.T) (Result, string) {
	t.Helper()
	overdue := time.AfterFunc(15*time.Second, s.Kill)
	res := s.Wait()
	require.True(t, overdue.Stop(), "the command did not end; it showed %q", s.out.String())
	require.NoError(t, res.Err)
	s.tty.Hangup(time.Now().Add(5 * time.Second))
	<-s.out.done
	require.NoError(t, s.tty.Close())
	return res, strings.ReplaceAll(s.out.String(), "\r\n", "\n")
}

// A command has its terminal in every isolation, warm and cold.
func TestTerminal(t *testing.T) {
	// Drivers without a process 1 of ours hand on what is ignored, as in the
	// background of a shell.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGINT, unix.SIGQUIT)
	defer signal.Stop(caught)
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			for name, test := range map[string]func(*testing.T, *bench){
				"is one":               terminalIsOne,
				"size":                 terminalResizes,
				"job control":          terminalJobs,
				"interrupt":            terminalInterrupts,
				"end of input":         terminalEnds,
				"end of the command":   terminalIsLeft,
				"closed for a while":   terminalIsReopened,
				"nothing begins":       terminalIsDropped,
				"all of a long output": terminalShowsAll,
			} {
				t.Run(name, func(t *testing.T) { test(t, b) })
			}
		})
	}
}

func terminalIsOne(t *testing.T, b *bench) {
	res, out := b.onTerminal(t, "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty && echo err >&2 && stat -c '%a %u' $(tty) && id -u && echo end > /dev/tty; exit 3").ends(t)
	require.Equal(t, 3, res.Code)
	lines := strings.Split(out, "\n")
	require.Len(t, lines, 6, "%q", out)
	require.Regexp(t, "^/dev/pts/[0-9]+$", lines[0])
	require.Equal(t, "err", lines[1])
	require.Equal(t, "600 "+lines[3], lines[2], "its owner")
	require.Equal(t, "end", lines[4])
}

func terminalResizes(t *testing.T, b *bench) {
	s := b.onTerminal(t, "bash", "-c", "stty size; trap 'stty size; exit 0' WINCH; echo set; while :; do sleep 0.05; done")
	s.out.waitFor(t, "33 101\r\nset")
	require.NoError(t, s.tty.Resize(Winsize{Rows: 10, Cols: 20}))
	_, out := s.ends(t)
	require.Equal(t, "33 101\nset\n10 20\n", out)
}

func terminalJobs(t *testing.T, b *bench) {
	s := b.onTerminal(t, "bash", "--norc", "-i")
	s.types(t, "stty -echo; sleep 100 &\n")
	s.types(t, "jobs; kill %1; wait; echo don''e\n")
	s.out.waitFor(t, "done")
	s.types(t, "sh -c 'echo u''p; exec sleep 100'\n")
	s.out.waitFor(t, "up")
	s.types(t, "\x1a") // Ctrl-Z
	s.out.waitFor(t, "Stopped")
	s.types(t, "kill %1; fg; echo bac''k; exit 4\n")
	s.out.waitFor(t, "back")
	res, out := s.ends(t)
	require.Equal(t, 4, res.Code)
	require.Contains(t, out, "Running")
	require.NotContains(t, out, "job control")
	require.NotContains(t, out, "cannot set")
}

func terminalInterrupts(t *testing.T, b *bench) {
	s := b.onTerminal(t, "bash", "--norc", "-i")
	s.types(t, "sh -c 'echo u''p; exec sleep 100'\n")
	s.out.waitFor(t, "up")
	s.types(t, "\x03")
	s.types(t, "echo stat''us $?\n")
	s.out.waitFor(t, "status 130\r\n\x1b[?2004h> ")
	s.types(t, "\x04")
	_, out := s.ends(t)
	require.Contains(t, out, "^C")
}

func terminalEnds(t *testing.T, b *bench) {
	s := b.onTerminal(t, "sh", "-c", "stty -echo; echo u''p; cat; echo end")
	s.out.waitFor(t, "up")
	s.types(t, "half a line")
	require.NoError(t, s.tty.EndInput())
	_, out := s.ends(t)
	require.Equal(t, "up\nhalf a lineend\n", out)
}

func terminalIsLeft(t *testing.T, b *bench) {
	began := time.Now()
	s := b.onTerminal(t, "sh", "-c", "trap '' HUP; sleep "+marker+" & echo started")
	_, out := s.ends(t)
	require.Equal(t, "started\n", out)
	require.Less(t, time.Since(began), 15*time.Second)
}

func terminalIsReopened(t *testing.T, b *bench) {
	_, out := b.onTerminal(t, "sh", "-c", "echo one; exec 0<&- 1<&- 2<&-; sleep 0.3; exec > /dev/tty; echo two").ends(t)
	require.Equal(t, "one\ntwo\n", out)
}

func terminalIsDropped(t *testing.T, b *bench) {
	spec := b.spec(t, "touch", "ran")
	spec.Terminal = &Winsize{}
	h, err := b.runner.Prepare(t.Context(), spec)
	require.NoError(t, err)
	tty := h.Terminal()
	h.Drop()
	_, err = tty.Write([]byte("x"))
	require.Error(t, err)
	require.NoFileExists(t, b.dir+"/ran")
	spec.Stdin = spec.Root
	_, err = b.runner.Prepare(t.Context(), spec)
	require.ErrorContains(t, err, "terminal")
}

func terminalShowsAll(t *testing.T, b *bench) {
	_, out := b.onTerminal(t, "seq", "50000").ends(t)
	require.True(t, strings.HasPrefix(out, "1\n2\n3\n"), "%.40q", out)
	require.True(t, strings.HasSuffix(out, "\n49999\n50000\n"), "%q", out[max(0, len(out)-40):])
	require.Equal(t, 50000, strings.Count(out, "\n"))
}

// A command finds no terminal but its sandbox's own, and cannot type into one.
func TestTerminalsOfOthers(t *testing.T) {
	for _, isolation := range []string{IsolationBwrap, coldBwrap} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			ours, err := hostTerminal(Winsize{}, 0, 0)
			require.NoError(t, err)
			defer ours.Close()
			var st unix.Stat_t
			require.NoError(t, unix.Fstat(int(ours.tty.Fd()), &st))
			n := unix.Minor(st.Rdev)
			script := fmt.Sprintf(`
				python3 - <<'END'
import fcntl, os, struct, termios
def attempt(what, do):
    try:
        print(what, do())
    except OSError as e:
        print(what, e.strerror)
fd = os.open("/dev/tty", os.O_RDWR)
attempt("sti", lambda: fcntl.ioctl(fd, termios.TIOCSTI, b"x"))
attempt("linux", lambda: fcntl.ioctl(fd, 0x541C, b"\x02"))
attempt("console", lambda: fcntl.ioctl(fd, termios.TIOCCONS))
attempt("peer", lambda: os.open("/proc/self/fd/%%d/../1" %% fd, os.O_RDWR))
for name in ["/dev/pts/%[1]d", "/dev/tty1", "/dev/console", "/dev/ttyS0", "/proc/1/fd/0"]:
    attempt(name, lambda: os.fstat(os.open(name, os.O_RDWR | os.O_NOCTTY)).st_dev)
many = []
try:
    while len(many) < 1000:
        many.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError as e:
    print("made", len(many), e.strerror)
for f in many:
    os.close(f)
print(sorted(os.listdir("/dev/pts")))
print("own", os.stat("/dev/pts").st_dev == os.fstat(fd).st_dev, os.stat(os.ttyname(fd)).st_dev)
END`, n)
			_, out := b.onTerminal(t, "sh", "-c", script).ends(t)
			t.Log(out)
			require.Contains(t, out, "sti Operation not permitted")
			require.Contains(t, out, "linux Operation not permitted")
			require.Contains(t, out, "console Operation not permitted")
			require.NotRegexp(t, `/dev/(tty1|ttyS0) [0-9]`, out)
			require.Contains(t, out, "/proc/1/fd/0 Permission denied")
			require.Contains(t, out, "['0', 'ptmx']")
			if b.runner.Level().Uids {
				require.Contains(t, out, fmt.Sprintf("made %d No space left on device", DefaultTerminals-1))
			}
			if n != 0 {
				require.Contains(t, out, fmt.Sprintf("/dev/pts/%d No such file", n))
			}
		})
	}
}
