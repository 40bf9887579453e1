package sandbox

import (
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Stop asks every process of the command to end, with SIGTERM, and ends those
// that are left after the grace with SIGKILL. It returns at once; Wait returns
// when all are gone. Those that were stopped go on, so that they can answer. The
// end of the command's first process does not cut the grace of the others short,
// except in a sandbox of its own (Level.Warm is false, driver bwrap). Only the
// first call counts; Kill ends the grace.
func (p *Process) Stop(grace time.Duration) {
	if grace <= 0 {
		p.Kill()
		return
	}
	if !p.stopping.CompareAndSwap(false, true) {
		return
	}
	p.tree.terminate()
	time.AfterFunc(grace, p.Kill)
}

// linger returns when a tree that was asked to end has no processes left, or has
// had its time.
func (p *Process) linger(killed, others func() bool) {
	if !p.stopping.Load() {
		return
	}
	for pause := time.Millisecond; others() && !killed(); pause = min(2*pause, 20*time.Millisecond) {
		time.Sleep(pause)
	}
}

// terminate asks the processes of the group to end and returns how many there
// were.
func (g *group) terminate(except ...int) int {
	dir := g.where()
	if dir == "" {
		return 0
	}
	pids, _ := members(dir, g.spare)
	return terminateAll(pids, except...)
}

// terminateAll looks at the processes once: those that a handler of SIGTERM starts
// to clean up must be left to it.
func terminateAll(pids []int, except ...int) (asked int) {
	for _, pid := range pids {
		if slices.Contains(except, pid) {
			continue
		}
		asked++
		_ = unix.Kill(pid, unix.SIGTERM)
		_ = unix.Kill(pid, unix.SIGCONT)
	}
	return asked
}

// family lists the live processes below a leader, and those of its session, by
// what /proc says. It is for where no cgroup holds them.
func family(leader int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	stats := make(map[int]procStat)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if stat, err := readStat(pid); err == nil && stat.state != 'Z' {
			stats[pid] = stat
		}
	}
	below := func(pid int) bool {
		for range len(stats) {
			stat, ok := stats[pid]
			if !ok || stat.parent <= 1 {
				return false
			}
			if stat.parent == leader {
				return true
			}
			pid = stat.parent
		}
		return false
	}
	var all []int
	for pid, stat := range stats {
		if pid == leader || stat.sid == leader || below(pid) {
			all = append(all, pid)
		}
	}
	return all
}
