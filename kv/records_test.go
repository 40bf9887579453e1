package kv_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

func TestWorkspaces(t *testing.T) {
	_, _, s := start(t, 1)
	ctx := t.Context()
	_, err := s.Workspaces.Get(ctx, "acme", "repo")
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
	require.Contains(t, err.Error(), "wsmesh workspace create repo")

	first, err := s.Workspaces.Create(ctx, kv.WorkspaceRecord{Tenant: "acme", Name: "repo", Shard: 3})
	require.NoError(t, err)
	require.Equal(t, 3, first.Shard)
	again, err := s.Workspaces.Create(ctx, kv.WorkspaceRecord{Tenant: "acme", Name: "repo", Shard: 1})
	require.Equal(t, mesh.CodeExists, mesh.CodeOf(err))
	require.Equal(t, first, again, "the existing record comes with the error")
	got, err := s.Workspaces.Get(ctx, "acme", "repo")
	require.NoError(t, err)
	require.Equal(t, first, got)

	require.NoError(t, s.Workspaces.MarkRemoved(ctx, "acme", "repo", "another id"), "someone else's removal")
	_, err = s.Workspaces.Get(ctx, "acme", "repo")
	require.NoError(t, err)
	require.NoError(t, s.Workspaces.MarkRemoved(ctx, "acme", "repo", first.ID))
	require.NoError(t, s.Workspaces.MarkRemoved(ctx, "acme", "repo", first.ID), "twice")
	require.NoError(t, s.Workspaces.MarkRemoved(ctx, "acme", "never", first.ID))
	_, err = s.Workspaces.Get(ctx, "acme", "repo")
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))

	second, err := s.Workspaces.Create(ctx, kv.WorkspaceRecord{Tenant: "acme", Name: "repo", Shard: 1})
	require.NoError(t, err)
	require.NotEqual(t, first.ID, second.ID, "a name used again is another workspace")
	require.Equal(t, 3, second.Shard, "its journal goes on where the removed one ended")
	require.NoError(t, s.Workspaces.MarkRemoved(ctx, "acme", "repo", first.ID), "a late removal of the first")
	got, err = s.Workspaces.Get(ctx, "acme", "repo")
	require.NoError(t, err)
	require.Equal(t, second, got)
}

// testCreateRace: of many creators one makes the workspace and all get its
// record; a tenant likewise.
func testCreateRace(t *testing.T, m *meshtest.Mesh) {
	const creators = 8
	workspaces, tenants := make([]kv.WorkspaceRecord, creators), make([]kv.TenantRecord, creators)
	workspaceErrs, tenantErrs := make([]error, creators), make([]error, creators)
	var wg sync.WaitGroup
	for i := range creators {
		s := open(t, connect(t, m, "n1"))
		wg.Go(func() {
			workspaces[i], workspaceErrs[i] = s.Workspaces.Create(t.Context(), kv.WorkspaceRecord{Tenant: "acme", Name: "repo", Shard: i})
			tenants[i], tenantErrs[i] = s.Tenants.Create(t.Context(), "acme")
		})
	}
	wg.Wait()
	for what, errs := range map[string][]error{"workspace": workspaceErrs, "tenant": tenantErrs} {
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
				continue
			}
			require.Equal(t, mesh.CodeExists, mesh.CodeOf(err), "%s: %v", what, err)
		}
		require.Equal(t, 1, made, what)
	}
	for i := range creators {
		require.Equal(t, workspaces[0], workspaces[i])
		require.Equal(t, tenants[0], tenants[i])
	}
}

