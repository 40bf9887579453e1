// Package meshtest starts real NATS servers for tests: one, or a cluster of
// several in this process, with the accounts, permissions and durability of
// production. A single server never shows stale reads, lost leaders or "no
// responders" after a subscribe, so what depends on those is tested on both.
//
// Everything is ended by the test's cleanup, connections before servers. A
// failure to start ends the test.
package meshtest

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/natsd"
)

const (
	// startTimeout bounds the start of a server or a cluster.
	startTimeout = 20 * time.Second

	// firstRound is how long a new cluster may take to elect a leader. When
	// votes split, the next round is 4 to 9 s away: starting over is quicker.
	firstRound = 2 * time.Second
)

// Mesh is one or several running servers with common keys. Stop and Restart
// must not run beside other methods.
type Mesh struct {
	Servers []*natsd.Server // by start order; a stopped one stays in its place
	Keys    *auth.Keys
	KeysDir string // where they are

	dir     string
	configs []natsd.Config // with the port that was chosen, for a restart
}

// Each runs a test on one server and on a cluster of three, beside each other: each
// waits as much as it works. They begin when the function that calls Each returns.
func Each(t *testing.T, test func(t *testing.T, m *Mesh)) {
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		test(t, Server(t))
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		test(t, Cluster(t, 3))
	})
}

// Local is Each for what is decided on this side of the servers, where their
// number makes no difference: it runs on one, and on a cluster in the long run
// only.
func Local(t *testing.T, test func(t *testing.T, m *Mesh)) {
	if Long() {
		Each(t, test)
		return
	}
	t.Run("one server", func(t *testing.T) { test(t, Server(t)) })
}

// Long reports whether tests run in their long form: WSMESH_LONG=1.
func Long() bool { return os.Getenv("WSMESH_LONG") == "1" }

// Server starts one server, on free ports, in a directory of its own.
func Server(t testing.TB) *Mesh {
	t.Helper()
	m := prepare(t, 1)
	s, err := natsd.Start(m.configs[0])
	require.NoError(t, err)
	m.configs[0].Port = s.Port()
	m.Servers = []*natsd.Server{s}
	t.Cleanup(m.kill)
	return m
}

// Cluster starts n servers with routes between them and returns when JetStream
// has a leader, all servers are current with it and streams of n replicas can
// be made. It mostly takes half a second.
func Cluster(t testing.TB, n int) *Mesh {
	t.Helper()
	m := prepare(t, n)
	for begin := time.Now(); ; {
		err := m.startCluster(t)
		late := time.Since(begin) > startTimeout
		if err == nil && (m.becomesReady(firstRound) || late) {
			break
		}
		for _, s := range m.Servers {
			s.Kill()
		}
		if late || err != nil && mesh.CodeOf(err) != mesh.CodeExists {
			require.NoError(t, err)
		}
	}
	t.Cleanup(m.kill)
	m.WaitReady(t)
	return m
}

// kill ends the servers that run by then: a restarted one ends as late as the
// one it replaced, after everything that was started on it.
func (m *Mesh) kill() {
	for _, s := range m.Servers {
		s.Kill()
	}
}

func prepare(t testing.TB, n int) *Mesh {
	t.Helper()
	dir := tempDir(t)
	keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	m := &Mesh{Keys: keys, KeysDir: filepath.Join(dir, "keys"), dir: dir}
	for i := range n {
		name := fmt.Sprintf("nats-%d", i+1)
		m.configs = append(m.configs, natsd.Config{Dir: filepath.Join(dir, name), Keys: keys, Name: name})
	}
	return m
}

