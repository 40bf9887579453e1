// Package nodetest runs a node on real NATS servers for tests: a mesh as its
// users meet it, with a tenant and a client.
//
// Everything is ended by the test's cleanup, and a failure to start ends the
// test. A Mesh belongs to one test; what runs in parallel in it must not start or
// stop nodes.
package nodetest

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node"
)

// Tenant is whose client a Mesh has.
const Tenant = mesh.Tenant("acme")

// NodeName is the name of the node.
const NodeName = mesh.Node("n1")

// Mesh is servers, one node and a client of Tenant.
type Mesh struct {
	*meshtest.Mesh
	Dir    string         // the node's data directory
	Client *client.Client // with a token of all of Tenant

	cfg   node.Config
	admin *nats.Conn
	stop  func() error // drains the node; nil while none runs
}

// Config changes how the node runs; the zero value is fine.
type Config struct {
	Isolation string        // default Isolation()
	Dir       string        // the data directory; default a fresh one
	Net       string        // most network that commands may have
	Capture   string        // how changes of commands are found
	HostDirs  bool          // the operator may make a directory of the host a workspace
	MaxLog    int64         // bytes of output kept of one exec
	MaxLogs   int64         // bytes of exec logs of one tenant
	MaxTail   int64         // bytes of changes that are in no commit
	Idle      time.Duration // how long a workspace that is not used stays open
	Silence   time.Duration // of a node that is dead
	Meanwhile time.Duration // how often what a command changes is captured while it runs
	Sweep     time.Duration // how often closed workspaces are looked at
	MaxOpen   int           // workspaces that are open at a time
	Probe     time.Duration // how often the node tries its disk and its sandbox
	Zone      string

	Mirror node.MirrorConfig
	Labels map[string]string

	CollectAge time.Duration // of what is collected; default an hour

	NetExcept []string      // addresses that are not public and may be reached
	Resolver  *net.Resolver // finds the hosts that may be reached
}

// Each runs a test on one server and on a cluster of three: a single server
// never shows stale reads, lost leaders or late interest.
func Each(t *testing.T, test func(t *testing.T, m *Mesh)) {
	meshtest.Each(t, Config{}.test(test))
}

// Local is Each for what a node, its disk, its sandboxes or a client decide by
// themselves: see meshtest.Local.
func Local(t *testing.T, test func(t *testing.T, m *Mesh)) {
	LocalWith(t, Config{}, test)
}

// LocalWith is Local with a configuration.
func LocalWith(t *testing.T, cfg Config, test func(t *testing.T, m *Mesh)) {
	meshtest.Local(t, cfg.test(test))
}

func (c Config) test(test func(t *testing.T, m *Mesh)) func(t *testing.T, servers *meshtest.Mesh) {
	return func(t *testing.T, servers *meshtest.Mesh) { test(t, Start(t, servers, c)) }
}

// Start starts a node on servers, makes Tenant and connects a client.
func Start(t *testing.T, servers *meshtest.Mesh, cfg Config) *Mesh {
	t.Helper()
	m := &Mesh{Mesh: servers, Dir: cfg.Dir}
	if m.Dir == "" {
		m.Dir = t.TempDir()
	}
	if cfg.Isolation == "" {
		cfg.Isolation = Isolation()
	}
	m.cfg = node.Config{
		Name: NodeName, Data: m.Dir, Isolation: cfg.Isolation, Mirror: cfg.Mirror, MaxNet: cfg.Net, HostDirs: cfg.HostDirs, NetExcept: cfg.NetExcept, Resolver: cfg.Resolver, Grace: 2 * time.Second,
		MaxLog: cfg.MaxLog, MaxLogs: cfg.MaxLogs, MaxTail: cfg.MaxTail, Idle: cfg.Idle, Silence: cfg.Silence, Capture: cfg.Capture,
		Meanwhile: cfg.Meanwhile, Sweep: cfg.Sweep, MaxOpen: cfg.MaxOpen, Probe: cfg.Probe, Zone: cfg.Zone, Labels: cfg.Labels,
		CollectAge: cmp.Or(cfg.CollectAge, time.Hour),
		Storage:    mesh.Storage{Shards: 1, Replicas: m.Replicas()}, Signer: m.Keys.Signer(), Log: slog.New(slog.DiscardHandler),
	}
	m.StartNode(t)
	t.Cleanup(func() { m.StopNode(t) })
	m.CreateTenant(t, Tenant)
	m.Client = m.Connect(t, m.Token(t, Tenant))
	return m
}

// Connect makes a client with a token.
func (m *Mesh) Connect(t *testing.T, token string) *client.Client {
	t.Helper()
	return m.ConnectTo(t, m.URL(), token)
}

