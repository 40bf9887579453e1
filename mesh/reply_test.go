package mesh_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/mesh/natsd"
)

// openMesh is a server whose signing key the test holds, so that it can make
// connections with rights that no role of the mesh has.
type openMesh struct {
	*meshtest.Mesh
	signer string
}

func startOpenMesh(t *testing.T) *openMesh {
	t.Helper()
	dir := t.TempDir()
	keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(dir, "keys", auth.KeyFile))
	require.NoError(t, err)
	var seeds struct{ Signer string }
	require.NoError(t, json.Unmarshal(raw, &seeds))
	s, err := natsd.Start(natsd.Config{Dir: filepath.Join(dir, "nats"), Keys: keys})
	require.NoError(t, err)
	t.Cleanup(s.Kill)
	return &openMesh{Mesh: &meshtest.Mesh{Servers: []*natsd.Server{s}, Keys: keys}, signer: seeds.Signer}
}

// strong connects with every right there is in the account.
func (m *openMesh) strong(t *testing.T, id string) *nats.Conn {
	t.Helper()
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	account, err := nkeys.FromSeed([]byte(m.signer))
	require.NoError(t, err)
	c := jwt.NewUserClaims(public)
	c.IssuerAccount = m.Keys.Mesh().ID
	c.Pub.Allow.Add(">")
	c.Sub.Allow.Add(">")
	encoded, err := c.Encode(account)
	require.NoError(t, err)
	return m.Dial(t, auth.Creds{Name: "_strong/" + id, Inbox: mesh.InboxPrefix("_strong", id), JWT: encoded, Seed: string(seed)})
}

// echo answers with the principal, so that an answer is told from a request.
func echo(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
	return &mesh.Reply{Args: map[string]string{"answer for": req.Principal}}, nil
}

type attack struct{ name, subject, reply string }

func attacks() []attack {
	owner := mesh.OwnerSubject("acme", "repo", 1, mesh.VerbStat)
	api := mesh.APISubject("acme", mesh.ServicePlace, mesh.VerbPlaceOpen)
	var all []attack
	for _, reply := range []struct{ name, subject string }{
		{"a frame of another tenant", mesh.ExecLogSubject(0, "other", "repo", exec1)},
		{"a frame of its own", mesh.ExecLogSubject(0, "acme", "repo", exec1)},
		{"a record of another tenant", mesh.JournalSubject(0, "other", "repo")},
		{"a record of its own", mesh.JournalSubject(0, "acme", "repo")},
		{"purge of a journal", "$JS.API.STREAM.PURGE." + mesh.JournalStream(0)},
		{"delete of a journal", "$JS.API.STREAM.DELETE." + mesh.JournalStream(0)},
		{"an ownership record", "$KV.owners.x"},
		{"a republished frame", mesh.OutSubject("other", "repo", exec1)},
		{"an event", mesh.EventSubject("other", "repo")},
		{"a request of another tenant", mesh.OwnerSubject("other", "repo", 1, mesh.VerbRemove)},
		{"a request of its own", owner},
		{"a request between nodes", mesh.NodeSubject("n1", mesh.VerbNodeRemove)},
		{"a request of the operator", mesh.AdminSubject(mesh.VerbAdminTokenIssue)},
		{"another tenant's inbox", "_INBOX.other.x"},
		{"inbox with a longer tenant", "_INBOX.acmex.y"},
		{"inbox with a longer tenant and hyphen", "_INBOX.acme-x.y"},
		{"inbox with a shorter tenant", "_INBOX.acm.y"},
		{"its inbox without more", "_INBOX.acme"},
		{"its inbox, then nothing", "_INBOX.acme."},
		{"the inbox of nodes", "_INBOX._node.x"},
		{"the operator's inbox", "_INBOX._admin.x"},
		{"the door's inbox", "_INBOX._door.x"},
		{"an inbox of nobody", "_INBOX.x"},
		{"an inbox without a principal", "_INBOX..acme"},
		{"lower case inbox", "_inbox.acme.x"},
		{"inbox below another word", "x._INBOX.acme.x"},
		{"no reply", ""},
	} {
		all = append(all, attack{"owner: " + reply.name, owner, reply.subject}, attack{"api: " + reply.name, api, reply.subject})
	}
	return all
}

// subscribeAll answers every family of subjects.
func subscribeAll(t *testing.T, r *mesh.Responder, answer mesh.Answer) {
	t.Helper()
	subjects := map[string]string{"ws.v1.*.*.*.>": "", mesh.AdminWildcard: mesh.AdminQueue, mesh.NodeSubject("*", "*"): ""}
	for _, subject := range mesh.APIWildcards {
		subjects[subject] = mesh.APIQueue
	}
	for subject, queue := range subjects {
		_, err := r.Subscribe(t.Context(), subject, queue, answer)
		require.NoError(t, err)
	}
}

