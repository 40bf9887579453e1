package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// baseFiles is how many files the workspace has that changes hands.
const baseFiles = 1000

// TestFailover kills the owner of a workspace, one of three nodes, at random instants
// while eight clients write and four run commands, beside another tenant whose
// workspace has the same name. Everything that was acknowledged is there, no command
// began twice, and nobody has seen the other tenant's files. How long it took is
// printed.
func TestFailover(t *testing.T) {
	if !canIsolate() {
		t.Skip("commands cannot be isolated here")
	}
	all := rand.New(rand.NewPCG(seed(t), 0))
	c := startCluster(t, all, 3)
	other := c.secondTenant(t)
	fill(t, c.workspace(), baseFiles)
	runs := &runs{ws: c.workspace(), marks: map[string]string{}}
	var first, stalls []time.Duration
	kills := 10
	if os.Getenv("WSMESH_LONG") == "1" {
		kills = 100
	}
	for round := range kills {
		f := c.failover(t, fmt.Sprintf("r%d", round), runs, other)
		first, stalls = append(first, f.first), append(stalls, f.stall)
		runs.judge(t, c)
	}
	require.Less(t, slices.Max(first), 15*time.Second, "a killed owner was waited for like a frozen one")
	t.Logf("%d kills; first success p50 %s, max %s; longest call p50 %s, max %s; %d commands; %d requests were sent again",
		len(first), middle(first), slices.Max(first), middle(stalls), slices.Max(stalls), runs.ended.Load(), c.client.Retries())
}

