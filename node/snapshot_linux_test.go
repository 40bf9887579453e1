package node_test

import (
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// TestSnapshots: a snapshot is what the files are when it is made, by commands that run
// too; it is read, listed and compared without the workspace, and goes with it.
func TestSnapshots(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "d/a.txt", []byte("one\ntwo\n"), 0o640))
		require.NoError(t, ws.WriteFile(ctx, "big", noise(3, 3<<20), 0))
		require.NoError(t, ws.WriteFile(ctx, "d/sub/b", []byte("b"), 0))
		require.NoError(t, ws.Symlink(ctx, "b", "d/sub/in"))
		require.NoError(t, ws.Symlink(ctx, "d/a.txt", "link"))
		running := ws.Command(ctx, "sh", "-c", "printf made > made; ln made made2; echo ready; sleep 60")
		out := &notice{want: "ready", seen: make(chan struct{})}
		running.Stdout = out
		require.NoError(t, running.Start())
		ended := make(chan error, 1)
		go func() { ended <- running.Wait() }()
		select {
		case <-out.seen:
		case err := <-ended:
			require.NoError(t, err)
		}

		first, err := ws.CreateSnapshot(ctx, "first", "why not")
		require.NoError(t, err)
		_, err = ws.CreateSnapshot(ctx, "first", "")
		require.Equal(t, mesh.CodeExists, mesh.CodeOf(err))
		again, err := ws.CreateSnapshot(ctx, "again", "")
		require.NoError(t, err)
		require.Equal(t, first.Commit, again.Commit, "nothing has changed")
		require.NoError(t, running.Signal(ctx, "KILL"))
		require.Error(t, <-ended)

		require.NoError(t, ws.WriteFile(ctx, "d/a.txt", []byte("one\nthree\n"), 0o640))
		require.NoError(t, ws.Chmod(ctx, "made", 0o755))
		require.NoError(t, ws.Remove(ctx, "link"))
		require.NoError(t, ws.WriteFile(ctx, "new/deep/file", []byte("x"), 0))
		_, err = ws.CreateSnapshot(ctx, "second", "")
		require.NoError(t, err)

		past, err := ws.At(ctx, "first")
		require.NoError(t, err)
		require.NoError(t, fstest.TestFS(past.Scope("d").FS(ctx), "a.txt", "sub/b", "sub/in"))
		for name, want := range map[string]string{"d/a.txt": "one\ntwo\n", "link": "one\ntwo\n", "made": "made", "made2": "made"} {
			got, err := past.ReadFile(ctx, name)
			require.NoError(t, err, name)
			require.Equal(t, want, string(got), name)
		}
		big, err := past.ReadFile(ctx, "big")
		require.NoError(t, err)
		require.Equal(t, noise(3, 3<<20), big)
		require.Equal(t, mesh.CodeUnsupported, mesh.CodeOf(past.WriteFile(ctx, "x", nil, 0)))
		info, err := past.Stat(ctx, "d/a.txt")
		require.NoError(t, err)
		require.Equal(t, uint32(0o640), info.Mode)
		_, err = past.Stat(ctx, "new")
		require.ErrorIs(t, err, fs.ErrNotExist)

		byTime, err := ws.At(ctx, time.Now().Format(time.RFC3339Nano))
		require.NoError(t, err)
		_, err = byTime.Stat(ctx, "new/deep/file")
		require.NoError(t, err)
		byCommit, err := ws.At(ctx, first.Commit)
		require.NoError(t, err)
		_, err = byCommit.Stat(ctx, "new")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = ws.At(ctx, "2001-01-01T00:00:00Z")
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		_, err = ws.At(ctx, "Not A Name")
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))

		require.Equal(t, []string{
			"changed d/a.txt", "removed link", "mode made", "mode made2", "added new", "added new/deep", "added new/deep/file",
		}, differences(t, ws.Diff(ctx, "first", "second", client.DiffOptions{})))
		require.Equal(t, []string{"removed new/deep/file"}, differences(t, ws.Diff(ctx, "second", "first", client.DiffOptions{Path: "new/deep/file"})))
		require.Empty(t, differences(t, ws.Diff(ctx, "second", "", client.DiffOptions{})))
		for e, err := range ws.Scope("d").Diff(ctx, "first", "second", client.DiffOptions{Text: true}) {
			require.NoError(t, err)
			require.Equal(t, mesh.Path("a.txt"), e.Path)
			require.Contains(t, string(e.Diff), "-two\n+three\n")
		}
		page, err := ws.DiffPage(ctx, mesh.DiffRequest{From: "first", To: "second", Limit: 3})
		require.NoError(t, err)
		require.Len(t, page.Entries, 3)
		page, err = ws.DiffPage(ctx, mesh.DiffRequest{From: "first", To: "second", Cursor: page.Next})
		require.NoError(t, err)
		require.Len(t, page.Entries, 4)

		require.Equal(t, []string{"first", "again", "second"}, snapshotNames(t, ws))
		require.NoError(t, ws.RemoveSnapshot(ctx, "again"))
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(ws.RemoveSnapshot(ctx, "again")))
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
		_, err = ws.At(ctx, first.Commit)
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		require.NoError(t, m.Client.CreateWorkspace(ctx, "repo"))
		require.Empty(t, snapshotNames(t, ws))
		_, err = ws.At(ctx, first.Commit)
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "it is of the workspace that was removed")
	})
}

