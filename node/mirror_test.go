package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
	"github.com/wsmesh/wsmesh/objstore/mirror"
	"github.com/wsmesh/wsmesh/objstore/s3bucket"
	"github.com/wsmesh/wsmesh/objstore/s3test"
)

// soon is how long a change may be in no commit in these tests.
const soon = 200 * time.Millisecond

// long is how long the end of a node may take in those that wait for it.
const long = time.Minute

// flaky is a remote that can be down.
type flaky struct {
	objstore.Remote
	down, files atomic.Bool // all of it, or for readable copies
	puts        atomic.Int64
}

func (f *flaky) fail() error {
	if f.down.Load() {
		return mesh.Errorf(mesh.CodeUnavailable, "the remote is down")
	}
	return nil
}

func (f *flaky) Get(ctx context.Context, name string, offset int64, n int) ([]byte, objstore.Object, error) {
	if err := f.fail(); err != nil {
		return nil, objstore.Object{}, err
	}
	return f.Remote.Get(ctx, name, offset, n)
}

func (f *flaky) Put(ctx context.Context, name string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	if err := f.fail(); err != nil {
		return "", err
	}
	if f.files.Load() && strings.Contains(name, "/files/") {
		return "", mesh.Errorf(mesh.CodeInvalid, "no name for a file")
	}
	f.puts.Add(1)
	return f.Remote.Put(ctx, name, body, size, how)
}

func directory(t *testing.T) *flaky {
	t.Helper()
	s, err := dirbucket.OpenStore(t.TempDir())
	require.NoError(t, err)
	return &flaky{Remote: s}
}

// copied reads from the copy what a workspace's files hold; nil: it has no head, or
// that is not whole.
func copied(t *testing.T, r objstore.Remote, w mesh.Workspace) map[string]string {
	t.Helper()
	m, err := mirror.New(r, "")
	require.NoError(t, err)
	h, err := m.Head(t.Context(), nodetest.Tenant, w)
	require.NoError(t, err)
	if h.Format == 0 || h.Removed {
		return nil
	}
	s, err := m.Store(nodetest.Tenant)
	require.NoError(t, err)
	reader, c, err := s.CommitReader(t.Context(), h.Ref)
	require.NoError(t, err, "a head names what is there")
	files := map[string]string{}
	for it, err := range reader.Walk(t.Context(), c.Root) {
		require.NoError(t, err)
		if it.Entry.Type == objstore.TypeFile {
			var b bytes.Buffer
			_, err := b.ReadFrom(reader.Open(t.Context(), &it.Entry))
			require.NoError(t, err)
			files[it.Path] = b.String()
		}
	}
	return files
}

func eventuallyCopied(t *testing.T, r objstore.Remote, w mesh.Workspace, want map[string]string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.Equal(c, want, copied(t, r, w)) }, 60*time.Second, 100*time.Millisecond)
}

// TestMirror: what is acknowledged is in the copy soon, without a stop and without a
// pause in the writing; the end of a node waits for what is not.
func TestMirror(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		r := directory(t)
		m.StopNode(t)
		m.SetMirror(node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon}, long)
		m.StartNode(t)
		ctx, ws, mem := t.Context(), m.Client.Workspace("repo"), m.Client.Memory("agent")
		require.NoError(t, ws.WriteFile(ctx, "a/f", []byte("one"), 0))
		_, err := mem.Put(ctx, "k/1", []byte("v1"), client.TTL(time.Hour))
		require.NoError(t, err)
		eventuallyCopied(t, r, "repo", map[string]string{"a/f": "one"})
		for i := range 8 { // while it is written to
			require.NoError(t, ws.WriteFile(ctx, "a/f", fmt.Append(nil, i), 0))
			require.NoError(t, ws.WriteFile(ctx, "g", bytes.Repeat([]byte("x"), 300<<10+i), 0))
		}
		eventuallyCopied(t, r, "repo", map[string]string{"a/f": "7", "g": string(bytes.Repeat([]byte("x"), 300<<10+7))})
		require.Eventually(t, func() bool {
			var s mesh.StatusReply
			require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &s))
			require.NotNil(t, s.Mirror)
			return s.Mirror.Bytes == 0 && s.Mirror.Seconds == 0 && s.Mirror.Error == ""
		}, 60*time.Second, 100*time.Millisecond, "all is copied at some time")

		require.NoError(t, ws.WriteFile(ctx, "last", []byte("x"), 0))
		require.NoError(t, ws.Remove(ctx, "g"))
		_, err = mem.Put(ctx, "k/2", []byte("v2"))
		require.NoError(t, err)
		require.NoError(t, mem.Delete(ctx, "k/1"))
		m.StopNode(t)
		require.Equal(t, map[string]string{"a/f": "7", "last": "x"}, copied(t, r, "repo"), "the end waits for the copy")
		require.Equal(t, map[string]string{"k/2": "v2"}, copiedMemory(t, r, "agent"))
		var tenant mirror.Record
		readJSON(t, r, mirror.TenantName(nodetest.Tenant), &tenant)
		require.Contains(t, string(tenant.Value), `"generation"`)
		var w mirror.Record
		readJSON(t, r, mirror.WorkspaceName(nodetest.Tenant, "repo"), &w)
		require.False(t, w.Removed)
	})
}

