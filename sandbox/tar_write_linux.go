package sandbox

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// maxLinked bounds how many files with several names are remembered to be
	// written as hard links; what is beyond is written as separate files.
	maxLinked = 64 << 10
	// maxOpenDirs bounds the descriptors one WriteTar holds.
	maxOpenDirs = 64
	copyBuffer  = 256 << 10
)

// WriteTar writes what is in the directory at path, or the one file there, as a
// PAX archive. Names are relative to the directory, which has no entry itself;
// they keep their bytes. Modes, modification times, symbolic links, empty
// directories, FIFOs and hard links among the entries are kept; owners are not;
// sockets and devices are left out. Holes are written as zeros.
//
// It is not a snapshot. What vanishes meanwhile is left out, a file that grows
// is cut at the size it had, one that shrinks is filled up with zeros. A path of
// more than 4,095 bytes is CodeTooLarge. An error of w is wrapped.
func (v *View) WriteTar(ctx context.Context, path string, w io.Writer) error {
	if err := v.tree.enter(); err != nil {
		return err
	}
	defer v.tree.leave()
	at, err := v.find(path, true)
	if err != nil {
		return failed(err)
	}
	defer at.close()
	p := newPacker(ctx, v.tree, w)
	if at.kind() == unix.S_IFDIR {
		err = p.directory(at.obj)
	} else {
		err = p.object(at.obj, &at.st, at.name)
	}
	if err == nil {
		err = p.write(p.out.Close())
	}
	var foreign *writerError
	if errors.As(err, &foreign) {
		return fmt.Errorf("write the archive: %w", foreign.err)
	}
	return failed(err)
}

// writerError keeps what the caller's writer said from being read as an error
// of the file system.
type writerError struct{ err error }

func (e *writerError) Error() string { return e.err.Error() }

type inode struct{ dev, ino uint64 }

// packer writes one archive.
type packer struct {
	tree   *Tree
	ctx    context.Context
	out    *tar.Writer
	linked map[inode]string
	buf    []byte
	root   int
	stack  []*level
}

func newPacker(ctx context.Context, t *Tree, w io.Writer) *packer {
	return &packer{
		tree: t, ctx: ctx, out: tar.NewWriter(w),
		linked: map[inode]string{}, buf: make([]byte, copyBuffer),
	}
}

// level is one directory being read, from the top down.
type level struct {
	rel   string
	id    inode
	dir   *dirents // nil while too many others are open
	pos   int64    // where to go on when it is opened again
	names []string // read and not yet written
}

// stopped returns an error once ctx is done or the Tree is being closed, for
// what may have had an effect by then.
func (t *Tree) stopped(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "stopped: %v", err)
	}
	if t.ending() != nil {
		return mesh.Errorf(mesh.CodeLost, "stopped: the workspace is being closed")
	}
	return nil
}

func (p *packer) write(err error) error {
	if err != nil {
		return &writerError{err}
	}
	return nil
}

// directory writes all that is below root, depth first.
func (p *packer) directory(root int) error {
	p.root = root
	defer func() {
		for _, l := range p.stack {
			l.shut()
		}
	}()
	if err := p.push(root, ""); err != nil {
		return err
	}
	for len(p.stack) > 0 {
		if err := p.tree.stopped(p.ctx); err != nil {
			return err
		}
		l := p.stack[len(p.stack)-1]
		if !p.refill(l) {
			l.shut()
			p.stack = p.stack[:len(p.stack)-1]
			continue
		}
		name := l.names[0]
		l.names = l.names[1:]
		if err := p.entry(l, name); err != nil {
			return err
		}
	}
	return nil
}

// push goes down into the directory dir is open on.
func (p *packer) push(dir int, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	d, err := openDirents(dir)
	if err != nil {
		return err
	}
	p.stack = append(p.stack, &level{rel: rel, id: inode{st.Dev, st.Ino}, dir: d})
	if over := len(p.stack) - 1 - maxOpenDirs; over >= 0 {
		p.stack[over].shut()
	}
	return nil
}

