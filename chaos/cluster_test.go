package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/natsd"
	"github.com/wsmesh/wsmesh/objstore"
)

// threeServers is how a mesh of three NATS servers keeps its streams.
var threeServers = mesh.Storage{Shards: 1, Replicas: 3}

// cluster is a mesh of three NATS servers and two nodes, each a process, and a
// client of it. It belongs to one test.
type cluster struct {
	servers, nodes []*part
	client         *client.Client
	js             jetstream.JetStream // as a node's
	rand           *rand.Rand
}

const (
	clusterTenant    = mesh.Tenant("acme")
	clusterWorkspace = mesh.Workspace("main")
)

func startCluster(t *testing.T, rand *rand.Rand) *cluster {
	t.Helper()
	dir := t.TempDir()
	keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	c := &cluster{rand: rand}
	ports := freePorts(t, 6)
	var urls, routes []string
	for i := range 3 {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
		routes = append(routes, fmt.Sprintf("127.0.0.1:%d", ports[3+i]))
	}
	for i := range 3 {
		name := fmt.Sprintf("nats-%d", i+1)
		c.servers = append(c.servers, &part{
			Name: name, Dir: filepath.Join(dir, name), Keys: filepath.Join(dir, "keys"), Port: ports[i],
			Cluster: natsd.Cluster{Name: "chaos", Port: ports[3+i], Routes: routes},
		})
	}
	for i := range 2 {
		name := fmt.Sprintf("n%d", i+1)
		c.nodes = append(c.nodes, &part{Name: name, Dir: filepath.Join(dir, name), Keys: filepath.Join(dir, "keys"), URL: strings.Join(urls, ",")})
	}
	t.Cleanup(func() {
		for _, p := range append(c.nodes, c.servers...) {
			p.kill()
		}
	})
	for _, kind := range [][]*part{c.servers, c.nodes} {
		var all errgroup.Group // at once: a server that campaigns alone keeps its vote from the others for seconds
		for _, p := range kind {
			all.Go(func() error { return p.start(t.Context()) })
		}
		require.NoError(t, all.Wait())
	}
	c.dial(t, keys.Signer(), strings.Join(urls, ","))
	return c
}

// dial connects as a tenant, which it makes, and as a node.
func (c *cluster) dial(t *testing.T, signer *auth.Signer, url string) {
	creds, err := signer.Store("observer")
	require.NoError(t, err)
	conn, err := connect(url, creds)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	c.js, err = jetstream.New(conn)
	require.NoError(t, err)
	creds, err = signer.Admin()
	require.NoError(t, err)
	admin, err := connect(url, creds)
	require.NoError(t, err)
	defer admin.Close()
	req, err := mesh.NewRequest(mesh.AdminSubject(mesh.VerbAdminTenantCreate), "", "", mesh.TenantRequest{Tenant: clusterTenant}, nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // interest takes a moment to reach every server
		answer, err := admin.RequestMsg(req, 5*time.Second)
		if err == nil {
			_, err = mesh.DecodeReply(answer, nil)
		}
		return err == nil || mesh.CodeOf(err) == mesh.CodeExists
	}, patience, 20*time.Millisecond)
	token, err := signer.Tenant(auth.TokenSpec{Tenant: clusterTenant, Generation: 1})
	require.NoError(t, err)
	c.client, err = client.Dial(t.Context(), client.Config{URL: url, Token: token.JWT, Name: "chaos"})
	require.NoError(t, err)
	t.Cleanup(func() { c.client.Close() }) //nolint:errcheck // the mesh is going too
}

func freePorts(t *testing.T, n int) (ports []int) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close() // all are held until the last is found
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (c *cluster) workspace() *client.Workspace { return c.client.Workspace(string(clusterWorkspace)) }

// owner is the node that has the workspace.
func (c *cluster) owner(t *testing.T) *part {
	info, err := c.workspace().Info(t.Context())
	require.NoError(t, err)
	return named(c.nodes, string(info.Node))
}

// leader is the server that leads the journal.
func (c *cluster) leader(t *testing.T) *part {
	var name string
	require.Eventually(t, func() bool {
		stream, err := c.js.Stream(t.Context(), mesh.JournalStream(0))
		if err == nil {
			name = stream.CachedInfo().Cluster.Leader
		}
		return name != ""
	}, patience, 50*time.Millisecond)
	return named(c.servers, name)
}

