package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/node/egress/egresstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var acme = Who{Tenant: "acme", Workspace: "w"}

// world is two servers on loopback, of which the operator excepted one, a name
// server, and a proxy.
type world struct {
	proxy  *Proxy
	open   *server // may be reached, as open.test and what else the table says
	secret *server // at an address that may not
	log    *bytes.Buffer
}

type server struct {
	*httptest.Server
	hits atomic.Int64

	mu       sync.Mutex
	requests []*http.Request
}

func (s *server) port() string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

func newServer(t *testing.T, handler http.HandlerFunc) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		handler(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	t.Cleanup(s.Close)
	return s
}

func newWorld(t *testing.T, lookup egresstest.Lookup) *world {
	w := &world{log: &bytes.Buffer{}}
	w.secret = newServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hunter2") })
	w.open = newServer(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			http.Redirect(rw, r, "http://secret.test:"+w.secret.port()+"/", http.StatusFound)
			return
		}
		rw.Header().Set("Keep-Alive", "timeout=9")
		fmt.Fprintf(rw, "%s %s%s", r.Method, r.Host, r.URL)
	})
	except, err := ParseException("127.0.0.1:" + w.open.port())
	require.NoError(t, err)
	dead, err := ParseException("127.0.0.9")
	require.NoError(t, err)
	if lookup == nil {
		lookup = egresstest.Names(map[string]string{"open.test": "127.0.0.1", "secret.test": "127.0.0.1"})
	}
	w.proxy = New(Config{
		Resolver: egresstest.Resolver(t, lookup), Except: []Exception{except, dead}, Log: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	return w
}

// serve runs a gate for a policy until the test ends, and returns its address.
func (w *world) serve(t *testing.T, policy string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gate := w.proxy.Gate(acme, parsed(t, policy))
	var serving sync.WaitGroup
	serving.Go(func() { gate.Serve(l) })
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		serving.Wait()
		require.Empty(t, gate.conns)
	})
	return l.Addr().String()
}

func (w *world) policy() string {
	return fmt.Sprintf("allow:*.test,*.test:%s,*.test:%s", w.open.port(), w.secret.port())
}

func clientOf(t *testing.T, proxy string) *http.Client {
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// say writes raw bytes to the proxy and returns its answer.
func say(t *testing.T, proxy, request string) (status int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", proxy)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK && strings.HasPrefix(request, "CONNECT ") {
		return res.StatusCode, ""
	}
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

func TestPlainHTTP(t *testing.T) {
	w := newWorld(t, nil)
	proxy := w.serve(t, "allow:open.test:"+w.open.port())
	res, err := clientOf(t, proxy).Get("http://OPEN.test.:" + w.open.port() + "/a%2Fb?q=1;2")
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "GET open.test:"+w.open.port()+"/a%2Fb?q=1;2", string(text))
	require.Empty(t, res.Header.Get("Keep-Alive"), "of one hop only")
	require.Contains(t, w.log.String(), "host=open.test:"+w.open.port()+" result=allowed")
	require.NotContains(t, w.log.String(), "q=1")
	stats := w.proxy.Stats()
	require.EqualValues(t, 1, stats.Allowed)
	require.Zero(t, stats.Refused)
	require.Positive(t, stats.Sent)
	require.Greater(t, stats.Received, int64(len(text)))
}

func TestTLS(t *testing.T) {
	w := newWorld(t, nil)
	far := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "over TLS") }))
	defer far.Close()
	at := netip.MustParseAddrPort(far.Listener.Addr().String())
	w.proxy.cfg.Except = append(w.proxy.cfg.Except, Exception{netip.PrefixFrom(at.Addr(), 32), at.Port()})
	c := clientOf(t, w.serve(t, fmt.Sprintf("allow:open.test:%d", at.Port())))
	roots := x509.NewCertPool()
	roots.AddCert(far.Certificate())
	c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "example.com"}
	res, err := c.Get(fmt.Sprintf("https://open.test:%d/", at.Port()))
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "over TLS", string(text))
}

