package chaos

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// removalSteps are those of the removal of a tenant, in their order.
var removalSteps = []string{
	"tenant removal begun", "tenant tokens revoked", "tenant forgotten", "tenant workspace removed", "tenant workspaces removed",
	"tenant streams purged", "tenant copy removed", "tenant tokens forgotten", "tenant removed",
}

// TestCrashInATenantRemoval lets a one box die behind each step of the removal of a tenant,
// and the command with it, which is killed once more while the node lives. Nobody does
// anything for the tenant meanwhile; the command that is not killed finds the rest, and
// nothing is left.
func TestCrashInATenantRemoval(t *testing.T) {
	at, dir := program(t, "crashpoints"), t.TempDir()
	steps := removalSteps
	if !meshtest.Long() {
		steps = []string{steps[0], steps[3], steps[7]}
	}
	box := &Box{Program: at, Data: t.TempDir(), Args: []string{"--s3", "file://" + dir}, Env: []string{"WSMESH_CRASH=" + steps[0] + ":1"}}
	t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(steps))*patience)
	defer cancel()
	require.NoError(t, box.Start(ctx), box.Log())
	run := func(args ...string) string {
		t.Helper()
		out, err := box.Run(ctx, args...)
		require.NoError(t, err, "%s\n%s", out, box.Log())
		return strings.TrimSpace(out)
	}
	tenant := func() *client.Client {
		t.Helper()
		run("tenant", "create", "globex")
		file, err := client.ReadFile(filepath.Join(box.Data, "client.json"))
		require.NoError(t, err)
		c, err := client.Dial(ctx, client.Config{URL: file.URL, Token: run("token", "issue", "--tenant", "globex")})
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := tenant()
	for i := range 3 {
		require.NoError(t, c.Workspace(fmt.Sprintf("w%d", i)).WriteFile(ctx, "f", []byte("old"), 0))
		_, err := c.Memory("main").Put(ctx, fmt.Sprint(i), []byte("old"))
		require.NoError(t, err)
	}

	for i, step := range steps {
		command, kill := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = box.Run(command, "tenant", "rm", "--force", "globex") // it is killed
		}()
		require.True(t, box.Gone(ctx), "the program has never come by %s", step)
		kill()
		<-ended
		if box.Env = nil; i+1 < len(steps) {
			box.Env = []string{"WSMESH_CRASH=" + steps[i+1] + ":1"}
		}
		require.NoError(t, box.Start(ctx), box.Log())
		noUse(ctx, t, c)
	}
	for _, life := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
		command, kill := context.WithTimeout(ctx, life)
		_, _ = box.Run(command, "tenant", "rm", "globex") // the instant is the experiment
		kill()
	}
	if out, err := box.Run(ctx, "tenant", "rm", "globex"); err != nil {
		require.Contains(t, out, "not_found", "it was done already")
	}
	noUse(ctx, t, c)
	require.NoDirExists(t, filepath.Join(box.Data, "workspaces", "globex"))
	require.NotContains(t, run("token", "ls"), "globex")
	require.NotContains(t, run("tenant", "ls"), "globex")
	var left []string
	require.NoError(t, filepath.WalkDir(filepath.Join(dir, "tenants", "globex"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, d.Name())
		}
		return err
	}))
	require.Equal(t, []string{"tenant.json"}, left)

	next := tenant()
	for w, err := range next.Workspaces(ctx) {
		require.NoError(t, err)
		require.Fail(t, "a workspace is left", "%s", w.Name)
	}
	for e, err := range next.Memory("main").List(ctx, "") {
		require.NoError(t, err)
		require.Fail(t, "a key is left", "%s", e.Key)
	}
}

// noUse says that a token is of no use: the servers refuse it, or the nodes its tenant.
func noUse(ctx context.Context, t *testing.T, c *client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for what, do := range map[string]func() error{
		"read":   func() error { _, err := c.Workspace("w0").ReadFile(ctx, "f"); return err },
		"write":  func() error { return c.Workspace("w9").WriteFile(ctx, "f", nil, 0) },
		"memory": func() error { _, err := c.Memory("main").Get(ctx, "0"); return err },
	} {
		err := do()
		require.Contains(t, []mesh.Code{mesh.CodeDenied, mesh.CodeNotFound}, mesh.CodeOf(err), "%s: %v", what, err)
	}
}
