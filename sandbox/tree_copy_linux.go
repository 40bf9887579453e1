package sandbox

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// copyStep is how much the kernel copies between two looks at whether to stop.
const copyStep = 64 << 20

// Copy copies what from leads to, to the name to, whose missing parents are
// made. The copy appears whole in one step, or not at all. It belongs to the
// tenant and keeps modes (01777) and modification times.
//
// A file replaces a file or a symbolic link at to, which is not followed;
// anything else there is CodeInvalid, and so is the file itself. With NoReplace
// whatever is there is CodeExists. A directory needs Recursive, else it is
// CodeInvalid, and something at to is CodeExists, a to inside of it
// CodeInvalid. Below it everything is kept that an archive keeps (see WriteTar,
// also for what changes meanwhile), within DefaultTarEntries and
// DefaultTarBytes: more is CodeTooLarge. The scope's root as to is CodeDenied.
//
// The reply counts the directory itself as an entry, and bytes as the files'
// sizes, holes included.
func (v *View) Copy(ctx context.Context, from, to string, opt CopyOptions) (mesh.CopyReply, error) {
	if err := v.tree.enter(); err != nil {
		return mesh.CopyReply{}, err
	}
	defer v.tree.leave()
	src, err := v.find(from, true)
	if err != nil {
		return mesh.CopyReply{}, failed(err)
	}
	defer src.close()
	switch rel, err := v.below(to); {
	case err != nil:
		return mesh.CopyReply{}, failedNew(err)
	case rel == "":
		return mesh.CopyReply{}, failedNew(errRoot())
	}
	c := copier{View: v, ctx: ctx, from: from, to: to, opt: opt, lim: v.tree.copies.and(opt.Limits)}
	if src.kind() != unix.S_IFDIR {
		err = c.file(src)
	} else {
		err = c.directory(src)
	}
	if err != nil {
		return mesh.CopyReply{}, failed(err)
	}
	return c.count, nil
}

// and is the lower of two limits; zero is none.
func (l TarLimits) and(other TarLimits) TarLimits {
	if other.Entries > 0 {
		l.Entries = min(l.Entries, other.Entries)
	}
	if other.Bytes > 0 {
		l.Bytes = min(l.Bytes, other.Bytes)
	}
	return l
}

// copier makes one copy.
type copier struct {
	*View
	ctx      context.Context
	from, to string
	opt      CopyOptions
	lim      TarLimits
	count    mesh.CopyReply
}

func (c *copier) file(src *place) error {
	if err := checkRegular(&src.st); err != nil {
		return err
	}
	if src.st.Size > c.lim.Bytes {
		return mesh.Errorf(mesh.CodeTooLarge, "more than %d bytes", c.lim.Bytes)
	}
	fd, err := openRegular(src.obj)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(fd)
	if err := c.checkTarget(src); err != nil {
		return err
	}
	f, tmp, err := c.tree.temp()
	if err != nil {
		return err
	}
	defer f.Close()
	c.count = mesh.CopyReply{Entries: 1, Bytes: src.st.Size}
	if err = c.fill(int(f.Fd()), fd, &src.st); err == nil {
		err = c.putFile(src, tmp)
	}
	if err != nil {
		_ = unix.Unlinkat(c.tree.stage, tmp, 0)
	}
	return err
}

