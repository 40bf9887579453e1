package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Limits values of Level, the strongest first.
const (
	limitsCgroup2 = "cgroup2"
	limitsCgroup1 = "cgroup1"
	limitsRlimit  = "rlimit"
)

// groupPrefix starts the name of every cgroup of ours. A dot follows the state
// id, which has none itself, so that no state id is the beginning of another's.
const groupPrefix = "wsmesh."

// goneWait bounds the wait for killed processes to leave the kernel's tables; a
// process in an uninterruptible call can exceed it.
const goneWait = 10 * time.Second

// limiter makes one cgroup per command. Where that is not possible, kind is
// limitsRlimit and its groups do nothing.
type limiter struct {
	kind   string
	reason string // why kind is not a better one
	prefix string
	next   atomic.Uint64

	// bare groups only hold processes together: there are no controllers.
	bare bool

	mu     sync.Mutex
	shares shares

	// The directories that we ourselves are in, below which groups are made:
	// one with v2, one per hierarchy with v1.
	homes map[string]string
}

// newLimiter chooses what the host offers us. stateID is part of the names.
func newLimiter(stateID string, root bool) *limiter {
	l := &limiter{kind: limitsRlimit, prefix: groupPrefix + stateID + "."}
	if !root {
		l.reason = "an ordinary user has no cgroup of its own: limits hold per process"
		return l
	}
	host, err := readCgroups()
	if err != nil {
		l.reason = fmt.Sprintf("cgroups: %v", err)
		return l
	}
	failed2 := l.useUnified(host)
	if failed2 == nil {
		return l
	}
	failed1 := l.useHierarchies(host)
	if failed1 == nil {
		return l
	}
	l.reason = fmt.Sprintf("no usable cgroups: v2: %v; v1: %v", failed2, failed1)
	return l
}

// useUnified chooses v2 if memory and pids can be limited there.
func (l *limiter) useUnified(host *cgroups) error {
	home, err := host.own("")
	if err != nil {
		return err
	}
	if err := delegate(home, l.prefix+"own"); err != nil {
		return err
	}
	l.kind, l.homes = limitsCgroup2, map[string]string{"": home}
	return l.try()
}

// useHierarchies chooses v1 if memory and pids can be limited there. cpuacct is
// for the account and cpu for the tenants' shares; either may be missing.
func (l *limiter) useHierarchies(host *cgroups) error {
	homes := make(map[string]string)
	for _, controller := range []string{"memory", "pids", "cpuacct", "cpu"} {
		home, err := host.own(controller)
		if err != nil && !strings.HasPrefix(controller, "cpu") {
			return err
		}
		if err == nil {
			homes[controller] = home
		}
	}
	l.kind, l.homes = limitsCgroup1, homes
	return l.try()
}

// try makes and removes one group, so that a read-only or undelegated hierarchy
// is found out now.
func (l *limiter) try() error {
	g, err := l.open(bounds{memory: DefaultMemoryBytes, pids: DefaultPids})
	if err == nil {
		err = g.remove()
	}
	if err != nil {
		l.kind, l.homes = limitsRlimit, nil
	}
	return err
}

// bounds are what a cgroup holds a command to.
type bounds struct {
	memory int64
	pids   int
	cpu    int64 // thousandths of a processor; 0 is all
	tenant string
}

// open makes the group of one command.
func (l *limiter) open(b bounds) (*group, error) {
	g := &group{kind: l.kind, bare: l.bare, homes: l.homes, dirs: make(map[string]string), limiter: l}
	if l.kind == limitsRlimit {
		return g, nil
	}
	var err error
	if g.share, err = l.takeShare(b.tenant); err != nil {
		return nil, err
	}
	name := l.prefix + strconv.Itoa(os.Getpid()) + "." + strconv.FormatUint(l.next.Add(1), 10)
	for controller, home := range l.homes {
		if controller == l.shareController() {
			if home = g.share.dir; l.kind == limitsCgroup1 && b.cpu == 0 {
				continue // it is in the share itself
			}
		}
		dir := filepath.Join(home, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make a cgroup: %w", err), g.remove())
		}
		g.dirs[controller] = dir
	}
	if err := g.limit(b); err != nil {
		return nil, errors.Join(err, g.remove())
	}
	return g, nil
}

// group is the cgroups of one command, by v1 controller ("" with v2).
type group struct {
	kind  string
	bare  bool
	homes map[string]string
	dirs  map[string]string
	fd    *os.File // v2, while the command is being forked
	spare int      // a process that may be in the group and is never killed with it; 0 is none

	limiter *limiter
	share   *share
	bounds  bounds
	files   map[string]*os.File // what was read or written before, by its path
	before  met                 // what earlier commands of the group met
}

// met counts how often limits were met.
type met struct{ oomKills, refusedForks int64 }

