package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// WarmUsage counts the sandboxes that are kept and the memory that their own
// processes take: process 1 and bubblewrap's monitor, each one's part of what is
// shared (all of it where we may not look closer), without commands and scratch
// files.
func (r *Runner) WarmUsage() (n int, memory int64) {
	if r.warm == nil {
		return 0, 0
	}
	var pids []int
	r.warm.mu.Lock()
	for _, b := range r.warm.boxes {
		b.mu.Lock()
		if b.process != nil && b.err == nil {
			n++
			pids = append(pids, b.process.child.Pid, b.process.leader)
		}
		b.mu.Unlock()
	}
	r.warm.mu.Unlock()
	for _, pid := range pids {
		memory += processMemory(pid)
	}
	return n, memory
}

func processMemory(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	key := []byte("Pss:")
	if err != nil {
		text, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		key = []byte("VmRSS:")
	}
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, key); ok {
			words := bytes.Fields(rest)
			if len(words) > 0 {
				kib, _ := strconv.ParseInt(string(words[0]), 10, 64)
				return kib << 10
			}
		}
	}
	return 0
}
