package sandbox

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	defaultDirMode  = 0o755
	defaultFileMode = 0o644
)

const (
	// purgeWithin bounds how long one Remove takes directories apart. What a
	// tenant keeps filling stays in the stage until the Tree is opened again.
	purgeWithin = 2 * time.Minute
	// purgePasses is how often a directory is read again after everything in it
	// was removed and it was not empty.
	purgePasses = 16
)

// Mkdir makes a directory with mode (01777, the rest is dropped; 0 is 0755).
// What stands at path already is CodeExists; with parents the missing
// directories above are made too (0755) and a directory that exists is fine.
func (v *View) Mkdir(path string, mode uint32, parents bool) error {
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	err := v.mkdir(path, mode, parents)
	switch {
	case errors.Is(err, unix.EEXIST) && parents:
		return errTaken()
	case errors.Is(err, unix.EEXIST):
		return mesh.Errorf(mesh.CodeExists, "something is there already; mkdir -p is content with a directory")
	case errors.Is(err, unix.ENOENT) && !parents:
		return mesh.Errorf(mesh.CodeNotFound, "a directory above it is missing; mkdir -p makes it too")
	}
	return failed(err)
}

func (v *View) mkdir(path string, mode uint32, parents bool) error {
	if mode &= 0o1777; mode == 0 {
		mode = defaultDirMode
	}
	at, err := v.resolve(path, lookup{follow: parents, lacks: true})
	if err != nil {
		return err
	}
	defer at.close()
	if at.obj >= 0 {
		if !parents || at.kind() != unix.S_IFDIR {
			return unix.EEXIST
		}
		return v.change(Change{Kind: ChangeNone, Path: at.path}, func() error { return nil })
	}
	for _, dir := range at.lacks {
		if !parents && !mesh.Inside(dir, v.scope) { // what is not above the scope
			return unix.ENOENT
		}
	}
	c := Change{Kind: ChangePut, Path: at.path, Missing: at.lacks, Info: Info{Type: TypeDir, Mode: mode, ModTime: time.Now()}}
	return v.change(c, func() error { return v.tree.mkdir(at.path, mode, parents) })
}

func (t *Tree) mkdir(p string, mode uint32, parents bool) error {
	for range maxTries {
		at, err := t.reach(p, true)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err != nil {
			continue // a directory was removed after it was made
		}
		isDir := at.kind() == unix.S_IFDIR
		if at.obj < 0 {
			err = t.makeDir(at.dir, at.name, mode)
		} else if !parents || !isDir {
			err = unix.EEXIST
		}
		at.close()
		raced := errors.Is(err, unix.EEXIST) && parents && at.obj < 0 || errors.Is(err, unix.ENOENT)
		if !raced {
			return err
		}
	}
	return t.errBusy()
}

