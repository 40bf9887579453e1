package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
	"github.com/wsmesh/wsmesh/objstore/mirror"
	"github.com/wsmesh/wsmesh/objstore/s3bucket"
	"github.com/wsmesh/wsmesh/objstore/s3test"
)

// file is what a path of a made tree has. A directory is there for what is in it, or by
// its own path.
type file struct {
	kind   objstore.Type
	data   string // of a file; else the target
	mode   uint32
	time   int64
	before int64 // bytes of a hole before the data
}

func text(s string) file { return file{kind: objstore.TypeFile, data: s, mode: 0o644} }

// made stores a commit of the files.
func made(t *testing.T, s *objstore.Store, files map[string]file) objstore.Ref {
	t.Helper()
	all := maps.Clone(files)
	for p := range files {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if _, ok := all[d]; !ok {
				all[d] = file{kind: objstore.TypeDir, mode: 0o755}
			}
		}
	}
	paths := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	w := s.Writer(nil)
	root, err := w.Tree(t.Context(), func(yield func(objstore.Item, error) bool) {
		if !yield(objstore.Item{Path: ".", Entry: objstore.Entry{Type: objstore.TypeDir, Mode: 0o700, ModTime: time.Unix(1, 0)}}, nil) {
			return
		}
		for _, p := range paths {
			f := all[p]
			it := objstore.Item{Path: p, Entry: objstore.Entry{Name: path.Base(p), Type: f.kind, Mode: f.mode, ModTime: time.Unix(1764150000+f.time, 5)}}
			switch f.kind {
			case objstore.TypeFile:
				it.Entry.Size = int64(len(f.data)) + f.before
				if f.before > 0 {
					it.Entry.Holes = []objstore.Extent{{Offset: 0, Length: f.before}}
				}
				it.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(f.data)), nil }
			case objstore.TypeLink:
				it.Entry = objstore.Entry{Name: path.Base(p), Type: f.kind, Target: f.data}
			case objstore.TypeSymlink:
				it.Entry.Target = f.data
			}
			if !yield(it, nil) {
				return
			}
		}
	})
	require.NoError(t, err)
	ref, err := w.Commit(t.Context(), objstore.Commit{Workspace: "id", Epoch: 1, Time: time.Unix(1764150000, 0), Root: root})
	require.NoError(t, err)
	return ref
}

const readable = "tenants/acme/workspaces/repo/"

// shown reads the readable copy: metadata and bytes by names.
func shown(t *testing.T, r objstore.Remote) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range []string{"files/", "files-overflow/"} {
		for o, err := range r.List(t.Context(), readable+dir, "") {
			require.NoError(t, err)
			data, now, err := r.Get(t.Context(), o.Name, 0, 64<<20)
			require.NoError(t, err, o.Name)
			all[strings.TrimPrefix(o.Name, readable)] = fmt.Sprintf("%s%s %x", now.Meta["mode"], strings.Repeat(" link", len(now.Meta["symlink"])/4), short(data))
			if !strings.HasSuffix(o.Name, ".path") {
				require.NotEmpty(t, now.Meta["mtime"], o.Name)
			}
		}
	}
	return all
}

// truly reads the readable copy by the names that its files have.
func truly(t *testing.T, r objstore.Remote, dir string) map[string]string {
	t.Helper()
	view, err := mirror.OpenFiles(t.Context(), r, dir)
	require.NoError(t, err)
	require.NotNil(t, view)
	all := map[string]string{}
	for o, err := range view.List(t.Context(), "", "") {
		require.NoError(t, err)
		if o.Name == "" { // the directory itself
			continue
		}
		data, now, err := view.Get(t.Context(), o.Name, 0, 64<<20)
		require.NoError(t, err, o.Name)
		require.Equal(t, o.Name, now.Name)
		require.NotEmpty(t, now.Meta["mtime"], o.Name)
		all[o.Name] = string(data)
		o, err = view.Stat(t.Context(), o.Name)
		require.NoError(t, err)
		require.EqualValues(t, len(data), o.Size)
	}
	return all
}

