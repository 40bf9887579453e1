package dirtree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Dir is a directory that is read or restored. What is set is set before use:
// Note is told of names that are not kept and why, by several goroutines; Owner
// is whose the restored files are, nil for this process's user; Seed is another
// directory, whose files a restore looks at first: what has the wanted name there is
// not asked for. Items that are still in use need an open Dir.
type Dir struct {
	Note  func(path, what string)
	Owner *Owner
	Seed  *Dir
	root  *os.File
}

// Open opens a directory, which must exist.
func Open(dir string) (*Dir, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, translate(".", err)
	}
	return &Dir{root: f}, nil
}

// Close gives the directory back. Idempotent.
func (d *Dir) Close() error {
	if err := d.root.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return translate(".", err)
	}
	return nil
}

// Items yields the tree as objstore.Writer.Tree takes it. A name that goes away
// meanwhile is left out, with a Note; a file that changes while it is read is
// CodeConflict, and the tree has to be read anew.
func (d *Dir) Items(ctx context.Context) iter.Seq2[objstore.Item, error] {
	return func(yield func(objstore.Item, error) bool) {
		s := &scan{d: d, ctx: ctx, yield: yield, links: map[inode]string{}}
		st, err := d.stat(".")
		var e objstore.Entry
		if err == nil {
			e, err = s.entry(".", "", st)
		}
		if err != nil {
			yield(objstore.Item{Path: "."}, err)
			return
		}
		if yield(objstore.Item{Path: ".", Entry: e}, nil) {
			s.dir(".")
		}
	}
}

type scan struct {
	d     *Dir
	ctx   context.Context
	yield func(objstore.Item, error) bool
	links map[inode]string // first name of each file with several
}

type inode struct{ dev, ino uint64 }

func (d *Dir) note(path, what string) {
	if d.Note != nil {
		d.Note(path, what)
	}
}

// open opens a name below the directory without following any link.
func (d *Dir) open(p string, flags int, mode uint32) (*os.File, error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for try := 1; ; {
		fd, err := unix.Openat2(int(d.root.Fd()), p, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), p), nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && try < tries:
			try++
		case errors.Is(err, unix.EAGAIN): // a process holds a lease on it, and may for as long as it likes
			return nil, mesh.Errorf(mesh.CodeConflict, "%.200q is leased by a process that may write to it", p)
		default:
			return nil, translate(p, err)
		}
	}
}

// in calls do with the directory that a name is in, which no link leads to, and
// the name there.
func (d *Dir) in(p string, do func(dir int, name string) error) error {
	dir, name := path.Split(p)
	if dir == "" {
		return translate(p, do(int(d.root.Fd()), p))
	}
	f, err := d.open(path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return translate(p, do(int(f.Fd()), name))
}

func (d *Dir) stat(p string) (st unix.Stat_t, err error) {
	err = d.in(p, func(dir int, name string) error {
		return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

// dir yields what is in a directory; false ends everything.
func (s *scan) dir(dir string) bool {
	f, err := s.d.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	var names []string
	if err == nil {
		names, err = f.Readdirnames(-1)
		err = errors.Join(err, f.Close())
	}
	if errors.Is(err, fs.ErrNotExist) && dir != "." {
		s.d.note(dir, "it went away")
		return true
	}
	if err == nil {
		err = s.ctx.Err()
	}
	if err != nil {
		s.yield(objstore.Item{Path: dir}, translate(dir, err))
		return false
	}
	slices.Sort(names)
	for _, name := range names {
		if !s.name(path.Join(dir, name), name) {
			return false
		}
	}
	return true
}

// name yields one name and what is below it.
func (s *scan) name(p, name string) bool {
	st, err := s.d.stat(p)
	var e objstore.Entry
	if err == nil {
		e, err = s.entry(p, name, st)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.d.note(p, "it went away")
		return true
	case errors.Is(err, errors.ErrUnsupported):
		s.d.note(p, mesh.AsError(err).Text)
		return true
	case err != nil:
		return s.yield(objstore.Item{Path: p}, err)
	}
	it := objstore.Item{Path: p, Entry: e}
	if e.Type == objstore.TypeFile {
		data := e.Data()
		it.Open = func() (io.ReadCloser, error) { return s.d.content(p, st, data) }
	}
	return s.yield(it, nil) && (e.Type != objstore.TypeDir || s.dir(p))
}

// entry describes a name; a type that is not kept is CodeUnsupported.
func (s *scan) entry(p, name string, st unix.Stat_t) (objstore.Entry, error) {
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		if first := s.link(p, st); first != p {
			return objstore.Entry{Name: name, Type: objstore.TypeLink, Target: first}, nil
		}
	}
	return s.d.entry(p, name, st)
}

// entry describes a name as if it were the only one of its file.
func (d *Dir) entry(p, name string, st unix.Stat_t) (e objstore.Entry, err error) {
	e = objstore.Entry{Name: name, Mode: st.Mode & objstore.ModeMask, ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec).UTC()}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = objstore.TypeFile, st.Size
		if st.Blocks*512 < st.Size {
			if e.Holes, err = d.holes(p, st); err != nil {
				return e, err
			}
		}
	case unix.S_IFDIR:
		e.Type = objstore.TypeDir
	case unix.S_IFLNK:
		e.Type = objstore.TypeSymlink
		e.Target, err = d.readlink(p)
		return e, err
	case unix.S_IFIFO:
		e.Type = objstore.TypeFIFO
		return e, nil
	case unix.S_IFSOCK:
		return e, mesh.Errorf(mesh.CodeUnsupported, "sockets are not kept")
	default:
		return e, mesh.Errorf(mesh.CodeUnsupported, "devices are not kept")
	}
	e.Xattrs, err = d.xattrs(p)
	return e, err
}

// link returns the first name of a file.
func (s *scan) link(p string, st unix.Stat_t) string {
	if st.Nlink < 2 {
		return p
	}
	key := inode{st.Dev, st.Ino}
	if first, ok := s.links[key]; ok {
		return first
	}
	s.links[key] = p
	return p
}

func (d *Dir) readlink(p string) (target string, err error) {
	err = d.in(p, func(dir int, name string) error {
		b := make([]byte, mesh.MaxPathBytes+1)
		n, err := unix.Readlinkat(dir, name, b)
		target = string(b[:max(n, 0)])
		if errors.Is(err, unix.EINVAL) { // it was a link a moment ago
			return mesh.Errorf(mesh.CodeConflict, "%.200q changes while it is read", p)
		}
		return err
	})
	return target, err
}

// holes asks the file system where a file has no data.
func (d *Dir) holes(p string, st unix.Stat_t) (holes []objstore.Extent, err error) {
	f, err := d.file(p, st)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for at := int64(0); at < st.Size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = st.Size, nil
		}
		if err != nil {
			return nil, translate(p, err)
		}
		data = min(data, st.Size)
		if data > at {
			holes = append(holes, objstore.Extent{Offset: at, Length: data - at})
		}
		if data == st.Size {
			break
		}
		if at, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
			return nil, translate(p, err)
		}
	}
	return holes, nil
}