func (g *group) limit(b bounds) error {
	g.bounds = b
	if g.bare {
		return nil
	}
	if err := g.limitCPU(b.cpu); err != nil {
		return err
	}
	size, count := strconv.FormatInt(b.memory, 10), strconv.Itoa(b.pids)
	if g.kind == limitsCgroup2 {
		dir := g.dirs[""]
		return errors.Join(
			set(dir, "memory.max", size),
			setIfThere(dir, "memory.swap.max", "0"),
			set(dir, "pids.max", count),
		)
	}
	// Memory before memory plus swap: the second may never be below the first.
	return errors.Join(
		set(g.dirs["memory"], "memory.limit_in_bytes", size),
		setIfThere(g.dirs["memory"], "memory.memsw.limit_in_bytes", size),
		set(g.dirs["pids"], "pids.max", count),
	)
}

// renew makes the group of an ended command as good as a new one with the same
// limits, which costs a fifth of making one, and reports whether it is.
func (g *group) renew() bool {
	// A process that is not reaped yet still counts, memory that the command left
	// in caches or scratch files would be the next one's, and where processes had
	// to be killed, new ones were forbidden first.
	if g.kind != limitsCgroup1 || g.counter("pids", "pids.current", "") != 0 ||
		g.counter("pids", "pids.max", "") != int64(g.bounds.pids) ||
		g.counter("memory", "memory.usage_in_bytes", "") > leftMemory {
		return false
	}
	g.before = g.met()
	for controller, name := range map[string]string{"memory": "memory.max_usage_in_bytes", "cpuacct": "cpuacct.usage"} {
		if g.dirs[controller] == "" {
			continue
		}
		f, err := g.file(controller, name)
		if err == nil {
			_, err = f.WriteAt([]byte("0"), 0)
		}
		if err != nil {
			return false
		}
	}
	return true
}

// leftMemory is how much memory of one command may count for the next: what the
// kernel keeps about the group itself is of this order.
const leftMemory = 4 << 20

// enter puts the command that is about to be forked into the group: through the
// clone with v2, and with v1 by moving the forking thread, which costs no lock
// in the kernel and leaves no moment in which the command is outside.
func (g *group) enter(l *launch) error {
	if g.kind == limitsCgroup2 {
		fd, err := os.OpenFile(g.dirs[""], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open the cgroup: %w", err)
		}
		g.fd = fd
		l.sys.UseCgroupFD, l.sys.CgroupFD = true, int(fd.Fd())
		return nil
	}
	for _, dir := range g.dirs {
		if err := set(dir, "tasks", "0"); err != nil {
			return fmt.Errorf("enter the cgroup: %w", err)
		}
	}
	if g.share != nil && g.dirs["cpu"] == "" {
		if err := set(g.share.dir, "tasks", "0"); err != nil {
			return fmt.Errorf("enter the tenant's cgroup: %w", err)
		}
	}
	return nil
}

// leave takes the forking thread back home.
func (g *group) leave() error {
	if g.kind == limitsCgroup2 {
		if g.fd == nil {
			return nil
		}
		return g.fd.Close()
	}
	var all error
	for _, home := range g.homes {
		if err := set(home, "tasks", "0"); err != nil {
			all = errors.Join(all, fmt.Errorf("leave the cgroup: %w", err))
		}
	}
	return all
}

// kill ends every process in the group and returns when none is left.
func (g *group) kill() error {
	if g.empty() {
		return nil
	}
	var dirs []string
	if dir := g.where(); dir != "" {
		dirs = append(dirs, dir)
	}
	return killAll(dirs, g.spare)
}

// empty reports whether the kernel counts nothing in the group, which is cheaper to
// ask than who is in it. It counts a process until it is reaped, so it is not empty
// for a moment longer.
func (g *group) empty() bool {
	if g.where() == "" || g.bare {
		return false
	}
	controller := ""
	if g.kind == limitsCgroup1 {
		controller = "pids"
	}
	f, err := g.file(controller, "pids.current")
	if err != nil {
		return false
	}
	var count [2]byte
	n, _ := f.ReadAt(count[:], 0)
	return n > 0 && string(count[:n]) == "0\n"
}

// where is the one hierarchy that processes are looked for in: a process of the
// group is in all of its hierarchies, and cannot leave any.
func (g *group) where() string {
	if g.kind == limitsCgroup1 {
		return g.dirs["pids"]
	}
	return g.dirs[""]
}

