package chaos

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/router"
)

// TestFleetKeepsWorking does to a mesh of three servers and two nodes what an operator
// does, and what happens to machines that are not dead, while eight clients work: none
// of them notices more than a wait.
func TestFleetKeepsWorking(t *testing.T) {
	all := rand.New(rand.NewPCG(seed(t), 0))
	c := startCluster(t, all, 2)
	work := func(name string) *Workload {
		return &Workload{Workspace: c.workspace(), Dir: name, Seed: all.Uint64(), Writers: 8, Commands: canIsolate()}
	}
	t.Run("rolling restart", func(t *testing.T) {
		w := work("restart")
		calls := during(t, w, acknowledged, 0, func(goesOn func()) {
			for _, n := range c.Nodes {
				n.Stop()
				require.NoError(t, n.Start(t.Context()))
				goesOn()
			}
		})
		noFailure(t, calls)
		verdict(t, c.Log, Judge(calls, finalOf(t, w)))
	})
	t.Run("moves", func(t *testing.T) {
		w := work("moves")
		calls := during(t, w, acknowledged, 0, func(goesOn func()) {
			for range 2 {
				for _, n := range c.Nodes {
					out, err := c.Run(t.Context(), "workspace", "move", string(clusterWorkspace), n.Name)
					require.NoError(t, err, out)
					require.Same(t, n, c.owner(t))
					goesOn()
				}
			}
		})
		noFailure(t, calls)
		verdict(t, c.Log, Judge(calls, finalOf(t, w)))
	})
	t.Run("moves of many files", func(t *testing.T) {
		if !canIsolate() {
			t.Skip("commands cannot be isolated here")
		}
		c.moveFiles(t)
	})
	t.Run("a command outlives the wish to move", func(t *testing.T) {
		if !canIsolate() {
			t.Skip("commands cannot be isolated here")
		}
		from := c.owner(t)
		to := c.Nodes[0]
		if to == from {
			to = c.Nodes[1]
		}
		cmd := c.workspace().Command(t.Context(), "sh", "-c", "echo began; sleep 2; echo ended > moved")
		require.NoError(t, cmd.Start())
		out, err := c.Run(t.Context(), "workspace", "move", string(clusterWorkspace), to.Name)
		require.NoError(t, err, out)
		require.NoError(t, cmd.Wait())
		require.Same(t, to, c.owner(t))
		content, err := c.workspace().ReadFile(t.Context(), "moved")
		require.NoError(t, err)
		require.Equal(t, "ended\n", string(content))
	})
	t.Run("a command outlives the wish to stop", func(t *testing.T) {
		if !canIsolate() {
			t.Skip("commands cannot be isolated here")
		}
		owner := c.owner(t)
		cmd := c.workspace().Command(t.Context(), "sh", "-c", "sleep 3; echo ended > stopped")
		require.NoError(t, cmd.Start())
		over := make(chan error, 1)
		go func() { over <- cmd.Wait() }() // it hears nothing, and asks for the log
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			owner.Stop()
		}()
		for ended := false; !ended; {
			_, err := c.workspace().ReadDirPage(t.Context(), mesh.ListRequest{Path: "."})
			require.NoError(t, err)
			select {
			case err := <-over:
				require.NoError(t, err)
				ended = true
			case <-time.After(50 * time.Millisecond):
			}
		}
		<-stopped
		content, err := c.workspace().ReadFile(t.Context(), "stopped")
		require.NoError(t, err)
		require.Equal(t, "ended\n", string(content))
		require.NotSame(t, owner, c.owner(t))
		require.NoError(t, owner.Start(t.Context()))
	})
	t.Run("frozen owner", func(t *testing.T) {
		w := work("frozen")
		owner := c.owner(t)
		before := len(owner.log.String())
		calls := during(t, w, acknowledged, 0, func(goesOn func()) {
			began := time.Now()
			require.NoError(t, owner.Freeze())
			defer owner.Thaw() //nolint:errcheck // thawed below
			goesOn()
			took := time.Since(began)
			t.Logf("the work went on after %s", took.Round(time.Millisecond))
			require.Less(t, took, 2*router.DefaultSilence, "the registry did not decide")
			require.NotSame(t, owner, c.owner(t))
			require.NoError(t, owner.Thaw())
			require.Eventually(t, func() bool { return strings.Contains(owner.log.String()[before:], "stepped down") }, patience, 10*time.Millisecond)
		})
		verdict(t, c.Log, Judge(calls, finalOf(t, w)))
	})
	t.Run("overruled owner", func(t *testing.T) {
		c.whole(t)
		owner := c.owner(t)
		to := c.Nodes[0]
		if to == owner {
			to = c.Nodes[1]
		}
		before := len(owner.log.String())
		require.NoError(t, c.workspace().WriteFile(t.Context(), "late", []byte("before"), 0o644))
		late := c.lateRequests(t)
		require.NoError(t, owner.Freeze())
		defer owner.Thaw() //nolint:errcheck // thawed below
		late.ask()
		out, err := c.Run(t.Context(), "workspace", "move", string(clusterWorkspace), to.Name, "--from-dead")
		require.NoError(t, err, out)
		require.NoError(t, c.workspace().WriteFile(t.Context(), "late", []byte("after"), 0o644))
		require.NoError(t, owner.Thaw())
		require.Eventually(t, func() bool { return strings.Contains(owner.log.String()[before:], "stepped down") }, patience, 10*time.Millisecond)
		late.judge(t)
		content, err := c.workspace().Consistent().ReadFile(t.Context(), "late")
		require.NoError(t, err)
		require.Equal(t, "after", string(content))
	})
	if os.Getenv("WSMESH_LONG") == "1" { // it takes half a minute
		t.Run("frozen server", func(t *testing.T) { c.freezeLeader(t, work("frozen-server")) })
	}
	t.Run("a server leaves", func(t *testing.T) {
		c.whole(t)
		w := work("lame-duck")
		calls := during(t, w, acknowledged, 0, func(goesOn func()) {
			leader := c.leader(t)
			leader.Stop()
			goesOn()
			require.NoError(t, leader.Start(t.Context()))
		})
		noFailure(t, calls)
		verdict(t, c.Log, Judge(calls, finalOf(t, w)))
	})
	t.Run("what is moved wrongly", func(t *testing.T) {
		other := c.Nodes[0]
		if other == c.owner(t) {
			other = c.Nodes[1]
		}
		for _, r := range []struct {
			says string
			args []string
		}{
			{"unavailable: node nobody does not answer", []string{"main", "nobody"}},
			{"not_found: ", []string{"none", "n1"}},
			{"invalid: ", []string{"main", "No One"}},
			{"conflict: ", []string{"main", other.Name, "--from-dead"}},
		} {
			out, err := c.Run(t.Context(), append([]string{"workspace", "move"}, r.args...)...)
			require.Error(t, err)
			require.Contains(t, out, r.says)
		}
	})
}

