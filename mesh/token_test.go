package mesh_test

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

func TestParseToken(t *testing.T) {
	keys, err := auth.LoadOrCreate(filepath.Join(t.TempDir(), "keys"))
	require.NoError(t, err)
	issued, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme", Generation: 1})
	require.NoError(t, err)
	claims, err := mesh.ParseToken(issued.JWT)
	require.NoError(t, err)
	require.Equal(t, mesh.TokenClaims{Tenant: "acme", ID: issued.ID}, claims)

	short, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme", Generation: 1, TTL: time.Hour})
	require.NoError(t, err)
	claims, err = mesh.ParseToken(short.JWT)
	require.NoError(t, err)
	require.Equal(t, short.Expires.Unix(), claims.Expires.Unix())

	head, rest, _ := strings.Cut(issued.JWT, ".")
	body, signature, _ := strings.Cut(rest, ".")
	with := func(claims string) string {
		return head + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + signature
	}
	for _, c := range []struct{ name, token string }{
		{"empty", ""},
		{"not a token", "hunter2-is-the-password"},
		{"two parts", head + "." + body},
		{"last letter missing", issued.JWT[:len(issued.JWT)-1]},
		{"signature cut short", issued.JWT[:len(issued.JWT)-40]},
		{"one letter more", issued.JWT + "A"},
		{"line break inside", head + ".\n" + body + "." + signature},
		{"line break after", issued.JWT + "\n"},
		{"no signature", head + "." + body + "."},
		{"four parts", issued.JWT + ".x"},
		{"body cut short", head + "." + body[:len(body)/2] + "." + signature},
		{"body with a foreign letter", head + ".!" + body[1:] + "." + signature},
		{"body is not JSON", with("secret")},
		{"body is a list", with(`["secret"]`)},
		{"no name", with(`{"exp":0}`)},
		{"name without a token id", with(`{"name":"acme"}`)},
		{"name of a node", with(`{"name":"_node/0123456789abcdef"}`)},
		{"name of the operator", with(`{"name":"_admin/0123456789abcdef"}`)},
		{"tenant with a wildcard", with(`{"name":"*/0123456789abcdef"}`)},
		{"id with a wildcard", with(`{"name":"acme/>"}`)},
		{"id with another inbox", with(`{"name":"acme/0123456789abcdef.x"}`)},
		{"expired", with(`{"name":"acme/0123456789abcdef","exp":1700000000}`)},
		{"expired before the epoch", with(`{"name":"acme/0123456789abcdef","exp":-5}`)},
		{"expiry is a text", with(`{"name":"acme/0123456789abcdef","exp":"never"}`)},
		{"quoted", `"` + issued.JWT + `"`},
		{"whole credentials file", "-----BEGIN NATS USER JWT-----\n" + issued.JWT + "\n------END NATS USER JWT------\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims, err := mesh.ParseToken(c.token)
			require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err), "%v", claims)
			require.Zero(t, claims)
			for _, secret := range append(strings.Split(c.token, "."), "hunter2", "secret") {
				if len(secret) > 3 {
					require.NotContains(t, err.Error(), secret)
				}
			}
			require.Contains(t, err.Error(), "wsmesh token issue", "the error says what to do next")
		})
	}
	_, err = mesh.ParseToken(with(`{"name":"acme/0123456789abcdef","exp":1700000000}`))
	require.Contains(t, err.Error(), "2023-11-14T22:13:20Z")
}

func FuzzParseToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add("e30.eyJuYW1lIjoiYWNtZS8wMTIzNDU2Nzg5YWJjZGVmIn0." + strings.Repeat("A", 86))
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := mesh.ParseToken(token)
		if err != nil {
			require.Equal(t, mesh.CodeDenied, mesh.CodeOf(err))
			return
		}
		_, err = mesh.ParseTenant(string(claims.Tenant))
		require.NoError(t, err)
		_, err = mesh.ParseTokenID(string(claims.ID))
		require.NoError(t, err)
	})
}
