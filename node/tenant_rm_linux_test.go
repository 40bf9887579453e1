package node_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// removal asks for turns of the removal of a tenant until it is done, or asked is false, and
// returns the last reply.
func removal(t *testing.T, m *nodetest.Mesh, tenant mesh.Tenant, asked func() bool) (reply mesh.TenantRemoveReply) {
	t.Helper()
	req := mesh.TenantRemoveRequest{Tenant: tenant, Force: true}
	for asked() {
		require.NoError(t, m.Ask(t, mesh.VerbAdminTenantRemove, req, &reply))
		if reply.Done {
			break
		}
		req.Told, req.Generation = req.Generation != 0, reply.Generation
		reply = mesh.TenantRemoveReply{}
	}
	return reply
}

func always() bool { return true }

func records(t *testing.T, m *nodetest.Mesh) *kv.Store {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	store, err := kv.Open(t.Context(), js)
	require.NoError(t, err)
	return store
}

// remains are the subjects of a tenant that have messages in the mesh's streams, but for
// what has to stay: of each workspace its last journal record, who owned it, and that it
// was removed; and markers of snapshots that were removed.
func remains(t *testing.T, m *nodetest.Mesh, tenant mesh.Tenant) (all []string) {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	for info := range js.ListStreams(t.Context()).Info() {
		stream, err := js.Stream(t.Context(), info.Config.Name)
		require.NoError(t, err)
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		require.NoError(t, err)
		for subject, n := range info.State.Subjects {
			part := strings.Split(subject, ".")
			switch {
			case !strings.Contains(subject, "."+string(tenant)+".") && !strings.HasSuffix(subject, "."+string(tenant)):
				continue
			case part[0] == "$KV" && part[1] == mesh.BucketOwners, strings.HasPrefix(subject, "int.v1.journal.") && n == 1:
				continue
			case part[0] == "$KV":
				m, err := stream.GetLastMsgForSubject(t.Context(), subject)
				require.NoError(t, err)
				if len(m.Data) == 0 || part[1] != mesh.BucketGarbage && strings.Contains(string(m.Data), `"removed":true`) {
					continue
				}
				if part[1] == mesh.BucketGarbage && strings.Contains(string(m.Data), `"id":""`) {
					continue
				}
			}
			all = append(all, fmt.Sprintf("%s: %d", subject, n))
		}
	}
	return all
}

// furnish gives a tenant some of everything.
func furnish(t *testing.T, c *client.Client) {
	t.Helper()
	ctx, ws := t.Context(), c.Workspace("repo")
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("old"), 0))
	require.NoError(t, ws.WriteFile(ctx, "big", noise(5, 2<<20), 0))
	require.NoError(t, ws.Command(ctx, "sh", "-c", "echo old; echo old > made").Run())
	_, err := ws.CreateSnapshot(ctx, "first", "")
	require.NoError(t, err)
	_, err = c.Fork(ctx, "repo", "first", "forked")
	require.NoError(t, err)
	require.NoError(t, c.Workspace("forked").WriteFile(ctx, "f", []byte("other"), 0))
	require.NoError(t, c.CreateWorkspace(ctx, "never-opened"))
	for i := range 5 {
		_, err = c.Memory("main").Put(ctx, fmt.Sprintf("old/%d", i), []byte("old"))
		require.NoError(t, err)
		_, err = c.Memory("other").Put(ctx, fmt.Sprint(i), []byte("old"))
		require.NoError(t, err)
	}
	require.NoError(t, c.Memory("other").Delete(ctx, "0"))
}

// sees is all that a client sees of its tenant.
func sees(t *testing.T, c *client.Client) (all []string) {
	t.Helper()
	ctx := t.Context()
	for w, err := range c.Workspaces(ctx) {
		require.NoError(t, err)
		all = append(all, "workspace "+string(w.Name))
	}
	for _, ns := range []string{"main", "other"} {
		for e, err := range c.Memory(ns).List(ctx, "") {
			require.NoError(t, err)
			all = append(all, "key "+ns+"/"+e.Key)
		}
		changes, err := c.Memory(ns).Changes(ctx, "", fmt.Sprintf("0.%d", time.Now().Unix()))
		require.NoError(t, err)
		for _, e := range changes.Entries {
			all = append(all, "change of "+ns+"/"+e.Key)
		}
	}
	return all
}

