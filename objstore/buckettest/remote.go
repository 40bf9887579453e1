package buckettest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// RunRemote tests a driver of objstore.Remote. Each call of open gives another handle
// on the same objects; there are none at first.
func RunRemote(t *testing.T, open func(t *testing.T) objstore.Remote) {
	s := &remoteSuite{a: open(t), b: open(t)}
	t.Run("objects", s.objects)
	t.Run("metadata", s.metadata)
	t.Run("condition", s.condition)
	t.Run("one of many", s.oneOfMany)
	t.Run("list", s.list)
	t.Run("file and directory", s.flip)
	t.Run("large", s.large)
	t.Run("names", s.names)
	t.Run("canceled", s.canceled)
	t.Run("packs", func(t *testing.T) {
		Run(t, func(t *testing.T) objstore.Bucket { return objstore.PacksIn(open(t), "some/packs/") })
	})
}

type remoteSuite struct {
	a, b objstore.Remote
}

func (s *remoteSuite) put(t *testing.T, name, data string, meta map[string]string) {
	t.Helper()
	_, err := s.a.Put(t.Context(), name, strings.NewReader(data), int64(len(data)), objstore.PutOptions{Meta: meta})
	require.NoError(t, err, name)
	t.Cleanup(func() { require.NoError(t, s.a.Delete(context.WithoutCancel(t.Context()), name)) })
}

func (s *remoteSuite) missing(t *testing.T, name string) {
	t.Helper()
	_, _, err := s.b.Get(t.Context(), name, 0, 10)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
	_, err = s.b.Stat(t.Context(), name)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
}

func (s *remoteSuite) objects(t *testing.T) {
	s.missing(t, "a/b.txt")
	require.NoError(t, s.a.Delete(t.Context(), "a/b.txt"), "nothing to delete is no error")
	for _, data := range []string{"one", "", "another one"} {
		s.put(t, "a/b.txt", data, nil)
		got, o, err := s.b.Get(t.Context(), "a/b.txt", 0, 100)
		require.NoError(t, err)
		require.Equal(t, data, string(got))
		require.Equal(t, "a/b.txt", o.Name)
		require.EqualValues(t, len(data), o.Size)
		o, err = s.b.Stat(t.Context(), "a/b.txt")
		require.NoError(t, err)
		require.EqualValues(t, len(data), o.Size)
	}
	got, _, err := s.b.Get(t.Context(), "a/b.txt", -3, 2)
	require.NoError(t, err)
	require.Equal(t, "on", string(got))
	require.NoError(t, s.b.Delete(t.Context(), "a/b.txt"))
	s.missing(t, "a/b.txt")
	s.missing(t, "a")
	_, err = s.a.Put(t.Context(), "a/b.txt", strings.NewReader("short"), 6, objstore.PutOptions{})
	require.Error(t, err, "a content that ends early")
	s.missing(t, "a/b.txt")
}

func (s *remoteSuite) metadata(t *testing.T) {
	meta := map[string]string{"mode": "0644", "mtime": "1764150000.123", "name": "%C3%A4 %25"}
	s.put(t, "m", "x", meta)
	o, err := s.b.Stat(t.Context(), "m")
	require.NoError(t, err)
	require.Equal(t, meta, o.Meta)
	_, o, err = s.b.Get(t.Context(), "m", 0, 10)
	require.NoError(t, err)
	require.Equal(t, meta, o.Meta)
	meta["mode"] = "0600"
	s.put(t, "m", "y", meta)
	o, err = s.b.Stat(t.Context(), "m")
	require.NoError(t, err)
	require.Equal(t, meta, o.Meta)
}

func (s *remoteSuite) condition(t *testing.T) {
	none, wrong := "", `"0123456789abcdef0123456789abcdef"`
	put := func(data string, version *string) (string, error) {
		return s.a.Put(t.Context(), "c", strings.NewReader(data), int64(len(data)), objstore.PutOptions{If: version})
	}
	refused := func(data string, version *string) {
		_, err := put(data, version)
		require.Equal(t, mesh.CodeConflict, mesh.CodeOf(err), "%v", err)
	}
	t.Cleanup(func() { require.NoError(t, s.a.Delete(context.WithoutCancel(t.Context()), "c")) })
	refused("x", &wrong)
	first, err := put("one", &none)
	require.NoError(t, err)
	refused("two", &none)
	refused("two", &wrong)
	_, version, err := objstore.GetSmall(t.Context(), s.b, "c")
	require.NoError(t, err)
	require.Equal(t, first, version)
	second, err := put("two", &version)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	refused("three", &first)
	require.NoError(t, objstore.PutSmall(t.Context(), s.b, "c", []byte("two"), first), "what is there is one's own")
	require.Error(t, objstore.PutSmall(t.Context(), s.b, "c", []byte("three"), first))
}

func (s *remoteSuite) oneOfMany(t *testing.T) {
	t.Cleanup(func() { require.NoError(t, s.a.Delete(context.WithoutCancel(t.Context()), "race")) })
	const writers, rounds = 4, 5
	version := ""
	for round := range rounds {
		won := make([]bool, writers)
		var g errgroup.Group
		for i := range writers {
			g.Go(func() error {
				r, data := s.a, fmt.Sprintf("%d by %d", round, i)
				if i%2 == 1 {
					r = s.b
				}
				_, err := r.Put(t.Context(), "race", strings.NewReader(data), int64(len(data)), objstore.PutOptions{If: &version})
				won[i] = err == nil
				if mesh.CodeOf(err) == mesh.CodeConflict {
					err = nil
				}
				return err
			})
		}
		require.NoError(t, g.Wait())
		data, now, err := objstore.GetSmall(t.Context(), s.a, "race")
		require.NoError(t, err)
		version = now
		for i := range writers {
			require.Equal(t, string(data) == fmt.Sprintf("%d by %d", round, i), won[i], "writer %d of %q", i, data)
		}
	}
}

