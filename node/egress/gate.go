package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Decisions of one sandbox that are logged; the rest is counted.
const (
	logsPerSecond = 10
	logsAtOnce    = 100
)

// Gate is the way of one sandbox to the network. It implements what a sandbox
// wants of its Egress.
type Gate struct {
	proxy  *Proxy
	who    Who
	policy Policy

	logging  *rate.Limiter
	unlogged atomic.Int64
	forward  *httputil.ReverseProxy // set by Serve

	mu    sync.Mutex
	conns map[*conn]struct{} // of the sandbox, open
	busy  sync.WaitGroup     // connections served, by the server or as tunnels
}

// Gate makes the way of a sandbox that commands of who share under one policy.
func (p *Proxy) Gate(who Who, policy Policy) *Gate {
	return &Gate{
		proxy: p, who: who, policy: policy,
		logging: rate.NewLimiter(logsPerSecond, logsAtOnce), conns: map[*conn]struct{}{},
	}
}

// forwarder passes plain requests on.
func (g *Gate) forwarder() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: rewrite, ModifyResponse: refuseUpgrade, ErrorHandler: answerFailure, FlushInterval: -1,
		ErrorLog: log.New(io.Discard, "", 0),
		Transport: &http.Transport{
			DialContext: g.dialForward,
			// A connection that is kept was decided on for an earlier request.
			DisableKeepAlives:      true,
			DisableCompression:     true,
			ResponseHeaderTimeout:  g.proxy.bounds.idle,
			MaxResponseHeaderBytes: MaxHeaderBytes,
			Protocols:              onlyHTTP1(),
		},
	}
}

func onlyHTTP1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// Key tells apart sandboxes that must not share a Gate, of one view.
func (g *Gate) Key() string { return g.policy.String() }

// Serve answers what connects to l until l is closed. Then it ends every
// connection, and returns when nothing is left of any of them.
func (g *Gate) Serve(l net.Listener) {
	g.forward = g.forwarder()
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler: g, ReadHeaderTimeout: g.proxy.bounds.header, IdleTimeout: g.proxy.bounds.idle, MaxHeaderBytes: MaxHeaderBytes,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				g.busy.Add(1)
			case http.StateClosed, http.StateHijacked:
				g.busy.Done()
			}
		},
		Protocols: onlyHTTP1(), DisableGeneralOptionsHandler: true,
	}
	_ = srv.Serve(&bounded{Listener: l, gate: g}) // ends by an error, always
	cancel()
	_ = srv.Close()
	g.mu.Lock()
	open := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		open = append(open, c)
	}
	g.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
	g.busy.Wait()
}

// bounded takes no more connections than a sandbox and its tenant may have. One
// more is told so.
type bounded struct {
	net.Listener
	gate *Gate
}

const tooMany = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n" +
	"wsmesh: busy: too many connections are open at a time\n"

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if taken := b.gate.take(c); taken != nil {
			return taken, nil
		}
		// It fits into the empty buffer of a new connection.
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c, tooMany)
		_ = c.Close()
	}
}

func (g *Gate) take(c net.Conn) *conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) >= g.proxy.bounds.sandbox || !g.proxy.conns.Take(string(g.who.Tenant)) {
		return nil
	}
	taken := &conn{Conn: c, gate: g}
	taken.idle = time.AfterFunc(g.proxy.bounds.idle, func() { _ = taken.Close() })
	g.conns[taken] = struct{}{}
	return taken
}

// conn is a connection from a sandbox. It counts, and it ends when nothing moves.
type conn struct {
	net.Conn
	gate  *Gate
	idle  *time.Timer
	close sync.Once
	far   net.Conn // the other side of a tunnel, under gate.mu
}

// endsWith makes far the other side: closing c closes it too.
func (c *conn) endsWith(far net.Conn) {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.far = far
	if _, open := c.gate.conns[c]; !open {
		_ = far.Close()
	}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.idle.Reset(c.gate.proxy.bounds.idle)
		c.gate.proxy.sent.Add(int64(n))
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.idle.Reset(c.gate.proxy.bounds.idle)
		c.gate.proxy.received.Add(int64(n))
	}
	return n, err
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.close.Do(func() {
		c.idle.Stop()
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		delete(c.gate.conns, c)
		if c.far != nil {
			_ = c.far.Close()
		}
		c.gate.proxy.conns.Give(string(c.gate.who.Tenant))
	})
	return err
}