func readJSON(t *testing.T, r objstore.Remote, name string, v any) {
	t.Helper()
	b, _, err := objstore.GetSmall(t.Context(), r, name)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, v))
}

func copiedMemory(t *testing.T, r objstore.Remote, ns mesh.Namespace) map[string]string {
	t.Helper()
	m, err := mirror.New(r, "")
	require.NoError(t, err)
	h, err := m.MemoryHead(t.Context(), nodetest.Tenant, ns)
	require.NoError(t, err)
	all := map[string]string{}
	for e, err := range m.Entries(t.Context(), nodetest.Tenant, h) {
		require.NoError(t, err)
		all[e.Key] = string(e.Value)
		if e.Deleted {
			delete(all, e.Key)
		}
	}
	require.Len(t, all, h.Keys)
	return all
}

// TestMirrorDown: while the remote is down nothing is blocked and nothing lost; then it
// is copied. The end of a node says what is not copied.
func TestMirrorDown(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		r := directory(t)
		m.StopNode(t)
		m.SetMirror(node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon}, time.Second)
		r.down.Store(true)
		m.StartNode(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("one"), 0))
		require.Eventually(t, func() bool {
			var s mesh.StatusReply
			require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &s))
			return s.Mirror.Bytes > 0 && s.Mirror.Seconds > 0 && s.Mirror.Error != ""
		}, 30*time.Second, 50*time.Millisecond)
		require.ErrorContains(t, m.EndNode(), "not all was copied to the mirror")
		m.SetMirror(node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon}, long)
		m.StartNode(t)
		require.NoError(t, ws.WriteFile(ctx, "g", []byte("two"), 0))
		r.down.Store(false)
		eventuallyCopied(t, r, "repo", map[string]string{"f": "one", "g": "two"})
		behind := func(least int64) {
			require.Eventually(t, func() bool {
				var s mesh.StatusReply
				require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &s))
				return s.Mirror.Bytes >= least && (least > 0 || s.Mirror.Bytes == 0)
			}, 60*time.Second, 50*time.Millisecond)
		}
		behind(0)
		r.down.Store(true)
		_, err := m.Client.Memory("agent").Put(ctx, "k", make([]byte, 100<<10))
		require.NoError(t, err)
		behind(100 << 10)
		r.down.Store(false)
		behind(0)
		m.StopNode(t)
	})
}

