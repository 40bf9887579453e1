package client_test

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestFS(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "file", "dir/sub/deep", "dir/x", "odd/new\nline", "odd/漢字 and space", "odd/a..b", "odd/%41", "odd/workspace/x")
		require.NoError(t, ws.WriteFile(ctx, "empty", nil, 0o600))
		require.NoError(t, ws.WriteFile(ctx, "dir/run", []byte("#!"), 0o755))
		require.NoError(t, ws.MkdirAll(ctx, "nothing", 0))
		require.NoError(t, ws.WriteFile(ctx, "dir/large", noise(1, mesh.MaxMessage*2+5), 0))
		for path, target := range map[string]string{"dir/link": "sub/deep", "links/up": "../file", "dir/to-dir": "sub", "rooted": "/workspace/file"} {
			require.NoError(t, ws.Symlink(ctx, target, path))
		}
		expected := []string{
			"dir/large", "dir/sub/deep", "dir/x", "dir/run", "dir/link", "dir/to-dir", "rooted", "links/up", "empty", "file", "nothing",
			"odd/new\nline", "odd/漢字 and space", "odd/a..b", "odd/%41", "odd/workspace/x",
		}
		require.NoError(t, fstest.TestFS(ws.FS(ctx), expected...))
		require.NoError(t, fstest.TestFS(ws.Scope("dir").FS(ctx), "large", "sub/deep", "link"))
		require.NoError(t, fstest.TestFS(ws.Scope("nothing").FS(ctx)))

		dir := t.TempDir()
		sub, err := fs.Sub(ws.FS(ctx), "dir/sub")
		require.NoError(t, err)
		require.NoError(t, os.CopyFS(dir, sub))
		b, err := os.ReadFile(filepath.Join(dir, "deep"))
		require.NoError(t, err)
		require.Equal(t, "dir/sub/deep", string(b))
		info, err := fs.Stat(ws.FS(ctx), "dir/run")
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o755), info.Mode())
		require.Equal(t, "file", info.Sys().(mesh.FileInfo).Type)
	})
}

func TestFSErrors(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "d/f", "d/bad\xff")
		v := ws.FS(ctx)
		for _, r := range []struct {
			name, path string
			want       error
		}{
			{"missing", "none", fs.ErrNotExist},
			{"leaves", "../x", fs.ErrInvalid},
			{"absolute", "/d/f", fs.ErrInvalid},
			{"not clean", "d//f", fs.ErrInvalid},
			{"no UTF-8", "d/bad\xff", fs.ErrInvalid},
			{"below a file", "d/f/x", fs.ErrInvalid},
			{"NUL", "a\x00b", fs.ErrInvalid},
		} {
			t.Run(r.name, func(t *testing.T) {
				_, open := v.Open(r.path)
				_, stat := fs.Stat(v, r.path)
				_, lstat := fs.Lstat(v, r.path)
				_, list := fs.ReadDir(v, r.path)
				_, read := fs.ReadFile(v, r.path)
				for op, err := range map[string]error{"open": open, "stat": stat, "lstat": lstat, "list": list, "read": read} {
					require.ErrorIs(t, err, r.want, op)
					var shape *fs.PathError
					require.ErrorAs(t, err, &shape, op)
					require.Equal(t, r.path, shape.Path, op)
				}
			})
		}
		_, err := fs.ReadDir(v, "d/f")
		requireCode(t, mesh.CodeInvalid, err, "list a file")
		_, err = fs.ReadFile(v, "d")
		requireCode(t, mesh.CodeInvalid, err, "read a directory")
		entries, err := fs.ReadDir(v, "d")
		require.NoError(t, err)
		require.Equal(t, []string{"bad\xff", "f"}, []string{entries[0].Name(), entries[1].Name()}, "listed all the same")

		_, err = m.Client.Workspace("No Such Name").FS(ctx).Open("x")
		requireCode(t, mesh.CodeInvalid, err)
		_, err = ws.Scope("../x").FS(ctx).Open("x")
		require.ErrorIs(t, err, fs.ErrPermission)

		f, err := v.Open("d/f")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.ErrorIs(t, f.Close(), fs.ErrClosed)
		_, err = f.Read(make([]byte, 1))
		require.ErrorIs(t, err, fs.ErrClosed)
	})
}

