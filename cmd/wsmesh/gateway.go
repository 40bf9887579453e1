package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mcpgw"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

// defaultHTTP is where the gateway of a one box listens.
const defaultHTTP = "127.0.0.1:8080"

type gatewayFlags struct {
	nats, creds, http   string
	certFile, keyFile   string
	origins             []string
	grace               time.Duration
	logFormat, logLevel string
}

func newGateway() *cobra.Command {
	var g gatewayFlags
	cmd := &cobra.Command{
		Use:   "gateway --nats URL,URL --http ADDR",
		Short: "Serve MCP over HTTP for the tenants of a mesh, in the foreground",
		Long: "Serve MCP over HTTP at /mcp, in the foreground. It has no rights of its own: each request works with the\n" +
			"token that it brings (Authorization: Bearer TOKEN), so any number of gateways can run side by side. /health\n" +
			"is 200 while the mesh answers. Ctrl-C and SIGTERM let calls finish within --grace. Each flag can also be\n" +
			"given as WSMESH_<FLAG>.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := flagsFromEnv(cmd, "nats", "creds", "http", "tls-cert", "tls-key", "origin", "grace", "log-format", "log-level")
			if err != nil {
				return err
			}
			return g.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.nats, "nats", "", "`URL` of a NATS server of the mesh, or several with commas between")
	f.StringVar(&g.creds, "creds", "", "`FILE`: the mesh's gateway.creds, with which it watches the mesh; ca.pem is read from beside it")
	f.StringVar(&g.http, "http", defaultHTTP, "`HOST:PORT` to listen on; port 0 takes a free one")
	f.StringVar(&g.certFile, "tls-cert", "", "`FILE` with the certificate; without one only loopback is served")
	f.StringVar(&g.keyFile, "tls-key", "", "`FILE` with its key")
	bindOrigins(cmd, &g.origins)
	f.DurationVar(&g.grace, "grace", defaultGrace, "how long calls may go on when it ends")
	f.StringVar(&g.logFormat, "log-format", "text", "text or json")
	f.StringVar(&g.logLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

func bindOrigins(cmd *cobra.Command, origins *[]string) {
	cmd.Flags().StringSliceVar(origins, "origin", nil, "`URL` of pages whose browsers may call the gateway, and of a name it has (may be repeated)")
}

// checkOrigins checks --origin: what a browser sends as Origin has no path.
func checkOrigins(cmd *cobra.Command, origins []string) error {
	for _, s := range origins {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || s != u.Scheme+"://"+u.Host {
			return wrongUse(cmd, "--origin %q is not the start of a page's URL like https://app.example.com", s)
		}
	}
	return nil
}

func (g *gatewayFlags) run(cmd *cobra.Command) error {
	switch {
	case g.nats == "":
		return wrongUse(cmd, "--nats is missing")
	case (g.certFile == "") != (g.keyFile == ""):
		return wrongUse(cmd, "--tls-cert and --tls-key go together")
	case g.grace < 0:
		return wrongUse(cmd, "--grace %s is negative", g.grace)
	}
	if err := client.CheckSecret(g.nats); err != nil {
		return wrongUse(cmd, "--nats: %s", errorText(err))
	}
	if err := checkOrigins(cmd, g.origins); err != nil {
		return err
	}
	log, err := newLogger(cmd, g.logFormat, g.logLevel)
	if err != nil {
		return err
	}
	watched, err := watchMesh(g.nats, g.creds)
	if err != nil {
		return err
	}
	defer watched.close()
	secure := g.certFile != ""
	l, err := listenHTTP(cmd, g.http, secure)
	if err != nil {
		return err
	}
	cmd.PrintErrf("wsmesh %s serves MCP at %s/mcp\n", version, httpURL(l, secure))
	server := startGateway(l, watched, mcpgw.HTTPConfig{
		Version: version, Log: log, Origins: g.origins, Grace: max(g.grace, time.Millisecond), CertFile: g.certFile, KeyFile: g.keyFile,
	})
	select {
	case <-cmd.Context().Done():
		cmd.PrintErrf("wsmesh: stopping; calls have %s to finish, Ctrl-C stops at once\n", g.grace)
		return server.Close()
	case <-server.ended():
		return server.Close()
	}
}

// listenHTTP opens a port. Tokens do not cross a network in plain text: without TLS
// only loopback is listened on.
func listenHTTP(cmd *cobra.Command, address string, secure bool) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, wrongUse(cmd, "--http %q is not HOST:PORT", address)
	}
	ip := net.ParseIP(host)
	if !secure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "requests with tokens are not taken in plain text on %s; listen on loopback (behind a proxy that speaks TLS), or run wsmesh gateway with --tls-cert and --tls-key", address)
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, mesh.Errorf(mesh.CodeExists, "%s is in use; choose another address with --http", address)
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeUnavailable, "cannot listen on %s: %s; choose another address with --http", address, err)
	}
	return l, nil
}

