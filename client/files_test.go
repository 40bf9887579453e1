package client_test

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// fill writes small files whose content is their path.
func fill(t *testing.T, ws *client.Workspace, paths ...string) {
	t.Helper()
	for _, p := range paths {
		require.NoError(t, ws.WriteFile(t.Context(), p, []byte(p), 0))
	}
}

func requireFile(t *testing.T, ws *client.Workspace, path, content string) {
	t.Helper()
	b, err := ws.ReadFile(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, content, string(b))
}

func requireCode(t *testing.T, code mesh.Code, err error, what ...any) {
	t.Helper()
	require.Equal(t, code, mesh.CodeOf(err), "%v: %v", what, err)
}

func TestBadPaths(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		require.NoError(t, ws.WriteFile(ctx, "dir/file", []byte("x"), 0))
		for _, r := range []struct {
			name, path string
			code       mesh.Code
		}{
			{"leaves", "../x", mesh.CodeDenied},
			{"leaves later", "dir/../../x", mesh.CodeDenied},
			{"NUL", "a\x00b", mesh.CodeInvalid},
			{"long name", strings.Repeat("n", 256), mesh.CodeInvalid},
			{"long path", strings.Repeat("d/", 2100), mesh.CodeInvalid},
			{"below a file", "dir/file/x", mesh.CodeInvalid},
			{"directory", "dir", mesh.CodeInvalid},
		} {
			t.Run(r.name, func(t *testing.T) {
				_, err := ws.ReadFile(ctx, r.path)
				requireCode(t, r.code, err, "read")
				requireCode(t, r.code, ws.WriteFile(ctx, r.path, []byte("y"), 0), "write")
			})
		}
		_, err := m.Client.Workspace("No Such Name").Stat(ctx, "x")
		requireCode(t, mesh.CodeInvalid, err)
		requireCode(t, mesh.CodeDenied, ws.RemoveAll(ctx, "."), "the root is kept")
		requireFile(t, ws, "dir/file", "x")
	})
}

// Names are bytes all the way.
func TestOddNames(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		names := []string{"new\nline", "quote\"'$(x)`", "漢字 and space", "\xff\xfe", "%41", "a..b"}
		for _, name := range names {
			require.NoError(t, ws.WriteFile(ctx, "d/"+name, []byte(name), 0))
		}
		var listed []string
		for e, err := range ws.ReadDir(ctx, "d") {
			require.NoError(t, err)
			requireFile(t, ws, "d/"+string(e.Path), string(e.Path))
			listed = append(listed, string(e.Path))
		}
		require.ElementsMatch(t, names, listed)
	})
}

// More entries than one page holds.
func TestReadDirPages(t *testing.T) {
	m := nodetest.Start(t, meshServer(t), nodetest.Config{})
	ws := m.Client.Workspace("w")
	names := manyFiles(t, ws, "many", mesh.MaxList*2+1)
	var listed []string
	for e, err := range ws.ReadDir(t.Context(), "many") {
		require.NoError(t, err)
		listed = append(listed, string(e.Path))
	}
	require.Equal(t, names, listed)
	entries, err := fs.ReadDir(ws.FS(t.Context()), "many")
	require.NoError(t, err)
	require.Len(t, entries, len(names))
	for i, e := range entries {
		require.Equal(t, names[i], e.Name())
	}
}

func TestCopy(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		require.NoError(t, ws.WriteFile(ctx, "src/run.sh", []byte("#!"), 0o755))
		fill(t, ws, "src/sub/b", "old")
		require.NoError(t, ws.MkdirAll(ctx, "src/empty", 0))
		require.NoError(t, ws.Symlink(ctx, "sub/b", "src/link"))

		require.NoError(t, ws.Copy(ctx, "src/run.sh", "new/parents/run.sh"))
		requireFile(t, ws, "new/parents/run.sh", "#!")
		info, err := ws.Stat(ctx, "new/parents/run.sh")
		require.NoError(t, err)
		require.Equal(t, uint32(0o755), info.Mode)
		require.NoError(t, ws.Copy(ctx, "src/run.sh", "old"), "a file is replaced")
		requireFile(t, ws, "old", "#!")
		require.NoError(t, ws.Copy(ctx, "src/link", "followed"))
		info, err = ws.Lstat(ctx, "followed")
		require.NoError(t, err)
		require.Equal(t, "file", info.Type)

		require.NoError(t, ws.Copy(ctx, "src", "dst"))
		requireFile(t, ws, "dst/sub/b", "src/sub/b")
		info, err = ws.Lstat(ctx, "dst/link")
		require.NoError(t, err)
		require.Equal(t, mesh.Path("sub/b"), info.Target, "a link stays a link")
		info, err = ws.Stat(ctx, "dst/empty")
		require.NoError(t, err)
		require.Equal(t, "dir", info.Type)
		require.NoError(t, ws.WriteFile(ctx, "dst/sub/b", []byte("changed"), 0))
		requireFile(t, ws, "src/sub/b", "src/sub/b")

		require.ErrorIs(t, ws.Copy(ctx, "src", "dst"), fs.ErrExist)
		require.ErrorIs(t, ws.Copy(ctx, "none", "x"), fs.ErrNotExist)
		requireCode(t, mesh.CodeDenied, ws.Copy(ctx, "src", "../out"))
		requireCode(t, mesh.CodeDenied, ws.Scope("src").Copy(ctx, "/workspace/old", "in"))
		requireCode(t, mesh.CodeInvalid, ws.Copy(ctx, "src", "src/sub/inside"), "into itself")
	})
}