// fill makes out the copy of in, which was st when it was found: what it has
// grown by since then is left out, what it lacks is zeros.
func (c *copier) fill(out, in int, st *unix.Stat_t) error {
	for at := int64(0); at < st.Size; {
		data, err := unix.Seek(in, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(in, data, unix.SEEK_HOLE)
		if err != nil && !errors.Is(err, unix.ENXIO) {
			return err
		}
		if at = min(hole, st.Size); err != nil || data >= at {
			break
		}
		if err := c.span(out, in, span{data, at}); err != nil {
			return err
		}
	}
	if err := unix.Ftruncate(out, st.Size); err != nil {
		return err
	}
	if err := c.tree.own(out); err != nil {
		return err
	}
	if err := unix.Fchmod(out, st.Mode&0o1777); err != nil {
		return err
	}
	return setTime(out, time.Unix(st.Mtim.Unix()))
}

// span copies one range in the kernel, or through memory where the file system
// does not do that.
func (c *copier) span(out, in int, s span) error {
	for s.lo < s.hi {
		if err := c.tree.stopped(c.ctx); err != nil {
			return err
		}
		rd, wr := s.lo, s.lo
		n, err := unix.CopyFileRange(in, &rd, out, &wr, int(min(copyStep, s.hi-s.lo)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case isNoRange(err):
			return c.spanByHand(out, in, s)
		case err != nil:
			return err
		case n == 0:
			return nil // it has become shorter
		}
		s.lo += int64(max(n, 0))
	}
	return nil
}

func isNoRange(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) ||
		errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM)
}

func (c *copier) spanByHand(out, in int, s span) error {
	buf := make([]byte, copyBuffer)
	for s.lo < s.hi {
		if err := c.tree.stopped(c.ctx); err != nil {
			return err
		}
		n, err := unix.Pread(in, buf[:min(copyBuffer, s.hi-s.lo)], s.lo)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		for done := 0; done < n; {
			m, err := unix.Pwrite(out, buf[done:n], s.lo+int64(done))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			done += max(m, 0)
		}
		s.lo += int64(n)
	}
	return nil
}

// checkTarget refuses early, before anything is made, what cannot be replaced.
func (c *copier) checkTarget(src *place) error {
	at, err := c.resolve(c.to, lookup{lacks: true})
	if err != nil {
		return failedNew(err)
	}
	defer at.close()
	return c.mayReplace(src, at)
}

func (c *copier) mayReplace(src, at *place) error {
	switch {
	case at.obj < 0:
		return nil
	case c.opt.NoReplace || src.kind() == unix.S_IFDIR:
		return failedNew(errTaken())
	case at.kind() == unix.S_IFDIR:
		return failedNew(errIsDir())
	case at.st.Dev == src.st.Dev && at.st.Ino == src.st.Ino:
		return mesh.Errorf(mesh.CodeInvalid, "the new name is the file itself")
	case at.kind() == unix.S_IFLNK:
		return nil
	}
	return checkRegular(&at.st)
}

// putFile moves the finished file to its name.
func (c *copier) putFile(src *place, tmp string) error {
	at, err := c.resolve(c.to, lookup{lacks: true})
	if err != nil {
		return err
	}
	defer at.close()
	if err := c.mayReplace(src, at); err != nil {
		return err
	}
	info, err := describeEntry(c.tree.stage, tmp)
	if err != nil {
		return err
	}
	change := Change{Kind: ChangePut, Path: at.path, Missing: at.lacks, Temp: tmp, Info: info, Copied: c.count}
	return c.change(change, func() error { return c.tree.place(tmp, at.path, !c.opt.NoReplace) })
}

// directory makes the copy in the stage, where nothing sees it, and moves it to
// its name.
func (c *copier) directory(src *place) error {
	if !c.opt.Recursive {
		return mesh.Errorf(mesh.CodeInvalid, "it is a directory, and recursive was not asked for")
	}
	if err := c.checkTarget(src); err != nil {
		return err
	}
	if err := c.checkInside(src); err != nil {
		return err
	}
	tmp := c.tree.fresh()
	if err := unix.Mkdirat(c.tree.stage, tmp, 0o700); err != nil {
		return err
	}
	err := c.fillDir(src, tmp)
	if err == nil {
		err = c.placeDir(src, tmp)
	}
	if err != nil {
		_ = c.tree.discard(c.tree.stage, tmp)
	}
	return err
}

