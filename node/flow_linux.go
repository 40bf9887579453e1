package node

import (
	"os"

	"golang.org/x/sys/unix"
)

// widen gives a pipe room for pipeBytes. Where it may not, it stays as it is.
func widen(pipe *os.File) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
}
