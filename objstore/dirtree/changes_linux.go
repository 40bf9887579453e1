package dirtree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Changes returns the ops that make what a ledger says equal to the directory, in
// an order in which they can be applied: what is there now, then what is gone, and
// last the directories, whose times the others change. A change without an op says
// that only the description is another one.
//
// What is written to at that moment is left out, with a Note: a later scan finds
// it, if that looks at all names, or at those of the same Dirty again. Renames are a
// put and a remove.
func (d *Dir) Changes(ctx context.Context, s *Scan, tree Snapshot) (Changed, error) {
	found, whole, moved, err := d.compare(ctx, s, tree)
	if err != nil || len(found) == 0 {
		return Changed{Whole: whole, Moved: moved}, err
	}
	found = d.complete(found, &tree)
	slices.SortFunc(found, func(a, b difference) int { return comparePaths(a.path, b.path) })
	c := &changes{d: d, ctx: ctx, s: s, tree: tree, first: map[inode]*difference{}, unkeptFiles: map[inode]*mesh.Error{}, lead: map[inode]*difference{}, taken: map[*node]inode{}, touched: map[string]bool{}}
	if err := c.read(found); err != nil {
		return Changed{}, err
	}
	for i := range found {
		c.decide(&found[i])
	}
	c.times(found)
	return Changed{Changes: append(append(c.puts, c.removes...), c.dirs...), Left: c.left, Unkept: c.unkept, Moved: moved || c.vanished.Load(), Whole: whole}, nil
}

// comparePaths sorts as a walk goes: what is in a directory follows it.
func comparePaths(a, b string) int {
	if a == "." || b == "." {
		return cmp.Compare(strings.TrimPrefix(a, "."), strings.TrimPrefix(b, "."))
	}
	for {
		x, restA, moreA := strings.Cut(a, "/")
		y, restB, moreB := strings.Cut(b, "/")
		switch c := cmp.Compare(x, y); {
		case c != 0:
			return c
		case !moreA && !moreB:
			return 0
		case !moreA:
			return -1
		case !moreB:
			return 1
		}
		a, b = restA, restB
	}
}

// complete adds the names of changed files that look unchanged: those that a
// ledger does not know to be of the same file. A name that went with a directory is none.
func (d *Dir) complete(found []difference, tree *Snapshot) []difference {
	missing := map[inode]int{}
	for i := range found {
		if f := &found[i]; !f.gone && f.st.kind() == objstore.TypeFile && f.st.Nlink > 1 {
			key := inode{f.st.Dev, f.st.Ino}
			if missing[key] == 0 {
				missing[key] = int(f.st.Nlink)
			}
			if missing[key]--; missing[key] == 0 {
				delete(missing, key)
			}
		}
	}
	if len(missing) == 0 {
		return found
	}
	here := map[string]bool{}
	for i := range found {
		here[found[i].path] = true
	}
	tree.each(".", tree.root, func(p string, n *node) {
		if missing[inode{n.seen.Dev, n.seen.Ino}] == 0 || here[p] {
			return
		}
		if st, err := d.stat(p); err == nil && st.Dev == n.seen.Dev && st.Ino == n.seen.Ino {
			found = append(found, difference{path: p, st: n.seen, node: n})
		}
	})
	return found
}

type changes struct {
	d       *Dir
	ctx     context.Context
	s       *Scan
	tree    Snapshot
	first   map[inode]*difference // the name under which a file with several is read
	lead    map[inode]*difference // the first name that was read: it may have got others meanwhile
	taken   map[*node]inode       // which file goes on as one that had several names
	touched map[string]bool       // directories whose time an op changes
	puts    []Change
	removes []Change
	dirs    []Change
	left    int // names that were left out
	unkept  []Unkept

	unkeptFiles map[inode]*mesh.Error // with several names, and why

	vanished atomic.Bool // one of them went away
}