// ServeHTTP answers one request.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, ok := target(r)
	if !ok {
		answer(w, http.StatusBadRequest, "invalid: this is the proxy of a workspace: it takes CONNECT HOST:PORT, and http://HOST/… in full")
		return
	}
	if err := g.admit(to); err != nil {
		g.decided(to, err)
		answerFailure(w, r, err)
		return
	}
	if r.Method == http.MethodConnect {
		g.tunnel(w, r, to)
		return
	}
	r.Header.Del("Upgrade") // another protocol has CONNECT
	g.forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetKey{}, to)))
}

// targetKey is where the context of a request has its host.
type targetKey struct{}

// target is the host that a request asks for, in its one spelling.
func target(r *http.Request) (host, bool) {
	if r.Method != http.MethodConnect && r.URL.Scheme != "http" {
		return host{}, false
	}
	name, digits := splitPort(r.URL.Host)
	if digits == "" && r.Method != http.MethodConnect {
		digits = ":80"
	}
	name, err := canonical(name)
	if err != nil || digits == "" {
		return host{}, false
	}
	port, err := parsePort(digits[1:])
	return host{name, port}, err == nil
}

func (g *Gate) admit(to host) error {
	if !g.policy.has(to) {
		return &failure{host: to, refused: true, why: fmt.Sprintf("this command may reach %.300s", g.policy)}
	}
	return nil
}

// connect is dial with its decision.
func (g *Gate) connect(ctx context.Context, to host) (net.Conn, error) {
	c, err := g.proxy.dial(ctx, to)
	if ctx.Err() == nil {
		g.decided(to, err)
	}
	return c, err
}

// dialForward connects for a plain request; where to, its context says.
func (g *Gate) dialForward(ctx context.Context, _, _ string) (net.Conn, error) {
	to, ok := ctx.Value(targetKey{}).(host)
	if !ok {
		return nil, errors.New("a request without a host")
	}
	return g.connect(ctx, to)
}

// rewrite makes of a request what its host gets: nothing of it names another host,
// and what was meant for the proxy has been taken out.
func rewrite(r *httputil.ProxyRequest) {
	to := r.In.Context().Value(targetKey{}).(host)
	at := to.String()
	if to.port == webPorts[0] {
		at = at[:len(at)-len(":80")]
	}
	r.Out.URL = &url.URL{
		Scheme: "http", Host: at, Path: r.In.URL.Path, RawPath: r.In.URL.RawPath,
		RawQuery: r.In.URL.RawQuery, ForceQuery: r.In.URL.ForceQuery,
	}
	r.Out.Host = at
}

// refuseUpgrade is for an answer that nobody asked for.
func refuseUpgrade(r *http.Response) error {
	if r.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("unexpected switch of protocols")
	}
	return nil
}

// tunnel connects the two sides and passes bytes until both have ended.
func (g *Gate) tunnel(w http.ResponseWriter, r *http.Request, to host) {
	far, err := g.connect(r.Context(), to)
	if err != nil {
		answerFailure(w, r, err)
		return
	}
	defer far.Close()
	g.busy.Add(1) // before the server lets go of it
	defer g.busy.Done()
	hijacked, early, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	near := hijacked.(*conn)
	defer near.Close()
	near.endsWith(far)
	if err := near.SetDeadline(time.Time{}); err != nil {
		return
	}
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, err := io.Copy(far, early)
		endWriting(far, err)
	})
	_, err = io.Copy(near, far)
	endWriting(near, err)
	up.Wait()
}

// endWriting passes the end of one direction on; after a failure there is no other.
func endWriting(c net.Conn, err error) {
	half, ok := c.(interface{ CloseWrite() error })
	if err != nil || !ok {
		_ = c.Close()
		return
	}
	_ = half.CloseWrite()
}

// CloseWrite ends our direction.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// answerFailure says why a host was not reached.
func answerFailure(w http.ResponseWriter, _ *http.Request, err error) {
	var f *failure
	switch {
	case errors.As(err, &f) && f.refused:
		answer(w, http.StatusForbidden, f.Error())
	case errors.As(err, &f):
		answer(w, http.StatusBadGateway, f.Error())
	default:
		answer(w, http.StatusBadGateway, "unavailable: the host did not answer as HTTP has it")
	}
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "wsmesh: "+text+"\n")
}
