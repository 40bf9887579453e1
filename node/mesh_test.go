package node_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/objstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requireOrSkip skips loudly, or fails when WSMESH_REQUIRE names the need.
func requireOrSkip(t *testing.T, ok bool, need, why string) {
	t.Helper()
	if ok {
		return
	}
	if strings.Contains(","+os.Getenv("WSMESH_REQUIRE")+",", ","+need+",") {
		t.Fatalf("%s is required here: %s", need, why)
	}
	t.Skipf("%s: %s", need, why)
}

// testMesh is a mesh with one node and a client of tenant acme.
type testMesh struct {
	*meshtest.Mesh
	dir    string
	token  string
	client *client.Client
	stop   func()
}

// modes runs a test on one server and on a cluster of three.
func modes(t *testing.T, test func(t *testing.T, m *testMesh)) {
	t.Run("one server", func(t *testing.T) { test(t, start(t, meshtest.Server(t))) })
	t.Run("cluster", func(t *testing.T) { test(t, start(t, meshtest.Cluster(t, 3))) })
}

func start(t *testing.T, servers *meshtest.Mesh) *testMesh {
	m := &testMesh{Mesh: servers, dir: t.TempDir()}
	m.startNode(t)
	t.Cleanup(func() { m.stop() })
	m.tenant(t, "acme")
	m.token = m.Token(t, "acme")
	m.client = m.dial(t, m.token)
	return m
}

func (m *testMesh) dial(t *testing.T, token string) *client.Client {
	c, err := client.Dial(t.Context(), client.Config{URL: m.URL(), Token: token})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// startNode runs a node on the mesh's directory; m.stop drains it.
func (m *testMesh) startNode(t *testing.T) {
	t.Helper()
	door, store := m.Door(t, "n1"), m.Store(t, "n1")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n, err := node.New(ctx, node.Config{
		Name: "n1", Data: m.dir, Door: door, Store: store, Isolation: isolation(), Grace: 2 * time.Second,
		Storage: mesh.Storage{Shards: 1, Replicas: m.Replicas()}, Signer: m.Keys.Signer(), Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	run, stop := context.WithCancel(context.Background())
	serving, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Run(run, func() { close(serving) }) }()
	select {
	case <-serving:
	case err := <-ended:
		t.Fatalf("node ended: %v", err)
	}
	stopped := false
	m.stop = func() {
		if !stopped {
			stopped = true
			stop()
			require.NoError(t, <-ended)
		}
	}
}

// isolation is bwrap where it is installed: tests of files need none.
func isolation() string {
	if as := os.Getenv("WSMESH_TEST_ISOLATION"); as != "" {
		return as
	}
	if _, err := exec.LookPath("bwrap"); err == nil {
		return "bwrap"
	}
	return "auto"
}

// admin does an operator's request.
func (m *testMesh) admin(t *testing.T, verb string, args, reply any) error {
	conn := m.Admin(t)
	req, err := mesh.NewRequest(mesh.AdminSubject(verb), "", "", args, nil)
	require.NoError(t, err)
	var answer *nats.Msg
	require.Eventually(t, func() bool { // interest takes a moment to reach every server
		answer, err = conn.RequestMsg(req, 5*time.Second)
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	_, err = mesh.DecodeReply(answer, reply)
	return err
}

func (m *testMesh) tenant(t *testing.T, name mesh.Tenant) {
	require.NoError(t, m.admin(t, mesh.VerbAdminTenantCreate, mesh.TenantRequest{Tenant: name}, nil))
}

// appendExecRecord adds an exec record to the journal of acme/repo, as its owner
// would have.
func appendExecRecord(t *testing.T, js jetstream.JetStream, id mesh.ExecID) {
	t.Helper()
	subject := mesh.JournalSubject(0, "acme", "repo")
	stream, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	raw, err := stream.GetLastMsgForSubject(t.Context(), subject)
	require.NoError(t, err)
	last, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
	require.NoError(t, err)
	r := objstore.Record{
		Epoch: last.Epoch, Number: last.Number + 1, Prev: last.Sequence, Root: last.Hash, Open: last.Open,
		ID: mesh.NewID(), Time: time.Now(), Ops: []objstore.Op{{Kind: objstore.KindExec, Exec: id}},
	}
	if r.Open == 0 {
		r.Open = last.Sequence
	}
	m, _, err := r.Message(subject)
	require.NoError(t, err)
	_, err = mesh.Publish(t.Context(), js, m, last.Sequence)
	require.NoError(t, err)
}