// Each of these tries to reach the secret server, or an address of its kind.
func TestRefused(t *testing.T) {
	inside := map[string]string{
		"loopback.test": "127.0.0.1", "loopback6.test": "::1", "unspecified.test": "0.0.0.0", "private.test": "10.0.0.1",
		"cgnat.test": "100.64.0.1", "metadata.test": "169.254.169.254", "metadata6.test": "fd00:ec2::254", "link.test": "fe80::1",
		"mapped.test": "::ffff:127.0.0.1", "nat64.test": "64:ff9b::7f00:1", "multicast.test": "224.0.0.1", "broadcast.test": "255.255.255.255",
		"several.test": "127.0.0.1 10.0.0.1 ::1", "open.test": "127.0.0.1",
	}
	w := newWorld(t, egresstest.Names(inside))
	secret := w.secret.port()
	proxy := w.serve(t, w.policy()+",10.0.0.1,127.0.0.1:"+secret)
	none := w.serve(t, "none")
	for name := range inside {
		if name == "open.test" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			status, text := say(t, proxy, fmt.Sprintf("CONNECT %s:%s HTTP/1.1\r\n\r\n", name, secret))
			require.Equal(t, http.StatusForbidden, status, text)
			require.Equal(t, fmt.Sprintf("wsmesh: denied: %s:%s: its address is not a public one\n", name, secret), text)
			status, _ = say(t, proxy, fmt.Sprintf("GET http://%s:%s/ HTTP/1.1\r\nHost: open.test\r\n\r\n", name, secret))
			require.Equal(t, http.StatusForbidden, status)
		})
	}
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"an address that the policy names":    {"CONNECT 127.0.0.1:" + secret + " HTTP/1.1\r\n\r\n", 403},
		"an address that it does not name":    {"CONNECT 127.0.0.2:" + secret + " HTTP/1.1\r\n\r\n", 403},
		"an address, mapped":                  {"CONNECT [::ffff:127.0.0.1]:" + secret + " HTTP/1.1\r\n\r\n", 400},
		"an address in short":                 {"CONNECT 127.1:" + secret + " HTTP/1.1\r\n\r\n", 400},
		"an address as a number":              {"GET http://2130706433:" + secret + "/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"an address in hexadecimal":           {"GET http://0x7f000001:" + secret + "/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"a zone":                              {"CONNECT [fe80::1%25lo]:" + secret + " HTTP/1.1\r\n\r\n", 400},
		"another name":                        {"CONNECT secret.example:" + secret + " HTTP/1.1\r\n\r\n", 403},
		"another port":                        {"CONNECT open.test:22 HTTP/1.1\r\n\r\n", 403},
		"no port":                             {"CONNECT open.test HTTP/1.1\r\n\r\n", 400},
		"port 0":                              {"CONNECT open.test:0 HTTP/1.1\r\n\r\n", 400},
		"a path to connect to":                {"CONNECT /x HTTP/1.1\r\nHost: open.test:443\r\n\r\n", 400},
		"a name behind a name":                {"GET http://open.test@loopback.test:" + secret + "/ HTTP/1.1\r\nHost: open.test\r\n\r\n", 403},
		"a path alone":                        {"GET / HTTP/1.1\r\nHost: open.test\r\n\r\n", 400},
		"https in full":                       {"GET https://open.test/ HTTP/1.1\r\nHost: open.test\r\n\r\n", 400},
		"another scheme":                      {"GET ftp://open.test/ HTTP/1.1\r\nHost: open.test\r\n\r\n", 400},
		"no host":                             {"GET http:///x HTTP/1.1\r\nHost: open.test\r\n\r\n", 400},
		"a host with a line end":              {"GET http://open.test%0d%0aX:1/ HTTP/1.1\r\nHost: open.test\r\n\r\n", 400},
		"two hosts":                           {"GET http://open.test/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"an unknown coding":                   {"POST http://open.test/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501},
		"two lengths":                         {"POST http://open.test/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		"a header without its name's end":     {"GET http://open.test/ HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400},
		"a large header":                      {"GET http://open.test/ HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 2*MaxHeaderBytes) + "\r\n\r\n", 431},
		"HTTP/2 at once":                      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		"something else than the own proxy":   {"OPTIONS * HTTP/1.1\r\nHost: open.test\r\n\r\n", 400},
		"what is no name at all":              {"CONNECT -:443 HTTP/1.1\r\n\r\n", 400},
		"a name that does not exist, allowed": {"CONNECT nowhere.test:443 HTTP/1.1\r\n\r\n", 502},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := say(t, proxy, c.request)
			require.Equal(t, c.status, status, text)
		})
	}
	t.Run("no policy", func(t *testing.T) {
		status, text := say(t, none, "CONNECT open.test:443 HTTP/1.1\r\n\r\n")
		require.Equal(t, http.StatusForbidden, status)
		require.Equal(t, "wsmesh: denied: open.test:443: this command may reach none\n", text)
	})
	require.Zero(t, w.secret.hits.Load())
	require.Zero(t, w.open.hits.Load())
	require.Contains(t, w.log.String(), "host=loopback.test:"+secret+" result=refused reason=\"its address is not a public one\"")
	require.Positive(t, w.proxy.Stats().Refused)
}

