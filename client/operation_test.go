package client_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// recorder is a slog.Handler that keeps what it gets.
type recorder struct {
	slog.Handler // its level, and the text of what is logged
	mu           *sync.Mutex
	records      *[]slog.Record
}

func newRecorder(text io.Writer, level slog.Level) *recorder {
	return &recorder{slog.NewTextHandler(text, &slog.HandlerOptions{Level: level}), &sync.Mutex{}, &[]slog.Record{}}
}

func (r *recorder) Handle(ctx context.Context, record slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.records = append(*r.records, record)
	return r.Handler.Handle(ctx, record)
}

// taken is what was recorded since the last call.
func (r *recorder) taken() []slog.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := *r.records
	*r.records = nil
	return all
}

func attrsOf(r slog.Record) map[string]any {
	all := map[string]any{}
	r.Attrs(func(a slog.Attr) bool {
		all[a.Key] = a.Value.Any()
		return true
	})
	return all
}

// connectLogging is a client whose operations are recorded.
func connectLogging(t *testing.T, m *nodetest.Mesh, log slog.Handler) *client.Client {
	c, err := client.Dial(t.Context(), client.Config{URL: m.URL(), Token: m.Token(t, nodetest.Tenant), Log: slog.New(log)})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func drain[T any](all func(func(T, error) bool)) error {
	var last error
	for _, err := range all {
		last = err
	}
	return last
}

// Every operation of a client is recorded once, whatever it is made of; what only
// reads is for the verbose log.
func TestOperationsAreLogged(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	log := newRecorder(io.Discard, slog.LevelDebug)
	c := connectLogging(t, m, log)
	ctx, ws, mem := t.Context(), c.Workspace("w"), c.Memory("")
	large := bytes.Repeat([]byte("x"), 3*mesh.MaxMessage)
	var archive bytes.Buffer
	running := ws.Command(ctx, "sleep", "600") // for what needs one
	_, err := running.StdinPipe()
	require.NoError(t, err)
	running.Terminal = &client.Terminal{}
	tried := map[string]bool{}
	type expected struct {
		level slog.Level
		name  string
		do    func() error
	}
	changes := func(name string, do func() error) expected { return expected{slog.LevelInfo, name, do} }
	reads := func(name string, do func() error) expected { return expected{slog.LevelDebug, name, do} }
	second := func(_ any, err error) error { return err }
	watching, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	for _, test := range []struct {
		methods string // of the client, of a workspace, of a memory or of a command
		expected
	}{
		{"Client.CreateWorkspace Client.CreateWorkspaceWith", changes("workspace create", func() error { return c.CreateWorkspace(ctx, "w") })},
		{"Client.SetWorkspace", changes("workspace set", func() error {
			_, err := c.SetWorkspace(ctx, "w", mesh.SettingsChange{})
			return err
		})},
		{"Client.Workspaces", reads("workspace list", func() error { return drain(c.Workspaces(ctx)) })},
		{"Workspace.Info", reads("info", func() error { return second(ws.Info(ctx)) })},
		{"Workspace.MkdirAll", changes("mkdir", func() error { return ws.MkdirAll(ctx, "d/e", 0o755) })},
		{"Workspace.Mkdir", changes("mkdir", func() error { return ws.Mkdir(ctx, "d/f", 0o755) })},
		{"Workspace.WriteFile Workspace.WriteFileInfo", changes("write", func() error { return ws.WriteFile(ctx, "d/large", large, 0) })},
		{"Workspace.CreateFile", changes("write", func() error { return ws.CreateFile(ctx, "d/new", []byte("secret content"), 0) })},
		{"Workspace.Edit", changes("edit", func() error {
			return second(ws.Edit(ctx, "d/new", client.EditRequest{Edits: []mesh.Edit{{Old: "secret", New: "edited"}}}))
		})},
		{"Workspace.Put", changes("write", func() error { return ws.Put(ctx, "d/put", bytes.NewReader(large), 0) })},
		{"Workspace.ReadFile Workspace.ReadFileInfo", reads("read", func() error { return second(ws.ReadFile(ctx, "d/large")) })},
		{"Workspace.Get", reads("read", func() error { return ws.Get(ctx, "d/large", io.Discard) })},
		{"Workspace.ReadRange", reads("read", func() error {
			_, _, err := ws.ReadRange(ctx, mesh.ReadRequest{Path: "d/large"})
			return err
		})},
		{"Workspace.Stat", reads("stat", func() error { return second(ws.Stat(ctx, "d")) })},
		{"Workspace.Lstat", reads("stat", func() error { return second(ws.Lstat(ctx, "d")) })},
		{"Workspace.ReadDir", reads("list", func() error { return drain(ws.ReadDir(ctx, "d")) })},
		{"Workspace.ReadDirPage", reads("list", func() error { return second(ws.ReadDirPage(ctx, mesh.ListRequest{Path: "d"})) })},
		{"Workspace.Search", reads("search", func() error { return drain(ws.Search(ctx, mesh.SearchRequest{Limit: 1})) })},
		{"Workspace.SearchPage", reads("search", func() error { return second(ws.SearchPage(ctx, mesh.SearchRequest{})) })},
		{"Workspace.Grep", reads("grep", func() error { return drain(ws.Grep(ctx, mesh.GrepRequest{Pattern: "x", Limit: 1})) })},
		{"Workspace.GrepPage", reads("grep", func() error { return second(ws.GrepPage(ctx, mesh.GrepRequest{Pattern: "x"})) })},
		{"Workspace.Symlink", changes("symlink", func() error { return ws.Symlink(ctx, "new", "d/link") })},
		{"Workspace.Readlink", reads("readlink", func() error { return second(ws.Readlink(ctx, "d/link")) })},
		{"Workspace.Chmod", changes("chmod", func() error { return ws.Chmod(ctx, "d/new", 0o600) })},
		{"Workspace.Touch", changes("touch", func() error { return ws.Touch(ctx, "d/new", time.Time{}) })},
		{"Workspace.Copy", changes("copy", func() error { return ws.Copy(ctx, "d/new", "d/copy") })},
		{"Workspace.Rename", changes("rename", func() error { return ws.Rename(ctx, "d/copy", "d/moved") })},
		{"Workspace.RenameNew", changes("rename", func() error { return ws.RenameNew(ctx, "d/moved", "d/again") })},
		{"Workspace.GetDir", reads("download", func() error { return ws.GetDir(ctx, "d", &archive) })},
		{"Workspace.PutDir", changes("upload", func() error { return ws.PutDir(ctx, "up", &archive) })},
		{"Workspace.FS", reads("open", func() error {
			f, err := ws.FS(ctx).Open("d/large")
			require.NoError(t, err)
			defer f.Close()
			return second(io.ReadAll(f))
		})},
		{"Workspace.FS", reads("list", func() error { return second(fs.ReadDir(ws.FS(ctx), "d")) })},
		{"Workspace.History", reads("history", func() error { return drain(ws.History(ctx)) })},
		{"Workspace.Commits", reads("history", func() error { return drain(ws.Commits(ctx)) })},
		{"Workspace.HistoryPage", reads("history", func() error { return second(ws.HistoryPage(ctx, mesh.HistoryRequest{})) })},
		{"Workspace.Cursor", reads("watch", func() error { return second(ws.Cursor(ctx)) })},
		{"Workspace.Watch", reads("watch", func() error { return drain(ws.Watch(watching, "")) })},
		{"Workspace.Commit", changes("commit", func() error { return second(ws.Commit(ctx)) })},
		{"Workspace.CreateSnapshot", changes("snapshot create", func() error { return second(ws.CreateSnapshot(ctx, "one", "")) })},
		{"Workspace.Snapshots", reads("snapshot list", func() error { return drain(ws.Snapshots(ctx)) })},
		{"Workspace.At", reads("snapshot find", func() error { return second(ws.At(ctx, "one")) })},
		{"Workspace.Diff", reads("snapshot diff", func() error { return drain(ws.Diff(ctx, "one", "", client.DiffOptions{})) })},
		{"Workspace.DiffPage", reads("snapshot diff", func() error { return second(ws.DiffPage(ctx, mesh.DiffRequest{From: "one", To: "one"})) })},
		{"Workspace.Restore", changes("snapshot restore", func() error { return second(ws.Restore(ctx, "one", nil, nil)) })},
		{"Client.Fork", changes("workspace fork", func() error { return second(c.Fork(ctx, ws.Name(), "", "forked")) })},
		{"Workspace.RemoveSnapshot", changes("snapshot remove", func() error { return ws.RemoveSnapshot(ctx, "one") })},
		{"Workspace.Verify", reads("verify", func() error { return second(ws.Verify(ctx, nil)) })},
		{"Workspace.Recover", changes("recover", func() error {
			requireCode(t, mesh.CodeConflict, second(ws.Recover(ctx, "", nil))) // nothing is broken
			return nil
		})},
		{"Workspace.Remove", changes("remove", func() error { return ws.Remove(ctx, "d/again") })},
		{"Workspace.RemoveAll", changes("remove", func() error { return ws.RemoveAll(ctx, "d") })},
		{"Cmd.Wait", changes("exec", func() error { return ws.Command(ctx, "true").Run() })},
		{"Cmd.Detach", changes("exec", func() error {
			require.NoError(t, running.Start())
			running.Detach()
			running.Wait() //nolint:errcheck // it is detached
			return nil
		})},
		{"Workspace.Exec", reads("ps", func() error { return second(ws.Exec(ctx, running.ID)) })},
		{"Workspace.Running", reads("ps", func() error { return second(ws.Running(ctx)) })},
		{"Workspace.Execs", reads("ps", func() error { return drain(ws.Execs(ctx)) })},
		{"Workspace.Attach", reads("attach", func() error {
			x, err := ws.Attach(ctx, running.ID)
			require.NoError(t, err)
			defer x.Close()
			return drain(x.Stored(ctx))
		})},
		{"Workspace.WriteStdin", changes("stdin", func() error { return second(ws.WriteStdin(ctx, running.ID, []byte("secret typed"))) })},
		{"Workspace.CloseStdin", changes("stdin", func() error { return ws.CloseStdin(ctx, running.ID) })},
		{"Workspace.Resize", changes("resize", func() error { return ws.Resize(ctx, running.ID, 10, 20) })},
		{"Cmd.Resize", changes("resize", func() error { return running.Resize(ctx, 30, 40) })},
		{"Cmd.Signal", changes("signal", func() error { return running.Signal(ctx, "CONT") })},
		{"Workspace.Signal", changes("signal", func() error { return ws.Signal(ctx, running.ID, "KILL") })},
		{"Workspace.WaitAny", reads("wait", func() error {
			_, _, err := ws.WaitAny(ctx, running.ID)
			return err
		})},
		{"Memory.Put", changes("mem put", func() error { return second(mem.Put(ctx, "k", []byte("secret value"))) })},
		{"Memory.Create", changes("mem put", func() error { return second(mem.Create(ctx, "k2", []byte("secret value"))) })},
		{"Memory.Update", changes("mem put", func() error {
			e, err := m.Client.Memory("").Get(ctx, "k")
			require.NoError(t, err)
			return second(mem.Update(ctx, "k", []byte("secret value"), e.Revision))
		})},
		{"Memory.Commit", changes("mem commit", func() error {
			return second(mem.Commit(ctx, client.MemoryOp{Key: "a"}, client.MemoryOp{Key: "b"}))
		})},
		{"Memory.Get", reads("mem get", func() error { return second(mem.Get(ctx, "k")) })},
		{"Memory.List", reads("mem list", func() error { return drain(mem.List(ctx, "")) })},
		{"Memory.ListPage", reads("mem list", func() error { return second(mem.ListPage(ctx, client.MemoryList{})) })},
		{"Memory.Changes", reads("mem watch", func() error { return second(mem.Changes(ctx, "", "")) })},
		{"Memory.Watch", reads("mem watch", func() error { return drain(mem.Watch(watching, "")) })},
		{"Memory.Delete", changes("mem delete", func() error { return mem.Delete(ctx, "k") })},
		{"Memory.DeleteAll", changes("mem delete", func() error { return second(mem.DeleteAll(ctx, "")) })},
		{"Client.RemoveWorkspace", changes("workspace remove", func() error { return c.RemoveWorkspace(ctx, "w") })},
		{"Client.RemoveWorkspaceByForce", changes("workspace remove", func() error {
			require.NoError(t, m.Client.CreateWorkspace(ctx, "w"))
			return c.RemoveWorkspaceByForce(ctx, "w")
		})},
	} {
		t.Run(test.methods, func(t *testing.T) {
			for method := range strings.FieldsSeq(test.methods) {
				tried[method] = true
			}
			log.taken()
			require.NoError(t, test.do())
			got := log.taken()
			require.Len(t, got, 1)
			require.Equal(t, test.level, got[0].Level)
			attrs := attrsOf(got[0])
			require.Equal(t, test.name, attrs["op"])
			require.Equal(t, string(nodetest.Tenant), attrs["tenant"])
			require.Contains(t, attrs, "dur")
			if test.methods != "Cmd.Detach" && test.methods != "Workspace.Recover" {
				require.NotContains(t, attrs, "err")
			}
		})
	}
	for _, kind := range []reflect.Type{reflect.TypeFor[*client.Client](), reflect.TypeFor[*client.Workspace](), reflect.TypeFor[*client.Memory]()} {
		for i := range kind.NumMethod() {
			method := kind.Method(i)
			name := kind.Elem().Name() + "." + method.Name
			if method.Type.NumIn() > 1 && method.Type.In(1) == reflect.TypeFor[context.Context]() && name != "Workspace.Command" {
				require.True(t, tried[name], "%s is an operation that this test does not try", name)
			}
		}
	}
}

// A record says what was done, with what, and how it ended, and no secret. The
// standard log has no reads.
func TestOperationRecords(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	var text bytes.Buffer
	log := newRecorder(&text, slog.LevelInfo)
	ctx := t.Context()
	ws := connectLogging(t, m, log).Workspace("w").Scope("sub", client.Env{"KEY": "secret"})
	one := func(t *testing.T) map[string]any {
		t.Helper()
		got := log.taken()
		require.Len(t, got, 1)
		require.Equal(t, "operation", got[0].Message)
		attrs := attrsOf(got[0])
		require.Equal(t, "w", attrs["workspace"])
		require.Equal(t, "sub", attrs["scope"])
		return attrs
	}
	require.NoError(t, ws.WriteFile(ctx, "f", []byte("secret"), 0))
	require.Equal(t, "f", one(t)["path"])
	err := ws.CreateFile(ctx, "f", []byte("secret"), 0)
	requireCode(t, mesh.CodeExists, err)
	attrs := one(t)
	require.Equal(t, "exists", attrs["code"])
	require.ErrorIs(t, attrs["err"].(error), mesh.Errorf(mesh.CodeExists, ""))
	require.NoError(t, ws.Rename(ctx, "f", "g"))
	attrs = one(t)
	require.Equal(t, "f", attrs["path"])
	require.Equal(t, "g", attrs["to"])
	_, err = ws.ReadFile(ctx, "g")
	require.NoError(t, err)
	require.Empty(t, log.taken(), "the standard log has no reads")

	cmd := ws.Command(ctx, "sh", "-c", "cat; exit $1", strings.Repeat("x", 3000), "7")
	cmd.Env, cmd.Stdin, cmd.Stdout = []string{"TOKEN=secret"}, strings.NewReader("secret"), io.Discard
	var exit *client.ExitError
	require.ErrorAs(t, cmd.Run(), &exit)
	attrs = one(t)
	require.Equal(t, cmd.ID, attrs["exec"])
	require.EqualValues(t, 7, attrs["exit"])
	require.NotContains(t, attrs, "err")
	command := attrs["command"].([]string)
	require.Equal(t, []string{"sh", "-c", "cat; exit $1"}, command[:3])
	require.Less(t, len(strings.Join(command, "")), mesh.MaxListedArgs+10)

	cmd = ws.Command(ctx, "sleep", "600")
	cmd.Timeout = time.Millisecond
	require.Error(t, cmd.Run())
	attrs = one(t)
	require.EqualValues(t, 124, attrs["exit"])
	require.Equal(t, "timeout", attrs["limit"])

	cmd = ws.Command(ctx, "true")
	cmd.Dir = "nowhere"
	requireCode(t, mesh.CodeNotFound, cmd.Run())
	attrs = one(t)
	require.Equal(t, "not_found", attrs["code"])
	require.NotContains(t, attrs, "exit")

	cmd = ws.Command(ctx, "sleep", "0.2")
	cmd.Patience = time.Millisecond
	require.NoError(t, cmd.Start())
	requireCode(t, mesh.CodeDeadline, cmd.Wait())
	require.Empty(t, log.taken(), "it is not over")
	cmd.Patience = 0
	require.NoError(t, cmd.Wait())
	require.EqualValues(t, 0, one(t)["exit"])

	stopped, stop := context.WithCancel(ctx)
	cmd = ws.Command(stopped, "sleep", "600")
	require.NoError(t, cmd.Start())
	stop()
	requireCode(t, mesh.CodeCanceled, cmd.Wait())
	require.Equal(t, "canceled", one(t)["code"])
	require.NotContains(t, text.String(), "secret")
}