// TestTenantIsRemoved: nothing is left of a tenant that was removed, in the mesh, on its
// nodes and in the mirror, and another one of its name sees nothing of it.
func TestTenantIsRemoved(t *testing.T) {
	nodetest.Commands(t)
	meshtest.Local(t, func(t *testing.T, servers *meshtest.Mesh) {
		ctx, remote := t.Context(), directory(t)
		m := nodetest.Start(t, servers, nodetest.Config{Mirror: node.MirrorConfig{Remote: remote, URL: "file:///copy", After: soon, Files: true}})
		second := t.TempDir()
		m.AddNode(t, "n2", func(c *node.Config) { c.Data = second })
		m.CreateTenant(t, "other")
		other := m.Connect(t, m.Token(t, "other"))
		furnish(t, other)
		furnish(t, m.Client)
		require.NoError(t, m.Move(t, "forked", "n2"))
		require.Eventually(t, func() bool { return copied(t, remote, "repo") != nil && copied(t, remote, "forked") != nil }, 30*time.Second, 50*time.Millisecond)
		begun, ended := make(chan struct{}), make(chan error, 1)
		runs := m.Client.Workspace("repo").Command(ctx, "sh", "-c", "echo begun; sleep 1000")
		runs.Stdout = writerFunc(func(p []byte) (int, error) { close(begun); return len(p), nil })
		go func() { ended <- runs.Run() }()
		<-begun
		old, err := records(t, m).Tenants.Get(ctx, nodetest.Tenant)
		require.NoError(t, err)
		record := kv.TokenRecord{ID: mesh.NewTokenID(), User: "U1", Tenant: nodetest.Tenant, Workspace: "repo", Generation: old.Generation, Issued: time.Now()}
		require.NoError(t, records(t, m).Tenants.PutToken(ctx, record))

		req := mesh.TenantRemoveRequest{Tenant: nodetest.Tenant, Generation: old.Generation}
		requireCode(t, mesh.CodeConflict, m.Ask(t, mesh.VerbAdminTenantRemove, req, nil))
		require.NoError(t, m.Client.Workspace("repo").WriteFile(ctx, "f", []byte("still old"), 0))
		req.Generation++
		requireCode(t, mesh.CodeConflict, m.Ask(t, mesh.VerbAdminTenantRemove, req, nil))
		turns := 0
		removal(t, m, nodetest.Tenant, func() bool { turns++; return turns <= 2 })
		requireRefused(t, m, mesh.CodeDenied)
		require.Equal(t, old.Generation, removal(t, m, nodetest.Tenant, always).Generation)
		select {
		case err := <-ended:
			require.Error(t, err)
		case <-time.After(30 * time.Second):
			require.Fail(t, "the command goes on")
		}
		requireRefused(t, m, mesh.CodeNotFound)
		require.NoDirExists(t, filepath.Join(m.Dir, "workspaces", string(nodetest.Tenant)))
		require.NoDirExists(t, filepath.Join(second, "workspaces", string(nodetest.Tenant)))
		require.Empty(t, remains(t, m, nodetest.Tenant))
		require.Equal(t, []string{"tenants/acme/tenant.json"}, objects(t, remote, "tenants/acme/"))
		var revoked mesh.TokenRevokeReply
		require.NoError(t, m.Ask(t, mesh.VerbAdminTokenRevoke, mesh.TokenRevokeRequest{}, &revoked))
		require.Len(t, revoked.Revoked, 1, "the servers are told of it for ever")
		require.Empty(t, revoked.Revoked[0].Workspace)
		var tokens mesh.TokenListReply
		require.NoError(t, m.Ask(t, mesh.VerbAdminTokenList, mesh.TokenListRequest{}, &tokens))
		require.Empty(t, tokens.Tokens)
		requireCode(t, mesh.CodeNotFound, m.Ask(t, mesh.VerbAdminTenantRemove, mesh.TenantRemoveRequest{Tenant: nodetest.Tenant}, nil))

		m.CreateTenant(t, nodetest.Tenant)
		now, err := records(t, m).Tenants.Get(ctx, nodetest.Tenant)
		require.NoError(t, err)
		require.Greater(t, now.Number, old.Number, "the user id of the old one's files")
		require.Greater(t, now.Generation, old.Generation)
		for range 6 { // some of each node
			require.Empty(t, sees(t, m.Connect(t, m.Token(t, nodetest.Tenant))))
		}
		// A request that comes late does nothing to it.
		req = mesh.TenantRemoveRequest{Tenant: nodetest.Tenant, Generation: old.Generation, Force: true, Told: true}
		requireCode(t, mesh.CodeConflict, m.Ask(t, mesh.VerbAdminTenantRemove, req, nil))
		furnish(t, m.Client)
		_, err = m.Client.Workspace("repo").Stat(ctx, "nothing")
		requireCode(t, mesh.CodeNotFound, err)
		require.Len(t, sees(t, m.Client), len(sees(t, other)))
		require.Eventually(t, func() bool { return copied(t, remote, "repo") != nil }, 30*time.Second, 50*time.Millisecond)
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// requireRefused says that nobody does anything for the tenant, whose tokens the servers of
// these tests still let in.
func requireRefused(t *testing.T, m *nodetest.Mesh, code mesh.Code) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for what, do := range map[string]func() error{
		"write":  func() error { return m.Client.Workspace("repo").WriteFile(ctx, "late", nil, 0) },
		"create": func() error { return m.Client.CreateWorkspace(ctx, "late") },
		"remove": func() error { return m.Client.RemoveWorkspace(ctx, "repo") },
		"memory": func() error { _, err := m.Client.Memory("main").Put(ctx, "late", nil); return err },
		"token": func() error {
			return m.Ask(t, mesh.VerbAdminTokenIssue, mesh.TokenIssueRequest{Tenant: nodetest.Tenant}, nil)
		},
		"quota": func() error {
			return m.Ask(t, mesh.VerbAdminTenantQuota, mesh.TenantQuotaRequest{Tenant: nodetest.Tenant}, nil)
		},
	} {
		err := do()
		require.Equal(t, code, mesh.CodeOf(err), "%s: %v", what, err)
	}
}

func objects(t *testing.T, r objstore.Remote, prefix string) (all []string) {
	t.Helper()
	for o, err := range r.List(t.Context(), prefix, "") {
		require.NoError(t, err)
		all = append(all, o.Name)
	}
	return all
}

// TestTenantThatWritesWhileItIsRemoved: whatever a tenant goes on to ask for, and the
// operator for it, nothing of that is there afterwards.
func TestTenantThatWritesWhileItIsRemoved(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		m.AddNode(t, "n2")
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var writing sync.WaitGroup
		defer writing.Wait()
		defer stop()
		var did sync.Map
		go_ := func(what string, do func(c *client.Client, ctx context.Context, i int) error) {
			c := m.Connect(t, m.Token(t, nodetest.Tenant))
			writing.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					call, cancel := context.WithTimeout(ctx, 2*time.Second)
					if do(c, call, i) == nil {
						did.Store(what, true)
					}
					cancel()
				}
			})
		}
		for i := range 2 {
			name := fmt.Sprintf("w%d", i)
			go_(name, func(c *client.Client, ctx context.Context, i int) error {
				return c.Workspace(name).WriteFile(ctx, fmt.Sprint(i%50), noise(byte(i), 100<<10), 0)
			})
		}
		go_("create", func(c *client.Client, ctx context.Context, i int) error {
			return c.CreateWorkspace(ctx, fmt.Sprintf("new-%d", i))
		})
		go_("memory", func(c *client.Client, ctx context.Context, i int) error {
			_, err := c.Memory("main").Put(ctx, fmt.Sprint(i), []byte("old"))
			return err
		})
		go_("commit", func(c *client.Client, ctx context.Context, i int) error {
			_, err := c.Memory("main").Commit(ctx, client.MemoryOp{Key: fmt.Sprintf("a%d", i), Value: []byte("x")}, client.MemoryOp{Key: fmt.Sprintf("b%d", i), Value: []byte("x")})
			return err
		})
		admin := m.Admin(t)
		writing.Go(func() {
			for ctx.Err() == nil {
				req, err := mesh.NewRequest(mesh.AdminSubject(mesh.VerbAdminTokenIssue), "", "", mesh.TokenIssueRequest{Tenant: nodetest.Tenant}, nil)
				if err != nil {
					return
				}
				call, cancel := context.WithTimeout(ctx, 2*time.Second)
				reply, err := admin.RequestMsgWithContext(call, req)
				if err == nil {
					if _, err = mesh.DecodeReply(reply, nil); err == nil {
						did.Store("token", true)
					}
				}
				cancel()
			}
		})
		require.Eventually(t, func() bool {
			n := 0
			did.Range(func(any, any) bool { n++; return true })
			return n == 6
		}, 30*time.Second, 10*time.Millisecond)

		require.True(t, removal(t, m, nodetest.Tenant, always).Done)
		require.Never(t, func() bool { return len(remains(t, m, nodetest.Tenant)) > 0 }, 300*time.Millisecond, 100*time.Millisecond, "it goes on to write")
		stop()
		writing.Wait()
		require.Empty(t, remains(t, m, nodetest.Tenant))
		m.CreateTenant(t, nodetest.Tenant)
		require.Empty(t, sees(t, m.Connect(t, m.Token(t, nodetest.Tenant))))
	})
}

