package sandbox

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// Install puts at path, whose missing parents are made, what make has made in a directory
// that no tenant reaches, under a name that is free there: one file that is complete, with
// its owner. What is at path gives place in one step; a directory there is CodeInvalid.
func (v *View) Install(path string, make func(dir, name string) error) error {
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	c := Change{Temp: v.tree.fresh()}
	_, dir := v.tree.Dirs()
	err := make(dir, c.Temp)
	if err == nil {
		c.Info, err = describeEntry(v.tree.stage, c.Temp)
	}
	if err == nil {
		err = v.put(c, path, true)
	}
	if err != nil {
		_ = unix.Unlinkat(v.tree.stage, c.Temp, 0)
	}
	return failed(err)
}

// Link makes path another name of the regular file at from, in place of any file there;
// missing parents of path are made.
func (v *View) Link(from, path string) error {
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	at, err := v.find(from, false)
	if err != nil {
		return failed(err)
	}
	defer at.close()
	if err := checkRegular(&at.st); err != nil {
		return err
	}
	return failed(v.link(at, path))
}

// link makes path another name of a file that was found, once the gate has let it pass: a
// further name changes how the file is described, and the gate may compare that.
func (v *View) link(at *place, path string) error {
	to, err := v.resolve(path, lookup{lacks: true})
	if err != nil {
		return err
	}
	defer to.close()
	if to.kind() == unix.S_IFDIR {
		return unix.EISDIR
	}
	c := Change{Kind: ChangePut, Path: to.path, Missing: to.lacks, LinkTo: at.path}
	if c.Info, err = describe(at.obj, &at.st); err != nil {
		return err
	}
	return v.change(c, func() error {
		tmp := v.tree.fresh()
		err := unix.Linkat(unix.AT_FDCWD, again(at.obj), v.tree.stage, tmp, unix.AT_SYMLINK_FOLLOW)
		if errors.Is(err, unix.ENOENT) { // it has no name any more
			return mesh.Errorf(mesh.CodeInvalid, "hard link to %.200q, which is missing", v.Shown(at.path))
		}
		if err == nil {
			err = v.tree.place(tmp, to.path, true)
		}
		// Also after success: a rename onto another name of the same file leaves both.
		_ = unix.Unlinkat(v.tree.stage, tmp, 0)
		return err
	})
}
