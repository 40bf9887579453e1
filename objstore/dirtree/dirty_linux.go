package dirtree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// maxDirty is how many names that changed a Watch holds, and how many files, of some
// 300 bytes each: beyond that, looking at everything costs little more.
const maxDirty = 20_000

// Dirty is what may have changed in a directory: names, by the handles of the
// directories that they are in, since those may be called otherwise by now.
type Dirty struct {
	w     *Watcher
	dirs  map[handle]map[string]bool // true: the name may be another file than before
	files map[handle]struct{}        // that changed: under one of the names, or one that is not known
	size  int                        // names
}

func newDirty(w *Watcher) *Dirty {
	return &Dirty{w: w, dirs: map[handle]map[string]bool{}, files: map[handle]struct{}{}}
}

func (d *Dirty) add(dir handle, name string, renamed bool) {
	names := d.dirs[dir]
	if names == nil {
		names = map[string]bool{}
		d.dirs[dir] = names
	}
	before, known := names[name]
	if !known {
		d.size++
	}
	if !known || renamed && !before {
		names[name] = before || renamed
	}
}

func (d *Dirty) addFile(file handle) {
	if file != "" {
		d.files[file] = struct{}{}
	}
}

func (d *Dirty) full() bool { return max(d.size, len(d.files)) > maxDirty }

func (d *Dirty) merge(other *Dirty) {
	for dir, names := range other.dirs {
		for name, renamed := range names {
			d.add(dir, name, renamed)
		}
	}
	for file := range other.files {
		d.addFile(file)
	}
}

func (d *Dirty) has(name string) bool {
	for _, names := range d.dirs {
		if _, ok := names[name]; ok {
			return true
		}
	}
	return false
}

// errUnclear says that it cannot be told which names changed.
var errUnclear = errors.New("it is not clear what changed")

// suspects finds the names that may have changed, by what is known now of a Dirty.
type suspects struct {
	c     *comparer
	dirty *Dirty
	tries int // of opening files, that are left
	names map[string]suspect
	count map[inode]links     // of the files among them
	here  map[handle]struct{} // files that have one of the names
}

// links are how many names a file has, and how many of those are suspects.
type links struct{ all, here uint64 }

type suspect struct {
	st      Stat
	gone    bool
	renamed bool // it may be another file than before
}

// only looks at the names that may have changed. What is below a directory that
// may be another one is looked at as well. errUnclear: all must be looked at.
func (c *comparer) only(dirty *Dirty) error {
	s := &suspects{
		c: c, dirty: dirty, tries: maxReuse, names: map[string]suspect{}, count: map[inode]links{},
		here: map[handle]struct{}{},
	}
	root := pathOf(int(c.d.root.Fd()))
	if root == "" {
		return errUnclear
	}
	for dir, names := range dirty.dirs {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := s.dir(root, dir, names); err != nil {
			return err
		}
	}
	if err := s.others(); err != nil {
		return err
	}
	return s.judge()
}

// dir looks at names of one directory.
func (s *suspects) dir(root string, h handle, names map[string]bool) error {
	fd, err := s.dirty.w.open(h, &s.tries)
	if errors.Is(err, unix.ESTALE) { // what is known of it ends with a name above
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnclear, err)
	}
	defer unix.Close(fd)
	var self unix.Stat_t
	if err := unix.Fstat(fd, &self); err != nil {
		return fmt.Errorf("%w: %w", errUnclear, err)
	}
	at := pathOf(fd)
	if at == "" {
		return errUnclear
	}
	dir, inside := below(root, at)
	if self.Nlink == 0 || !inside {
		return nil
	}
	now, err := s.c.d.stat(dir)
	if err != nil || now.Ino != self.Ino || now.Dev != self.Dev {
		return errUnclear // it moves
	}
	skipped := s.c.within(dir)
	if !skipped {
		s.add(dir, suspect{st: statOf(&now)})
	}
	for name, renamed := range names {
		if name == "" || name == "." {
			continue
		}
		var st unix.Stat_t
		p := path.Join(dir, name)
		switch err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case errors.Is(err, unix.ENOENT):
			if !skipped {
				s.add(p, suspect{gone: true, renamed: true})
			}
			continue
		case err != nil:
			return fmt.Errorf("%w: %w", errUnclear, err)
		}
		regular := st.Mode&unix.S_IFMT == unix.S_IFREG
		if st.Nlink < 2 || regular && !skipped { // or it is not counted
			s.settle(fd, name)
		}
		if !skipped {
			s.add(p, suspect{st: statOf(&st), renamed: renamed})
		}
	}
	return nil
}

