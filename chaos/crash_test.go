package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

// program builds the program under test as people get it, once for all.
func program(t *testing.T) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "wsmesh")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", at, "github.com/wsmesh/wsmesh/cmd/wsmesh")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return at
}

// TestCrash kills a one box at random instants while eight clients write. What was
// acknowledged is there after each.
func TestCrash(t *testing.T) {
	all := rand.New(rand.NewPCG(seed(t), 0))
	box := &Box{Program: program(t), Data: t.TempDir()}
	t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
	require.NoError(t, box.Start(t.Context()))
	c, err := box.Dial(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // the box is gone
	var before []*Workload
	var ended []map[string]string
	for round := range rounds(100) {
		w := &Workload{Workspace: c.Workspace("main"), Dir: fmt.Sprintf("r%d", round), Seed: all.Uint64(), Writers: 8, Commands: canIsolate()}
		calls := crashOnce(t, box, w, time.Duration(all.IntN(400))*time.Millisecond)
		final := finalOf(t, w)
		verdict(t, box, Judge(calls, final))
		before, ended = append(before, w), append(ended, final)
	}
	for i, w := range before { // and nothing of an earlier round was lost in a later one
		require.Equal(t, ended[i], finalOf(t, w), "round %d in the end", i)
	}
}

// crashOnce lets a workload run, kills the box in the middle and starts it again,
// and returns the calls.
func crashOnce(t *testing.T, box *Box, w *Workload, after time.Duration) []Call {
	var h History
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, &h)
	}()
	const acknowledged = 200
	require.Eventually(t, func() bool { return h.Changes() >= acknowledged }, patience, time.Millisecond)
	time.Sleep(after) // the instant is the experiment
	require.NoError(t, box.Kill())
	require.NoError(t, box.Start(t.Context()), box.Log())
	goesOn := h.Changes() + 20
	require.Eventually(t, func() bool { return h.Changes() >= goesOn }, patience, time.Millisecond)
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

func verdict(t *testing.T, box *Box, findings []Finding) {
	t.Helper()
	for _, f := range findings {
		t.Error(f)
	}
	if len(findings) > 0 {
		t.Fatal(box.Log())
	}
}

// canIsolate reports whether commands can run here.
func canIsolate() bool {
	return exec.Command("bwrap", "--ro-bind", "/", "/", "--unshare-all", "true").Run() == nil
}
