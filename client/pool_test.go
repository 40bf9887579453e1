package client_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func newPool(t *testing.T, cfg client.PoolConfig) *client.Pool {
	t.Helper()
	p := client.NewPool(cfg)
	t.Cleanup(p.Close)
	return p
}

// clientOf returns the client that a pool has for a key at the moment.
func clientOf(t *testing.T, p *client.Pool, key string) (c *client.Client) {
	t.Helper()
	require.NoError(t, p.With(t.Context(), key, func(got *client.Client) error { c = got; return nil }))
	return c
}

func TestPoolSharesAClientAndClosesItWhenUnused(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		tokens := map[string]string{"a": m.Token(t, nodetest.Tenant), "b": m.Token(t, nodetest.Tenant), "c": m.Token(t, nodetest.Tenant)}
		p := newPool(t, client.PoolConfig{
			Client: client.Config{URL: m.URL()}, Size: 2, Idle: 300 * time.Millisecond,
			Each: func(_ context.Context, key string, cfg *client.Config) error { cfg.Token = tokens[key]; return nil },
		})
		var seen sync.Map
		var g errgroup.Group
		for range 20 {
			g.Go(func() error {
				return p.With(t.Context(), "a", func(c *client.Client) error {
					seen.Store(c, true)
					return c.Workspace("w").WriteFile(t.Context(), "f", []byte("x"), 0)
				})
			})
		}
		require.NoError(t, g.Wait())
		count := 0
		seen.Range(func(any, any) bool { count++; return true })
		require.Equal(t, 1, count, "one key, one client")

		// Pushed out and idle for long, but in use: it works on.
		require.NoError(t, p.With(t.Context(), "a", func(c *client.Client) error {
			b := clientOf(t, p, "b")
			clientOf(t, p, "c")
			require.NotSame(t, b, c)
			require.Eventually(t, func() bool { return !b.Connected() }, 10*time.Second, 10*time.Millisecond, "unused")
			_, err := c.Workspace("w").ReadFile(t.Context(), "f")
			return err
		}))
		first := clientOf(t, p, "a")
		require.Eventually(t, func() bool { return !first.Connected() }, 10*time.Second, 10*time.Millisecond, "unused")
		require.NotSame(t, first, clientOf(t, p, "a"))
	})
}

func TestPoolAsksOnceForARefusedToken(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		good := m.Token(t, nodetest.Tenant)
		forged := good[:len(good)-20] + "AAAAAAAAAAAAAAAAAAAA"
		p := newPool(t, client.PoolConfig{Client: client.Config{URL: m.URL()}})
		never := func(*client.Client) error { t.Error("used"); return nil }
		for range 200 { // a storm of one token costs one refusal, so others still connect
			requireCode(t, mesh.CodeDenied, p.With(t.Context(), forged, never))
		}
		clientOf(t, p, good)

		// A storm of many: from some point on nobody new is asked for.
		var busy atomic.Bool
		var guesses sync.WaitGroup
		for i := range 200 {
			guess := good[:len(good)-3] + string([]byte{'A' + byte(i%26), 'a' + byte(i/26), 'A'})
			guesses.Go(func() {
				if mesh.CodeOf(p.With(t.Context(), guess, never)) == mesh.CodeBusy {
					busy.Store(true)
				}
			})
		}
		guesses.Wait()
		require.True(t, busy.Load())
		clientOf(t, p, good) // who is connected goes on
	})
}

// A refusal is forgotten after a while, also when the token is asked for all the
// time: the tenant may be there by then.
func TestPoolForgetsARefusal(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	token := m.Token(t, nodetest.Tenant)
	var known atomic.Bool
	p := newPool(t, client.PoolConfig{
		Client: client.Config{URL: m.URL()},
		Each: func(_ context.Context, _ string, cfg *client.Config) error {
			if !known.Load() {
				return mesh.Errorf(mesh.CodeDenied, "not yet")
			}
			cfg.Token = token
			return nil
		},
	})
	use := func() error { return p.With(t.Context(), "a", func(*client.Client) error { return nil }) }
	requireCode(t, mesh.CodeDenied, use())
	known.Store(true)
	require.Eventually(t, func() bool { return use() == nil }, 20*time.Second, 100*time.Millisecond)
}

func TestPoolWithoutMesh(t *testing.T) {
	keys, err := auth.LoadOrCreate(t.TempDir())
	require.NoError(t, err)
	token, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme", Generation: 1})
	require.NoError(t, err)
	p := newPool(t, client.PoolConfig{Client: client.Config{URL: "nats://127.0.0.1:1"}})
	never := func(*client.Client) error { t.Error("used"); return nil }
	requireCode(t, mesh.CodeUnavailable, p.With(t.Context(), token.JWT, never))
	p.Close()
	requireCode(t, mesh.CodeUnavailable, p.With(t.Context(), token.JWT, never))
}
