package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// OpenFiles is how many files a command may have open: DefaultFiles, or the hard
// limit of this process where that is lower. None is raised: as root in a
// container we may not.
func OpenFiles() (int, error) {
	n, err := hardLimit(unix.RLIMIT_NOFILE, DefaultFiles)
	return int(n), err
}

// hardLimit is want, or the hard limit of this process where that is lower.
func hardLimit(resource int, want int64) (int64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return 0, fmt.Errorf("read limit %d of this process: %w", resource, err)
	}
	return int64(min(uint64(want), limit.Max)), nil
}
