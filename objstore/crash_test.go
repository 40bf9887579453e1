package objstore_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
)

// crashDir makes a test process the one that is killed.
const crashDir = "WSMESH_CRASH_DIR"

// TestKilled kills a process with signal 9 in the middle of storing commits, again
// and again: every commit that it said was stored is whole, and no object is there
// that is not whole.
//
//	killed while                         then
//	a temporary file is written          no object; the file is never read
//	the file is whole, not renamed       no object
//	renamed, not said                    the whole object, that nobody lists
//	some packs stored, not the commit    whole packs, that nobody lists
//	said                                 the commit and all that it reaches
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	bucket, err := dirbucket.Open(dir)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	const rounds = 12
	said := 0
	for range rounds {
		refs := storeAndKill(t, dir, time.Duration(r.IntN(150))*time.Millisecond)
		said += len(refs)
		s := reopen(t, bucket)
		for _, ref := range refs {
			reader, c, err := s.CommitReader(t.Context(), ref)
			require.NoError(t, err)
			require.NoError(t, reader.Verify(t.Context(), c.Root))
		}
		packs, err := s.Packs(t.Context())
		require.NoError(t, err)
		for _, id := range packs {
			require.NoError(t, s.CheckStored(t.Context(), id))
			require.NoError(t, bucket.Delete(t.Context(), id))
		}
	}
	require.GreaterOrEqual(t, said, rounds, "it was killed before it did anything")
}

// storeAndKill runs the process until it has said that a commit is stored, and
// then for a while, and returns what it said.
func storeAndKill(t *testing.T, dir string, more time.Duration) (refs []objstore.Ref) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var kill *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		pack, commit, ok := strings.Cut(lines.Text(), " ")
		p, err := objstore.ParseID(pack)
		if !ok || err != nil {
			break // cut short by the kill
		}
		c, err := objstore.ParseID(commit)
		if err != nil {
			break // cut short by the kill
		}
		refs = append(refs, objstore.Ref{Pack: p, Commit: c})
		if kill == nil {
			kill = time.AfterFunc(more, func() { _ = cmd.Process.Kill() })
		}
	}
	require.NotNil(t, kill, "the process ended before it stored anything")
	kill.Stop()
	_ = cmd.Process.Kill()
	require.ErrorContains(t, cmd.Wait(), "killed")
	return refs
}

// TestMain is also the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, storeForever(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// storeForever says of each commit that it is stored once it is.
func storeForever(dir string) error {
	bucket, err := dirbucket.Open(dir)
	if err != nil {
		return err
	}
	s, err := objstore.New(bucket, objstore.Config{})
	if err != nil {
		return err
	}
	for seed := uint64(os.Getpid()); ; seed += 1 << 32 {
		ref, err := storeSome(context.Background(), s, seed)
		if err == nil {
			_, err = fmt.Printf("%s %s\n", ref.Pack, ref.Commit)
		}
		if err != nil {
			return err // the test has died and taken its directory along
		}
	}
}

func storeSome(ctx context.Context, s *objstore.Store, seed uint64) (objstore.Ref, error) {
	r := rand.New(rand.NewPCG(seed, 1))
	items := []objstore.Item{dirItem("."), dirItem("d")}
	for i := range 12 {
		b := make([]byte, 1+r.IntN(900<<10))
		_, _ = rand.NewChaCha8([32]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}).Read(b)
		items = append(items, fileItem(fmt.Sprintf("d/%02d", i), b))
	}
	w := s.Writer(nil)
	root, err := w.Tree(ctx, seq(items...))
	if err != nil {
		return objstore.Ref{}, err
	}
	return w.Commit(ctx, objstore.Commit{Time: goldenTime, Root: root})
}