// What links lead out of is the scope, of Sub as well.
func TestFSLinks(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "d/f", "f")
		require.NoError(t, ws.Symlink(ctx, "../f", "d/up"))
		require.NoError(t, ws.Symlink(ctx, "/etc/passwd", "d/host"))
		v := ws.FS(ctx)
		b, err := fs.ReadFile(v, "d/up")
		require.NoError(t, err)
		require.Equal(t, "f", string(b))
		_, err = v.Open("d/host")
		require.ErrorIs(t, err, fs.ErrPermission)
		require.NoError(t, ws.Symlink(ctx, "none", "dangling")) // fstest opens every name, so TestFS cannot have one
		_, err = v.Open("dangling")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = fs.Stat(v, "dangling")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = fs.Lstat(v, "dangling")
		require.NoError(t, err)
		sub, err := fs.Sub(v, "d")
		require.NoError(t, err)
		_, err = sub.Open("up")
		require.ErrorIs(t, err, fs.ErrPermission)
		target, err := fs.ReadLink(sub, "up")
		require.NoError(t, err)
		require.Equal(t, "../f", target)
		info, err := fs.Lstat(sub, "up")
		require.NoError(t, err)
		require.Equal(t, fs.ModeSymlink, info.Mode().Type())
		_, err = fs.ReadLink(v, "d/f")
		require.ErrorIs(t, err, fs.ErrInvalid)
	})
}

// openLarge opens a file of several ranges.
func openLarge(t *testing.T, ws *client.Workspace) (fs.File, []byte) {
	t.Helper()
	content := noise(1, mesh.MaxMessage*3+11)
	require.NoError(t, ws.WriteFile(t.Context(), "large", content, 0))
	f, err := ws.FS(t.Context()).Open("large")
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f, content
}

func TestFSFile(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("w")
		f, content := openLarge(t, ws)
		require.NoError(t, iotest.TestReader(f, content))
		seeker := f.(io.Seeker)
		for _, offset := range []int64{0, 1, 60 << 10, 64 << 10, mesh.MaxMessage + 1, int64(len(content)) - 1, int64(len(content)), int64(len(content)) + 9} {
			_, err := seeker.Seek(offset, io.SeekStart)
			require.NoError(t, err)
			var out bytes.Buffer
			n, err := io.Copy(&out, f)
			require.NoError(t, err)
			want := content[min(int(offset), len(content)):]
			require.Equal(t, int64(len(want)), n)
			require.True(t, bytes.Equal(want, out.Bytes()), "from %d", offset)
		}
		for _, bad := range []int64{-1, -int64(len(content)) - 1} {
			_, err := seeker.Seek(bad, io.SeekStart)
			require.ErrorIs(t, err, fs.ErrInvalid)
		}
		_, err := f.(io.ReaderAt).ReadAt(make([]byte, 1), -1)
		require.ErrorIs(t, err, fs.ErrInvalid)
	})
}

// Small reads are not a round trip each: with the node gone, what was fetched is
// still there.
func TestFSReadsAhead(t *testing.T) {
	m := nodetest.Start(t, meshServer(t), nodetest.Config{})
	f, content := openLarge(t, m.Client.Workspace("w"))
	got := make([]byte, 64<<10+1)
	_, err := io.ReadFull(f, got) // the first range came with Open, this is the second
	require.NoError(t, err)
	m.StopNode(t)
	rest := make([]byte, mesh.MaxMessage-1)
	_, err = io.ReadFull(iotest.OneByteReader(f), rest)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content[:len(got)+len(rest)], append(got, rest...)))
}

func TestFSFileIsOneRevision(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		changes := map[string]func() error{
			"written":  func() error { return ws.WriteFile(ctx, "large", noise(2, mesh.MaxMessage*3+11), 0) },
			"shorter":  func() error { return ws.WriteFile(ctx, "large", []byte("x"), 0) },
			"replaced": func() error { return ws.Rename(ctx, "other", "large") },
		}
		for name, change := range changes {
			t.Run(name, func(t *testing.T) {
				f, content := openLarge(t, ws)
				require.NoError(t, ws.WriteFile(ctx, "other", content, 0))
				require.NoError(t, change())
				n, err := f.(io.WriterTo).WriteTo(io.Discard)
				requireCode(t, mesh.CodeConflict, err, "WriteTo")
				require.Equal(t, int64(64<<10), n, "what came with Open")
				_, err = f.Read(make([]byte, 1))
				requireCode(t, mesh.CodeConflict, err, "Read")
				_, err = f.(io.ReaderAt).ReadAt(make([]byte, 1), 100<<10)
				requireCode(t, mesh.CodeConflict, err, "ReadAt")
				info, err := f.Stat()
				require.NoError(t, err)
				require.Equal(t, int64(len(content)), info.Size())
			})
		}
		f, _ := openLarge(t, ws)
		require.NoError(t, ws.RemoveAll(ctx, "large"))
		_, err := io.Copy(io.Discard, f)
		require.ErrorIs(t, err, fs.ErrNotExist)
	})
}
