package sandbox

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOwnCgroup(t *testing.T) {
	const (
		v1 = "30 23 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n" +
			"31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
		v2     = "25 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
		nested = "30 23 0:26 /docker/abc /sys/fs/cgroup/me\\040mory ro - cgroup cgroup rw,memory\n"
	)
	for _, c := range []struct {
		name, mounts, own, controller string
		want                          string // "" is an error
	}{
		{"v1", v1, "4:memory:/a/b\n", "memory", "/sys/fs/cgroup/memory/a/b"},
		{"v1 together", v1, "4:cpu,cpuacct:/x\n", "cpuacct", "/sys/fs/cgroup/cpu,cpuacct/x"},
		{"v1 at the top", v1, "4:memory:/\n", "memory", "/sys/fs/cgroup/memory"},
		{"v2", v2, "0::/system.slice/wsmesh.service\n", "", "/sys/fs/cgroup/system.slice/wsmesh.service"},
		{"both", v1 + v2, "4:memory:/a\n0::/b:c\n", "", "/sys/fs/cgroup/b:c"},
		{"mounted part", nested, "4:memory:/docker/abc/d\n", "memory", "/sys/fs/cgroup/me mory/d"},
		{"outside the mounted part", nested, "4:memory:/elsewhere\n", "memory", ""},
		{"not mounted", v2, "4:memory:/a\n", "memory", ""},
		{"no such controller", v1, "4:memory:/a\n", "pids", ""},
		{"noise", "x\n - \n" + v1, "y\n4:memory:/a\n", "memory", "/sys/fs/cgroup/memory/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseCgroups(c.mounts, c.own).own(c.controller)
			if c.want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

// TestUnifiedGroup checks v2 on plain files: the kernel's own behaviour is not
// covered, only what is written and read, and where.
func TestUnifiedGroup(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	for _, name := range []string{"memory.max", "memory.swap.max", "pids.max"} {
		file(name, "")
	}
	g := &group{kind: limitsCgroup2, dirs: map[string]string{"": dir}}
	require.NoError(t, g.limit(bounds{memory: 4096, pids: 7}))
	for name, want := range map[string]string{"memory.max": "4096", "memory.swap.max": "0", "pids.max": "7"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	for _, c := range []struct {
		name, memory, pids string
		want               []string
	}{
		{"none", "oom 0\noom_kill 0\n", "max 0\n", nil},
		{"reclaim only", "max 12\noom_kill 0\n", "max 0\n", nil},
		{"memory", "oom_kill 1\n", "max 0\n", []string{LimitMemory}},
		{"pids", "oom_kill 0\n", "max 3\n", []string{LimitPids}},
		{"both", "oom_kill 2\n", "max 3\n", []string{LimitMemory, LimitPids}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file("memory.events", c.memory)
			file("pids.events", c.pids)
			file("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n")
			file("memory.peak", "8192\n")
			var r Result
			g.account(&r)
			limit := ""
			if len(c.want) > 0 {
				limit = c.want[0]
			}
			require.Equal(t, Result{Limit: limit, Limits: c.want, User: 3 * time.Microsecond, System: 2 * time.Microsecond, MaxRSS: 8192}, r)
		})
	}
	t.Run("missing controller", func(t *testing.T) {
		require.NoError(t, os.Remove(filepath.Join(dir, "memory.max")))
		require.ErrorIs(t, g.limit(bounds{memory: 4096, pids: 7}), os.ErrNotExist)
		require.NoFileExists(t, filepath.Join(dir, "memory.max"))
	})
}

// TestForkIntoUnified forks into a real v2 cgroup, limits or not.
func TestForkIntoUnified(t *testing.T) {
	if os.Geteuid() != 0 {
		requireOrSkip(t, "root", "only root makes cgroups")
	}
	host, err := readCgroups()
	require.NoError(t, err)
	home, err := host.own("")
	if err != nil {
		requireOrSkip(t, "cgroup2", err.Error())
	}
	dir := filepath.Join(home, groupPrefix+stateID()+".fork")
	require.NoError(t, os.Mkdir(dir, 0o755))
	g := &group{kind: limitsCgroup2, dirs: map[string]string{"": dir}}
	defer func() { require.NoError(t, g.remove()) }()
	spawner, err := newSpawner(spawnerConfig{})
	require.NoError(t, err)
	defer spawner.close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	require.NoError(t, err)
	defer null.Close()
	l := &launch{
		path: "/bin/sh", argv: []string{"sh", "-c", "sleep " + marker + " & sleep " + marker},
		files: []*os.File{null, null, null}, sys: &syscall.SysProcAttr{Setsid: true},
	}
	child, err := spawner.fork(t.Context(), l, g)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		pids, err := members(dir, 0)
		return err == nil && len(pids) == 3
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, g.kill())
	_, err = child.Wait()
	require.NoError(t, err)
	require.Empty(t, marked(marker))
}
