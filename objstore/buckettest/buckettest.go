// Package buckettest is what every objstore.Bucket must do: one suite that each
// driver runs on what it really stores in.
package buckettest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Run tests a driver. Each call of open gives another handle on the same bucket,
// as another process would have it; the bucket is empty at first.
func Run(t *testing.T, open func(t *testing.T) objstore.Bucket) {
	s := &suite{a: open(t), b: open(t)}
	t.Run("empty", s.empty)
	t.Run("sizes", s.sizes)
	t.Run("ranges", s.ranges)
	t.Run("again", s.again)
	t.Run("delete", s.delete)
	t.Run("list", s.list)
	t.Run("at once", s.atOnce)
	t.Run("canceled", s.canceled)
}

// Object makes n bytes that no other seed makes, and their name.
func Object(seed uint64, n int) (objstore.ID, []byte) {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	data := make([]byte, n)
	_, _ = r.Read(data)
	return objstore.IDOf(data), data
}

// MaxObject is the largest object that a store puts, about.
const MaxObject = objstore.MaxPackBytes + 400<<10

// suite writes with one handle and reads with the other.
type suite struct {
	a, b objstore.Bucket
}

func (s *suite) empty(t *testing.T) {
	id, _ := Object(0, 10)
	_, err := s.b.Get(t.Context(), id, 0, 10)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
	require.NoError(t, s.a.Delete(t.Context(), id), "nothing to delete is no error")
	require.Empty(t, s.names(t, s.b))
}

func (s *suite) names(t *testing.T, b objstore.Bucket) (all []objstore.ID) {
	for id, err := range b.List(t.Context()) {
		require.NoError(t, err)
		all = append(all, id)
	}
	return all
}

func (s *suite) put(t *testing.T, seed uint64, n int) (objstore.ID, []byte) {
	id, data := Object(seed, n)
	require.NoError(t, s.a.Put(t.Context(), id, data))
	t.Cleanup(func() { require.NoError(t, s.a.Delete(context.WithoutCancel(t.Context()), id)) })
	return id, data
}

func (s *suite) sizes(t *testing.T) {
	part := mesh.MaxMessage
	for i, n := range []int{1, part - 1, part, part + 1, 2 * part, MaxObject} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			id, data := s.put(t, uint64(100+i), n)
			for name, handle := range map[string]objstore.Bucket{"writer": s.a, "reader": s.b} {
				got, err := handle.Get(t.Context(), id, 0, n+1)
				require.NoError(t, err, name)
				require.Equal(t, id, objstore.IDOf(got), name)
			}
			require.Equal(t, id, objstore.IDOf(data), "put leaves the caller's bytes alone")
		})
	}
}

func (s *suite) ranges(t *testing.T) {
	size := 2*mesh.MaxMessage + 1000
	id, data := s.put(t, 200, size)
	r := rand.New(rand.NewPCG(1, 2))
	check := func(offset int64, n int) {
		from, to, err := objstore.Range(int64(size), offset, n)
		require.NoError(t, err)
		got, err := s.b.Get(t.Context(), id, offset, n)
		require.NoError(t, err)
		require.Equal(t, objstore.IDOf(data[from:to]), objstore.IDOf(got), "%d bytes from %d", n, offset)
	}
	for _, at := range []int{0, 1, mesh.MaxMessage - 1, mesh.MaxMessage, mesh.MaxMessage + 1, 2 * mesh.MaxMessage, size - 1, size} {
		for _, n := range []int{0, 2, size} {
			check(int64(at), n)
		}
	}
	for range 10 {
		check(int64(r.IntN(2*size)-size), r.IntN(size))
	}
	check(int64(-size-1000), 100)
	check(-10, 100)
	_, err := s.b.Get(t.Context(), id, int64(size+1), 1)
	require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%v", err)
}

func (s *suite) again(t *testing.T) {
	id, data := s.put(t, 300, mesh.MaxMessage+5)
	require.NoError(t, s.a.Put(t.Context(), id, data))
	require.NoError(t, s.b.Put(t.Context(), id, data))
	got, err := s.b.Get(t.Context(), id, 0, len(data))
	require.NoError(t, err)
	require.Equal(t, id, objstore.IDOf(got))
	require.Equal(t, []objstore.ID{id}, s.names(t, s.a))
}

func (s *suite) delete(t *testing.T) {
	id, data := s.put(t, 400, 2*mesh.MaxMessage)
	other, _ := s.put(t, 401, 10)
	_, err := s.a.Get(t.Context(), id, 0, 1) // a handle that has seen it
	require.NoError(t, err)
	require.NoError(t, s.b.Delete(t.Context(), id))
	for _, handle := range []objstore.Bucket{s.a, s.b} {
		_, err = handle.Get(t.Context(), id, 0, 1)
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
		require.Equal(t, []objstore.ID{other}, s.names(t, handle), "the others stay")
	}
	require.NoError(t, s.b.Put(t.Context(), id, data))
	got, err := s.a.Get(t.Context(), id, 0, len(data))
	require.NoError(t, err)
	require.Equal(t, id, objstore.IDOf(got), "what was deleted can be stored again")
}

func (s *suite) list(t *testing.T) {
	var want []objstore.ID
	for i := range 12 {
		id, _ := s.put(t, uint64(500+i), 10)
		want = append(want, id)
	}
	slices.SortFunc(want, func(a, b objstore.ID) int { return slices.Compare(a[:], b[:]) })
	require.Equal(t, want, s.names(t, s.b))
	for id, err := range s.b.List(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, want[0], id)
		break // must not be called again
	}
}

// atOnce lets both handles put the same objects at the same time.
func (s *suite) atOnce(t *testing.T) {
	const objects = 3
	var g errgroup.Group
	for i := range objects {
		id, data := Object(uint64(600+i), 2*mesh.MaxMessage+i)
		t.Cleanup(func() { require.NoError(t, s.a.Delete(context.WithoutCancel(t.Context()), id)) })
		for _, handle := range []objstore.Bucket{s.a, s.b} {
			g.Go(func() error {
				if err := handle.Put(t.Context(), id, data); err != nil {
					return err
				}
				got, err := handle.Get(t.Context(), id, 0, len(data))
				if err == nil && objstore.IDOf(got) != id {
					err = fmt.Errorf("object %d has other bytes", i)
				}
				return err
			})
		}
	}
	require.NoError(t, g.Wait())
	require.Len(t, s.names(t, s.b), objects)
}

func (s *suite) canceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	id, data := Object(700, 10)
	require.Error(t, s.a.Put(ctx, id, data))
	_, err := s.a.Get(ctx, id, 0, 1)
	require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(err), "%v", err)
	require.NoError(t, s.a.Delete(t.Context(), id))
}