// notice closes seen when want was written.
type notice struct {
	want string
	seen chan struct{}
	one  sync.Once
}

func (n *notice) Write(b []byte) (int, error) {
	if strings.Contains(string(b), n.want) {
		n.one.Do(func() { close(n.seen) })
	}
	return len(b), nil
}

func differences(t *testing.T, all func(func(mesh.DiffEntry, error) bool)) (lines []string) {
	t.Helper()
	for e, err := range all {
		require.NoError(t, err)
		lines = append(lines, e.Kind+" "+string(e.Path))
	}
	return lines
}

// noOptions is Diff of all.
var noOptions = client.DiffOptions{}

func snapshotNames(t *testing.T, ws *client.Workspace) (names []string) {
	t.Helper()
	for s, err := range ws.Snapshots(t.Context()) {
		require.NoError(t, err)
		names = append(names, string(s.Name))
	}
	return names
}

// TestBoundSnapshots: a token of a path reads what was below it and nothing else, and
// neither makes nor removes snapshots.
func TestBoundSnapshots(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "secret", []byte("s"), 0))
		require.NoError(t, ws.WriteFile(ctx, "d/mine", []byte("m"), 0))
		require.NoError(t, ws.Symlink(ctx, "../secret", "d/out"))
		require.NoError(t, ws.Symlink(ctx, "mine", "d/in"))
		snapshot, err := ws.CreateSnapshot(ctx, "first", "")
		require.NoError(t, err)
		require.NoError(t, ws.WriteFile(ctx, "secret", []byte("other"), 0))
		require.NoError(t, ws.WriteFile(ctx, "d/mine", []byte("n"), 0))
		require.NoError(t, m.Client.CreateWorkspace(ctx, "other"))
		_, err = m.Client.Workspace("other").CreateSnapshot(ctx, "theirs", "")
		require.NoError(t, err)

		bound := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", "d")).Workspace("repo")
		for _, at := range []string{"first", snapshot.Commit} {
			past, err := bound.At(ctx, at)
			require.NoError(t, err)
			for name, want := range map[string]string{"mine": "m", "in": "m", "/workspace/d/mine": "m"} {
				got, err := past.ReadFile(ctx, name)
				require.NoError(t, err, name)
				require.Equal(t, want, string(got))
			}
			for _, name := range []string{"out", "../secret", "/workspace/secret"} {
				_, err = past.ReadFile(ctx, name)
				require.ErrorIs(t, err, fs.ErrPermission, name)
			}
			for e, err := range past.ReadDir(ctx, "/") {
				require.NoError(t, err)
				require.Contains(t, []mesh.Path{"mine", "in", "out"}, e.Path)
			}
		}
		require.Equal(t, []string{"changed mine"}, differences(t, bound.Diff(ctx, "first", "", client.DiffOptions{})))
		_, err = bound.DiffPage(ctx, mesh.DiffRequest{From: "first", To: "first", Path: "../secret"})
		require.ErrorIs(t, err, fs.ErrPermission)
		_, err = bound.CreateSnapshot(ctx, "second", "")
		require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err))
		require.Equal(t, mesh.CodeDenied, mesh.CodeOf(bound.RemoveSnapshot(ctx, "first")))
		require.Equal(t, []string{"first"}, snapshotNames(t, ws))

		whole := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", ""))
		_, err = whole.Workspace("repo").CreateSnapshot(ctx, "second", "")
		require.NoError(t, err)
		require.NoError(t, whole.Workspace("repo").RemoveSnapshot(ctx, "second"))
		_, err = whole.Workspace("other").At(ctx, "theirs")
		require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err))
		_, err = m.Client.Workspace("other").At(ctx, snapshot.Commit)
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "a commit of another workspace")
	})
}