// read finds out what each name is now, files with several workers.
func (c *changes) read(found []difference) error {
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(max(1, c.s.Workers))
	for i := range found {
		f := &found[i]
		if f.gone || f.unkept != nil {
			continue
		}
		if f.st.kind() == objstore.TypeFile && f.st.Nlink > 1 {
			key := inode{f.st.Dev, f.st.Ino}
			if c.first[key] != nil {
				continue // it is read under its first name
			}
			c.first[key] = f
		}
		if len(found) == 1 {
			return c.inspect(ctx, f)
		}
		g.Go(func() error { return c.inspect(ctx, f) })
	}
	return g.Wait()
}

// tries is how often a file is read that changes meanwhile.
const tries = 3

// inspect reads a name. One that is gone meanwhile, even if it is back, or written to
// all the time, is left as the ledger has it.
func (c *changes) inspect(ctx context.Context, f *difference) error {
	if c.s.Quiet > 0 && f.st.kind() == objstore.TypeFile && time.Since(time.Unix(f.st.Ctime.Sec, f.st.Ctime.Nsec)) < c.s.Quiet {
		return nil // f.entry is nil: it is left
	}
	var err error
	for range tries {
		if err = c.inspectOnce(ctx, f); err == nil {
			return nil
		}
		f.entry = nil
		code := mesh.CodeOf(err)
		switch {
		case code == mesh.CodeConflict:
		case code == mesh.CodeUnsupported:
			return nil
		case ctx.Err() == nil && c.d.vanished(f.path, f.st, err):
			c.vanished.Store(true)
			return nil
		case code != mesh.CodeDenied: // a directory may have been a link at that moment
			return fmt.Errorf("%.200q: %w", f.path, err)
		}
	}
	if mesh.CodeOf(err) == mesh.CodeDenied {
		f.unkept = errUnreadable
		return nil
	}
	c.d.note(f.path, "it is being written to")
	return nil
}

func (c *changes) inspectOnce(ctx context.Context, f *difference) error {
	st, err := c.d.stat(f.path)
	if err != nil {
		return err
	}
	if st.Ino != f.st.Ino || st.Mode&unix.S_IFMT != f.st.Mode&unix.S_IFMT {
		return fs.ErrNotExist // another file: the next scan's
	}
	e, err := c.d.entry(f.path, "", st)
	if err != nil {
		return err
	}
	f.st, f.data = statOf(&st), nil
	if !c.fits(f, &e) {
		return nil
	}
	f.entry = &e
	if e.Type != objstore.TypeFile || e.DataSize() == 0 {
		return nil
	}
	r, err := c.d.content(f.path, st, e.Data())
	if err != nil {
		return err
	}
	e.Content, f.data, err = c.s.Content(ctx, io.LimitReader(r, e.DataSize()+1), e.DataSize())
	if err = errors.Join(err, r.Close()); err == nil && !c.fits(f, &e) {
		f.entry = nil
	}
	return err
}

// fits notes that a name cannot be kept where its op would be too large: what one
// command leaves keeps nothing else from being stored.
func (c *changes) fits(f *difference, e *objstore.Entry) bool {
	op := objstore.Op{Path: mesh.Path(f.path), Entry: e, Data: f.data}
	if n := op.Size(); c.s.MaxOp > 0 && n > c.s.MaxOp {
		f.unkept = mesh.Errorf(mesh.CodeTooLarge, "its %d holes, %d parts and its attributes would take %d bytes of a record, which has room for %d; copy it without holes (cp --sparse=never), or make several files of it", len(e.Holes), len(e.Content), n, c.s.MaxOp)
		return false
	}
	return true
}

