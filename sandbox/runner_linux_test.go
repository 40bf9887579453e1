package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestConformance(t *testing.T) {
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			require.True(t, strings.HasPrefix(isolation, b.runner.Level().Driver))
			t.Run("status", func(t *testing.T) { testStatus(t, b) })
			t.Run("streams", func(t *testing.T) { testStreams(t, b) })
			t.Run("environment", func(t *testing.T) { testEnvironment(t, b) })
			t.Run("directories", func(t *testing.T) { testDirectories(t, b) })
			t.Run("arguments", func(t *testing.T) { testArguments(t, b) })
			t.Run("descriptors", func(t *testing.T) { testDescriptors(t, b) })
			t.Run("tree ends", func(t *testing.T) { testTreeEnds(t, b) })
			t.Run("close while starting", func(t *testing.T) { testClosing(t, b) })
			t.Run("stops", func(t *testing.T) { testStops(t, b) })
			t.Run("signals", func(t *testing.T) { testSignals(t, b) })
			t.Run("at once", func(t *testing.T) { testAtOnce(t, b) })
			t.Run("refusals", func(t *testing.T) { testRefusals(t, b) })
			t.Run("holding", func(t *testing.T) { testHolding(t, b) })
			t.Run("file limits", func(t *testing.T) { testFileLimits(t, b) })
			t.Run("account", func(t *testing.T) { testAccount(t, b) })
			t.Run("niceness", func(t *testing.T) { testNiceness(t, b) })
		})
	}
}

// A command gives way to the node, which is in a hurry when many are busy.
func testNiceness(t *testing.T, b *bench) {
	o := b.run(t, "cut", "-d ", "-f19", "/proc/self/stat")
	require.Equal(t, strconv.Itoa(commandNice)+"\n", o.stdout)
}

func testStatus(t *testing.T, b *bench) {
	exact := b.runner.Level().Driver != IsolationBwrap || b.runner.Level().Warm
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
			if exact {
				require.Equal(t, c.signal, o.Signal)
			} else {
				require.Empty(t, o.Signal, "a cold sandbox cannot tell a signal from a status")
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
		{name: "a bare name takes away", env: []string{"X=1", "LANG", "X", "NONE"}, want: defaults[:2]},
		{name: "set again", env: []string{"X=1", "X", "LANG", "LANG=C", "X=2"}, want: append([]string{"LANG=C", "X=2"}, defaults[:2]...)},
		{name: "no HOME", env: []string{"HOME"}, want: defaults[1:]},
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
	cmd := exec.Command("/proc/self/exe", "-test.run", "^Test(Abuse|Conformance|Limits|ParentDiesStarting|Network)$", "-test.count=1")
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

// testHolding looks at a command that is ready: nothing of it runs before Begin.
func testHolding(t *testing.T, b *bench) {
	proof := filepath.Join(b.dir, "begun")
	hold := func() *Held {
		h, err := b.runner.Prepare(t.Context(), b.spec(t, "touch", "begun"))
		require.NoError(t, err)
		require.NoFileExists(t, proof)
		return h
	}
	hold().Drop()
	require.NoFileExists(t, proof)
	p, err := hold().Begin()
	require.NoError(t, err)
	require.Equal(t, 0, p.Wait().Code)
	require.FileExists(t, proof)
	require.NoError(t, os.Remove(proof))
	if w := b.runner.warm; w == nil || w.most < 0 {
		return // its sandbox is its own
	}
	t.Run("its sandbox ends", func(t *testing.T) {
		h := hold()
		box := b.box(t)
		box.fail(errRetired)
		<-box.gone
		p, err := h.Begin()
		require.NoError(t, err)
		require.Equal(t, 0, p.Wait().Code)
		require.FileExists(t, proof)
	})
}
