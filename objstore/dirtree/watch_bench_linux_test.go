package dirtree_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// BenchmarkUntar unpacks 10,000 small files where nobody hears of it, where a ledger
// hears, and as a neighbour of that one, who has the cost as well: of the processor's
// time, tar-ms are what tar takes, and hear-ms what this process does, to hear of it.
func BenchmarkUntar(b *testing.B) {
	base := b.TempDir()
	from, archive := filepath.Join(base, "from"), filepath.Join(base, "archive")
	require.NoError(b, os.Mkdir(from, 0o755))
	makeSmallFiles(b, from)
	require.NoError(b, exec.Command("tar", "-C", from, "-cf", archive, ".").Run())
	for _, who := range []string{"unheard", "heard", "neighbour"} {
		b.Run(who, func(b *testing.B) {
			dir := filepath.Join(base, who)
			require.NoError(b, os.Mkdir(dir, 0o755))
			if who != "unheard" {
				w, err := dirtree.NewWatcher(base)
				if err != nil {
					b.Skip(err)
				}
				defer w.Close()
				heard := dir
				if who == "neighbour" {
					heard = b.TempDir()
				}
				x, err := w.Watch(heard)
				require.NoError(b, err)
				defer x.Close()
			}
			began, tar := cpu(b, syscall.RUSAGE_SELF), cpu(b, syscall.RUSAGE_CHILDREN)
			for i := 0; b.Loop(); i++ {
				to := filepath.Join(dir, fmt.Sprint(i))
				require.NoError(b, os.Mkdir(to, 0o755))
				require.NoError(b, exec.Command("tar", "-C", to, "-xf", archive).Run())
			}
			b.ReportMetric(float64(cpu(b, syscall.RUSAGE_SELF)-began)/1e3/float64(b.N), "hear-ms/op")
			b.ReportMetric(float64(cpu(b, syscall.RUSAGE_CHILDREN)-tar)/1e3/float64(b.N), "tar-ms/op")
		})
	}
}

// cpu is what processes have used of the processor, in microseconds.
func cpu(b *testing.B, who int) int64 {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(who, &u))
	return 1e6*(u.Utime.Sec+u.Stime.Sec) + u.Utime.Usec + u.Stime.Usec
}
