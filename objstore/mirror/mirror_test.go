package mirror_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
	"github.com/wsmesh/wsmesh/objstore/mirror"
)

const tenant, workspace = mesh.Tenant("acme"), mesh.Workspace("repo")

func remote(t *testing.T) objstore.Remote {
	t.Helper()
	s, err := dirbucket.OpenStore(t.TempDir())
	require.NoError(t, err)
	return s
}

func newMirror(t *testing.T, r objstore.Remote, id string) *mirror.Mirror {
	t.Helper()
	m, err := mirror.New(r, id)
	require.NoError(t, err)
	return m
}

func source(t *testing.T) *objstore.Store {
	t.Helper()
	b, err := dirbucket.Open(t.TempDir())
	require.NoError(t, err)
	s, err := objstore.New(b, objstore.Config{})
	require.NoError(t, err)
	return s
}

// commit stores a commit with one file, in packs of its own.
func commit(t *testing.T, s *objstore.Store, n int) objstore.Ref {
	t.Helper()
	w := s.Writer(nil)
	now := time.Unix(1764150000, 0)
	root, err := w.Tree(t.Context(), func(yield func(objstore.Item, error) bool) {
		if yield(objstore.Item{Path: ".", Entry: objstore.Entry{Type: objstore.TypeDir, Mode: 0o700, ModTime: now}}, nil) {
			f := objstore.Item{Path: "f", Entry: objstore.Entry{Name: "f", Type: objstore.TypeFile, Mode: 0o600, ModTime: now}}
			text := fmt.Sprint("content ", n)
			f.Entry.Size = int64(len(text))
			f.Open = func() (io.ReadCloser, error) { return io.NopCloser(stringReader(text)), nil }
			yield(f, nil)
		}
	})
	require.NoError(t, err)
	_, err = w.Flush(t.Context()) // so that the commit's pack is not the only one
	require.NoError(t, err)
	ref, err := w.Commit(t.Context(), objstore.Commit{Workspace: "id", Epoch: 1, Time: now, Root: root})
	require.NoError(t, err)
	return ref
}

func stringReader(s string) io.Reader { return &reader{s} }

type reader struct{ rest string }

func (r *reader) Read(b []byte) (int, error) {
	if r.rest == "" {
		return 0, io.EOF
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// whole requires that what the head names is there, and returns it.
func whole(t *testing.T, r objstore.Remote) mirror.Head {
	t.Helper()
	m := newMirror(t, r, "reader")
	h, err := m.Head(t.Context(), tenant, workspace)
	require.NoError(t, err)
	if h.Format == 0 || h.Removed {
		return h
	}
	s, err := m.Store(tenant)
	require.NoError(t, err)
	reader, c, err := s.CommitReader(t.Context(), h.Ref)
	require.NoError(t, err, "the head names a commit that is not whole")
	require.NoError(t, reader.Verify(t.Context(), c.Root))
	return h
}

// TestOrder stops at each step of a copy, as a crash does: what the head names is whole,
// and another one goes on.
func TestOrder(t *testing.T) {
	r, from := remote(t), source(t)
	first := mirror.Head{Workspace: "id", Epoch: 1, Sequence: 1, Ref: commit(t, from, 1)}
	_, err := newMirror(t, r, "m").Commit(t.Context(), tenant, workspace, first, from)
	require.NoError(t, err)
	stopped := errors.New("stopped")
	for i, step := range []string{"mirror packs stored", "mirror commit stored", "mirror head stored"} {
		next := mirror.Head{Workspace: "id", Epoch: 1, Sequence: uint64(i + 2), Ref: commit(t, from, i+2)}
		m := newMirror(t, r, "m")
		m.Step = func(at string) {
			whole(t, r)
			if at == step {
				panic(stopped)
			}
		}
		require.PanicsWithError(t, "stopped", func() { _, _ = m.Commit(t.Context(), tenant, workspace, next, from) }, step)
		require.Equal(t, step == "mirror head stored", whole(t, r).Sequence == next.Sequence, step)
		_, err := newMirror(t, r, "m").Commit(t.Context(), tenant, workspace, next, from)
		require.NoError(t, err)
		require.Equal(t, next.Ref, whole(t, r).Ref)
	}
}

// overtaken lets another one write between a reading and the writing that follows.
type overtaken struct {
	objstore.Remote
	name string
	by   func()
}

func (o *overtaken) Put(ctx context.Context, name string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	if by := o.by; by != nil && name == o.name {
		o.by = nil
		by()
	}
	return o.Remote.Put(ctx, name, body, size, how)
}

// TestLateHead: who is late does not take the head back, whatever comes between.
func TestLateHead(t *testing.T) {
	r, from := remote(t), source(t)
	old := mirror.Head{Workspace: "id", Epoch: 1, Sequence: 9, Ref: commit(t, from, 1)}
	newer := mirror.Head{Workspace: "id", Epoch: 2, Sequence: 3, Ref: commit(t, from, 2)}
	slow := &overtaken{Remote: r, name: "tenants/acme/workspaces/repo/HEAD"}
	slow.by = func() {
		_, err := newMirror(t, r, "m").Commit(t.Context(), tenant, workspace, newer, from)
		require.NoError(t, err)
	}
	h, err := newMirror(t, slow, "m").Commit(t.Context(), tenant, workspace, old, from)
	require.NoError(t, err)
	require.Equal(t, newer.Ref, h.Ref)
	require.Equal(t, newer.Ref, whole(t, r).Ref)

	h, err = newMirror(t, r, "m").Commit(t.Context(), tenant, workspace, mirror.Head{Workspace: "id", Epoch: 2, Sequence: 4, Removed: true}, nil)
	require.NoError(t, err)
	require.True(t, h.Removed)
	_, err = newMirror(t, r, "m").Commit(t.Context(), tenant, workspace, newer, from)
	require.NoError(t, err)
	require.True(t, whole(t, r).Removed, "what is removed stays that")
}

func TestRecords(t *testing.T) {
	r := remote(t)
	m, name := newMirror(t, r, "m"), mirror.TenantName(tenant)
	read := func() (rec mirror.Record) {
		b, _, err := objstore.GetSmall(t.Context(), r, name)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &rec))
		return rec
	}
	for _, c := range []struct {
		mesh           string
		revision, want uint64
	}{{"m", 5, 5}, {"m", 4, 5}, {"m", 7, 7}, {"other", 2, 2}} {
		if c.mesh != "m" {
			m = newMirror(t, r, c.mesh)
		}
		require.NoError(t, m.Record(t.Context(), name, mirror.Record{Revision: c.revision, Value: json.RawMessage(`{}`)}))
		require.Equal(t, c.want, read().Revision)
	}
}