// TestMirrorFiles: the readable copy follows the copy, does not hold it up where it
// cannot be made, and is made before a node ends. What is held back is told.
func TestMirrorFiles(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		r := directory(t)
		cfg := node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon, Files: true}
		m.StopNode(t)
		m.SetMirror(cfg, long)
		m.StartNode(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		readable := func() map[string]string {
			all := map[string]string{}
			const below = "tenants/acme/workspaces/repo/files/"
			for o, err := range r.List(ctx, below, "") {
				require.NoError(t, err)
				data, _, err := r.Get(ctx, o.Name, 0, 100)
				if err == nil { // else it has gone meanwhile
					all[strings.TrimPrefix(o.Name, below)] = string(data)
				}
			}
			return all
		}
		files := func(want string) {
			t.Helper()
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				var s mesh.StatusReply
				require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &s))
				assert.Equal(c, want == "", s.Mirror.FilesError == "")
				assert.Contains(c, s.Mirror.FilesError, want)
				assert.Empty(c, s.Mirror.Error)
			}, 60*time.Second, 50*time.Millisecond)
		}
		require.NoError(t, ws.WriteFile(ctx, "d/f", []byte("one"), 0))
		require.Eventually(t, func() bool { return maps.Equal(map[string]string{"d/f": "one"}, readable()) }, 60*time.Second, 50*time.Millisecond)
		r.files.Store(true)
		require.NoError(t, ws.WriteFile(ctx, "g", []byte("two"), 0))
		eventuallyCopied(t, r, "repo", map[string]string{"d/f": "one", "g": "two"})
		files("no name for a file")
		r.files.Store(false)
		require.NoError(t, ws.RemoveAll(ctx, "d"))
		require.NoError(t, ws.WriteFile(ctx, "d", []byte("flat"), 0))
		m.StopNode(t)
		require.Equal(t, map[string]string{"d": "flat", "g": "two"}, readable())

		m.StartNode(t)
		for i := range mirror.GuardedFiles + 1 {
			require.NoError(t, ws.WriteFile(ctx, fmt.Sprint("many/", i), nil, 0))
		}
		require.Eventually(t, func() bool { return len(readable()) == mirror.GuardedFiles+3 }, 60*time.Second, 50*time.Millisecond)
		require.NoError(t, ws.RemoveAll(ctx, "many"))
		eventuallyCopied(t, r, "repo", map[string]string{"d": "flat", "g": "two"})
		files("removes")
		require.Len(t, readable(), mirror.GuardedFiles+3)
		require.NoError(t, ws.WriteFile(ctx, "next", nil, 0))
		require.Eventually(t, func() bool { return len(readable()) == 3 }, 60*time.Second, 50*time.Millisecond)
		files("")
		m.StopNode(t)
	})
}

// TestMirrorOfAnotherMesh: a mesh writes nothing over the copy of another one, until it
// is told to.
func TestMirrorOfAnotherMesh(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		r := directory(t)
		other, err := mirror.New(r, "another mesh")
		require.NoError(t, err)
		require.NoError(t, other.Claim(t.Context(), false, func(context.Context) error { return nil }))
		puts := r.puts.Load()
		m.StopNode(t)
		m.SetMirror(node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon}, long)
		m.StartNode(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("one"), 0))
		require.Eventually(t, func() bool {
			var s mesh.StatusReply
			require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &s))
			return s.Mirror.Paused
		}, 30*time.Second, 50*time.Millisecond)
		require.ErrorContains(t, m.EndNode(), "another mesh")
		require.Equal(t, puts, r.puts.Load(), "nothing was written")

		m.SetMirror(node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon, Adopt: true}, long)
		m.StartNode(t)
		m.StopNode(t)
		require.Equal(t, map[string]string{"f": "one"}, copied(t, r, "repo"))
		err = other.Claim(t.Context(), false, nil)
		require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), "%v", err)
	})
}

// TestMirrorOfRemoved: what is removed leaves a tombstone, and a name that is used again
// is another workspace.
func TestMirrorOfRemoved(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		r := directory(t)
		m.StopNode(t)
		m.SetMirror(node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon}, long)
		m.StartNode(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("one"), 0))
		eventuallyCopied(t, r, "repo", map[string]string{"f": "one"})
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
		head := func() (h mirror.Head) {
			readJSON(t, r, "tenants/acme/workspaces/repo/HEAD", &h)
			return h
		}
		require.Eventually(t, func() bool { return head().Removed }, 30*time.Second, 50*time.Millisecond)
		require.Eventually(t, func() bool {
			var w mirror.Record
			readJSON(t, r, mirror.WorkspaceName(nodetest.Tenant, "repo"), &w)
			return w.Removed
		}, 30*time.Second, 50*time.Millisecond)
		require.NoError(t, ws.WriteFile(ctx, "g", []byte("two"), 0))
		eventuallyCopied(t, r, "repo", map[string]string{"g": "two"})
		require.False(t, head().Removed)
		m.StopNode(t)
	})
}