// A name that is looked up once more leads elsewhere.
func TestRebinding(t *testing.T) {
	var asked atomic.Int64
	w := newWorld(t, func(_ string, v6 bool) []netip.Addr {
		if v6 {
			return nil
		}
		if asked.Add(1) == 1 { // it may be connected to, and nothing listens there
			return []netip.Addr{netip.MustParseAddr("127.0.0.9")}
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	})
	proxy := w.serve(t, w.policy())
	request := "CONNECT rebind.test:" + w.secret.port() + " HTTP/1.1\r\n\r\n"
	status, text := say(t, proxy, request)
	require.Equal(t, http.StatusBadGateway, status, text)
	require.EqualValues(t, 1, asked.Load(), "one lookup")
	status, text = say(t, proxy, request)
	require.Equal(t, http.StatusForbidden, status, text)
}

func TestRedirect(t *testing.T) {
	w := newWorld(t, nil)
	res, err := clientOf(t, w.serve(t, w.policy())).Get("http://open.test:" + w.open.port() + "/redirect")
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	require.Zero(t, w.secret.hits.Load())
}

// What is forwarded names the host that was checked, is one request, and holds
// nothing that was meant for the proxy.
func TestForwarded(t *testing.T) {
	w := newWorld(t, nil)
	proxy, at := w.serve(t, w.policy()), "http://open.test:"+w.open.port()
	for name, request := range map[string]string{
		"another Host":            "GET " + at + "/ HTTP/1.1\r\nHost: secret.test\r\nConnection: close\r\n\r\n",
		"hop by hop":              "GET " + at + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: x\r\nConnection: close, X-Own\r\nX-Own: 1\r\nKeep-Alive: 9\r\n\r\n",
		"an upgrade":              "GET " + at + "/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
		"a length and a coding":   "POST " + at + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET http://secret.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"a request in the length": "POST " + at + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 30\r\n\r\nGET / HTTP/1.1\r\nHost: secret\r\n\r\n",
		"a user":                  "GET http://user:secret@" + strings.TrimPrefix(at, "http://") + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w.open.mu.Lock()
			w.open.requests = nil
			w.open.mu.Unlock()
			status, text := say(t, proxy, request)
			require.Equal(t, http.StatusOK, status, text)
			w.open.mu.Lock()
			defer w.open.mu.Unlock()
			require.Len(t, w.open.requests, 1)
			r := w.open.requests[0]
			require.Equal(t, "open.test:"+w.open.port(), r.Host)
			for _, h := range []string{"Proxy-Authorization", "Proxy-Connection", "X-Own", "Keep-Alive", "Upgrade", "Authorization", "X-Forwarded-For", "Via"} {
				require.Empty(t, r.Header.Get(h), h)
			}
		})
	}
	require.Zero(t, w.secret.hits.Load())
}

// The mesh's own endpoints are reached by no exception.
func TestOwnEndpoints(t *testing.T) {
	w := newWorld(t, nil)
	own := netip.MustParseAddrPort(w.open.Listener.Addr().String())
	w.proxy.cfg.Own = func() []netip.AddrPort { return []netip.AddrPort{own} }
	proxy := w.serve(t, w.policy())
	status, _ := say(t, proxy, "CONNECT open.test:"+w.open.port()+" HTTP/1.1\r\n\r\n")
	require.Equal(t, http.StatusForbidden, status)
	own = netip.AddrPortFrom(netip.MustParseAddr("203.0.114.1"), 4222) // a public address
	require.ErrorIs(t, w.proxy.check(t.Context(), "", "203.0.114.1:8222", nil), errForbidden)
	require.NoError(t, w.proxy.check(t.Context(), "", "203.0.114.2:8222", nil))
}

func TestWatch(t *testing.T) {
	w := newWorld(t, nil)
	proxy := w.serve(t, "allow:open.test:"+w.open.port())
	mine, other := w.proxy.Watch(acme), w.proxy.Watch(Who{Tenant: "other", Workspace: "w"})
	for i := range 2 * maxRefusals {
		for range 2 {
			say(t, proxy, fmt.Sprintf("CONNECT r%02d.test:443 HTTP/1.1\r\n\r\n", i))
		}
	}
	hosts := mine.Stop()
	require.Len(t, hosts, maxRefusals)
	require.Equal(t, "r00.test:443", hosts[0])
	require.Empty(t, other.Stop())
	require.Empty(t, w.proxy.watches)
}

// tunnel opens a tunnel through the proxy to a listener of ours.
func (w *world) tunnel(t *testing.T, proxy string, far net.Listener) (near net.Conn, end net.Conn) {
	t.Helper()
	at := netip.MustParseAddrPort(far.Addr().String())
	near, err := net.Dial("tcp", proxy)
	require.NoError(t, err)
	_, err = fmt.Fprintf(near, "CONNECT open.test:%d HTTP/1.1\r\n\r\nearly", at.Port())
	require.NoError(t, err)
	end, err = far.Accept()
	require.NoError(t, err)
	for _, c := range []net.Conn{near, end} {
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		t.Cleanup(func() { c.Close() })
	}
	expect(t, near, "HTTP/1.1 200 Connection established\r\n\r\n")
	expect(t, end, "early")
	return near, end
}

