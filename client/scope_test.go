package client_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestScopeNeverWidens(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "a/b/own", "a/secret", "secret")
		b := ws.Scope("a").Scope("b")
		requireFile(t, b, "own", "a/b/own")
		requireFile(t, b, "/own", "a/b/own")
		requireFile(t, b, "/workspace/a/b/own", "a/b/own")
		for _, path := range []string{"../secret", "x/../../secret", "/../secret", "/workspace/a/secret", "/workspace"} {
			_, err := b.ReadFile(ctx, path)
			requireCode(t, mesh.CodeDenied, err, "read", path)
			_, err = b.Stat(ctx, path)
			requireCode(t, mesh.CodeDenied, err, "stat", path)
			requireCode(t, mesh.CodeDenied, b.WriteFile(ctx, path, nil, 0), "write", path)
			requireCode(t, mesh.CodeDenied, b.RemoveAll(ctx, path), "remove", path)
			requireCode(t, mesh.CodeDenied, b.Rename(ctx, "own", path), "rename to", path)
			requireCode(t, mesh.CodeDenied, b.Rename(ctx, path, "mine"), "rename from", path)
		}
		for _, path := range []string{"..", "../x", "/workspace", "/workspace/secret", "/workspace/a/bb"} {
			_, err := b.Scope(path).ReadFile(ctx, "y")
			requireCode(t, mesh.CodeDenied, err, "scope", path)
			_, err = b.Scope(path).Scope("/workspace/a/b").ReadFile(ctx, "own")
			requireCode(t, mesh.CodeDenied, err, "no way back in from", path)
			requireCode(t, mesh.CodeDenied, b.Scope(path).Command(ctx, "true").Run(), "command in", path)
		}
		requireFile(t, ws, "a/secret", "a/secret")
	})
}

// A link of the workspace that leads out of a scope, made by who may.
func TestScopeStopsLinks(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "a/own", "secret")
		a := ws.Scope("a")
		for path, target := range map[string]string{"up": "../secret", "root": "/workspace/secret", "host": "/etc/passwd", "dir": ".."} {
			require.NoError(t, a.Symlink(ctx, target, path))
		}
		for _, path := range []string{"up", "root", "host", "dir/secret"} {
			_, err := a.ReadFile(ctx, path)
			requireCode(t, mesh.CodeDenied, err, "read", path)
			requireCode(t, mesh.CodeDenied, a.WriteFile(ctx, path+"/x", nil, 0), "write below", path)
			requireCode(t, mesh.CodeDenied, a.Chmod(ctx, path, 0o600), "chmod", path)
			requireCode(t, mesh.CodeDenied, a.Copy(ctx, path, "copy"), "copy", path)
		}
		_, err := a.Scope("dir").ReadFile(ctx, "secret")
		requireCode(t, mesh.CodeDenied, err, "a scope through a link")
		requireFile(t, ws, "a/up", "secret")
		requireFile(t, ws, "secret", "secret")
	})
}

func TestScopeOfCommands(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		fill(t, ws, "a/b/own", "a/secret")
		b := ws.Scope("a/b")
		out, err := b.Command(ctx, "sh", "-c", "pwd; cat own; ls /workspace/a").Output()
		require.NoError(t, err)
		require.Equal(t, "/workspace/a/b\na/b/ownb\n", string(out))
		out, err = ws.Command(ctx, "ln", "-s", "..", "a/b/up").CombinedOutput()
		require.NoError(t, err, string(out))
		for _, dir := range []string{"..", "/workspace", "/workspace/a", "x/../..", "up"} {
			cmd := b.Command(ctx, "ls")
			cmd.Dir = dir
			out, err := cmd.Output()
			requireCode(t, mesh.CodeDenied, err, "in", dir, string(out))
		}
	})
}

func TestScopesMergeEnv(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		one := ws.Scope("one", client.Env{"A": "1", "B": "1"})
		three := one.Scope("two", client.Env{"B": "2"}).Scope("three", client.Env{"C": "3"})
		for _, r := range []struct {
			name string
			ws   *client.Workspace
			env  []string
			want string
		}{
			{"none", ws, nil, "- - -\n"},
			{"one scope", one, nil, "1 1 -\n"},
			{"nested", three, nil, "1 2 3\n"},
			{"the command's own", three, []string{"B=4"}, "1 4 3\n"},
			{"taken away", three, []string{"B"}, "1 - 3\n"},
			{"taken away and set", three, []string{"B", "B=5", "A"}, "- 5 3\n"},
			{"empty is not unset", three, []string{"A="}, " 2 3\n"},
		} {
			t.Run(r.name, func(t *testing.T) {
				cmd := r.ws.Command(ctx, "sh", "-c", "echo \"${A--} ${B--} ${C--}\"")
				cmd.Env = r.env
				out, err := cmd.Output()
				require.NoError(t, err)
				require.Equal(t, r.want, string(out))
			})
		}
	})
}
