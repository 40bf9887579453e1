package client_test

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// The rows of the table of upstream_test.go on pooled and lost connections. By design
// a client goes on reconnecting for ever (row 130), a command outlives every connection
// (129), and a closed pool stays closed (125).

// heard collects the states of clients.
type heard struct {
	mu  sync.Mutex
	all []client.Status
}

func (h *heard) note(s client.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, s)
}

func (h *heard) is(want ...client.Status) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Equal(h.all, want)
}

func (h *heard) last() client.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all[len(h.all)-1]
}

func (h *heard) becomes(t *testing.T, want ...client.Status) {
	t.Helper()
	require.Eventually(t, func() bool { return h.is(want...) }, 20*time.Second, 10*time.Millisecond, "%v", want)
}

// counted passes connections on to the server of m, and counts them.
func counted(t *testing.T, m *meshtest.Mesh) (url string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	connections = new(atomic.Int64)
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			out, err := net.Dial("tcp", m.Servers[0].Addr())
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				all.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					in.Close()
					out.Close()
				})
			}
		}
	})
	return "nats://" + l.Addr().String(), connections
}

func TestUpstreamPool(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx := t.Context()
	m.CreateTenant(t, "other")
	tokens := map[string]string{"a": m.Token(t, nodetest.Tenant), "b": m.Token(t, "other"), "": m.Token(t, nodetest.Tenant)}
	var dials atomic.Int64
	pool := func(t *testing.T) *client.Pool {
		dials.Store(0)
		return newPool(t, client.PoolConfig{
			Client: client.Config{URL: m.URL(), Guard: func(context.Context, *client.Cmd) error { return io.ErrShortBuffer }}, Idle: 200 * time.Millisecond,
			Each: func(_ context.Context, key string, cfg *client.Config) error {
				dials.Add(1)
				cfg.Token = tokens[key]
				if key == "none" {
					return mesh.Errorf(mesh.CodeNotFound, "no such tenant")
				}
				if key == "b" {
					cfg.Guard = func(context.Context, *client.Cmd) error { return io.ErrNoProgress }
				}
				return nil
			},
		})
	}
	nothing := func(*client.Client) error { return nil }
	empty := func(p *client.Pool) func() bool {
		return func() bool { return p.Stats() == client.PoolStats{} }
	}
	row(t, 118, "one key, one client for all who use it", func(t *testing.T) {
		p := pool(t)
		require.NoError(t, p.With(ctx, "a", func(first *client.Client) error {
			return p.With(ctx, "a", func(second *client.Client) error {
				require.Same(t, first, second)
				require.Equal(t, client.PoolStats{Total: 1, Active: 1}, p.Stats())
				return nil
			})
		}))
		require.Equal(t, client.PoolStats{Total: 1, Idle: 1}, p.Stats())
	})
	row(t, 119, "other keys, other clients", func(t *testing.T) {
		p := pool(t)
		require.NoError(t, p.With(ctx, "a", func(a *client.Client) error {
			require.NoError(t, p.With(ctx, "b", func(b *client.Client) error {
				require.Equal(t, []string{"acme", "other"}, []string{a.Tenant(), b.Tenant()})
				return nil
			}))
			require.Equal(t, client.PoolStats{Total: 2, Active: 1, Idle: 1}, p.Stats())
			return nil
		}))
	})
	row(t, 120, "no key: a client of one's own, closed afterwards", func(t *testing.T) {
		p := pool(t)
		var first, second *client.Client
		require.NoError(t, p.With(ctx, "", func(c *client.Client) error {
			first = c
			return p.With(ctx, "", func(c *client.Client) error { second = c; return nil })
		}))
		require.NotSame(t, first, second)
		require.Equal(t, client.StatusClosed, first.Status())
		require.Equal(t, client.StatusClosed, second.Status())
		require.Zero(t, p.Stats())
	})
	row(t, 121, "what is special about a key", func(t *testing.T) {
		p := pool(t)
		for key, want := range map[string]error{"a": io.ErrShortBuffer, "b": io.ErrNoProgress} {
			require.NoError(t, p.With(ctx, key, func(c *client.Client) error {
				require.ErrorIs(t, c.Workspace("w").Command(ctx, "true").Start(), want)
				return nil
			}))
		}
	})
	row(t, 122, "an error or a panic of the user is the user's, and gives the client back", func(t *testing.T) {
		p := pool(t)
		require.ErrorIs(t, p.With(ctx, "a", func(*client.Client) error { return io.ErrUnexpectedEOF }), io.ErrUnexpectedEOF)
		require.PanicsWithValue(t, "oh", func() { _ = p.With(ctx, "a", func(*client.Client) error { panic("oh") }) })
		require.Equal(t, client.PoolStats{Total: 1, Idle: 1}, p.Stats())
		require.Eventually(t, empty(p), 20*time.Second, 10*time.Millisecond, "idle for long enough")
	})
	row(t, 123, "a client that cannot be made is not kept", func(t *testing.T) {
		p := pool(t)
		for range 3 {
			requireCode(t, mesh.CodeNotFound, p.With(ctx, "none", nothing))
		}
		require.EqualValues(t, 3, dials.Load())
		require.Zero(t, p.Stats())
	})
	row(t, 124, "idle for long: closed; in use: kept", func(t *testing.T) {
		p := pool(t)
		require.NoError(t, p.With(ctx, "a", func(a *client.Client) error {
			b := clientOf(t, p, "b")
			require.Eventually(t, func() bool { return b.Status() == client.StatusClosed }, 20*time.Second, 10*time.Millisecond)
			require.Equal(t, client.StatusConnected, a.Status())
			require.Eventually(t, func() bool { return p.Stats() == client.PoolStats{Total: 1, Active: 1} }, 20*time.Second, 10*time.Millisecond)
			return nil
		}))
	})
	row(t, 125, "Close waits for users, and closes all", func(t *testing.T) {
		p := pool(t)
		b := clientOf(t, p, "b")
		in, out := make(chan struct{}), make(chan struct{})
		var used atomic.Bool
		go func() {
			_ = p.With(ctx, "a", func(c *client.Client) error {
				close(in)
				<-out
				used.Store(c.Workspace("w").MkdirAll(ctx, "x", 0) == nil)
				return nil
			})
		}()
		<-in
		closed := make(chan struct{})
		go func() { p.Close(); close(closed) }()
		require.Eventually(t, func() bool { return b.Status() == client.StatusClosed }, 20*time.Second, 10*time.Millisecond)
		requireCode(t, mesh.CodeUnavailable, p.With(ctx, "a", nothing))
		select {
		case <-closed:
			t.Fatal("closed under a user")
		default:
		}
		close(out)
		<-closed
		require.True(t, used.Load())
		require.Zero(t, p.Stats())
	})
	row(t, 126, "two first users of a key, one client", func(t *testing.T) {
		p := pool(t)
		var all sync.WaitGroup
		var seen sync.Map
		for range 8 {
			all.Go(func() {
				_ = p.With(ctx, "a", func(c *client.Client) error { seen.Store(c, true); return nil })
			})
		}
		all.Wait()
		n := 0
		seen.Range(func(any, any) bool { n++; return true })
		require.Equal(t, 1, n)
		require.EqualValues(t, 1, dials.Load())
	})
}

