package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// TestManyTokens: there may be more than a message has room for, and still each one can be
// seen and revoked. What has just expired by the node's clock is told too: it may be good
// yet by a server's.
func TestManyTokens(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	store, err := kv.Open(t.Context(), js)
	require.NoError(t, err)
	const many = 400
	want := map[mesh.TokenID]bool{}
	now := time.Now().UTC().Truncate(time.Second)
	for i := range many {
		r := kv.TokenRecord{ID: mesh.NewTokenID(), User: "U", Tenant: nodetest.Tenant, Workspace: "repo", Scope: mesh.Path(strings.Repeat("s", 390)), Issued: now, Revoked: now}
		switch i {
		case 0:
			r.Expires = now.Add(-2 * time.Hour)
		case 1:
			r.Expires = now.Add(-time.Minute)
		}
		want[r.ID] = i > 0
		require.NoError(t, store.Tenants.PutToken(t.Context(), r))
	}

	revoked, pages := map[mesh.TokenID]bool{}, 0
	for req, more := (mesh.TokenRevokeRequest{}), true; more; pages++ {
		var reply mesh.TokenRevokeReply
		require.NoError(t, m.Ask(t, mesh.VerbAdminTokenRevoke, req, &reply))
		for _, e := range reply.Revoked {
			require.False(t, revoked[e.ID], "twice")
			revoked[e.ID] = true
			req.After = e.ID
		}
		more = reply.More
	}
	require.Greater(t, pages, 1)
	listed := map[mesh.TokenID]bool{}
	for req, more := (mesh.TokenListRequest{}), true; more; {
		var reply mesh.TokenListReply
		require.NoError(t, m.Ask(t, mesh.VerbAdminTokenList, req, &reply))
		for _, e := range reply.Tokens {
			require.False(t, listed[e.ID], "twice")
			listed[e.ID] = true
			req.After = e.ID
		}
		more = reply.More
	}
	for id, told := range want {
		require.True(t, listed[id])
		require.Equal(t, told, revoked[id])
	}
	requireCode(t, mesh.CodeConflict, m.Ask(t, mesh.VerbAdminTokenList, mesh.TokenListRequest{After: "none"}, nil))
}

// TestManyTenants: there may be more than a message has room for.
func TestManyTenants(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	const many = 2100
	for i := range many {
		name := fmt.Sprintf("%s-%05d", strings.Repeat("t", 34), i)
		_, err := js.PublishAsync("$KV.tenants."+name, fmt.Appendf(nil, `{"name":%q,"number":%d,"generation":%d,"created":"2025-01-02T03:04:05.123456789Z"}`, name, i+10, i+10))
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()
	seen, pages := map[mesh.Tenant]bool{}, 0
	for req, more := (mesh.TenantListRequest{}), true; more; pages++ {
		var reply mesh.TenantListReply
		require.NoError(t, m.Ask(t, mesh.VerbAdminTenantList, req, &reply))
		for _, e := range reply.Tenants {
			require.False(t, seen[e.Name], "twice")
			seen[e.Name] = true
			req.After = e.Name
		}
		more = reply.More
	}
	require.Len(t, seen, many+1)
	require.Equal(t, 2, pages)
}
