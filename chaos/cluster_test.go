package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/objstore"
)

// cluster is a fleet of three NATS servers and some nodes, a client of it, and a look
// into its streams. It belongs to one test.
type cluster struct {
	*Fleet
	client  *client.Client
	js      jetstream.JetStream // with all rights
	storage mesh.Storage
	shard   int // of the workspace
	rand    *rand.Rand
}

const (
	clusterTenant    = mesh.Tenant("dev")
	clusterWorkspace = mesh.Workspace("main")
)

func startCluster(t *testing.T, rand *rand.Rand, nodes int) *cluster {
	t.Helper()
	f, err := NewFleet(t.Context(), program(t, ""), filepath.Join(t.TempDir(), "mesh"), 3, nodes)
	require.NoError(t, err)
	t.Cleanup(f.Kill)
	require.NoError(t, f.Start(t.Context()))
	c := &cluster{Fleet: f, rand: rand}
	c.client, err = f.Dial(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { c.client.Close() }) //nolint:errcheck // the mesh is going too
	c.look(t)
	return c
}

// look connects as the tools of NATS do and makes the workspace, to see where it lives.
func (c *cluster) look(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(c.Dir, "node.creds"))
	require.NoError(t, err)
	node, err := auth.ParseNodeCreds(raw)
	require.NoError(t, err)
	c.storage = node.Storage
	creds, err := node.Signer.Streams()
	require.NoError(t, err)
	conn, err := nats.Connect(c.urls, append(mesh.ConnOptions(creds.Name, creds.Inbox), creds.Option())...)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	c.js, err = jetstream.New(conn)
	require.NoError(t, err)
	require.NoError(t, c.client.CreateWorkspace(t.Context(), string(clusterWorkspace)))
	_, err = c.workspace().Info(t.Context()) // opens it: the journal has a record
	require.NoError(t, err)
	for c.shard = 0; c.shard < c.storage.Shards; c.shard++ {
		if _, err := c.records().Last(t.Context(), c.journal()); err == nil {
			return
		}
	}
	require.Fail(t, "no stream has the workspace's journal")
}

func (c *cluster) journal() string {
	return mesh.JournalSubject(c.shard, clusterTenant, clusterWorkspace)
}

func (c *cluster) records() mesh.Leader {
	return mesh.AtLeader(c.js.Conn(), mesh.JournalStream(c.shard))
}

func (c *cluster) workspace() *client.Workspace { return c.client.Workspace(string(clusterWorkspace)) }

// owner is the node that has the workspace.
func (c *cluster) owner(t *testing.T) *Process {
	info, err := c.workspace().Info(t.Context())
	require.NoError(t, err)
	return named(c.Nodes, string(info.Node))
}

// leader is the server that leads the journal.
func (c *cluster) leader(t *testing.T) *Process {
	var name string
	require.Eventually(t, func() bool {
		stream, err := c.js.Stream(t.Context(), mesh.JournalStream(c.shard))
		if err == nil {
			name = stream.CachedInfo().Cluster.Leader
		}
		return name != ""
	}, patience, 50*time.Millisecond)
	return named(c.Servers, name)
}

func named(parts []*Process, name string) *Process {
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
	for _, cfg := range mesh.Streams(c.storage) {
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
	stream, subject := c.records(), c.journal()
	for try := 0; ; try++ {
		last, err := stream.Last(t.Context(), subject)
		require.NoError(t, err)
		first, commit := uint64(0), uint64(0)
		for r, e := range objstore.Chain(t.Context(), objstore.AtLeader(stream), subject, objstore.Place{}, last.Sequence) {
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
		if mesh.CodeOf(err) == mesh.CodeUnavailable && try < 20 {
			time.Sleep(500 * time.Millisecond) // the servers elect a leader
			continue
		}
		require.NoError(t, err)
		require.True(t, first == 1 || first <= commit+1, "the journal begins at record %d, and the last commit has those up to %d", first, commit)
		return
	}
}

// faults are what one round breaks: the parts that are killed at one time.
var faults = []struct {
	name   string
	broken func(*cluster, *testing.T) []*Process
}{
	{"the owner", func(c *cluster, t *testing.T) []*Process { return []*Process{c.owner(t)} }},
	{"the journal's leader", func(c *cluster, t *testing.T) []*Process { return []*Process{c.leader(t)} }},
	{"a server", func(c *cluster, _ *testing.T) []*Process { return []*Process{c.Servers[c.rand.IntN(3)]} }},
	{"the owner and the journal's leader", func(c *cluster, t *testing.T) []*Process { return []*Process{c.owner(t), c.leader(t)} }},
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
			c := startCluster(t, all, 2)
			var before []*Workload
			var ended []map[string]string
			for round := begin; round < min(begin+each, most); round++ {
				w := &Workload{Workspace: c.workspace(), Dir: fmt.Sprintf("r%d", round), Seed: all.Uint64(), Writers: 8, Commands: canIsolate()}
				calls := c.crash(t, w, (first+round)%len(faults))
				final := finalOf(t, w)
				verdict(t, c.Log, Judge(calls, final))
				c.chain(t)
				before, ended = append(before, w), append(ended, final)
			}
			for _, n := range c.Nodes {
				n.Kill()
				require.NoError(t, os.RemoveAll(n.Data))
				require.NoError(t, n.Start(t.Context()))
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
			p.Kill()
		}
		if wait {
			goesOn()
			t.Logf("%s went on without %s after %s", w.Dir, fault.name, time.Since(began).Round(time.Millisecond))
		}
		for _, p := range broken {
			if lose && slices.Contains(c.Nodes, p) { // a server's disk is not for two to lose
				require.NoError(t, os.RemoveAll(p.Data))
			}
			require.NoError(t, p.Start(t.Context()))
		}
		goesOn()
		t.Logf("%s: %s is back after %s; its disk is lost: %t", w.Dir, fault.name, time.Since(began).Round(time.Millisecond), lose && slices.Contains(c.Nodes, broken[0]))
	})
}
