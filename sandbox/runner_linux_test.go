package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// marker is in the arguments of every process that tests leave behind on
// purpose; it is different in every test process.
var marker = fmt.Sprintf("86400.%d", os.Getpid())

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		os.Exit(beParent())
	}
	code := m.Run()
	if leaks := leftovers(); len(leaks) > 0 {
		fmt.Fprintln(os.Stderr, "left behind:\n ", strings.Join(leaks, "\n  "))
		code = 1
	}
	os.Exit(code)
}

// leftovers lists what the tests of this process left on the host, after giving
// it a moment to go.
func leftovers() (found []string) {
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		found = nil
		for _, pid := range marked(marker) {
			found = append(found, fmt.Sprintf("process %d", pid))
		}
		if host, err := readCgroups(); err == nil {
			for _, dir := range cgroupDirs(host, groupPrefix+stateBase()) {
				found = append(found, "cgroup "+dir)
			}
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || bytes.Contains(mounts, []byte("wsmesh")) {
			found = append(found, "a mount")
		}
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
	}
}

func cgroupDirs(host *cgroups, prefix string) (found []string) {
	for _, m := range host.mounts {
		_ = filepath.Walk(m.point, func(path string, info os.FileInfo, err error) error {
			if err == nil && strings.HasPrefix(info.Name(), prefix) {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
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

// newBench makes a Runner with the given isolation, or skips.
func newBench(t *testing.T, isolation string) *bench {
	t.Helper()
	if isolation == IsolationBwrap {
		if _, err := exec.LookPath("bwrap"); err != nil {
			requireOrSkip(t, "bwrap", "bubblewrap is not installed")
		}
	}
	r, err := New(t.Context(), Config{Isolation: isolation, StateID: stateID()})
	if isolation == IsolationBwrap && err != nil {
		requireOrSkip(t, "bwrap", err.Error())
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
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
	res := r.Wait()
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

func TestConformance(t *testing.T) {
	for _, isolation := range []string{IsolationBwrap, IsolationSoftware, IsolationNone} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			require.Equal(t, isolation, b.runner.Level().Driver)
			t.Run("status", func(t *testing.T) { testStatus(t, b) })
			t.Run("streams", func(t *testing.T) { testStreams(t, b) })
			t.Run("environment", func(t *testing.T) { testEnvironment(t, b) })
			t.Run("directories", func(t *testing.T) { testDirectories(t, b) })
			t.Run("arguments", func(t *testing.T) { testArguments(t, b) })
			t.Run("descriptors", func(t *testing.T) { testDescriptors(t, b) })
			t.Run("tree ends", func(t *testing.T) { testTreeEnds(t, b) })
			t.Run("close while starting", func(t *testing.T) { testClosing(t, b) })
			t.Run("signals", func(t *testing.T) { testSignals(t, b) })
			t.Run("at once", func(t *testing.T) { testAtOnce(t, b) })
			t.Run("refusals", func(t *testing.T) { testRefusals(t, b) })
			t.Run("account", func(t *testing.T) { testAccount(t, b) })
		})
	}
}

func testStatus(t *testing.T, b *bench) {
	plain := b.runner.Level().Driver != IsolationBwrap
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "text"), []byte("x"), 0o644))
	for _, c := range []struct {
		name   string
		argv   []string
		code   int
		signal string
		stderr string
	}{
		{name: "success", argv: []string{"true"}, code: 0},
		{name: "failure", argv: []string{"sh", "-c", "exit 3"}, code: 3},
		{name: "largest", argv: []string{"sh", "-c", "exit 255"}, code: 255},
		{name: "terminated", argv: []string{"sh", "-c", "kill -TERM $$"}, code: 143, signal: "SIGTERM"},
		{name: "killed", argv: []string{"sh", "-c", "kill -KILL $$"}, code: 137, signal: "SIGKILL"},
		{name: "no such program", argv: []string{"no-such-program"}, code: 127, stderr: "not found"},
		{name: "no such path", argv: []string{"./no-such-program"}, code: 127, stderr: "no-such-program"},
		{name: "not executable", argv: []string{"./text"}, code: 126, stderr: "Permission denied"},
		{name: "a directory", argv: []string{"/usr"}, code: 126, stderr: "Permission denied"},
		{name: "leading dash", argv: []string{"-x"}, code: 127, stderr: "-x"},
		{name: "equals sign", argv: []string{"a=b"}, code: 127, stderr: "a=b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := b.run(t, c.argv...)
			require.Equal(t, c.code, o.Code, o.stderr)
			require.Contains(t, o.stderr, c.stderr)
			require.Empty(t, o.stdout)
			require.Empty(t, o.Limit)
			if plain {
				require.Equal(t, c.signal, o.Signal)
			} else {
				require.Empty(t, o.Signal, "bubblewrap cannot tell a signal from a status")
			}
		})
	}
}

