package dirtree

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/objstore"
)

// SetAttributes gives the file or directory at a path, which leads through no link, the
// extended attributes, mode and time of an entry, and takes other extended attributes
// that are kept from it.
func (d *Dir) SetAttributes(p string, e *objstore.Entry) error {
	f, err := d.open(p, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return translate(p, setAttributes(int(f.Fd()), e))
}

func setAttributes(fd int, e *objstore.Entry) error {
	full := fmt.Sprintf("/proc/self/fd/%d", fd)
	have, err := xattrsBy(full, unix.Listxattr, unix.Getxattr)
	if err != nil {
		return err
	}
	for _, x := range have {
		if !slices.ContainsFunc(e.Xattrs, func(w objstore.Xattr) bool { return w.Name == x.Name }) {
			if err := unix.Removexattr(full, x.Name); err != nil {
				return err
			}
		}
	}
	for _, x := range e.Xattrs {
		if err := mayKeep(e.Name, x); err != nil {
			return err
		}
		if err := unix.Setxattr(full, x.Name, []byte(x.Value), 0); err != nil {
			return err
		}
	}
	if err := unix.Chmod(full, e.Mode); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, full, timesOf(e), 0)
}
