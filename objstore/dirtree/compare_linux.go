package dirtree

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// difference is a name whose description is not what it was when it was last
// looked at.
type difference struct {
	path string
	st   Stat
	node *node // what the ledger says, nil for a new name
	gone bool

	entry  *objstore.Entry // what it is now; nil where that is not known
	data   []byte
	fresh  bool        // it is put, and not changed
	unkept *mesh.Error // why it is not known, if it is not for a while only
}

// comparer looks at every name of a directory, in several directories at once:
// the names of one are read, and each is described by one call.
type comparer struct {
	d     *Dir
	ctx   context.Context
	tree  Snapshot
	skip  func(path string) bool
	since uint64 // what scans of these numbers have read is read again
	until uint64
	tick  Timespec

	mu      sync.Mutex // guards the rest
	wake    sync.Cond
	dirs    []directory // to be looked at
	busy    int         // workers that look at one
	workers int
	group   sync.WaitGroup
	looked  []directory
	found   []difference
	err     error

	vanished atomic.Bool // a directory was gone when it was to be looked at
}

type directory struct {
	path string
	node *node // nil: the ledger has none
	st   Stat  // before it was looked at
}

// compare returns, in no order, what differs, whether it has looked at all names, and
// whether some may have been moved meanwhile, so that it has seen them nowhere.
func (d *Dir) compare(ctx context.Context, s *Scan, tree Snapshot) (found []difference, whole, moved bool, err error) {
	c := &comparer{d: d, ctx: ctx, tree: tree, skip: s.Skip, since: s.Since, until: s.Until - 1, tick: s.Tick, workers: 1}
	c.wake.L = &c.mu
	st, err := d.stat(".")
	if err != nil {
		return nil, false, false, err
	}
	now := statOf(&st)
	if c.differs(tree.root, now) {
		c.found = append(c.found, difference{path: ".", st: now, node: tree.root})
	}
	if s.Dirty != nil {
		root := len(c.found)
		if err := c.only(s.Dirty); !errors.Is(err, errUnclear) {
			return c.found, false, c.moved(), err
		}
		c.found, c.dirs, c.looked = c.found[:root], nil, nil
	}
	c.dirs = []directory{{".", tree.root, now}}
	c.work()
	c.group.Wait()
	return c.found, true, c.moved(), c.err
}

// moved reports whether a directory that was looked at has changed since, or was gone:
// what has come into it may have come from one that was looked at after it.
func (c *comparer) moved() bool {
	if c.vanished.Load() {
		return true
	}
	for _, dir := range c.looked {
		if st, err := c.d.stat(dir.path); err != nil || statOf(&st) != dir.st {
			return true
		}
	}
	return false
}

func (c *comparer) differs(n *node, now Stat) bool {
	return n == nil || n.seen != now || c.provisional(n) || c.tick != (Timespec{}) && !now.Ctime.before(c.tick)
}

// provisional reports whether a file is to be read again whatever tells that it changed.
func (c *comparer) provisional(n *node) bool {
	return n.provisional != 0 && n.provisional >= c.since && n.provisional <= c.until
}

// Tick is what the time of a file would be that changed now. It goes on some hundred
// times in a second.
func Tick() Timespec {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts); err != nil {
		return Timespec{Sec: 1} // all that was ever changed may be changed now
	}
	return Timespec{ts.Sec, ts.Nsec}
}

// spread is how many directories must wait before another worker is worth it.
const spread = 8

// work looks at directories until there are none.
func (c *comparer) work() {
	buf := make([]byte, 32<<10)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.dirs) == 0 && c.busy > 0 && c.err == nil {
			c.wake.Wait()
		}
		if len(c.dirs) == 0 || c.err != nil {
			c.wake.Broadcast()
			return
		}
		dir := c.dirs[len(c.dirs)-1]
		c.dirs, c.looked = c.dirs[:len(c.dirs)-1], append(c.looked, dir)
		if len(c.dirs) > spread && c.workers < runtime.GOMAXPROCS(0) {
			c.workers++
			c.group.Go(c.work)
		}
		c.busy++
		c.mu.Unlock()
		found, dirs, err := c.look(dir, buf)
		c.mu.Lock()
		c.busy--
		c.found, c.dirs = append(c.found, found...), append(c.dirs, dirs...)
		if err != nil && c.err == nil {
			c.err = err
		}
		if len(dirs) > 0 || c.busy == 0 {
			c.wake.Broadcast()
		}
	}
}

