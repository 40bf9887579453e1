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
	return failed(unix.Chmod(again(at.obj), mode))
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
			err = errTaken()
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
	return v.tree.errBusy()
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
	mtime, err := unix.TimeToTimespec(at)
	if err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "the time is out of range")
	}
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	return failed(v.touch(path, mtime, noCreate))
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
	return v.tree.errBusy()
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
