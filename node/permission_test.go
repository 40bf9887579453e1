package node_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// caller is one token with a raw connection: no client of ours stands between it
// and the broker.
type caller struct {
	*nats.Conn
	name   string
	claims mesh.TokenClaims
	inbox  string

	mu      sync.Mutex
	refused map[string]bool // what the broker said of it
}

// callers are a token of all of acme, one of acme/repo and one of a path in it.
func callers(t *testing.T, m *nodetest.Mesh) []*caller {
	var all []*caller
	for _, c := range []struct{ name, workspace, scope string }{
		{"tenant", "", ""}, {"workspace", "repo", ""}, {"scope", "repo", "users/u1"},
	} {
		token := m.BoundToken(t, nodetest.Tenant, mesh.Workspace(c.workspace), c.scope)
		claims, err := mesh.ParseToken(token)
		require.NoError(t, err)
		one := &caller{name: c.name, claims: claims, refused: map[string]bool{}}
		one.inbox = mesh.InboxPrefix(string(claims.Tenant), string(claims.ID))
		one.Conn = m.DialToken(t, token, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			one.mu.Lock()
			defer one.mu.Unlock()
			one.refused[err.Error()] = true
		}))
		all = append(all, one)
	}
	return all
}

func (c *caller) wasRefused(op, subject string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for line := range c.refused {
		if strings.Contains(line, "Permissions Violation for "+op+` to "`+subject+`"`) {
			return true
		}
	}
	return false
}

// owner and api are the subjects that this caller's token may ask on.
func (c *caller) owner(epoch mesh.Epoch, verb string) string {
	if b := c.claims.Bound; b != nil {
		return b.OwnerSubject(nodetest.Tenant, epoch, verb)
	}
	return mesh.OwnerSubject(nodetest.Tenant, "repo", epoch, verb)
}

func (c *caller) api(service, verb string) string {
	if b := c.claims.Bound; b != nil {
		return b.APISubject(nodetest.Tenant, service, verb, "")
	}
	return mesh.APISubject(nodetest.Tenant, service, verb)
}

// may says what each kind of token may do with a subject: p publish, s subscribe.
// OWN is the caller's inbox, ID its token, EPOCH that of acme/repo.
type may struct{ family, subject, tenant, workspace, scope string }

const otherToken = "0123456789abcdef"

