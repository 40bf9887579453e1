package auth_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/natsd"
)

func newKeys(t *testing.T) *auth.Keys {
	keys, err := auth.LoadOrCreate(filepath.Join(t.TempDir(), "keys"))
	require.NoError(t, err)
	return keys
}

func startServer(t *testing.T, keys *auth.Keys) *natsd.Server {
	s, err := natsd.Start(natsd.Config{Dir: filepath.Join(t.TempDir(), "nats"), Keys: keys})
	require.NoError(t, err)
	t.Cleanup(s.Kill)
	return s
}

// user is a connection that notes what the server refused it.
type user struct {
	*nats.Conn
	inbox string

	mu      sync.Mutex
	refused []string
}

func connect(t *testing.T, s *natsd.Server, inbox string, opts ...nats.Option) *user {
	u := &user{inbox: inbox}
	opts = append(opts, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.refused = append(u.refused, err.Error())
	}))
	nc, err := nats.Connect(s.URL(), opts...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	u.Conn = nc
	return u
}

func (u *user) wasRefused(op, subject string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, line := range u.refused {
		if strings.Contains(line, "Permissions Violation for "+op+` to "`+subject+`"`) {
			return true
		}
	}
	return false
}

// check does op and requires that the server refuses it, or does not. The
// refusal comes before the answer to the flush, but its callback may lag.
func (u *user) check(t *testing.T, op, subject, queue string, allowed bool) {
	t.Helper()
	switch op {
	case "Publish":
		require.NoError(t, u.Publish(subject, nil))
	default:
		sub, err := u.QueueSubscribeSync(subject, queue)
		require.NoError(t, err)
		defer func() { _ = sub.Unsubscribe() }()
	}
	require.NoError(t, u.FlushTimeout(5*time.Second))
	if !allowed {
		require.Eventually(t, func() bool { return u.wasRefused(op, subject) },
			5*time.Second, time.Millisecond, "%s %s was not refused", op, subject)
		return
	}
	if err := u.LastError(); err != nil {
		require.NotContains(t, err.Error(), op+` to "`+subject+`"`)
	}
}

// users is one connection per role; the tenant is acme.
func users(t *testing.T, s *natsd.Server, signer *auth.Signer) map[string]*user {
	door, err := signer.Door("n1")
	require.NoError(t, err)
	store, err := signer.Store("n1")
	require.NoError(t, err)
	admin, err := signer.Admin()
	require.NoError(t, err)
	streams, err := signer.Streams()
	require.NoError(t, err)
	gateway, err := signer.Gateway()
	require.NoError(t, err)
	token, err := signer.Tenant(auth.TokenSpec{Tenant: "acme", Generation: 1, TTL: time.Hour})
	require.NoError(t, err)
	inbox := mesh.InboxPrefix("acme", string(token.ID))
	return map[string]*user{
		"tenant":  connect(t, s, inbox, mesh.TokenOption(token.JWT), nats.CustomInboxPrefix(inbox)),
		"door":    connect(t, s, door.Inbox, door.Option()),
		"store":   connect(t, s, store.Inbox, store.Option()),
		"admin":   connect(t, s, admin.Inbox, admin.Option()),
		"tools":   connect(t, s, streams.Inbox, streams.Option()),
		"gateway": connect(t, s, gateway.Inbox, gateway.Option()),
	}
}

