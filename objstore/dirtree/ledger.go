package dirtree

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/objstore"
)

// Ledger is what the journal says that a directory holds: every name with its
// entry, and how the file system described it when it was last known to be that.
// So a scan reads only what was changed since, and a commit is made of what the
// journal says and never of a directory that moves.
//
// It is safe for concurrent use and holds about 400 bytes for each name. A
// Snapshot costs the same whatever its size, and stays as it is.
type Ledger struct {
	mu   sync.Mutex
	tree Snapshot
	gen  uint64 // nodes of an older generation belong to a snapshot too
	next uint64 // id of the next file with several names
}

// Snapshot is a Ledger at one moment. It never changes.
type Snapshot struct {
	root  *node
	links map[uint64]*node // files with several names, by id
	names int

	provisional uint64 // no node has a later one
}

// node is a name in its directory.
type node struct {
	gen      uint64
	entry    objstore.Entry   // without name; a directory's without content, a link's unset
	children map[string]*node // of a directory
	link     uint64           // not 0: another file's id in links; the rest is there
	count    int              // of a file in links: its names

	seen        Stat   // zero: unknown
	provisional uint64 // the scan that read it while somebody could write it, or 0
}

// Stat is how the file system described a file. Whoever changes a file changes
// it, but for a store through a mapping of memory that was there before, and for a change
// in the tick of another one, see Scan.
type Stat struct {
	Dev, Ino, Nlink uint64
	Size            int64
	Mode            uint32
	Mtime, Ctime    Timespec
}

// Timespec is a time as the file system has it.
type Timespec struct{ Sec, Nsec int64 }

// before reports whether a file that changed at t cannot have changed at now or later. A
// file system may know no more than the second.
func (t Timespec) before(now Timespec) bool {
	return t.Sec < now.Sec || t.Sec == now.Sec && t.Nsec < now.Nsec && t.Nsec != 0
}

// NewLedger returns the ledger of an empty directory.
func NewLedger() *Ledger {
	root := &node{entry: objstore.Entry{Type: objstore.TypeDir, Mode: 0o700, ModTime: time.Unix(0, 0).UTC()}, children: map[string]*node{}}
	return &Ledger{tree: Snapshot{root: root, links: map[uint64]*node{}}, next: 1}
}

// LoadLedger returns the ledger of a stored tree.
func LoadLedger(ctx context.Context, r *objstore.Reader, root objstore.Entry) (*Ledger, error) {
	l := NewLedger()
	for it, err := range r.Walk(ctx, root) {
		if err != nil {
			return nil, fmt.Errorf("load a tree: %w", err)
		}
		l.put(it.Path, it.Entry)
	}
	return l, nil
}

// Len returns the number of names, without the directory itself.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.names
}

// Entry returns what a path is, see Snapshot.Entry.
func (l *Ledger) Entry(p string) (objstore.Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.Entry(p)
}

// Snapshot returns the ledger as it is now. What changes afterwards is copied
// first, directory by directory.
func (l *Ledger) Snapshot() Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gen++
	return l.tree
}

// Apply makes the ledger say what it says after an op of a record of that time.
// A directory that a name comes into or goes from has that time from then on, and how
// it was described fits no more: where the op that tells its real time is not applied as
// well, the next scan looks at it.
// Any op can be applied to any ledger: a directory that is missing on the way is
// made, and what is on the way and none gives place to one.
func (l *Ledger) Apply(op *objstore.Op, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := string(op.Path)
	switch op.Kind {
	case objstore.KindPut:
		l.put(p, *op.Entry)
		l.touch(path.Dir(p), p, at)
	case objstore.KindRemove:
		if l.cut(p) != nil {
			l.touch(path.Dir(p), p, at)
		}
	case objstore.KindRename:
		l.rename(p, string(op.To), at)
	case objstore.KindAttr:
		l.attr(p, op)
	}
}

func (l *Ledger) touch(dir, name string, at time.Time) {
	if n := l.tree.find(dir); name != "." && n != nil && n.entry.Type == objstore.TypeDir {
		n = l.edit(dir)
		n.entry.ModTime, n.seen = at.UTC(), Stat{Dev: n.seen.Dev, Ino: n.seen.Ino}
	}
}

func (l *Ledger) attr(p string, op *objstore.Op) {
	if l.tree.find(p) == nil {
		return
	}
	n := l.file(p)
	if op.Mode != nil {
		n.entry.Mode = *op.Mode & objstore.ModeMask
	}
	if op.ModTime != nil {
		n.entry.ModTime = op.ModTime.UTC()
	}
	n.seen = Stat{}
}