var subjectTable = []may{
	{"own owner", "ws.v1.acme.repo.EPOCH.stat", "p", "", ""},
	{"own owner, bound to the workspace", "ws.v1.acme.repo.EPOCH.stat.ID.%2E", "p", "p", ""},
	{"own owner, bound to the path", "ws.v1.acme.repo.EPOCH.stat.ID.users%2Fu1", "p", "", "p"},
	{"own owner, bound to a wider path", "ws.v1.acme.repo.EPOCH.stat.ID.users", "p", "", ""},
	{"own owner, bound to a sibling", "ws.v1.acme.repo.EPOCH.stat.ID.users%2Fu2", "p", "", ""},
	{"own owner, bound by another token", "ws.v1.acme.repo.EPOCH.stat." + otherToken + ".users%2Fu1", "p", "", ""},
	{"owner of another workspace", "ws.v1.acme.other.1.stat", "p", "", ""},
	{"owner of another workspace, bound", "ws.v1.acme.other.1.stat.ID.users%2Fu1", "p", "", ""},
	{"owner of another tenant", "ws.v1.other.repo.1.stat", "", "", ""},
	{"owner of another tenant, bound", "ws.v1.other.repo.1.stat.ID.users%2Fu1", "", "", ""},
	{"every owner", "ws.v1.acme.>", "", "", ""},
	{"api", "api.v1.acme.place.open", "p", "", ""},
	{"api of a node", "api.v1.acme.place.open.n1", "p", "", ""},
	{"api, bound to the workspace", "api.v1.acme.place.open._.ID.repo.%2E", "p", "p", ""},
	{"api, bound to the path", "api.v1.acme.place.open._.ID.repo.users%2Fu1", "p", "", "p"},
	{"api of a node, bound to the path", "api.v1.acme.log.read.n1.ID.repo.users%2Fu1", "p", "", "p"},
	{"api, bound to another workspace", "api.v1.acme.place.open._.ID.other.%2E", "p", "", ""},
	{"api of another tenant", "api.v1.other.place.open", "", "", ""},
	{"every api", "api.v1.acme.>", "", "", ""},
	{"frames of the workspace", "out.v1.acme.repo.x", "s", "s", ""},
	{"frames of another workspace", "out.v1.acme.other.x", "s", "", ""},
	{"frames of the tenant", "out.v1.acme.>", "s", "", ""},
	{"frames of another tenant", "out.v1.other.repo.x", "", "", ""},
	{"frames of all tenants", "out.v1.*.repo.x", "", "", ""},
	{"events of the workspace", "ev.v1.acme.repo", "s", "s", ""},
	{"events of another workspace", "ev.v1.acme.other", "s", "", ""},
	{"events of another tenant", "ev.v1.other.repo", "", "", ""},
	{"journal", "int.v1.journal.00.acme.repo", "", "", ""},
	{"exec log", "int.v1.out.00.acme.repo.x", "", "", ""},
	{"purge", "$JS.API.STREAM.PURGE.JOURNAL_00", "", "", ""},
	{"stored message", "$JS.API.STREAM.MSG.GET.JOURNAL_00", "", "", ""},
	{"direct get", "$JS.API.DIRECT.GET.EXECLOG_00.int.v1.out.00.acme.repo.x", "", "", ""},
	{"direct get of records", "$JS.API.DIRECT.GET.JOURNAL_00", "", "", ""},
	{"direct get of content", "$JS.API.DIRECT.GET.PACKS_00.int.v1.pack.00.acme.x.0", "", "", ""},
	{"consumer", "$JS.API.CONSUMER.CREATE.EXECLOG_00.c", "", "", ""},
	{"acknowledgement", "$JS.ACK.EXECLOG_00.c.1.2.3.4.5", "", "", ""},
	{"JetStream's account", "$JS.API.INFO", "", "", ""},
	{"bucket", "$KV.owners.acme.repo", "", "", ""},
	{"node", "node.v1.n1.open", "", "", ""},
	{"operator", "admin.v1.status", "", "", ""},
	{"measurement", "bench.echo", "", "", ""},
	{"services", "$SRV.PING", "", "", ""},
	{"system", "$SYS.REQ.USER.INFO", "", "", ""},
	{"own inbox", "OWN.x", "s", "s", "s"},
	{"another token's inbox", "_INBOX.acme." + otherToken + ".x", "", "", ""},
	{"all inboxes of the tenant", "_INBOX.acme.>", "", "", ""},
	{"another tenant's inbox", "_INBOX.other." + otherToken + ".x", "", "", ""},
	{"a node's inbox", "_INBOX._node.n1-" + otherToken + ".x", "", "", ""},
	{"the operator's inbox", "_INBOX._admin." + otherToken + ".x", "", "", ""},
	{"everything", ">", "", "", ""},
}

func (r may) allowed(kind, op string) bool {
	return strings.Contains(map[string]string{"tenant": r.tenant, "workspace": r.workspace, "scope": r.scope}[kind], op)
}

func (c *caller) fill(subject string, epoch mesh.Epoch) string {
	return strings.NewReplacer("OWN", c.inbox, "ID", string(c.claims.ID), "EPOCH", epoch.String()).Replace(subject)
}

// The broker lets a token publish and subscribe what the table says, and what it
// refuses is stored nowhere.
func TestPermissionTable(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		epoch := openRepo(t, m)
		before := storedMessages(t, m)
		for _, c := range callers(t, m) {
			for _, row := range subjectTable {
				subject := c.fill(row.subject, epoch)
				t.Run(c.name+" publishes to "+row.family, func(t *testing.T) {
					if strings.ContainsAny(subject, "*>") {
						return // nobody publishes to a wildcard; the client library refuses it
					}
					require.NoError(t, c.Publish(subject, []byte("{}")))
					c.require(t, "Publish", subject, row.allowed(c.name, "p"))
				})
				t.Run(c.name+" subscribes "+row.family, func(t *testing.T) {
					sub, err := c.SubscribeSync(subject)
					require.NoError(t, err)
					defer sub.Unsubscribe() //nolint:errcheck // a refused one is gone
					c.require(t, "Subscription", subject, row.allowed(c.name, "s"))
				})
			}
		}
		require.Equal(t, before, storedMessages(t, m), "a stream has changed")
	})
}