// checkInside refuses to copy a directory into itself. It looks where the first
// directory above to that exists really lies: links may lead there. When the
// tenant moves it afterwards, the copy only lies where it was not asked to.
func (c *copier) checkInside(src *place) error {
	for dir := path.Dir(c.to); ; dir = path.Dir(dir) {
		at, err := c.find(dir, true)
		if errors.Is(err, unix.ENOENT) && dir != c.scope && dir != "." {
			continue
		}
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		defer at.close()
		if strings.HasPrefix(c.to, c.from+"/") || isInside(at.obj, src.obj) {
			return errIntoItself()
		}
		return nil
	}
}

// isInside compares where the kernel says that two directories are. Of one that
// is too deep to have a path it knows nothing.
func isInside(dir, top int) bool {
	d, err := os.Readlink(again(dir))
	if err != nil {
		return false
	}
	t, err := os.Readlink(again(top))
	return err == nil && strings.HasPrefix(d+"/", t+"/")
}

// fillDir packs the one directory and unpacks it in the other, as if that were
// a workspace of its own.
func (c *copier) fillDir(src *place, tmp string) error {
	root, err := openAt(c.tree.stage, tmp, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	t := c.tree
	inner := &Tree{
		root: root, stage: t.stage, trash: t.trash, owned: t.owned, uid: t.uid, gid: t.gid,
		seq: t.seq, noBatch: t.noBatch, walks: t.walks, done: t.done,
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		t.act(t.uid, t.gid)
		defer t.act(0, 0)
		err := c.pack(src, w)
		w.CloseWithError(err)
		packed <- err
	}()
	in := &tarSource{r: r}
	u := unpacker{
		View: inner.View("."), ctx: c.ctx, base: ".", src: in, in: tar.NewReader(in),
		lim: c.lim, buf: make([]byte, copyBuffer), holes: true,
	}
	err = u.all()
	r.CloseWithError(errUnpacked)
	if perr := <-packed; perr != nil && !errors.Is(perr, errUnpacked) {
		return failed(perr)
	}
	if mesh.CodeOf(err) == mesh.CodeTooLarge {
		return mesh.Errorf(mesh.CodeTooLarge, "more than %d entries or %d bytes", c.lim.Entries, c.lim.Bytes)
	}
	c.count = mesh.CopyReply{Entries: u.count.Entries + 1, Bytes: u.count.Bytes}
	return err
}

// errUnpacked ends a packer whose reader has ended, well or not.
var errUnpacked = errors.New("the archive is read no more")

func (c *copier) pack(src *place, w io.Writer) error {
	p := newPacker(c.ctx, c.tree, w)
	err := p.directory(src.obj)
	if err == nil {
		err = p.write(p.out.Close())
	}
	var foreign *writerError
	if errors.As(err, &foreign) {
		return foreign.err
	}
	return err
}

func (c *copier) placeDir(src *place, tmp string) error {
	obj, err := openAt(c.tree.stage, tmp, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	done := &place{dir: -1, name: tmp, obj: obj}
	defer done.close()
	if err := c.tree.own(obj); err != nil {
		return err
	}
	if err := unix.Chmod(again(obj), src.st.Mode&0o1777); err != nil {
		return err
	}
	if err := setTime(obj, time.Unix(src.st.Mtim.Unix())); err != nil {
		return err
	}
	if err := unix.Fstat(obj, &done.st); err != nil {
		return err
	}
	at, err := c.resolve(c.to, lookup{lacks: true})
	if err != nil {
		return err
	}
	defer at.close()
	if at.obj >= 0 {
		return failedNew(errTaken())
	}
	info, err := describe(-1, &done.st)
	if err != nil {
		return err
	}
	change := Change{Kind: ChangePut, Path: at.path, Missing: at.lacks, Temp: tmp, Info: info, Copied: c.count}
	return c.change(change, func() error {
		return c.tree.withWritable(done, func() error { return c.tree.place(tmp, at.path, false) })
	})
}
