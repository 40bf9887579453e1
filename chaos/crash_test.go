package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// patience bounds what one round waits for.
const patience = 90 * time.Second

// rounds is how often an experiment is done: n with WSMESH_LONG=1, else a tenth.
func rounds(n int) int {
	if os.Getenv("WSMESH_LONG") == "1" {
		return n
	}
	return n / 10
}

// seed is WSMESH_SEED, or another one each time, which is printed.
func seed(t *testing.T) uint64 {
	n, err := strconv.ParseUint(os.Getenv("WSMESH_SEED"), 10, 64)
	if err != nil {
		n = rand.Uint64()
	}
	t.Logf("again with WSMESH_SEED=%d", n)
	return n
}

// programs are those that were built, by their tags, and the directory that they are
// in, which TestMain makes and removes.
var programs struct {
	sync.Mutex
	dir   string
	built map[string]string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "wsmesh-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs.dir = dir
	code := m.Run()
	os.RemoveAll(dir) //nolint:errcheck // a temporary one
	os.Exit(code)
}

// program builds the program under test as people get it, but for the tags. Tests
// share it.
func program(t *testing.T, tags string) string {
	t.Helper()
	p := &programs
	p.Lock()
	defer p.Unlock()
	if at := p.built[tags]; at != "" {
		return at
	}
	at := filepath.Join(p.dir, "wsmesh-"+tags)
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", tags, "-o", at, "github.com/wsmesh/wsmesh/cmd/wsmesh")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	if p.built == nil {
		p.built = map[string]string{}
	}
	p.built[tags] = at
	return at
}

// TestCrash kills a one box at random instants while eight clients write. What was
// acknowledged is there after each.
func TestCrash(t *testing.T) {
	all := rand.New(rand.NewPCG(seed(t), 0))
	box := &Box{Program: program(t, ""), Data: t.TempDir()}
	t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
	require.NoError(t, box.Start(t.Context()))
	c, err := box.Dial(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // the box is gone
	var before []*Workload
	var ended []map[string]string
	for round := range rounds(60) {
		w := &Workload{Workspace: c.Workspace("main"), Dir: fmt.Sprintf("r%d", round), Seed: all.Uint64(), Writers: 8, Commands: canIsolate()}
		calls := crashOnce(t, box, w, time.Duration(all.IntN(400))*time.Millisecond)
		final := finalOf(t, w)
		verdict(t, box.Log, Judge(calls, final))
		before, ended = append(before, w), append(ended, final)
	}
	require.NoError(t, box.Kill())
	require.NoError(t, box.LoseFiles())
	require.NoError(t, box.Start(t.Context()))
	for i, w := range before {
		require.Equal(t, ended[i], finalOf(t, w), "round %d after the loss of the disk", i)
	}
}

// steps are where the program is told to die, see package node: after each durable
// step of a change and of a checkpoint.
var steps = []struct {
	name   string
	most   int // times that it is let go by
	commit int // changes after which a commit is asked for; 0: none
}{
	{"packs stored", 4, 0},
	{"record stored", 200, 0},
	{"disk changed", 200, 0},
	{"checkpoint packs stored", 1, acknowledged},
	{"checkpoint commit stored", 1, acknowledged},
	{"checkpoint recorded", 1, acknowledged},
	{"checkpoint purged", 1, acknowledged},
}

// TestCrashAtEachStep lets a one box die right after each durable step, loses the
// node's disk every other time, and finds everything that was acknowledged.
func TestCrashAtEachStep(t *testing.T) {
	all := rand.New(rand.NewPCG(seed(t), 0))
	at := program(t, "crashpoints")
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			box := &Box{Program: at, Data: t.TempDir()}
			t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
			for round := range rounds(10) {
				box.Env = []string{fmt.Sprintf("WSMESH_CRASH=%s:%d", step.name, 1+all.IntN(step.most))}
				require.NoError(t, box.Start(t.Context()))
				c, err := box.Dial(t.Context())
				require.NoError(t, err)
				w := &Workload{Workspace: c.Workspace("main"), Dir: fmt.Sprintf("r%d", round), Seed: all.Uint64(), Writers: 8}
				calls := dieOnce(t, box, w, step.commit, all.IntN(2) == 0)
				verdict(t, box.Log, Judge(calls, finalOf(t, w)))
				require.NoError(t, c.Close())
				require.NoError(t, box.Stop())
			}
		})
	}
}

// dieOnce lets a workload run until the box dies by itself, starts it again, maybe
// without its disk, and returns the calls. After so many changes, if any, it asks for a
// commit, which would else be made after a thousand.
func dieOnce(t *testing.T, box *Box, w *Workload, commit int, lose bool) []Call {
	return during(t, w, commit, 0, func(func()) {
		limit, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var asked errgroup.Group
		if commit > 0 {
			asked.Go(func() error {
				_, err := w.Workspace.Commit(limit)
				return err
			})
		}
		require.True(t, box.Gone(limit), "the program has never come by there")
		if lose {
			require.NoError(t, box.LoseFiles())
		}
		box.Env = nil
		require.NoError(t, box.Start(t.Context()), box.Log())
		require.NoError(t, asked.Wait())
	})
}

// crashOnce lets a workload run, kills the box in the middle and starts it again,
// and returns the calls.
func crashOnce(t *testing.T, box *Box, w *Workload, after time.Duration) []Call {
	return during(t, w, acknowledged, after, func(func()) {
		require.NoError(t, box.Kill())
		require.NoError(t, box.Start(t.Context()), box.Log())
	})
}

// acknowledged is how many changes are before a fault.
const acknowledged = 200

// during lets a workload run and, when so many changes were acknowledged and then a
// while later, does something to the mesh, from which the work must go on. It returns
// the calls. The fault may wait, too, until the work goes on.
func during(t *testing.T, w *Workload, changes int, after time.Duration, fault func(goesOn func())) []Call {
	var h History
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, &h)
	}()
	reach := func(n int) {
		require.Eventually(t, func() bool { return h.Changes() >= n }, patience, time.Millisecond, "the work does not go on")
	}
	goesOn := func() { reach(h.Changes() + 20) }
	reach(changes)
	time.Sleep(after) // the instant is the experiment
	fault(goesOn)
	goesOn()
	stop()
	<-done
	calls := h.Calls()
	counts := map[string]int{}
	for _, c := range calls {
		counts[fmt.Sprint(c.Outcome, " ", mesh.CodeOf(c.Err))]++
	}
	t.Logf("%s: %v", w.Dir, counts)
	return calls
}

func finalOf(t *testing.T, w *Workload) map[string]string {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	final, err := w.Final(ctx)
	require.NoError(t, err)
	return final
}

func verdict(t *testing.T, log func() string, findings []Finding) {
	t.Helper()
	for _, f := range findings {
		t.Error(f)
	}
	if len(findings) > 0 {
		t.Fatal(log())
	}
}

// canIsolate reports whether commands can run here.
func canIsolate() bool {
	return exec.Command("bwrap", "--ro-bind", "/", "/", "--unshare-all", "true").Run() == nil
}
