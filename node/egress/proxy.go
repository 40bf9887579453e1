package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Bounds of the proxy.
const (
	// DefaultConns bounds the connections of a node's commands; a tenant may hold a
	// quarter of them. Each takes two descriptors and some 80 KiB.
	DefaultConns = 1024
	// DefaultSandboxConns bounds those of one sandbox: package managers open up to
	// 64 at a time.
	DefaultSandboxConns = 128
	// DefaultDialTime bounds finding the addresses of a name and connecting to one.
	DefaultDialTime = 15 * time.Second
	// DefaultHeaderTime bounds the sending of a request's header.
	DefaultHeaderTime = 10 * time.Second
	// DefaultIdle ends a connection on which nothing moved: a server that is asked
	// to build something may be silent for minutes.
	DefaultIdle = 10 * time.Minute
	// MaxHeaderBytes bounds the header of a request and of an answer: servers
	// commonly take 8 to 64 KiB.
	MaxHeaderBytes = 64 << 10
)

// Config of a Proxy. The zero value is useful.
type Config struct {
	// Resolver finds the addresses of names; nil is the machine's, as Go reads its
	// configuration.
	Resolver *net.Resolver
	// Except are addresses that are reached although they are not public.
	Except []Exception
	// Own returns the endpoints of the mesh. They are never reached, and their
	// addresses at other ports only by an exception. It may be called at any time
	// and takes a lookup at the most; nil: there are none.
	Own func() []netip.AddrPort
	// Log gets each decision; nil discards it.
	Log *slog.Logger
}

// Proxy connects the sandboxes of a node with the hosts that their policies allow.
// All methods may be called concurrently. There is nothing to close: what it does
// ends with the Gates.
type Proxy struct {
	cfg    Config
	bounds bounds
	conns  *mesh.Slots

	mu      sync.Mutex
	watches map[*Watch]struct{}

	allowed, refused, sent, received atomic.Int64
}

// bounds are the constants above; tests have smaller ones.
type bounds struct {
	sandbox      int
	header, idle time.Duration
}

// Stats counts since the start.
type Stats struct {
	Allowed  int64 `json:"allowed"`  // requests that reached their host
	Refused  int64 `json:"refused"`  // requests that the policy or the address forbade
	Sent     int64 `json:"sent"`     // bytes that commands sent
	Received int64 `json:"received"` // bytes that commands received
}

// New makes a Proxy.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Resolver == nil {
		// Go's own, which fails in the same words everywhere.
		cfg.Resolver = &net.Resolver{PreferGo: true}
	}
	if cfg.Own == nil {
		cfg.Own = func() []netip.AddrPort { return nil }
	}
	b := bounds{sandbox: DefaultSandboxConns, header: DefaultHeaderTime, idle: DefaultIdle}
	return &Proxy{cfg: cfg, bounds: b, conns: mesh.NewSlots(DefaultConns), watches: map[*Watch]struct{}{}}
}

// Stats returns what was counted so far.
func (p *Proxy) Stats() Stats {
	return Stats{Allowed: p.allowed.Load(), Refused: p.refused.Load(), Sent: p.sent.Load(), Received: p.received.Load()}
}

// errForbidden is the reason why an address is not connected to. Its text is the
// tenant's to read: it names no address.
var errForbidden = errors.New("its address is not a public one")

// check is asked by the dialer for each address before it connects to it, and is
// the only such place: whatever a name led to, this is where it ends.
func (p *Proxy) check(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return errForbidden
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	own := p.cfg.Own()
	sameAddr := func(o netip.AddrPort) bool {
		return o.Addr().Unmap() == to.Addr() || o.Addr().IsUnspecified() && ofThisMachine(to.Addr())
	}
	switch {
	case slices.ContainsFunc(own, func(o netip.AddrPort) bool { return sameAddr(o) && o.Port() == to.Port() }):
		return errForbidden
	case slices.ContainsFunc(p.cfg.Except, func(e Exception) bool { return e.covers(to) }):
		return nil
	case !public(to.Addr()) || ofThisMachine(to.Addr()) || slices.ContainsFunc(own, sameAddr):
		return errForbidden
	}
	return nil
}

// dial connects to a host that a policy allows.
func (p *Proxy) dial(ctx context.Context, to host) (net.Conn, error) {
	d := net.Dialer{Timeout: DefaultDialTime, Resolver: p.cfg.Resolver, ControlContext: p.check}
	name := to.name
	if !isAddr(name) {
		name += "." // the name itself, and not one in a domain that is searched
	}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(name, fmt.Sprint(to.port)))
	var unknown *net.DNSError
	var late net.Error
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, errForbidden):
		return nil, &failure{host: to, refused: true, why: errForbidden.Error()}
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return nil, &failure{host: to, why: "its name is not known"}
	case errors.As(err, &unknown):
		return nil, &failure{host: to, why: "its name could not be looked up"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, &failure{host: to, why: "it does not take connections"}
	case errors.As(err, &late) && late.Timeout():
		return nil, &failure{host: to, why: "it did not answer in time"}
	}
	return nil, &failure{host: to, why: "it could not be reached"}
}

// failure is why a host was not reached, in words for the tenant.
type failure struct {
	host    host
	refused bool // by the policy or for the address, not by the network
	why     string
}

func (f *failure) Error() string {
	if f.refused {
		return fmt.Sprintf("denied: %s: %s", f.host, f.why)
	}
	return fmt.Sprintf("unavailable: %s: %s", f.host, f.why)
}

// Who is the view of a workspace whose commands use a Gate.
type Who struct {
	Tenant    mesh.Tenant
	Workspace mesh.Workspace
	Scope     string
}

// maxRefusals bounds what a Watch keeps: a person reads the first few.
const maxRefusals = 8

// Watch learns which hosts are refused to the commands of one view.
type Watch struct {
	proxy *Proxy
	who   Who
	hosts []string
}

// Watch begins to watch. The caller stops it.
func (p *Proxy) Watch(who Who) *Watch {
	w := &Watch{proxy: p, who: who}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watches[w] = struct{}{}
	return w
}

// Stop returns what was refused meanwhile, as HOST:PORT, the first few of them.
func (w *Watch) Stop() []string {
	w.proxy.mu.Lock()
	defer w.proxy.mu.Unlock()
	delete(w.proxy.watches, w)
	return w.hosts
}

func (p *Proxy) tellRefused(who Who, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watches {
		if w.who == who && len(w.hosts) < maxRefusals && !slices.Contains(w.hosts, to) {
			w.hosts = append(w.hosts, to)
		}
	}
}

// decided counts and logs a decision. Nothing of a request is in the log but its
// host and port.
func (g *Gate) decided(to host, err error) {
	result := "allowed"
	var f *failure
	switch {
	case err == nil:
		g.proxy.allowed.Add(1)
	case errors.As(err, &f) && f.refused:
		g.proxy.refused.Add(1)
		g.proxy.tellRefused(g.who, to.String())
		result = "refused"
	default:
		result = "failed"
	}
	if !g.logging.Allow() {
		g.unlogged.Add(1)
		return
	}
	attrs := []slog.Attr{
		slog.String("tenant", string(g.who.Tenant)), slog.String("workspace", string(g.who.Workspace)),
		slog.String("host", to.String()), slog.String("result", result),
	}
	if f != nil {
		attrs = append(attrs, slog.String("reason", f.why))
	}
	if n := g.unlogged.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("unlogged", n))
	}
	g.proxy.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, "network request of a command", attrs...)
}
