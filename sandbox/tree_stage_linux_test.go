package sandbox

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestStage(t *testing.T) {
	f := newTreeFixture(t)
	v := f.View(".")
	f.put("f", "old")
	content := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	size := int64(len(content))
	send := func(t *testing.T, id string, parts ...[2]int64) {
		for _, p := range parts {
			require.NoError(t, f.StageWrite(id, p[0], content[p[0]:p[1]]))
		}
	}
	for _, c := range []struct {
		name  string
		parts [][2]int64
		size  int64
		code  mesh.Code
	}{
		{"in order", [][2]int64{{0, 1000}, {1000, size}}, size, ""},
		{"out of order", [][2]int64{{5000, size}, {0, 1000}, {1000, 5000}}, size, ""},
		{"twice and overlapping", [][2]int64{{0, 5000}, {0, 5000}, {3000, size}}, size, ""},
		{"a hole", [][2]int64{{0, 1000}, {1001, size}}, size, mesh.CodeInvalid},
		{"no start", [][2]int64{{1, size}}, size, mesh.CodeInvalid},
		{"no end", [][2]int64{{0, size - 1}}, size, mesh.CodeInvalid},
		{"too much", [][2]int64{{0, size}}, size - 1, mesh.CodeInvalid},
		{"empty", [][2]int64{{0, 0}}, 0, ""},
		{"negative size", [][2]int64{{0, 0}}, -1, mesh.CodeInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := uuid.NewString()
			defer f.StageDrop(id)
			f.put("f", "old")
			send(t, id, c.parts...)
			r, err := f.StageOpen(id, c.size)
			requireCode(t, c.code, err)
			if c.code == "" {
				got, err := io.ReadAll(r)
				require.NoError(t, err)
				require.NoError(t, r.Close())
				require.Equal(t, content[:c.size], got)
				requireCode(t, mesh.CodeConflict, f.StageWrite(id, 0, []byte("late")))
			}
			info, err := v.StageCommit(id, c.size, "f", WriteOptions{})
			requireCode(t, c.code, err)
			if c.code != "" {
				require.Equal(t, "old", f.content("f"))
				return
			}
			require.Equal(t, string(content[:c.size]), f.content("f"))
			require.Equal(t, c.size, info.Size)
			_, err = v.StageCommit(id, c.size, "f", WriteOptions{})
			requireCode(t, mesh.CodeNotFound, err)
		})
	}
	require.Empty(t, f.staged())

	t.Run("a commit that fails can be repeated", func(t *testing.T) {
		id := uuid.NewString()
		send(t, id, [2]int64{0, 10})
		_, err := v.StageCommit(id, 10, "f", WriteOptions{CreateOnly: true})
		requireCode(t, mesh.CodeExists, err)
		_, err = v.StageCommit(id, 10, ".", WriteOptions{})
		requireCode(t, mesh.CodeInvalid, err)
		_, err = v.StageCommit(id, 10, "g/h", WriteOptions{CreateOnly: true, Mode: 0o600})
		require.NoError(t, err)
		requireTenants(t, f.tenant("g/h"), 0o600)
	})
	t.Run("bad calls", func(t *testing.T) {
		requireCode(t, mesh.CodeInvalid, f.StageWrite("../../secret/x", 0, []byte("x")))
		requireCode(t, mesh.CodeInvalid, f.StageWrite(uuid.NewString(), -1, []byte("x")))
		requireCode(t, mesh.CodeInvalid, f.StageWrite(uuid.NewString(), 1<<63-1, []byte("x")))
		id := uuid.NewString()
		if err := f.StageWrite(id, 1<<62, []byte("x")); err != nil { // some file systems can
			requireCode(t, mesh.CodeTooLarge, err)
		}
		f.StageDrop(id)
		_, err := f.StageOpen(uuid.NewString(), 1)
		requireCode(t, mesh.CodeNotFound, err)
		f.StageDrop(uuid.NewString())
	})
	require.Empty(t, f.staged())
}