// decide turns what was found into ops.
func (c *changes) decide(f *difference) {
	if f.gone {
		c.removes = append(c.removes, Change{Op: objstore.Op{Kind: objstore.KindRemove, Path: mesh.Path(f.path)}})
		c.touch(f.path)
		return
	}
	key := inode{f.st.Dev, f.st.Ino}
	if f.st.kind() == objstore.TypeFile && f.st.Nlink > 1 && f.unkept != errTooLong { // its other names may be kept
		if lead := c.lead[key]; lead != nil {
			c.link(f, lead)
			return
		}
		if f.unkept == nil {
			f.unkept = c.unkeptFiles[key]
		}
		c.unkeptFiles[key] = f.unkept
	}
	if f.unkept != nil {
		c.unkept = append(c.unkept, Unkept{f.path, f.st.Ctime, f.unkept})
		return
	}
	if f.entry == nil {
		c.left++ // or it was not read because of another name, which was not read either
		return
	}
	if f.st.kind() == objstore.TypeFile {
		c.lead[key] = f
	}
	change := Change{Seen: f.st}
	change.Op.Path = mesh.Path(f.path)
	old := f.node
	switch {
	case old == nil || old.entry.Type != f.entry.Type, c.stolen(f, key), !sameButTimes(&old.entry, f.entry):
		change.Op.Kind, change.Op.Entry, change.Op.Data = objstore.KindPut, f.entry, f.data
		f.fresh = true
		c.touch(f.path)
	case old.entry.Mode != f.entry.Mode && f.entry.Type != objstore.TypeSymlink || f.entry.Type != objstore.TypeDir && !old.entry.ModTime.Equal(f.entry.ModTime):
		change.Op.Kind, change.Op.Mode, change.Op.ModTime = objstore.KindAttr, &f.entry.Mode, &f.entry.ModTime
		if f.entry.Type == objstore.TypeSymlink {
			change.Op.Mode = nil
		}
	}
	c.puts = append(c.puts, change)
}

// stolen reports whether the name was one of several of a file in the ledger that
// is another file now.
func (c *changes) stolen(f *difference, key inode) bool {
	if f.node == nil || f.node.count == 0 {
		return false
	}
	if by, ok := c.taken[f.node]; ok {
		return by != key
	}
	c.taken[f.node] = key
	return false
}

// link says that a name is another one of a file.
func (c *changes) link(f, first *difference) {
	if f.node != nil && f.node == first.node && !first.fresh {
		c.puts = append(c.puts, Change{Op: objstore.Op{Path: mesh.Path(f.path)}, Seen: first.st})
		return
	}
	e := objstore.Entry{Type: objstore.TypeLink, Target: first.path}
	c.puts = append(c.puts, Change{Op: objstore.Op{Kind: objstore.KindPut, Path: mesh.Path(f.path), Entry: &e}, Seen: first.st})
	c.touch(f.path)
}

func (c *changes) touch(p string) {
	if p != "." {
		c.touched[path.Dir(p)] = true
	}
}

// times gives directories the times that they have: those that differ, and those
// that the other ops touch.
func (c *changes) times(found []difference) {
	for i := range found {
		f := &found[i]
		if f.entry == nil || f.entry.Type != objstore.TypeDir {
			continue
		}
		known := f.node != nil && f.node.entry.Type == objstore.TypeDir && !f.fresh && f.node.entry.ModTime.Equal(f.entry.ModTime)
		if !known || c.touched[f.path] {
			c.time(f.path, f.entry, f.st)
		}
		delete(c.touched, f.path)
	}
	for dir := range c.touched {
		if n := c.tree.find(dir); n != nil && n.entry.Type == objstore.TypeDir {
			c.time(dir, &n.entry, n.seen)
		}
	}
	slices.SortFunc(c.dirs, func(a, b Change) int { return comparePaths(string(b.Op.Path), string(a.Op.Path)) })
}

func (c *changes) time(dir string, e *objstore.Entry, seen Stat) {
	at := e.ModTime
	c.dirs = append(c.dirs, Change{Op: objstore.Op{Kind: objstore.KindAttr, Path: mesh.Path(dir), ModTime: &at}, Seen: seen})
}

// sameButTimes compares what an attr op does not say.
func sameButTimes(a, b *objstore.Entry) bool {
	return a.Size == b.Size && a.Target == b.Target && slices.Equal(a.Xattrs, b.Xattrs) &&
		slices.Equal(a.Holes, b.Holes) && slices.Equal(a.Content, b.Content)
}