// ConnectTo is Connect to the servers at url.
func (m *Mesh) ConnectTo(t *testing.T, url, token string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Config{URL: url, Token: token})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// StartNode runs the node on the mesh's directory and returns when it serves.
func (m *Mesh) StartNode(t *testing.T) {
	t.Helper()
	m.stop = m.run(t, m.cfg)
}

// AddNode runs another node, on a directory of its own and configured like the first
// one but for changes, until the test ends or stop is called.
func (m *Mesh) AddNode(t *testing.T, name mesh.Node, changes ...func(*node.Config)) (stop func()) {
	t.Helper()
	cfg := m.cfg
	cfg.Name, cfg.Data = name, t.TempDir()
	for _, change := range changes {
		change(&cfg)
	}
	run := m.run(t, cfg)
	stop = sync.OnceFunc(func() { require.NoError(t, run()) })
	t.Cleanup(stop)
	return stop
}

func (m *Mesh) run(t *testing.T, cfg node.Config) (stop func() error) {
	t.Helper()
	cfg.Door, cfg.Store = m.Door(t, cfg.Name), m.Store(t, cfg.Name)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n, err := node.New(ctx, cfg)
	require.NoError(t, err)
	run, end := context.WithCancel(context.Background())
	serving, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Run(run, func() { close(serving) }) }()
	select {
	case <-serving:
	case err := <-ended:
		end()
		require.Fail(t, "the node ended", "%v", err)
	}
	return func() error {
		end()
		return <-ended
	}
}

// StopNode drains the node. Idempotent.
func (m *Mesh) StopNode(t *testing.T) {
	t.Helper()
	require.NoError(t, m.EndNode())
}

// EndNode is StopNode of a node that may have something to complain about.
func (m *Mesh) EndNode() error {
	stop := m.stop
	m.stop = nil
	if stop == nil {
		return nil
	}
	return stop()
}

// SetMirror says where the nodes that are started from now on copy the mesh to, and how
// long their end may take.
func (m *Mesh) SetMirror(c node.MirrorConfig, grace time.Duration) {
	m.cfg.Mirror, m.cfg.Grace = c, grace
}

// Ask does a request of the operator.
func (m *Mesh) Ask(t *testing.T, verb string, args, reply any) error {
	t.Helper()
	if m.admin == nil {
		m.admin = m.Admin(t)
	}
	req, err := mesh.NewRequest(mesh.AdminSubject(verb), "", "", args, nil)
	require.NoError(t, err)
	var answer *nats.Msg
	require.Eventually(t, func() bool { // interest takes a moment to reach every server
		answer, err = m.admin.RequestMsg(req, 5*time.Second)
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	_, err = mesh.DecodeReply(answer, reply)
	return err
}

// Move makes a node the host of a workspace of Tenant.
func (m *Mesh) Move(t *testing.T, w mesh.Workspace, to mesh.Node) (err error) {
	t.Helper()
	require.Eventually(t, func() bool {
		var reply mesh.WorkspaceMoveReply
		err = m.Ask(t, mesh.VerbAdminMove, mesh.WorkspaceMoveRequest{Tenant: Tenant, Workspace: w, Node: to}, &reply)
		return err != nil || reply.Done
	}, 30*time.Second, 20*time.Millisecond)
	return err
}

// Opened is how many workspaces a node has open, or was about to have a moment ago.
func (m *Mesh) Opened(t *testing.T, name mesh.Node) int {
	t.Helper()
	var status mesh.StatusReply
	require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
	for _, n := range status.Nodes {
		if n.Node == name {
			return n.Workspaces
		}
	}
	return 0
}

// CreateTenant makes a tenant.
func (m *Mesh) CreateTenant(t *testing.T, name mesh.Tenant) {
	t.Helper()
	require.NoError(t, m.Ask(t, mesh.VerbAdminTenantCreate, mesh.TenantRequest{Tenant: name}, nil))
}

// Isolation is bwrap where it is installed, and auto elsewhere: tests of files
// need none. WSMESH_TEST_ISOLATION names another one.
func Isolation() string {
	if as := os.Getenv("WSMESH_TEST_ISOLATION"); as != "" {
		return as
	}
	if _, err := exec.LookPath("bwrap"); err == nil {
		return "bwrap"
	}
	return "auto"
}

// Commands skips a test that runs commands where there is no isolation.
func Commands(t *testing.T) {
	t.Helper()
	Need(t, Isolation() != "auto", "bwrap", "bubblewrap is missing")
}

// Need skips loudly when ok is false, or fails when WSMESH_REQUIRE names the need.
func Need(t *testing.T, ok bool, need, why string) {
	t.Helper()
	if ok {
		return
	}
	if strings.Contains(","+os.Getenv("WSMESH_REQUIRE")+",", ","+need+",") {
		require.Fail(t, "required here: "+need, why)
	}
	t.Skipf("%s: %s", need, why)
}
