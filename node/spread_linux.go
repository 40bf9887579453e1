package node

import (
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// topDir is ext4's FS_TOPDIR_FL: what is in the directory has nothing to do with one
// another.
const topDir = 0x00020000

// spread has the file system put each directory that is made in one into a corner of its
// own. ext4 looks at every file that was removed lately before it makes another one in the
// same corner, and where trees come and go that is where those before were: to make a file
// took 700 µs there, and 40 elsewhere. Other file systems need no such hint and take none.
func spread(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&topDir == 0 {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|topDir)) // a hint
	}
}

const (
	// corners is how many corners are tried for a tree that is made, and goodCorner what
	// making a file costs in one that is good enough, in processor time.
	corners    = 4
	goodCorner = 30 * time.Microsecond
)

// makeApart makes a directory in one that is spread, for a tree that is about to be made:
// of some corners the one where a file is made fastest. The file system likes best the
// one that a tree has just left, and that is the worst.
func makeApart(parent string) (dir string, err error) {
	least := time.Duration(0)
	for range corners {
		next := filepath.Join(parent, mesh.NewID())
		if err := os.Mkdir(next, 0o700); err != nil {
			return dir, err
		}
		cost := costOfFile(next)
		worse := next
		if dir == "" || cost < least {
			dir, least, worse = next, cost, dir
		}
		if worse != "" {
			if err := os.Remove(worse); err != nil {
				return dir, err
			}
		}
		if least <= goodCorner {
			break
		}
	}
	return dir, nil
}

// costOfFile is the processor time that making a file in a directory takes; 0 where that
// cannot be told.
func costOfFile(dir string) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before) != nil {
		return 0
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after) != nil {
		return 0
	}
	return time.Duration(after.Nano() - before.Nano())
}