// TestMirrorBuries: a snapshot that was removed, and forgotten before the copy could be
// reached, is not restored: collecting tells the copy of it.
func TestMirrorBuries(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		r := directory(t)
		m.StopNode(t)
		m.SetMirror(node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon}, long)
		m.StartNode(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("one"), 0))
		removed := func(name mesh.Snapshot) (there, removed bool) {
			b, _, err := objstore.GetSmall(ctx, r, mirror.SnapshotName(nodetest.Tenant, "repo", name))
			var rec mirror.Record
			if err == nil {
				require.NoError(t, json.Unmarshal(b, &rec))
			}
			return err == nil, rec.Removed
		}
		for _, name := range []string{"kept", "dropped"} {
			_, err := ws.CreateSnapshot(ctx, name, "")
			require.NoError(t, err)
			require.Eventually(t, func() bool { there, _ := removed(mesh.Snapshot(name)); return there }, 60*time.Second, 50*time.Millisecond)
		}
		name := mirror.SnapshotName(nodetest.Tenant, "repo", "dropped")
		before, _, err := objstore.GetSmall(ctx, r, name)
		require.NoError(t, err)
		require.NoError(t, ws.RemoveSnapshot(ctx, "dropped"))
		require.Eventually(t, func() bool { _, gone := removed("dropped"); return gone }, 60*time.Second, 50*time.Millisecond)
		_, version, err := objstore.GetSmall(ctx, r, name)
		require.NoError(t, err)
		require.NoError(t, objstore.PutSmall(ctx, r, name, before, version)) // as if nobody had told it
		var reply mesh.CollectReply
		req := mesh.CollectRequest{ID: mesh.NewID(), Tenant: nodetest.Tenant, KeepLast: 1, KeepWithinMS: 1}
		for !reply.Done {
			require.NoError(t, m.Ask(t, mesh.VerbAdminCollect, req, &reply))
		}
		_, gone := removed("dropped")
		require.True(t, gone)
		there, gone := removed("kept")
		require.True(t, there && !gone)
		m.StopNode(t)
	})
}

// TestMirrorOnS3 is TestMirror's end on a real server, which dies on the way.
func TestMirrorOnS3(t *testing.T) {
	s3test.Setenv(t)
	server := s3test.Start(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		url := "s3://" + s3test.Bucket + "/" + t.Name() + "?endpoint=" + server.URL()
		r, err := s3bucket.Open(t.Context(), url)
		require.NoError(t, err)
		m.StopNode(t)
		m.SetMirror(node.MirrorConfig{Remote: r, URL: url, After: soon}, long)
		m.StartNode(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("one"), 0))
		eventuallyCopied(t, r, "repo", map[string]string{"f": "one"})
		server.Kill()
		require.NoError(t, ws.WriteFile(ctx, "g", []byte("two"), 0))
		time.Sleep(2 * soon)
		require.NoError(t, ws.WriteFile(ctx, "h", []byte("three"), 0))
		server.Start(t)
		eventuallyCopied(t, r, "repo", map[string]string{"f": "one", "g": "two", "h": "three"})
		m.StopNode(t)
	})
}