func short(data []byte) any {
	if len(data) > 100 {
		return objstore.IDOf(data)
	}
	return data
}

// follow copies a head and its files.
func follow(t *testing.T, m *mirror.Mirror, sequence uint64, ref objstore.Ref, from *objstore.Store) error {
	t.Helper()
	_, err := m.Commit(t.Context(), tenant, workspace, mirror.Head{Workspace: "id", Epoch: 1, Sequence: sequence, Ref: ref, Removed: ref.IsZero()}, from)
	require.NoError(t, err)
	return m.CopyFiles(t.Context(), tenant, workspace, sequence, from)
}

// on returns the remote on an S3 server.
func on(t *testing.T, url string) objstore.Remote {
	t.Helper()
	s3test.Setenv(t)
	r, err := s3bucket.Open(t.Context(), "s3://bucket/some/prefix?endpoint="+url)
	require.NoError(t, err)
	return r
}

func fake(t *testing.T) objstore.Remote {
	t.Helper()
	return on(t, s3test.Fake(t))
}

// places runs a test on a directory, a fake S3 server and a real one.
func places(t *testing.T, run func(t *testing.T, r objstore.Remote)) {
	t.Run("file", func(t *testing.T) { run(t, remote(t)) })
	t.Run("fake", func(t *testing.T) { run(t, fake(t)) })
	t.Run("versitygw", func(t *testing.T) { run(t, on(t, s3test.Start(t).URL())) })
}