// TestClaim: a copy is one mesh's, and after a crash everything is copied all the same.
func TestClaim(t *testing.T) {
	r := remote(t)
	begun := 0
	fails := func(context.Context) error { return errors.New("crash") }
	begin := func(context.Context) error { begun++; return nil }
	a, b := newMirror(t, r, "a"), newMirror(t, r, "b")
	require.Error(t, a.Claim(t.Context(), false, fails))
	require.NoError(t, a.Claim(t.Context(), false, begin))
	require.NoError(t, a.Claim(t.Context(), false, begin))
	require.Equal(t, 1, begun)
	err := b.Claim(t.Context(), false, begin)
	require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), "%v", err)
	require.NoError(t, b.Claim(t.Context(), true, begin))
	require.Equal(t, 2, begun)
	require.Error(t, a.Claim(t.Context(), false, begin))
}

func TestMemoryCopy(t *testing.T) {
	r := remote(t)
	m := newMirror(t, r, "m")
	dump := func(sequence uint64, entries ...mirror.MemoryEntry) func(context.Context, func(mirror.MemoryEntry) error) (uint64, error) {
		return func(_ context.Context, yield func(mirror.MemoryEntry) error) (uint64, error) {
			for _, e := range entries {
				if err := yield(e); err != nil {
					return 0, err
				}
			}
			return sequence, nil
		}
	}
	one, two := mirror.MemoryEntry{Key: "ä/1", Revision: 1, Value: []byte{0, 255}}, mirror.MemoryEntry{Key: "2", Revision: 2, Value: make([]byte, 3<<20)}
	read := func() (all []mirror.MemoryEntry) {
		h, err := m.MemoryHead(t.Context(), tenant, "main")
		require.NoError(t, err)
		for e, err := range m.Entries(t.Context(), tenant, h) {
			require.NoError(t, err)
			all = append(all, e)
		}
		return all
	}
	_, err := m.Memory(t.Context(), tenant, "main", 1, dump(1, one))
	require.NoError(t, err)
	require.Equal(t, []mirror.MemoryEntry{one}, read())
	_, err = m.Memory(t.Context(), tenant, "main", 2, func(context.Context, func(mirror.MemoryEntry) error) (uint64, error) { return 0, errors.New("broken") })
	require.ErrorContains(t, err, "broken")
	require.Equal(t, []mirror.MemoryEntry{one}, read())
	_, err = m.Memory(t.Context(), tenant, "main", 2, dump(2, one, two))
	require.NoError(t, err)
	require.Equal(t, []mirror.MemoryEntry{one, two}, read())
	_, err = m.Memory(t.Context(), tenant, "main", 1, dump(1))
	require.NoError(t, err)
	require.Len(t, read(), 2, "what is late changes nothing")
}
