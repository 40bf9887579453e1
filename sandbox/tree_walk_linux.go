package sandbox

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	maxLinks = 40 // as Linux has it
	// maxHeld bounds the descriptors a walk holds, which are those of the last
	// directories on its way and of the scope: a path may have 2,048 levels.
	// Only paths through links or into directories that are yet to be made are
	// walked.
	maxHeld = 256
	// maxTries bounds how often a step is repeated because the tenant changed
	// the path between two calls.
	maxTries = 16
)

// lookup says how a path is resolved.
type lookup struct {
	follow bool // a symbolic link as the last name too
	mkdirs bool // make missing directories above the last name, and the scope
	lacks  bool // directories above the last name may be missing, and the scope: place says which
}

// place is where a path ends: a name in a directory, and what was found there.
// What stands under the name may be another thing a moment later; obj stays.
type place struct {
	path  string   // from the workspace's root, through no symbolic link
	lacks []string // such paths of missing directories above it, the outermost first; then dir is -1
	dir   int      // O_PATH, the parent; -1 for the scope's root
	name  string   // "." for the scope's root
	obj   int      // O_PATH, what was found; -1 for nothing
	st    unix.Stat_t
}

func (p *place) close() {
	for _, fd := range []int{p.dir, p.obj} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (p *place) isRoot() bool { return p.name == "." }

func (p *place) kind() uint32 {
	if p.obj < 0 {
		return 0
	}
	return p.st.Mode & unix.S_IFMT
}

// find is resolve for what must exist.
func (v *View) find(p string, follow bool) (*place, error) {
	at, err := v.resolve(p, lookup{follow: follow})
	if err != nil {
		return nil, err
	}
	if at.obj < 0 {
		at.close()
		return nil, unix.ENOENT
	}
	return at, nil
}

// resolve finds the place of p. Most paths have no links: then one call to the
// kernel finds the parent, or says that there is a link and the walk has to.
func (v *View) resolve(p string, how lookup) (*place, error) {
	rel, err := v.below(p)
	if err != nil {
		return nil, err
	}
	at, err := v.resolveAtOnce(rel)
	switch {
	case err == nil && (at.kind() != unix.S_IFLNK || !how.follow):
		return at, nil
	case err == nil:
		at.close()
	case errors.Is(err, unix.ENOENT) && (how.mkdirs || how.lacks):
	case !needsWalk(err):
		return nil, err
	}
	root, err := v.openScope(how.mkdirs)
	if how.lacks && errors.Is(err, unix.ENOENT) {
		return v.withoutScope(rel)
	}
	if err != nil {
		return nil, err
	}
	w := walker{
		tree: v.tree, scope: v.parts, how: how,
		stack: []int{root}, names: []string{"."}, todo: splitNames(rel),
	}
	at, err = w.run()
	if err != nil {
		return nil, err
	}
	at.path = path.Join(v.scope, at.path)
	for i := range at.lacks {
		at.lacks[i] = path.Join(v.scope, at.lacks[i])
	}
	return at, nil
}

// look is the end of finding a place: what stands there, or err.
func (p *place) look(err error) (*place, error) {
	if err == nil {
		err = unix.Fstat(p.obj, &p.st)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// withoutScope is the place of rel in a scope that is not there.
func (v *View) withoutScope(rel string) (*place, error) {
	at := &place{path: path.Join(v.scope, rel), dir: -1, obj: -1}
	at.name = path.Base(at.path)
	for dir := path.Dir(at.path); dir != "."; dir = path.Dir(dir) {
		fd, err := v.tree.View(dir).openScope(false)
		if err == nil {
			unix.Close(fd)
			break
		}
		if !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
		at.lacks = append(at.lacks, dir)
	}
	slices.Reverse(at.lacks)
	return at, nil
}

// reach finds the place of a path that leads through no link, whatever stands at
// its end; directories above it are made if mkdirs says so.
func (t *Tree) reach(p string, mkdirs bool) (at *place, err error) {
	at = &place{path: p, dir: -1, name: path.Base(p), obj: -1}
	if p == "." {
		at.obj, err = openAt(t.root, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	} else {
		if at.dir, err = t.View(path.Dir(p)).openScope(mkdirs); err != nil {
			return nil, err
		}
		at.obj, err = openAt(at.dir, at.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			return at, nil
		}
	}
	return at.look(err)
}

func (v *View) resolveAtOnce(rel string) (*place, error) {
	at := &place{path: path.Join(v.scope, rel), dir: -1, name: ".", obj: -1}
	var err error
	if rel == "" {
		at.obj, err = v.tree.openBeneath(v.tree.root, v.scope)
	} else {
		at.name = path.Base(rel)
		at.dir, err = v.tree.openBeneath(v.tree.root, path.Join(v.scope, path.Dir(rel)))
		if err == nil {
			at.obj, err = openAt(at.dir, at.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
			if errors.Is(err, unix.ENOENT) {
				return at, nil
			}
		}
	}
	return at.look(err)
}

// openBeneath opens the directory rel below dir with O_PATH, in one call that
// fails with ELOOP on any symbolic link.
func (t *Tree) openBeneath(dir int, rel string) (int, error) {
	if t.noBatch {
		return -1, unix.ENOSYS
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, rel, &how)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// needsWalk tells a path that the kernel would not resolve at once from one
// that fails for good. EPERM is what old container profiles answer to openat2.
func needsWalk(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.ELOOP, unix.EXDEV, unix.ENOSYS, unix.EAGAIN, unix.EPERM},
		func(no unix.Errno) bool { return errors.Is(err, no) })
}

// openScope opens the scope's directory with O_PATH. No link is followed on the
// way: a scope is a wall, and the tenant of a wider scope does not move it.
func (v *View) openScope(create bool) (int, error) {
	fd, err := v.tree.openBeneath(v.tree.root, v.scope)
	if err == nil || !needsWalk(err) && (!create || !errors.Is(err, unix.ENOENT)) {
		return fd, err
	}
	root, err := openAt(v.tree.root, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	w := walker{
		tree: v.tree, rigid: true, how: lookup{follow: true, mkdirs: create},
		stack: []int{root}, names: []string{"."}, todo: v.parts,
	}
	for range maxTries {
		at, err := w.run()
		if err != nil {
			return -1, err
		}
		switch {
		case at.kind() == unix.S_IFDIR:
			fd, at.obj = at.obj, -1
			at.close()
			return fd, nil
		case at.obj >= 0:
			err = unix.ENOTDIR
		case create:
			err = v.tree.makeDir(at.dir, at.name, defaultDirMode)
		default:
			err = unix.ENOENT
		}
		at.close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
		if root, err = openAt(v.tree.root, ".", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return -1, err
		}
		w.stack, w.names, w.todo = []int{root}, []string{"."}, v.parts
	}
	return -1, v.tree.errBusy()
}

// walker resolves a path name by name. It holds descriptors of the directories
// on the way, so that ".." means the directory it came from and is never looked
// up: the tenant may have moved it. A ".." past the last maxHeld is refused. It
// reads links itself, from the descriptor it has found to be one.
type walker struct {
	tree  *Tree
	scope []string // the names a target must have after /workspace
	how   lookup
	rigid bool // any link is CodeDenied

	stack []int    // O_PATH, stack[0] is the scope's root; owned, -1 once closed or handed out
	names []string // names[i] is what stack[i] was called in stack[i-1]
	todo  []string
	links int
}

// run returns the place at the end of the path and closes the stack.
func (w *walker) run() (*place, error) {
	w.tree.walks <- struct{}{}
	defer func() { <-w.tree.walks }()
	defer w.cut(0)
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		if name == ".." {
			if len(w.stack) == 1 {
				return nil, errLinkOutside()
			}
			w.cut(len(w.stack) - 1)
			if w.stack[len(w.stack)-1] < 0 {
				return nil, errDeep()
			}
			continue
		}
		at, err := w.step(name)
		if at != nil || err != nil {
			return at, err
		}
	}
	return w.here()
}

// step goes to name, or returns the place when name is the last and not a
// directory.
func (w *walker) step(name string) (*place, error) {
	last := len(w.todo) == 0
	fd, err := w.open(name, last)
	if err != nil {
		return nil, err
	}
	if fd < 0 && !last {
		return w.missing(name)
	}
	here := path.Join(path.Join(w.names...), name)
	if fd < 0 {
		return &place{path: here, dir: w.take(len(w.stack) - 1), name: name, obj: -1}, nil
	}
	at := place{path: here, dir: -1, name: name, obj: fd}
	if err := unix.Fstat(fd, &at.st); err != nil {
		at.close()
		return nil, err
	}
	switch {
	case at.kind() == unix.S_IFDIR:
		w.push(fd, name)
		return nil, nil
	case at.kind() == unix.S_IFLNK && (!last || w.how.follow || w.rigid):
		defer at.close()
		return nil, w.expand(fd)
	case last:
		at.dir = w.take(len(w.stack) - 1)
		return &at, nil
	}
	at.close()
	return nil, unix.ENOTDIR
}

// missing is the place at the end of a path whose directory name is not there.
func (w *walker) missing(name string) (*place, error) {
	at := &place{path: path.Join(path.Join(w.names...), name), dir: -1, obj: -1}
	for _, next := range w.todo {
		if next == ".." {
			return nil, unix.ENOENT
		}
		at.lacks = append(at.lacks, at.path)
		at.path, at.name = path.Join(at.path, next), next
	}
	return at, nil
}

// open opens name in the directory on top, -1 when it is missing and the last, or
// may be missing. A missing directory on the way is made if the lookup says so.
func (w *walker) open(name string, last bool) (int, error) {
	top := w.stack[len(w.stack)-1]
	for range maxTries {
		fd, err := openAt(top, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		switch {
		case !errors.Is(err, unix.ENOENT):
			return fd, err
		case last || w.how.lacks:
			return -1, nil
		case !w.how.mkdirs:
			return -1, err
		}
		err = w.tree.makeDir(top, name, defaultDirMode)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
	}
	return -1, w.tree.errBusy()
}

// expand puts the target of the link in place of its name.
func (w *walker) expand(link int) error {
	if w.rigid {
		return mesh.Errorf(mesh.CodeDenied, "the scope passes through a symbolic link")
	}
	if w.links++; w.links > maxLinks {
		return mesh.Errorf(mesh.CodeInvalid, "too many levels of symbolic links")
	}
	target, err := readLink(link)
	if err != nil {
		return err
	}
	names := splitNames(target)
	if strings.HasPrefix(target, "/") {
		prefix := append(splitNames(mesh.WorkspaceRoot), w.scope...)
		if len(names) < len(prefix) || !slices.Equal(names[:len(prefix)], prefix) {
			return errLinkOutside()
		}
		names = names[len(prefix):]
		w.cut(1)
	}
	w.todo = append(names, w.todo...)
	return nil
}

func errLinkOutside() error {
	return mesh.Errorf(mesh.CodeDenied, "a symbolic link on the way leads out of the scope")
}

// here is the place of the directory on top.
func (w *walker) here() (*place, error) {
	n := len(w.stack) - 1
	if n > 0 && w.stack[n-1] < 0 {
		return nil, errDeep()
	}
	at := &place{path: path.Join(w.names...), dir: -1, name: w.names[n], obj: w.take(n)}
	if n > 0 {
		at.dir = w.take(n - 1)
	}
	if err := unix.Fstat(at.obj, &at.st); err != nil {
		at.close()
		return nil, err
	}
	return at, nil
}

// push goes down into a directory and closes the one that is maxHeld above.
func (w *walker) push(fd int, name string) {
	w.stack, w.names = append(w.stack, fd), append(w.names, name)
	if old := len(w.stack) - 1 - maxHeld; old > 0 && w.stack[old] >= 0 {
		unix.Close(w.take(old))
	}
}

func errDeep() error {
	return mesh.Errorf(mesh.CodeInvalid, "the path is too deep to be followed")
}

func (w *walker) take(i int) int {
	fd := w.stack[i]
	w.stack[i] = -1
	return fd
}

// cut closes all but the first n descriptors.
func (w *walker) cut(n int) {
	for _, fd := range w.stack[n:] {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	w.stack, w.names = w.stack[:n], w.names[:n]
}

// splitNames returns the names of a path without the empty ones and ".".
func splitNames(p string) []string {
	var names []string
	for name := range strings.SplitSeq(p, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// readLink returns the target of the link that fd is open on.
func readLink(fd int) (string, error) {
	buf := make([]byte, mesh.MaxPathBytes+1)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// openAt is openat, close-on-exec and repeated when a signal interrupts it.
func openAt(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// again names what fd is open on, for calls that take no O_PATH descriptor: the
// kernel goes straight to it, whatever its path is now.
func again(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
