//go:build crashpoints

package node

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// WSMESH_CRASH is POINT:N: the process dies by SIGKILL the N-th time it comes by.
var crashAt, crashIn = func() (string, *atomic.Int64) {
	point, n, _ := strings.Cut(os.Getenv("WSMESH_CRASH"), ":")
	count, _ := strconv.ParseInt(n, 10, 64)
	left := &atomic.Int64{}
	left.Store(count)
	return point, left
}()

func crashPoint(point string) {
	if point == crashAt && crashIn.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
