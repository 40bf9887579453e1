package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestUsage(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "w")
	tree, err := OpenTree(TreeConfig{Dir: dir, Stage: filepath.Join(base, "stage"), UID: os.Getuid(), GID: os.Getgid()})
	require.NoError(t, err)
	defer tree.Close()
	usage := func(most int64) Usage {
		t.Helper()
		u, err := tree.Usage(t.Context(), most)
		require.NoError(t, err)
		return u
	}
	empty := usage(1000)
	require.LessOrEqual(t, empty.Files, int64(1), "the stage's own directory")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "b", "f"), make([]byte, 1<<20), 0o644))
	require.NoError(t, os.Link(filepath.Join(dir, "a", "b", "f"), filepath.Join(dir, "again")))
	require.NoError(t, os.Symlink("/", filepath.Join(dir, "up")))
	full := usage(1000)
	require.Equal(t, empty.Files+4, full.Files, "two directories, a file with two names, a link")
	require.GreaterOrEqual(t, full.Bytes, empty.Bytes+1<<20)
	require.Less(t, full.Bytes, empty.Bytes+2<<20)

	t.Run("holes take nothing", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "hole"), nil, 0o644))
		require.NoError(t, os.Truncate(filepath.Join(dir, "hole"), 1<<40))
		require.Less(t, usage(1000).Bytes, full.Bytes+1<<20)
	})
	t.Run("staged content counts", func(t *testing.T) {
		require.NoError(t, tree.StageWrite(uuid.NewString(), 0, make([]byte, 300<<10)))
		require.GreaterOrEqual(t, usage(1000).Bytes, full.Bytes+300<<10)
	})
	t.Run("enough", func(t *testing.T) {
		require.Equal(t, int64(3), usage(2).Files)
	})
	t.Run("deep", func(t *testing.T) {
		before := usage(10_000).Files
		at, err := os.Open(dir)
		require.NoError(t, err)
		const levels = 3 * usageHeld
		for range levels {
			require.NoError(t, unix.Mkdirat(int(at.Fd()), "d", 0o755))
			fd, err := unix.Openat(int(at.Fd()), "d", unix.O_DIRECTORY, 0)
			require.NoError(t, err)
			require.NoError(t, at.Close())
			at = os.NewFile(uintptr(fd), "d")
		}
		require.NoError(t, at.Close())
		for i := range 3 { // found after the way back
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("after", i)), nil, 0o644))
		}
		require.Equal(t, before+levels+3, usage(10_000).Files)
	})
}