// TestNodeThatWasAway: what a node has of a tenant that was removed while it was down goes
// when it starts, whether there is another one of the name or not.
func TestNodeThatWasAway(t *testing.T) {
	for _, again := range []bool{true, false} {
		if !again && !meshtest.Long() {
			continue
		}
		t.Run(fmt.Sprintf("again %v", again), func(t *testing.T) {
			nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
				ctx := t.Context()
				m.AddNode(t, "n2")
				ws := m.Client.Workspace("repo")
				require.NoError(t, ws.WriteFile(ctx, "f", []byte("old"), 0))
				require.NoError(t, m.Move(t, "repo", nodetest.NodeName))
				m.StopNode(t)
				tree := filepath.Join(m.Dir, "workspaces", string(nodetest.Tenant))
				require.DirExists(t, tree)
				reply := removal(t, m, nodetest.Tenant, always)
				require.Equal(t, []mesh.Node{nodetest.NodeName}, reply.Away)
				if again {
					m.CreateTenant(t, nodetest.Tenant)
					require.NoError(t, m.Client.Workspace("another").WriteFile(ctx, "new", []byte("new"), 0))
				}
				require.DirExists(t, filepath.Join(tree, "repo"))
				m.StartNode(t)
				require.Eventually(t, func() bool {
					_, err := os.Lstat(filepath.Join(tree, "repo"))
					return os.IsNotExist(err)
				}, 20*time.Second, 10*time.Millisecond)
			})
		})
	}
}