// TestReplyCheck is the attack on reply subjects. The responder's connection may
// publish anywhere: nothing but the check stands between a tenant and the
// streams, so what the check lets through shows here as a published message.
func TestReplyCheck(t *testing.T) {
	m := startOpenMesh(t)
	strong := m.strong(t, "responder")
	js, err := jetstream.New(strong)
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	for _, subject := range []string{mesh.JournalSubject(0, "other", "repo"), mesh.ExecLogSubject(0, "other", "repo", exec1), "$KV.owners.x"} {
		_, err := js.Publish(t.Context(), subject, []byte("kept"))
		require.NoError(t, err)
	}
	before := streamStates(t, js)
	responder := mesh.NewResponder(strong, "n1", nil)
	subscribeAll(t, responder, echo)
	tenant := m.DialToken(t, m.Token(t, "acme"))
	spy := m.strong(t, "spy")
	seen, err := spy.SubscribeSync(">")
	require.NoError(t, err)
	require.NoError(t, spy.Flush())

	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			dropped := responder.Stats().Dropped
			require.NoError(t, tenant.PublishMsg(&nats.Msg{Subject: a.subject, Reply: a.reply, Data: []byte("{}")}))
			good, err := tenant.Request(a.subject, []byte("{}"), requestTime)
			require.NoError(t, err, "a good request is answered")
			require.JSONEq(t, `{"answer for":"acme"}`, string(good.Data))
			require.Equal(t, dropped+1, responder.Stats().Dropped)
			require.NoError(t, strong.Flush())
			require.NoError(t, spy.Flush())
			require.Equal(t, []string{a.subject, a.subject, good.Subject}, drainSubjects(t, seen),
				"nothing is published but the two requests and the good one's answer")
		})
	}
	require.Equal(t, before, streamStates(t, js), "no stream has changed")
	require.Zero(t, responder.Stats().Busy)
}

// TestReplyCheckOfPrincipals: nodes and the operator are held to their inboxes
// too, and a subject that names nobody is never answered.
func TestReplyCheckOfPrincipals(t *testing.T) {
	m := startOpenMesh(t)
	responder := mesh.NewResponder(m.strong(t, "responder"), "n1", nil)
	subscribeAll(t, responder, echo)
	asker := m.strong(t, "asker")
	replies, err := asker.SubscribeSync("_INBOX.>")
	require.NoError(t, err)
	for _, c := range []struct {
		name, subject, reply string
		answered             bool
	}{
		{"node", mesh.NodeSubject("n1", mesh.VerbNodePing), "_INBOX._node.n2.x", true},
		{"node into a tenant's inbox", mesh.NodeSubject("n1", mesh.VerbNodePing), "_INBOX.acme.x", false},
		{"node into the operator's inbox", mesh.NodeSubject("n1", mesh.VerbNodePing), "_INBOX._admin.x", false},
		{"operator", mesh.AdminSubject(mesh.VerbAdminStatus), "_INBOX._admin.x", true},
		{"operator into the inbox of nodes", mesh.AdminSubject(mesh.VerbAdminStatus), "_INBOX._node.x", false},
		{"tenant", mesh.OwnerSubject("acme", "repo", 1, mesh.VerbStat), "_INBOX.acme.x", true},
		{"tenant that is none", "ws.v1.Acme.repo.1.stat", "_INBOX.Acme.x", false},
		{"tenant called as nodes are", "ws.v1._node.repo.1.stat", "_INBOX._node.x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dropped := responder.Stats().Dropped
			require.NoError(t, asker.PublishRequest(c.subject, c.reply, nil))
			barrier := "_INBOX.acme.barrier" // on the same subject's subscription, hence behind it
			family, _, _ := strings.Cut(c.subject, ".")
			after := map[string][2]string{
				"ws":    {mesh.OwnerSubject("acme", "repo", 1, mesh.VerbInfo), barrier},
				"node":  {mesh.NodeSubject("n1", mesh.VerbNodePing), "_INBOX._node.barrier"},
				"admin": {mesh.AdminSubject(mesh.VerbAdminStatus), "_INBOX._admin.barrier"},
			}[family]
			require.NoError(t, asker.PublishRequest(after[0], after[1], nil))
			got := map[string]bool{}
			for want := 1; len(got) < want || !got[after[1]]; {
				if c.answered {
					want = 2
				}
				reply, err := replies.NextMsg(requestTime)
				require.NoError(t, err)
				got[reply.Subject] = true
			}
			require.Equal(t, c.answered, got[c.reply])
			if !c.answered {
				dropped++
			}
			require.Equal(t, dropped, responder.Stats().Dropped)
		})
	}
}

func streamStates(t *testing.T, js jetstream.JetStream) map[string]jetstream.StreamState {
	t.Helper()
	all := map[string]jetstream.StreamState{}
	for info := range js.ListStreams(t.Context()).Info() {
		all[info.Config.Name] = info.State
	}
	require.Len(t, all, len(mesh.Streams(mesh.Storage{Shards: 1})))
	return all
}

// drainSubjects returns the subjects of what a subscription has received.
func drainSubjects(t *testing.T, sub *nats.Subscription) []string {
	t.Helper()
	var all []string
	for {
		pending, _, err := sub.Pending()
		require.NoError(t, err)
		if pending == 0 {
			return all
		}
		msg, err := sub.NextMsg(time.Second)
		require.NoError(t, err)
		all = append(all, msg.Subject)
	}
}
