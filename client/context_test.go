package client_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
}

func TestConfigFromEnvOrder(t *testing.T) {
	work := client.Context{Name: "work", URL: "nats://work", Token: "of work"}
	for name, c := range map[string]struct {
		current    string
		url, token string // of the environment
		want       client.Config
		code       mesh.Code
	}{
		"no context in use":         {"", "", "", client.Config{URL: "nats://file", Token: "of file"}, ""},
		"default in use":            {"default", "", "", client.Config{URL: "nats://file", Token: "of file"}, ""},
		"context in use":            {"work", "", "", client.Config{URL: "nats://work", Token: "of work"}, ""},
		"environment before it":     {"work", "nats://env", "of env", client.Config{URL: "nats://env", Token: "of env"}, ""},
		"another mesh's URL":        {"work", "nats://env", "", client.Config{}, mesh.CodeDenied},
		"one URL of another mesh":   {"work", "nats://work,nats://env", "", client.Config{}, mesh.CodeDenied},
		"the mesh by another URL":   {"work", "tls://Work:4222", "", client.Config{URL: "tls://Work:4222", Token: "of work"}, ""},
		"another port":              {"work", "nats://work:4223", "", client.Config{}, mesh.CodeDenied},
		"no URL":                    {"work", "work:4222", "", client.Config{}, mesh.CodeInvalid},
		"a gateway's URL":           {"work", "http://work:4222", "", client.Config{}, mesh.CodeInvalid},
		"token of the environment":  {"work", "", "of env", client.Config{URL: "nats://work", Token: "of env"}, ""},
		"context that is gone":      {"gone", "", "", client.Config{}, mesh.CodeInvalid},
		"all from the environment":  {"gone", "nats://env", "of env", client.Config{URL: "nats://env", Token: "of env"}, ""},
		"another URL than a file's": {"", "nats://env", "", client.Config{}, mesh.CodeDenied},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("WSMESH_DATA", dir)
			t.Setenv("WSMESH_URL", c.url)
			t.Setenv("WSMESH_TOKEN", c.token)
			writeJSON(t, filepath.Join(dir, "client.json"), client.File{URL: "nats://file", Token: "of file"})
			writeJSON(t, client.ContextsFile(dir), client.Contexts{Current: c.current, All: []client.Context{work}})
			got, err := client.ConfigFromEnv()
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestContextCheck(t *testing.T) {
	keys, err := auth.LoadOrCreate(t.TempDir())
	require.NoError(t, err)
	whole, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme", Generation: 1})
	require.NoError(t, err)
	bound, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme", Generation: 1, Workspace: "repo"})
	require.NoError(t, err)
	const here = "nats://127.0.0.1:4222"
	for name, c := range map[string]struct {
		in   client.Context
		code mesh.Code
	}{
		"whole token":               {client.Context{URL: here, Token: whole.JWT}, ""},
		"several servers":           {client.Context{URL: here + ",tls://n2.example.org", Token: whole.JWT, Workspace: "w"}, ""},
		"bound token":               {client.Context{URL: here, Token: bound.JWT}, ""},
		"bound to that workspace":   {client.Context{URL: here, Token: bound.JWT, Workspace: "repo"}, ""},
		"bound to another":          {client.Context{URL: here, Token: bound.JWT, Workspace: "w"}, mesh.CodeDenied},
		"no workspace name":         {client.Context{URL: here, Token: whole.JWT, Workspace: "a b"}, mesh.CodeInvalid},
		"no token":                  {client.Context{URL: here, Token: "x"}, mesh.CodeDenied},
		"no URL":                    {client.Context{Token: whole.JWT}, mesh.CodeInvalid},
		"plain text over a network": {client.Context{URL: "nats://n2.example.org", Token: whole.JWT}, mesh.CodeUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.in.Check()
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			if err == nil {
				require.Equal(t, "acme", c.in.Tenant)
			}
		})
	}
}

func TestDamagedContextsAreNotShown(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(client.ContextsFile(dir), []byte(`{"contexts":"eyJsecret"}`), 0o600))
	_, err := client.ContextIn(dir)
	require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%v", err)
	require.NotContains(t, err.Error(), "eyJ")
}
