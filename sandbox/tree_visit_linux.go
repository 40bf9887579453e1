package sandbox

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// A directory's names are taken in chunks of at most chunkNames and
	// chunkBytes, and all that a visit has taken stays below maxNamesHeld: what
	// was taken first is dropped then and read again when its turn comes.
	chunkNames   = 64 << 10
	chunkBytes   = 8 << 20
	maxNamesHeld = 16 << 20
	// maxCursor bounds a cursor's path, whose last name may be one that makes it
	// longer than a path can be.
	maxCursor = mesh.MaxPathBytes + mesh.MaxNameBytes + 1
	// leastSteps is what a page does after its time, within as much time again:
	// else each page of a huge directory would read all of it to look at one
	// name.
	leastSteps = 1000
)

// pageLimits bound what one page of Search or Grep does.
type pageLimits struct {
	names int
	bytes int64
	time  time.Duration
}

// visit goes through what is below a directory: depth first, the names of each
// directory sorted by their bytes, no symbolic link followed, what is excluded
// left out. It can stop after any step and be gone on with in another visit
// from its cursor: the path it came to, with a slash behind a directory that is
// done with.
type visit struct {
	tree  *Tree
	ctx   context.Context
	root  int    // O_PATH, the caller's
	base  string // path of root from the workspace's
	sel   *selection
	stack []*visited
	held  int // bytes of names in stack

	cursor string
	ended  bool
	looked int // names
	steps  int
	until  time.Time // when the page should end
	over   time.Time // when it ends as soon as it has done anything
}

// visited is one directory on the way.
type visited struct {
	rel   string // from the visit's root; "" is that
	id    inode
	fd    int      // O_PATH; -1 while too many others are open
	after string   // the last name that was passed
	names []string // the next ones
	bytes int      // that they hold
	whole bool     // there are no others
}

// found is one name that a visit has come to. dir is good until the next step.
type found struct {
	dir  int
	name string
	rel  string
	st   unix.Stat_t
}

// admit waits for the turn of a search; the caller calls the result at its end.
func (t *Tree) admit(ctx context.Context) (func(), error) {
	select {
	case t.scans <- struct{}{}:
		return func() { <-t.scans }, nil
	case <-ctx.Done():
		return nil, mesh.Errorf(mesh.CodeOf(ctx.Err()), "stopped: %v", ctx.Err())
	case <-t.done:
		return nil, errClosing()
	}
}

// newVisit begins below root, the directory at the path base, or goes on behind
// cursor; with again, what the cursor names is found once more. It is closed in
// any case.
func (t *Tree) newVisit(ctx context.Context, root int, base string, sel *selection) (*visit, error) {
	v := &visit{tree: t, ctx: ctx, root: root, base: base, sel: sel, until: t.deadline()}
	v.over = v.until.Add(t.paging.time)
	fd, err := openAt(root, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return v, v.push(fd, "")
}

// deadline is when a page that begins now should end.
func (t *Tree) deadline() time.Time { return time.Now().Add(t.paging.time) }

func (v *visit) close() {
	for _, l := range v.stack {
		l.shut()
	}
}

func (l *visited) shut() {
	if l.fd >= 0 {
		unix.Close(l.fd)
		l.fd = -1
	}
}

// resume goes to the cursor, which is a client's, as far as it is still there.
// With again, what it names is found once more.
func (v *visit) resume(cursor string, again bool) error {
	v.cursor = cursor
	names := strings.Split(strings.TrimSuffix(cursor, "/"), "/")
	for i, name := range names {
		if name == "" || name == "." || name == ".." || strings.IndexByte(name, 0) >= 0 || len(cursor) > maxCursor {
			return mesh.Errorf(mesh.CodeInvalid, "cursor %.200q was not returned by this search", cursor)
		}
		l := v.stack[len(v.stack)-1]
		last := i == len(names)-1
		if last && again {
			l.names, l.bytes = []string{name}, len(name)
			v.held += l.bytes
			return nil
		}
		l.after = name
		rel := strings.Join(names[:i+1], "/")
		if v.sel.excludes(rel) || last && strings.HasSuffix(cursor, "/") {
			return nil
		}
		if err := v.descend(l, name, rel); err != nil {
			return err
		}
		if v.stack[len(v.stack)-1] == l {
			return nil
		}
	}
	return nil
}

// stopped returns an error once the caller or the Tree has had enough.
func (v *visit) stopped() error {
	if err := v.ctx.Err(); err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "stopped: %v", err)
	}
	return v.tree.ending()
}