func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	buf := make([]byte, len(text))
	_, err := io.ReadFull(c, buf)
	require.NoError(t, err)
	require.Equal(t, text, string(buf))
}

func (w *world) listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	at := netip.MustParseAddrPort(l.Addr().String())
	w.proxy.cfg.Except = append(w.proxy.cfg.Except, Exception{netip.PrefixFrom(at.Addr(), 32), at.Port()})
	return l
}

func TestTunnel(t *testing.T) {
	w := newWorld(t, nil)
	far := w.listen(t)
	_, port, err := net.SplitHostPort(far.Addr().String())
	require.NoError(t, err)
	policy := "allow:open.test:" + port
	t.Run("each direction ends by itself", func(t *testing.T) {
		near, end := w.tunnel(t, w.serve(t, policy), far)
		require.NoError(t, near.(*net.TCPConn).CloseWrite())
		rest, err := io.ReadAll(end)
		require.NoError(t, err)
		require.Empty(t, rest)
		_, err = io.WriteString(end, "late")
		require.NoError(t, err)
		expect(t, near, "late")
		require.NoError(t, end.Close())
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
	t.Run("the end of the sandbox ends it", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served := make(chan struct{})
		go func() { defer close(served); w.proxy.Gate(acme, parsed(t, policy)).Serve(l) }()
		near, end := w.tunnel(t, l.Addr().String(), far)
		require.NoError(t, near.(*net.TCPConn).CloseWrite()) // one direction is over already
		require.NoError(t, l.Close())
		<-served
		_, err = io.ReadAll(end)
		require.NoError(t, ignoreReset(err))
		_, err = io.ReadAll(near)
		require.NoError(t, ignoreReset(err))
	})
	t.Run("silence ends it", func(t *testing.T) {
		w := newWorld(t, nil)
		far := w.listen(t)
		_, port, err := net.SplitHostPort(far.Addr().String())
		require.NoError(t, err)
		policy := "allow:open.test:" + port
		w.proxy.bounds.idle = 500 * time.Millisecond
		near, end := w.tunnel(t, w.serve(t, policy), far)
		require.NoError(t, near.(*net.TCPConn).CloseWrite())
		_, err = io.ReadAll(near)
		require.NoError(t, ignoreReset(err))
		_, err = io.ReadAll(end)
		require.NoError(t, ignoreReset(err))
	})
}

func ignoreReset(err error) error {
	if err != nil && strings.Contains(err.Error(), "reset by peer") {
		return nil
	}
	return err
}

// A header that never ends, and more connections than there may be.
func TestBounds(t *testing.T) {
	w := newWorld(t, nil)
	w.proxy.bounds.header, w.proxy.bounds.sandbox = 50*time.Millisecond, 3
	proxy := w.serve(t, w.policy())
	var slow []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", proxy)
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "CONNECT open.test:443 HTTP/1.1\r\nX: ")
		require.NoError(t, err)
		slow = append(slow, c)
	}
	for _, c := range slow {
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		_, err := io.ReadAll(c)
		require.NoError(t, ignoreReset(err), "the proxy goes on waiting")
	}

	w = newWorld(t, nil)
	w.proxy.bounds.sandbox = 3
	proxy = w.serve(t, w.policy())
	for range 3 {
		c, err := net.Dial("tcp", proxy)
		require.NoError(t, err)
		defer c.Close()
	}
	c, err := net.Dial("tcp", proxy) // accepted after the others
	require.NoError(t, err)
	defer c.Close()
	text, err := io.ReadAll(c)
	require.NoError(t, ignoreReset(err))
	require.Contains(t, string(text), "wsmesh: busy: too many connections")
}

// One tenant's connections leave room for those of others.
func TestTenantShare(t *testing.T) {
	w := newWorld(t, nil)
	for range DefaultConns / 4 {
		require.True(t, w.proxy.conns.Take(string(acme.Tenant)))
	}
	defer func() {
		for range DefaultConns / 4 {
			w.proxy.conns.Give(string(acme.Tenant))
		}
	}()
	status, _ := say(t, w.serve(t, w.policy()), "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { w.proxy.Gate(Who{Tenant: "other"}, parsed(t, w.policy())).Serve(l) })
	status, _ = say(t, l.Addr().String(), "GET http://open.test:"+w.open.port()+"/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, l.Close())
	serving.Wait()
}

// Refusals without end do not fill the log.
func TestLogIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	gate := w.proxy.Gate(acme, None)
	for i := range 10 * logsAtOnce {
		gate.decided(host{"a.test", 443}, &failure{host: host{fmt.Sprintf("a%d.test", i), 443}, refused: true})
	}
	require.Less(t, strings.Count(w.log.String(), "\n"), 2*logsAtOnce)
	require.EqualValues(t, 10*logsAtOnce, w.proxy.Stats().Refused)
}
