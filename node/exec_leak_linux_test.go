package node_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/sandbox/sandboxtest"
)

// Many commands, of which some fail, are not found, are ended, or leave processes
// behind, leave nothing in the node and nothing on its host. WSMESH_LONG=1 makes it
// 10,000.
func TestCommandsLeaveNothing(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ws := m.Client.Workspace("repo")
	kinds := []func(*client.Cmd) error{
		(*client.Cmd).Run,
		func(c *client.Cmd) error { c.Args = []string{"no-such-program"}; return c.Run() },
		func(c *client.Cmd) error { return line(c, "cat; exit 3", "x").Run() },
		func(c *client.Cmd) error { return line(c, "setsid sleep 60 & (sleep 60 &); echo x > f", "").Run() },
		func(c *client.Cmd) error { return line(c, "kill -9 $$", "").Run() },
		func(c *client.Cmd) error { c.Timeout = 5 * time.Millisecond; return line(c, "sleep 60", "").Run() },
	}
	many := func(n int) {
		var group sync.WaitGroup
		for caller := range 4 {
			group.Go(func() {
				for i := range n / 4 {
					var ended *client.ExitError
					if err := kinds[(caller+i)%len(kinds)](ws.Command(t.Context(), "true")); err != nil && !errors.As(err, &ended) {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
	}
	n := 300
	if os.Getenv("WSMESH_LONG") != "" {
		n = 10_000
	}
	many(60)
	before := held(t, m)
	many(n)
	var after map[string]int64
	require.Eventually(t, func() bool {
		after = held(t, m)
		for name := range after {
			if after[name] > before[name]+slack[name] {
				return false
			}
		}
		return true
	}, 20*time.Second, 100*time.Millisecond, "%v, then %v", before, &after)
	t.Logf("%v, then %v", before, after)
}

func line(c *client.Cmd, line, stdin string) *client.Cmd {
	c.Args = []string{"sh", "-c", line}
	c.Stdin = strings.NewReader(stdin)
	return c
}

// slack is what may come and go, or is kept up to a bound: threads, idle cgroups, what
// NATS, which is in this process, knows of each log.
var slack = map[string]int64{
	"descriptors": 12, "goroutines": 12, "processes": 0, "mounts": 2, "cgroups": 12, "heap": 48 << 20, "warm": 4 << 20,
}

// held is what the node has of its host, and this process with it.
func held(t *testing.T, m *nodetest.Mesh) map[string]int64 {
	t.Helper()
	entries := func(dir string) int64 {
		list, err := os.ReadDir(dir)
		require.NoError(t, err)
		return int64(len(list))
	}
	mounts := 0
	tasks, err := filepath.Glob("/proc/self/task/*/mountinfo")
	require.NoError(t, err)
	for _, name := range tasks { // commands are forked in a mount namespace of one thread
		text, _ := os.ReadFile(name)
		mounts = max(mounts, strings.Count(string(text), "\n"))
	}
	var status mesh.StatusReply
	require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return map[string]int64{
		"descriptors": entries("/proc/self/fd"), "goroutines": int64(runtime.NumGoroutine()), "mounts": int64(mounts),
		"cgroups": int64(len(sandboxtest.Cgroups())), "heap": int64(memory.HeapAlloc),
		"warm": status.Nodes[0].Warm.Bytes, "processes": children(),
	}
}

// children counts the processes of this one that are alive.
func children() (n int64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		words := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(words) > 1 && words[0] != "Z" && words[1] == fmt.Sprint(os.Getpid()) {
			n++
		}
	}
	return n
}
