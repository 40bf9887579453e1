package sandbox

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// Chmod sets the permission bits (01777) of what path leads to, whatever it is.
// Setuid and setgid are CodeDenied; the bits of neither kind are CodeInvalid.
func (v *View) Chmod(path string, mode uint32) error {
	if mode&0o6000 != 0 {
		return mesh.Errorf(mesh.CodeDenied, "chmod %.200q: setuid and setgid are not allowed", path)
	}
	if mode&^0o1777 != 0 {
		return mesh.Errorf(mesh.CodeInvalid, "chmod %.200q: %#o is no mode; use bits of 01777", path, mode)
	}
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	at, err := v.find(path, true)
	if err != nil {
		return failed("chmod", path, err)
	}
	defer at.close()
	return failed("chmod", path, unix.Chmod(again(at.obj), mode))
}

// Symlink makes a symbolic link at path with the text target, which need not
// lead anywhere and is not looked at before the link is followed. What stands at
// path already is CodeExists. A target that is empty, holds a NUL byte or is
// longer than mesh.MaxPathBytes is CodeInvalid.
func (v *View) Symlink(target, path string) error {
	if target == "" || strings.IndexByte(target, 0) >= 0 || len(target) > mesh.MaxPathBytes {
		return mesh.Errorf(mesh.CodeInvalid, "symlink %.200q: a target has 1 to %d bytes and no zero byte", path, mesh.MaxPathBytes)
	}
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	return failed("symlink", path, v.symlink(target, path))
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
	if err == nil {
		err = v.place(tmp, path)
	}
	if err != nil {
		_ = unix.Unlinkat(t.stage, tmp, 0)
	}
	return err
}

// place moves what is finished in the stage to a name that must be free, whose
// missing parents are made. After a failure it is still in the stage.
func (v *View) place(tmp, path string) error {
	for range maxTries {
		at, err := v.resolve(path, lookup{mkdirs: true})
		if err == nil && at.obj >= 0 {
			err = unix.EEXIST
		}
		if err == nil {
			err = unix.Renameat2(v.tree.stage, tmp, at.dir, at.name, unix.RENAME_NOREPLACE)
		}
		if at != nil {
			at.close()
		}
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return v.tree.errBusy(path)
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
		return "", failed("readlink", path, err)
	}
	defer at.close()
	if kind := typeOf(&at.st); kind != TypeSymlink {
		return "", mesh.Errorf(mesh.CodeInvalid, "readlink %.200q: it is a %s, not a symbolic link", path, kind)
	}
	target, err := readLink(at.obj)
	return target, failed("readlink", path, err)
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
	mtime, err := unix.TimeToTimespec(at)
	if err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "touch %.200q: a time out of range", path)
	}
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	return failed("touch", path, v.touch(path, mtime, noCreate))
}

func (v *View) touch(path string, mtime unix.Timespec, noCreate bool) error {
	for range maxTries {
		at, err := v.resolve(path, lookup{follow: true, mkdirs: !noCreate})
		if err == nil {
			err = v.touchPlace(at, mtime, noCreate)
			at.close()
		}
		raced := !noCreate && (errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT))
		if !raced {
			return err
		}
	}
	return v.tree.errBusy(path)
}

func (v *View) touchPlace(at *place, mtime unix.Timespec, noCreate bool) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	if at.obj >= 0 {
		return unix.UtimesNanoAt(at.obj, "", times, unix.AT_EMPTY_PATH)
	}
	if noCreate {
		return unix.ENOENT
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
		err = unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	}
	if err == nil {
		err = unix.Renameat2(v.tree.stage, tmp, at.dir, at.name, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		_ = unix.Unlinkat(v.tree.stage, tmp, 0)
	}
	return err
}
