package sandbox

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/sandbox/inside"
)

// kept is a script that tells by a file in /tmp whether the sandbox is the one
// of the last time.
const kept = "cat /tmp/kept 2>/dev/null; echo kept > /tmp/kept"

func (b *bench) sameSandbox(t *testing.T) bool {
	t.Helper()
	return b.run(t, "sh", "-c", kept).stdout == "kept\n"
}

func (b *bench) box(t *testing.T) *box {
	t.Helper()
	w := b.runner.warm
	spec, err := b.runner.complete(b.spec(t, "true"))
	require.NoError(t, err)
	key, err := keyOf(spec)
	require.NoError(t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, box := range w.boxes {
		key.mount = k.mount
		if k == key {
			return box
		}
	}
	require.Fail(t, "no sandbox is kept")
	return nil
}

// A check keeps no sandbox: a node does one again and again, and they would take the
// places of tenants'.
func TestCheckKeepsNothing(t *testing.T) {
	b := newBwrapBench(t)
	require.False(t, b.sameSandbox(t))
	for range 3 {
		require.NoError(t, b.runner.Check(t.Context()))
	}
	n, _ := b.runner.WarmUsage()
	require.Equal(t, 1, n)
	require.True(t, b.sameSandbox(t), "the one of a command stays")
}

func TestWarmKeeps(t *testing.T) {
	b := newBwrapBench(t)
	require.False(t, b.sameSandbox(t))
	require.True(t, b.sameSandbox(t))
	require.Equal(t, "1\n", b.run(t, "sh", "-c", "echo $PPID").stdout)
	t.Run("another directory", func(t *testing.T) {
		other := (&bench{runner: b.runner, dir: t.TempDir()}).owned(t)
		require.False(t, other.sameSandbox(t))
	})
	t.Run("another scope", func(t *testing.T) {
		spec := b.spec(t, "sh", "-c", kept)
		spec.Mount = "/workspace/users/u1"
		require.Empty(t, b.runSpec(t, spec).stdout)
	})
	t.Run("another network", func(t *testing.T) {
		spec := b.spec(t, "sh", "-c", kept)
		spec.Net = NetFull
		require.Empty(t, b.runSpec(t, spec).stdout)
	})
	t.Run("the directory made again", func(t *testing.T) {
		require.NoError(t, os.Rename(b.dir, b.dir+"-old"))
		require.NoError(t, os.Mkdir(b.dir, 0o700))
		again := *b
		require.False(t, again.owned(t).sameSandbox(t))
	})
}

// TestWarmProcessOne tries from a command to reach process 1, which has its own
// user id.
func TestWarmProcessOne(t *testing.T) {
	b := newBwrapBench(t)
	require.False(t, b.sameSandbox(t))
	for name, script := range map[string]string{
		"environment":   "cat /proc/1/environ",
		"memory map":    "cat /proc/1/maps",
		"read memory":   "head -c1 /proc/1/mem",
		"write memory":  "echo x > /proc/1/mem",
		"descriptors":   "ls /proc/1/fd",
		"program":       "readlink -v /proc/1/exe",
		"out-of-memory": "echo 1000 > /proc/1/oom_score_adj",
		"root":          "ls /proc/1/root/",
		"own threads":   "cat /proc/1/task/*/environ",
	} {
		t.Run(name, func(t *testing.T) {
			o := b.run(t, "sh", "-c", script)
			require.NotEqual(t, 0, o.Code)
			require.Contains(t, o.stderr, "ermission denied")
			require.Empty(t, o.stdout)
		})
	}
	t.Run("signals", func(t *testing.T) {
		o := b.run(t, "bash", "-c", "for s in $(seq 64); do kill -$s 1; for p in /proc/1/task/*; do kill -$s ${p##*/}; done; done; kill -9 -1; exit 0")
		if b.runner.Level().Landlock >= 6 {
			require.Contains(t, o.stderr, "Operation not permitted")
		}
	})
	// Landlock stands before what follows, but only on kernels that have it.
	leader := b.box(t).process.leader
	t.Run("not dumpable", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED: the owner of its files says so only where it is not ourselves")
		}
		info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", leader))
		require.NoError(t, err)
		require.Zero(t, info.Sys().(*syscall.Stat_t).Uid)
	})
	t.Run("signals have no handler", func(t *testing.T) {
		for sig := unix.Signal(1); sig <= 64; sig++ {
			if sig != unix.SIGKILL && sig != unix.SIGSTOP {
				require.NoError(t, unix.Kill(leader, sig))
			}
		}
	})
	require.True(t, b.sameSandbox(t), "process 1 did not survive")
}

