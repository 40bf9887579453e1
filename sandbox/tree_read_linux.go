package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// maxScan bounds the names one List looks at: a tenant who makes entries while
// we read could keep us reading.
const maxScan = 10_000_000

// Stat describes what stands at path; with follow, what a symbolic link there
// leads to.
func (v *View) Stat(path string, follow bool) (Info, error) {
	if err := v.tree.enter(); err != nil {
		return Info{}, err
	}
	defer v.tree.leave()
	at, err := v.find(path, follow)
	if err != nil {
		return Info{}, failed(err)
	}
	defer at.close()
	info, err := describe(at.obj, &at.st)
	info.Path = v.Shown(path)
	return info, failed(err)
}

// List returns the entries of a directory whose names are greater than after,
// at most limit (1 to mesh.MaxList) of them, sorted by the names' bytes. It
// reads the whole directory for each page, in memory for one page, and is not a
// snapshot: an entry made or removed meanwhile may be in it or not. A directory
// of more than 10,000,000 entries is CodeTooLarge.
func (v *View) List(path, after string, limit int) (mesh.ListReply, error) {
	if limit < 1 || limit > mesh.MaxList {
		return mesh.ListReply{}, mesh.Errorf(mesh.CodeInvalid, "list limit %d: use 1 to %d", limit, mesh.MaxList)
	}
	if err := v.tree.enter(); err != nil {
		return mesh.ListReply{}, err
	}
	defer v.tree.leave()
	at, err := v.find(path, true)
	if err != nil {
		return mesh.ListReply{}, failed(err)
	}
	defer at.close()
	if at.kind() != unix.S_IFDIR {
		return mesh.ListReply{}, failed(unix.ENOTDIR)
	}
	for range maxTries {
		page, last, err := v.tree.page(at.obj, after, limit)
		if err != nil {
			return mesh.ListReply{}, failed(err)
		}
		if len(page.Entries) > 0 || !page.More {
			return page, nil
		}
		after = last // all of them vanished between the two looks
	}
	return mesh.ListReply{}, v.tree.errBusy()
}

// page returns a page and the last name it looked at.
func (t *Tree) page(dir int, after string, limit int) (mesh.ListReply, string, error) {
	names, err := t.smallest(dir, after, limit+1)
	if err != nil || len(names) == 0 {
		return mesh.ListReply{}, "", err
	}
	var page mesh.ListReply
	if len(names) > limit {
		names, page.More = names[:limit], true
	}
	page.Entries = make([]Info, 0, len(names))
	for _, name := range names {
		info, err := describeEntry(dir, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return mesh.ListReply{}, "", err
		}
		page.Entries = append(page.Entries, info)
	}
	return page, names[len(names)-1], nil
}

// smallest returns the n smallest names greater than after in the directory,
// holding at most twice as many.
func (t *Tree) smallest(dir int, after string, n int) ([]string, error) {
	c := chunk{most: n, mostBytes: n * 2 * mesh.MaxNameBytes}
	err := c.scan(dir, after, t.ending)
	return c.names, err
}

// chunk is the sorted beginning of the names of a directory.
type chunk struct {
	most, mostBytes int // it holds at most this, while it is read twice as much

	names []string
	bytes int
	bound string // the smallest name that was left out; "" is none
}

// nameBytes is about what a string takes in memory besides its bytes.
const nameBytes = 24

// scan fills the chunk with names of dir greater than after.
func (c *chunk) scan(dir int, after string, stopped func() error) error {
	d, err := openDirents(dir)
	if err != nil {
		return err
	}
	defer d.close()
	for scanned := 0; scanned <= maxScan; {
		if err := stopped(); err != nil {
			return err
		}
		names, err := d.next()
		if err != nil {
			return err
		}
		if len(names) == 0 {
			c.cut()
			return nil
		}
		scanned += len(names)
		for _, name := range names {
			if name > after && (c.bound == "" || name < c.bound) {
				c.names = append(c.names, name)
				c.bytes += len(name) + nameBytes
			}
			if len(c.names) >= 2*c.most || c.bytes >= 2*c.mostBytes {
				c.cut()
			}
		}
	}
	return mesh.Errorf(mesh.CodeTooLarge, "a directory of more than %d entries cannot be listed", maxScan)
}

// cut sorts the names and keeps as many as it may, and at least one.
func (c *chunk) cut() {
	slices.Sort(c.names)
	c.names = slices.Compact(c.names) // one that was renamed may be met twice
	keep, bytes := 0, 0
	for keep < min(c.most, len(c.names)) && (keep == 0 || bytes < c.mostBytes) {
		bytes += len(c.names[keep]) + nameBytes
		keep++
	}
	if keep < len(c.names) {
		c.bound = c.names[keep]
		clear(c.names[keep:])
	}
	c.names, c.bytes = c.names[:keep], bytes
}