// TestFiles: what is there is plain bytes under the path, with what else the file is in
// its metadata.
func TestFiles(t *testing.T) {
	places(t, func(t *testing.T, r objstore.Remote) {
		from, m := source(t), newMirror(t, r, "m")
		require.Equal(t, mesh.CodeBusy, mesh.CodeOf(m.CopyFiles(t.Context(), tenant, workspace, 1, from)), "there is no head")
		long := strings.Repeat("n", 200)
		deep := long + "/" + long + "/" + long
		wide := strings.Repeat("\x01", 100) // 300 bytes when it is escaped
		big := strings.Repeat("0123456789abcdef", 600<<10)
		files := map[string]file{
			"a":                                 text("one"),
			"d/b":                               {kind: objstore.TypeFile, data: "two", mode: 0o4755},
			"linked/hard":                       {kind: objstore.TypeLink, data: "a"},
			"d/link":                            {kind: objstore.TypeSymlink, data: "../\xff", mode: 0o777},
			"d/fifo":                            {kind: objstore.TypeFIFO, mode: 0o600},
			"empty":                             {kind: objstore.TypeDir, mode: 0o1777},
			"only-fifo/f":                       {kind: objstore.TypeFIFO, mode: 0o600},
			"100%/\xff\n ä€":                    text("odd"),
			"hole":                              {kind: objstore.TypeFile, data: "end", mode: 0o600, before: 1 << 20},
			"holes":                             {kind: objstore.TypeFile, data: "end", mode: 0o600, before: mirror.MaxHoles + 1},
			"big":                               text(big),
			"nothing":                           text(""),
			"files/.path":                       text("of its name"),
			strings.Repeat("x", 255):            text("as long as a name may be"),
			deep + "/ü":                         text("deep"),
			"odd/" + wide:                       text("wide"),
			deep + "/e":                         {kind: objstore.TypeDir, mode: 0o700},
			"d/" + strings.ToUpper(long) + "/g": text("fits"),
		}
		overflow := func(p, end string) string { return "files-overflow/" + objstore.IDOf([]byte(p)).String() + end }
		want := map[string]string{
			"files/a":           fmt.Sprintf("0644 %x", "one"),
			"files/d/b":         fmt.Sprintf("4755 %x", "two"),
			"files/linked/hard": fmt.Sprintf("0644 %x", "one"),
			"files/d/link":      fmt.Sprintf("0777 link %x", "../\xff"),
			"files/empty/":      "1777 ", "files/only-fifo/": "0755 ",
			"files/100%25/%FF%0A ä€":                  fmt.Sprintf("0644 %x", "odd"),
			"files/hole":                              fmt.Sprintf("0600 %x", objstore.IDOf([]byte(strings.Repeat("\x00", 1<<20)+"end"))),
			"files/big":                               fmt.Sprintf("0644 %x", objstore.IDOf([]byte(big))),
			"files/nothing":                           "0644 ",
			"files/files/.path":                       fmt.Sprintf("0644 %x", "of its name"),
			"files/" + strings.Repeat("x", 255):       fmt.Sprintf("0644 %x", "as long as a name may be"),
			"files/d/" + strings.ToUpper(long) + "/g": fmt.Sprintf("0644 %x", "fits"),
			overflow(deep+"/ü", ""):                   fmt.Sprintf("0644 %x", "deep"),
			overflow(deep+"/ü", ".path"):              fmt.Sprintf(" %x", objstore.IDOf([]byte(deep+"/ü"))),
			overflow(deep+"/e", "/"):                  "0700 ",
			overflow(deep+"/e", ".path"):              fmt.Sprintf(" %x", objstore.IDOf([]byte(deep+"/e"))),
			overflow("odd/"+wide, ""):                 fmt.Sprintf("0644 %x", "wide"),
			overflow("odd/"+wide, ".path"):            fmt.Sprintf(" %x", objstore.IDOf([]byte("odd/"+wide))),
		}
		require.NoError(t, follow(t, m, 1, made(t, from, files), from))
		require.Equal(t, want, shown(t, r))

		as := map[string]string{"only-fifo/": "", "linked/hard": "one", "hole": strings.Repeat("\x00", 1<<20) + "end"}
		for p, f := range files {
			switch {
			case f.kind == objstore.TypeDir:
				as[p+"/"] = ""
			case f.kind != objstore.TypeFIFO && f.kind != objstore.TypeLink && f.before == 0:
				as[p] = f.data
			}
		}
		for dir, below := range map[string]string{"": "", "100%25/": "100%/", "odd/": "odd/", "files/": "files/", deep + "/": deep + "/"} {
			part := map[string]string{}
			for p, data := range as {
				if rest, ok := strings.CutPrefix(p, below); ok {
					part[rest] = data
				}
			}
			require.Equal(t, part, truly(t, r, readable+"files/"+dir), dir)
		}
		for _, none := range []string{"", "tenants/", readable, readable + "other/", "tenants/acme/workspaces/none/files/"} {
			view, err := mirror.OpenFiles(t.Context(), r, none)
			require.NoError(t, err)
			require.Nil(t, view, none)
		}

		// A link shows what its file has, in a directory where nothing else changed.
		files["a"] = text("another")
		want["files/a"] = fmt.Sprintf("0644 %x", "another")
		want["files/linked/hard"] = want["files/a"]
		// Files become directories, and directories files.
		delete(files, "d/b")
		delete(want, "files/d/b")
		files["d/b/c"], want["files/d/b/c"] = text("in it"), fmt.Sprintf("0644 %x", "in it")
		delete(files, "100%/\xff\n ä€")
		delete(want, "files/100%25/%FF%0A ä€")
		files["100%"], want["files/100%25"] = text("flat"), fmt.Sprintf("0644 %x", "flat")
		// A directory is not empty any more, and another one is.
		files["empty/now"], want["files/empty/now"] = text("not"), fmt.Sprintf("0644 %x", "not")
		delete(want, "files/empty/")
		delete(files, "files/.path")
		delete(want, "files/files/.path")
		files["files"], want["files/files/"] = file{kind: objstore.TypeDir, mode: 0o711}, "0711 "
		delete(files, "odd/"+wide)
		delete(want, overflow("odd/"+wide, ""))
		delete(want, overflow("odd/"+wide, ".path"))
		require.NoError(t, follow(t, m, 2, made(t, from, files), from))
		require.Equal(t, want, shown(t, r))
		state, err := m.FilesState(t.Context(), tenant, workspace)
		require.NoError(t, err)
		require.Equal(t, uint64(2), state.Sequence)
		require.Equal(t, 1, state.Links)

		require.NoError(t, follow(t, m, 3, objstore.Ref{}, nil))
		require.Empty(t, shown(t, r), "the workspace is removed")
	})
}

