package dirtree_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/objstore"
)

// TestSeed: what the seed has is not asked for, and only that: files there may be
// changed, or none. Small ones are not looked for.
func TestSeed(t *testing.T) {
	s, source := newStore(t), t.TempDir()
	generate(t, source)
	r, c, err := s.CommitReader(t.Context(), store(t, s, nil, source))
	require.NoError(t, err)
	restoreFrom := func(seed string) (dir string, asked map[objstore.ID]bool) {
		asked = map[objstore.ID]bool{}
		var mu sync.Mutex
		dir = t.TempDir()
		d := openDir(t, dir)
		d.Seed = openDir(t, seed)
		require.NoError(t, d.RestoreItems(t.Context(), r.Walk(t.Context(), c.Root), func(ctx context.Context, c objstore.Chunk) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			if c.Size >= 8<<10 {
				asked[c.ID] = true
			}
			return r.Chunk(ctx, c)
		}))
		return dir, asked
	}
	seed := t.TempDir()
	require.NoError(t, openDir(t, seed).Restore(t.Context(), r, c.Root))
	unreadable := 0
	if os.Geteuid() != 0 {
		unreadable = 1 // files without a mode for their owner
	}
	dir, asked := restoreFrom(seed)
	require.LessOrEqual(t, len(asked), unreadable)
	require.Equal(t, describe(t, source), describe(t, dir))

	// A changed byte, an end that is missing, a FIFO and a link where files were.
	large := filepath.Join(seed, "a/size-9437184")
	require.NoError(t, os.Chmod(large, 0o600))
	f, err := os.OpenFile(large, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("not what it was"), 9<<20-20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Truncate(filepath.Join(seed, "a/size-1048576"), 4000))
	for name, in := range map[string]func(string) error{
		"a/size-1048577": func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a/size-1048578": func(p string) error { return os.Symlink(filepath.Join(source, "a/size-1048578"), p) },
		"a/size-4095":    func(p string) error { return unix.Mkfifo(p, 0o600) },
	} {
		require.NoError(t, os.Remove(filepath.Join(seed, name)))
		require.NoError(t, in(filepath.Join(seed, name)))
	}
	dir, asked = restoreFrom(seed)
	require.Len(t, asked, 4+unreadable, "one of the large file's, and three files")
	require.Equal(t, describe(t, source), describe(t, dir))
}
