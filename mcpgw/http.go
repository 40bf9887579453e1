package mcpgw

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultMaxBody is the largest body of a request, and so the largest file
	// that write_file takes: parsing one takes some ten times its size.
	DefaultMaxBody = 4 << 20
	// DefaultMaxCalls is how many requests are worked on at a time; one tenant may
	// have a quarter of them.
	DefaultMaxCalls = 256
	// DefaultBodies is how many bytes of large bodies are worked on at a time; one
	// tenant may have a quarter of them. Who comes with more waits, for
	// DefaultReadTime at most.
	DefaultBodies = 32 << 20
	// DefaultSmallBody is up to where a body is small: as large as nearly all are,
	// and DefaultMaxCalls of them take little.
	DefaultSmallBody = 64 << 10
	// DefaultReadTime is how long a request may take to arrive, DefaultHeaderTime
	// how long its headers alone.
	DefaultReadTime   = 30 * time.Second
	DefaultHeaderTime = 10 * time.Second
	// DefaultMaxHeaders is how large headers may be: a token has up to 4 KiB, an
	// escaped path three times that.
	DefaultMaxHeaders = 32 << 10
	// DefaultIdleTime is how long a connection is kept that asks nothing.
	DefaultIdleTime = 2 * time.Minute
	// DefaultGrace is how long calls may go on when the server ends.
	DefaultGrace = 10 * time.Second
)

// HTTPConfig says what an HTTP gateway works on. Only Pool is required.
type HTTPConfig struct {
	Pool    *client.Pool // of tokens; the caller closes it
	Version string
	Log     *slog.Logger
	// Origins are of the browsers' pages that may call, as "https://app.example.com",
	// besides those on loopback that the server itself could have served. Their
	// hosts are also names that the server may be asked by.
	Origins []string
	// Reachable finds out for /health whether the mesh answers; nil: it is not looked.
	Reachable func(ctx context.Context) error
	Grace     time.Duration // how long Serve lets calls finish; default DefaultGrace
	CertFile  string        // PEM; with KeyFile: TLS
	KeyFile   string
}

// Serve answers on l until ctx ends, and then gives the calls under way the grace.
// It closes l.
func Serve(ctx context.Context, l net.Listener, cfg HTTPConfig) error {
	return newFront(cfg).serve(ctx, l)
}

func (f *front) serve(ctx context.Context, l net.Listener) error {
	cfg := &f.cfg
	s := &http.Server{
		Handler: f, ReadHeaderTimeout: DefaultHeaderTime, IdleTimeout: DefaultIdleTime, MaxHeaderBytes: DefaultMaxHeaders,
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() {
		if cfg.CertFile != "" {
			ended <- s.ServeTLS(l, cfg.CertFile, cfg.KeyFile)
			return
		}
		ended <- s.Serve(l)
	}()
	select {
	case err := <-ended:
		return mesh.Errorf(mesh.CodeUnavailable, "the gateway cannot serve on %s: %s", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(cfg.Grace, DefaultGrace))
	defer cancel()
	err := s.Shutdown(grace)
	if err != nil { // the calls that are left are canceled with their connections
		err = s.Close()
	}
	<-ended
	f.underWay.Lock() // once the last request is over
	defer f.underWay.Unlock()
	return err
}

func newFront(cfg HTTPConfig) *front {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &front{cfg: cfg, slots: mesh.NewSlots(DefaultMaxCalls), bodies: newBudget(DefaultBodies), routes: http.NewServeMux()}
	mcpServer := newServer(cfg.Version, cfg.Log, nil)
	f.mcp = server.NewStreamableHTTPServer(
		mcpServer,
		server.WithStateLess(true),
		server.WithDisableStreaming(true),
		server.WithDisableLocalhostProtection(true), // front knows the hosts that are allowed
		server.WithStreamableHTTPLogger(cfg.Log),
	)
	f.server = mcpServer
	f.routes.HandleFunc("/mcp", f.serveMCP)
	f.routes.HandleFunc("/health", f.serveHealth)
	return f
}

// status is the HTTP status of an error that ends a request before mcp-go sees it.
func status(err error) int {
	var e *refusal
	if errors.As(err, &e) {
		return e.status
	}
	switch mesh.CodeOf(err) {
	case mesh.CodeDenied:
		return http.StatusUnauthorized
	case mesh.CodeBusy:
		return http.StatusTooManyRequests
	case mesh.CodeInvalid:
		return http.StatusBadRequest
	case mesh.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusServiceUnavailable
}

// refusal is an error whose status does not follow from its code.
type refusal struct {
	status int
	err    *mesh.Error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(status int, code mesh.Code, format string, args ...any) error {
	return &refusal{status, mesh.Errorf(code, format, args...)}
}