// broken is a remote that fails after some writes.
type broken struct {
	objstore.Remote
	left atomic.Int64
}

var errBroken = errors.New("broken")

func (b *broken) Put(ctx context.Context, name string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	if b.left.Add(-1) < 0 {
		return "", errBroken
	}
	return b.Remote.Put(ctx, name, body, size, how)
}

func (b *broken) Delete(ctx context.Context, name string) error {
	if b.left.Add(-1) < 0 {
		return errBroken
	}
	return b.Remote.Delete(ctx, name)
}

// TestFilesAfterCrashes: wherever a copy has stopped, and whatever came after that, the
// next one makes what a copy into nothing makes.
func TestFilesAfterCrashes(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	at, from := remote(t), source(t)
	names := []string{"a", "b", "c/a", "c/b", "c", "c/d", "c/d/e", "%", "\xfe", "z"}
	random := func() map[string]file {
		files := map[string]file{}
		for _, p := range names {
			if r.IntN(2) == 0 {
				continue
			}
			for q := range files { // who comes later wins
				if strings.HasPrefix(q, p+"/") || strings.HasPrefix(p, q+"/") && files[q].kind != objstore.TypeDir {
					delete(files, q)
				}
			}
			files[p] = file{kind: objstore.TypeFile, data: fmt.Sprint(r.IntN(3)), mode: 0o644, time: r.Int64N(2)}
			switch r.IntN(5) {
			case 0:
				files[p] = file{kind: objstore.TypeDir, mode: 0o755}
			case 1:
				files[p] = file{kind: objstore.TypeSymlink, data: "to", mode: 0o777}
			}
		}
		if f, ok := files["a"]; ok && f.kind == objstore.TypeFile && r.IntN(2) == 0 {
			files["zz"] = file{kind: objstore.TypeLink, data: "a"}
			files["zzz/l"] = file{kind: objstore.TypeLink, data: "a"}
		}
		return files
	}
	stopped := 0
	rounds := uint64(16)
	if meshtest.Long() {
		rounds = 500
	}
	for sequence := uint64(1); sequence < rounds; sequence++ {
		files := random()
		ref := made(t, from, files)
		for range r.IntN(3) { // tries that stop
			b := &broken{Remote: at}
			b.left.Store(r.Int64N(12))
			m := newMirror(t, b, "m")
			head := mirror.Head{Workspace: "id", Epoch: 1, Sequence: sequence, Ref: ref}
			if _, err := newMirror(t, at, "m").Commit(t.Context(), tenant, workspace, head, from); err == nil {
				if err := m.CopyFiles(t.Context(), tenant, workspace, sequence, from); err != nil {
					require.ErrorIs(t, err, errBroken)
					stopped++
				}
			}
		}
		if r.IntN(2) == 0 {
			continue // another commit comes before somebody goes on
		}
		require.NoError(t, follow(t, newMirror(t, at, "m"), sequence, ref, from))
		fresh := remote(t)
		require.NoError(t, follow(t, newMirror(t, fresh, "m"), 1, ref, from))
		require.Equal(t, shown(t, fresh), shown(t, at), "commit %d: %v", sequence, files)
	}
	require.Greater(t, stopped, 3)
}

