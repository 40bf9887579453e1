package auth_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

func TestRevokedUsersAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	_, err := auth.Revoke(dir, nil)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
	require.NoDirExists(t, dir)
	keys, err := auth.LoadOrCreate(dir)
	require.NoError(t, err)
	var all []auth.Revoked
	for range 8 {
		token, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "dev", Generation: 1})
		require.NoError(t, err)
		all = append(all, auth.Revoked{User: token.User, At: time.Now()})
	}
	all[0].Expires = time.Now().Add(-2 * time.Hour)
	all[1].Expires = time.Now().Add(time.Hour)
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			_, err := auth.Revoke(dir, []auth.Revoked{r, all[2]})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again, err := auth.LoadOrCreate(dir)
	require.NoError(t, err)
	require.Equal(t, keys.Mesh().ID, again.Mesh().ID)
	claims, err := jwt.DecodeAccountClaims(again.Mesh().JWT)
	require.NoError(t, err)
	require.NotContains(t, claims.Revocations, all[0].User, "it has expired by itself")
	require.Len(t, claims.Revocations, len(all)-1)
	for _, r := range all[1:] {
		require.Equal(t, r.At.Unix(), claims.Revocations[r.User])
	}
	requireMode(t, filepath.Join(dir, auth.RevokedDir), 0o700)
	requireMode(t, filepath.Join(dir, auth.RevokedDir, all[1].User), 0o600)
	require.NoFileExists(t, filepath.Join(dir, auth.RevokedDir, all[0].User))

	_, err = auth.Revoke(dir, []auth.Revoked{{User: "nobody", At: time.Now()}})
	require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))
	require.NoError(t, os.WriteFile(filepath.Join(dir, auth.RevokedDir, all[1].User), []byte("{"), 0o600))
	_, err = auth.LoadOrCreate(dir)
	require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "keys without it would let everybody in again")
	require.Contains(t, err.Error(), "backup")
}