// TestOwner: what a command makes is the tenant's on the host.
func TestOwner(t *testing.T) {
	requireRoot(t, "an ordinary user has one id for all")
	for _, isolation := range []string{IsolationBwrap, coldBwrap, IsolationSoftware} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			require.Equal(t, 0, b.run(t, "touch", "mine").Code)
			info, err := os.Stat(filepath.Join(b.dir, "mine"))
			require.NoError(t, err)
			st := info.Sys().(*syscall.Stat_t)
			require.Equal(t, []int{b.uid, b.gid}, []int{int(st.Uid), int(st.Gid)})
		})
	}
}

// TestWarmSiblings tries from one command to reach another of the same sandbox.
func TestWarmSiblings(t *testing.T) {
	b := newBwrapBench(t)
	if b.runner.Level().Limits == limitsRlimit {
		requireOrSkip(t, "root", "without cgroups commands do not share a sandbox at a time")
	}
	if b.runner.Level().Landlock < 6 {
		requireOrSkip(t, "landlock", "this kernel's Landlock does not tell signals apart")
	}
	spec := b.spec(t, "sh", "-c", "echo $$; exec sleep "+marker)
	spec.Env = []string{"SECRET=hunter2"}
	busy := b.start(t, spec)
	busy.out.waitFor(t, "\n")
	at := "/proc/" + strings.TrimSpace(busy.out.String())
	for name, script := range map[string]string{
		"environment":  "cat " + at + "/environ",
		"read memory":  "head -c1 " + at + "/mem",
		"write memory": "echo x > " + at + "/mem",
		"descriptors":  "readlink -v " + at + "/fd/1",
		"its output":   "echo forged > " + at + "/fd/1",
		"working tree": "ls " + at + "/cwd/",
	} {
		t.Run(name, func(t *testing.T) {
			o := b.run(t, "sh", "-c", script)
			require.NotEqual(t, 0, o.Code)
			require.Contains(t, o.stderr, "ermission denied")
		})
	}
	t.Run("signals", func(t *testing.T) {
		o := b.run(t, "sh", "-c", "kill -9 "+filepath.Base(at)+"; kill -9 -1; exit 3")
		require.Contains(t, o.stderr, "Operation not permitted")
	})
	require.NoError(t, busy.Signal(syscall.SIGTERM))
	o := busy.finish(t)
	require.Equal(t, "SIGTERM", o.Signal)
	require.NotContains(t, o.stdout, "forged")
}

// TestWarmLandlock writes where only the second layer forbids it.
func TestWarmLandlock(t *testing.T) {
	b := newBwrapBench(t)
	if b.runner.Level().Landlock == 0 {
		requireOrSkip(t, "landlock", "this kernel has no Landlock")
	}
	o := b.run(t, "sh", "-c", "mkdir -p a b && echo x > a/x && mv a/x b/y && ln b/y a/z && echo y >> a/z && cat b/y && rm -r a b && echo t > /tmp/t && mv /tmp/t /tmp/u && echo > /dev/null")
	require.Equal(t, "x\ny\n", o.stdout, o.stderr)
	require.Equal(t, 0, o.Code)
}

func TestWarmEndsWithProcessOne(t *testing.T) {
	b := newBwrapBench(t)
	busy := b.start(t, b.spec(t, "sh", "-c", kept+"; echo up; sleep "+marker))
	busy.out.waitFor(t, "up")
	require.NoError(t, unix.Kill(b.box(t).process.leader, unix.SIGKILL))
	o := busy.finish(t)
	require.ErrorContains(t, o.Err, "outcome is unknown")
	require.Empty(t, marked(marker))
	require.False(t, b.sameSandbox(t))
	require.True(t, b.sameSandbox(t))
}

func TestWarmIsRenewed(t *testing.T) {
	b := newBwrapBench(t)
	t.Run("after a scratch directory was filled", func(t *testing.T) {
		require.False(t, b.sameSandbox(t))
		b.run(t, "fallocate", "-l", strconv.Itoa(DefaultWarmScratch+(1<<20)), "/tmp/big")
		require.False(t, b.sameSandbox(t))
	})
	t.Run("after a command was out of memory", func(t *testing.T) {
		if b.runner.Level().Limits == limitsRlimit {
			requireOrSkip(t, "root", "limits of a whole tree need cgroups")
		}
		spec := b.spec(t, "tail", "/dev/zero")
		spec.MemoryBytes = 32 << 20
		require.Equal(t, LimitMemory, b.runSpec(t, spec).Limit)
		require.False(t, b.sameSandbox(t))
	})
	t.Run("after a long time", func(t *testing.T) {
		require.True(t, b.sameSandbox(t))
		b.runner.warm.tend(time.Now().Add(DefaultWarmIdle + time.Minute))
		require.False(t, b.sameSandbox(t))
	})
}

