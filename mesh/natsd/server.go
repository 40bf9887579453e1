package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

// How a person changes the client port: the flag, as error texts name it.
const portFlag = " with --nats HOST:PORT"

// startTimeout is how long a server that has recovered its streams may take to
// accept connections.
const startTimeout = 10 * time.Second

// Server is a running NATS server. All methods may be called concurrently.
// Whoever started it ends it, with Shutdown or Kill.
type Server struct {
	opts    *server.Options
	account string // of the mesh
	hint    string // how a person chooses another port for clients
	log     *slog.Logger
	srv     *server.Server
	lock    *flock.Flock
	port    int

	stop sync.Once // releases the lock once the server is gone
}

// Start starts a server and returns when it accepts connections, which is
// after all streams in the data directory have been recovered. In a cluster
// JetStream may answer later: see Ready.
//
// The error wraps a *mesh.Error, and nothing is left running:
//
//   - CodeBusy: another server runs on the data directory; the text has its
//     process id when it is known
//   - CodeExists: another program listens on the port
//   - CodeDenied: the data directory cannot be written, or the port not be used
//   - CodeQuota: the disk is full
//   - CodeUnsupported: the host is not loopback
//   - CodeInvalid: the Config is wrong
//   - CodeInternal: anything else
func Start(cfg Config) (*Server, error) {
	cfg.setDefaults()
	s, err := start(cfg)
	if err != nil {
		return nil, fmt.Errorf("start NATS server in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func start(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	o, err := cfg.options()
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeInternal, "accounts: %v", err)
	}
	s := &Server{opts: o, account: cfg.Keys.Mesh().ID, hint: portFlag, log: cfg.Log}
	return s, s.begin()
}

// begin takes the data directory and runs the server. After an error nothing is left
// of it.
func (s *Server) begin() (err error) {
	if s.lock, err = openDir(s.opts.StoreDir); err != nil {
		return err
	}
	if err := s.checkAddrs(); err != nil {
		return errors.Join(err, s.lock.Close())
	}
	return s.launch()
}

// launch runs the server, or leaves neither it nor the lock behind.
func (s *Server) launch() error {
	err := s.run()
	if err != nil {
		s.Kill()
	}
	return err
}

func (s *Server) clustered() bool { return s.opts.Cluster.Port != 0 }

func (s *Server) checkAddrs() error {
	if s.clustered() {
		if err := checkAddr(hostPort(s.opts.Cluster.Host, s.opts.Cluster.Port), ""); err != nil {
			return err
		}
	}
	if s.opts.Port == server.RANDOM_PORT {
		return nil
	}
	return checkAddr(hostPort(s.opts.Host, s.opts.Port), s.hint)
}

// run starts the server and waits for it; after an error launch kills it.
func (s *Server) run() (err error) {
	if s.srv, err = server.NewServer(s.opts); err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "%v", err)
	}
	log := &serverLog{log: s.log}
	s.srv.SetLogger(log, s.log.Enabled(context.Background(), slog.LevelDebug), false)
	s.srv.Start()
	deadline := time.Now().Add(startTimeout)
	for !s.srv.ReadyForConnections(30 * time.Millisecond) {
		if err := log.err(); err != nil {
			return s.explain(err)
		}
		if time.Now().After(deadline) {
			return mesh.Errorf(mesh.CodeInternal, "not ready within %v", startTimeout)
		}
	}
	// The server knows an account only once it is asked for, and JetStream's
	// limits come with it: ask now, so that a wrong key file shows here.
	account, err := s.srv.LookupAccount(s.account)
	if err == nil && !account.JetStreamEnabled() {
		err = errors.New("JetStream is off for the account")
	}
	if err != nil {
		return mesh.Errorf(mesh.CodeInternal, "account %s: %v", s.account, err)
	}
	s.port = s.srv.Addr().(*net.TCPAddr).Port
	return nil
}

// explain turns the line on which the server gave up into a *mesh.Error.
func (s *Server) explain(err error) error {
	var op *net.OpError
	switch {
	case !errors.As(err, &op):
		return hostError("start", err)
	case s.clustered() && s.srv.Addr() != nil: // clients' port is ours, so it is the other
		return listenError(hostPort(s.opts.Cluster.Host, s.opts.Cluster.Port), "", err)
	}
	return listenError(hostPort(s.opts.Host, s.opts.Port), s.hint, err)
}

// Name returns the server's name, as cluster reports give it.
func (s *Server) Name() string { return s.opts.ServerName }

// Addr returns where the server listens for clients, as host:port.
func (s *Server) Addr() string { return hostPort(s.opts.Host, s.port) }

// Port returns the port for clients: the one chosen when Config.Port was 0.
func (s *Server) Port() int { return s.port }

// URL returns the address for clients as a NATS URL.
func (s *Server) URL() string { return "nats://" + s.Addr() }

// InProcess connects without a socket. Permissions are those of the
// credentials in opts, as over TCP, but refused ones show only as a closed pipe
// after DefaultWriteDeadline, since a pipe has no buffer for the reason. The
// caller closes the connection, best before Shutdown: afterwards it tries to
// reconnect until it is closed.
func (s *Server) InProcess(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append([]nats.Option{nats.InProcessServer(s.srv)}, opts...)...)
}

// Ready reports whether JetStream answers here. A server alone is ready when
// Start returns. One of a cluster is when a leader is elected and this server
// has caught up with it; the leader itself, when all servers of the cluster
// have reported to it.
func (s *Server) Ready() bool {
	if !s.clustered() {
		return s.srv.JetStreamEnabled()
	}
	if s.srv.JetStreamIsLeader() {
		return len(s.srv.JetStreamClusterPeers()) >= len(s.opts.Routes)
	}
	return s.srv.JetStreamIsCurrent()
}

// Running reports whether the server has not been ended.
func (s *Server) Running() bool { return s.srv.Running() }

// Shutdown ends the server in order: it hands leadership over, stores what it
// has accepted, tells clients to go elsewhere and gives them DefaultLameDuck
// before it disconnects them. When ctx ends first the rest of this is skipped
// and its error returned. Either way the server is gone and the lock released
// when Shutdown returns, and further calls return nil.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.srv.LameDuckShutdown()
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("shut down NATS server in order: %w", ctx.Err())
	}
	s.Kill()
	<-done
	return err
}

// Kill ends the server at once; clients see a lost connection. It returns when
// the server is gone and the lock released, and is idempotent.
func (s *Server) Kill() {
	s.stop.Do(func() {
		if s.srv != nil {
			s.srv.Shutdown()
			s.srv.WaitForShutdown()
		}
		if err := s.lock.Close(); err != nil {
			s.log.Warn("data directory not unlocked", "err", err)
		}
	})
}
