package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// While a gate lets one file in, as many others may wait for it: small ones, whose
// content it may hold in memory.
const (
	tarBeside      = 32
	tarBesideBytes = 256 << 10
	// maxBeside bounds the names that are compared with those that come.
	maxBeside = 4096
)

// maxLateBytes bounds the memory for directories whose mode and time are set
// at the end, because what is put into them would change the time.
const maxLateBytes = 4 << 20

// ReadTar extracts an archive below the directory at path, which is made if it
// is missing. Entries replace what has their name, each in one step; a
// directory joins the one that is there. Modes (without setuid and setgid) and
// modification times are set, owners are the tenant, extended attributes are
// ignored. After a failure what was extracted before stays. With a gate, small files
// pass it beside each other; what has a name in common comes in the archive's order.
//
// Names that are absolute or hold "..", devices, and hard links to such names
// are CodeDenied; so is an entry whose parent is a symbolic link, of the archive
// or of the tenant, that leaves the scope. Other links on the way are followed,
// and none at the end. A hard link to what is not a file in the directory is
// CodeInvalid, as is a malformed archive or one without its end. Over the limits
// is CodeTooLarge. An error of r is wrapped.
func (v *View) ReadTar(ctx context.Context, path string, r io.Reader, lim TarLimits) (TarCount, error) {
	if err := v.tree.enter(); err != nil {
		return TarCount{}, err
	}
	defer v.tree.leave()
	if lim.Entries <= 0 {
		lim.Entries = DefaultTarEntries
	}
	if lim.Bytes <= 0 {
		lim.Bytes = DefaultTarBytes
	}
	src := &tarSource{r: r}
	u := unpacker{View: v, ctx: ctx, base: path, src: src, in: tar.NewReader(src), lim: lim, buf: make([]byte, copyBuffer), beside: map[string]bool{}, straight: map[string]bool{}}
	u.placing.SetLimit(tarBeside)
	err := u.mkdir(path, 0, true)
	if errors.Is(err, unix.EEXIST) {
		err = unix.ENOTDIR
	}
	if err == nil {
		err = u.all()
	}
	if cause := u.placing.Wait(); err == nil || errors.Is(err, errBeside) {
		err = cause
	}
	if src.err != nil && err != nil {
		return u.count, fmt.Errorf("read the archive: %w", src.err)
	}
	return u.count, failed(err)
}

// tarSource remembers an error of the reader, and how many zeros it ended with:
// an archive ends with a block of them, and one that was cut off between two
// entries would otherwise look complete.
type tarSource struct {
	r     io.Reader
	err   error
	zeros int
}

func (s *tarSource) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	tail := n - len(bytes.TrimRight(b[:n], "\x00"))
	if tail < n {
		s.zeros = 0
	}
	s.zeros += tail
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// unpacker extracts one archive.
type unpacker struct {
	*View
	ctx   context.Context
	base  string
	src   *tarSource
	in    *tar.Reader
	lim   TarLimits
	count TarCount
	buf   []byte
	holes bool // where there are zeros

	late      []lateDir
	lateBytes int

	placing  errgroup.Group  // puts small files in place beside each other
	beside   map[string]bool // names since settle: true is one of these files, false what is above it
	straight map[string]bool // directories since settle, true where no link is on the way
	failed   atomic.Bool     // one of them was not put in place
}

// errBeside ends the reading after that: placing has the reason.
var errBeside = errors.New("an entry before failed")

// settle waits until the files before are in place.
func (u *unpacker) settle() error {
	clear(u.beside)
	clear(u.straight)
	if u.placing.Wait() != nil {
		return errBeside
	}
	return nil
}

// alone says that a name leads through a link, or may: it can be another name of anything.
func (u *unpacker) alone(to string) bool {
	dir := path.Dir(to)
	straight, known := u.straight[dir]
	if !known {
		if at, err := u.resolve(dir, lookup{follow: true, lacks: true}); err == nil {
			straight = at.path == path.Join(u.scope, dir)
			at.close()
		}
		u.straight[dir] = straight
	}
	return !straight
}

// order waits where an entry must come after those before it.
func (u *unpacker) order(to string, hdr *tar.Header) error {
	if u.gate == nil {
		return nil
	}
	_, below := u.beside[to]
	switch hdr.Typeflag {
	case tar.TypeDir:
		below = false // it joins what is there
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
	default:
		return u.settle() // it may be a way to them, or another name of one
	}
	for p := to; !below && len(u.beside) > 0; {
		below = u.beside[p]
		end := strings.LastIndexByte(p, '/') // of a clean path: path.Dir looks at all of it
		if end < 0 {
			break
		}
		p = p[:end]
	}
	switch {
	case below || len(u.beside) >= maxBeside || u.alone(to):
		return u.settle()
	case u.failed.Load():
		return errBeside
	}
	return nil
}