// permissions lists who may; who is not listed is refused. OWN stands for the
// user's own inbox.
var permissions = []struct{ subject, publish, subscribe string }{
	{"ws.v1.acme.repo.1.exec", "tenant", "door"},
	{"ws.v1.other.repo.1.exec", "", "door"},
	{"ws.v1.acme", "", "door"},
	{"ws.v1.*.repo.1.exec", "", "door"},
	{"ws.v1.>", "", "door"},
	{"api.v1.acme.place.open", "tenant", "door"},
	{"api.v1.acme.log.read.n1", "tenant", "door"},
	{"api.v1.other.place.open", "", "door"},
	{"api.v1.*.*.*", "", "door"},
	{"admin.v1.status", "admin", "door"},
	{"node.v1.n1.open", "store", "store"},
	{"node.v1.>", "", "store"},
	{"out.v1.acme.repo.x", "", "tenant"},
	{"out.v1.acme.>", "", "tenant"},
	{"out.v1.other.repo.x", "", ""},
	{"out.v1.*.repo.x", "", ""},
	{"ev.v1.acme.repo", "", "tenant"},
	{"ev.v1.other.repo", "", ""},
	{"ev.v1.>", "", ""},
	{"int.v1.journal.00.acme.repo", "store tools", ""},
	{"int.v1.out.00.acme.repo.x", "store tools", ""},
	{"int.v1.>", "", ""},
	{"$KV.owners.acme.repo", "store tools", ""},
	{"$KV.>", "", ""},
	{"$JS.API.INFO", "admin tools", ""},
	{"$JS.API.STREAM.PURGE.JOURNAL_00", "store tools", ""},
	{"$JS.API.STREAM.MSG.GET.JOURNAL_00", "store tools", ""},
	{"$JS.API.DIRECT.GET.EXECLOG_00.int.v1.out.00.acme.repo.x", "tools", ""},
	{"$JS.API.DIRECT.GET.JOURNAL_00", "store tools", ""},
	{"$JS.API.DIRECT.GET.PACKS_00.int.v1.pack.00.acme.x.0", "store tools", ""},
	{"$JS.API.DIRECT.GET.KV_owners.$KV.owners.acme.repo", "tools", ""},
	{"$JS.API.CONSUMER.CREATE.EXECLOG_00.c", "store tools", ""},
	{"$JS.ACK.JOURNAL_00.c.1.2.3.4.5", "store tools", ""},
	{"$JS.FC.KV_owners.c.x", "store tools", ""},
	{"$JS.API.STREAM.NAMES", "tools", ""},
	{"$JS.API.STREAM.DELETE.JOURNAL_00", "tools", ""},
	{"$JS.API.STREAM.UPDATE.JOURNAL_00", "tools", ""},
	{"$JS.API.STREAM.RESTORE.JOURNAL_00", "tools", ""},
	{"$JS.API.STREAM.SNAPSHOT.JOURNAL_00", "tools", ""},
	{"$JS.API.STREAM.LEADER.STEPDOWN.JOURNAL_00", "tools", ""},
	{"$JS.API.STREAM.CREATE.BENCH_0", "store admin tools", ""},
	{"$JS.API.STREAM.DELETE.BENCH_3", "admin tools", ""},
	{"$JS.API.STREAM.PURGE.BENCH_0", "store admin tools", ""},
	{"$JS.API.STREAM.INFO.BENCH_0", "store admin tools", ""},
	{"$JS.API.STREAM.MSG.GET.BENCH_0", "store admin tools", ""},
	{"$JS.API.DIRECT.GET.BENCH_0.bench.x", "admin tools", ""},
	{"$JS.API.CONSUMER.CREATE.BENCH_0.c.bench.x", "store admin tools", ""},
	{"$JS.API.CONSUMER.MSG.NEXT.BENCH_0.c", "store admin tools", ""},
	{"$JS.API.CONSUMER.DELETE.BENCH_0.c", "store admin tools", ""},
	{"$JS.ACK.BENCH_0.c.1.2.3.4.5", "store admin tools", ""},
	{"$JS.API.STREAM.CREATE.BENCH_4", "store tools", ""},
	{"bench.echo", "admin", "admin"},
	{"$SRV.PING", "", ""},
	{"$SYS.REQ.USER.INFO", "", ""},
	{"_INBOX.acme.0123456789abcdef.x", "door", ""},
	{"_INBOX.acme.>", "", ""},
	{"_INBOX.other.0123456789abcdef.x", "door", ""},
	{"_INBOX._admin.0123456789abcdef.x", "door", ""},
	{"_INBOX._node.n2-0123456789abcdef.x", "store", ""},
	{"_INBOX._node.>", "", ""},
	{"_INBOX.>", "", ""},
	{"_INBOX.x", "door", ""},
	{"OWN.x", "door admin store tools", "tenant door store admin tools gateway"},
	{"elsewhere", "", ""},
	{">", "", ""},
}

