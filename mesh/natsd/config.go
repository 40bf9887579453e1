// Package natsd runs a NATS server inside this process: for one box, for tests
// and for the servers of a mesh. It is the only package that knows nats-server.
//
// A server is in operator mode from its first start (package auth), stores
// streams below its data directory, takes no signals and opens no monitoring port.
// Start listens on loopback only; a server of a mesh of several machines is started
// from its configuration file, which speaks TLS (File, StartFile). One data directory
// belongs to one running server, by a lock that the kernel drops with the process.
package natsd

import (
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

// Values of Config.Sync.
const (
	SyncAlways   = "always"   // an acknowledged message was synced to disk
	SyncInterval = "interval" // power loss may take the last DefaultSyncInterval
)

// What a server does unless told otherwise.
const (
	DefaultHost = "127.0.0.1"
	DefaultName = "wsmesh"

	// DefaultSyncInterval bounds what power loss may take with SyncInterval.
	// The server's own default of two minutes is long for work that was paid
	// for; a sync each ten seconds is not noticeable.
	DefaultSyncInterval = 10 * time.Second

	// DefaultPingInterval finds a frozen peer in 10 to 15 s (two pings missed);
	// the server's own default of two minutes lets a frozen member of a queue
	// group swallow its share of requests for up to six.
	DefaultPingInterval = 5 * time.Second

	// DefaultWriteDeadline and DefaultMaxPendingBytes end a connection that
	// does not read: it holds its share of our memory meanwhile.
	DefaultWriteDeadline   = 5 * time.Second
	DefaultMaxPendingBytes = 64 << 20

	// DefaultLameDuck is how long clients have, after the notice, until they
	// are disconnected. On one box they have nowhere else to go, so it only
	// lets what is in flight finish.
	DefaultLameDuck = 250 * time.Millisecond
)

// Config says what server to start. Dir and Keys are required.
type Config struct {
	Dir     string     // data directory; made with mode 0700 and the server's alone
	Host    string     // "" is DefaultHost; only loopback, since it is plain text
	Port    int        // 0 is any free port
	Sync    string     // "" is SyncAlways
	Keys    *auth.Keys // whom to trust
	Name    string     // "" is DefaultName; unique in a cluster
	Cluster *Cluster   // nil is a server alone
	Log     *slog.Logger
}

// Cluster makes a server one of several. Servers trust each other by a secret
// derived from their common keys.
type Cluster struct {
	Name   string   // the same on all servers
	Port   int      // where this server listens for the others, on Config.Host
	Routes []string // host:port of every server's cluster port, this one's too
}

func (c *Config) setDefaults() {
	if c.Host == "" {
		c.Host = DefaultHost
	}
	if c.Sync == "" {
		c.Sync = SyncAlways
	}
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) check() error {
	switch {
	case c.Dir == "":
		return mesh.Errorf(mesh.CodeInvalid, "no data directory given")
	case c.Keys == nil:
		return mesh.Errorf(mesh.CodeInvalid, "no keys given")
	case c.Sync != SyncAlways && c.Sync != SyncInterval:
		return mesh.Errorf(mesh.CodeInvalid, "sync %q: use %q or %q", c.Sync, SyncAlways, SyncInterval)
	case c.Port < 0 || c.Port > 65535:
		return mesh.Errorf(mesh.CodeInvalid, "port %d is not 0 to 65535", c.Port)
	case !loopback(c.Host):
		return mesh.Errorf(mesh.CodeUnsupported, "listening on %s needs TLS: make a mesh with wsmesh init, or use %s", c.Host, DefaultHost)
	case c.Cluster != nil && (c.Cluster.Name == "" || c.Cluster.Port <= 0 || c.Cluster.Port > 65535 || len(c.Cluster.Routes) == 0):
		return mesh.Errorf(mesh.CodeInvalid, "a cluster needs a name, a port and the routes of its servers")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// options turns c, checked and with defaults, into the server's own.
func (c *Config) options() (*server.Options, error) {
	accounts := &server.MemAccResolver{}
	for _, a := range []auth.Account{c.Keys.System(), c.Keys.Mesh()} {
		if err := accounts.Store(a.ID, a.JWT); err != nil {
			return nil, err
		}
	}
	o := &server.Options{
		ServerName:      c.Name,
		Host:            c.Host,
		Port:            c.Port,
		AccountResolver: accounts,
		SystemAccount:   c.Keys.System().ID,
		JetStream:       true,
		StoreDir:        c.Dir,
		SyncAlways:      c.Sync == SyncAlways,
		SyncInterval:    DefaultSyncInterval,
		MaxPayload:      mesh.MaxPayload,
		MaxPending:      DefaultMaxPendingBytes,
		PingInterval:    DefaultPingInterval,
		MaxPingsOut:     maxPings,
		WriteDeadline:   DefaultWriteDeadline,
	}
	ours(o)
	o.TrustedOperators = append(o.TrustedOperators, c.Keys.Operator())
	if c.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	if c.Cluster != nil {
		c.clusterOptions(o)
	}
	return o, nil
}

// ours sets what is so of every server that this package runs.
func ours(o *server.Options) {
	o.LameDuckDuration, o.LameDuckGracePeriod = 2*DefaultLameDuck, DefaultLameDuck
	o.DisableJetStreamBanner, o.NoSigs, o.NoLog = true, true, true
	if o.SyncAlways { // a file can say but one of the two
		o.SyncInterval = DefaultSyncInterval
	}
}

// maxPings may be unanswered before a peer is gone.
const maxPings = 2

// routeUser is who servers are to each other.
const routeUser = "server"

func (c *Config) clusterOptions(o *server.Options) {
	password := c.Keys.RoutePassword()
	o.Cluster = server.ClusterOpts{
		Name:         c.Cluster.Name,
		Host:         c.Host,
		Port:         c.Cluster.Port,
		Username:     routeUser,
		Password:     password,
		PingInterval: DefaultPingInterval,
		MaxPingsOut:  maxPings,
	}
	for _, r := range c.Cluster.Routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", User: url.UserPassword(routeUser, password), Host: r})
	}
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
