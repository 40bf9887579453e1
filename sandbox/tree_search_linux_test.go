package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

// searchAll returns the paths of all pages and how many those were.
func searchAll(t require.TestingT, v *View, p string, req mesh.SearchRequest) ([]string, int) {
	found := []string{}
	for pages := 1; ; pages++ {
		reply, err := v.Search(context.Background(), p, &req)
		require.NoError(t, err)
		b, err := json.Marshal(reply)
		require.NoError(t, err)
		require.LessOrEqual(t, len(b), mesh.MaxMessage)
		for _, e := range reply.Entries {
			found = append(found, string(e.Path))
		}
		if reply.Next == "" {
			return found, pages
		}
		require.NotEqual(t, req.Cursor, reply.Next, "no progress")
		require.Less(t, pages, 100_000)
		req.Cursor = reply.Next
	}
}

// globMatches says what a glob names, in the words of mesh.Selection.
func globMatches(globs []mesh.Path, rel string) bool {
	for _, g := range globs {
		with := rel
		if !strings.Contains(string(g), "/") {
			with = path.Base(rel)
		}
		if ok, err := doublestar.Match(string(g), with); err == nil && ok {
			return true
		}
	}
	return false
}

// referenceSearch is the search in its simplest words. It passes each name that
// is not excluded to each.
func referenceSearch(t require.TestingT, dir string, sel mesh.Selection, each func(rel string, d fs.DirEntry)) {
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if globMatches(sel.Exclude, rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if len(sel.Globs) == 0 || globMatches(sel.Globs, rel) {
			each(rel, d)
		}
		return nil
	})
	require.NoError(t, err)
}

func paths(names ...string) []mesh.Path {
	var all []mesh.Path
	for _, n := range names {
		all = append(all, mesh.Path(n))
	}
	return all
}

func TestTreeSearch(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		odd := "odd\n\xff"
		for _, p := range []string{"src/main.go", "src/a/b.go", "src/a.go", "src/a/c/d.txt", "src/" + odd + "/x.go", "vendor/v.go", "z"} {
			f.put(p, p)
		}
		f.link("..", "src/up")
		f.link("src", "link")
		require.NoError(t, unix.Mkfifo(f.tenant("src/fifo"), 0o600))
		makeSocket(t, f.tenant("src/sock"))
		for _, c := range []struct {
			name, scope, path string
			req               mesh.SearchRequest
			want              []string
		}{
			{name: "all of it, in order", path: "src", want: []string{
				"src/a", "src/a/b.go", "src/a/c", "src/a/c/d.txt", "src/a.go", "src/fifo", "src/main.go",
				"src/" + odd, "src/" + odd + "/x.go", "src/sock", "src/up",
			}},
			{name: "by the last name", path: ".", req: mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("*.go")}}, want: []string{
				"src/a/b.go", "src/a.go", "src/main.go", "src/" + odd + "/x.go", "vendor/v.go",
			}},
			{name: "by the path", path: ".", req: mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("src/*.go")}}, want: []string{"src/a.go", "src/main.go"}},
			{name: "from the directory on", path: "src", req: mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("a/**/*.{txt,go}")}}, want: []string{"src/a/b.go", "src/a/c/d.txt"}},
			{name: "excluded with all below", path: ".", req: mesh.SearchRequest{Selection: mesh.Selection{Exclude: paths("src", "*.go")}}, want: []string{"link", "vendor", "z"}},
			{name: "invalid bytes are not alike", path: "src", req: mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("odd\n\xfe", "odd\n\xfe/*")}}, want: []string{}},
			{name: "invalid bytes", path: "src", req: mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("odd\n\xff")}}, want: []string{"src/" + odd}},
			{name: "files", path: "src/a", req: mesh.SearchRequest{Type: TypeFile}, want: []string{"src/a/b.go", "src/a/c/d.txt"}},
			{name: "directories", path: "src/a", req: mesh.SearchRequest{Type: TypeDir}, want: []string{"src/a/c"}},
			{name: "links", path: ".", req: mesh.SearchRequest{Type: TypeSymlink}, want: []string{"link", "src/up"}},
			{name: "fifos", path: ".", req: mesh.SearchRequest{Type: TypeFifo}, want: []string{"src/fifo"}},
			{name: "the path's link is followed", path: "link", req: mesh.SearchRequest{Type: TypeDir}, want: []string{"link/a", "link/a/c", "link/" + odd}},
			{name: "relative to the scope", scope: "src", path: "src/a", want: []string{"a/b.go", "a/c", "a/c/d.txt"}},
			{name: "the scope", scope: "src/a", path: "src/a", req: mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("c/*")}}, want: []string{"c/d.txt"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.scope == "" {
					c.scope = "."
				}
				for limit := range 4 {
					c.req.Limit = limit
					got, _ := searchAll(t, f.View(c.scope), c.path, c.req)
					require.Equal(t, c.want, got, "limit %d", limit)
				}
			})
		}
		reply, err := f.View(".").Search(t.Context(), ".", &mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("up")}})
		require.NoError(t, err)
		want, err := f.View(".").Stat("src/up", false)
		require.NoError(t, err)
		require.Equal(t, []mesh.FileInfo{want}, reply.Entries)
	})
}