func (l *Ledger) rename(from, to string, at time.Time) {
	if from == to || from == "." || to == "." || strings.HasPrefix(to, from+"/") || l.tree.find(from) == nil {
		return // it was done before: or nothing that a file system would do
	}
	n := l.take(from)
	l.cut(to)
	dir := l.edit(path.Dir(to))
	if old := dir.children[path.Base(to)]; old != nil {
		l.drop(old)
	}
	dir.children[path.Base(to)] = n
	l.touch(path.Dir(from), from, at)
	l.touch(path.Dir(to), to, at)
}

// put makes a name what its entry says.
func (l *Ledger) put(p string, e objstore.Entry) {
	e.Name = ""
	if e.Type == objstore.TypeDir {
		e.Content = nil
		n := l.edit(p)
		n.entry, n.seen = e, Stat{}
		return
	}
	if p == "." {
		return // nothing but a directory can be the root
	}
	n := &node{gen: l.gen, entry: e}
	if e.Type == objstore.TypeLink {
		if n = l.another(e.Target); n == nil {
			l.cut(p)
			return
		}
	}
	l.cut(p)
	l.edit(path.Dir(p)).children[path.Base(p)] = n
	l.tree.names++
}

// another returns a further name of a file; nil if that is none.
func (l *Ledger) another(target string) *node {
	n := l.tree.find(target)
	if n == nil || n.entry.Type != objstore.TypeFile {
		return nil
	}
	named := l.edit(path.Dir(target)).children[path.Base(target)]
	id := named.link
	if id == 0 {
		id = l.next
		l.next++
		first := *named
		first.gen, first.count = l.gen, 1
		l.editLinks()[id] = &first
		l.edit(path.Dir(target)).children[path.Base(target)] = &node{gen: l.gen, link: id}
	}
	l.linked(id).count++
	return &node{gen: l.gen, link: id}
}

// linked returns a file with several names, to be changed.
func (l *Ledger) linked(id uint64) *node {
	links := l.editLinks()
	n := links[id]
	if n.gen != l.gen {
		c := *n
		c.gen = l.gen
		n = &c
		links[id] = n
	}
	return n
}

// editLinks returns the files with several names, to be changed.
func (l *Ledger) editLinks() map[uint64]*node {
	if l.tree.linksGen() != l.gen {
		l.tree.links = maps.Clone(l.tree.links)
		l.tree.links[0] = &node{gen: l.gen}
	}
	return l.tree.links
}

// linksGen is the generation of the map, which is kept under the id of no file.
func (s *Snapshot) linksGen() uint64 {
	if n := s.links[0]; n != nil {
		return n.gen
	}
	return 0
}

// cut takes a name out, and all below it; nil if there is none.
func (l *Ledger) cut(p string) *node {
	if p == "." || l.tree.find(p) == nil {
		return nil
	}
	n := l.take(p)
	l.drop(n)
	return n
}

// take takes a name out of its directory, where it is.
func (l *Ledger) take(p string) *node {
	dir := l.edit(path.Dir(p))
	n := dir.children[path.Base(p)]
	delete(dir.children, path.Base(p))
	return n
}

// drop forgets what was taken out.
func (l *Ledger) drop(n *node) {
	l.tree.names--
	for _, c := range n.children {
		l.drop(c)
	}
	if n.link == 0 {
		return
	}
	f := l.linked(n.link)
	if f.count--; f.count == 0 {
		delete(l.editLinks(), n.link)
	}
}

// edit returns a directory, to be changed, and makes it where it is not.
func (l *Ledger) edit(p string) *node {
	n := l.own(l.tree.root)
	l.tree.root = n
	for name := range split(p) {
		c := n.children[name]
		switch {
		case c == nil || c.entry.Type != objstore.TypeDir:
			if c != nil {
				l.drop(c)
			}
			c = &node{gen: l.gen, children: map[string]*node{}, entry: objstore.Entry{Type: objstore.TypeDir, Mode: 0o755, ModTime: n.entry.ModTime}}
			l.tree.names++
		default:
			c = l.own(c)
		}
		n.children[name] = c
		n = c
	}
	return n
}

// file returns what a name that is there stands for, to be changed.
func (l *Ledger) file(p string) *node {
	if p == "." {
		return l.edit(p)
	}
	dir := l.edit(path.Dir(p))
	n := l.own(dir.children[path.Base(p)])
	dir.children[path.Base(p)] = n
	if n.link != 0 {
		return l.linked(n.link)
	}
	return n
}

// own returns a node that no snapshot has.
func (l *Ledger) own(n *node) *node {
	if n.gen == l.gen {
		return n
	}
	c := *n
	c.gen, c.children = l.gen, maps.Clone(n.children)
	return &c
}