// tempDir is a directory in memory where the machine has a place for that: the
// servers of a cluster make some thousand files and sync each of them, and who ends
// with the process does not need a disk.
func tempDir(t testing.TB) string {
	if freeBytes(memoryDir) < memoryFree {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memoryDir, "meshtest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // as good as t.TempDir while servers end
	return dir
}

const (
	memoryDir = "/dev/shm"
	// memoryFree is what must be free there: a container may have 64 MiB.
	memoryFree = 4 << 30
)

// startCluster starts all servers with new data, on new ports, or returns with
// those that started. They start at once: a server campaigns within 0.8 s of
// its own start, and one whose campaign nobody heard keeps its vote from those
// that start later. Route ports must be known before the first server
// starts; they are free when chosen, not reserved, so another program may take
// one meanwhile (CodeExists).
func (m *Mesh) startCluster(t testing.TB) error {
	ports := freePorts(t, len(m.configs))
	var routes []string
	for _, p := range ports {
		routes = append(routes, fmt.Sprintf("%s:%d", natsd.DefaultHost, p))
	}
	name := rand.Text() // a late server of another attempt or test must not join
	servers := make([]*natsd.Server, len(m.configs))
	var group errgroup.Group
	for i := range m.configs {
		c := &m.configs[i]
		c.Dir = filepath.Join(m.dir, name, c.Name)
		c.Cluster = &natsd.Cluster{Name: name, Port: ports[i], Routes: routes}
		c.Port = 0
		group.Go(func() error {
			s, err := natsd.Start(*c)
			if err != nil {
				return err
			}
			c.Port, servers[i] = s.Port(), s
			return nil
		})
	}
	err := group.Wait()
	m.Servers = slices.DeleteFunc(servers, func(s *natsd.Server) bool { return s == nil })
	return err
}

// freePorts returns ports on which nobody listened a moment ago, all different
// because all are held until the last is found.
func freePorts(t testing.TB, n int) []int {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(natsd.DefaultHost, "0"))
		require.NoError(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// WaitReady waits until JetStream has a leader and all running servers are
// current with it.
func (m *Mesh) WaitReady(t testing.TB) {
	t.Helper()
	require.True(t, m.becomesReady(startTimeout), "JetStream got no leader, or a server did not catch up")
}

func (m *Mesh) becomesReady(within time.Duration) bool {
	deadline := time.Now().Add(within)
	for time.Now().Before(deadline) {
		if m.ready() {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return m.ready()
}

func (m *Mesh) ready() bool {
	for _, s := range m.Servers {
		if s.Running() && !s.Ready() {
			return false
		}
	}
	return true
}

// Stop ends server i at once, as a crash would for its clients.
func (m *Mesh) Stop(i int) { m.Servers[i].Kill() }

// Restart starts the stopped server i again, with its port and its data, and
// waits until it is current.
func (m *Mesh) Restart(t testing.TB, i int) {
	t.Helper()
	deadline := time.Now().Add(startTimeout)
	s, err := natsd.Start(m.configs[i])
	// An outgoing connection of anyone may have got the port meanwhile.
	for mesh.CodeOf(err) == mesh.CodeExists && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		s, err = natsd.Start(m.configs[i])
	}
	require.NoError(t, err)
	m.Servers[i] = s
	m.WaitReady(t)
}

// URLs returns the address of every server, running or not.
func (m *Mesh) URLs() []string {
	var urls []string
	for _, s := range m.Servers {
		urls = append(urls, s.URL())
	}
	return urls
}

// URL returns all addresses as one comma-separated list.
func (m *Mesh) URL() string { return strings.Join(m.URLs(), ",") }

// Replicas returns how many replicas production would give a stream here: 3
// on three or more servers, else 1.
func (m *Mesh) Replicas() int {
	if len(m.Servers) >= 3 {
		return 3
	}
	return 1
}

// Token issues a token of a tenant's first generation that does not expire.
func (m *Mesh) Token(t testing.TB, tenant mesh.Tenant) string {
	t.Helper()
	return m.BoundToken(t, tenant, "", "")
}

// BoundToken is Token for a token of one workspace, or of one path of it.
func (m *Mesh) BoundToken(t testing.TB, tenant mesh.Tenant, w mesh.Workspace, scope string) string {
	t.Helper()
	token, err := m.Keys.Signer().Tenant(auth.TokenSpec{Tenant: tenant, Generation: 1, Workspace: w, Scope: scope})
	require.NoError(t, err)
	return token.JWT
}

// Door connects as a node's connection towards tenants.
func (m *Mesh) Door(t testing.TB, node mesh.Node) *nats.Conn {
	t.Helper()
	creds, err := m.Keys.Signer().Door(node)
	require.NoError(t, err)
	return m.Dial(t, creds)
}

// Store connects as a node's connection towards streams and other nodes.
func (m *Mesh) Store(t testing.TB, node mesh.Node) *nats.Conn {
	t.Helper()
	creds, err := m.Keys.Signer().Store(node)
	require.NoError(t, err)
	return m.Dial(t, creds)
}

// Streams connects as the tools of NATS do in the operator's hands: all streams are its.
func (m *Mesh) Streams(t testing.TB) *nats.Conn {
	t.Helper()
	creds, err := m.Keys.Signer().Streams()
	require.NoError(t, err)
	return m.Dial(t, creds)
}

// Admin connects as the operator.
func (m *Mesh) Admin(t testing.TB) *nats.Conn {
	t.Helper()
	creds, err := m.Keys.Signer().Admin()
	require.NoError(t, err)
	return m.Dial(t, creds)
}

// Dial connects with credentials, with the options of production and then opts.
func (m *Mesh) Dial(t testing.TB, creds auth.Creds, opts ...nats.Option) *nats.Conn {
	t.Helper()
	all := append(mesh.ConnOptions(creds.Name, creds.Inbox), creds.Option())
	return m.connect(t, append(all, opts...))
}

// DialToken connects with a tenant's token.
func (m *Mesh) DialToken(t testing.TB, token string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	claims, err := mesh.ParseToken(token)
	require.NoError(t, err)
	inbox := mesh.InboxPrefix(string(claims.Tenant), string(claims.ID))
	all := append(mesh.ConnOptions(string(claims.Tenant), inbox), mesh.TokenOption(token))
	return m.connect(t, append(all, opts...))
}

func (m *Mesh) connect(t testing.TB, opts []nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(m.URL(), opts...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}