// look compares one directory.
func (c *comparer) look(dir directory, buf []byte) (found []difference, dirs []directory, err error) {
	if err := c.ctx.Err(); err != nil {
		return nil, nil, err
	}
	names, stats, err := c.d.describe(dir.path, buf)
	for try := 1; err != nil && dir.path != "."; try++ {
		if c.d.vanished(dir.path, dir.st, err) { // whoever moves or removes it is captured later
			c.vanished.Store(true)
			return nil, nil, nil
		}
		if try == tries {
			break
		}
		names, stats, err = c.d.describe(dir.path, buf)
	}
	if err = translate(dir.path, err); mesh.CodeOf(err) == mesh.CodeDenied && dir.path != "." {
		return []difference{{path: dir.path, st: dir.st, node: dir.node, unkept: errUnreadable}}, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var known map[string]*node
	if dir.node != nil {
		known = dir.node.children
	}
	here := make(map[string]bool, len(known)) // names that the ledger has, and the directory as well
	for i, name := range names {
		n, p := c.tree.resolve(known[name]), path.Join(dir.path, name)
		kept, into := c.name(p, stats[i], n, &found)
		if kept && n != nil {
			here[name] = true
		}
		if into {
			dirs = append(dirs, directory{p, dirNode(n), stats[i]})
		}
	}
	for name, n := range known {
		p := path.Join(dir.path, name)
		if n = c.tree.resolve(n); !here[name] && !(n.entry.Type == objstore.TypeDir && c.skipped(p)) {
			found = append(found, difference{path: p, node: n, gone: true})
		}
	}
	return found, dirs, nil
}

// tooLong is a name that no request could name.
func tooLong(p string, st Stat) difference { return difference{path: p, st: st, unkept: errTooLong} }

var errTooLong = mesh.Errorf(mesh.CodeTooLarge, "its path is longer than %d bytes", mesh.MaxPathBytes)

var errUnreadable = mesh.Errorf(mesh.CodeDenied, "the node may not read it; let its owner do so (chmod u+rX)")

// vanished reports whether a name is not what it was when it was described, or was not
// when a call on it failed: somebody moves or removes it, or what is above it.
func (d *Dir) vanished(p string, described Stat, err error) bool {
	now, failed := d.stat(p)
	return errors.Is(err, fs.ErrNotExist) || failed != nil || now.Ino != described.Ino || now.Mode != described.Mode
}

// name compares one name that is there with what the ledger says, and adds it to
// found if it differs. kept: it is one that a ledger has; into: it is a directory
// that is looked at.
func (c *comparer) name(p string, now Stat, n *node, found *[]difference) (kept, into bool) {
	isDir := now.kind() == objstore.TypeDir
	skipped := isDir && c.skipped(p)
	if now.kind() == 0 || skipped && dirNode(n) == nil {
		return false, false
	}
	if len(p) > mesh.MaxPathBytes {
		*found = append(*found, tooLong(p, now))
		return false, false
	}
	if skipped {
		return true, false
	}
	if c.differs(n, now) {
		*found = append(*found, difference{path: p, st: now, node: n})
	}
	return true, isDir
}

// dirNode is what a ledger says of a directory; nil where it says something else.
func dirNode(n *node) *node {
	if n == nil || n.entry.Type != objstore.TypeDir {
		return nil
	}
	return n
}

// within reports whether a directory is skipped, or in one that is.
func (c *comparer) within(dir string) bool {
	for ; dir != "."; dir = path.Dir(dir) {
		if c.skipped(dir) {
			return true
		}
	}
	return false
}

func (c *comparer) skipped(dir string) bool { return c.skip != nil && c.skip(dir) }

// describe returns the names in a directory and how the file system describes
// each.
func (d *Dir) describe(dir string, buf []byte) (names []string, stats []Stat, err error) {
	f, err := d.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	var all []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			break
		}
		_, _, all = unix.ParseDirent(buf[:n], -1, all)
	}
	names, stats = all[:0], make([]Stat, 0, len(all))
	for _, name := range all {
		var st unix.Stat_t
		switch err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case errors.Is(err, unix.ENOENT):
			continue // it went away
		case err != nil:
			return nil, nil, err
		}
		names, stats = append(names, name), append(stats, statOf(&st))
	}
	return names, stats, nil
}

func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: uint64(st.Dev), Ino: st.Ino, Nlink: uint64(st.Nlink), Size: st.Size, Mode: st.Mode,
		Mtime: Timespec{int64(st.Mtim.Sec), int64(st.Mtim.Nsec)}, Ctime: Timespec{int64(st.Ctim.Sec), int64(st.Ctim.Nsec)},
	}
}

// Differs reports whether any name is described in another way than when the
// ledger last knew it.
func (d *Dir) Differs(ctx context.Context, s *Scan, tree Snapshot) (bool, error) {
	found, _, _, err := d.compare(ctx, s, tree)
	return slices.ContainsFunc(found, func(f difference) bool { return f.unkept != errTooLong }), err
}

// Describe tells a ledger how the file system describes its names, in a directory
// that was just made from it. A name that is another than the ledger says is left
// for a scan to find.
func (d *Dir) Describe(ctx context.Context, s *Scan, l *Ledger) error {
	found, _, _, err := d.compare(ctx, s, l.Snapshot())
	for i := range found {
		if f := &found[i]; f.node != nil && !f.gone {
			l.Seen(f.path, f.st, 0)
		}
	}
	return err
}

// Stat returns how the file system describes a path now.
func (d *Dir) Stat(p string) (Stat, error) {
	st, err := d.stat(p)
	return statOf(&st), err
}

// SetTime gives a name of the directory a time of modification.
func (d *Dir) SetTime(p string, at time.Time) error {
	return d.in(p, func(dir int, name string) error {
		return unix.UtimesNanoAt(dir, name, timesOf(&objstore.Entry{ModTime: at}), unix.AT_SYMLINK_NOFOLLOW)
	})
}