func testStreams(t *testing.T, b *bench) {
	t.Run("apart", func(t *testing.T) {
		o := b.run(t, "sh", "-c", "echo out; echo err >&2")
		require.Equal(t, "out\n", o.stdout)
		require.Equal(t, "err\n", o.stderr)
	})
	t.Run("no stdin is empty", func(t *testing.T) {
		require.Equal(t, "0\n", b.run(t, "sh", "-c", "cat | wc -c").stdout)
	})
	t.Run("stdin to its end", func(t *testing.T) {
		read, write, err := os.Pipe()
		require.NoError(t, err)
		spec := b.spec(t, "cat")
		spec.Stdin = read
		p := b.start(t, spec)
		require.NoError(t, read.Close())
		_, err = write.WriteString("hello")
		require.NoError(t, err)
		p.out.waitFor(t, "hello")
		require.NoError(t, write.Close())
		o := p.finish(t)
		require.Equal(t, 0, o.Code)
		require.Equal(t, "hello", o.stdout)
	})
	t.Run("large", func(t *testing.T) {
		require.Len(t, b.run(t, "head", "-c", "3000000", "/dev/zero").stdout, 3000000)
	})
}

func testEnvironment(t *testing.T, b *bench) {
	t.Setenv("PLANTED_SECRET", "hunter2")
	const home = "HOME=/workspace"
	defaults := []string{home, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}
	odd := []string{
		"A=1", "go=x", "EMPTY=", "LINES=a\nb", "EQ==a=b=", "IFS=z", "OPTIND=4", "PPID=7", "PWD=/x",
		"OLDPWD=/y", "SHLVL=9", "_=u", "foo.bar=1", "FOO-B=2", "LD_FOO=3", "BASH_ENV=/z", "ENV=/z", "UMLAUT=\xc3\xa4",
	}
	for _, c := range []struct {
		name      string
		env, want []string
	}{
		{name: "defaults", want: defaults},
		{name: "ours and odd ones", env: odd, want: append(append([]string{}, defaults...), odd...)},
		{name: "later wins", env: []string{"HOME=/h", "X=1", "X=2"}, want: append([]string{"HOME=/h", "X=2"}, defaults[1:]...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := b.spec(t, "env", "-0")
			spec.Env = c.env
			got := strings.Split(strings.TrimSuffix(b.runSpec(t, spec).stdout, "\x00"), "\x00")
			if b.runner.Level().Driver != IsolationBwrap && slices.Contains(c.want, home) {
				at := slices.IndexFunc(got, func(kv string) bool { return strings.HasPrefix(kv, "HOME=/") })
				require.GreaterOrEqual(t, at, 0)
				got[at] = home // the real directory; the directories test compares it with pwd
			}
			require.ElementsMatch(t, c.want, got)
		})
	}
	t.Run("late ones do not lose the program", func(t *testing.T) {
		spec := b.spec(t, "a=b")
		spec.Env = []string{"PWD=/x"}
		require.Equal(t, 127, b.runSpec(t, spec).Code)
	})
}