func (s *remoteSuite) list(t *testing.T) {
	listed := func(prefix, delimiter string) (all []string) {
		for o, err := range s.b.List(t.Context(), prefix, delimiter) {
			require.NoError(t, err)
			all = append(all, fmt.Sprint(o.Name, " ", o.Size))
		}
		slices.Sort(all)
		return all
	}
	list := func(prefix string) []string { return listed(prefix, "") }
	require.Empty(t, list("l/"))
	for i, name := range []string{"l/a", "l/b/c", "l/b/d", "l/e/", "lx", "l/bb"} {
		data := strings.Repeat("x", i+1)
		if strings.HasSuffix(name, "/") {
			data = ""
		}
		s.put(t, name, data, nil)
	}
	require.Equal(t, []string{"l/a 1", "l/b/c 2", "l/b/d 3", "l/bb 6", "l/e/ 0"}, list("l/"))
	require.Equal(t, []string{"l/b/c 2", "l/b/d 3"}, list("l/b/"))
	require.Equal(t, []string{"l/b/c 2", "l/b/d 3", "l/bb 6"}, list("l/b"))
	require.Equal(t, []string{"l/e/ 0"}, list("l/e/"))
	require.Equal(t, []string{"l/a 1", "l/b/ 0", "l/bb 6", "l/e/ 0"}, listed("l/", "/"))
	require.Equal(t, []string{"l/b/ 0", "l/bb 6"}, listed("l/b", "/"))
	require.Equal(t, []string{"l/b/c 2", "l/b/d 3"}, listed("l/b/", "/"))
	require.Equal(t, []string{"l/ 0", "lx 5"}, listed("l", "/"))
	require.NoError(t, s.a.Delete(t.Context(), "l/b/c"))
	require.NoError(t, s.a.Delete(t.Context(), "l/b/d"))
	require.Empty(t, list("l/b/"), "a directory goes with the last object in it")
	for _, err := range s.b.List(t.Context(), "l/", "") {
		require.NoError(t, err)
		break // must not be called again
	}
}

// flip: a file becomes a directory and a file again.
func (s *remoteSuite) flip(t *testing.T) {
	s.put(t, "f/fd", "file", nil)
	require.NoError(t, s.a.Delete(t.Context(), "f/fd"))
	s.put(t, "f/fd/child", "x", nil)
	s.missing(t, "f/fd")
	require.NoError(t, s.a.Delete(t.Context(), "f/fd/child"))
	s.put(t, "f/fd/", "", map[string]string{"mode": "0700"})
	o, err := s.b.Stat(t.Context(), "f/fd/")
	require.NoError(t, err)
	require.Equal(t, "0700", o.Meta["mode"])
	require.NoError(t, s.a.Delete(t.Context(), "f/fd/"))
	s.put(t, "f/fd", "file", nil)
	s.missing(t, "f/fd/")
}

// large stores more than one request takes.
func (s *remoteSuite) large(t *testing.T) {
	_, data := Object(800, objstore.MaxSmall+3<<20)
	_, err := s.a.Put(t.Context(), "large", struct{ *bytes.Buffer }{bytes.NewBuffer(data)}, int64(len(data)), objstore.PutOptions{Meta: map[string]string{"mode": "0600"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.a.Delete(context.WithoutCancel(t.Context()), "large")) })
	o, err := s.b.Stat(t.Context(), "large")
	require.NoError(t, err)
	require.EqualValues(t, len(data), o.Size)
	require.Equal(t, "0600", o.Meta["mode"])
	for at := 0; at < len(data); at += 4 << 20 {
		got, _, err := s.b.Get(t.Context(), "large", int64(at), 4<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(got, data[at:min(at+4<<20, len(data))]), "from %d on", at)
	}
	_, _, err = objstore.GetSmall(t.Context(), s.b, "large")
	require.Equal(t, mesh.CodeTooLarge, mesh.CodeOf(err), "%v", err)
}

func (s *remoteSuite) names(t *testing.T) {
	for _, name := range []string{"n/with space", "n/%41", "n/ä€", "n/a+b&c=d?e#f", "n/'\"<>*|\\:", "n/.hidden", "n/" + strings.Repeat("x", 200)} {
		s.put(t, name, name, nil)
		got, _, err := s.b.Get(t.Context(), name, 0, 1000)
		require.NoError(t, err, name)
		require.Equal(t, name, string(got))
		found := false
		for o, err := range s.b.List(t.Context(), "n/", "") {
			require.NoError(t, err)
			found = found || o.Name == name
		}
		require.True(t, found, name)
	}
}

func (s *remoteSuite) canceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.a.Put(ctx, "x", strings.NewReader("x"), 1, objstore.PutOptions{})
	require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(err), "%v", err)
	_, _, err = s.a.Get(ctx, "x", 0, 1)
	require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(err), "%v", err)
	require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(s.a.Delete(ctx, "x")))
	for _, err := range s.a.List(ctx, "x", "") {
		require.Equal(t, mesh.CodeCanceled, mesh.CodeOf(err), "%v", err)
	}
}