type lateDir struct {
	path string
	mode uint32
	time time.Time
}

func (u *unpacker) all() error {
	for {
		if err := u.tree.stopped(u.ctx); err != nil {
			return err
		}
		hdr, err := u.in.Next()
		if errors.Is(err, io.EOF) && u.src.zeros >= 512 {
			return u.finishDirs()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return mesh.Errorf(mesh.CodeInvalid, "after %d entries: not a tar archive, or cut off", u.count.Entries)
		}
		if u.count.Entries >= u.lim.Entries {
			return mesh.Errorf(mesh.CodeTooLarge, "more than %d entries", u.lim.Entries)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			u.count.Entries++ // against an archive of nothing else
			continue
		}
		if err := u.entry(hdr); err != nil {
			return about(hdr, err)
		}
		u.count.Entries++
		u.src.zeros = 0
	}
}

// about says which entry an error is of.
func about(hdr *tar.Header, err error) error {
	if errors.Is(err, errBeside) {
		return err
	}
	return mesh.About(fmt.Sprintf("entry %.200q", hdr.Name), failed(err))
}

func (u *unpacker) entry(hdr *tar.Header) error {
	to, err := u.target(hdr.Name)
	if err == nil {
		err = u.order(to, hdr)
	}
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return u.directory(to, hdr)
	case tar.TypeChar, tar.TypeBlock:
		return mesh.Errorf(mesh.CodeDenied, "devices are not allowed")
	}
	if to == u.base {
		return mesh.Errorf(mesh.CodeInvalid, "would replace the directory itself")
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		err = u.file(to, hdr)
	case tar.TypeSymlink:
		err = u.make(to, func(tmp string) error { return u.symlink(tmp, hdr) })
	case tar.TypeFifo:
		err = u.make(to, func(tmp string) error { return u.fifo(tmp, hdr) })
	case tar.TypeLink:
		err = u.hardLink(to, hdr)
	default:
		err = mesh.Errorf(mesh.CodeInvalid, "unknown kind of entry %q", hdr.Typeflag)
	}
	return err
}

// target is the path, relative to the workspace root, that a name in the
// archive stands for.
func (u *unpacker) target(name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		return "", mesh.Errorf(mesh.CodeDenied, "absolute names are not allowed")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", mesh.Errorf(mesh.CodeDenied, `".." is not allowed`)
		}
		if len(part) > mesh.MaxNameBytes {
			return "", mesh.Errorf(mesh.CodeInvalid, "name too long")
		}
	}
	to := path.Join(u.base, name)
	if name == "" || strings.IndexByte(name, 0) >= 0 || len(to) > mesh.MaxPathBytes {
		return "", mesh.Errorf(mesh.CodeInvalid, "no name for a file here")
	}
	return to, nil
}

func (u *unpacker) directory(to string, hdr *tar.Header) error {
	err := u.mkdir(to, 0, true)
	if errors.Is(err, unix.EEXIST) {
		err = unix.ENOTDIR
	}
	if err != nil || to == u.base {
		return err
	}
	u.late = append(u.late, lateDir{to, modeOf(hdr), hdr.ModTime})
	if u.lateBytes += len(to) + 64; u.lateBytes > maxLateBytes {
		return u.finishDirs()
	}
	return nil
}

// finishDirs sets modes and times of directories, the deepest first, through
// descriptors that are known to be directories in the scope. One that is not
// there any more is the tenant's doing.
func (u *unpacker) finishDirs() error {
	if err := u.settle(); err != nil {
		return err
	}
	for i := len(u.late) - 1; i >= 0; i-- {
		if err := u.tree.stopped(u.ctx); err != nil {
			return err
		}
		d := u.late[i]
		at, err := u.find(d.path, true)
		if err != nil {
			continue
		}
		isDir := at.kind() == unix.S_IFDIR
		at.close()
		if !isDir {
			continue
		}
		if err := u.attr(at.path, &d.mode, &d.time); u.gate != nil && err != nil {
			return err
		}
	}
	u.late, u.lateBytes = nil, 0
	return nil
}