// refill makes l open and its names not empty; false at the end of the
// directory, or when it is not where it was.
func (p *packer) refill(l *level) bool {
	if l.dir == nil && !p.reopen(l) {
		return false
	}
	if len(l.names) > 0 {
		return true
	}
	names, err := l.dir.next()
	if err != nil {
		return false
	}
	l.names = names
	l.pos, err = unix.Seek(l.dir.fd, 0, io.SeekCurrent)
	return err == nil && len(names) > 0
}

// reopen opens l again, which was shut to save descriptors.
func (p *packer) reopen(l *level) bool {
	rel := l.rel
	if rel == "" {
		rel = "."
	}
	fd, err := p.tree.openStrict(p.root, rel)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || l.id != (inode{st.Dev, st.Ino}) {
		return false
	}
	if l.dir, err = openDirents(fd); err != nil {
		l.dir = nil
		return false
	}
	_, err = unix.Seek(l.dir.fd, l.pos, io.SeekStart)
	return err == nil
}

// openStrict is openBeneath, also where the kernel has no openat2.
func (t *Tree) openStrict(dir int, rel string) (int, error) {
	fd, err := t.openBeneath(dir, rel)
	if err == nil || !needsWalk(err) || errors.Is(err, unix.ELOOP) {
		return fd, err
	}
	fd, err = openAt(dir, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	for _, name := range splitNames(rel) {
		if err != nil {
			return -1, err
		}
		var next int
		next, err = openAt(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		unix.Close(fd)
		fd = next
	}
	return fd, err
}

func (l *level) shut() {
	if l.dir != nil {
		l.dir.close()
		l.dir = nil
	}
}

// entry writes one name of a directory.
func (p *packer) entry(l *level, name string) error {
	rel := name
	if l.rel != "" {
		rel = l.rel + "/" + name
	}
	if len(rel) > mesh.MaxPathBytes {
		return mesh.Errorf(mesh.CodeTooLarge, "a path in the archive is longer than %d bytes", mesh.MaxPathBytes)
	}
	obj, err := openAt(l.dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(obj)
	var st unix.Stat_t
	if err := unix.Fstat(obj, &st); err != nil {
		return err
	}
	if err := p.object(obj, &st, rel); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := p.push(obj, rel); !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// object writes what obj is open on under the name rel.
func (p *packer) object(obj int, st *unix.Stat_t, rel string) error {
	hdr := &tar.Header{
		Name: rel, Mode: int64(st.Mode & 0o7777),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch typeOf(st) {
	case TypeFile:
		return p.file(obj, st, hdr)
	case TypeDir:
		hdr.Typeflag, hdr.Name = tar.TypeDir, rel+"/"
	case TypeFifo:
		hdr.Typeflag = tar.TypeFifo
	case TypeSymlink:
		target, err := readLink(obj)
		if err != nil {
			return err
		}
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, target
	default:
		return nil
	}
	return p.write(p.out.WriteHeader(hdr))
}

func (p *packer) file(obj int, st *unix.Stat_t, hdr *tar.Header) error {
	id := inode{st.Dev, st.Ino}
	if first, ok := p.linked[id]; ok {
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
		return p.write(p.out.WriteHeader(hdr))
	}
	fd, err := openRegular(obj)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "entry")
	defer f.Close()
	if st.Nlink > 1 && len(p.linked) < maxLinked {
		p.linked[id] = hdr.Name
	}
	hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	if err := p.write(p.out.WriteHeader(hdr)); err != nil {
		return err
	}
	for left := st.Size; left > 0; {
		if err := p.tree.stopped(p.ctx); err != nil {
			return err
		}
		buf := p.buf[:min(left, copyBuffer)]
		n, err := io.ReadFull(f, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		clear(buf[n:])
		if _, err := p.out.Write(buf); err != nil {
			return p.write(err)
		}
		left -= int64(len(buf))
	}
	return nil
}