func TestPermissions(t *testing.T) {
	keys := newKeys(t)
	all := users(t, startServer(t, keys), keys.Signer())
	for _, c := range permissions {
		for name, u := range all {
			subject := strings.Replace(c.subject, "OWN", u.inbox, 1)
			if !strings.ContainsAny(subject, "*>") { // nobody publishes to a wildcard
				t.Run(name+" publishes "+c.subject, func(t *testing.T) {
					u.check(t, "Publish", subject, "", contains(c.publish, name))
				})
			}
			t.Run(name+" subscribes "+c.subject, func(t *testing.T) {
				u.check(t, "Subscription", subject, "", contains(c.subscribe, name))
			})
		}
	}
	t.Run("queue groups", func(t *testing.T) {
		for _, subject := range mesh.APIWildcards {
			all["door"].check(t, "Subscription", subject, mesh.APIQueue, true)
			all["tenant"].check(t, "Subscription", subject, mesh.APIQueue, false)
		}
		all["door"].check(t, "Subscription", mesh.AdminWildcard, mesh.AdminQueue, true)
	})
}

func contains(list, name string) bool {
	for item := range strings.FieldsSeq(list) {
		if item == name {
			return true
		}
	}
	return false
}

func TestTenantCannotHearAnothersInbox(t *testing.T) {
	keys := newKeys(t)
	s := startServer(t, keys)
	all := users(t, s, keys.Signer())
	for _, c := range []struct{ name, tenant string }{
		{"another tenant", "other"},
		{"another token of the same tenant", "acme"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: mesh.Tenant(c.tenant)})
			require.NoError(t, err)
			spy := connect(t, s, "", mesh.TokenOption(token.JWT))
			spy.check(t, "Subscription", all["tenant"].inbox+".>", "", false)
			spy.check(t, "Subscription", all["tenant"].inbox+".x", "group", false)
		})
	}
}

func TestRequests(t *testing.T) {
	keys := newKeys(t)
	all := users(t, startServer(t, keys), keys.Signer())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	echo := func(m *nats.Msg) { _ = m.Respond(m.Data) }
	for _, c := range []struct{ name, from, to, subject string }{
		{"tenant asks door", "tenant", "door", "ws.v1.acme.repo.1.stat"},
		{"operator asks door", "admin", "door", "admin.v1.status"},
		{"node asks node", "store", "store", "node.v1.n1.ping"},
		{"operator measures an echo", "admin", "admin", "bench.echo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := all[c.to].Subscribe(c.subject, echo)
			require.NoError(t, err)
			require.NoError(t, all[c.to].Flush())
			m, err := all[c.from].RequestWithContext(ctx, c.subject, []byte("hello"))
			require.NoError(t, err)
			require.Equal(t, "hello", string(m.Data))
		})
	}
	t.Run("no answer into a node's inbox from the door", func(t *testing.T) {
		door := all["door"]
		_, err := door.Subscribe("api.v1.acme.place.open", echo)
		require.NoError(t, err)
		require.NoError(t, door.Flush())
		require.NoError(t, all["tenant"].PublishRequest("api.v1.acme.place.open", all["store"].inbox+".x", nil))
		require.Eventually(t, func() bool { return door.wasRefused("Publish", all["store"].inbox+".x") }, 5*time.Second, time.Millisecond)
	})
}

func TestOperatorHasAStream(t *testing.T) {
	keys := newKeys(t)
	all := users(t, startServer(t, keys), keys.Signer())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	js, err := jetstream.New(all["admin"].Conn)
	require.NoError(t, err)
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: auth.BenchStream(0), Subjects: []string{"bench.0.>"}})
	require.NoError(t, err)
	_, err = js.Publish(ctx, "bench.0.x", []byte("hello"))
	require.NoError(t, err)
	m, err := stream.GetLastMsgForSubject(ctx, "bench.0.x")
	require.NoError(t, err)
	require.Equal(t, "hello", string(m.Data))
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	next, err := consumer.Next()
	require.NoError(t, err)
	require.NoError(t, next.DoubleAck(ctx))
	require.NoError(t, stream.Purge(ctx))
	require.NoError(t, js.DeleteStream(ctx, auth.BenchStream(0)))
}