// makeDir makes a directory in parent. It appears with its owner and mode, and
// what is chowned is what was made: not what stands under the name by then.
func (t *Tree) makeDir(parent int, name string, mode uint32) error {
	tmp := t.fresh()
	if err := unix.Mkdirat(t.stage, tmp, 0o700); err != nil {
		return err
	}
	err := t.dressDir(tmp, mode)
	if err == nil {
		err = unix.Renameat2(t.stage, tmp, parent, name, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		_ = unix.Unlinkat(t.stage, tmp, unix.AT_REMOVEDIR)
	}
	return err
}

func (t *Tree) dressDir(tmp string, mode uint32) error {
	fd, err := openAt(t.stage, tmp, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := t.own(fd); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode)
}

// Rename moves from, a link itself and not what it leads to, to the name to,
// whose missing parents are made. A file replaces a file and a directory an
// empty directory, in one step; other pairs are CodeInvalid, a directory that
// is not empty is CodeExists, and so is anything with noReplace. A directory
// into itself is CodeInvalid, the scope's root CodeDenied.
//
// With a revision from must have it, as WriteOptions.IfMatch says.
func (v *View) Rename(from, to string, noReplace bool, ifMatch string) error {
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	if strings.HasPrefix(to, from+"/") {
		return errIntoItself()
	}
	src, err := v.find(from, false)
	if err != nil {
		return failed(err)
	}
	defer src.close()
	if src.isRoot() {
		return errRoot()
	}
	if err := checkRevision(src, ifMatch); err != nil {
		return err
	}
	dst, err := v.resolve(to, lookup{lacks: true})
	if err != nil {
		return failedNew(err)
	}
	defer dst.close()
	if dst.isRoot() {
		return failedNew(errRoot())
	}
	c := Change{Kind: ChangeRename, Path: src.path, To: dst.path, Missing: dst.lacks}
	if c.Kind, err = mayMove(src, dst, noReplace); err != nil {
		return err
	}
	return failed(v.change(c, func() error {
		if c.Kind == ChangeNone {
			return nil
		}
		return v.tree.rename(src.path, dst.path, noReplace)
	}))
}

// mayMove says before a rename what the kernel would say.
func mayMove(src, dst *place, noReplace bool) (ChangeKind, error) {
	isDir := src.kind() == unix.S_IFDIR
	switch {
	case isDir && strings.HasPrefix(dst.path, src.path+"/"):
		return 0, errIntoItself()
	case dst.obj < 0:
		return ChangeRename, nil
	case noReplace:
		return 0, failedNew(errTaken())
	case src.st.Dev == dst.st.Dev && src.st.Ino == dst.st.Ino:
		return ChangeNone, nil // two names of one file stay
	case !isDir && dst.kind() == unix.S_IFDIR:
		return 0, failedNew(errIsDir())
	case isDir && dst.kind() != unix.S_IFDIR:
		return 0, errNotReplaced()
	case isDir && !isEmpty(dst.obj):
		return 0, errNotEmpty()
	}
	return ChangeRename, nil
}

func errNotEmpty() error {
	return mesh.Errorf(mesh.CodeExists, "the new name is a directory that is not empty; name the new place in it")
}

func errNotReplaced() error {
	return mesh.Errorf(mesh.CodeInvalid, "the new name is no directory, and a directory does not replace it; remove it first")
}

// isEmpty reports whether a directory is empty; one that cannot be read is not.
func isEmpty(dir int) bool {
	d, err := openDirents(dir)
	if err != nil {
		return false
	}
	defer d.close()
	names, err := d.next()
	return err == nil && len(names) == 0
}

// failedNew is failed for the new name of what has an old one as well.
func failedNew(err error) error { return mesh.About("the new name", failed(err)) }

func errIntoItself() error {
	return mesh.Errorf(mesh.CodeInvalid, "the new name is inside of the directory itself")
}

func errIsDir() error {
	return mesh.Errorf(mesh.CodeInvalid, "it is a directory; name the file in it")
}

func errTaken() error {
	return mesh.Errorf(mesh.CodeExists, "something is there already; remove it first or take another name")
}

func (t *Tree) rename(from, to string, noReplace bool) error {
	flags := uint(0)
	if noReplace {
		flags = unix.RENAME_NOREPLACE
	}
	src, err := t.reach(from, false)
	if err != nil {
		return err
	}
	defer src.close()
	for range maxTries {
		dst, err := t.reach(to, true)
		if err != nil {
			return err
		}
		err = t.withWritable(src, func() error { return unix.Renameat2(src.dir, src.name, dst.dir, dst.name, flags) })
		dst.close()
		switch {
		case errors.Is(err, unix.ENOTEMPTY):
			return errNotEmpty()
		case errors.Is(err, unix.EISDIR):
			return failedNew(errIsDir())
		case errors.Is(err, unix.ENOTDIR):
			return errNotReplaced()
		case errors.Is(err, unix.EEXIST):
			return failedNew(errTaken())
		case errors.Is(err, unix.EINVAL):
			return errIntoItself()
		case !errors.Is(err, unix.ENOENT) || src.obj < 0:
			return err
		}
		if _, err := t.stat(from); err != nil {
			return err // it is gone itself
		}
	}
	return t.errBusy()
}

// stat looks at a path that leads through no link.
func (t *Tree) stat(p string) (st unix.Stat_t, err error) {
	at, err := t.reach(p, false)
	if err != nil {
		return st, err
	}
	defer at.close()
	if at.obj < 0 {
		return st, unix.ENOENT
	}
	return at.st, nil
}

// withWritable repeats a move of a directory whose mode forbids it: a new
// parent is written into it, which its owner needs a bit for and root does not.
func (t *Tree) withWritable(at *place, move func() error) error {
	err := move()
	if !errors.Is(err, unix.EACCES) || at.kind() != unix.S_IFDIR || t.owned {
		return err
	}
	mode := at.st.Mode & 0o7777
	if unix.Chmod(again(at.obj), mode|0o700) != nil {
		return err
	}
	err = move()
	_ = unix.Chmod(again(at.obj), mode)
	return err
}

func errRoot() error {
	return mesh.Errorf(mesh.CodeDenied, "it is the root of the view: refused, root kept")
}

// Remove removes what stands at path, a symbolic link and not what it leads to.
// A directory that is not empty is CodeInvalid, unless recursive: then it is
// gone for the tenant in one step, all of it or, after a failure, nothing, and
// then taken apart, which takes at most two minutes. The scope's root is
// CodeDenied. With a revision it must have that, as WriteOptions.IfMatch says.
func (v *View) Remove(path string, recursive bool, ifMatch string) error {
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	at, err := v.find(path, false)
	if err != nil {
		return failed(err)
	}
	defer at.close()
	if at.isRoot() {
		return errRoot()
	}
	if err := checkRevision(at, ifMatch); err != nil {
		return err
	}
	if !recursive && at.kind() == unix.S_IFDIR && !isEmpty(at.obj) {
		return errFull()
	}
	err = v.change(Change{Kind: ChangeRemove, Path: at.path}, func() error { return v.tree.remove(at.path, recursive) })
	if isNotEmpty(err) {
		return errFull()
	}
	return failed(err)
}

func errFull() error {
	return mesh.Errorf(mesh.CodeInvalid, "the directory is not empty; a recursive removal takes everything below with it")
}

func (t *Tree) remove(p string, recursive bool) error {
	at, err := t.reach(p, false)
	if err != nil {
		return err
	}
	defer at.close()
	err = unlink(at.dir, at.name)
	if recursive && isNotEmpty(err) {
		err = t.withWritable(at, func() error { return t.discard(at.dir, at.name) })
	}
	return err
}

// isNotEmpty knows both answers POSIX has for rmdir.
func isNotEmpty(err error) bool {
	return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)
}