// file opens a regular file that still is what its stat said.
func (d *Dir) file(p string, st unix.Stat_t) (*os.File, error) {
	f, err := d.open(p, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unchanged(f, p, st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unchanged compares what changes with every write that is seen by stat.
func unchanged(f *os.File, p string, st unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return translate(p, err)
	}
	if now.Dev != st.Dev || now.Ino != st.Ino || now.Size != st.Size || now.Mtim != st.Mtim || now.Ctim != st.Ctim || now.Mode != st.Mode {
		return mesh.Errorf(mesh.CodeConflict, "%.200q changed while it was read; read the tree again", p)
	}
	return nil
}

// content reads the data of a file, and at its end looks whether it is still the
// same file.
func (d *Dir) content(p string, st unix.Stat_t, data []objstore.Extent) (io.ReadCloser, error) {
	f, err := d.file(p, st)
	if err != nil {
		return nil, err
	}
	return &content{f: f, path: p, st: st, rest: data}, nil
}

type content struct {
	f    *os.File
	path string
	st   unix.Stat_t
	rest []objstore.Extent
}

func (c *content) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		if err := unchanged(c.f, c.path, c.st); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	x := &c.rest[0]
	n, err := c.f.ReadAt(b[:min(int64(len(b)), x.Length)], x.Offset)
	x.Offset, x.Length = x.Offset+int64(n), x.Length-int64(n)
	if x.Length == 0 {
		c.rest, err = c.rest[1:], nil
	}
	if errors.Is(err, io.EOF) { // it is shorter by now
		err = mesh.Errorf(mesh.CodeConflict, "%.200q changed while it was read; read the tree again", c.path)
	}
	return n, err
}

func (c *content) Close() error { return c.f.Close() }

// xattrPath names a file for calls that take no directory, through proc.
func xattrPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

func keptXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability" ||
		name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// xattrs returns the kept attributes of a file or a directory, sorted.
func (d *Dir) xattrs(p string) (all []objstore.Xattr, err error) {
	err = d.in(p, func(dir int, name string) (err error) {
		all, err = xattrsOf(xattrPath(dir, name))
		return err
	})
	return all, err
}

func xattrsOf(full string) ([]objstore.Xattr, error) {
	return xattrsBy(full, unix.Llistxattr, unix.Lgetxattr)
}

// xattrsBy is xattrsOf with the calls that follow a link, or do not.
func xattrsBy(full string, list func(string, []byte) (int, error), get func(string, string, []byte) (int, error)) (all []objstore.Xattr, err error) {
	n, err := list(full, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	b := make([]byte, n+1<<10)
	if err == nil {
		n, err = list(full, b)
	}
	if err != nil {
		return nil, attributeError(err)
	}
	names := strings.Split(string(b[:n]), "\x00")
	slices.Sort(names)
	for _, name := range names {
		if !keptXattr(name) {
			continue
		}
		value := make([]byte, objstore.MaxXattr)
		n, err := get(full, name, value)
		if err != nil {
			return nil, attributeError(err)
		}
		all = append(all, objstore.Xattr{Name: name, Value: string(value[:n])})
	}
	return all, nil
}

// attributeError is an error of reading attributes, some of which have come or gone
// since they were listed.
func attributeError(err error) error {
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ERANGE) {
		return mesh.Errorf(mesh.CodeConflict, "its attributes change while they are read")
	}
	return err
}

// translate gives an error of the file system a code and the path in the tree.
func translate(p string, err error) error {
	var e *mesh.Error
	if err == nil || errors.As(err, &e) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	code := mesh.CodeOf(err)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		code = mesh.CodeNotFound // what is on the way is no directory, so there is nothing
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = mesh.CodeQuota
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		code = mesh.CodeDenied
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		err = number
	}
	return mesh.Errorf(code, "%.200q: %s", p, err)
}
