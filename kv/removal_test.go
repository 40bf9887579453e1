package kv_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// TestTenantRemoval: a tenant is refused from the beginning of its removal on, and the next
// one of its name has another number, from which user ids derive, and another generation;
// its tokens are revoked for ever.
func TestTenantRemoval(t *testing.T) {
	_, _, s := start(t, 1)
	ctx, ts := t.Context(), s.Tenants
	code := func(want mesh.Code, err error) {
		t.Helper()
		require.Equal(t, want, mesh.CodeOf(err), "%v", err)
	}
	first := kv.TokenRecord{ID: mesh.NewTokenID(), User: "U1", Tenant: "acme", Generation: 1, Workspace: "repo", Issued: time.Now().UTC()}
	require.NoError(t, ts.CreateFirst(ctx, first))
	_, err := ts.Find(ctx, "globex")
	code(mesh.CodeNotFound, err)
	old, err := ts.Get(ctx, "acme")
	require.NoError(t, err)

	_, err = ts.BeginRemoval(ctx, "acme", old.Generation+1)
	code(mesh.CodeConflict, err)
	same, err := ts.EndRemoval(ctx, "acme", old.Generation, 0)
	require.NoError(t, err)
	require.Equal(t, old, same, "it has not begun")
	for range 2 {
		_, err = ts.BeginRemoval(ctx, "acme", old.Generation)
		require.NoError(t, err)
	}
	_, err = ts.Get(ctx, "acme")
	code(mesh.CodeDenied, err)
	_, err = ts.Create(ctx, "acme")
	code(mesh.CodeDenied, err)
	_, err = ts.SetLimits(ctx, "acme", mesh.Limits{})
	code(mesh.CodeDenied, err)
	all, err := ts.List(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1, "the operator sees that it is being removed")
	for range 2 {
		require.NoError(t, ts.RevokeTokens(ctx, "acme"))
		require.NoError(t, ts.ForgetTokens(ctx, "acme"))
	}
	for range 2 {
		_, err = ts.EndRemoval(ctx, "acme", old.Generation, 7)
		require.NoError(t, err)
	}
	_, err = ts.Get(ctx, "acme")
	code(mesh.CodeNotFound, err)
	require.NoError(t, ts.CreateFirst(ctx, first), "a node starts")
	_, err = ts.Get(ctx, "acme")
	code(mesh.CodeNotFound, err)

	next, err := ts.Create(ctx, "acme")
	require.NoError(t, err)
	require.Greater(t, next.Number, old.Number)
	require.Greater(t, next.Generation, old.Generation)
	require.EqualValues(t, 7, next.Forgotten)
	require.NoError(t, ts.CreateFirst(ctx, first))
	_, err = ts.BeginRemoval(ctx, "acme", old.Generation)
	code(mesh.CodeConflict, err)
	tokens, err := ts.ListTokens(ctx)
	require.NoError(t, err)
	require.Len(t, tokens, 1)
	require.False(t, tokens[0].Revoked.IsZero())
	require.True(t, tokens[0].Removed)
	require.Empty(t, tokens[0].Workspace)
}