func testDirectories(t *testing.T, b *bench) {
	deep := filepath.Join(b.dir, "deep", "er")
	require.NoError(t, os.MkdirAll(deep, 0o777))
	require.NoError(t, os.Chmod(filepath.Dir(deep), 0o777))
	bwrapped := b.runner.Level().Driver == IsolationBwrap

	t.Run("below", func(t *testing.T) {
		spec := b.spec(t, "pwd")
		spec.Dir = "/workspace/deep/er"
		got := strings.TrimSpace(b.runSpec(t, spec).stdout)
		require.True(t, strings.HasSuffix(got, "/deep/er"), got)
		if bwrapped {
			require.Equal(t, "/workspace/deep/er", got)
		}
	})
	t.Run("written there", func(t *testing.T) {
		require.Equal(t, 0, b.run(t, "sh", "-c", "umask 022; echo kept > file").Code)
		kept, err := os.ReadFile(filepath.Join(b.dir, "file"))
		require.NoError(t, err)
		require.Equal(t, "kept\n", string(kept))
	})
	t.Run("scope", func(t *testing.T) {
		spec := b.spec(t, "sh", "-c", "pwd; echo $HOME; ls -A /workspace /workspace/users")
		spec.Mount = "/workspace/users/u1"
		o := b.runSpec(t, spec)
		if bwrapped {
			require.Equal(t, "/workspace/users/u1\n/workspace/users/u1\n/workspace:\nusers\n\n/workspace/users:\nu1\n", o.stdout)
			return
		}
		lines := strings.Split(o.stdout, "\n")
		require.Equal(t, lines[0], lines[1])
	})
	for name, dir := range map[string]string{"missing": "/workspace/none", "a file": "/workspace/plain"} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(filepath.Join(b.dir, "plain"), nil, 0o644))
			spec := b.spec(t, "true")
			spec.Dir = dir
			_, err := b.runner.Start(t.Context(), spec)
			require.ErrorIs(t, err, mesh.Errorf(mesh.CodeNotFound, ""))
		})
	}
	t.Run("renamed after opening", func(t *testing.T) {
		spec := b.spec(t, "cat", "file")
		moved := b.dir + "-moved"
		require.NoError(t, os.Rename(b.dir, moved))
		defer func() { require.NoError(t, os.Rename(moved, b.dir)) }()
		require.Equal(t, "kept\n", b.runSpec(t, spec).stdout)
	})
}