// split yields the names of a path; none for ".".
func split(p string) iter.Seq[string] {
	if p == "." {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(p, "/")
}

// find returns what a path stands for; nil if there is none.
func (s *Snapshot) find(p string) *node {
	n := s.root
	for name := range split(p) {
		if n = n.children[name]; n == nil {
			return nil
		}
	}
	return s.resolve(n)
}

func (s *Snapshot) resolve(n *node) *node {
	if n != nil && n.link != 0 {
		return s.links[n.link]
	}
	return n
}

// Len returns the number of names, without the directory itself.
func (s Snapshot) Len() int { return s.names }

// Entry returns what a path is; of a file with several names the entry is that
// of the file. False: there is none.
func (s Snapshot) Entry(p string) (objstore.Entry, bool) {
	n := s.find(p)
	if n == nil {
		return objstore.Entry{}, false
	}
	e := n.entry
	if p != "." {
		e.Name = path.Base(p)
	}
	return e, true
}

// Items yields the tree in the order that objstore.Writer.Tree takes it. Files
// have their content and directories none; Open is nil.
func (s Snapshot) Items() iter.Seq[objstore.Item] {
	return func(yield func(objstore.Item) bool) {
		first := map[uint64]string{} // the first name of each file with several
		s.items(".", "", s.root, first, yield)
	}
}

func (s *Snapshot) items(p, name string, n *node, first map[uint64]string, yield func(objstore.Item) bool) bool {
	e := s.resolve(n).entry
	e.Name = name
	if n.link != 0 {
		if target, ok := first[n.link]; ok {
			return yield(objstore.Item{Path: p, Entry: objstore.Entry{Name: name, Type: objstore.TypeLink, Target: target}})
		}
		first[n.link] = p
	}
	if !yield(objstore.Item{Path: p, Entry: e}) {
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if !s.items(path.Join(p, name), name, n.children[name], first, yield) {
			return false
		}
	}
	return true
}

// each calls do for every name, with what it stands for.
func (s *Snapshot) each(p string, n *node, do func(p string, n *node)) {
	do(p, s.resolve(n))
	for name, c := range n.children {
		s.each(path.Join(p, name), c, do)
	}
}

// Seen notes how the file system describes a path that was read by a scan of that
// number while somebody could write it; 0: nobody could. It counts if the
// description fits what the ledger says, which is the answer, or else the next scan
// that looks at the file reads it.
func (l *Ledger) Seen(p string, st Stat, scan uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.tree.find(p)
	if n == nil || !st.fits(&n.entry) {
		return false
	}
	if n.entry.Type != objstore.TypeFile {
		scan = 0 // there is no content to change unseen
	}
	if n.seen != st || n.provisional != scan {
		f := l.file(p)
		f.seen, f.provisional = st, scan
		l.tree.provisional = max(l.tree.provisional, scan)
	}
	return true
}

// Moved is Seen of a path of which an op has changed the name or the attributes, and
// not the content: that stays as provisional as it was. scan counts where the content
// was recorded just before.
func (l *Ledger) Moved(p string, st Stat, scan uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.tree.find(p)
	if n == nil || n.seen == st || !st.fits(&n.entry) {
		return
	}
	f := l.file(p)
	if f.seen == (Stat{}) && f.entry.Type == objstore.TypeFile {
		f.provisional = max(f.provisional, scan)
		l.tree.provisional = max(l.tree.provisional, scan)
	}
	f.seen = st
}

// Knows reports whether a path is what the ledger says, as far as its
// description tells.
func (l *Ledger) Knows(p string, st Stat) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.tree.find(p)
	return n != nil && n.seen == st && n.seen != Stat{}
}

// fits reports whether a file of this entry may be described so.
func (st *Stat) fits(e *objstore.Entry) bool {
	if e.Type != st.kind() || e.Type != objstore.TypeSymlink && e.Mode != st.Mode&objstore.ModeMask {
		return false
	}
	if !e.ModTime.Equal(st.modTime()) {
		return false
	}
	return e.Type != objstore.TypeFile || e.Size == st.Size
}

// IsDir reports whether it describes a directory.
func (st *Stat) IsDir() bool { return st.kind() == objstore.TypeDir }

// Kept reports whether it describes a file of a type that is kept.
func (st *Stat) Kept() bool { return st.kind() != 0 }

func (st *Stat) modTime() time.Time { return time.Unix(st.Mtime.Sec, st.Mtime.Nsec).UTC() }

// kind is the type of a file, 0 for those that are not kept.
func (st *Stat) kind() objstore.Type {
	switch st.Mode & 0o170000 {
	case 0o100000:
		return objstore.TypeFile
	case 0o040000:
		return objstore.TypeDir
	case 0o120000:
		return objstore.TypeSymlink
	case 0o010000:
		return objstore.TypeFIFO
	}
	return 0
}