func TestWarmBound(t *testing.T) {
	b := newBwrapBench(t)
	b.runner.warm.most = 2
	var all []*bench
	for range 4 {
		other := (&bench{runner: b.runner, dir: t.TempDir()}).owned(t)
		require.False(t, other.sameSandbox(t))
		all = append(all, other)
	}
	require.Len(t, b.runner.warm.boxes, 2)
	require.True(t, all[3].sameSandbox(t))
	require.True(t, all[2].sameSandbox(t))
	var busy []*running
	for _, other := range all {
		p := other.start(t, other.spec(t, "sh", "-c", "echo up; sleep "+marker))
		p.out.waitFor(t, "up")
		busy = append(busy, p)
	}
	require.Len(t, b.runner.warm.boxes, 2)
	for _, p := range busy {
		p.Kill()
		require.Equal(t, 137, p.finish(t).Code)
	}
}

// TestWarmDescriptors starts many at once: none may see another's pipes.
func TestWarmDescriptors(t *testing.T) {
	b := newBwrapBench(t)
	var group sync.WaitGroup
	for range 8 {
		for range 8 {
			p := b.start(t, b.spec(t, "sh", "-c", "cd /proc/$$/fd; echo *"))
			group.Go(func() {
				<-p.out.done
				p.Wait()
				for _, name := range strings.Fields(p.out.String()) {
					if !strings.Contains("0 1 2 3", name) {
						t.Errorf("a command has descriptors %s", p.out.String())
					}
				}
			})
		}
		group.Wait()
	}
}

// TestWarmStarves stops a node: nobody is left to end what it runs.
func TestWarmStarves(t *testing.T) {
	b := newBwrapBench(t)
	order := &nodeOrder{
		isolation: IsolationBwrap, state: stateID(), uid: b.uid, dir: b.dir,
		text: marker + strconv.Itoa(int(numbers.Add(1))),
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parentEnv+"="+order.String())
	out, write := collect(t)
	cmd.Stdout, cmd.Stderr = write, write
	require.NoError(t, cmd.Start())
	require.NoError(t, write.Close())
	out.waitFor(t, "up")
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	require.NotEmpty(t, marked(order.text))
	require.Eventually(t, func() bool { return len(marked(order.text)) == 0 }, 4*inside.DefaultStarve, 50*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	<-out.done
	require.NoError(t, out.read.Close())
	heir, err := New(t.Context(), Config{Isolation: IsolationNone, StateID: order.state})
	require.NoError(t, err)
	require.NoError(t, heir.Close())
}

// TestWarmOutOfTurn gives a sandbox words of a process 1 that the tenant has
// taken over.
func TestWarmOutOfTurn(t *testing.T) {
	say := func(kind string, id uint64) string { return string((&inside.Reply{Kind: kind, ID: id}).Encode()) }
	for _, c := range []struct {
		name string
		said []string
		good int // how many of them are fine
	}{
		{"in turn", []string{say("ready", 7), say("ended", 7)}, 2},
		{"never ready", []string{say("ended", 7)}, 1},
		{"refused", []string{say("refused", 7), say("ready", 7)}, 1},
		{"of no command", []string{say("ended", 8)}, 0},
		{"of none", []string{say("ended", 0)}, 0},
		{"ready twice", []string{say("ready", 7), say("ready", 7)}, 1},
		{"ended twice", []string{say("ended", 7), say("ended", 7)}, 1},
		{"hello again", []string{say("hello", 7)}, 0},
		{"nonsense", []string{"x"}, 0},
		{"negative", []string{strings.Replace(say("ended", 7), "\x007\x00", "\x00-7\x00", 1)}, 0},
		{"long", []string{say("ended", 7) + strings.Repeat("0", 300)}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := &warmRun{id: 7, ready: make(chan *inside.Reply, 1), over: make(chan *inside.Reply, 1)}
			b := &box{commands: map[uint64]*warmRun{7: run}}
			for i, text := range c.said {
				err := b.hear([]byte(text))
				require.Equal(t, i < c.good, err == nil, fmt.Sprintf("%q: %v", text, err))
			}
		})
	}
}

