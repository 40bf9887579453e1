package node_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// ask sends a request as a caller with no client of ours would.
func (c *caller) ask(t *testing.T, subject, scope string, args any, reply any) error {
	t.Helper()
	raw, err := json.Marshal(args)
	require.NoError(t, err)
	msg := &nats.Msg{Subject: subject, Data: raw, Header: nats.Header{}}
	if scope != "" {
		msg.Header.Set(mesh.HeaderScope, scope)
	}
	answer, err := c.RequestMsg(msg, 10*time.Second)
	require.NoError(t, err)
	_, err = mesh.DecodeReply(answer, reply)
	return err
}

func requireCode(t *testing.T, code mesh.Code, err error) {
	t.Helper()
	require.Equal(t, code, mesh.CodeOf(err), "%v", err)
}

// The scope that a token is bound to is a wall, whatever the request's header
// says; a token of a workspace or of the tenant may narrow itself at will.
func TestScopeHeader(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		epoch := openRepo(t, m)
		all := map[string]*caller{}
		for _, c := range callers(t, m) {
			all[c.name] = c
		}
		for _, r := range []struct {
			token, header, path string
			code                mesh.Code
		}{
			{"scope", "", "f", ""},
			{"scope", ".", "f", ""}, // asks for no narrower one
			{"scope", "users/u1", "f", ""},
			{"scope", "users", "u1/f", mesh.CodeDenied},
			{"scope", "users/u2", "f", mesh.CodeDenied},
			{"scope", "users/u11", "f", mesh.CodeDenied},
			{"scope", "users/u1/../u2", "f", mesh.CodeDenied},
			{"scope", "users%2Fu2", "f", mesh.CodeDenied},
			{"scope", "/workspace/users/u2", "f", mesh.CodeDenied},
			{"scope", "../..", "f", mesh.CodeDenied},
			{"scope", "%zz", "f", mesh.CodeInvalid},
			{"scope", "users/u1/none", "f", mesh.CodeNotFound},
			{"scope", "", "../u2/f", mesh.CodeDenied},
			{"scope", "", "/workspace/users/u2/f", mesh.CodeDenied},
			{"scope", "", "/workspace/users/u11/f", mesh.CodeDenied},
			{"scope", "", "/workspace/users/u1/f", ""},
			{"workspace", "", "users/u2/f", ""},
			{"workspace", "users/u2", "f", ""},
			{"workspace", "users/u2", "../u1/f", mesh.CodeDenied},
			{"tenant", "users/u2", "f", ""},
			{"tenant", "users/u2", "../u1/f", mesh.CodeDenied},
		} {
			t.Run(r.token+" header "+r.header+" path "+r.path, func(t *testing.T) {
				c := all[r.token]
				requireCode(t, r.code, c.ask(t, c.owner(epoch, mesh.VerbStat), r.header, mesh.StatRequest{Path: mesh.Path(r.path)}, nil))
				requireCode(t, r.code, c.ask(t, c.owner(epoch, mesh.VerbRead), r.header, mesh.ReadRequest{Path: mesh.Path(r.path)}, nil))
			})
		}
	})
}

// What a request says of itself in its body gives no rights: the tenant and the
// binding are those of its subject.
func TestBodyGivesNoRights(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		openRepo(t, m)
		_, err := m.Connect(t, m.Token(t, "other")).Workspace("theirs").Command(t.Context(), "true").Output()
		if nodetest.Isolation() != "auto" {
			require.NoError(t, err)
		}
		type body map[string]any
		for _, c := range callers(t, m) {
			t.Run(c.name, func(t *testing.T) {
				foreign := body{"tenant": "other", "Tenant": "other", "workspace": "theirs"}
				code := mesh.CodeNotFound // acme has no such workspace
				if c.claims.Bound != nil {
					code = mesh.CodeDenied
				}
				requireCode(t, code, c.ask(t, c.api(mesh.ServicePlace, mesh.VerbPlaceOpen), "", foreign, nil))
				requireCode(t, code, c.ask(t, c.api(mesh.ServiceLog, mesh.VerbLogRead), "", body{"tenant": "other", "workspace": "theirs", "id": mesh.NewExecID()}, nil))
				rm := c.ask(t, c.api(mesh.ServiceWorkspace, mesh.VerbWorkspaceRemove), "", foreign, nil)
				requireCode(t, code, rm)
				var list mesh.WorkspaceListReply
				require.NoError(t, c.ask(t, c.api(mesh.ServiceWorkspace, mesh.VerbWorkspaceList), "", body{"tenant": "other"}, &list))
				names := []mesh.Workspace{}
				for _, w := range list.Workspaces {
					names = append(names, w.Name)
				}
				if c.claims.Bound != nil {
					require.Equal(t, []mesh.Workspace{"repo"}, names)
				} else {
					require.Equal(t, []mesh.Workspace{"other", "repo"}, names)
				}
			})
		}
		other := m.Connect(t, m.Token(t, "other"))
		b, err := other.Workspace("repo").ReadFile(t.Context(), "secret")
		require.NoError(t, err, "the other tenant's workspace is still there")
		require.Equal(t, "theirs", string(b))
	})
}