func TestListWorkspaces(t *testing.T) {
	_, _, s := start(t, 1)
	ctx := t.Context()
	for _, w := range []struct {
		tenant mesh.Tenant
		name   mesh.Workspace
	}{
		{"a", "w1"}, {"a", "w10"}, {"a", "w2"}, {"a", "b"}, {"a", "gone"}, {"a-b", "w1"}, {"a-b", "theirs"}, {"ab", "x"}, {"b", "a"},
	} {
		_, err := s.Workspaces.Create(ctx, kv.WorkspaceRecord{Tenant: w.tenant, Name: w.name, Shard: 0})
		require.NoError(t, err)
	}
	gone, err := s.Workspaces.Get(ctx, "a", "gone")
	require.NoError(t, err)
	require.NoError(t, s.Workspaces.MarkRemoved(ctx, "a", "gone", gone.ID))
	for _, c := range []struct {
		name   string
		tenant mesh.Tenant
		after  mesh.Workspace
		limit  int
		want   []mesh.Workspace
		more   bool
	}{
		{"all of a tenant", "a", "", 100, []mesh.Workspace{"b", "w1", "w10", "w2"}, false},
		{"a tenant whose name begins the same", "a-b", "", 100, []mesh.Workspace{"theirs", "w1"}, false},
		{"without a hyphen", "ab", "", 100, []mesh.Workspace{"x"}, false},
		{"called like a workspace", "b", "", 100, []mesh.Workspace{"a"}, false},
		{"a tenant with none", "c", "", 100, nil, false},
		{"first page", "a", "", 2, []mesh.Workspace{"b", "w1"}, true},
		{"second page", "a", "w1", 2, []mesh.Workspace{"w10", "w2"}, false},
		{"exactly full", "a", "", 4, []mesh.Workspace{"b", "w1", "w10", "w2"}, false},
		{"after a name that is not there", "a", "c", 1, []mesh.Workspace{"w1"}, true},
		{"after the last", "a", "w2", 2, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			records, more, err := s.Workspaces.List(ctx, c.tenant, c.after, c.limit)
			require.NoError(t, err)
			var names []mesh.Workspace
			for _, r := range records {
				require.Equal(t, c.tenant, r.Tenant)
				names = append(names, r.Name)
			}
			require.Equal(t, c.want, names)
			require.Equal(t, c.more, more)
		})
	}
}

// TestTenantNumbers: host user ids derive from the numbers, so no two tenants
// may have one, however many are made at once.
func TestTenantNumbers(t *testing.T) {
	m, _, s := start(t, 1)
	const tenants = 24
	records, errs := make([]kv.TenantRecord, tenants), make([]error, tenants)
	stores := []*kv.Store{s, open(t, connect(t, m, "n1")), open(t, connect(t, m, "n2"))}
	var wg sync.WaitGroup
	for i := range tenants {
		wg.Go(func() {
			records[i], errs[i] = stores[i%len(stores)].Tenants.Create(t.Context(), mesh.Tenant(fmt.Sprintf("t%02d", i)))
		})
	}
	wg.Wait()
	numbers := map[uint32]mesh.Tenant{}
	for i, r := range records {
		require.NoError(t, errs[i])
		require.NotZero(t, r.Number)
		require.NotContains(t, numbers, r.Number)
		require.NotZero(t, r.Generation)
		numbers[r.Number] = r.Name
	}
	all, err := s.Tenants.List(t.Context())
	require.NoError(t, err)
	require.Len(t, all, tenants, "the counter is no tenant")
	require.Equal(t, records, all, "sorted by name")

	_, err = s.Tenants.Get(t.Context(), "nobody")
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
}

func TestTokens(t *testing.T) {
	_, _, s := start(t, 1)
	ctx := t.Context()
	none, err := s.Tenants.ListTokens(ctx)
	require.NoError(t, err)
	require.Empty(t, none)
	for _, tenant := range []mesh.Tenant{"acme", "a-b", "a"} {
		_, err := s.Tenants.Create(ctx, tenant)
		require.NoError(t, err)
	}
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	token := func(tenant mesh.Tenant, id mesh.TokenID, minutes int) kv.TokenRecord {
		r := kv.TokenRecord{ID: id, Tenant: tenant, Generation: 2, Issued: begin.Add(time.Duration(minutes) * time.Minute)}
		if minutes > 1 {
			r.Expires = r.Issued.Add(time.Hour)
		}
		return r
	}
	want := []kv.TokenRecord{
		token("a", "ffffffffffffffff", 0), token("a", "0000000000000000", 5), token("a-b", "1111111111111111", 1), token("acme", "2222222222222222", 2),
	}
	for _, i := range []int{3, 1, 0, 2, 1} { // the last repeats one
		require.NoError(t, s.Tenants.PutToken(ctx, want[i]))
	}
	got, err := s.Tenants.ListTokens(ctx)
	require.NoError(t, err)
	require.Equal(t, want, got, "sorted by tenant and time")
	tenants, err := s.Tenants.List(ctx)
	require.NoError(t, err)
	require.Len(t, tenants, 3, "a token is no tenant")

	// A server lets in what was issued after it was revoked, by whatever clocks.
	ahead := token("acme", "3333333333333333", 0)
	ahead.Issued = time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	early := token("acme", "4444444444444444", 0)
	early.Revoked = early.Issued.Add(-time.Second) // as another version has recorded it
	for _, r := range []kv.TokenRecord{ahead, early} {
		require.NoError(t, s.Tenants.PutToken(ctx, r))
		got, err := s.Tenants.RevokeToken(ctx, r.ID)
		require.NoError(t, err)
		require.False(t, got.Revoked.Before(r.Issued))
		again, err := s.Tenants.RevokeToken(ctx, r.ID)
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
}
