package dirtree

import (
	"context"
	"errors"
	"iter"
	"path"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/objstore"
)

// Below yields what stands at a path of the directory, and then what is below it,
// as Items does: nothing where nothing is, or where the path leads through a link.
// Paths, also those of links, count from the directory.
func (d *Dir) Below(ctx context.Context, p string) iter.Seq2[objstore.Item, error] {
	if p == "." {
		return d.Items(ctx)
	}
	return func(yield func(objstore.Item, error) bool) {
		switch there, err := d.holds(p); {
		case err != nil:
			yield(objstore.Item{Path: p}, translate(p, err))
		case there:
			s := &scan{d: d, ctx: ctx, yield: yield, links: map[inode]string{}}
			s.name(p, path.Base(p))
		}
	}
}

// holds reports whether anything stands at a path that leads through no link.
func (d *Dir) holds(p string) (bool, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	for {
		fd, err := unix.Openat2(int(d.root.Fd()), p, &how)
		switch {
		case err == nil:
			return true, unix.Close(fd)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
			return false, nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return false, err
		}
	}
}