// unlink removes a name that is a directory or not, whichever it is by now.
func unlink(dir int, name string) error {
	err := error(unix.EBUSY)
	for range maxTries {
		if err = unix.Unlinkat(dir, name, 0); !errors.Is(err, unix.EISDIR) {
			return err
		}
		if err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	return err
}

// discard removes a name with all that is below. It is moved out of the
// tenant's reach first; after that there is no failure, only what remains in
// the stage until it is emptied again.
func (t *Tree) discard(dir int, name string) error {
	tmp := t.fresh()
	if err := unix.Renameat(dir, name, t.trash, tmp); err != nil {
		return err
	}
	t.purge([]string{tmp})
	return nil
}

// purge takes the named directories of trash apart. A directory in one of them
// that is not empty is moved up into trash and comes later, so that neither
// depth nor links matter: no descriptor stack, no path, no "..". A process of
// the tenant that stands in one of them may add to it until it is opened.
func (t *Tree) purge(names []string) {
	until := time.Now().Add(purgeWithin)
	for len(names) > 0 && t.ending() == nil && time.Now().Before(until) {
		last := names[len(names)-1]
		names = names[:len(names)-1]
		if unlink(t.trash, last) == nil {
			continue
		}
		fd, err := t.openTrash(last)
		if err != nil {
			continue
		}
		for range purgePasses {
			var n int
			names, n = t.purgePass(fd, names, until)
			if unlink(t.trash, last) == nil || n == 0 {
				break
			}
		}
		unix.Close(fd)
	}
}

// openTrash opens a directory of trash and takes it from the tenant, who could
// otherwise fill it as fast as it is emptied: 2 minutes of that were seen. When
// we are not root the tenant may be our own user, and purgeWithin has to do.
func (t *Tree) openTrash(name string) (int, error) {
	fd, err := openAt(t.trash, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	if t.owned {
		_ = unix.Fchownat(fd, "", 0, 0, unix.AT_EMPTY_PATH)
	}
	_ = unix.Chmod(again(fd), 0o700)
	return fd, nil
}

// purgePass empties the directory once. It returns the directories it moved
// up, added to names, and how many entries it got rid of.
func (t *Tree) purgePass(dir int, names []string, until time.Time) ([]string, int) {
	d, err := openDirents(dir)
	if err != nil {
		return names, 0
	}
	defer d.close()
	gone := 0
	for t.ending() == nil && time.Now().Before(until) {
		batch, err := d.next()
		if err != nil || len(batch) == 0 {
			break
		}
		for _, name := range batch {
			err := unlink(dir, name)
			if isNotEmpty(err) {
				tmp := t.fresh()
				if err = t.moveUp(dir, name, tmp); err == nil {
					names = append(names, tmp)
				}
			}
			if err == nil {
				gone++
			}
		}
	}
	return names, gone
}

func (t *Tree) moveUp(dir int, name, tmp string) error {
	err := unix.Renameat(dir, name, t.trash, tmp)
	if !errors.Is(err, unix.EACCES) || t.owned {
		return err
	}
	fd, err := openAt(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Chmod(again(fd), 0o700); err != nil {
		return err
	}
	return unix.Renameat(dir, name, t.trash, tmp)
}

// refused is the reason why a change was not made, as the method would have it.
func refused(err error) error {
	if isNotEmpty(err) {
		return errFull()
	}
	return failed(err)
}

// change makes a change through the gate.
func (v *View) change(c Change, do func() error) error {
	if v.gate == nil {
		return do()
	}
	done, err := v.gate(c)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return done(refused(err))
	}
	return done(nil)
}