func TestUpstreamConnection(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx := t.Context()
	var states heard
	c, err := client.Dial(ctx, client.Config{URL: m.URL(), Token: m.Token(t, nodetest.Tenant), OnStatus: states.note})
	require.NoError(t, err)
	ws := c.Workspace("w")
	row(t, 127, "the states of a first connection", func(t *testing.T) {
		states.becomes(t, client.StatusConnecting, client.StatusConnected)
		require.Equal(t, client.StatusConnected, c.Status())
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("x"), 0))
	})
	all := []client.Status{client.StatusConnecting, client.StatusConnected, client.StatusReconnecting, client.StatusConnected}
	row(t, 128, "the server goes and comes: reconnected, and calls work", func(t *testing.T) {
		m.Stop(0)
		states.becomes(t, all[:3]...)
		require.Equal(t, client.StatusReconnecting, c.Status())
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		_, err := ws.ReadFile(short, "f")
		require.Error(t, err)
		m.Restart(t, 0)
		b, err := ws.ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "x", string(b))
		states.becomes(t, all...)
	})
	row(t, 129, "a command outlives the connection", func(t *testing.T) {
		nodetest.Commands(t)
		cmd := ws.Command(ctx, "sh", "-c", "read x; echo got $x")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		var out strings.Builder
		cmd.Stdout = &out
		require.NoError(t, cmd.Start())
		m.Stop(0)
		require.Eventually(t, func() bool { return c.Status() == client.StatusReconnecting }, 20*time.Second, 10*time.Millisecond)
		m.Restart(t, 0)
		_, err = io.WriteString(in, "it\n")
		require.NoError(t, err)
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
		require.Equal(t, "got it\n", out.String())
	})
	row(t, 132, "closed: said once, last, and calls are refused", func(t *testing.T) {
		var last heard
		c.OnStatus(last.note)
		require.NoError(t, c.Close())
		require.NoError(t, c.Close())
		require.True(t, last.is(client.StatusClosed))
		require.Equal(t, client.StatusClosed, c.Status())
		_, err := ws.ReadFile(ctx, "f")
		requireCode(t, mesh.CodeUnavailable, err)
	})
}