func named(parts []*part, name string) *part {
	for _, p := range parts {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// whole waits until every stream has a leader and two replicas that are current:
// what a mesh of three servers survives is the loss of one.
func (c *cluster) whole(t *testing.T) {
	t.Helper()
	var why error
	require.Eventually(t, func() bool {
		why = c.missing(t.Context())
		return why == nil
	}, patience, 50*time.Millisecond, "the mesh does not become whole: %s", why)
}

func (c *cluster) missing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, cfg := range mesh.Streams(threeServers) {
		stream, err := c.js.Stream(ctx, cfg.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", cfg.Name, err)
		}
		current := 0
		for _, r := range stream.CachedInfo().Cluster.Replicas {
			if r.Current && !r.Offline {
				current++
			}
		}
		if current < 2 {
			return fmt.Errorf("%s has %d current replicas beside its leader", cfg.Name, current)
		}
	}
	return nil
}

// chain reads what is there of the journal: each record follows the one before, and
// it begins at the first one or behind a commit.
func (c *cluster) chain(t *testing.T) {
	t.Helper()
	stream, err := c.js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	subject := mesh.JournalSubject(0, clusterTenant, clusterWorkspace)
	for try := 0; ; try++ {
		last, err := stream.GetLastMsgForSubject(t.Context(), subject)
		require.NoError(t, err)
		first, commit := uint64(0), uint64(0)
		for r, e := range objstore.Chain(t.Context(), stream, subject, objstore.Place{}, last.Sequence) {
			if err = e; e != nil {
				break
			}
			if first == 0 {
				first = r.Number
			}
			for _, op := range r.Ops {
				if op.Kind == objstore.KindCheckpoint {
					commit = op.Number
				}
			}
		}
		if errors.Is(err, objstore.ErrGap) && try < 5 {
			continue // a checkpoint takes records away meanwhile
		}
		require.NoError(t, err)
		require.True(t, first == 1 || first <= commit+1, "the journal begins at record %d, and the last commit has those up to %d", first, commit)
		return
	}
}

func (c *cluster) log() string {
	var b strings.Builder
	for _, p := range append(c.nodes, c.servers...) {
		fmt.Fprintf(&b, "== %s\n%s", p.Name, p.log.String())
	}
	return b.String()
}

// faults are what one round breaks: the parts that are killed at one time.
var faults = []struct {
	name   string
	broken func(*cluster, *testing.T) []*part
}{
	{"the owner", func(c *cluster, t *testing.T) []*part { return []*part{c.owner(t)} }},
	{"the journal's leader", func(c *cluster, t *testing.T) []*part { return []*part{c.leader(t)} }},
	{"a server", func(c *cluster, _ *testing.T) []*part { return []*part{c.servers[c.rand.IntN(3)]} }},
	{"the owner and the journal's leader", func(c *cluster, t *testing.T) []*part { return []*part{c.owner(t), c.leader(t)} }},
}

// TestClusterCrash kills nodes and NATS servers of a mesh of three servers and two
// nodes at random instants, while eight clients write. What was acknowledged is
// there, on the node that takes over, and on one that has lost its disk.
func TestClusterCrash(t *testing.T) {
	all := rand.New(rand.NewPCG(seed(t), 0))
	most, first := 2, all.IntN(len(faults)) // a round takes the time of elections
	if os.Getenv("WSMESH_LONG") == "1" {
		most = 200
	}
	const each = 20 // rounds of one mesh: what packs hold is never taken away yet
	for begin := 0; begin < most; begin += each {
		t.Run(fmt.Sprint("from round ", begin), func(t *testing.T) {
			c := startCluster(t, all)
			var before []*Workload
			var ended []map[string]string
			for round := begin; round < min(begin+each, most); round++ {
				w := &Workload{Workspace: c.workspace(), Dir: fmt.Sprintf("r%d", round), Seed: all.Uint64(), Writers: 8, Commands: canIsolate()}
				calls := c.crash(t, w, (first+round)%len(faults))
				final := finalOf(t, w)
				verdict(t, c.log, Judge(calls, final))
				c.chain(t)
				before, ended = append(before, w), append(ended, final)
			}
			for _, n := range c.nodes {
				n.kill()
				require.NoError(t, os.RemoveAll(n.Dir))
				require.NoError(t, n.start(t.Context()))
			}
			for i, w := range before {
				require.Equal(t, ended[i], finalOf(t, w), "%s after the loss of all disks of nodes", w.Dir)
			}
		})
	}
}

// crash lets a workload run, kills some parts in the middle, starts them again, at
// once or when the work has gone on without them, and returns the calls.
func (c *cluster) crash(t *testing.T, w *Workload, which int) []Call {
	c.whole(t)
	fault := faults[which]
	return during(t, w, acknowledged, time.Duration(c.rand.IntN(400))*time.Millisecond, func(goesOn func()) {
		broken := fault.broken(c, t)
		wait, lose := c.rand.IntN(2) == 0, c.rand.IntN(2) == 0
		began := time.Now()
		for _, p := range broken {
			p.kill()
		}
		if wait {
			goesOn()
			t.Logf("%s went on without %s after %s", w.Dir, fault.name, time.Since(began).Round(time.Millisecond))
		}
		for _, p := range broken {
			if lose && p.Port == 0 { // a server's disk is not for two to lose
				require.NoError(t, os.RemoveAll(p.Dir))
			}
			require.NoError(t, p.start(t.Context()))
		}
		goesOn()
		t.Logf("%s: %s is back after %s; its disk is lost: %t", w.Dir, fault.name, time.Since(began).Round(time.Millisecond), lose && broken[0].Port == 0)
	})
}