// late says that the page's time is over.
func (v *visit) late() bool { return time.Now().After(v.until) }

// spent says that a page has done enough.
func (v *visit) spent() bool {
	switch {
	case v.looked >= v.tree.paging.names:
		return true
	case v.steps == 0 || !v.late():
		return false
	}
	return v.steps >= leastSteps || time.Now().After(v.over)
}

// step goes one step on. It returns nil when that did not come to a name, or
// the name is gone or left out.
func (v *visit) step() (*found, error) {
	if err := v.stopped(); err != nil {
		return nil, err
	}
	l := v.stack[len(v.stack)-1]
	if len(l.names) == 0 && !l.whole {
		return nil, v.refill(l)
	}
	if len(l.names) == 0 {
		v.pop(l)
		return nil, nil
	}
	name := l.names[0]
	l.after, l.names, l.bytes = name, l.names[1:], l.bytes-len(name)
	v.held -= len(name)
	rel := join(l.rel, name)
	v.cursor = rel
	v.looked++
	v.steps++
	if len(join(v.base, rel)) > mesh.MaxPathBytes || v.sel.excludes(rel) || !v.reopen(l) {
		return nil, nil
	}
	f := &found{dir: l.fd, name: name, rel: rel}
	err := unix.Fstatat(l.fd, name, &f.st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, ifVanished(err)
	}
	if f.st.Mode&unix.S_IFMT == unix.S_IFDIR && len(v.base)+len(rel)+len("/n") < mesh.MaxPathBytes {
		return f, v.descend(l, name, rel)
	}
	return f, nil
}

// ifVanished is nil for errors that say that a name is not what it was, or that
// we may not look: as if it were not there.
func ifVanished(err error) error {
	for _, no := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.EPERM, unix.ESTALE} {
		if errors.Is(err, no) {
			return nil
		}
	}
	return err
}

// join joins a directory and a name; the root is "" or ".".
func join(dir, name string) string {
	if dir == "" || dir == "." {
		return name
	}
	return dir + "/" + name
}

// descend goes down into the directory name of l, if it still is one.
func (v *visit) descend(l *visited, name, rel string) error {
	fd, err := openAt(l.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ifVanished(err)
	}
	return v.push(fd, rel)
}

// push puts the directory on top and owns its descriptor.
func (v *visit) push(fd int, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	v.stack = append(v.stack, &visited{rel: rel, id: inode{st.Dev, st.Ino}, fd: fd})
	if over := len(v.stack) - 1 - maxOpenDirs; over >= 0 {
		v.stack[over].shut()
	}
	return nil
}

// pop leaves the directory on top, which is done with.
func (v *visit) pop(l *visited) {
	l.shut()
	v.stack = v.stack[:len(v.stack)-1]
	v.cursor = l.rel + "/"
	v.steps += leastSteps
	v.ended = len(v.stack) == 0
}

// refill reads the next names of l. A directory that is not where it was, or
// may not be read, has none.
func (v *visit) refill(l *visited) error {
	if l.whole = !v.reopen(l); l.whole {
		return nil
	}
	c := chunk{most: chunkNames, mostBytes: chunkBytes}
	start := time.Now()
	if err := c.scan(l.fd, l.after, v.stopped); err != nil {
		l.whole = true
		return ifVanished(err)
	}
	v.over = v.over.Add(time.Since(start))
	l.names, l.whole, l.bytes = c.names, c.bound == "", 0
	for _, name := range c.names {
		l.bytes += len(name)
	}
	v.held += l.bytes
	for _, old := range v.stack {
		if v.held <= maxNamesHeld {
			break
		}
		if old != l && len(old.names) > 0 {
			v.held -= old.bytes
			old.names, old.bytes, old.whole = nil, 0, false
		}
	}
	return nil
}

// reopen opens l again, if it was shut to save descriptors.
func (v *visit) reopen(l *visited) bool {
	if l.fd >= 0 {
		return true
	}
	rel := l.rel
	if rel == "" {
		rel = "."
	}
	fd, err := v.tree.openStrict(v.root, rel)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || l.id != (inode{st.Dev, st.Ino}) {
		unix.Close(fd)
		return false
	}
	l.fd = fd
	return true
}