// TestRestoreMesh: with the copy alone an empty mesh gets everything back, what was
// removed apart; the mesh before writes nothing over it, and the new one goes on.
func TestRestoreMesh(t *testing.T) {
	r := directory(t)
	cfg := node.MirrorConfig{Remote: r, URL: "file:///copy", After: soon}
	files := map[string]string{"a/f": "one", "g": string(bytes.Repeat([]byte("x"), 300<<10))}
	t.Run("before", func(t *testing.T) {
		nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
			m.StopNode(t)
			m.SetMirror(cfg, long)
			m.StartNode(t)
			ctx := t.Context()
			for _, w := range []string{"repo", "gone"} {
				for name, data := range files {
					require.NoError(t, m.Client.Workspace(w).WriteFile(ctx, name, []byte(data), 0))
				}
			}
			repo := m.Client.Workspace("repo")
			for _, name := range []string{"kept", "dropped"} {
				_, err := repo.CreateSnapshot(ctx, name, "of "+name)
				require.NoError(t, err)
			}
			_, err := m.Client.Fork(ctx, "repo", "", "fork")
			require.NoError(t, err)
			_, err = m.Client.Workspace("fork").CreateSnapshot(ctx, "kept", "") // of a commit of repo
			require.NoError(t, err)
			// Nothing of the snapshots is in what comes later.
			require.NoError(t, m.Client.Workspace("fork").Remove(ctx, "g"))
			require.NoError(t, m.Client.Workspace("fork").WriteFile(ctx, "a/f", []byte("of the fork"), 0))
			require.NoError(t, repo.WriteFile(ctx, "a/f", []byte("later"), 0))
			require.NoError(t, repo.WriteFile(ctx, "g", []byte("later"), 0))
			require.NoError(t, repo.WriteFile(ctx, "new", nil, 0))
			mem := m.Client.Memory("agent")
			for _, key := range []string{"k/1", "k/2", "k/3"} {
				_, err := mem.Put(ctx, key, []byte("of "+key), client.TTL(time.Hour))
				require.NoError(t, err)
			}
			eventuallyCopied(t, r, "gone", files)
			require.NoError(t, m.Client.RemoveWorkspace(ctx, "gone"))
			require.NoError(t, mem.Delete(ctx, "k/2"))
			require.NoError(t, repo.RemoveSnapshot(ctx, "dropped"))
			m.StopNode(t)
		})
	})
	t.Run("after", func(t *testing.T) {
		nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
			m.StopNode(t)
			cfg.Slice = 1 // each request restores one thing, and finds its way to the next
			m.SetMirror(cfg, long)
			m.StartNode(t)
			ctx := t.Context()
			var reply mesh.MeshRestoreReply
			require.Equal(t, mesh.CodeConflict, mesh.CodeOf(m.Ask(t, mesh.VerbAdminRestore, mesh.MeshRestoreRequest{URL: "file:///other"}, &reply)))
			for asked := 0; !reply.Done; asked++ {
				require.Less(t, asked, 20, "it comes to an end")
				require.NoError(t, m.Ask(t, mesh.VerbAdminRestore, mesh.MeshRestoreRequest{URL: cfg.URL}, &reply))
			}
			require.Empty(t, reply.Failed)
			require.Equal(t, 2, reply.Workspaces)
			require.Equal(t, 2, reply.Snapshots)
			ws, mem := m.Client.Workspace("repo"), m.Client.Memory("agent")
			for _, w := range []mesh.Workspace{"repo", "fork"} {
				old, err := m.Client.Workspace(string(w)).At(ctx, "kept")
				require.NoError(t, err)
				for name, want := range files {
					got, err := old.ReadFile(ctx, name)
					require.NoError(t, err, "%s of %s at its snapshot", name, w)
					require.Equal(t, want, string(got))
				}
			}
			for name, want := range map[string]string{"a/f": "later", "g": "later", "new": ""} {
				got, err := ws.ReadFile(ctx, name)
				require.NoError(t, err)
				require.Equal(t, want, string(got))
			}
			_, err := ws.At(ctx, "dropped")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
			_, err = m.Client.Workspace("fork").ReadFile(ctx, "g")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
			_, err = m.Client.Workspace("gone").ReadFile(ctx, "g")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
			for key, there := range map[string]bool{"k/1": true, "k/2": false, "k/3": true} {
				e, err := mem.Get(ctx, key)
				require.Equal(t, there, err == nil, "%s: %v", key, err)
				if there {
					require.Equal(t, "of "+key, string(e.Value))
					require.False(t, e.Expires.IsZero())
				}
			}
			require.Error(t, m.Ask(t, mesh.VerbAdminRestore, mesh.MeshRestoreRequest{URL: cfg.URL}, &reply), "it is this mesh's copy now")
			require.NoError(t, ws.WriteFile(ctx, "a/f", []byte("two"), 0))
			eventuallyCopied(t, r, "repo", map[string]string{"a/f": "two", "g": "later", "new": ""})
			m.StopNode(t)
		})
	})
}
