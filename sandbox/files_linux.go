package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// OpenFiles is how many files a command may have open: DefaultFiles, or the hard
// limit of this process where that is lower. None is raised: as root in a
// container we may not.
func OpenFiles() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return int(min(DefaultFiles, limit.Max)), nil
}
