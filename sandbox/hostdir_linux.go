package sandbox

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// FindHostDir looks at the directory that an absolute path leads to. The error
// says why not, and names no path: CodeNotFound, CodeInvalid or CodeDenied.
func FindHostDir(path string) (HostDir, error) {
	if !filepath.IsAbs(path) || path != filepath.Clean(path) {
		return HostDir{}, mesh.Errorf(mesh.CodeInvalid, "its path is not absolute and clean")
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return HostDir{}, failed(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return HostDir{}, failed(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return HostDir{}, failed(unix.ENOTDIR)
	}
	return HostDir{Path: path, UID: int(st.Uid), GID: int(st.Gid)}, nil
}

// openHostDir opens a directory that exists, by a path without symbolic links.
func openHostDir(path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // as needsWalk has it
			return -1, mesh.Errorf(mesh.CodeUnsupported, "a directory of the host needs openat2: a kernel from 5.6 on, and a container that allows it")
		default:
			return fd, err
		}
	}
}

// sameMount says whether a file can be renamed from one directory into the
// other: two mounts of one file system are two for the kernel.
func sameMount(a, b int) (bool, error) {
	var of [2]unix.Statx_t
	for i, fd := range []int{a, b} {
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &of[i]); err != nil {
			return false, err
		}
	}
	if of[0].Dev_major != of[1].Dev_major || of[0].Dev_minor != of[1].Dev_minor {
		return false, nil
	}
	return of[0].Mnt_id == of[1].Mnt_id, nil // zero, hence equal, where the kernel does not say
}
