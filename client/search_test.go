package client_test

import (
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// collect ranges over pages to their end.
func collect[T any](t *testing.T, seq iter.Seq2[T, error]) []T {
	t.Helper()
	var all []T
	for e, err := range seq {
		require.NoError(t, err)
		all = append(all, e)
	}
	return all
}

func searchTree(t *testing.T, ws *client.Workspace) {
	t.Helper()
	fill(t, ws, "main.go", "a/a.go", "a/a_test.go", "a/b/deep.go", "a-b.go", "vendor/x/x.go", "README.md", "a/\xff.go")
	require.NoError(t, ws.Symlink(t.Context(), "a", "link.go"))
}

func TestSearch(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		searchTree(t, ws)
		for _, r := range []struct {
			name string
			ws   *client.Workspace
			req  mesh.SearchRequest
			want []string
		}{
			{"by component, then bytes", ws, sel("", "*.go"), []string{"a/a.go", "a/a_test.go", "a/b/deep.go", "a/\xff.go", "a-b.go", "link.go", "main.go", "vendor/x/x.go"}},
			{"a glob with a slash", ws, sel("", "a/*.go"), []string{"a/a.go", "a/a_test.go", "a/\xff.go"}},
			{"across directories", ws, sel("", "a/**/*.go"), []string{"a/a.go", "a/a_test.go", "a/b/deep.go", "a/\xff.go"}},
			{"below a directory", ws, sel("a", "*.go"), []string{"a/a.go", "a/a_test.go", "a/b/deep.go", "a/\xff.go"}},
			{"in a scope", ws.Scope("a"), sel("b"), []string{"b/deep.go"}},
			{"directories", ws, mesh.SearchRequest{Type: "dir"}, []string{"a", "a/b", "vendor", "vendor/x"}},
			{"without", ws, mesh.SearchRequest{Selection: mesh.Selection{Globs: []mesh.Path{"*.go"}, Exclude: []mesh.Path{"vendor", "*_test.go", "a"}}}, []string{"a-b.go", "link.go", "main.go"}},
			{"nothing", ws, sel("", "*.rs"), nil},
		} {
			t.Run(r.name, func(t *testing.T) {
				whole := collect(t, r.ws.Search(ctx, r.req))
				require.Equal(t, r.want, pathsOf(whole))
				paged := r.req
				paged.Limit = 2
				require.Equal(t, whole, collect(t, r.ws.Search(ctx, paged)), "in pages of two")
			})
		}
		for first, err := range ws.Search(ctx, sel("")) {
			require.NoError(t, err)
			require.Equal(t, mesh.Path("README.md"), first.Path)
			break
		}
		bad := map[mesh.Code]mesh.SearchRequest{
			mesh.CodeInvalid: sel("", "[a"), mesh.CodeDenied: sel("../x"), mesh.CodeNotFound: sel("none"),
		}
		for code, req := range bad {
			_, err := ws.SearchPage(ctx, req)
			requireCode(t, code, err)
		}
	})
}

func sel(path mesh.Path, globs ...mesh.Path) mesh.SearchRequest {
	return mesh.SearchRequest{Path: path, Selection: mesh.Selection{Globs: globs}}
}

func pathsOf(entries []mesh.FileInfo) []string {
	var paths []string
	for _, e := range entries {
		paths = append(paths, string(e.Path))
	}
	return paths
}

func TestGrep(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		for path, content := range map[string]string{
			"a/one.txt": "zero\none needle\ntwo\nthree Needle needle\nfour\n",
			"b.txt":     "needle.\nneedles\n",
			"binary":    "needle\x00\n",
			"c.md":      "nothing\n",
			"d.md":      "a needle without an end",
		} {
			require.NoError(t, ws.WriteFile(ctx, path, []byte(content), 0))
		}
		type match = mesh.GrepMatch
		one := match{Path: "a/one.txt", Line: 2, Column: 5, Text: "one needle"}
		three := match{Path: "a/one.txt", Line: 4, Column: 14, Text: "three Needle needle"}
		b1, b2 := match{Path: "b.txt", Line: 1, Column: 1, Text: "needle."}, match{Path: "b.txt", Line: 2, Column: 1, Text: "needles"}
		d := match{Path: "d.md", Line: 1, Column: 3, Text: "a needle without an end"}
		withContext, threeAgain := one, three
		withContext.Before, withContext.After = []mesh.Text{"zero"}, []mesh.Text{"two", "three Needle needle"}
		threeAgain.Before, threeAgain.After = []mesh.Text{"two"}, []mesh.Text{"four"}
		ignoring := three
		ignoring.Column = 7 // of Needle
		for _, r := range []struct {
			name string
			req  mesh.GrepRequest
			want []match
		}{
			{"lines", mesh.GrepRequest{Pattern: "needle"}, []match{one, three, b1, b2, d}},
			{"one file", mesh.GrepRequest{Path: "b.txt", Pattern: "needles?"}, []match{b1, b2}},
			{"a directory", mesh.GrepRequest{Path: "a", Pattern: "needle"}, []match{one, three}},
			{"literal", mesh.GrepRequest{Pattern: "needle.", Literal: true}, []match{b1}},
			{"any case", mesh.GrepRequest{Path: "a", Pattern: "NEEDLE", IgnoreCase: true}, []match{one, ignoring}},
			{"context", mesh.GrepRequest{Path: "a", Pattern: "needle", Before: 1, After: 2}, []match{withContext, threeAgain}},
			{"some files", mesh.GrepRequest{Pattern: "needle", Selection: mesh.Selection{Globs: []mesh.Path{"*.md"}}}, []match{d}},
			{"one of each file", mesh.GrepRequest{Pattern: "needle", PerFile: 1}, []match{one, b1, d}},
			{"counts", mesh.GrepRequest{Pattern: "needle", Mode: mesh.GrepCounts}, []match{{Path: "a/one.txt", Count: 2}, {Path: "b.txt", Count: 2}, {Path: "d.md", Count: 1}}},
			{"nothing", mesh.GrepRequest{Pattern: "hay"}, nil},
		} {
			t.Run(r.name, func(t *testing.T) {
				require.Equal(t, r.want, collect(t, ws.Grep(ctx, r.req)))
				for limit := 1; limit <= 2; limit++ {
					paged := r.req
					paged.Limit = limit
					require.Equal(t, r.want, collect(t, ws.Grep(ctx, paged)), "in pages of %d", limit)
				}
			})
		}
	})
}

func TestGrepPage(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		for path, content := range map[string]string{"a": "needle\nneedle\n", "b": "hay\n", "binary": "needle\x00\n", "c": "needle"} {
			require.NoError(t, ws.WriteFile(ctx, path, []byte(content), 0))
		}
		for limit := range 4 {
			var files []string
			for _, f := range collect(t, ws.Grep(ctx, mesh.GrepRequest{Pattern: "needle", Mode: mesh.GrepFiles, Limit: limit})) {
				files = append(files, string(f.Path))
			}
			require.Equal(t, []string{"a", "c"}, files, "in pages of %d", limit)
		}
		page, err := ws.GrepPage(ctx, mesh.GrepRequest{Pattern: "needle"})
		require.NoError(t, err)
		require.Equal(t, []int64{4, 1}, []int64{page.Files, page.Skipped}, "the binary one is skipped")
		_, err = ws.GrepPage(ctx, mesh.GrepRequest{Pattern: "("})
		requireCode(t, mesh.CodeInvalid, err)
		_, err = ws.GrepPage(ctx, mesh.GrepRequest{Path: "../x", Pattern: "x"})
		requireCode(t, mesh.CodeDenied, err)
	})
}
