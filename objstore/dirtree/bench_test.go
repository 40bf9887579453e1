//go:build linux

package dirtree_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
	"github.com/wsmesh/wsmesh/objstore/jsbucket"
)

// BenchmarkTree stores and restores 10,000 small files and one large one, beside
// what tar and cp need for the same tree. Run it with -benchtime=3x: each turn
// begins with nothing cached.
func BenchmarkTree(b *testing.B) {
	for _, tree := range []struct {
		name string
		make func(testing.TB, string) int64
	}{
		{"10000 files of 4 KiB", makeSmallFiles},
		{"one file of 256 MiB", makeLargeFile},
	} {
		dir := b.TempDir()
		size := tree.make(b, dir)
		b.Run(tree.name, func(b *testing.B) {
			b.Run("tar", func(b *testing.B) {
				measure(b, size, func() { run(b, "tar", "-C", dir, "-cf", filepath.Join(b.TempDir(), "t.tar"), ".") })
			})
			b.Run("untar", func(b *testing.B) {
				archive := filepath.Join(b.TempDir(), "t.tar")
				run(b, "tar", "-C", dir, "-cf", archive, ".")
				measure(b, size, func() { run(b, "tar", "-C", b.TempDir(), "-xf", archive) })
			})
			b.Run("cp", func(b *testing.B) {
				measure(b, size, func() { run(b, "cp", "-a", dir, b.TempDir()) })
			})
			for name, open := range map[string]func(testing.TB) func() objstore.Bucket{"dir": dirBuckets, "stream R1": streamBuckets(1), "stream R3": streamBuckets(3)} {
				benchmarkBucket(b, name, dir, size, open(b))
			}
		})
	}
}

// measure also reports what processors did for it, servers in this process
// included: on a busy machine the time says little.
func measure(b *testing.B, size int64, turn func()) {
	b.SetBytes(size)
	before, n := cpuTime(b), 0
	for b.Loop() {
		turn()
		n++
	}
	b.ReportMetric(float64((cpuTime(b)-before).Milliseconds())/float64(n), "cpu-ms/op")
}

func cpuTime(b *testing.B) (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		require.NoError(b, unix.Getrusage(who, &u))
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

func run(b *testing.B, name string, args ...string) {
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(b, err, "%s", out)
}

// benchmarkBucket stores into a new bucket each time.
func benchmarkBucket(b *testing.B, name, dir string, size int64, open func() objstore.Bucket) {
	newStore := func(bucket objstore.Bucket) *objstore.Store {
		s, err := objstore.New(bucket, objstore.Config{})
		require.NoError(b, err)
		return s
	}
	var bucket objstore.Bucket
	var ref objstore.Ref
	b.Run("store "+name, func(b *testing.B) {
		measure(b, size, func() {
			bucket = open()
			ref = store(b, newStore(bucket), nil, dir)
		})
	})
	b.Run("restore "+name, func(b *testing.B) {
		measure(b, size, func() { restore(b, newStore(bucket), ref) })
	})
}

func dirBuckets(t testing.TB) func() objstore.Bucket {
	return func() objstore.Bucket {
		bucket, err := dirbucket.Open(t.TempDir())
		require.NoError(t, err)
		return bucket
	}
}

// streamBuckets gives a tenant to each bucket.
func streamBuckets(servers int) func(t testing.TB) func() objstore.Bucket {
	return func(t testing.TB) func() objstore.Bucket {
		m := meshtest.Server(t)
		if servers > 1 {
			m = meshtest.Cluster(t, servers)
		}
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: m.Replicas()}))
		n := 0
		return func() objstore.Bucket {
			n++
			bucket, err := jsbucket.Open(t.Context(), js, 0, mesh.Tenant(fmt.Sprintf("t%d", n)))
			require.NoError(t, err)
			return bucket
		}
	}
}

// makeSmallFiles writes text-like files, 10 to a directory.
func makeSmallFiles(t testing.TB, dir string) (size int64) {
	r := rand.New(rand.NewPCG(1, 1))
	words := bytes.Fields([]byte("func return err nil if for range string int context package import type struct the of and to in is error test"))
	for i := range 10000 {
		d := filepath.Join(dir, fmt.Sprintf("d%02d/e%02d", i/1000, i/10%100))
		require.NoError(t, os.MkdirAll(d, 0o755))
		var b bytes.Buffer
		for b.Len() < 4096 {
			fmt.Fprintf(&b, "%s %x ", words[r.IntN(len(words))], r.Uint32()&0xfff)
		}
		require.NoError(t, os.WriteFile(filepath.Join(d, fmt.Sprint(i)), b.Bytes(), 0o644))
		size += int64(b.Len())
	}
	return size
}

// makeLargeFile writes bytes of which half compress.
func makeLargeFile(t testing.TB, dir string) (size int64) {
	f, err := os.Create(filepath.Join(dir, "large"))
	require.NoError(t, err)
	r := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<20)
	for i := range 256 {
		if i%2 == 0 {
			_, _ = r.Read(block)
		} else {
			for j := range block {
				block[j] = "some text that compresses, line after line\n"[(i*7+j*j/3)%43]
			}
		}
		_, err := f.Write(block)
		require.NoError(t, err)
		size += int64(len(block))
	}
	require.NoError(t, f.Close())
	return size
}