// TestWarmSmallAgent runs commands below the program that make build embeds.
func TestWarmSmallAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	build := exec.Command("go", "build", "-o", path, "./agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	text, err := build.CombinedOutput()
	require.NoError(t, err, "%s", text)
	before := embedded
	defer func() { embedded = before }()
	embedded, err = os.ReadFile(path)
	require.NoError(t, err)
	b := newBwrapBench(t)
	require.False(t, b.sameSandbox(t))
	require.True(t, b.sameSandbox(t))
	require.Equal(t, "Permission denied\n", b.run(t, "sh", "-c", "cat /proc/1/maps 2>&1 | sed 's/.*: //'").stdout)
}

// TestWarmUnified keeps commands of a warm sandbox apart by v2 cgroups; hosts whose
// v2 has no controllers show that as well.
func TestWarmUnified(t *testing.T) {
	requireRoot(t, "only root makes cgroups")
	host, err := readCgroups()
	require.NoError(t, err)
	home, err := host.own("")
	if err != nil {
		requireOrSkip(t, "cgroup2", err.Error())
	}
	id := stateID()
	r, err := New(t.Context(), Config{StateID: id, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), limiter: &limiter{
		kind: limitsCgroup2, prefix: groupPrefix + id + ".", homes: map[string]string{"": home}, bare: true,
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	require.True(t, r.Level().Warm, r.Level().Reason)
	b := (&bench{runner: r, dir: t.TempDir()}).owned(t)
	require.False(t, b.sameSandbox(t))
	t.Run("tree ends", func(t *testing.T) { testTreeEnds(t, b) })
	t.Run("stops", func(t *testing.T) { testStops(t, b) })
	t.Run("signals", func(t *testing.T) { testSignals(t, b) })
	t.Run("at once", func(t *testing.T) { testAtOnce(t, b) })
	t.Run("holding", func(t *testing.T) { testHolding(t, b) })
	t.Run("its own cgroup", func(t *testing.T) {
		var seen []string
		for range 2 {
			p := b.start(t, b.spec(t, "sleep", marker))
			require.Eventually(t, func() bool { return len(marked("sleep\x00"+marker)) > 0 }, 5*time.Second, time.Millisecond)
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", marked("sleep\x00" + marker)[0]))
			require.NoError(t, err)
			require.Contains(t, string(text), groupPrefix+id)
			seen = append(seen, string(text))
			require.Eventually(t, func() bool { // it is in there for the moment of the fork
				agent, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.box(t).process.leader))
				return err == nil && string(agent) != string(text)
			}, 5*time.Second, time.Millisecond)
			p.Kill()
			p.finish(t)
		}
		require.NotEqual(t, seen[0], seen[1])
	})
}

// TestWarmLeaksNothing runs many commands, some of which cannot be run, and counts
// what they leave in us and in process 1. WSMESH_LONG=1 makes it 10,000.
func TestWarmLeaksNothing(t *testing.T) {
	requireRoot(t, "only root sees the descriptors of process 1")
	b := newBwrapBench(t)
	entries := func(dir string) int {
		list, err := os.ReadDir(dir)
		require.NoError(t, err)
		return len(list)
	}
	var agent string
	count := func() []int {
		return []int{
			entries("/proc/self/fd"), entries(agent + "fd"), entries(agent + "task"),
			len(groupsOf(t, stateBase())), runtime.NumGoroutine(),
		}
	}
	root, err := os.Open(b.dir)
	require.NoError(t, err)
	defer root.Close()
	many := func(n int) {
		var group sync.WaitGroup
		for i := range 4 {
			group.Go(func() {
				for j := range n / 4 {
					argv := [][]string{{"true"}, {"sh", "-c", "sleep 0.001 & exit 3"}, {"no-such-program"}}[(i+j)%3]
					h, err := b.runner.Prepare(t.Context(), &Spec{Root: root, Mount: "/workspace", Argv: argv, UID: b.uid, GID: b.gid})
					switch {
					case err != nil:
						t.Error(err)
					case j%16 == 15:
						h.Drop()
					default:
						if p, err := h.Begin(); err != nil || p.Wait().Err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		group.Wait()
	}
	n := 400
	if os.Getenv("WSMESH_LONG") == "1" {
		n = 10_000
	}
	many(100)
	agent = fmt.Sprintf("/proc/%d/", b.box(t).process.leader)
	before := count()
	many(n)
	var after []int
	require.Eventually(t, func() bool {
		after = count()
		for i := range after {
			if after[i] > before[i]+12 { // threads and cgroups that are kept, or are on their way out
				return false
			}
		}
		return true
	}, 10*time.Second, 20*time.Millisecond, "%v, then %v", before, &after)
	t.Logf("descriptors, descriptors and threads of process 1, cgroups, goroutines: %v, then %v", before, after)
}
