package client_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func meshServer(t *testing.T) *meshtest.Mesh { return meshtest.Server(t) }

// noise is size bytes that depend on seed.
func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// pack makes a tar stream of files.
func pack(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

// unpack returns the regular files of a tar stream.
func unpack(t *testing.T, in io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		if h.Typeflag == tar.TypeReg {
			files[h.Name], err = io.ReadAll(r)
			require.NoError(t, err)
		}
	}
}

// manyFiles makes n empty files in one go and returns their names, sorted.
func manyFiles(t *testing.T, ws *client.Workspace, dir string, n int) []string {
	t.Helper()
	var names []string
	files := map[string][]byte{}
	for i := range n {
		names = append(names, fmt.Sprintf("%06d", i))
		files[names[i]] = nil
	}
	require.NoError(t, ws.PutDir(t.Context(), dir, bytes.NewReader(pack(t, files))))
	return names
}

// A transfer takes constant memory: a reader that never ends in memory terms.
func TestLargeTransfer(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		const size = 16<<20 + 3 // many times what is on its way
		require.NoError(t, ws.Put(ctx, "big", io.LimitReader(zeros{}, size), 0))
		var n counter
		require.NoError(t, ws.Get(ctx, "big", &n))
		require.Equal(t, counter(size), n)
		require.NoError(t, ws.Put(ctx, "none", bytes.NewReader(nil), 0))
		requireFile(t, ws, "none", "")
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// A Put that does not come to its end leaves the old file.
func TestPutBreaksOff(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("w")
		fill(t, ws, "f")
		start := func() io.Reader { return bytes.NewReader(make([]byte, 3<<20)) }
		canceled, cancel := context.WithCancel(t.Context())
		defer cancel()
		errBroken := errors.New("broken")
		for _, r := range []struct {
			name string
			ctx  context.Context
			end  func() error
			want error
		}{
			{"the reader fails", t.Context(), func() error { return errBroken }, errBroken},
			{"canceled, then the end", canceled, func() error { cancel(); return io.EOF }, context.Canceled},
			{"the node restarts", t.Context(), func() error { m.StopNode(t); m.StartNode(t); return io.EOF }, &mesh.Error{Code: mesh.CodeConflict}},
		} {
			t.Run(r.name, func(t *testing.T) {
				err := ws.Put(r.ctx, "f", io.MultiReader(start(), ending(r.end)), 0)
				require.ErrorIs(t, err, r.want)
				requireFile(t, ws, "f", "f")
			})
		}
		require.NoError(t, ws.Put(t.Context(), "f", start(), 0), "it works again")
	})
}

// ending is a reader that is only its end.
type ending func() error

func (e ending) Read([]byte) (int, error) { return 0, e() }

// write is a function as an io.Writer.
type write func(p []byte) (int, error)

func (w write) Write(p []byte) (int, error) { return w(p) }

func TestGetOfAFileThatIsReplaced(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		require.NoError(t, ws.WriteFile(ctx, "f", noise(1, 3<<20), 0))
		replaced := false
		err := ws.Get(ctx, "f", write(func(p []byte) (int, error) {
			if !replaced {
				replaced = true
				require.NoError(t, ws.WriteFile(ctx, "f", noise(2, 3<<20), 0))
			}
			return len(p), nil
		}))
		requireCode(t, mesh.CodeConflict, err)
		b, err := ws.ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, noise(2, 3<<20), b)
	})
}

// Every kind of transfer at the same time, each of several times as many parts as
// are on their way at once.
func TestTransfersSideBySide(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("w")
		const size = 3<<20 + 1
		content := func(i byte) []byte { return noise(i, size) }
		require.NoError(t, ws.WriteFile(t.Context(), "get", content(1), 0))
		require.NoError(t, ws.WriteFile(t.Context(), "dir/f", content(2), 0))
		archive := pack(t, map[string][]byte{"f": content(3)})
		g, ctx := errgroup.WithContext(t.Context())
		got, tree := sha256.New(), bytes.Buffer{}
		g.Go(func() error { return ws.Get(ctx, "get", got) })
		g.Go(func() error { return ws.GetDir(ctx, "dir", &tree) })
		g.Go(func() error { return ws.PutDir(ctx, "put/dir", bytes.NewReader(archive)) })
		g.Go(func() error { return ws.Put(ctx, "put/a", bytes.NewReader(content(4)), 0) })
		g.Go(func() error { return ws.WriteFile(ctx, "put/b", content(5), 0) })
		require.NoError(t, g.Wait())
		require.Equal(t, sha256.Sum256(content(1)), [32]byte(got.Sum(nil)))
		require.True(t, bytes.Equal(content(2), unpack(t, &tree)["f"]))
		for path, i := range map[string]byte{"put/dir/f": 3, "put/a": 4, "put/b": 5} {
			b, err := ws.ReadFile(t.Context(), path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content(i), b), path)
		}
	})
}

// The parts that wait for a slow writer come in order, none lost or doubled.
func TestGetDirToASlowWriter(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		files := map[string][]byte{"a": noise(1, 5<<20), "b": noise(2, 3), "c/d": noise(3, 4<<20+7), "empty": {}}
		require.NoError(t, ws.PutDir(ctx, "dir", bytes.NewReader(pack(t, files))))
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		var out bytes.Buffer
		require.NoError(t, ws.GetDir(ctx, "dir", write(func(p []byte) (int, error) {
			<-tick.C
			return out.Write(p)
		})))
		require.Equal(t, files, unpack(t, &out))

		errFull := errors.New("full")
		require.ErrorIs(t, ws.GetDir(ctx, "dir", write(func([]byte) (int, error) { return 0, errFull })), errFull)
		require.ErrorIs(t, ws.GetDir(ctx, "none", io.Discard), &mesh.Error{Code: mesh.CodeNotFound})
	})
}

// A GetDir that has ended, well or not, has no place on the node any more: others
// get it at once, and not only when the node finds the stream idle.
func TestGetDirGivesItsPlaceBack(t *testing.T) {
	m := nodetest.Start(t, meshServer(t), nodetest.Config{})
	ws := m.Client.Workspace("w")
	fill(t, ws, "small/f")
	require.NoError(t, ws.WriteFile(t.Context(), "large/f", make([]byte, 5<<20), 0))
	errFull := errors.New("full")
	for name, end := range map[string]func(ctx context.Context) error{
		"whole": func(ctx context.Context) error { return ws.GetDir(ctx, "small", io.Discard) },
		"the writer fails": func(ctx context.Context) error {
			err := ws.GetDir(ctx, "large", write(func([]byte) (int, error) { return 0, errFull }))
			if errors.Is(err, errFull) {
				return nil
			}
			return err
		},
		"canceled": func(ctx context.Context) error {
			canceled, cancel := context.WithCancel(ctx)
			err := ws.GetDir(canceled, "large", write(func(p []byte) (int, error) { cancel(); return len(p), nil }))
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), node.DefaultDownloadIdle-time.Second)
			defer cancel()
			for range node.DefaultMaxDownloads/4 + 4 { // more than one tenant's part
				require.NoError(t, end(ctx))
			}
		})
	}
}