// A token that is not taken is denied at once, and nobody knocks on for it.
func TestUpstreamRefusedTokens(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx := t.Context()
	url, connections := counted(t, m.Mesh)
	good := m.Token(t, nodetest.Tenant)
	row(t, 131, "a wrong token, or none", func(t *testing.T) {
		for _, token := range []string{good[:len(good)-20] + "AAAAAAAAAAAAAAAAAAAA", "", "abc"} {
			connections.Store(0)
			_, err := client.Dial(ctx, client.Config{URL: url, Token: token})
			requireCode(t, mesh.CodeDenied, err)
			require.LessOrEqual(t, connections.Load(), int64(1))
		}
	})
	row(t, 131, "a token whose time is over", func(t *testing.T) {
		token, err := m.Keys.Signer().Tenant(auth.TokenSpec{Tenant: nodetest.Tenant, Generation: 1, TTL: time.Second})
		require.NoError(t, err)
		connections.Store(0)
		var states heard
		c, err := client.Dial(ctx, client.Config{URL: url, Token: token.JWT, OnStatus: states.note})
		require.NoError(t, err)
		defer c.Close()
		require.Eventually(t, func() bool { return c.Status() == client.StatusClosed }, 20*time.Second, 10*time.Millisecond)
		_, err = c.Workspace("w").Stat(ctx, ".")
		requireCode(t, mesh.CodeDenied, err)
		require.LessOrEqual(t, connections.Load(), int64(4), "its own, and until the same refusal came twice")
		require.Eventually(t, func() bool { return states.last() == client.StatusClosed }, 20*time.Second, 10*time.Millisecond)
	})
	row(t, 133, "a listener that panics, one that stops, and one state twice", func(t *testing.T) {
		c, err := client.Dial(ctx, client.Config{URL: m.URL(), Token: good, OnStatus: func(client.Status) { panic("mine") }})
		require.NoError(t, err)
		var stays, goes heard
		c.OnStatus(stays.note)
		stop := c.OnStatus(goes.note)
		stop()
		stop()
		require.NoError(t, c.Close())
		require.NotContains(t, stays.all, client.StatusConnecting)
		require.Equal(t, client.StatusClosed, stays.all[len(stays.all)-1])
		require.Equal(t, stays.all, slices.Compact(slices.Clone(stays.all)))
		require.Empty(t, goes.all)
	})
}
