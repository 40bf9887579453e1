package node

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/egress"
)

// network is what commands reach of the network, as far as the node decides it.
type network struct {
	grant  egress.Policy // the most
	normal egress.Policy // of commands and workspaces that ask for nothing
	proxy  *egress.Proxy
}

func newNetwork(cfg *Config) (network, error) {
	var n network
	var err error
	if n.grant, err = parseNet(cfg.MaxNet, egress.None); err != nil {
		return n, err
	}
	if n.normal, err = parseNet(cfg.Net, egress.None); err != nil {
		return n, err
	}
	if !n.normal.Within(n.grant) {
		return n, mesh.Errorf(mesh.CodeInvalid, "network %s of commands that ask for none is more than %s, which is granted", n.normal, n.grant)
	}
	proxy := egress.Config{Resolver: cfg.Resolver, Log: cfg.Log, Own: (&endpoints{cfg: cfg, of: map[string][]netip.AddrPort{}}).list}
	for _, s := range cfg.NetExcept {
		e, err := egress.ParseException(s)
		if err != nil {
			return n, err
		}
		proxy.Except = append(proxy.Except, e)
	}
	n.proxy = egress.New(proxy)
	return n, nil
}

// checkHeld refuses to grant what the isolation cannot hold.
func (n *Node) checkHeld() error {
	level := n.runner.Level()
	if level.Driver == "" || level.Net || !n.network.grant.Lists() {
		return nil
	}
	return mesh.Errorf(mesh.CodeUnsupported, "--net %.200s: isolation %s cannot keep commands to some hosts: they have the network of the machine; "+
		"use bwrap, or name --net full", n.network.grant, level.Driver)
}

func parseNet(s string, otherwise egress.Policy) (egress.Policy, error) {
	if s == "" {
		return otherwise, nil
	}
	return egress.Parse(s)
}

// policy is what a command of the workspace reaches that asks for what it asks for.
// More than the operator and the workspace's record grant is denied, not cut.
func (w *workspace) policy(asked string) (egress.Policy, error) {
	granted := w.node.network.grant
	set := w.settings.Load().Net
	own, err := parseNet(set, granted)
	if err != nil {
		return egress.None, mesh.Errorf(mesh.CodeInternal, "the record of workspace %s has a network that node %s does not know", w.name, w.node.cfg.Name)
	}
	if asked == "" {
		if set == "" {
			return w.node.network.normal, nil
		}
		return own.And(granted), nil
	}
	p, err := egress.Parse(asked)
	switch {
	case err != nil:
		return egress.None, err
	case !p.Within(granted):
		return egress.None, errNotGranted("exec", p)
	case !p.Within(own):
		return egress.None, mesh.Errorf(mesh.CodeDenied, "exec: workspace %s has --net %.200s, which is less than --net %.200s; "+
			"give it more with: wsmesh workspace set --net %.200s %s", w.name, own, p, p, w.name)
	}
	return p, nil
}

func errNotGranted(doing string, p egress.Policy) *mesh.Error {
	return mesh.Errorf(mesh.CodeDenied, "%s: the operator does not grant network access of --net %.200s; a one box grants it with: wsmesh dev --net %.200s",
		doing, p, p)
}

// checkNet checks the network that a workspace is to be made with.
func (n *Node) checkNet(asked string) error {
	p, err := parseNet(asked, egress.None)
	if err == nil && !p.Within(n.network.grant) {
		err = errNotGranted("workspace", p)
	}
	return err
}

// who is the view that a command runs in, as the proxy knows it.
func (x *run) who() egress.Who {
	return egress.Who{Tenant: x.workspace.tenant, Workspace: x.workspace.name, Scope: x.command.scope}
}

// networkHad is what the command really could reach: without kernel isolation that
// is all that the machine does.
func (x *run) networkHad() string {
	if !x.workspace.node.runner.Level().Net {
		return egress.Full.String()
	}
	return x.command.net.String()
}

const (
	// endpointsAge is how long the addresses of the mesh's servers are believed, and
	// endpointsMost how long while they are being looked up again.
	endpointsAge  = time.Minute
	endpointsMost = 10 * time.Minute
	// endpointsWait bounds that.
	endpointsWait = 2 * time.Second
)

// endpoints are those of the mesh itself: what the node was told of, and of the
// NATS servers that it knows.
type endpoints struct {
	cfg *Config

	looking sync.Mutex // held by the one who looks names up

	mu    sync.Mutex
	found time.Time
	of    map[string][]netip.AddrPort // by URL
}

// list keeps what it knew of one whose name cannot be looked up just now. It waits
// for a lookup where nothing is known that can be believed; else only the one waits
// who does it.
func (e *endpoints) list() []netip.AddrPort {
	switch age := e.age(); {
	case age > endpointsMost:
		e.looking.Lock()
		if e.age() > endpointsAge {
			e.lookUp()
		}
		e.looking.Unlock()
	case age > endpointsAge && e.looking.TryLock():
		e.lookUp()
		e.looking.Unlock()
	}
	var all []netip.AddrPort
	for _, c := range e.conns() {
		if at, err := netip.ParseAddrPort(c.ConnectedAddr()); err == nil {
			all = append(all, at)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, at := range e.of {
		all = append(all, at...)
	}
	return all
}

func (e *endpoints) age() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Since(e.found)
}

func (e *endpoints) conns() []*nats.Conn { return []*nats.Conn{e.cfg.Door, e.cfg.Store} }

// lookUp asks for all names at a time. e.looking is held.
func (e *endpoints) lookUp() {
	all := slices.Clone(e.cfg.Own)
	for _, c := range e.conns() {
		all = append(all, c.Servers()...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), endpointsWait)
	defer cancel()
	found := make([][]netip.AddrPort, len(all))
	var group sync.WaitGroup
	for i, server := range all {
		group.Go(func() { found[i] = lookUp(ctx, e.cfg.Resolver, server) })
	}
	group.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, server := range all {
		if len(found[i]) > 0 {
			e.of[server] = found[i]
		}
	}
	e.found = time.Now()
}

// lookUp returns the addresses of a server by its URL; none if they cannot be found.
func lookUp(ctx context.Context, resolver *net.Resolver, server string) []netip.AddrPort {
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return nil
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		port = nats.DefaultPort
	}
	found, err := cmp.Or(resolver, net.DefaultResolver).LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return nil
	}
	var all []netip.AddrPort
	for _, addr := range found {
		all = append(all, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
	}
	return all
}
