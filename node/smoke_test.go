package node_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestSmokeOfAllVerbs(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")

		_, err := ws.ReadFile(ctx, "a.txt")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "wsmesh workspace create repo")

		require.NoError(t, ws.WriteFile(ctx, "dir/a.txt", []byte("hello\n"), 0o640))
		b, err := ws.ReadFile(ctx, "dir/a.txt")
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(b))
		info, err := ws.Stat(ctx, "/workspace/dir/a.txt")
		require.NoError(t, err)
		require.Equal(t, int64(6), info.Size)
		require.Equal(t, uint32(0o640), info.Mode)

		require.NoError(t, ws.Mkdir(ctx, "empty", 0o755))
		require.ErrorIs(t, ws.Mkdir(ctx, "empty", 0o755), fs.ErrExist)
		require.NoError(t, ws.MkdirAll(ctx, "x/y/z", 0o755))
		require.NoError(t, ws.Rename(ctx, "dir/a.txt", "moved/b.txt"))
		require.NoError(t, ws.Remove(ctx, "empty"))
		require.NoError(t, ws.RemoveAll(ctx, "x"))
		var names []string
		for e, err := range ws.ReadDir(ctx, "") {
			require.NoError(t, err)
			names = append(names, string(e.Path))
		}
		require.Equal(t, []string{"dir", "moved"}, names)

		big := make([]byte, 3<<20+17)
		rand.NewChaCha8([32]byte{1}).Read(big)
		require.NoError(t, ws.Put(ctx, "big", bytes.NewReader(big), 0))
		h := sha256.New()
		require.NoError(t, ws.Get(ctx, "big", h))
		require.Equal(t, sha256.Sum256(big), [32]byte(h.Sum(nil)))

		var archive bytes.Buffer
		require.NoError(t, ws.GetDir(ctx, "", &archive))
		require.NoError(t, ws.PutDir(ctx, "copy", bytes.NewReader(archive.Bytes())))
		b, err = ws.ReadFile(ctx, "copy/moved/b.txt")
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(b))
		r := tar.NewReader(&archive)
		for {
			_, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}

		state, err := ws.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, mesh.Node("n1"), state.Node)
		require.NotZero(t, state.JournalSeq)
		require.NoError(t, m.Client.CreateWorkspace(ctx, "other"))
		require.ErrorIs(t, m.Client.CreateWorkspace(ctx, "other"), fs.ErrExist)
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
		require.ErrorIs(t, m.Client.RemoveWorkspace(ctx, "repo"), fs.ErrNotExist)
		_, err = ws.ReadFile(ctx, "big")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, ws.WriteFile(ctx, "new", nil, 0))
		_, err = ws.ReadFile(ctx, "big")
		require.ErrorIs(t, err, fs.ErrNotExist, "a name used again is another workspace")
	})
}

func TestExec(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "sub/in.txt", []byte("from the API\n"), 0))

		out, err := ws.Command(ctx, "cat", "sub/in.txt").Output()
		require.NoError(t, err)
		require.Equal(t, "from the API\n", string(out))

		cmd := ws.Command(ctx, "sh", "-c", "pwd; echo $A; cat; echo e >&2; echo made > made.txt; exit 3")
		cmd.Dir, cmd.Env, cmd.Stdin = "sub", []string{"A=b c"}, strings.NewReader("typed\n")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		var exit *client.ExitError
		require.ErrorAs(t, cmd.Run(), &exit)
		require.Equal(t, 3, exit.Code)
		require.Equal(t, "/workspace/sub\nb c\ntyped\n", stdout.String())
		require.Equal(t, "e\n", stderr.String())
		b, err := ws.ReadFile(ctx, "sub/made.txt")
		require.NoError(t, err)
		require.Equal(t, "made\n", string(b))

		// The same id attaches to the one run; another command is a conflict.
		repeat := ws.Command(ctx, "sh", "-c", "pwd; echo $A; cat; echo e >&2; echo made > made.txt; exit 3")
		repeat.Dir, repeat.Env, repeat.ID = "sub", []string{"A=b c"}, cmd.ID
		out, err = repeat.Output()
		require.ErrorAs(t, err, &exit)
		require.Equal(t, "/workspace/sub\nb c\ntyped\n", string(out))
		other := ws.Command(ctx, "true")
		other.ID = cmd.ID
		require.Equal(t, mesh.CodeConflict, mesh.CodeOf(other.Run()))

		slow := ws.Command(ctx, "sh", "-c", "(setsid sleep 60; touch late) & sleep 60")
		slow.Timeout = 300 * time.Millisecond
		require.ErrorAs(t, slow.Run(), &exit)
		require.Equal(t, 124, exit.Code)
		require.Equal(t, "timeout", exit.Limit)

		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, ws.Command(short, "sleep", "60").Run(), context.DeadlineExceeded)
		require.Eventually(t, func() bool {
			info, err := ws.Info(ctx)
			return err == nil && info.Execs == 0
		}, 10*time.Second, 20*time.Millisecond, "a canceled command goes on")

		out, err = ws.Command(ctx, "head", "-c", "3000000", "/dev/zero").Output()
		require.NoError(t, err)
		require.Len(t, out, 3000000)

		_, err = ws.Command(ctx, "no-such-program").Output()
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 127, exit.Code)
		require.Contains(t, string(exit.Stderr), "no-such-program")
	})
}

func TestFilesSurviveARestartOfTheNode(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "a", []byte("1"), 0))
		before, err := ws.Info(ctx)
		require.NoError(t, err)
		m.StopNode(t)
		m.StartNode(t)
		b, err := ws.ReadFile(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, "1", string(b))
		after, err := ws.Info(ctx)
		require.NoError(t, err)
		require.Greater(t, after.Epoch, before.Epoch)
	})
}
