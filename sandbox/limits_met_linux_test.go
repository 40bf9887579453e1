package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// rungs are the ways in which this host can hold commands to their limits, the
// strongest and the weakest.
func rungs(t *testing.T) []string {
	t.Helper()
	best := newLimiter(stateID(), os.Geteuid() == 0)
	return slices.Compact([]string{best.kind, limitsRlimit})
}

// TestLimits meets each limit on each rung, and ends in ways that look as if it had:
// what is named is what was met.
func TestLimits(t *testing.T) {
	for _, rung := range rungs(t) {
		for _, isolation := range []string{IsolationBwrap, coldBwrap, IsolationSoftware} {
			t.Run(rung+"/"+isolation, func(t *testing.T) { testLimits(t, newBenchOn(t, isolation, rung)) })
		}
	}
}

// together are processes of which each one fits. It ends when all have what they want,
// or one has been killed.
const together = `
import os, select, sys, time
r, w = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        kept = b"x" * (40 << 20)
        os.write(w, b"x")
        time.sleep(3600)
got = 0
while got < 2 and os.waitpid(-1, os.WNOHANG)[0] == 0:
    if select.select([r], [], [], 0.01)[0]:
        got += len(os.read(r, 1))
sys.exit(5)
`

func testLimits(t *testing.T, b *bench) {
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "together.py"), []byte(together), 0o644))
	level := b.runner.Level()
	grouped := level.Limits != limitsRlimit
	forking := "i=0; while [ $i -lt 64 ]; do sleep " + marker + " & i=$((i+1)); done"
	for _, c := range []struct {
		name, script string
		memory       int64
		pids         int
		full         bool
		limit        string // what is named
		seen         bool   // without cgroups as well
		code         int    // -1: that of the program that was refused something
		free         int    // the status without cgroups
	}{
		{name: "none", script: "sleep 0.01 & sleep 0.01 & wait", memory: 64 << 20, pids: 8},
		{name: "memory", script: "exec tail /dev/zero", memory: 48 << 20, limit: LimitMemory, code: 137, free: -1},
		{name: "memory of a child", script: "tail /dev/zero; exit 4", memory: 48 << 20, limit: LimitMemory, code: 4, free: 4},
		{name: "memory of all together", script: "exec " + python + " together.py", memory: 64 << 20, limit: LimitMemory, code: 5, free: 5},
		{name: "processes", script: forking, pids: 24, limit: LimitPids, code: -1, free: -1},
		{name: "threads", script: "exec " + python + " -c 'import threading, time\nfor i in range(64): threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()'", pids: 24, limit: LimitPids, code: -1, free: -1},
		{name: "file size", script: "exec head -c 2M /dev/zero > big", limit: LimitDisk, seen: true, code: 153, free: 153},
		{name: "full disk", script: "echo x > new", full: true, limit: LimitDisk, seen: true, code: 153, free: 153},
		{name: "its own SIGKILL", script: "kill -9 $$", code: 137, free: 137},
		{name: "the status of it", script: "exit 137", code: 137, free: 137},
		{name: "words of it", script: "echo 'sh: 1: Cannot fork' >&2; exit 2", code: 2, free: 2},
		{name: "a limit of its own on memory", script: "ulimit -v 20000; tail /dev/zero; exit 6", memory: 256 << 20, code: 6, free: 6},
		{name: "a limit of its own on files", script: "ulimit -n 8; exec 20< /dev/null", code: -1, free: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			counted := grouped || level.Uids || level.Driver == IsolationBwrap
			if c.pids != 0 && !counted {
				t.Skip("SKIPPED: without cgroups and an id of its own nothing counts a command's processes")
			}
			if strings.Contains(c.script, python) {
				requirePython(t)
			}
			spec := b.spec(t, "sh", "-c", c.script)
			spec.MemoryBytes, spec.Pids, spec.FileBytes, spec.Full = c.memory, c.pids, 1<<20, c.full
			o := b.runSpec(t, spec)
			limit, code := c.limit, c.code
			if !grouped {
				code = c.free
				if !c.seen {
					limit = ""
				}
			}
			require.Equal(t, limit, o.Limit, "%d %s", o.Code, o.stderr)
			if code < 0 {
				require.NotContains(t, []int{0, 137}, o.Code, o.stderr)
			} else {
				require.Equal(t, code, o.Code, o.stderr)
			}
			if c.name == "memory" && grouped {
				require.Equal(t, "SIGKILL", o.Signal)
				require.Greater(t, o.MaxRSS, int64(24<<20))
			}
			require.Empty(t, marked(marker))
		})
	}
	t.Run("fork bomb", func(t *testing.T) {
		if !grouped && !level.Uids && level.Driver != IsolationBwrap {
			t.Skip("SKIPPED: without cgroups and an id of its own nothing counts a command's processes")
		}
		spec := b.spec(t, "sh", "-c", "f() { f | f & }; f; while :; do :; done")
		spec.Pids = 64
		p := b.start(t, spec)
		p.err.waitFor(t, "fork")
		p.Kill()
		o := p.finish(t)
		require.NoError(t, o.Err)
		if grouped {
			require.Equal(t, LimitPids, o.Limit)
		} else {
			require.Empty(t, o.Limit, "nobody but the command is told")
		}
	})
}
