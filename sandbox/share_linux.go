package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Weights of a tenant's share of the processors: that of one thread of the node,
// the kernel's default. So a tenant with 500 busy processes gets what a tenant with
// one gets. A tenth, the weight of one process with commandNice, made a short
// command take ten times as long on a busy host: a group as light as that waits
// for long even when it has used nothing.
const (
	shareWeight1 = "1024"
	shareWeight2 = "100"
)

// shares are the tenants' cgroups, above those of their commands. A tenant has one
// while it has commands or sandboxes that are kept.
type shares map[string]*share

// share is one of them. Owned by limiter.mu.
type share struct {
	tenant string
	dir    string
	users  int
}

// takeShare returns the share of a tenant, made if need be, and nil where the host
// shares no processors by cgroup. giveShare gives it back.
func (l *limiter) takeShare(tenant string) (*share, error) {
	home := l.homes[l.shareController()]
	if home == "" {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shares[tenant]
	if s == nil {
		// Never a name again: an old one may be on its way out.
		name := l.prefix + strconv.Itoa(os.Getpid()) + ".share." + strconv.FormatUint(l.next.Add(1), 10)
		s = &share{tenant: tenant, dir: filepath.Join(home, name)}
		if err := os.Mkdir(s.dir, 0o755); err != nil {
			return nil, fmt.Errorf("make a tenant's cgroup: %w", err)
		}
		if err := l.weigh(s.dir); err != nil {
			return nil, errors.Join(err, removeGroup(s.dir))
		}
		if l.shares == nil {
			l.shares = make(shares)
		}
		l.shares[tenant] = s
	}
	s.users++
	return s, nil
}

// cpu reports whether tenants have shares of the processors.
func (l *limiter) cpu() bool {
	home, ok := l.homes[l.shareController()]
	if l.kind == limitsCgroup2 && ok {
		on, err := os.ReadFile(filepath.Join(home, "cgroup.subtree_control"))
		return err == nil && slices.Contains(strings.Fields(string(on)), "cpu")
	}
	return ok
}

// shareController is the hierarchy of the shares.
func (l *limiter) shareController() string {
	if l.kind == limitsCgroup1 {
		return "cpu"
	}
	return ""
}

func (l *limiter) weigh(dir string) error {
	switch {
	case l.bare:
		return nil
	case l.kind == limitsCgroup1:
		return set(dir, "cpu.shares", shareWeight1)
	}
	// cpu may be missing; what an exec is held by has to be there.
	_ = setIfThere(dir, "cpu.weight", shareWeight2)
	if err := set(dir, "cgroup.subtree_control", "+memory +pids"); err != nil {
		return err
	}
	_ = set(dir, "cgroup.subtree_control", "+cpu")
	return nil
}

func (l *limiter) giveShare(s *share) error {
	if s == nil {
		return nil
	}
	l.mu.Lock()
	s.users--
	last := s.users == 0
	if last {
		delete(l.shares, s.tenant)
	}
	l.mu.Unlock()
	if !last {
		return nil
	}
	return removeGroup(s.dir)
}

// limitCPU bounds the processors of a group, in thousandths of one.
func (g *group) limitCPU(millis int64) error {
	if millis == 0 || g.bare || g.share == nil {
		return nil
	}
	const period = 100_000 // microseconds, as both versions have by default
	quota := strconv.FormatInt(max(1000, millis*period/1000), 10)
	if g.kind == limitsCgroup2 {
		return set(g.dirs[""], "cpu.max", quota+" "+strconv.Itoa(period))
	}
	return set(g.dirs["cpu"], "cpu.cfs_quota_us", quota)
}