// Flow control needs a right of its own, without which a watcher stalls.
func TestWatcherOfManyKeys(t *testing.T) {
	keys := newKeys(t)
	all := users(t, startServer(t, keys), keys.Signer())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	js, err := jetstream.New(all["store"].Conn)
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(ctx, js, mesh.Storage{Shards: 1, Replicas: 1}))
	kv, err := js.KeyValue(ctx, mesh.BucketOwners)
	require.NoError(t, err)
	const count = 300
	value := make([]byte, 64<<10)
	for i := range count {
		_, err = js.PublishAsync("$KV.owners.k"+string(rune('a'+i%26))+strings.Repeat("x", i/26), value)
		require.NoError(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		require.NoError(t, ctx.Err())
	}
	w, err := kv.WatchAll(ctx)
	require.NoError(t, err)
	seen := 0
	for e := range w.Updates() {
		if e == nil {
			break
		}
		seen++
	}
	require.Equal(t, count, seen)
	require.NoError(t, w.Stop())
	require.NoError(t, all["store"].LastError(), "nothing was refused")
}

func TestWhoMayConnect(t *testing.T) {
	keys := newKeys(t)
	s := startServer(t, keys)
	other := newKeys(t)
	issue := func(k *auth.Keys, ttl time.Duration) string {
		token, err := k.Signer().Tenant(auth.TokenSpec{Tenant: "acme", Generation: 7, TTL: ttl})
		require.NoError(t, err)
		return token.JWT
	}
	good := issue(keys, 0)
	parts := strings.Split(good, ".")
	tampered := []byte(parts[1])
	tampered[len(tampered)/2] ^= 1
	expired := issue(keys, time.Nanosecond) // rounded up to the next second
	for _, c := range []struct {
		name, token string
		refused     bool
	}{
		{"good", good, false},
		{"expired", expired, true},
		{"truncated", good[:len(good)-4], true},
		{"without signature", parts[0] + "." + parts[1] + ".", true},
		{"claims altered", parts[0] + "." + string(tampered) + "." + parts[2], true},
		{"signature of another token", parts[0] + "." + parts[1] + "." + strings.Split(issue(keys, time.Hour), ".")[2], true},
		{"of another mesh", issue(other, 0), true},
		{"empty", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			require.Eventually(t, func() bool { // until the short token is over
				var nc *nats.Conn
				if nc, err = nats.Connect(s.URL(), mesh.TokenOption(c.token)); err == nil {
					nc.Close()
				}
				return c.refused == (err != nil)
			}, 5*time.Second, 50*time.Millisecond)
			if c.refused && c.token != "" { // a token that is over has another text than the rest
				require.Regexp(t, "Authorization Violation|User Authentication Expired", err)
			}
		})
	}
}

func TestWhoIsRefused(t *testing.T) {
	keys := newKeys(t)
	s := startServer(t, keys)
	t.Run("without any credentials", func(t *testing.T) {
		_, err := nats.Connect(s.URL())
		require.ErrorIs(t, err, nats.ErrAuthorization)
	})
	t.Run("with another user's seed", func(t *testing.T) {
		a, err := keys.Signer().Admin()
		require.NoError(t, err)
		b, err := keys.Signer().Admin()
		require.NoError(t, err)
		a.Seed = b.Seed
		_, err = nats.Connect(s.URL(), a.Option())
		require.ErrorIs(t, err, nats.ErrAuthorization)
	})
}

func TestDisconnectedWhenTheTokenEnds(t *testing.T) {
	keys := newKeys(t)
	s := startServer(t, keys)
	token, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme", TTL: time.Second})
	require.NoError(t, err)
	ended := make(chan error, 10)
	nc, err := nats.Connect(
		s.URL(), mesh.TokenOption(token.JWT), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { ended <- err }),
	)
	require.NoError(t, err)
	defer nc.Close()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, nats.ErrAuthExpired)
	case <-time.After(5 * time.Second):
		require.Fail(t, "still connected after the token ended")
	}
}
