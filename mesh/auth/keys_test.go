package auth_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

func TestKeysAreMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "keys")
	const starters = 8
	all := make([]*auth.Keys, starters)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			k, err := auth.LoadOrCreate(dir)
			if err != nil {
				t.Errorf("starter %d: %v", i, err)
			}
			all[i] = k
		})
	}
	wg.Wait()
	for _, k := range all {
		require.NotNil(t, k)
		require.Equal(t, all[0].Operator().Subject, k.Operator().Subject)
		require.Equal(t, all[0].System().ID, k.System().ID)
		require.Equal(t, all[0].Mesh().ID, k.Mesh().ID)
		require.Equal(t, all[0].RoutePassword(), k.RoutePassword())
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary files stay")
	requireMode(t, dir, 0o700)
	requireMode(t, filepath.Join(dir, auth.KeyFile), 0o600)

	another, err := auth.LoadOrCreate(filepath.Join(t.TempDir(), "keys"))
	require.NoError(t, err)
	require.NotEqual(t, all[0].Mesh().ID, another.Mesh().ID)
	require.NotEqual(t, all[0].RoutePassword(), another.RoutePassword())
}

func requireMode(t *testing.T, path string, want fs.FileMode) {
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, want, info.Mode().Perm(), path)
}

func TestClaimsAreSound(t *testing.T) {
	keys := newKeys(t)
	account, err := jwt.DecodeAccountClaims(keys.Mesh().JWT)
	require.NoError(t, err)
	var result jwt.ValidationResults
	account.Validate(&result)
	keys.Operator().Validate(&result)
	require.Empty(t, result.Errors())
	require.True(t, account.Limits.JetStreamLimits.IsUnlimited())

	system, err := jwt.DecodeAccountClaims(keys.System().JWT)
	require.NoError(t, err)
	require.False(t, system.Limits.IsJSEnabled(), "a server refuses JetStream on the system account")

	before := time.Now()
	token, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme", Generation: 7, TTL: 90 * time.Second})
	require.NoError(t, err)
	user, err := jwt.DecodeUserClaims(token.JWT)
	require.NoError(t, err)
	require.True(t, account.DidSign(user))
	require.NotEqual(t, account.Subject, user.Issuer, "the signing key signs, not the account's own")
	require.Equal(t, "acme/"+string(token.ID), user.Name)
	require.Equal(t, jwt.TagList{auth.TagGeneration + "7"}, user.Tags)
	require.Equal(t, int64(auth.DefaultTokenSubs), user.Limits.Subs)
	require.Equal(t, int64(mesh.MaxPayload), user.Limits.Payload)
	require.WithinRange(t, token.Expires, before.Add(90*time.Second), time.Now().Add(91*time.Second))
	require.Equal(t, token.Expires.Unix(), user.Expires)

	parsed, err := mesh.ParseToken(token.JWT)
	require.NoError(t, err)
	require.Equal(t, mesh.TokenClaims{Tenant: "acme", ID: token.ID, Expires: token.Expires}, parsed)
}

// A server reads at most 4096 bytes of a client's CONNECT, and the JWT is the
// most of it.
func TestJWTsFitIntoAConnect(t *testing.T) {
	signer := newKeys(t).Signer()
	long := strings.Repeat("x", 40)
	token, err := signer.Tenant(auth.TokenSpec{Tenant: mesh.Tenant(long), TTL: time.Hour})
	require.NoError(t, err)
	sizes := map[string]int{"tenant": len(token.JWT)}
	for name, make := range map[string]func() (auth.Creds, error){
		"door":  func() (auth.Creds, error) { return signer.Door(mesh.Node(long)) },
		"store": func() (auth.Creds, error) { return signer.Store(mesh.Node(long)) },
		"admin": signer.Admin,
	} {
		creds, err := make()
		require.NoError(t, err)
		sizes[name] = len(creds.JWT)
	}
	t.Log(sizes)
	for name, size := range sizes {
		require.Less(t, size, 3000, name)
	}
}

func TestBrokenKeysAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	path := filepath.Join(dir, auth.KeyFile)
	_, err := auth.LoadOrCreate(dir)
	require.NoError(t, err)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(whole, &fields))
	with := func(name string, value any) []byte {
		changed := map[string]any{}
		for k, v := range fields {
			changed[k] = v
		}
		changed[name] = value
		b, err := json.Marshal(changed)
		require.NoError(t, err)
		return b
	}
	for _, c := range []struct {
		name     string
		content  []byte
		mode     fs.FileMode
		dirMode  fs.FileMode
		code     mesh.Code
		accepted bool
	}{
		{name: "as it was", content: whole, accepted: true},
		{name: "with a field of a later version", content: with("later", true), accepted: true},
		{name: "empty", code: mesh.CodeInvalid},
		{name: "cut short", content: whole[:len(whole)/2], code: mesh.CodeInvalid},
		{name: "zeros, as after a crash", content: make([]byte, len(whole)), code: mesh.CodeInvalid},
		{name: "two documents", content: append(append([]byte{}, whole...), whole...), code: mesh.CodeInvalid},
		{name: "seed missing", content: with("signer", ""), code: mesh.CodeInvalid},
		{name: "seed damaged", content: with("mesh", strings.Replace(fields["mesh"].(string), "A", "B", 2)), code: mesh.CodeInvalid},
		{name: "seed of another kind", content: with("operator", fields["mesh"]), code: mesh.CodeInvalid},
		{name: "later format", content: with("format", 2), code: mesh.CodeInvalid},
		{name: "world-readable", content: whole, mode: 0o644, code: mesh.CodeDenied},
		{name: "group-readable", content: whole, mode: 0o640, code: mesh.CodeDenied},
		{name: "directory others can write", content: whole, dirMode: 0o777, code: mesh.CodeDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.mode == 0 {
				c.mode = 0o600
			}
			if c.dirMode == 0 {
				c.dirMode = 0o700
			}
			require.NoError(t, os.WriteFile(path, c.content, 0o600))
			require.NoError(t, os.Chmod(path, c.mode))
			require.NoError(t, os.Chmod(dir, c.dirMode))
			_, err := auth.LoadOrCreate(dir)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			require.Equal(t, c.accepted, err == nil)
			requireNoSecret(t, err, fields)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, c.content, append([]byte(nil), after...), "never replaced")
		})
	}
}

func requireNoSecret(t *testing.T, err error, fields map[string]any) {
	if err == nil {
		return
	}
	for _, v := range fields {
		if seed, ok := v.(string); ok {
			require.NotContains(t, err.Error(), seed)
		}
	}
}

func TestKeysDirectoryUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := auth.LoadOrCreate(filepath.Join(file, "keys"))
	require.Error(t, err)
	var e *mesh.Error
	require.ErrorAs(t, err, &e)
	require.NotContains(t, e.Text, file, "what may cross the wire names no host path")
}

func TestCredsFile(t *testing.T) {
	signer := newKeys(t).Signer()
	creds, err := signer.Store("n1")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(creds.Name, "_node/n1-"), creds.Name)
	other, err := signer.Store("n1")
	require.NoError(t, err)
	require.NotEqual(t, creds.Inbox, other.Inbox, "a restarted node has an inbox of its own")

	file, err := creds.Encode()
	require.NoError(t, err)
	back, err := auth.ParseCreds(file)
	require.NoError(t, err)
	require.Equal(t, creds, back)

	foreign, err := other.Encode()
	require.NoError(t, err)
	seedAt := strings.Index(string(file), "-----BEGIN USER NKEY")
	foreignSeedAt := strings.Index(string(foreign), "-----BEGIN USER NKEY")
	for _, c := range []struct{ name, file string }{
		{"empty", ""},
		{"no seed", string(file[:seedAt])},
		{"no JWT", string(file[seedAt:])},
		{"cut in the JWT", string(file[:300])},
		{"seed of another user", string(file[:seedAt]) + string(foreign[foreignSeedAt:])},
		{"not a credentials file", "hello\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := auth.ParseCreds([]byte(c.file))
			require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%v", err)
			require.NotContains(t, err.Error(), creds.Seed)
		})
	}
}

func TestTokenSpecIsChecked(t *testing.T) {
	signer := newKeys(t).Signer()
	for _, c := range []struct {
		name string
		spec auth.TokenSpec
	}{
		{"no tenant", auth.TokenSpec{}},
		{"a principal that is not a tenant", auth.TokenSpec{Tenant: mesh.PrincipalNode}},
		{"a wildcard", auth.TokenSpec{Tenant: "*"}},
		{"more than one subject token", auth.TokenSpec{Tenant: "a.b"}},
		{"negative ttl", auth.TokenSpec{Tenant: "acme", TTL: -time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := signer.Tenant(c.spec)
			require.True(t, errors.Is(err, fs.ErrInvalid), "%v", err)
			require.Zero(t, token)
		})
	}
}

func FuzzParseCreds(f *testing.F) {
	f.Add([]byte("-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := auth.ParseCreds(b); err != nil {
			require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err))
		}
	})
}