// Open opens a regular file for reading; the position of its end may move while
// it is read. Anything that is not a regular file is CodeInvalid and is not
// touched. A file on which the tenant holds a lease is CodeBusy until the
// tenant or the kernel lets go of it. The caller closes the file.
func (v *View) Open(path string) (*os.File, Info, error) {
	if err := v.tree.enter(); err != nil {
		return nil, Info{}, err
	}
	defer v.tree.leave()
	f, info, err := v.openFile(path)
	return f, info, failed(err)
}

func (v *View) openFile(path string) (*os.File, Info, error) {
	at, err := v.find(path, true)
	if err != nil {
		return nil, Info{}, err
	}
	defer at.close()
	if err := checkRegular(&at.st); err != nil {
		return nil, Info{}, err
	}
	fd, err := openRegular(at.obj)
	if err != nil {
		return nil, Info{}, err
	}
	f := os.NewFile(uintptr(fd), string(v.Shown(path)))
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, Info{}, err
	}
	info, err := describe(at.obj, &st)
	info.Path = v.Shown(path)
	return f, info, err
}

// openRegular opens for reading what the O_PATH descriptor obj, known to be a
// regular file, is open on. O_NONBLOCK so that a lease does not hold us.
func openRegular(obj int) (int, error) {
	fd, err := openAt(unix.AT_FDCWD, again(obj), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func checkRegular(st *unix.Stat_t) error {
	switch kind := typeOf(st); kind {
	case TypeFile:
		return nil
	case TypeDir:
		return mesh.Errorf(mesh.CodeInvalid, "it is a directory, not a regular file")
	default:
		return mesh.Errorf(mesh.CodeInvalid, "it is a %s, not a regular file", kind)
	}
}

// ReadAt reads at most most bytes from offset on; it returns fewer only at the
// end of the file. With a revision, which the ranges after the first carry,
// a file that is no longer that one, or changed while it was read, is
// CodeConflict: start over. The Info is from before the read.
func (v *View) ReadAt(path string, offset int64, most int, revision string) ([]byte, Info, error) {
	if offset < 0 {
		return nil, Info{}, mesh.Errorf(mesh.CodeInvalid, "offset %d is negative", offset)
	}
	f, info, err := v.Open(path)
	if err != nil {
		return nil, Info{}, err
	}
	defer f.Close()
	if revision != "" && revision != info.Revision {
		return nil, info, errChanged()
	}
	buf := make([]byte, max(0, min(int64(most), info.Size-offset)))
	n, err := f.ReadAt(buf, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, info, failed(err)
	}
	if revision == "" {
		return buf[:n], info, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, info, failed(err)
	}
	if revisionOf(&st) != revision {
		return nil, info, errChanged()
	}
	return buf[:n], info, nil
}

func errChanged() error {
	return mesh.Errorf(mesh.CodeConflict, "the file changed since its first range was read; start over")
}

// describeEntry is describe for a name in a directory.
func describeEntry(dir int, name string) (Info, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return Info{}, err
	}
	obj := -1
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if obj, err = openAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0); err != nil {
			return Info{}, err
		}
		defer unix.Close(obj)
		if err := unix.Fstat(obj, &st); err != nil {
			return Info{}, err
		}
	}
	info, err := describe(obj, &st)
	info.Path = mesh.Path(name)
	return info, err
}

// describe makes an Info without a path. obj is only used for a link's target.
func describe(obj int, st *unix.Stat_t) (Info, error) {
	info := Info{
		Type: typeOf(st), Size: st.Size, Mode: st.Mode & 0o7777,
		ModTime: time.Unix(st.Mtim.Unix()), Revision: revisionOf(st),
	}
	if info.Type != TypeSymlink {
		return info, nil
	}
	target, err := readLink(obj)
	info.Target = mesh.Path(target)
	return info, err
}

func typeOf(st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return TypeFile
	case unix.S_IFDIR:
		return TypeDir
	case unix.S_IFLNK:
		return TypeSymlink
	case unix.S_IFIFO:
		return TypeFifo
	case unix.S_IFSOCK:
		return TypeSocket
	}
	return TypeDevice
}

func revisionOf(st *unix.Stat_t) string {
	mtime, ctime := time.Unix(st.Mtim.Unix()), time.Unix(st.Ctim.Unix())
	return fmt.Sprintf("%x-%x-%x-%x", st.Ino, st.Size, mtime.UnixNano(), ctime.UnixNano())
}

// dirents reads the names of a directory batch by batch.
type dirents struct {
	fd  int
	buf [8 << 10]byte
}

// openDirents opens for reading the directory that dir, which may be O_PATH, is
// open on.
func openDirents(dir int) (*dirents, error) {
	fd, err := openAt(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &dirents{fd: fd}, nil
}

// next returns some names, without "." and ".."; none at the end.
func (d *dirents) next() ([]string, error) {
	for {
		n, err := unix.Getdents(d.fd, d.buf[:])
		if errors.Is(err, unix.ENOENT) { // the directory itself was removed
			return nil, nil
		}
		if err != nil || n == 0 {
			return nil, err
		}
		if _, _, names := unix.ParseDirent(d.buf[:n], -1, nil); len(names) > 0 {
			return names, nil
		}
	}
}

func (d *dirents) close() { unix.Close(d.fd) }
