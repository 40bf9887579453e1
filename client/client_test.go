package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/node/onebox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func box(t *testing.T, dir string) *onebox.Box {
	t.Helper()
	b, err := onebox.Start(t.Context(), onebox.Config{Data: dir, Grace: time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func dial(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestTokensThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	cfg := box(t, dir).Client()
	keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	expired, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "dev", Generation: 1, TTL: time.Second})
	require.NoError(t, err)
	foreign, err := auth.LoadOrCreate(t.TempDir())
	require.NoError(t, err)
	other, err := foreign.Signer().Tenant(auth.TokenSpec{Tenant: "dev", Generation: 1})
	require.NoError(t, err)
	time.Sleep(time.Until(expired.Expires.Add(50 * time.Millisecond)))

	for name, token := range map[string]string{
		"empty":            "",
		"not a token":      "hello",
		"truncated":        cfg.Token[:len(cfg.Token)-10],
		"cut in the claim": cfg.Token[:len(cfg.Token)/2],
		"expired":          expired.JWT,
		"of another mesh":  other.JWT,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Dial(t.Context(), client.Config{URL: cfg.URL, Token: token})
			require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err), "%v", err)
			require.ErrorIs(t, err, fs.ErrPermission)
			if len(token) > 20 {
				require.NotContains(t, err.Error(), token[:20], "the error shows the token")
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	token := box(t, t.TempDir()).Client().Token
	_, err := client.Dial(t.Context(), client.Config{URL: "nats://127.0.0.1:1", Token: token})
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "%v", err)
	_, err = client.Dial(t.Context(), client.Config{URL: "nats://mesh.example.org:4222", Token: token})
	require.Equal(t, mesh.CodeUnsupported, mesh.CodeOf(err), "%v: a token in plain text", err)
	_, err = client.Dial(t.Context(), client.Config{URL: "not a url", Token: token})
	require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%v", err)
}

func TestBadPaths(t *testing.T) {
	c := dial(t, box(t, t.TempDir()).Client())
	ctx, ws := t.Context(), c.Workspace("w")
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
			require.Equal(t, r.code, mesh.CodeOf(err), "read: %v", err)
			err = ws.WriteFile(ctx, r.path, []byte("y"), 0)
			require.Equal(t, r.code, mesh.CodeOf(err), "write: %v", err)
		})
	}
	_, err := c.Workspace("No Such Name").Stat(ctx, "x")
	require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))
	require.Equal(t, mesh.CodeDenied, mesh.CodeOf(ws.RemoveAll(ctx, ".")), "the root is kept")
	b, err := ws.ReadFile(ctx, "dir/file")
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

func TestScopeNeverWidens(t *testing.T) {
	ctx := t.Context()
	ws := dial(t, box(t, t.TempDir()).Client()).Workspace("w")
	require.NoError(t, ws.WriteFile(ctx, "a/b/own", []byte("1"), 0))
	require.NoError(t, ws.WriteFile(ctx, "a/secret", []byte("2"), 0))
	b := ws.Scope("a").Scope("b")
	got, err := b.ReadFile(ctx, "own")
	require.NoError(t, err)
	require.Equal(t, "1", string(got))
	for _, path := range []string{"../secret", "/workspace/a/secret"} {
		_, err = b.ReadFile(ctx, path)
		require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err), path)
	}
	_, err = ws.Scope("a").Scope("../x").ReadFile(ctx, "y")
	require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err))
}

// Names are bytes all the way.
func TestOddNames(t *testing.T) {
	ctx := t.Context()
	ws := dial(t, box(t, t.TempDir()).Client()).Workspace("w")
	names := []string{"new\nline", "quote\"'$(x)`", "漢字 and space", "\xff\xfe", "%41", "a..b"}
	for _, name := range names {
		require.NoError(t, ws.WriteFile(ctx, "d/"+name, []byte(name), 0))
	}
	var listed []string
	for e, err := range ws.ReadDir(ctx, "d") {
		require.NoError(t, err)
		b, err := ws.ReadFile(ctx, "d/"+string(e.Path))
		require.NoError(t, err)
		require.Equal(t, string(e.Path), string(b))
		listed = append(listed, string(e.Path))
	}
	require.ElementsMatch(t, names, listed)
}

// A transfer takes constant memory: a reader that never ends in memory terms.
func TestLargeTransfer(t *testing.T) {
	ctx := t.Context()
	ws := dial(t, box(t, t.TempDir()).Client()).Workspace("w")
	const size = 64<<20 + 3
	require.NoError(t, ws.Put(ctx, "big", io.LimitReader(zeros{}, size), 0))
	var n counter
	require.NoError(t, ws.Get(ctx, "big", &n))
	require.Equal(t, counter(size), n)
	require.NoError(t, ws.Put(ctx, "none", bytes.NewReader(nil), 0))
	b, err := ws.ReadFile(ctx, "none")
	require.NoError(t, err)
	require.Empty(t, b)
	broken := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), failing{})
	require.ErrorIs(t, ws.Put(ctx, "big", broken, 0), errBroken)
	info, err := ws.Stat(ctx, "big")
	require.NoError(t, err)
	require.Equal(t, int64(size), info.Size, "a broken upload must leave the old file")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

var errBroken = errors.New("broken")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

// The one box is stopped and started under eight writers: what was acknowledged
// is there, and the client finds the box again by itself.
func TestRestartUnderLoad(t *testing.T) {
	dir := t.TempDir()
	first := box(t, dir)
	cfg := first.Client()
	cfg.Wait = 20 * time.Second
	c := dial(t, cfg)
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	acked := map[string]bool{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := string(rune('a'+w)) + "/" + time.Now().Format("150405.000000000")
				err := c.Workspace("w").WriteFile(t.Context(), name, []byte(name), 0)
				mu.Lock()
				if err == nil {
					acked[name] = true
				}
				mu.Unlock()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
	require.Eventually(t, func() bool { return count() > 100 }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, first.Close())
	before := count()
	second, err := onebox.Start(t.Context(), onebox.Config{Data: dir, Port: port(t, cfg.URL), Grace: time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { second.Close() })
	require.Equal(t, cfg.Token, second.Client().Token, "the token is kept")
	require.Eventually(t, func() bool { return count() > before+100 }, 20*time.Second, 10*time.Millisecond)
	stop()
	wg.Wait()
	for name := range acked {
		b, err := c.Workspace("w").ReadFile(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, name, string(b))
	}
}

func port(t *testing.T, url string) int {
	t.Helper()
	var p int
	for _, d := range url[strings.LastIndexByte(url, ':')+1:] {
		p = p*10 + int(d-'0')
	}
	return p
}

func TestCredentialFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	box(t, dir)
	for _, name := range []string{"client.json", "admin.creds", "keys/keys.json"} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), name)
	}
}

// A token that expires while it is in use: the next call says so, at once.
func TestTokenExpiresInUse(t *testing.T) {
	dir := t.TempDir()
	cfg := box(t, dir).Client()
	keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	brief, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "dev", Generation: 1, TTL: 2 * time.Second})
	require.NoError(t, err)
	c := dial(t, client.Config{URL: cfg.URL, Token: brief.JWT})
	require.NoError(t, c.Workspace("w").WriteFile(t.Context(), "f", nil, 0))
	require.Eventually(t, func() bool {
		_, err = c.Workspace("w").Stat(t.Context(), "f")
		return mesh.CodeOf(err) == mesh.CodeDenied
	}, 20*time.Second, 50*time.Millisecond)
	require.ErrorContains(t, err, "expired")
}