// below is a path as it counts from a directory.
func below(root, p string) (string, bool) {
	if p == root {
		return ".", true
	}
	return strings.CutPrefix(p, strings.TrimSuffix(root, "/")+"/")
}

// settle notes which file has a name.
func (s *suspects) settle(dir int, name string) {
	if h, _, err := unix.NameToHandleAt(dir, name, 0); err == nil {
		b := binary.NativeEndian.AppendUint32(nil, uint32(h.Size()))
		b = binary.NativeEndian.AppendUint32(b, uint32(h.Type()))
		s.here[handle(append(b, h.Bytes()...))] = struct{}{}
	}
}

// add adds a name; what was renamed stays so.
func (s *suspects) add(p string, x suspect) {
	old, known := s.names[p]
	x.renamed = x.renamed || old.renamed
	s.names[p] = x
	if !known && !x.gone && x.st.kind() == objstore.TypeFile {
		key := inode{x.st.Dev, x.st.Ino}
		s.count[key] = links{x.st.Nlink, s.count[key].here + 1}
	}
}

// others adds the names that are not told of: of files that changed under another
// one, and of files that were read while they could be written to.
func (s *suspects) others() error {
	wanted := map[inode]bool{}
	for file, n := range s.count {
		if n.here < n.all {
			wanted[file] = true
		}
	}
	for file := range s.dirty.files {
		if _, ok := s.here[file]; ok {
			continue
		}
		fd, err := s.dirty.w.open(file, &s.tries)
		if errors.Is(err, unix.ESTALE) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errUnclear, err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnclear, err)
		}
		key := inode{st.Dev, st.Ino}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && s.count[key].here < uint64(st.Nlink) {
			wanted[key] = true
		}
	}
	tree := &s.c.tree
	if len(wanted) == 0 && (tree.provisional == 0 || tree.provisional < s.c.since) {
		return nil
	}
	tree.each(".", tree.root, func(p string, n *node) {
		if wanted[inode{n.seen.Dev, n.seen.Ino}] || s.c.provisional(n) {
			s.look(p)
		}
	})
	return nil
}

// look adds a name of the ledger, unless it is there.
func (s *suspects) look(p string) {
	if _, ok := s.names[p]; ok || s.c.within(path.Dir(p)) {
		return
	}
	st, err := s.c.d.stat(p)
	if err != nil {
		s.add(p, suspect{gone: true, renamed: true})
		return
	}
	s.add(p, suspect{st: statOf(&st)})
}

// judge compares the names with the ledger.
func (s *suspects) judge() error {
	paths := make([]string, 0, len(s.names))
	for p := range s.names {
		paths = append(paths, p)
	}
	slices.SortFunc(paths, comparePaths)
	c, done := s.c, "" // done is a directory of which all was looked at
	for _, p := range paths {
		if p == "." || done != "" && mesh.Inside(done, p) {
			continue // the directory itself is always looked at
		}
		if len(path.Dir(p)) > mesh.MaxPathBytes {
			if x := s.names[p]; !x.gone {
				c.found = append(c.found, tooLong(p, x.st))
			}
			continue
		}
		if dir := c.tree.find(path.Dir(p)); dir == nil || dir.entry.Type != objstore.TypeDir {
			return errUnclear
		}
		x, n := s.names[p], c.tree.find(p)
		var kept, into bool
		if !x.gone {
			kept, into = c.name(p, x.st, n, &c.found)
		}
		if n != nil && !kept && !(n.entry.Type == objstore.TypeDir && c.skipped(p)) {
			c.found = append(c.found, difference{path: p, node: n, gone: true})
		}
		if n != nil && n.entry.Type == objstore.TypeDir && !into {
			done = p // with what was below it
		}
		if into && (x.renamed || n == nil || n.entry.Type != objstore.TypeDir || n.seen.Ino != x.st.Ino || n.seen.Dev != x.st.Dev) {
			c.dirs = append(c.dirs, directory{p, dirNode(n), x.st})
			done = p
		}
	}
	c.work()
	c.group.Wait()
	return c.err
}