// TestFilesGuard: a commit that removes most of the files has to be followed by another
// one that does not bring them back.
func TestFilesGuard(t *testing.T) {
	at, from := remote(t), source(t)
	m := newMirror(t, at, "m")
	files := map[string]file{}
	for i := range mirror.GuardedFiles + 20 {
		files[fmt.Sprint("d/", i)] = text("x")
	}
	all := made(t, from, files)
	require.NoError(t, follow(t, m, 1, all, from))
	few := made(t, from, map[string]file{"d/1": text("y"), "new": text("z")})
	for range 2 {
		var held *mirror.HeldBack
		require.ErrorAs(t, follow(t, m, 2, few, from), &held)
		require.Equal(t, mirror.HeldBack{Workspace: workspace, Remove: len(files) - 1, Of: len(files)}, *held)
		require.Len(t, shown(t, at), len(files))
	}
	require.NoError(t, follow(t, m, 3, all, from), "they are back")
	require.Error(t, follow(t, m, 4, few, from))
	require.NoError(t, follow(t, m, 5, few, from))
	require.Len(t, shown(t, at), 2)

	// Or somebody says that it is meant, for this time.
	missing := m.ConfirmFiles(t.Context(), tenant, workspace)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(missing), "%v", missing)
	require.NoError(t, follow(t, m, 6, all, from))
	require.Error(t, follow(t, m, 7, few, from))
	other := newMirror(t, at, "other")
	missing = other.ConfirmFiles(t.Context(), tenant, workspace)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(missing), "%v", missing)
	for range 2 {
		require.NoError(t, m.ConfirmFiles(t.Context(), tenant, workspace))
	}
	require.NoError(t, follow(t, m, 7, few, from))
	require.Len(t, shown(t, at), 2)

	// What is as good as unknown is guarded as well.
	require.NoError(t, follow(t, m, 8, all, from))
	state := readable + "files.json"
	b, version, err := objstore.GetSmall(t.Context(), at, state)
	require.NoError(t, err)
	require.NoError(t, objstore.PutSmall(t.Context(), at, state, bytes.ReplaceAll(b, []byte(all.Commit.String()), []byte(strings.Repeat("0", 64))), version))
	require.Error(t, follow(t, m, 9, few, from))
	require.Len(t, shown(t, at), len(files))
	// Removing the workspace is meant.
	require.NoError(t, follow(t, m, 10, objstore.Ref{}, nil))
	require.Empty(t, shown(t, at))
}

// TestFilesExtra: holes and further names of files cost a tenant nothing, and would fill the
// place of the copy.
func TestFilesExtra(t *testing.T) {
	at, from := remote(t), source(t)
	m := newMirror(t, at, "m")
	small := map[string]file{"a": text("x"), "b": {kind: objstore.TypeLink, data: "a"}, "c": {kind: objstore.TypeFile, data: "x", before: 9}}
	require.NoError(t, follow(t, m, 1, made(t, from, small), from))
	state, err := m.FilesState(t.Context(), tenant, workspace)
	require.NoError(t, err)
	require.EqualValues(t, 1+9, state.Extra)

	holes, names := maps.Clone(small), maps.Clone(small)
	for i := range 10 {
		holes[fmt.Sprint("d/", i)] = file{kind: objstore.TypeFile, data: "x", before: mirror.MaxHoles}
		names[fmt.Sprint("d/", i)] = file{kind: objstore.TypeLink, data: "c"}
	}
	names["c"] = file{kind: objstore.TypeFile, data: "x", before: mirror.MaxHoles}
	sequence := uint64(1)
	for extra, files := range map[int64]map[string]file{10*mirror.MaxHoles + 10: holes, 11*mirror.MaxHoles + 10 + 1: names} {
		sequence++
		ref := made(t, from, files)
		_, err := m.Commit(t.Context(), tenant, workspace, mirror.Head{Workspace: "id", Epoch: 1, Sequence: sequence, Ref: ref}, from)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		m.Step = func(string) { cancel() } // where it is begun, nothing more is written
		var held *mirror.HeldBack
		require.ErrorAs(t, m.CopyFiles(ctx, tenant, workspace, sequence, from), &held)
		require.Equal(t, mirror.HeldBack{Workspace: workspace, Extra: extra}, *held)
		require.Contains(t, held.Error(), "stays as it was")
		require.Len(t, shown(t, at), len(small))
	}
	m.Step = func(string) {}
	small["e"] = text("y")
	require.NoError(t, follow(t, m, 9, made(t, from, small), from))
	require.Len(t, shown(t, at), len(small))
	require.NoError(t, follow(t, m, 10, made(t, from, map[string]file{"a": text("x")}), from))
	state, err = m.FilesState(t.Context(), tenant, workspace)
	require.NoError(t, err)
	require.Zero(t, state.Extra)
}