func (u *unpacker) file(to string, hdr *tar.Header) error {
	if hdr.Size > u.lim.Bytes-u.count.Bytes {
		return mesh.Errorf(mesh.CodeTooLarge, "more than %d bytes in all", u.lim.Bytes)
	}
	f, tmp, err := u.tree.temp()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := u.fill(f, hdr); err != nil {
		_ = unix.Unlinkat(u.tree.stage, tmp, 0)
		return err
	}
	u.count.Bytes += hdr.Size
	if u.gate == nil || hdr.Size > tarBesideBytes || u.alone(to) {
		return u.putFile(to, tmp)
	}
	u.beside[to] = true
	for p := path.Dir(to); p != "." && !u.beside[p]; p = path.Dir(p) {
		u.beside[p] = false
	}
	u.placing.Go(func() error {
		err := u.tree.enter()
		if err == nil {
			err = u.putFile(to, tmp)
			u.tree.leave()
		}
		if err != nil {
			u.failed.Store(true)
			return about(hdr, err)
		}
		return nil
	})
	return nil
}

func (u *unpacker) putFile(to, tmp string) error {
	err := u.put(to, tmp)
	if err != nil {
		_ = unix.Unlinkat(u.tree.stage, tmp, 0)
	}
	return err
}

// fill writes the file; with holes, not the zeros at the end of a buffer.
func (u *unpacker) fill(f *os.File, hdr *tar.Header) error {
	for left := hdr.Size; left > 0; {
		if err := u.tree.stopped(u.ctx); err != nil {
			return err
		}
		n, err := io.ReadFull(u.in, u.buf[:min(left, copyBuffer)])
		if err != nil {
			return mesh.Errorf(mesh.CodeInvalid, "the archive is cut off")
		}
		data := u.buf[:n]
		if u.holes {
			data = bytes.TrimRight(data, "\x00")
		}
		if _, err := f.WriteAt(data, hdr.Size-left); err != nil {
			return err
		}
		left -= int64(n)
	}
	if err := f.Truncate(hdr.Size); err != nil {
		return err
	}
	fd := int(f.Fd())
	if err := u.tree.own(fd); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, modeOf(hdr)); err != nil {
		return err
	}
	return setTime(fd, hdr.ModTime)
}

// make has something made in the stage and puts it in place.
func (u *unpacker) make(to string, create func(tmp string) error) error {
	tmp := u.tree.fresh()
	err := create(tmp)
	if err == nil {
		err = u.put(to, tmp)
	}
	_ = unix.Unlinkat(u.tree.stage, tmp, 0)
	return err
}

// put moves what is finished from the stage over the name to.
func (u *unpacker) put(to, tmp string) error {
	c := Change{Temp: tmp}
	var err error
	if c.Info, err = describeEntry(u.tree.stage, tmp); err != nil {
		return err
	}
	return u.View.put(c, to, true)
}

func (u *unpacker) symlink(tmp string, hdr *tar.Header) error {
	if hdr.Linkname == "" || strings.IndexByte(hdr.Linkname, 0) >= 0 {
		return mesh.Errorf(mesh.CodeInvalid, "a symbolic link to nothing")
	}
	if err := unix.Symlinkat(hdr.Linkname, u.tree.stage, tmp); err != nil {
		return err
	}
	return u.dress(tmp, hdr, false)
}

func (u *unpacker) fifo(tmp string, hdr *tar.Header) error {
	if err := unix.Mknodat(u.tree.stage, tmp, unix.S_IFIFO|0o600, 0); err != nil {
		return err
	}
	return u.dress(tmp, hdr, true)
}

// dress sets owner, mode and time of what is still in the stage.
func (u *unpacker) dress(tmp string, hdr *tar.Header, chmod bool) error {
	fd, err := openAt(u.tree.stage, tmp, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := u.tree.own(fd); err != nil {
		return err
	}
	if chmod {
		if err := unix.Chmod(again(fd), modeOf(hdr)); err != nil {
			return err
		}
	}
	return setTime(fd, hdr.ModTime)
}

// hardLink gives the file that an earlier entry or the tenant put under the
// link's target a second name, which is the very inode that was checked.
func (u *unpacker) hardLink(to string, hdr *tar.Header) error {
	from, err := u.target(hdr.Linkname)
	if err != nil {
		return err
	}
	at, err := u.find(from, false)
	if errors.Is(err, unix.ENOENT) {
		return mesh.Errorf(mesh.CodeInvalid, "hard link to %.200q, which is missing", hdr.Linkname)
	}
	if err != nil {
		return err
	}
	defer at.close()
	if err := checkRegular(&at.st); err != nil {
		return err
	}
	return u.link(at, to)
}

// modeOf drops setuid and setgid, which mean another user outside the sandbox.
func modeOf(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o1777 }

// setTime sets the modification time of what fd, which may be O_PATH and on a
// link, is open on.
func setTime(fd int, at time.Time) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH)
}