func middle(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// secondTenant is the workspace of the same name of another tenant.
func (c *cluster) secondTenant(t *testing.T) *client.Workspace {
	t.Helper()
	out, err := c.Run(t.Context(), "tenant", "create", "other")
	require.NoError(t, err, out)
	token, err := c.Run(t.Context(), "token", "issue", "--tenant", "other")
	require.NoError(t, err, token)
	cfg, err := client.ReadFile(filepath.Join(c.Dir, "client.json"))
	require.NoError(t, err)
	cfg.Token = strings.TrimSpace(token)
	other, err := client.Dial(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { other.Close() }) //nolint:errcheck // the mesh is going too
	return other.Workspace(string(clusterWorkspace))
}

// fill writes so many small files.
func fill(t *testing.T, ws *client.Workspace, files int) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	for i := range files {
		g.Go(func() error {
			return ws.WriteFile(ctx, fmt.Sprintf("base/d%d/f%d", i%20, i), fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", 500)), 0o644)
		})
	}
	require.NoError(t, g.Wait())
}

// took is how long one failover took.
type took struct {
	first time.Duration // from the kill to the answer to a change that was asked for then
	stall time.Duration // the longest call around it
}

// failover lets both tenants work, kills who owns the first one's workspace, waits
// until the work goes on, and starts it again, at times without its disk.
func (c *cluster) failover(t *testing.T, name string, runs *runs, other *client.Workspace) (took took) {
	work := []*Workload{
		{Workspace: c.workspace(), Dir: name, Seed: c.rand.Uint64(), Writers: 8, Commands: true},
		{Workspace: other, Dir: name, Seed: c.rand.Uint64(), Writers: 2},
	}
	require.NoError(t, c.workspace().MkdirAll(t.Context(), "marks", 0o777)) // before the commands that need it
	var theirs History
	ctx, stop := context.WithCancel(t.Context())
	var beside sync.WaitGroup
	beside.Go(func() { work[1].Run(ctx, &theirs) })
	for range 4 {
		beside.Go(func() { runs.run(ctx) })
	}
	before, lose := runs.ended.Load(), c.rand.IntN(3) == 0
	var killed time.Duration
	calls := during(t, work[0], acknowledged, 0, func(goesOn func()) {
		owner := c.owner(t)
		require.Eventually(t, func() bool { return runs.ended.Load() >= before+20 }, patience, time.Millisecond)
		time.Sleep(time.Duration(c.rand.IntN(300)) * time.Millisecond) // the instant is the experiment
		began := time.Now()
		owner.Kill()
		if err := c.workspace().WriteFile(t.Context(), name+"-first", []byte(name), 0o644); err != nil {
			require.NoError(t, err, c.Log())
		}
		took.first = time.Since(began)
		goesOn()
		runs.look(t, c)
		if lose {
			require.NoError(t, os.RemoveAll(owner.Data))
		}
		require.NoError(t, owner.Start(t.Context()))
		killed = time.Since(began)
	})
	stop()
	beside.Wait()
	longest := slices.MaxFunc(calls, func(a, b Call) int { return cmp.Compare(a.End-a.Start, b.End-b.Start) })
	took.stall = longest.End - longest.Start
	t.Logf("%s: first success after %s, longest call %s (%s), all back after %s", name, ms(took.first), ms(took.stall), longest.Kind, ms(killed))
	content, err := c.workspace().ReadFile(t.Context(), name+"-first")
	require.NoError(t, err)
	require.Equal(t, name, string(content))
	verdict(t, c.Log, Judge(calls, finalOf(t, work[0])))
	verdict(t, c.Log, Judge(theirs.Calls(), finalOf(t, work[1])))
	for _, w := range work {
		require.NoError(t, w.Workspace.RemoveAll(t.Context(), name))
	}
	require.NoError(t, c.workspace().Remove(t.Context(), name+"-first"))
	return took
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// runs is commands, each of which leaves a mark of its own whenever it starts.
type runs struct {
	ws    *client.Workspace
	ended atomic.Int64

	mu    sync.Mutex
	sure  []string          // those whose exit was reported
	marks map[string]string // of a start, its name in the directory of marks: the command
}

// run runs commands until ctx ends. What is not known to have started is asked for
// again.
func (r *runs) run(ctx context.Context) {
	for ctx.Err() == nil {
		id := string(mesh.NewExecID())
		for {
			cmd := r.ws.Command(context.WithoutCancel(ctx), "sh", "-c", `mktemp "marks/$0.XXXXXXXX" && sleep 0.02`, id)
			cmd.ID = id
			err := cmd.Run()
			if cmd.Final() == nil && mesh.CodeOf(err) == mesh.CodeLost {
				continue // whether it was claimed is not known
			}
			if err == nil {
				r.mu.Lock()
				r.sure = append(r.sure, id)
				r.mu.Unlock()
				r.ended.Add(1)
			}
			break
		}
	}
}

// look notes the marks on the disks of the nodes: what a dead one's commands have left
// there, no journal may know.
func (r *runs) look(t *testing.T, c *cluster) {
	for _, n := range c.Nodes {
		dir := filepath.Join(n.Data, "workspaces", string(clusterTenant), string(clusterWorkspace), "workspace", "marks")
		entries, err := os.ReadDir(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		for _, e := range entries {
			id, _, _ := strings.Cut(e.Name(), ".")
			r.marks[e.Name()] = id
		}
	}
}

// judge says that no command started twice, and that those whose exit was reported are
// in the workspace. Their marks go: each time it has as many files.
func (r *runs) judge(t *testing.T, c *cluster) {
	there := map[string]bool{}
	for e, err := range r.ws.ReadDir(t.Context(), "marks") {
		require.NoError(t, err)
		id, _, _ := strings.Cut(string(e.Path), ".")
		there[id], r.marks[string(e.Path)] = true, id
	}
	r.look(t, c)
	starts := map[string]int{}
	for _, id := range r.marks {
		starts[id]++
		require.Equal(t, 1, starts[id], "command %s started more than once", id)
	}
	for _, id := range r.sure {
		require.True(t, there[id], "command %s has ended, and its file is not there", id)
	}
	require.NoError(t, r.ws.RemoveAll(t.Context(), "marks"))
	r.sure = nil
	clear(r.marks)
}