func testArguments(t *testing.T, b *bench) {
	argv := []string{
		"printf", `%s\0`, "", "-n", "--", "a b", "line\nline", "$HOME", "`id`", `"'\`, "*", "\xff\xfe", "a=b",
		strings.Repeat("x", 100<<10),
	}
	o := b.run(t, argv...)
	require.Equal(t, 0, o.Code, o.stderr)
	require.Equal(t, strings.Join(argv[2:], "\x00")+"\x00", o.stdout)
}

func testDescriptors(t *testing.T, b *bench) {
	// Not close-on-exec, and beyond the numbers that the gate closes.
	fd, err := unix.FcntlInt(1, unix.F_DUPFD, 40)
	require.NoError(t, err)
	defer unix.Close(fd)
	// The shell's own glob holds the directory open, as one more than 0 to 2.
	o := b.run(t, "sh", "-c", `cd /proc/$$/fd; echo *`)
	for _, name := range strings.Fields(o.stdout) {
		require.Contains(t, []string{"0", "1", "2", "3"}, name, o.stdout)
	}
	o = b.run(t, "sh", "-c", `readlink /proc/$$/fd/3 /proc/$$/fd/`+strconv.Itoa(fd))
	require.Empty(t, o.stdout)
}

// family starts processes in sessions of their own and one that fell to init.
func (b *bench) family() string {
	sleep := "sleep " + marker
	if b.runner.Level().Driver != IsolationBwrap && b.runner.Level().Limits == limitsRlimit {
		return sleep + " & (" + sleep + " &);"
	}
	return "setsid " + sleep + " & (setsid sh -c '" + sleep + " & " + sleep + "' &); (trap '' TERM HUP INT; " + sleep + ") &"
}

func testTreeEnds(t *testing.T, b *bench) {
	t.Run("exit", func(t *testing.T) {
		o := b.run(t, "sh", "-c", b.family()+" exit 5")
		require.Equal(t, 5, o.Code)
		require.Empty(t, marked(marker))
	})
	t.Run("kill", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", b.family()+" echo up; sleep "+marker))
		p.out.waitFor(t, "up")
		p.Kill()
		p.Kill()
		o := p.finish(t)
		require.NoError(t, o.Err)
		require.Equal(t, 137, o.Code)
		require.Equal(t, "SIGKILL", o.Signal)
		require.Empty(t, marked(marker))
		p.Kill()
		require.ErrorIs(t, p.Signal(syscall.SIGTERM), mesh.Errorf(mesh.CodeNotFound, ""))
	})
	t.Run("kill at once", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sleep", marker))
		p.Kill()
		require.Equal(t, 137, p.finish(t).Code)
	})
	t.Run("close", func(t *testing.T) {
		r, err := New(t.Context(), Config{Isolation: b.runner.Level().Driver, StateID: stateID()})
		require.NoError(t, err)
		other := &bench{runner: r, dir: b.dir, uid: b.uid, gid: b.gid}
		p := other.start(t, b.spec(t, "sh", "-c", b.family()+" echo up; sleep "+marker))
		p.out.waitFor(t, "up")
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
		require.Equal(t, 137, p.finish(t).Code)
		require.Empty(t, marked(marker))
		_, err = r.Start(t.Context(), b.spec(t, "true"))
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeUnavailable, ""))
	})
}

func testClosing(t *testing.T, b *bench) {
	r, err := New(t.Context(), Config{Isolation: b.runner.Level().Driver, StateID: stateID()})
	require.NoError(t, err)
	started := make(chan struct{}, 64)
	var group sync.WaitGroup
	for range 6 {
		spec := b.spec(t, "sleep", marker)
		group.Go(func() {
			for {
				p, err := r.Start(t.Context(), spec)
				if err != nil {
					require.ErrorIs(t, err, mesh.Errorf(mesh.CodeUnavailable, ""))
					return
				}
				select {
				case started <- struct{}{}:
				default:
				}
				defer func() { require.Equal(t, "SIGKILL", p.Wait().Signal) }()
			}
		})
	}
	<-started
	require.NoError(t, r.Close())
	require.Empty(t, marked(marker))
	group.Wait()
}

func testSignals(t *testing.T, b *bench) {
	t.Run("caught", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", "trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.01; done"))
		p.out.waitFor(t, "up")
		require.NoError(t, p.Signal(syscall.SIGTERM))
		o := p.finish(t)
		require.Equal(t, 9, o.Code)
		require.Contains(t, o.stdout, "caught")
	})
	t.Run("not caught", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sleep", marker))
		require.NoError(t, p.Signal(syscall.SIGINT))
		require.Equal(t, 130, p.finish(t).Code)
	})
	t.Run("stopped and killed", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sleep", marker))
		require.NoError(t, p.Signal(syscall.SIGSTOP))
		require.NoError(t, p.Signal(syscall.SIGKILL))
		require.Equal(t, 137, p.finish(t).Code)
	})
	t.Run("unknown", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sleep", marker))
		require.ErrorIs(t, p.Signal(99), mesh.Errorf(mesh.CodeInvalid, ""))
		p.Kill()
		p.finish(t)
	})
}

func testAtOnce(t *testing.T, b *bench) {
	var group sync.WaitGroup
	for i := range 16 {
		spec := b.spec(t, "sh", "-c", fmt.Sprintf("echo %d; sleep 0.05; exit %d", i, i))
		p := b.start(t, spec)
		group.Go(func() {
			res := p.Wait()
			<-p.out.done
			if res.Code != i || res.Err != nil || p.out.String() != fmt.Sprintf("%d\n", i) {
				t.Errorf("command %d: %+v %q", i, res, p.out.String())
			}
		})
	}
	group.Wait()
}

func testRefusals(t *testing.T, b *bench) {
	for _, c := range []struct {
		name   string
		change func(*Spec)
		code   mesh.Code
	}{
		{"no directory", func(s *Spec) { s.Root = nil }, mesh.CodeInvalid},
		{"no command", func(s *Spec) { s.Argv = nil }, mesh.CodeInvalid},
		{"zero byte", func(s *Spec) { s.Argv = []string{"a\x00b"} }, mesh.CodeInvalid},
		{"long argument", func(s *Spec) { s.Argv = []string{"true", strings.Repeat("x", 200<<10)} }, mesh.CodeTooLarge},
		{"many arguments", func(s *Spec) { s.Argv = strings.Split(strings.Repeat("x ", 600<<10), " ") }, mesh.CodeTooLarge},
		{"bad variable", func(s *Spec) { s.Env = []string{"novalue"} }, mesh.CodeInvalid},
		{"nameless variable", func(s *Spec) { s.Env = []string{"=x"} }, mesh.CodeInvalid},
		{"mount elsewhere", func(s *Spec) { s.Mount = "/etc" }, mesh.CodeInvalid},
		{"mount beside", func(s *Spec) { s.Mount = "/workspaces" }, mesh.CodeInvalid},
		{"mount with dots", func(s *Spec) { s.Mount = "/workspace/../etc" }, mesh.CodeInvalid},
		{"dir outside", func(s *Spec) { s.Dir = "/workspace/../etc" }, mesh.CodeInvalid},
		{"unknown network", func(s *Spec) { s.Net = "some" }, mesh.CodeInvalid},
		{"negative limit", func(s *Spec) { s.Pids = -1 }, mesh.CodeInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := b.spec(t, "true")
			c.change(spec)
			_, err := b.runner.Start(t.Context(), spec)
			require.ErrorIs(t, err, mesh.Errorf(c.code, ""))
		})
	}
	t.Run("our own ids", func(t *testing.T) {
		if !b.runner.Level().Uids {
			t.Skip("SKIPPED: this driver does not change ids here")
		}
		spec := b.spec(t, "true")
		spec.UID = 0
		_, err := b.runner.Start(t.Context(), spec)
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeInvalid, ""))
	})
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := b.runner.Start(ctx, b.spec(t, "true"))
		require.ErrorIs(t, err, context.Canceled)
	})
}

func testAccount(t *testing.T, b *bench) {
	o := b.run(t, "sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done")
	if b.runner.Level().Limits == limitsRlimit && b.runner.Level().Driver == IsolationBwrap {
		require.Zero(t, o.User)
		return
	}
	require.Positive(t, o.User)
	require.Positive(t, o.MaxRSS)
}

// TestOrdinaryUser runs what matters most once more without privileges.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		requireOrSkip(t, "root", "the suite itself runs as an ordinary user already")
	}
	dir, err := os.MkdirTemp("", "wsmesh-ordinary-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	const uid = 64242
	require.NoError(t, os.Chown(dir, uid, uid))
	// The binary lies where another user may not go; its open file does not.
	cmd := exec.Command("/proc/self/exe", "-test.run", "^Test(Conformance|ParentDiesStarting|AbuseShell|Network|Programs)$", "-test.count=1")
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + dir, "PATH=/usr/bin:/bin", "WSMESH_REQUIRE=" + os.Getenv("WSMESH_REQUIRE")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
	}{
		{"isolation", Config{Isolation: "magic"}},
		{"state id", Config{StateID: "a.b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(t.Context(), c.cfg)
			require.ErrorIs(t, err, mesh.Errorf(mesh.CodeInvalid, ""))
		})
	}
	t.Run("no bubblewrap", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := New(t.Context(), Config{Isolation: IsolationBwrap})
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeUnsupported, ""))
		require.ErrorContains(t, err, "apt-get install bubblewrap")

		r, err := New(t.Context(), Config{})
		require.NoError(t, err)
		defer r.Close()
		require.Empty(t, r.Level().Driver)
		_, err = r.Start(t.Context(), &Spec{})
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeUnsupported, ""))
		require.ErrorContains(t, err, "apt-get install bubblewrap")
	})
	t.Run("bubblewrap that fails", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
		script := "#!/bin/sh\n[ \"$1\" = --help ] || { echo 'bwrap: No permissions to create new namespace' >&2; exit 1; }\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, "bwrap"), []byte(script), 0o755))
		t.Setenv("PATH", dir+":/usr/bin:/bin")
		_, err := New(t.Context(), Config{Isolation: IsolationBwrap})
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeUnsupported, ""))
		require.ErrorContains(t, err, "No permissions to create new namespace")
	})
}

func TestTenantIDs(t *testing.T) {
	uid, gid := TenantIDs(5)
	require.Equal(t, DefaultTenantBase+5, uid)
	require.Equal(t, uid, gid)
}