// require waits for the broker's word: a refusal comes before the answer to a
// flush, but its callback may lag.
func (c *caller) require(t *testing.T, op, subject string, allowed bool) {
	t.Helper()
	require.NoError(t, c.FlushTimeout(5*time.Second))
	if allowed {
		require.False(t, c.wasRefused(op, subject), "%s to %s was refused", op, subject)
		return
	}
	require.Eventually(t, func() bool { return c.wasRefused(op, subject) }, 5*time.Second, time.Millisecond, "%s to %s was not refused", op, subject)
}

// replies are subjects that a caller may ask to be answered on, and which kinds
// of token are.
var replies = []may{
	{"own inbox", "OWN.x", "r", "r", "r"},
	{"an inbox of the tenant that is another token's", "_INBOX.acme." + otherToken + ".x", "r", "", ""},
	{"an inbox that only begins like the own", "OWNx.y", "r", "", ""},
	{"the own inbox itself", "OWN", "r", "", ""},
	{"own inbox, with an empty token", "OWN..x", "", "", ""},
	{"own inbox, for all to hear", "OWN.>", "", "", ""},
	{"another tenant's inbox", "_INBOX.other." + otherToken + ".x", "", "", ""},
	{"a node's inbox", "_INBOX._node.n1-" + otherToken + ".x", "", "", ""},
	{"the operator's inbox", "_INBOX._admin." + otherToken + ".x", "", "", ""},
	{"an inbox of nobody", "_INBOX.x", "", "", ""},
	{"journal", "int.v1.journal.00.acme.repo", "", "", ""},
	{"exec log", "int.v1.out.00.acme.repo.x", "", "", ""},
	{"purge", "$JS.API.STREAM.PURGE.JOURNAL_00", "", "", ""},
	{"deletion", "$JS.API.STREAM.DELETE.JOURNAL_00", "", "", ""},
	{"bucket", "$KV.owners.acme.repo", "", "", ""},
	{"owner of another tenant", "ws.v1.other.repo.1.write", "", "", ""},
	{"own owner", "ws.v1.acme.repo.EPOCH.write", "", "", ""},
	{"api", "api.v1.other.workspace.rm", "", "", ""},
	{"node", "node.v1.n1.remove", "", "", ""},
	{"operator", "admin.v1.tenant-create", "", "", ""},
	{"frames", "out.v1.acme.repo.x", "", "", ""},
	{"events", "ev.v1.acme.repo", "", "", ""},
	{"measurement", "bench.x", "", "", ""},
	{"system", "$SYS.REQ.USER.INFO", "", "", ""},
}

