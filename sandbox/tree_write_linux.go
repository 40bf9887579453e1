package sandbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Write makes data the content of the file at path, all of it or, after any
// failure, nothing: a reader sees the old file or the new one. The new file is
// another inode: it has the mode WriteOptions says and the tenant as its owner,
// but neither the other hard links nor the extended attributes of the old one.
// It is not synced to disk. A symbolic link at path is followed, and a dangling
// one has its target made. What is there and not a regular file is CodeInvalid.
func (v *View) Write(path string, data []byte, opt WriteOptions) (Info, error) {
	if err := v.tree.enter(); err != nil {
		return Info{}, err
	}
	defer v.tree.leave()
	info, err := v.write(path, data, opt)
	return info, failed(err)
}

func (v *View) write(path string, data []byte, opt WriteOptions) (Info, error) {
	f, tmp, err := v.tree.temp()
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	if _, err = f.Write(data); err == nil {
		var info Info
		if info, err = v.install(f, tmp, path, opt); err == nil {
			return info, nil
		}
	}
	_ = unix.Unlinkat(v.tree.stage, tmp, 0)
	return Info{}, err
}

// temp makes an empty file in the stage.
func (t *Tree) temp() (*os.File, string, error) {
	tmp := t.fresh()
	fd, err := openAt(t.stage, tmp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), "staged"), tmp, nil
}

// install moves a finished file of the stage to its path. After a failure it is
// still in the stage.
func (v *View) install(f *os.File, tmp, path string, opt WriteOptions) (Info, error) {
	if err := v.tree.own(int(f.Fd())); err != nil {
		return Info{}, err
	}
	for range maxTries {
		at, err := v.resolve(path, lookup{follow: !opt.CreateOnly, mkdirs: true})
		if err == nil {
			err = v.tree.putFile(int(f.Fd()), tmp, path, at, opt)
			at.close()
		}
		if errors.Is(err, unix.ENOENT) {
			continue // a directory was removed after it was found or made
		}
		if err != nil {
			return Info{}, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return Info{}, err
		}
		info, err := describe(-1, &st)
		info.Path = v.shown(path)
		return info, err
	}
	return Info{}, v.tree.errBusy()
}

func (t *Tree) putFile(fd int, tmp, path string, at *place, opt WriteOptions) error {
	mode := opt.Mode & 0o777
	if mode == 0 {
		mode = defaultFileMode
	}
	if at.obj >= 0 {
		switch {
		case opt.CreateOnly:
			return errTaken()
		case at.kind() == unix.S_IFDIR:
			return errIsDir()
		}
		if err := checkRegular(&at.st); err != nil {
			return err
		}
		if opt.Mode == 0 {
			mode = at.st.Mode & 0o777
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	if !opt.CreateOnly {
		return unix.Renameat(t.stage, tmp, at.dir, at.name)
	}
	return unix.Renameat2(t.stage, tmp, at.dir, at.name, unix.RENAME_NOREPLACE)
}
