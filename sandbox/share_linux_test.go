package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Processes of one tenant, however many, leave another its share of the
// processors, in sandboxes that are kept and in others.
func TestTenantsShareProcessors(t *testing.T) {
	for _, isolation := range []string{IsolationBwrap, coldBwrap} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			if !b.runner.Level().CPU {
				requireOrSkip(t, "root", "shares of processors need cgroups")
			}
			const loop = "while :; do :; done"
			crowd := b.spec(t, "sh", "-c", "for i in $(seq 20); do ("+loop+") & done; echo up; wait")
			crowd.Tenant = "crowd"
			many := b.start(t, crowd)
			many.out.waitFor(t, "up")
			other := (&bench{runner: b.runner, dir: t.TempDir()}).owned(t)
			spec := other.spec(t, "sh", "-c", "("+loop+") & ("+loop+") & echo up; wait")
			spec.Tenant = "lonely"
			few := other.start(t, spec)
			few.out.waitFor(t, "up")
			oursBefore, theirsBefore := processorTime(t, b.runner, "lonely"), processorTime(t, b.runner, "crowd")
			var ours, theirs time.Duration
			require.Eventually(t, func() bool {
				ours, theirs = processorTime(t, b.runner, "lonely")-oursBefore, processorTime(t, b.runner, "crowd")-theirsBefore
				return ours+theirs > 500*time.Millisecond
			}, 30*time.Second, 10*time.Millisecond)
			require.Greater(t, 4*ours, theirs, "the tenant with 2 processes got %s, the one with 20 %s", ours, theirs)
			many.Kill()
			few.Kill()
			many.finish(t)
			few.finish(t)
		})
	}
}

// processorTime is what the live processes of a tenant's share have used.
func processorTime(t *testing.T, r *Runner, tenant string) (sum time.Duration) {
	t.Helper()
	r.limiter.mu.Lock()
	share := r.limiter.shares[tenant]
	r.limiter.mu.Unlock()
	if share == nil {
		return 0
	}
	pids, err := members(share.dir, 0)
	require.NoError(t, err)
	for _, pid := range pids {
		sum += usedTime(pid)
	}
	return sum
}

func TestProcessorQuota(t *testing.T) {
	b := newBwrapBench(t)
	if !b.runner.Level().CPU {
		requireOrSkip(t, "root", "quotas of processors need cgroups")
	}
	for _, c := range []struct {
		millis int64
		most   float64 // processors
	}{{200, 0.4}, {0, 100}} {
		t.Run(strconv.Itoa(int(c.millis)), func(t *testing.T) {
			spec := b.spec(t, "timeout", "1", "sh", "-c", "while :; do :; done")
			spec.CPUMillis = c.millis
			began := time.Now()
			o := b.runSpec(t, spec)
			require.Equal(t, 124, o.Code)
			require.Less(t, (o.User + o.System).Seconds(), c.most*time.Since(began).Seconds())
		})
	}
}

// testFileLimits reaches what no cgroup holds.
func testFileLimits(t *testing.T, b *bench) {
	t.Run("file size", func(t *testing.T) {
		spec := b.spec(t, "sh", "-c", "exec dd if=/dev/zero of=big bs=64k count=32 2>&1")
		spec.FileBytes = 1 << 20
		o := b.runSpec(t, spec)
		require.Equal(t, 153, o.Code, o.stdout)
		require.Equal(t, LimitDisk, o.Limit)
		require.Equal(t, "1048576\n", b.run(t, "stat", "-c", "%s", "big").stdout)
	})
	t.Run("by default", func(t *testing.T) {
		o := b.run(t, "sh", "-c", "truncate -s 1T big; exit $?")
		require.Equal(t, 153, o.Code, o.stderr)
	})
	t.Run("full", func(t *testing.T) {
		spec := b.spec(t, "sh", "-c", "rm big && echo x > new")
		spec.Full = true
		o := b.runSpec(t, spec)
		require.Equal(t, 153, o.Code, o.stderr)
		require.Equal(t, LimitDisk, o.Limit)
		require.Equal(t, "0 new\n", b.run(t, "sh", "-c", "stat -c '%s %n' new; ls big 2> /dev/null").stdout)
	})
	t.Run("open files", func(t *testing.T) {
		spec := b.spec(t, "sh", "-c", "ulimit -n; ulimit -Hn; ulimit -n 33")
		spec.Files = 32
		o := b.runSpec(t, spec)
		require.Equal(t, "32\n32\n", o.stdout)
		require.NotEqual(t, 0, o.Code)
	})
}

func usedTime(pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	text := string(raw)
	words := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	user, _ := strconv.Atoi(words[11])
	system, _ := strconv.Atoi(words[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