// The node answers where the table says. Every other request is dropped and
// counted, has no effect, and stores nothing.
func TestReplyTable(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		epoch := openRepo(t, m)
		before := storedMessages(t, m)
		dropped := droppedBy(t, m)
		for _, c := range callers(t, m) {
			for i, request := range []struct{ subject, args string }{
				{c.owner(epoch, mesh.VerbMkdir), `{"path":"stolen"}`},
				{c.owner(epoch, mesh.VerbEdit), `{"path":"a","edits":[{"old":"a","new":"stolen"}]}`},
				{c.api(mesh.ServiceWorkspace, mesh.VerbWorkspaceList), `{}`},
				{c.api(mesh.ServicePlace, mesh.VerbPlaceOpen), `{"workspace":"repo"}`},
				{c.api(mesh.ServiceWorkspace, mesh.VerbWorkspaceCreate), `{"workspace":"stolen"}`},
				{c.owner(epoch, mesh.VerbExec), `{"id":"` + string(mesh.NewExecID()) + `","args":["touch","stolen"]}`},
				{c.owner(epoch, mesh.VerbSignal), `{"id":"` + string(mesh.NewExecID()) + `","signal":"KILL"}`},
				{c.owner(epoch, mesh.VerbResize), `{"id":"` + string(mesh.NewExecID()) + `","rows":1}`},
				{c.owner(epoch, mesh.VerbStdin), `{"id":"` + string(mesh.NewExecID()) + `","eof":true}`},
			} {
				for j, row := range replies {
					if row.allowed(c.name, "r") {
						continue // answered: TestBoundTokens has what
					}
					if i > 1 && j%6 != i-2 && !meshtest.Long() {
						continue // one place decides for all verbs: all rows for one of the owner and one of any node, a few for each of the others
					}
					t.Run(c.name+" "+mesh.Verb(request.subject)+" answered on "+row.family, func(t *testing.T) {
						require.NoError(t, c.PublishMsg(&nats.Msg{Subject: request.subject, Reply: c.fill(row.subject, epoch), Data: []byte(request.args)}))
						require.NoError(t, c.FlushTimeout(5*time.Second))
						require.False(t, c.wasRefused("Publish", request.subject), "the request itself was refused: the row shows nothing")
						require.Eventually(t, func() bool { return droppedBy(t, m) > dropped }, 5*time.Second, 5*time.Millisecond, "not dropped, or not counted")
						dropped++
					})
				}
			}
		}
		require.Equal(t, dropped, droppedBy(t, m), "a request was counted twice")
		require.Equal(t, before, storedMessages(t, m), "a stream has changed")
		_, err := m.Client.Workspace("repo").Lstat(t.Context(), "stolen")
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "a dropped request had an effect")
		_, err = m.Client.Workspace("stolen").Info(t.Context())
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "a dropped request had an effect")
	})
}

// openRepo makes acme/repo and acme/other with a file each and returns the epoch
// of repo. Another tenant has a workspace of the same name.
func openRepo(t *testing.T, m *nodetest.Mesh) mesh.Epoch {
	t.Helper()
	ctx := t.Context()
	m.CreateTenant(t, "other")
	other := m.Connect(t, m.Token(t, "other")).Workspace("repo")
	require.NoError(t, other.WriteFile(ctx, "secret", []byte("theirs"), 0))
	require.NoError(t, m.Client.Workspace("other").WriteFile(ctx, "f", []byte("2"), 0))
	repo := m.Client.Workspace("repo")
	require.NoError(t, repo.WriteFile(ctx, "users/u1/f", []byte("1"), 0))
	require.NoError(t, repo.WriteFile(ctx, "users/u2/f", []byte("2"), 0))
	require.NoError(t, repo.WriteFile(ctx, "users/u11/f", []byte("11"), 0))
	info, err := repo.Info(ctx)
	require.NoError(t, err)
	return info.Epoch
}

// storedMessages is how far every stream has come, but for what a node stores by
// itself: its entry in the registry, checkpoints, and their packs.
func storedMessages(t *testing.T, m *nodetest.Mesh) map[string]uint64 {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	ends := map[string]uint64{}
	streams := js.ListStreams(t.Context())
	for s := range streams.Info() {
		if s.Config.Name != "KV_"+mesh.BucketNodes && s.Config.Name != mesh.PackStream(0) {
			ends[s.Config.Name] = s.State.LastSeq
		}
	}
	require.NoError(t, streams.Err())
	require.Contains(t, ends, mesh.JournalStream(0))
	journal, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	for seq, end := uint64(1), ends[mesh.JournalStream(0)]; seq <= end; seq++ {
		raw, err := journal.GetMsg(t.Context(), seq)
		if err != nil {
			require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
			continue
		}
		r, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
		require.NoError(t, err)
		if r.Has(objstore.KindCheckpoint) {
			ends[mesh.JournalStream(0)]--
		}
	}
	require.Contains(t, ends, "KV_"+mesh.BucketOwners)
	return ends
}

// droppedBy is how many requests the node has dropped.
func droppedBy(t *testing.T, m *nodetest.Mesh) uint64 {
	t.Helper()
	var status mesh.StatusReply
	require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
	require.Len(t, status.Nodes, 1)
	return status.Nodes[0].Requests.Dropped
}
