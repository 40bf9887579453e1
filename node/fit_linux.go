package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// diskRoom is what is free on the file system of a directory, and what it holds.
func diskRoom(dir string) (free, all int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// tryDisk writes a little, syncs it and reads it back.
func (n *Node) tryDisk() error {
	path := filepath.Join(n.cfg.Data, "probe")
	wrote := bytes.Repeat([]byte(n.incarnation), 100)
	err := writeSynced(path, wrote)
	if err == nil {
		var read []byte
		if read, err = os.ReadFile(path); err == nil && !bytes.Equal(read, wrote) {
			err = errors.New("what was written is not what is read")
		}
	}
	if err = errors.Join(err, removeIfThere(path)); err != nil {
		return reasonOf(err)
	}
	return nil
}

func removeIfThere(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// reasonOf is the system's word for what failed, without a path of the host.
func reasonOf(err error) error {
	var no unix.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

// memoryRoom is the memory that is available to the machine, or to the container that
// the node runs in where that is less; 0 where it cannot be found out.
func memoryRoom() int64 {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var room int64
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			room = kib << 10
		}
	}
	most, mostErr := readNumber("/sys/fs/cgroup/memory.max") // of the container, which is the root there
	used, usedErr := readNumber("/sys/fs/cgroup/memory.current")
	if mostErr == nil && usedErr == nil {
		room = min(room, max(0, most-used))
	}
	return room
}

func readNumber(path string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}
