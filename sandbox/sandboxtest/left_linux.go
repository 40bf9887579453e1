// Package sandboxtest finds what the tests of a package left on the host.
package sandboxtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// leaveTime is how long what is ending may take to be gone.
const leaveTime = 5 * time.Second

// Adopt makes this process the parent of every process that loses its own among
// its descendants, so that Left finds it. It is called before any test.
func Adopt() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// Left lists the processes, mounts and cgroups that this process still has when the
// tests are over and what was ending had time to.
func Left() []string {
	for deadline := time.Now().Add(leaveTime); ; time.Sleep(20 * time.Millisecond) {
		left := append(append(processes(), mounts()...), Cgroups()...)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// processes reaps the dead and lists who is alive.
func processes() (left []string) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err != nil || pid <= 0 {
			break
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// The name, in parentheses, may hold anything.
		words := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(words) > 1 && words[0] != "Z" && words[1] == strconv.Itoa(os.Getpid()) {
			line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
			left = append(left, fmt.Sprintf("process %s: %.200q", e.Name(), line))
		}
	}
	return left
}

func mounts() (left []string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "wsmesh") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	return left
}

// Cgroups lists those that Runners of this process have made.
func Cgroups() (left []string) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	ours := "." + strconv.Itoa(os.Getpid()) + "."
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		where := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup") || len(where) < 5 {
			continue
		}
		_ = filepath.WalkDir(where[4], func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), "wsmesh.") && strings.Contains(e.Name(), ours) {
				left = append(left, "cgroup "+path)
			}
			return nil // they come and go
		})
	}
	return left
}
