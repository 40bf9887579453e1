package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// agentThreads is more than process 1 has threads, which count against a limit of
// processes while it is in the same sandbox or cgroup.
const agentThreads = 16

// agentProgram opens the program that is process 1 of the sandboxes that are
// kept: the one that make build embedded, or else this one, which turns into it
// (see init). It is run by its descriptor, so that it needs no place in a file
// system that tenants see.
func agentProgram() (*os.File, error) {
	if embedded == nil {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return nil, fmt.Errorf("open our own program: %w", err)
		}
		return f, nil
	}
	fd, err := unix.MemfdCreate("wsmesh-agent", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, when all could be executed
		fd, err = unix.MemfdCreate("wsmesh-agent", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "agent")
	defer f.Close() // nothing runs that is open for writing
	if _, err := f.Write(embedded); err != nil {
		return nil, fmt.Errorf("fill a memory file: %w", err)
	}
	seals := unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("seal a memory file: %w", err)
	}
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}
