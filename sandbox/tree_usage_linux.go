package sandbox

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	// usageHeld bounds the directories that are open at a time.
	usageHeld = 128
	// usageDepth is deeper than anything but an attack.
	usageDepth = 10_000
)

// Usage counts the tree and its stage, while the tenant may change both. It stops
// early, with what it has, at more files than most. CodeCanceled or CodeDeadline:
// ctx ended.
func (t *Tree) Usage(ctx context.Context, most int64) (Usage, error) {
	if err := t.enter(); err != nil {
		return Usage{}, err
	}
	defer t.leave()
	c := &census{ctx: ctx, most: most, linked: make(map[uint64]struct{})}
	for _, top := range []int{t.root, t.stage} {
		err := c.top(top)
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return Usage{}, failed(err)
		}
	}
	return c.Usage, nil
}

// Free is what the file system of the tree has left.
func (t *Tree) Free() (Usage, error) {
	if err := t.enter(); err != nil {
		return Usage{}, err
	}
	defer t.leave()
	var st unix.Statfs_t
	if err := unix.Fstatfs(t.root, &st); err != nil {
		return Usage{}, failed(err)
	}
	return Usage{Bytes: int64(st.Bfree) * st.Bsize, Files: int64(st.Ffree)}, nil
}

var errEnough = errors.New("enough was counted")

// census counts what is below a directory.
type census struct {
	Usage
	ctx    context.Context
	most   int64
	linked map[uint64]struct{} // inodes with several names that were counted
}

func (c *census) top(top int) error {
	fd, err := openAt(top, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	d := &censused{fd: fd}
	err = c.dir(d, 0)
	d.close()
	return err
}

// censused is a directory that is being counted; its fd is -1 while too many
// others are open.
type censused struct {
	fd int
	id inode
}

func (d *censused) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

// dir counts what is in a directory. One that goes away meanwhile, or that nobody
// may read, counts as empty.
func (c *census) dir(d *censused, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var below []string
	list := dirents{fd: d.fd}
	for {
		names, err := list.next()
		if err != nil || len(names) == 0 {
			break
		}
		for _, name := range names {
			isDir, err := c.name(d.fd, name)
			if err != nil {
				return err
			}
			if isDir {
				below = append(below, name)
			}
		}
	}
	for _, name := range below {
		if err := c.child(d, name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// name counts one name and reports whether it is a directory's.
func (c *census) name(dir int, name string) (isDir bool, err error) {
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false, nil
	}
	isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Nlink > 1 {
		if _, known := c.linked[st.Ino]; known {
			return false, nil
		}
		c.linked[st.Ino] = struct{}{}
	}
	c.Bytes += st.Blocks * 512
	if c.Files++; c.Files > c.most {
		return false, errEnough
	}
	return isDir, nil
}

// child counts a directory in d. From some depth on d is closed meanwhile and
// found again above the child; if the tenant has moved that one, nothing can be
// said of what it moves about, and the tree counts as full.
func (c *census) child(d *censused, name string, depth int) error {
	fd, err := openAt(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	child := &censused{fd: fd}
	defer child.close()
	if depth > usageHeld {
		if d.id, err = inodeOf(d.fd); err != nil {
			return err
		}
		d.close()
	}
	if depth > usageDepth {
		return c.full()
	}
	err = c.dir(child, depth)
	if err != nil || d.fd >= 0 {
		return err
	}
	if d.fd, err = openAt(child.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return c.full()
	}
	if id, err := inodeOf(d.fd); err != nil || id != d.id {
		return c.full()
	}
	return nil
}

func (c *census) full() error {
	c.Files = c.most + 1
	return errEnough
}

func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return inode{st.Dev, st.Ino}, err
}