// freezeLeader lets a workload and a command go on while the server that leads the journal
// is frozen, which the others find out in some 15 seconds, and after.
func (c *cluster) freezeLeader(t *testing.T, w *Workload) {
	c.whole(t)
	over := make(chan error, 1)
	if canIsolate() {
		cmd := c.workspace().Command(t.Context(), "sh", "-c", "sleep 2; echo ended > frozen-server-ran")
		require.NoError(t, cmd.Start())
		go func() { over <- cmd.Wait() }()
	} else {
		over <- nil
	}
	calls := during(t, w, acknowledged, 0, func(goesOn func()) {
		leader := c.leader(t)
		began := time.Now()
		require.NoError(t, leader.Freeze())
		defer leader.Thaw() //nolint:errcheck // thawed below
		goesOn()
		t.Logf("the work went on without the journal's leader, frozen, after %s", ms(time.Since(began)))
		require.NoError(t, leader.Thaw())
	})
	require.NoError(t, <-over, "a command that ran")
	verdict(t, c.Log, Judge(calls, finalOf(t, w)))
	c.chain(t)
}

// noFailure says that nobody noticed anything, and how long the longest wait was.
func noFailure(t *testing.T, calls []Call) {
	t.Helper()
	var took []time.Duration
	for _, call := range calls {
		require.True(t, call.Outcome == Done || mesh.CodeOf(call.Err) == mesh.CodeNotFound, "%s %s: %v", call.Kind, call.Path, call.Err)
		took = append(took, call.End-call.Start)
	}
	slices.Sort(took)
	t.Logf("%d calls, p99 %s, longest %s", len(took), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}