// A token of one workspace does there what a tenant's does, and nothing
// elsewhere.
func TestWorkspaceToken(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		openRepo(t, m)
		ctx := t.Context()
		c := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", ""))
		w, scope := c.Bound()
		require.Equal(t, "repo", w)
		require.Equal(t, ".", scope)
		b, err := c.Workspace("repo").ReadFile(ctx, "users/u2/f")
		require.NoError(t, err)
		require.Equal(t, "2", string(b))
		requireCode(t, mesh.CodeDenied, c.Workspace("other").WriteFile(ctx, "f", nil, 0))
		requireCode(t, mesh.CodeDenied, c.CreateWorkspace(ctx, "fresh"))
		requireCode(t, mesh.CodeDenied, c.RemoveWorkspace(ctx, "repo"))
		requireCode(t, mesh.CodeDenied, c.RemoveWorkspace(ctx, "other"))
		if nodetest.Isolation() != "auto" {
			out, err := c.Workspace("repo").Command(ctx, "cat", "users/u1/f").Output()
			require.NoError(t, err)
			require.Equal(t, "1", string(out))
		}
		fresh := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "fresh", ""))
		require.NoError(t, fresh.Workspace("fresh").WriteFile(ctx, "f", nil, 0), "its own workspace is created by the first write")
	})
}

// A token of one path reaches that path: files, commands, logs and signals.
func TestScopeToken(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		openRepo(t, m)
		ctx := t.Context()
		c := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", "users/u1"))
		ws := c.Workspace("repo")
		b, err := ws.ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "1", string(b))
		require.NoError(t, ws.WriteFile(ctx, "made", []byte("x"), 0))
		b, err = m.Client.Workspace("repo").ReadFile(ctx, "users/u1/made")
		require.NoError(t, err)
		require.Equal(t, "x", string(b))
		for _, path := range []string{"..", "../u2/f", "/workspace", "/workspace/users/u2/f"} {
			_, err := ws.Stat(ctx, path)
			requireCode(t, mesh.CodeDenied, err)
		}

		cmd := ws.Command(ctx, "sh", "-c", "pwd; ls /workspace/users; cat ../u2/f; head -c 1000000 /dev/zero; exit 7")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		var exit *client.ExitError
		require.ErrorAs(t, cmd.Run(), &exit)
		require.Equal(t, 7, exit.Code)
		require.True(t, strings.HasPrefix(stdout.String(), "/workspace/users/u1\nu1\n\x00"), "%.60q", stdout.String())
		require.Equal(t, len("/workspace/users/u1\nu1\n")+1000000, stdout.Len())
		require.Contains(t, stderr.String(), "No such file")

		// The commands of others: their logs, their ids, their lives.
		long := m.Client.Workspace("repo").Scope("users/u2").Command(ctx, "sh", "-c", "echo private; sleep 60")
		running := &firstWrite{done: make(chan struct{})}
		long.Stdout = running
		require.NoError(t, long.Start())
		ended := make(chan error, 1)
		go func() { ended <- long.Wait() }()
		<-running.done
		again := ws.Command(ctx, "sh", "-c", "echo private; sleep 60")
		again.ID = long.ID
		requireCode(t, mesh.CodeConflict, again.Run())
		info, err := ws.Info(ctx)
		require.NoError(t, err)
		all := map[string]*caller{}
		for _, c := range callers(t, m) {
			all[c.name] = c
		}
		for _, r := range []struct {
			token, header string
			code          mesh.Code
		}{
			{"scope", "", mesh.CodeNotFound},
			{"scope", "users/u2", mesh.CodeDenied},
			{"tenant", "users/u1", mesh.CodeNotFound},
			{"tenant", "users/u2/deeper", mesh.CodeNotFound},
			{"tenant", "users/u", mesh.CodeNotFound},
			{"tenant", "users/u2", ""},
			{"workspace", "users", ""},
		} {
			t.Run(r.token+" in "+r.header, func(t *testing.T) {
				c := all[r.token]
				var log mesh.LogReply
				read := mesh.LogRequest{Workspace: "repo", ID: mesh.ExecID(long.ID)}
				requireCode(t, r.code, c.ask(t, c.api(mesh.ServiceLog, mesh.VerbLogRead), r.header, read, &log))
				require.Equal(t, r.code == "", log.Last > 0)
				if r.code != "" {
					for _, signal := range []string{"TERM", "KILL"} {
						send := mesh.SignalRequest{ID: mesh.ExecID(long.ID), Signal: signal}
						requireCode(t, r.code, c.ask(t, c.owner(info.Epoch, mesh.VerbSignal), r.header, send, nil))
					}
				}
			})
		}
		end := mesh.SignalRequest{ID: mesh.ExecID(long.ID), Signal: "KILL"}
		require.NoError(t, all["tenant"].ask(t, all["tenant"].owner(info.Epoch, mesh.VerbSignal), "users", end, nil))
		require.ErrorAs(t, <-ended, &exit)
		require.Equal(t, 137, exit.Code)
	})
}

// firstWrite closes done at the first write.
type firstWrite struct {
	once sync.Once
	done chan struct{}
}

func (w *firstWrite) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.done) })
	return len(b), nil
}