func TestStageConcurrently(t *testing.T) {
	f := newTreeFixture(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	const part = 16 << 10
	id := uuid.NewString()
	var wg sync.WaitGroup
	for lo := 0; lo < len(content); lo += part {
		wg.Go(func() {
			if err := f.StageWrite(id, int64(lo), content[lo:lo+part]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	won := make(chan mesh.Code, 8)
	for range cap(won) {
		wg.Go(func() {
			_, err := f.View(".").StageCommit(id, int64(len(content)), "f", WriteOptions{})
			won <- mesh.CodeOf(err)
		})
	}
	wg.Wait()
	close(won)
	got := map[mesh.Code]int{}
	for code := range won {
		got[code]++
	}
	require.Equal(t, map[mesh.Code]int{"": 1, mesh.CodeNotFound: 7}, got)
	require.True(t, string(content) == f.content("f"))
}

func TestStageBounds(t *testing.T) {
	f := newTreeFixture(t)
	var ids []string
	for range DefaultMaxStages {
		ids = append(ids, uuid.NewString())
		require.NoError(t, f.StageWrite(ids[len(ids)-1], 0, []byte("x")))
	}
	requireCode(t, mesh.CodeBusy, f.StageWrite(uuid.NewString(), 0, []byte("x")))
	require.Len(t, f.staged(), DefaultMaxStages)
	f.StageDrop(ids[0])
	require.NoError(t, f.StageWrite(ids[0], 0, []byte("x")))
	var err error
	for i := 0; i <= maxSpans && err == nil; i++ {
		err = f.StageWrite(ids[0], int64(2*i+10), []byte("x"))
	}
	requireCode(t, mesh.CodeInvalid, err)
}

func TestStageIdle(t *testing.T) {
	f := newTreeFixture(t)
	require.NoError(t, f.Close())
	f.cfg.StageIdle = 20 * time.Millisecond
	tree, err := OpenTree(f.cfg)
	require.NoError(t, err)
	defer tree.Close()
	id := uuid.NewString()
	require.NoError(t, tree.StageWrite(id, 0, []byte("x")))
	require.Eventually(t, func() bool { return len(f.staged()) == 0 }, 5*time.Second, 5*time.Millisecond)
	_, err = tree.View(".").StageCommit(id, 1, "f", WriteOptions{})
	requireCode(t, mesh.CodeNotFound, err)
}

// The set of ranges against a bitmap.
func TestAddSpan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var have []span
		var bits [64]bool
		for range rapid.IntRange(0, 20).Draw(t, "parts") {
			lo := rapid.IntRange(0, 63).Draw(t, "lo")
			hi := rapid.IntRange(lo, 64).Draw(t, "hi")
			have = addSpan(have, span{int64(lo), int64(hi)})
			for i := lo; i < hi; i++ {
				bits[i] = true
			}
		}
		var want []span
		for i, b := range bits {
			switch n := len(want); {
			case b && n > 0 && want[n-1].hi == int64(i):
				want[n-1].hi++
			case b:
				want = append(want, span{int64(i), int64(i) + 1})
			}
		}
		if !slices.Equal(want, have) {
			t.Fatalf("have %v, want %v", have, want)
		}
	})
}

// On a full disk nothing is half done, and removing still works.
func TestTreeFullDisk(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", base, "tmpfs", 0, "size=1m,nr_inodes=200"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(base, 0)) })
	f := &treeFixture{t: t, cfg: TreeConfig{Dir: filepath.Join(base, "ws"), Stage: filepath.Join(base, "stage"), UID: testUID, GID: testUID}}
	tree, err := OpenTree(f.cfg)
	require.NoError(t, err)
	defer tree.Close()
	f.Tree = tree
	v := f.View(".")
	_, err = v.Write("a/f", []byte("old"), WriteOptions{Mode: 0o640})
	require.NoError(t, err)
	big := bytes.Repeat([]byte("x"), 2<<20)

	_, err = v.Write("a/f", big, WriteOptions{})
	requireCode(t, mesh.CodeQuota, err)
	_, err = v.Write("new/f", big, WriteOptions{})
	requireCode(t, mesh.CodeQuota, err)
	id := uuid.NewString()
	requireCode(t, mesh.CodeQuota, f.StageWrite(id, 0, big))
	f.StageDrop(id)
	_, err = v.ReadTar(t.Context(), "t", tarOf(tarFile("f", int64(len(big)))), TarLimits{})
	requireCode(t, mesh.CodeQuota, err)
	require.Empty(t, f.staged())
	require.Equal(t, "old", f.content("a/f"))
	requireTenants(t, f.tenant("a/f"), 0o640)
	require.NoFileExists(t, f.tenant("t/f"))

	err = nil
	for i := 0; err == nil; i++ {
		err = v.Mkdir("dirs/"+strings.Repeat("d/", i)+"x", 0, true)
	}
	requireCode(t, mesh.CodeQuota, err)
	require.NoError(t, v.Remove("dirs", true, ""))
	require.NoError(t, v.Mkdir("dirs", 0, false))
	require.Empty(t, f.staged())

	t.Run("a write that fails midway by the host", func(t *testing.T) {
		fill, err := os.Create(f.tenant("fill"))
		require.NoError(t, err)
		defer fill.Close()
		_, err = fill.Write(big)
		require.ErrorIs(t, err, unix.ENOSPC)
		_, err = v.Write("a/f", []byte("newer content"), WriteOptions{})
		requireCode(t, mesh.CodeQuota, err)
		require.Equal(t, "old", f.content("a/f"))
		require.Empty(t, f.staged())
		require.NoError(t, v.Remove("fill", false, ""))
	})
}

// A tenant's staged writes hold no descriptors: with those of a thousand
// workspaces it would take all that the node has.
func TestStagesHoldNoDescriptors(t *testing.T) {
	f := newTreeFixture(t)
	before := openDescriptors(t)
	for range DefaultMaxStages {
		require.NoError(t, f.StageWrite(uuid.NewString(), 0, []byte("x")))
	}
	require.LessOrEqual(t, openDescriptors(t), before) // tests before this one may still be closing theirs
}
