package sandbox

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// Chmod sets the permission bits (01777) of what path leads to, whatever it is.
// Setuid and setgid are CodeDenied; the bits of neither kind are CodeInvalid.
func (v *View) Chmod(path string, mode uint32) error {
	if mode&0o6000 != 0 {
		return mesh.Errorf(mesh.CodeDenied, "setuid and setgid are not allowed")
	}
	if mode&^0o1777 != 0 {
		return mesh.Errorf(mesh.CodeInvalid, "%#o is no mode; use bits of 01777", mode)
	}
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	at, err := v.find(path, true)
	if err != nil {
		return failed(err)
	}
	defer at.close()
	return failed(v.attr(at.path, &mode, nil))
}

// attr sets what is not nil of the attributes of what stands at a path that leads
// through no link.
func (v *View) attr(p string, mode *uint32, mtime *time.Time) error {
	return v.change(Change{Kind: ChangeAttr, Path: p, Mode: mode, ModTime: mtime}, func() error {
		at, err := v.tree.reach(p, false)
		if err != nil {
			return err
		}
		defer at.close()
		if at.obj < 0 {
			return unix.ENOENT
		}
		if mode != nil {
			err = unix.Chmod(again(at.obj), *mode)
		}
		if err == nil && mtime != nil {
			err = touchOpen(at.obj, *mtime)
		}
		return err
	})
}

// touchOpen sets the modification time of what an O_PATH descriptor is open on.
func touchOpen(fd int, at time.Time) error {
	mtime, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, "", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, unix.AT_EMPTY_PATH)
}

// Symlink makes a symbolic link at path with the text target, which need not
// lead anywhere and is not looked at before the link is followed. What stands at
// path already is CodeExists. A target that is empty, holds a NUL byte or is
// longer than mesh.MaxPathBytes is CodeInvalid.
func (v *View) Symlink(target, path string) error {
	if target == "" || strings.IndexByte(target, 0) >= 0 || len(target) > mesh.MaxPathBytes {
		return mesh.Errorf(mesh.CodeInvalid, "a target has 1 to %d bytes and no zero byte", mesh.MaxPathBytes)
	}
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	return failed(v.symlink(target, path))
}

func (v *View) symlink(target, path string) error {
	t, tmp := v.tree, v.tree.fresh()
	if err := unix.Symlinkat(target, t.stage, tmp); err != nil {
		return err
	}
	err := error(nil)
	if t.owned {
		err = unix.Fchownat(t.stage, tmp, t.uid, t.gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	var info Info
	if err == nil {
		info, err = describeEntry(t.stage, tmp)
	}
	if err == nil {
		err = v.put(Change{Temp: tmp, Info: info}, path, false)
	}
	if err != nil {
		_ = unix.Unlinkat(t.stage, tmp, 0)
	}
	return err
}

// put moves what is finished in the stage to a path, whose missing parents are
// made. What is there is replaced, or else is CodeExists. After a failure it is
// still in the stage.
func (v *View) put(c Change, path string, replace bool) error {
	at, err := v.resolve(path, lookup{lacks: true})
	if err != nil {
		return err
	}
	defer at.close()
	switch {
	case at.obj >= 0 && !replace:
		return errTaken()
	case at.kind() == unix.S_IFDIR:
		return unix.EISDIR
	}
	c.Kind, c.Path, c.Missing = ChangePut, at.path, at.lacks
	return v.change(c, func() error { return v.tree.place(c.Temp, at.path, replace) })
}

// Readlink returns the text of the symbolic link at path. What is there and no
// symbolic link is CodeInvalid.
func (v *View) Readlink(path string) (string, error) {
	if err := v.tree.enter(); err != nil {
		return "", err
	}
	defer v.tree.leave()
	at, err := v.find(path, false)
	if err != nil {
		return "", failed(err)
	}
	defer at.close()
	if kind := typeOf(&at.st); kind != TypeSymlink {
		return "", mesh.Errorf(mesh.CodeInvalid, "it is a %s, not a symbolic link", kind)
	}
	target, err := readLink(at.obj)
	return target, failed(err)
}

// Touch sets the modification time of what path leads to, be it a directory or
// anything else, to at, or to now when at is zero. The access time and the
// content stay, and nothing is opened. Where there is nothing, which is also the
// target of a dangling link, an empty file (0644) is made, or with noCreate the
// answer is CodeNotFound.
func (v *View) Touch(path string, at time.Time, noCreate bool) error {
	if at.IsZero() {
		at = time.Now()
	}
	if _, err := unix.TimeToTimespec(at); err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "the time is out of range")
	}
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	return failed(v.touch(path, at, noCreate))
}

func (v *View) touch(path string, mtime time.Time, noCreate bool) error {
	for range maxTries {
		at, err := v.resolve(path, lookup{follow: true, lacks: !noCreate})
		if err != nil {
			return err
		}
		at.close()
		switch {
		case at.obj >= 0:
			return v.attr(at.path, nil, &mtime)
		case noCreate:
			return unix.ENOENT
		}
		if err := v.touchNew(path, mtime); mesh.CodeOf(err) != mesh.CodeExists {
			return err
		}
	}
	return v.tree.errBusy()
}

func (v *View) touchNew(path string, mtime time.Time) error {
	at, err := v.resolve(path, lookup{follow: true, lacks: true})
	if err != nil {
		return err
	}
	defer at.close()
	if at.obj >= 0 {
		return errTaken()
	}
	f, tmp, err := v.tree.temp()
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err = v.tree.own(fd); err == nil {
		err = unix.Fchmod(fd, defaultFileMode)
	}
	if err == nil {
		err = touchOpen(fd, mtime)
	}
	c := Change{Kind: ChangePut, Path: at.path, Missing: at.lacks, Temp: tmp}
	if err == nil {
		c.Info, err = describeOpen(fd)
	}
	if err == nil {
		err = v.change(c, func() error { return v.tree.place(tmp, at.path, false) })
	}
	if err != nil {
		_ = unix.Unlinkat(v.tree.stage, tmp, 0)
	}
	return err
}
