package sandbox

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/sandbox/sandboxtest"
)

// marker is in the arguments of every process that tests leave behind on
// purpose; it is different in every test process.
var marker = fmt.Sprintf("86400.%d", os.Getpid())

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		os.Exit(beParent())
	}
	if err := sandboxtest.Adopt(); err != nil {
		panic(err)
	}
	code := m.Run()
	if left := sandboxtest.Left(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "left behind:\n ", strings.Join(left, "\n  "))
		code = 1
	}
	os.Exit(code)
}

// groupsOf lists the cgroups of the state ids that start with state.
func groupsOf(t *testing.T, state string) []string {
	t.Helper()
	host, err := readCgroups()
	require.NoError(t, err)
	dirs, err := host.named(groupPrefix + state)
	require.NoError(t, err)
	return dirs
}

// marked lists the live processes with text in their arguments.
func marked(text string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && bytes.Contains(line, []byte(text)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

var numbers atomic.Uint32

func stateBase() string { return "t-" + strconv.Itoa(os.Getpid()) + "-" }

func stateID() string { return stateBase() + strconv.Itoa(int(numbers.Add(1))) }

// bench is a Runner with one tenant's directory.
type bench struct {
	runner   *Runner
	dir      string
	uid, gid int
}

// coldBwrap is bwrap without sandboxes that are kept.
const coldBwrap = "bwrap, cold"

// isolations are all ways to run a command.
var isolations = []string{IsolationBwrap, coldBwrap, IsolationSoftware, IsolationNone}

// newBench makes a Runner with the given isolation, or skips.
func newBench(t *testing.T, isolation string) *bench {
	t.Helper()
	return newBenchOn(t, isolation, "")
}

// newBenchOn makes one that holds commands by rlimits alone, or by what is best.
func newBenchOn(t *testing.T, isolation, rung string) *bench {
	t.Helper()
	keep := 0
	if isolation == coldBwrap {
		isolation, keep = IsolationBwrap, -1
	}
	if isolation == IsolationBwrap {
		if _, err := exec.LookPath("bwrap"); err != nil {
			requireOrSkip(t, "bwrap", "bubblewrap is not installed")
		}
	}
	cfg := Config{Isolation: isolation, StateID: stateID(), Warm: keep, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if rung == limitsRlimit {
		cfg.limiter = newLimiter(cfg.StateID, false)
	}
	r, err := New(t.Context(), cfg)
	if isolation == IsolationBwrap && err != nil {
		requireOrSkip(t, "bwrap", err.Error())
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	require.Equal(t, isolation == IsolationBwrap && keep == 0, r.Level().Warm, r.Level().Reason)
	return (&bench{runner: r, dir: t.TempDir()}).owned(t)
}

// owned gives the directory to a tenant of its own, when we are root.
func (b *bench) owned(t *testing.T) *bench {
	t.Helper()
	b.uid, b.gid = TenantIDs(uint32(os.Getpid())%1_000_000*100 + numbers.Add(1)%100)
	if os.Geteuid() == 0 && b.runner.Level().Driver != IsolationNone {
		require.NoError(t, os.Chown(b.dir, b.uid, b.gid))
	}
	require.NoError(t, os.Chmod(b.dir, 0o700))
	return b
}

func (b *bench) spec(t *testing.T, argv ...string) *Spec {
	t.Helper()
	root, err := os.Open(b.dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = root.Close() })
	return &Spec{Root: root, Mount: "/workspace", Argv: argv, UID: b.uid, GID: b.gid}
}

// outcome is a finished command.
type outcome struct {
	Result
	stdout, stderr string
}

// running is a started command whose output is being read.
type running struct {
	*Process
	out, err *collector
}

type collector struct {
	read *os.File
	done chan struct{}
	mu   sync.Mutex
	text []byte
}

func collect(t *testing.T) (*collector, *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	c := &collector{read: read, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		buf := make([]byte, 32<<10)
		for {
			n, err := read.Read(buf)
			c.mu.Lock()
			c.text = append(c.text, buf[:n]...)
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c, write
}

func (c *collector) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// waitFor returns when the output contains text.
func (c *collector) waitFor(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(c.String(), text) }, 10*time.Second, 2*time.Millisecond,
		"output so far: %q", c.String())
}

func (b *bench) start(t *testing.T, spec *Spec) *running {
	t.Helper()
	out, outEnd := collect(t)
	errs, errEnd := collect(t)
	spec.Stdout, spec.Stderr = outEnd, errEnd
	p, err := b.runner.Start(t.Context(), spec)
	require.NoError(t, outEnd.Close())
	require.NoError(t, errEnd.Close())
	require.NoError(t, err)
	return &running{Process: p, out: out, err: errs}
}

// finish waits for the command and for the end of its output, which comes only
// when no process of it is left to hold the pipes.
func (r *running) finish(t *testing.T) outcome {
	t.Helper()
	overdue := time.AfterFunc(15*time.Second, r.Kill)
	res := r.Wait()
	require.True(t, overdue.Stop(), "the command did not end")
	for _, c := range []*collector{r.out, r.err} {
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			require.Fail(t, "a process outlives its command and holds its output")
		}
		require.NoError(t, c.read.Close())
	}
	return outcome{Result: res, stdout: r.out.String(), stderr: r.err.String()}
}

func (b *bench) run(t *testing.T, argv ...string) outcome {
	t.Helper()
	return b.runSpec(t, b.spec(t, argv...))
}

func (b *bench) runSpec(t *testing.T, spec *Spec) outcome {
	t.Helper()
	o := b.start(t, spec).finish(t)
	require.NoError(t, o.Err)
	return o
}
