package sandbox

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
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
		if info, err = v.install(f, Change{Temp: tmp, Data: data}, path, opt); err == nil {
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

// install moves the finished file of the stage to its path. After a failure it is
// still in the stage. Its time is now, to the nanosecond and not to the tick of the
// kernel's clock, so that no two writes make the same revision.
func (v *View) install(f *os.File, c Change, path string, opt WriteOptions) (Info, error) {
	at, err := v.resolve(path, lookup{follow: !opt.CreateOnly, lacks: true})
	if err != nil {
		return Info{}, err
	}
	defer at.close()
	mode, err := replaceMode(at, opt)
	if err != nil {
		return Info{}, err
	}
	fd := int(f.Fd())
	if err = v.tree.own(fd); err == nil {
		err = unix.Fchmod(fd, mode)
	}
	if err == nil {
		err = setTime(fd, time.Now())
	}
	if err == nil {
		c.Info, err = describeOpen(fd)
	}
	if err != nil {
		return Info{}, err
	}
	c.Kind, c.Path, c.Missing = ChangePut, at.path, at.lacks
	if err := v.change(c, func() error { return v.tree.place(c.Temp, at.path, !opt.CreateOnly) }); err != nil {
		return Info{}, err
	}
	info, err := describeOpen(fd)
	if info.Size != c.Info.Size || !info.ModTime.Equal(c.Info.ModTime) {
		info.Revision = "" // a command has changed it since: its content is not the caller's
	}
	info.Path = v.Shown(path)
	return info, err
}

func describeOpen(fd int) (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Info{}, err
	}
	return describe(-1, &st)
}

// replaceMode says what mode the new file has, if it may be put where at is.
func replaceMode(at *place, opt WriteOptions) (uint32, error) {
	mode := opt.Mode & 0o777
	if mode == 0 {
		mode = defaultFileMode
	}
	if err := checkRevision(at, opt.IfMatch); err != nil || at.obj < 0 {
		return mode, err
	}
	switch {
	case opt.CreateOnly:
		return 0, errTaken()
	case at.kind() == unix.S_IFDIR:
		return 0, errIsDir()
	}
	if opt.Mode == 0 {
		mode = at.st.Mode & 0o777
	}
	return mode, checkRegular(&at.st)
}

// checkRevision compares what is there with the revision that a caller has seen.
func checkRevision(at *place, want string) error {
	if want == "" || at.obj >= 0 && revisionOf(&at.st) == want {
		return nil
	}
	e := mesh.Errorf(mesh.CodeConflict, "it is another one than revision %.80q by now; read it again", want)
	if at.obj >= 0 {
		e.Revision = revisionOf(&at.st)
	}
	return e
}

// place moves what is finished in the stage to its path, whose missing parents are
// made. After a failure it is still in the stage.
func (t *Tree) place(tmp, p string, replace bool) error {
	move := func(at *place) error { return unix.Renameat2(t.stage, tmp, at.dir, at.name, unix.RENAME_NOREPLACE) }
	if replace {
		move = func(at *place) error { return t.replace(tmp, at) }
	}
	for range maxTries {
		at, err := t.reach(p, true)
		if err == nil {
			err = move(at)
			at.close()
		}
		if errors.Is(err, unix.EEXIST) {
			return errTaken()
		}
		if !errors.Is(err, unix.ENOENT) { // else a directory was removed after it was found or made
			return err
		}
	}
	return t.errBusy()
}

// replace moves a file of the stage to where at is, in place of the file there. The two
// change places and then the old one goes: ext4 begins to write a file to the disk when
// it is renamed over another one, in the way of the next sync of the journal, and who
// needs a tree after a loss of power restores it anyway.
func (t *Tree) replace(tmp string, at *place) error {
	swap := func() error { return unix.Renameat2(t.stage, tmp, at.dir, at.name, unix.RENAME_EXCHANGE) }
	switch err := swap(); err {
	case nil:
	case unix.ENOENT, unix.EINVAL, unix.ENOSYS: // nothing is there, or the file system cannot swap
		return unix.Renameat(t.stage, tmp, at.dir, at.name)
	default:
		return err
	}
	err := unix.Unlinkat(t.stage, tmp, 0)
	if err == nil {
		return nil
	}
	back := swap() // a command has just put a directory there
	if errors.Is(back, unix.ENOENT) {
		back = unix.Renameat2(t.stage, tmp, at.dir, at.name, unix.RENAME_NOREPLACE) // and has removed ours now
	}
	return errors.Join(err, back)
}
