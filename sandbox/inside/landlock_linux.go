package inside

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// landlock is the second layer: a ruleset that each command's thread enters.
type landlock struct {
	version int // of the kernel's interface, 0 for none
	ruleset int
}

// Versions of the interface.
const (
	withRefer    = 2 // renames between directories
	withTruncate = 3
	withScopes   = 6 // signals
)

// change is every way to change a file system that the first version knows.
const change = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
	unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
	unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
	unix.LANDLOCK_ACCESS_FS_MAKE_SYM

// writable is where commands may change files: what the mounts leave writable,
// and the files of the kernel that a process uses about itself.
var writable = []string{"/workspace", "/tmp", "/dev", "/proc"}

// newLandlock makes the ruleset, if the kernel has Landlock.
func newLandlock() (landlock, error) {
	none := landlock{ruleset: -1}
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || version < 1 {
		return none, nil
	}
	access := uint64(change)
	if version >= withRefer {
		access |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= withTruncate {
		access |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: access}
	if version >= withScopes {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL
	}
	// As long as each version knows it.
	size := unsafe.Offsetof(attr.Quiet_access_fs)
	if version < withScopes {
		size = unsafe.Offsetof(attr.Handled_access_net)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return none, errno
	}
	for _, dir := range writable {
		if err := allow(int(fd), access, dir); err != nil {
			return none, err
		}
	}
	return landlock{version: int(version), ruleset: int(fd)}, nil
}

func allow(ruleset int, access uint64, dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// enter puts the calling thread into a domain of its own. It asks for no new
// privileges, which the sandbox has given up already.
func (l landlock) enter() error {
	if l.version == 0 {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(l.ruleset), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
