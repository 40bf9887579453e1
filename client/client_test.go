package client_test

import (
	"context"
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
	require.Eventually(t, func() bool { return time.Now().After(expired.Expires) }, 10*time.Second, 20*time.Millisecond)

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
