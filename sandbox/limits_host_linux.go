package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// cgroups is where this process is in each hierarchy: by v1 controller, and by
// "" in v2.
type cgroups struct {
	mounts []cgroupMount
	paths  map[string]string
}

type cgroupMount struct {
	point, root string
	controllers []string // nil for v2
}

// readCgroups reads the host's hierarchies.
func readCgroups() (*cgroups, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return parseCgroups(string(mounts), string(own)), nil
}

// parseCgroups reads the formats of /proc/PID/mountinfo and /proc/PID/cgroup,
// proc_pid_mountinfo(5) and cgroups(7); lines it cannot read are passed over.
func parseCgroups(mountinfo, own string) *cgroups {
	c := &cgroups{paths: make(map[string]string)}
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if len(where) < 5 || len(what) < 3 {
			continue
		}
		m := cgroupMount{root: unescape(where[3]), point: unescape(where[4])}
		switch what[0] {
		case "cgroup":
			m.controllers = strings.Split(what[2], ",")
		case "cgroup2":
		default:
			continue
		}
		c.mounts = append(c.mounts, m)
	}
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			c.paths[controller] = parts[2]
		}
	}
	return c
}

// own returns the directory of our cgroup in the hierarchy of a controller.
func (c *cgroups) own(controller string) (string, error) {
	path, ok := c.paths[controller]
	if !ok {
		return "", fmt.Errorf("no %q hierarchy", controller)
	}
	for _, m := range c.mounts {
		if controller == "" && m.controllers != nil || controller != "" && !slices.Contains(m.controllers, controller) {
			continue
		}
		if below, ok := strings.CutPrefix(path, strings.TrimSuffix(m.root, "/")); ok {
			return filepath.Join(m.point, below), nil
		}
	}
	return "", fmt.Errorf("the %q hierarchy is not mounted", controller)
}

// sweep kills and removes every cgroup whose name starts with prefix, in all
// hierarchies. A predecessor may have run in another branch of them than we do,
// so all of it is looked through. A cgroup that we are in ourselves stays.
func (c *cgroups) sweep(prefix string) (swept int, err error) {
	dirs, err := c.named(prefix)
	err = errors.Join(err, killAll(dirs, 0))
	// Deepest first: a cgroup with children cannot be removed.
	for _, dir := range slices.Backward(dirs) {
		if c.inside(dir) {
			continue
		}
		err = errors.Join(err, removeGroup(dir))
		swept++
	}
	return swept, err
}

// named returns every cgroup whose name starts with prefix, in all hierarchies. No
// other node's are looked into: a host may have thousands of them, and none has ours
// below it.
func (c *cgroups) named(prefix string) (dirs []string, err error) {
	for _, m := range c.mounts {
		walk := filepath.WalkDir(m.point, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				// Cgroups come and go while we walk.
				return nil
			}
			switch name := entry.Name(); {
			case strings.HasPrefix(name, prefix):
				dirs = append(dirs, path)
			case strings.HasPrefix(name, groupPrefix):
				return fs.SkipDir
			}
			if info, err := entry.Info(); err == nil && info.Sys().(*syscall.Stat_t).Nlink <= 2 {
				return fs.SkipDir // it has none below, and dozens of files
			}
			return nil
		})
		err = errors.Join(err, walk)
	}
	return dirs, err
}

func (c *cgroups) inside(dir string) bool {
	for controller := range c.paths {
		own, err := c.own(controller)
		if err == nil && (own == dir || strings.HasPrefix(own, dir+"/")) {
			return true
		}
	}
	return false
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