// TestFilesOfTwo: of two that copy at the same time one finds out, and what it may have
// written late does not stay.
func TestFilesOfTwo(t *testing.T) {
	at, from := remote(t), source(t)
	require.NoError(t, follow(t, newMirror(t, at, "m"), 1, made(t, from, map[string]file{"f": text("1"), "g": text("1")}), from))
	one, two := made(t, from, map[string]file{"f": text("2"), "g": text("1")}), made(t, from, map[string]file{"f": text("1"), "g": text("2")})
	slow := &overtaken{Remote: at, name: readable + "files/f"}
	slow.by = func() { require.NoError(t, follow(t, newMirror(t, at, "m"), 3, two, from)) }
	err := follow(t, newMirror(t, slow, "m"), 2, one, from)
	require.Equal(t, mesh.CodeBusy, mesh.CodeOf(err), "%v", err)
	require.NoError(t, newMirror(t, at, "m").CopyFiles(t.Context(), tenant, workspace, 3, from))
	require.Equal(t, map[string]string{"files/f": fmt.Sprintf("0644 %x", "1"), "files/g": fmt.Sprintf("0644 %x", "2")}, shown(t, at))
}

// TestCollectKeepsFiles: the next copy of the files has what the last one was made of.
func TestCollectKeepsFiles(t *testing.T) {
	at, from := remote(t), source(t)
	m := newMirror(t, at, "m")
	first := made(t, from, map[string]file{"f": text("1"), "g": text("1")})
	require.NoError(t, follow(t, m, 1, first, from))
	next := made(t, from, map[string]file{"f": text("2"), "g": text("1")})
	_, err := m.Commit(t.Context(), tenant, workspace, mirror.Head{Workspace: "id", Epoch: 1, Sequence: 2, Ref: next}, from)
	require.NoError(t, err)
	_, err = m.Collect(t.Context(), tenant, nil, -time.Hour, false)
	require.NoError(t, err)
	there, err := m.Packs(tenant).Has(t.Context(), first.Pack)
	require.NoError(t, err)
	require.True(t, there)
	require.NoError(t, m.CopyFiles(t.Context(), tenant, workspace, 2, nil))
	_, err = m.Collect(t.Context(), tenant, nil, -time.Hour, false)
	require.NoError(t, err)
	there, err = m.Packs(tenant).Has(t.Context(), first.Pack)
	require.NoError(t, err)
	require.False(t, there)
}

// listing counts what lists have named.
type listing struct {
	*dirbucket.Store
	names int
}

func (l *listing) List(ctx context.Context, prefix, delimiter string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		for o, err := range l.Store.List(ctx, prefix, delimiter) {
			if l.names++; !yield(o, err) {
				return
			}
		}
	}
}

// TestTenantsAreListedAlone: what is found by its place is not found by a list of all
// that there is.
func TestTenantsAreListedAlone(t *testing.T) {
	store, err := dirbucket.OpenStore(t.TempDir())
	require.NoError(t, err)
	l := &listing{Store: store}
	m, from := newMirror(t, l, "m"), source(t)
	require.NoError(t, m.Record(t.Context(), mirror.TenantName(tenant), mirror.Record{Revision: 1, Value: []byte("{}")}))
	require.NoError(t, m.Record(t.Context(), mirror.WorkspaceName(tenant, workspace), mirror.Record{Revision: 1, Value: []byte("{}")}))
	files := map[string]file{}
	for i := range 50 {
		files[fmt.Sprint(i)] = text("x")
	}
	require.NoError(t, follow(t, m, 1, made(t, from, files), from))
	l.names = 0
	n := 0
	for c, err := range m.Tenants(t.Context()) {
		n++
		require.NoError(t, err)
		require.Equal(t, tenant, c.Tenant)
		require.Equal(t, []mesh.Workspace{workspace}, c.Workspaces)
	}
	require.Equal(t, 1, n)
	require.LessOrEqual(t, l.names, 5)
}