// httpURL is how to reach a listener; "" for none.
func httpURL(l net.Listener, secure bool) string {
	if l == nil {
		return ""
	}
	u := url.URL{Scheme: "http", Host: l.Addr().String()}
	if secure {
		u.Scheme = "https"
	}
	return u.String()
}

// gateway is an HTTP gateway that runs. The one of no listener does nothing.
type gateway struct {
	pool *client.Pool
	stop context.CancelFunc
	done chan struct{} // closed when it has ended; err is set before
	err  error
}

// startGateway serves on l the tenants of a mesh.
func startGateway(l net.Listener, m *watchedMesh, cfg mcpgw.HTTPConfig) *gateway {
	if l == nil {
		return nil
	}
	cfg.Pool = client.NewPool(client.PoolConfig{Client: client.Config{URL: m.url, CA: m.ca, Name: "wsmesh gateway"}})
	cfg.Reachable = m.reachable
	ctx, stop := context.WithCancel(context.Background())
	g := &gateway{pool: cfg.Pool, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.err = mcpgw.Serve(ctx, l, cfg)
	}()
	return g
}

// ended is closed when the gateway has ended, by Close or by itself.
func (g *gateway) ended() <-chan struct{} {
	if g == nil {
		return nil
	}
	return g.done
}

// Close lets calls finish, returns when nothing runs any more, and says whether
// the gateway failed.
func (g *gateway) Close() error {
	if g == nil {
		return nil
	}
	g.stop()
	<-g.done
	g.pool.Close()
	return g.err
}

// watchedMesh is the mesh of a gateway, and whether it is there.
type watchedMesh struct {
	url  string
	ca   []byte
	conn *nats.Conn // nil without credentials
}

// watchMesh connects with the credentials in a file, if there is one, or goes on trying
// to: the mesh may start later.
func watchMesh(url, file string) (*watchedMesh, error) {
	m := &watchedMesh{url: url}
	if file == "" {
		ca, err := client.CAFromEnv()
		m.ca = ca
		return m, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeOf(err), "--creds: %s", err)
	}
	creds, err := auth.ParseCreds(raw)
	if err != nil {
		return nil, err
	}
	if m.ca, err = client.ReadCA(filepath.Join(filepath.Dir(file), client.CAFile)); err != nil {
		return nil, err
	}
	secure, err := mesh.TLSOption(url, m.ca)
	if err != nil {
		return nil, err
	}
	opts := append(mesh.ConnOptions(creds.Name, creds.Inbox), creds.Option(), secure, nats.RetryOnFailedConnect(true))
	if m.conn, err = nats.Connect(url, opts...); err != nil {
		return nil, mesh.Errorf(mesh.CodeDenied, "--creds: the mesh at %s: %s", url, err)
	}
	return m, nil
}

func (m *watchedMesh) close() {
	if m.conn != nil {
		m.conn.Close()
	}
}

// reachable reports whether a server of the mesh is there.
func (m *watchedMesh) reachable(ctx context.Context) error {
	if m.conn == nil {
		return reach(ctx, m.url)
	}
	if !m.conn.IsConnected() {
		return mesh.Errorf(mesh.CodeUnavailable, "no NATS server at %s", m.url)
	}
	return nil
}

// reach finds out whether one of the servers greets, as NATS servers do before
// anybody has to say who he is.
func reach(ctx context.Context, urls string) error {
	err := error(mesh.Errorf(mesh.CodeInvalid, "no NATS server is named"))
	for s := range strings.SplitSeq(urls, ",") {
		if err = greeted(ctx, strings.TrimSpace(s)); err == nil {
			return nil
		}
	}
	return err
}

// greetTime bounds the look at one server: others may be left to look at.
const greetTime = 500 * time.Millisecond

func greeted(ctx context.Context, server string) error {
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "4222")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		conn.SetDeadline(until) //nolint:errcheck // a read that fails says so
	}
	greeting := make([]byte, len("INFO "))
	if _, err := bufio.NewReader(conn).Read(greeting); err != nil {
		return err
	}
	if string(greeting) != "INFO " {
		return mesh.Errorf(mesh.CodeUnavailable, "%s is no NATS server", u.Host)
	}
	return nil
}
