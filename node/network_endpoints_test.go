package node

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/egress/egresstest"
)

// The addresses of the mesh are known before anything is connected to; to look them
// up again keeps nobody waiting who does not do it.
func TestOwnEndpointsAreKnown(t *testing.T) {
	servers := meshtest.Server(t)
	var asked atomic.Int32
	wait := make(chan struct{})
	own := netip.MustParseAddr("192.0.2.7")
	cfg := &Config{
		Door: servers.Door(t, "n1"), Store: servers.Store(t, "n1"), Own: []string{"tls://slow.test:4567"},
		Resolver: egresstest.Resolver(t, func(name string, v6 bool) []netip.Addr {
			if v6 || name != "slow.test" {
				return nil
			}
			if asked.Add(1) > 1 {
				<-wait
			}
			return []netip.Addr{own}
		}),
	}
	e := &endpoints{cfg: cfg, of: map[string][]netip.AddrPort{}}
	require.Contains(t, e.list(), netip.AddrPortFrom(own, 4567), "the first call waits for it")
	server, err := netip.ParseAddrPort(cfg.Store.ConnectedAddr())
	require.NoError(t, err)
	require.Contains(t, e.list(), server)
	require.EqualValues(t, 1, asked.Load())

	e.found = time.Now().Add(-2 * endpointsAge)
	again := make(chan []netip.AddrPort)
	go func() { again <- e.list() }()
	require.Eventually(t, func() bool { return asked.Load() > 1 }, 10*time.Second, time.Millisecond)
	require.Contains(t, e.list(), netip.AddrPortFrom(own, 4567), "another one goes on meanwhile")
	select {
	case <-again:
		require.Fail(t, "the one who looks it up waits")
	default:
	}
	close(wait)
	require.Contains(t, <-again, netip.AddrPortFrom(own, 4567))
}