func TestChmod(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "f", "d/x")
		require.NoError(t, ws.Symlink(ctx, "f", "link"))
		mode := func(path string) uint32 {
			info, err := ws.Stat(ctx, path)
			require.NoError(t, err)
			return info.Mode
		}
		require.NoError(t, ws.Chmod(ctx, "link", 0o751))
		require.Equal(t, uint32(0o751), mode("f"), "of what the link leads to")
		require.NoError(t, ws.Chmod(ctx, "d", 0o777|fs.ModeSticky))
		require.Equal(t, uint32(0o1777), mode("d"))
		info, err := fs.Stat(ws.FS(ctx), "d")
		require.NoError(t, err)
		require.Equal(t, 0o777|fs.ModeSticky|fs.ModeDir, info.Mode())
		for _, bad := range []fs.FileMode{0o755 | fs.ModeSetuid, 0o755 | fs.ModeSetgid} {
			requireCode(t, mesh.CodeDenied, ws.Chmod(ctx, "f", bad), bad)
		}
		require.Equal(t, uint32(0o751), mode("f"))
		require.ErrorIs(t, ws.Chmod(ctx, "none", 0o600), fs.ErrNotExist)
		requireCode(t, mesh.CodeDenied, ws.Chmod(ctx, "../f", 0o600))
	})
}

func TestSymlinkAndReadlink(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "a/f")
		for _, r := range []struct {
			path, target string
			code         mesh.Code // of reading through it
		}{
			{"a/relative", "f", ""},
			{"made/for/it", "../../a/f", ""},
			{"rooted", "/workspace/a/f", ""},
			{"dangling", "none", mesh.CodeNotFound},
			{"out", "../../etc/passwd", mesh.CodeDenied},
			{"absolute", "/etc/passwd", mesh.CodeDenied},
			{"bytes", "\xff\n", mesh.CodeNotFound},
		} {
			require.NoError(t, ws.Symlink(ctx, r.target, r.path), r.path)
			target, err := ws.Readlink(ctx, r.path)
			require.NoError(t, err)
			require.Equal(t, r.target, target)
			b, err := ws.ReadFile(ctx, r.path)
			requireCode(t, r.code, err, r.path)
			if r.code == "" {
				require.Equal(t, "a/f", string(b))
			}
		}
		require.ErrorIs(t, ws.Symlink(ctx, "x", "dangling"), fs.ErrExist)
		_, err := ws.Readlink(ctx, "a/f")
		requireCode(t, mesh.CodeInvalid, err, "no link")
		_, err = ws.Readlink(ctx, "none")
		require.ErrorIs(t, err, fs.ErrNotExist)
		requireCode(t, mesh.CodeDenied, ws.Symlink(ctx, "f", "../x"))
	})
}

func TestTouch(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "f")
		at := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
		require.NoError(t, ws.Touch(ctx, "f", at))
		info, err := ws.Stat(ctx, "f")
		require.NoError(t, err)
		require.True(t, info.ModTime.Equal(at), info.ModTime)
		requireFile(t, ws, "f", "f")
		began := time.Now().Add(-time.Second) // a kernel's clock of files is coarse
		require.NoError(t, ws.Touch(ctx, "f", time.Time{}))
		require.NoError(t, ws.Touch(ctx, "new/one", time.Time{}))
		for _, path := range []string{"f", "new/one"} {
			info, err = ws.Stat(ctx, path)
			require.NoError(t, err)
			require.WithinRange(t, info.ModTime, began, time.Now().Add(time.Second))
		}
		requireFile(t, ws, "new/one", "")
		requireCode(t, mesh.CodeDenied, ws.Touch(ctx, "../f", at))
	})
}

func TestWhatExistsIsNotReplaced(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		large := []byte(strings.Repeat("x", 2*mesh.MaxMessage))
		require.NoError(t, ws.CreateFile(ctx, "a", []byte("a"), 0o600))
		require.NoError(t, ws.CreateFile(ctx, "large", large, 0))
		requireCode(t, mesh.CodeExists, ws.CreateFile(ctx, "a", []byte("b"), 0))
		requireCode(t, mesh.CodeExists, ws.CreateFile(ctx, "a", large, 0))
		require.NoError(t, ws.RenameNew(ctx, "a", "b"))
		requireCode(t, mesh.CodeExists, ws.RenameNew(ctx, "b", "large"))
		requireFile(t, ws, "b", "a")

		b, info, err := ws.ReadRange(ctx, mesh.ReadRequest{Path: "large", Offset: 3, Length: 4})
		require.NoError(t, err)
		require.Equal(t, "xxxx", string(b))
		require.NoError(t, ws.WriteFile(ctx, "large", []byte("short"), 0))
		_, _, err = ws.ReadRange(ctx, mesh.ReadRequest{Path: "large", Revision: info.Revision})
		requireCode(t, mesh.CodeConflict, err)
	})
}
