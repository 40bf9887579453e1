package dirtree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Restore makes the tree of root in the directory, see RestoreItems.
func (d *Dir) Restore(ctx context.Context, r *objstore.Reader, root objstore.Entry) error {
	return d.RestoreItems(ctx, r.Walk(ctx, root), r.Chunk)
}

// RestoreItems makes a tree, whose names come in the order of objstore.Reader's
// Walk, in the directory, which must be empty and which nobody else may change
// meanwhile: restore aside and rename into place. chunk returns the chunks of
// files, several at once. An error leaves a part of the tree; nothing is synced.
// It holds the attributes of the tree's directories.
func (d *Dir) RestoreItems(ctx context.Context, items iter.Seq2[objstore.Item, error], chunk func(context.Context, objstore.Chunk) ([]byte, error)) error {
	t := &restore{d: d, chunk: chunk}
	err := t.make(ctx, items)
	if err == nil {
		err = t.finish()
	}
	if err != nil {
		return fmt.Errorf("restore a tree: %w", err)
	}
	return nil
}

// make makes names with their content, all but the hard links.
func (t *restore) make(ctx context.Context, items iter.Seq2[objstore.Item, error]) error {
	g, gctx := errgroup.WithContext(ctx)
	t.ctx, t.files = gctx, make(chan objstore.Item, filesAhead)
	for range fileWriters {
		g.Go(t.writeFiles)
	}
	err := t.names(items)
	close(t.files)
	if werr := g.Wait(); werr != nil {
		err = werr
	}
	return cmp.Or(err, ctx.Err())
}

// filesAhead is how many files wait for who writes them.
const filesAhead = 64

// fileWriters is how many files are written at once, most of which wait: for content, or
// for the disk.
const fileWriters = 8

type restore struct {
	d     *Dir
	chunk func(context.Context, objstore.Chunk) ([]byte, error)
	ctx   context.Context
	files chan objstore.Item
	dirs  []objstore.Item
	links []objstore.Item
}

// names makes every name but hard links, which need their files first. Content
// is written by writeFiles. Directories get their attributes at the end: writing
// into them changes their time, and may need a mode that they do not have.
func (t *restore) names(items iter.Seq2[objstore.Item, error]) error {
	fd := int(t.d.root.Fd())
	for it, err := range items {
		if err != nil {
			return err
		}
		e := &it.Entry
		switch e.Type {
		case objstore.TypeDir:
			t.dirs = append(t.dirs, objstore.Item{Path: it.Path, Entry: objstore.Entry{Type: e.Type, Mode: e.Mode, ModTime: e.ModTime, Xattrs: e.Xattrs}})
			if it.Path != "." {
				err = unix.Mkdirat(fd, it.Path, 0o700)
			}
		case objstore.TypeFile:
			select {
			case t.files <- it:
			case <-t.ctx.Done():
				err = t.ctx.Err()
			}
		case objstore.TypeLink:
			t.links = append(t.links, it)
		case objstore.TypeSymlink:
			if err = unix.Symlinkat(e.Target, fd, it.Path); err == nil {
				err = errors.Join(t.give(it.Path), t.time(it.Path, e))
			}
		case objstore.TypeFIFO:
			if err = unix.Mkfifoat(fd, it.Path, 0o600); err == nil {
				err = t.attributes(it.Path, e)
			}
		}
		if err != nil {
			return translate(it.Path, err)
		}
	}
	return nil
}

// finish makes the hard links and then gives the directories their attributes,
// those inside first.
func (t *restore) finish() error {
	for _, it := range t.links {
		if err := t.link(it); err != nil {
			return err
		}
	}
	for i := len(t.dirs) - 1; i >= 0; i-- {
		if err := t.attributes(t.dirs[i].Path, &t.dirs[i].Entry); err != nil {
			return err
		}
	}
	return nil
}

// link makes another name of a file of this tree, and of nothing else.
func (t *restore) link(it objstore.Item) error {
	target := it.Entry.Target
	if path.Clean(target) != target {
		return mesh.Errorf(mesh.CodeInternal, "%.200q is a hard link to %.200q, which is no path of this tree", it.Path, target)
	}
	f, err := t.d.open(target, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = mesh.Errorf(mesh.CodeInternal, "%.200q is a hard link to %.200q, which is no file", it.Path, target)
	}
	if err == nil {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), int(t.d.root.Fd()), it.Path, unix.AT_SYMLINK_FOLLOW)
	}
	return translate(it.Path, err)
}

func (t *restore) writeFiles() error {
	for it := range t.files {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if err := t.file(it.Path, &it.Entry); err != nil {
			return err
		}
	}
	return nil
}