func TestTreeSearchRefuses(t *testing.T) {
	f := newTreeFixture(t)
	f.put("d/f", "x")
	sel := func(globs ...string) mesh.SearchRequest {
		return mesh.SearchRequest{Selection: mesh.Selection{Globs: paths(globs...)}}
	}
	for name, c := range map[string]struct {
		path string
		req  mesh.SearchRequest
		code mesh.Code
	}{
		"a file":                {path: "d/f", code: mesh.CodeInvalid},
		"missing":               {path: "e", code: mesh.CodeNotFound},
		"negative limit":        {path: "d", req: mesh.SearchRequest{Limit: -1}, code: mesh.CodeInvalid},
		"large limit":           {path: "d", req: mesh.SearchRequest{Limit: mesh.MaxList + 1}, code: mesh.CodeInvalid},
		"unknown type":          {path: "d", req: mesh.SearchRequest{Type: "files"}, code: mesh.CodeInvalid},
		"open bracket":          {path: "d", req: sel("[a"), code: mesh.CodeInvalid},
		"open brace":            {path: "d", req: sel("{a,b"), code: mesh.CodeInvalid},
		"backslash at the end":  {path: "d", req: sel(`a\`), code: mesh.CodeInvalid},
		"empty glob":            {path: "d", req: sel(""), code: mesh.CodeInvalid},
		"absolute glob":         {path: "d", req: sel("/a"), code: mesh.CodeInvalid},
		"slash at the end":      {path: "d", req: sel("a/"), code: mesh.CodeInvalid},
		"dots":                  {path: "d", req: sel("../*"), code: mesh.CodeInvalid},
		"a dot":                 {path: "d", req: sel("./*"), code: mesh.CodeInvalid},
		"bad exclude":           {path: "d", req: mesh.SearchRequest{Selection: mesh.Selection{Exclude: paths("[")}}, code: mesh.CodeInvalid},
		"too many globs":        {path: "d", req: sel(make([]string, mesh.MaxGlobs+1)...), code: mesh.CodeInvalid},
		"long glob":             {path: "d", req: sel(strings.Repeat("a", mesh.MaxPattern+1)), code: mesh.CodeInvalid},
		"exponential":           {path: "d", req: sel(strings.Repeat("{a,a}", 100)), code: mesh.CodeInvalid},
		"exponential together":  {path: "d", req: sel(strings.Repeat("{a,b}", 5), strings.Repeat("{c,d}", 5), "e"), code: mesh.CodeInvalid},
		"just not exponential":  {path: "d", req: sel(strings.Repeat("{a,b}", 6) + `[{,]\{,`)},
		"cursor from elsewhere": {path: "d", req: mesh.SearchRequest{Cursor: "e/f"}, code: mesh.CodeInvalid},
		"cursor that leaves":    {path: "d", req: mesh.SearchRequest{Cursor: "d/../x"}, code: mesh.CodeInvalid},
		"cursor of nothing":     {path: ".", req: mesh.SearchRequest{Cursor: "/"}, code: mesh.CodeInvalid},
		"cursor with a NUL":     {path: ".", req: mesh.SearchRequest{Cursor: "a\x00"}, code: mesh.CodeInvalid},
		"cursor of what is not": {path: ".", req: mesh.SearchRequest{Cursor: "a/b/c/"}},
		"cursor below a file":   {path: ".", req: mesh.SearchRequest{Cursor: "d/f/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.View(".").Search(t.Context(), c.path, &c.req)
			requireCode(t, c.code, err)
		})
	}
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.View(".").Search(ctx, ".", &mesh.SearchRequest{})
		requireCode(t, mesh.CodeCanceled, err)
	})
	t.Run("waits for its turn", func(t *testing.T) {
		for range maxScans {
			f.scans <- struct{}{}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := f.View(".").Search(ctx, ".", &mesh.SearchRequest{})
		requireCode(t, mesh.CodeDeadline, err)
		ended := make(chan error, 1)
		go func() {
			_, err := f.View(".").Search(context.Background(), ".", &mesh.SearchRequest{})
			ended <- err
		}()
		require.NoError(t, f.Close())
		requireCode(t, mesh.CodeUnavailable, <-ended)
	})
}

// growTree makes some files, directories and links below dir.
func growTree(t *rapid.T, dir string, content *rapid.Generator[string]) {
	names := rapid.SampledFrom([]string{"a", "b", "a.go", "b.txt", "\xff", "x\ny", "-", "A"})
	require.NoError(t, os.Mkdir(dir, 0o755))
	for range rapid.IntRange(0, 12).Draw(t, "files") {
		parts := rapid.SliceOfN(names, 1, 4).Draw(t, "path")
		p := filepath.Join(append([]string{dir}, parts...)...)
		if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
			continue // a file is in the way
		}
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			_ = os.Mkdir(p, 0o755)
		case 1:
			_ = os.Symlink(".", p)
		default:
			_ = os.WriteFile(p, []byte(content.Draw(t, "content")), 0o644)
		}
	}
}

func drawSelection(t *rapid.T) mesh.Selection {
	globs := rapid.SampledFrom(paths("*", "a", "*.go", "**/b", "a/*", "a/**", "{a,b}*", "[!a]", "?", "**/*.txt", "a*/**/b"))
	return mesh.Selection{
		Globs:   rapid.SliceOfN(globs, 0, 2).Draw(t, "globs"),
		Exclude: rapid.SliceOfN(globs, 0, 1).Draw(t, "exclude"),
	}
}

// However it is cut into pages, a search finds what a simple one does.
func TestTreeSearchPages(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			n++
			top := fmt.Sprint(n)
			growTree(rt, f.tenant(top), rapid.Just("x"))
			req := mesh.SearchRequest{Selection: drawSelection(rt), Limit: rapid.IntRange(0, 3).Draw(rt, "limit")}
			req.Type = rapid.SampledFrom([]string{"", "", TypeFile, TypeDir, TypeSymlink}).Draw(rt, "type")
			f.paging.names = rapid.SampledFrom([]int{1, 2, DefaultSearchEntries}).Draw(rt, "names")
			want := []string{}
			referenceSearch(rt, f.tenant(top), req.Selection, func(rel string, d fs.DirEntry) {
				st := unix.Stat_t{Mode: map[fs.FileMode]uint32{0: unix.S_IFREG, fs.ModeDir: unix.S_IFDIR, fs.ModeSymlink: unix.S_IFLNK}[d.Type()]}
				if req.Type == "" || req.Type == typeOf(&st) {
					want = append(want, top+"/"+rel)
				}
			})
			got, _ := searchAll(rt, f.View("."), top, req)
			require.Equal(rt, want, got)
		})
	})
}

// One directory of very many names, as a whole, in pages, and when a page's time
// is over before it begins.
func TestTreeSearchLarge(t *testing.T) {
	f := newTreeFixture(t)
	const files = 40_000
	fd, err := unix.Open(f.cfg.Dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Mkdirat(fd, "d", 0o755))
	require.NoError(t, unix.Mknodat(fd, "d/000000", unix.S_IFREG|0o644, 0))
	for i := 1; i < files; i++ {
		if unix.Linkat(fd, fmt.Sprintf("d/%06d", i-i%30_000), fd, fmt.Sprintf("d/%06d", i), 0) != nil {
			require.NoError(t, unix.Mknodat(fd, fmt.Sprintf("d/%06d", i), unix.S_IFREG|0o644, 0))
		}
	}
	v := f.View(".")
	f.paging.time = time.Hour // pages are full, however busy the machine is
	start := time.Now()
	got, pages := searchAll(t, v, ".", mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("*77")}})
	t.Logf("%d names in %d pages: %v", files, pages, time.Since(start))
	require.Len(t, got, files/100)
	require.LessOrEqual(t, pages, 2)

	f.paging.names = files / 3
	got, pages = searchAll(t, v, ".", mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("*77")}})
	require.Len(t, got, files/100)
	require.Equal(t, 4, pages)

	f.paging = pageLimits{names: DefaultSearchEntries, bytes: DefaultGrepBytes, time: 5 * time.Millisecond}
	got, pages = searchAll(t, v, ".", mesh.SearchRequest{Cursor: "d/029999", Selection: mesh.Selection{Globs: paths("*7777")}})
	require.Equal(t, []string{"d/037777"}, got)
	require.LessOrEqual(t, pages, 500)
}

// The names of two large directories, one in the other, are not held at a time.
func TestTreeVisitHoldsLittle(t *testing.T) {
	var l chunk
	l.most, l.mostBytes = 10, 1000
	for i := range 1000 {
		l.names = append(l.names, fmt.Sprint(1000-i))
	}
	l.cut()
	require.Len(t, l.names, 10)
	require.Equal(t, "10", l.names[1])
	require.NotEmpty(t, l.bound)

	c := chunk{most: 1000, mostBytes: 100}
	c.names = []string{strings.Repeat("b", 200), strings.Repeat("a", 200)}
	c.cut()
	require.Equal(t, []string{strings.Repeat("a", 200)}, c.names, "one at least")
	require.Equal(t, strings.Repeat("b", 200), c.bound)
}

// Names and link targets of the worst bytes: no page is too large.
func TestTreeSearchWorstNames(t *testing.T) {
	f := newTreeFixture(t)
	target := strings.Repeat("\x01", mesh.MaxPathBytes)
	dir := strings.Repeat(strings.Repeat("\x02", 255)+"/", 12)
	for i := range 40 {
		f.link(target, fmt.Sprintf("%s%03d%s", dir, i, strings.Repeat("\x03", 250)))
	}
	got, pages := searchAll(t, f.View("."), ".", mesh.SearchRequest{Type: TypeSymlink})
	require.Len(t, got, 40)
	require.Greater(t, pages, 1)
}

// Much deeper than a path can be, with a link to itself on each level.
func TestTreeSearchDeep(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		makeDeep(t, f.cfg.Dir, 1000)
		f.paging.time = time.Hour // all of it is one page
		f.link(".", "deep/self")
		f.link("self2", "deep/self2")
		before := openDescriptors(t)
		got, _ := searchAll(t, f.View("."), ".", mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("leaf", "self*")}})
		want := []string{"leaf", "deep/self", "deep/self2"}
		for depth := 1; depth <= 818; depth++ {
			want = append(want, strings.Repeat("deep/", depth)+"leaf")
		}
		slices.Sort(got)
		slices.Sort(want)
		require.True(t, slices.Equal(want, got), "%d found of %d", len(got), len(want))
		reply, _ := grepAll(t, f.View("."), ".", mesh.GrepRequest{Pattern: "x"})
		require.Equal(t, int64(819), reply.Files)
		require.LessOrEqual(t, openDescriptors(t), before) // tests before this one may still be closing theirs
	})
}

// Directories come and go, also the one the cursor stands in; each page ends, and
// what stays is found once.
func TestTreeSearchOfWhatChanges(t *testing.T) {
	f := newTreeFixture(t)
	for i := range 30 {
		f.put(fmt.Sprintf("src/%02d/f", i), "x")
		f.put(fmt.Sprintf("src/%02d/sub/g", i), "x")
	}
	f.put("away/x", "x")
	stops := []func() int{
		swap(t, f.tenant("src/03/sub"), f.tenant("away")),
		swap(t, f.tenant("src/07"), f.tenant("src/08/f")),
	}
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		got, _ := searchAll(t, f.View("."), "src", mesh.SearchRequest{Limit: 3, Selection: mesh.Selection{Globs: paths("[12]?/f")}})
		require.Len(t, got, 20)
		reply, err := f.View(".").Grep(t.Context(), "src", &mesh.GrepRequest{Pattern: "x"})
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(reply.Matches), 50)
	}
	for _, stop := range stops {
		require.Positive(t, stop())
	}
	reply, err := f.View(".").Search(t.Context(), "src", &mesh.SearchRequest{Limit: 50})
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(f.tenant("src/"+strings.Split(string(reply.Next), "/")[1])))
	reply, err = f.View(".").Search(t.Context(), "src", &mesh.SearchRequest{Cursor: reply.Next})
	require.NoError(t, err)
	require.NotEmpty(t, reply.Entries)
	require.Empty(t, reply.Next)
}

func FuzzGlobs(f *testing.F) {
	for _, s := range []string{"*", "**/*.go", "{a,b}/[!c-d]?", `\*[\]]`, "{,a}{b,{c,d}}", "[^a]**", "a/**/b/**", strings.Repeat("*a", 50), "\xff[\x80-\xff]"} {
		f.Add(s, "a/b/c.go")
		f.Add(s, strings.Repeat("a/", 100)+"\xff\n")
	}
	f.Add("**/"+strings.Repeat("{a,?}/", 6)+strings.Repeat("a/", 2000)+"c", strings.Repeat("a/", 2047)+"b")
	f.Fuzz(func(t *testing.T, text, name string) {
		sel, err := newSelection(&mesh.Selection{Globs: paths(text), Exclude: paths(text)})
		if err != nil {
			requireCode(t, mesh.CodeInvalid, err)
			return
		}
		if len(name) > mesh.MaxPathBytes || path.Clean(name) != name {
			return
		}
		require.Equal(t, sel.includes(name), sel.excludes(name))
	})
}