// killNow signals every process that is in the group at the moment.
func (g *group) killNow() {
	dir := g.where()
	if dir == "" {
		return
	}
	pids, err := members(dir, g.spare)
	if err != nil {
		return
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// doors are the files through which who has them open enters the group by itself:
// the kernel looks at the rights of who opened them. With v1 a thread moves alone,
// with v2 its whole process does.
func (g *group) doors() ([]*os.File, error) {
	name := "tasks"
	if g.kind == limitsCgroup2 {
		name = "cgroup.procs"
	}
	var files []*os.File
	for controller := range g.dirs {
		f, err := g.file(controller, name)
		if err != nil {
			return nil, fmt.Errorf("open a cgroup: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// file opens a file of the group once.
func (g *group) file(controller, name string) (*os.File, error) {
	path := filepath.Join(g.dirs[controller], name)
	if f, ok := g.files[path]; ok {
		return f, nil
	}
	// No O_CREAT: a controller that is not there must not become a plain file.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	if g.files == nil {
		g.files = make(map[string]*os.File)
	}
	g.files[path] = f
	return f, nil
}

// killAll forbids new processes where that is possible, which makes the loop
// end against a fork bomb, and kills until all dirs are empty. A thread of our
// own process, or of spare, is never a reason to kill it.
func killAll(dirs []string, spare int) error {
	deadline := time.Now().Add(goneWait)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		left := 0
		for _, dir := range dirs {
			pids, err := members(dir, spare)
			if err != nil {
				return err
			}
			left += len(pids)
			if len(pids) > 0 {
				// Either may be missing: pids.max outside the pids controller,
				// cgroup.kill outside v2.
				_ = set(dir, "pids.max", "0")
				_ = set(dir, "cgroup.kill", "1")
			}
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		switch {
		case left == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%d processes outlive SIGKILL", left)
		}
		time.Sleep(pause)
	}
}

// members lists the processes of a cgroup but our own and spare, which can be
// there for the moment in which they fork.
func members(dir string, spare int) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a cgroup: %w", err)
	}
	var pids []int
	for _, word := range bytes.Fields(text) {
		pid, err := strconv.Atoi(string(word))
		if err == nil && pid > 0 && pid != os.Getpid() && pid != spare {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// remove deletes the empty cgroups of the group. The kernel counts a process a
// moment longer than it lives, hence the patience.
func (g *group) remove() error {
	var all error
	for _, f := range g.files {
		all = errors.Join(all, f.Close())
	}
	g.files = nil
	for _, dir := range g.dirs {
		all = errors.Join(all, removeGroup(dir))
	}
	share := g.share
	g.share = nil
	return errors.Join(all, g.limiter.giveShare(share))
}

func removeGroup(dir string) error {
	deadline := time.Now().Add(goneWait)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline):
			return fmt.Errorf("remove a cgroup: %w", err)
		}
		time.Sleep(pause)
	}
}

// account fills in what the group knows about an ended command. A file that is
// missing or unreadable leaves its fields as they are.
func (g *group) account(r *Result) {
	now := g.met()
	if now.oomKills > g.before.oomKills {
		r.meet(LimitMemory)
	}
	if now.refusedForks > g.before.refusedForks {
		r.meet(LimitPids)
	}
	switch g.kind {
	case limitsCgroup2:
		cpu := func(key string) time.Duration {
			return time.Duration(g.counter("", "cpu.stat", key)) * time.Microsecond
		}
		r.User, r.System = cpu("user_usec"), cpu("system_usec")
		r.MaxRSS = g.counter("", "memory.peak", "")
	case limitsCgroup1:
		r.MaxRSS = g.counter("memory", "memory.max_usage_in_bytes", "")
		if _, ok := g.dirs["cpuacct"]; ok {
			r.User = time.Duration(g.counter("cpuacct", "cpuacct.usage_user", ""))
			r.System = time.Duration(g.counter("cpuacct", "cpuacct.usage_sys", ""))
		}
	}
}

func (g *group) met() met {
	switch g.kind {
	case limitsCgroup2:
		return met{g.counter("", "memory.events", "oom_kill"), g.counter("", "pids.events", "max")}
	case limitsCgroup1:
		return met{g.counter("memory", "memory.oom_control", "oom_kill"), g.counter("pids", "pids.events", "max")}
	}
	return met{}
}

// counter reads "KEY N" lines, or a lone number with key "". 0 if it is missing.
func (g *group) counter(controller, name, key string) int64 {
	f, err := g.file(controller, name)
	if err != nil {
		return 0
	}
	buf := make([]byte, 4096)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	for line := range strings.Lines(string(buf[:n])) {
		words := strings.Fields(line)
		if key != "" && len(words) > 0 && words[0] == key {
			words = words[1:]
		}
		if len(words) == 1 {
			if n, err := strconv.ParseInt(words[0], 10, 64); err == nil {
				return n
			}
		}
	}
	return 0
}

func set(dir, name, value string) error {
	// No O_CREAT: a controller that is not there must not become a plain file.
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", name, errors.Unwrap(err))
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

func setIfThere(dir, name, value string) error {
	err := set(dir, name, value)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// delegate makes the memory and pids controllers available below home. v2 does
// not allow that beside processes, so if we are alone in home we move into a
// leaf of our own.
func delegate(home, leaf string) error {
	enabled := func() bool {
		on, err := os.ReadFile(filepath.Join(home, "cgroup.subtree_control"))
		words := strings.Fields(string(on))
		return err == nil && slices.Contains(words, "memory") && slices.Contains(words, "pids")
	}
	if enabled() {
		return nil
	}
	defer set(home, "cgroup.subtree_control", "+cpu") //nolint:errcheck // it may be missing
	err := set(home, "cgroup.subtree_control", "+memory +pids")
	if err == nil || !errors.Is(err, unix.EBUSY) {
		return err
	}
	others, err := members(home, 0)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("%d other processes share our cgroup", len(others))
	}
	dir := filepath.Join(home, leaf)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make a cgroup for ourselves: %w", err)
	}
	if err := set(dir, "cgroup.procs", "0"); err != nil {
		return err
	}
	return set(home, "cgroup.subtree_control", "+memory +pids")
}