// file writes one file. Its attributes come last: a write takes setuid and
// capabilities away.
func (t *restore) file(p string, e *objstore.Entry) error {
	f, err := t.d.open(p, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if len(e.Holes) > 0 {
		err = f.Truncate(e.Size)
	}
	if err == nil {
		seed := t.seed(p, e.Size)
		err = t.content(f, seed, e)
		if seed != nil {
			seed.Close()
		}
	}
	if err == nil {
		err = t.describe(int(f.Fd()), p, e)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%.200q: %w", p, translate(p, err))
	}
	return nil
}

// seedBytes is how large a file is at least that is looked for in the seed: to open a smaller
// one takes longer than its content does, which comes beside that of many others.
const seedBytes = 8 << 10

// seed opens the file that has the path in the seed; nil where there is none. It is
// whoever's: only content that is what its name says is taken from it.
func (t *restore) seed(p string, size int64) *os.File {
	if t.d.Seed == nil || size < seedBytes {
		return nil
	}
	f, err := t.d.Seed.open(p, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil
	}
	return f
}

// seeded reads a chunk, which begins at an offset of a file's data, from a file of the
// seed; nil where that has another content there.
func seeded(seed *os.File, data []objstore.Extent, offset int64, c objstore.Chunk) []byte {
	if seed == nil {
		return nil
	}
	b := make([]byte, c.Size)
	for n := int64(0); n < c.Size; {
		at, left := place(data, offset+n)
		if left == 0 {
			return nil
		}
		k, err := seed.ReadAt(b[n:min(c.Size, n+left)], at)
		if n += int64(k); err != nil && n < c.Size {
			return nil
		}
	}
	if objstore.IDOf(b) != c.ID {
		return nil
	}
	return b
}

// place is where in a file an offset of its data is, and how much of the data lies
// there together.
func place(data []objstore.Extent, offset int64) (at, left int64) {
	for _, x := range data {
		if offset < x.Length {
			return x.Offset + offset, x.Length - offset
		}
		offset -= x.Length
	}
	return 0, 0
}

// content writes the chunks of a file, several at once when there are several.
func (t *restore) content(f, seed *os.File, e *objstore.Entry) error {
	data := e.Data()
	write := func(ctx context.Context, c objstore.Chunk, offset int64) error {
		b := seeded(seed, data, offset, c)
		if b == nil {
			var err error
			if b, err = t.chunk(ctx, c); err != nil {
				return err
			}
		}
		return writeData(f, data, offset, b)
	}
	if len(e.Content) == 1 {
		return write(t.ctx, e.Content[0], 0)
	}
	g, ctx := errgroup.WithContext(t.ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	var at int64
	for _, c := range e.Content {
		offset := at
		g.Go(func() error { return write(ctx, c, offset) })
		at += c.Size
	}
	return g.Wait()
}

// writeData writes bytes that begin at an offset of a file's data, which lies in
// these ranges.
func writeData(f *os.File, data []objstore.Extent, offset int64, b []byte) error {
	for _, x := range data {
		if offset >= x.Length {
			offset -= x.Length
			continue
		}
		n := min(int64(len(b)), x.Length-offset)
		if _, err := f.WriteAt(b[:n], x.Offset+offset); err != nil {
			return err
		}
		if b, offset = b[n:], 0; len(b) == 0 {
			return nil
		}
	}
	return nil
}

// describe gives an open file what its entry says; the mode after the access control
// lists, which it is a part of, and the time last.
func (t *restore) describe(fd int, p string, e *objstore.Entry) error {
	if o := t.d.Owner; o != nil {
		if err := unix.Fchown(fd, o.UID, o.GID); err != nil {
			return err
		}
	}
	for _, x := range e.Xattrs {
		if err := mayKeep(p, x); err != nil {
			return err
		}
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, "", timesOf(e), unix.AT_EMPTY_PATH)
}

func mayKeep(p string, x objstore.Xattr) error {
	if keptXattr(x.Name) {
		return nil
	}
	return mesh.Errorf(mesh.CodeInternal, "%.200q has the attribute %.60q, which is never kept", p, x.Name)
}

// attributes is describe for a directory or FIFO.
func (t *restore) attributes(p string, e *objstore.Entry) error {
	if err := t.give(p); err != nil {
		return err
	}
	for _, x := range e.Xattrs {
		if err := mayKeep(p, x); err != nil {
			return err
		}
		if err := unix.Lsetxattr(xattrPath(int(t.d.root.Fd()), p), x.Name, []byte(x.Value), 0); err != nil {
			return translate(p, err)
		}
	}
	if err := unix.Fchmodat(int(t.d.root.Fd()), p, e.Mode, 0); err != nil {
		return translate(p, err)
	}
	return t.time(p, e)
}

// give gives a name to the directory's owner, which takes setuid and capabilities
// away.
func (t *restore) give(p string) error {
	o := t.d.Owner
	if o == nil {
		return nil
	}
	return translate(p, unix.Fchownat(int(t.d.root.Fd()), p, o.UID, o.GID, unix.AT_SYMLINK_NOFOLLOW))
}

func (t *restore) time(p string, e *objstore.Entry) error {
	return translate(p, unix.UtimesNanoAt(int(t.d.root.Fd()), p, timesOf(e), unix.AT_SYMLINK_NOFOLLOW))
}

func timesOf(e *objstore.Entry) []unix.Timespec {
	return []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())}}
}
