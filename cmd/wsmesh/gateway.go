package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mcpgw"
	"github.com/wsmesh/wsmesh/mesh"
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
	f.StringVar(&g.creds, "creds", "", "`FILE`; not needed, since requests bring their own tokens")
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
	if err := client.CheckURL(g.nats); err != nil {
		return wrongUse(cmd, "--nats: %s", errorText(err))
	}
	if err := checkOrigins(cmd, g.origins); err != nil {
		return err
	}
	log, err := newLogger(cmd, g.logFormat, g.logLevel)
	if err != nil {
		return err
	}
	secure := g.certFile != ""
	l, err := listenHTTP(cmd, g.http, secure)
	if err != nil {
		return err
	}
	cmd.PrintErrf("wsmesh %s serves MCP at %s/mcp\n", version, httpURL(l, secure))
	server := startGateway(l, g.nats, mcpgw.HTTPConfig{
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

// startGateway serves on l the tenants of the mesh at natsURL.
func startGateway(l net.Listener, natsURL string, cfg mcpgw.HTTPConfig) *gateway {
	if l == nil {
		return nil
	}
	cfg.Pool = client.NewPool(client.PoolConfig{Client: client.Config{URL: natsURL, Name: "wsmesh gateway"}})
	cfg.Reachable = func(ctx context.Context) error { return reach(ctx, natsURL) }
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
