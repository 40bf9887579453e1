package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

// grepAll returns the pages together, and how many they were.
func grepAll(t require.TestingT, v *View, p string, req mesh.GrepRequest) (mesh.GrepReply, int) {
	all := mesh.GrepReply{Matches: []mesh.GrepMatch{}}
	for pages := 1; ; pages++ {
		reply, err := v.Grep(context.Background(), p, &req)
		require.NoError(t, err)
		b, err := json.Marshal(reply)
		require.NoError(t, err)
		require.LessOrEqual(t, len(b), mesh.MaxMessage)
		all.Matches = append(all.Matches, reply.Matches...)
		all.Files += reply.Files
		all.Skipped += reply.Skipped
		if reply.Next == nil {
			return all, pages
		}
		require.NotEqual(t, req.Cursor, reply.Next, "no progress")
		require.Less(t, pages, 100_000)
		req.Cursor = reply.Next
	}
}

// grepText is the grep of one content in its simplest words; false for binary.
func grepText(content []byte, p string, req mesh.GrepRequest) ([]mesh.GrepMatch, bool) {
	if bytes.IndexByte(content[:min(len(content), 8<<10)], 0) >= 0 {
		return nil, false
	}
	pattern := req.Pattern
	if req.Literal {
		pattern = regexp.QuoteMeta(pattern)
	}
	if req.IgnoreCase {
		pattern = "(?i:" + pattern + ")"
	}
	re := regexp.MustCompile(pattern)
	var lines []string
	for part := range bytes.SplitAfterSeq(content, []byte("\n")) {
		if line := string(part); line != "" {
			if strings.HasSuffix(line, "\n") {
				line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
			}
			lines = append(lines, line)
		}
	}
	short := func(lines []string) (all []mesh.Text) {
		for _, l := range lines {
			all = append(all, mesh.Text(l[:min(len(l), mesh.MaxContextText)]))
		}
		return all
	}
	var found []mesh.GrepMatch
	for i, line := range lines {
		at := re.FindStringIndex(line)
		if at == nil || req.PerFile > 0 && len(found) == req.PerFile {
			continue
		}
		found = append(found, mesh.GrepMatch{
			Path: mesh.Path(p), Line: int64(i + 1), Column: at[0] + 1, Text: mesh.Text(line),
			Before: short(lines[max(0, i-req.Before):i]), After: short(lines[i+1 : min(len(lines), i+1+req.After)]),
		})
	}
	switch {
	case len(found) == 0:
	case req.Mode == mesh.GrepFiles:
		found = []mesh.GrepMatch{{Path: mesh.Path(p)}}
	case req.Mode == mesh.GrepCounts:
		found = []mesh.GrepMatch{{Path: mesh.Path(p), Count: int64(len(found))}}
	}
	return found, true
}

func TestTreeGrep(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("d/a.go", "one\ntwo\nThree two\nfour")
		f.put("d/b.txt", "two\r\nend\r\n")
		f.put("d/sub/c.go", "two [two]\n")
		f.put("d/binary", "two\x00\n")
		f.put("d/late binary", strings.Repeat("x", binaryHead)+"\ntwo\x00\n")
		f.put("d/empty", "")
		f.put("d/odd\xff", "\xfftwo\xfe\n")
		f.link("../d", "d/up")
		f.link("b.txt", "d/link")
		f.link("d/a.go", "link")
		require.NoError(t, unix.Mkfifo(f.tenant("d/fifo"), 0o600))
		makeSocket(t, f.tenant("d/sock"))
		match := func(p string, line int64, column int, text mesh.Text) mesh.GrepMatch {
			return mesh.GrepMatch{Path: mesh.Path(p), Line: line, Column: column, Text: text}
		}
		for _, c := range []struct {
			name, scope, path string
			req               mesh.GrepRequest
			want              []mesh.GrepMatch
			files, skipped    int64
		}{
			{name: "lines", path: "d", req: mesh.GrepRequest{Pattern: "two"}, files: 7, skipped: 1, want: []mesh.GrepMatch{
				match("d/a.go", 2, 1, "two"), match("d/a.go", 3, 7, "Three two"), match("d/b.txt", 1, 1, "two"),
				match("d/late binary", 2, 1, "two\x00"), match("d/odd\xff", 1, 2, "\xfftwo\xfe"), match("d/sub/c.go", 1, 1, "two [two]"),
			}},
			{name: "files", path: "d", req: mesh.GrepRequest{Pattern: "two", Mode: mesh.GrepFiles, Selection: mesh.Selection{Globs: paths("*.go")}}, files: 2, want: []mesh.GrepMatch{{Path: "d/a.go"}, {Path: "d/sub/c.go"}}},
			{name: "counts", path: "d", req: mesh.GrepRequest{Pattern: "two", Mode: mesh.GrepCounts, Selection: mesh.Selection{Globs: paths("*.go")}}, files: 2, want: []mesh.GrepMatch{{Path: "d/a.go", Count: 2}, {Path: "d/sub/c.go", Count: 1}}},
			{name: "excluded", path: "d", req: mesh.GrepRequest{Pattern: "two", Selection: mesh.Selection{Exclude: paths("*.go", "[bl]*", "odd*")}}, files: 1, want: []mesh.GrepMatch{}},
			{name: "one file", path: "d/b.txt", req: mesh.GrepRequest{Pattern: "two$"}, files: 1, want: []mesh.GrepMatch{match("d/b.txt", 1, 1, "two")}},
			{name: "one file through a link, in a scope", scope: "d", path: "d/link", req: mesh.GrepRequest{Pattern: "^end$"}, files: 1, want: []mesh.GrepMatch{match("link", 2, 1, "end")}},
			{name: "no end of the last line", path: "link", req: mesh.GrepRequest{Pattern: "four$"}, files: 1, want: []mesh.GrepMatch{match("link", 4, 1, "four")}},
			{name: "literal", path: "d/sub", req: mesh.GrepRequest{Pattern: "[TWO]", Literal: true, IgnoreCase: true}, files: 1, want: []mesh.GrepMatch{match("d/sub/c.go", 1, 5, "two [two]")}},
			{name: "alternatives without case", path: "d/a.go", req: mesh.GrepRequest{Pattern: "THREE|FOUR", IgnoreCase: true}, files: 1, want: []mesh.GrepMatch{match("d/a.go", 3, 1, "Three two"), match("d/a.go", 4, 1, "four")}},
			{name: "per file", path: "d/a.go", req: mesh.GrepRequest{Pattern: ".", PerFile: 1}, files: 1, want: []mesh.GrepMatch{match("d/a.go", 1, 1, "one")}},
			{name: "empty pattern", path: "d/sub", files: 1, want: []mesh.GrepMatch{match("d/sub/c.go", 1, 1, "two [two]")}},
			{name: "context", path: "d/a.go", req: mesh.GrepRequest{Pattern: "two", Before: 1, After: 1}, files: 1, want: []mesh.GrepMatch{
				{Path: "d/a.go", Line: 2, Column: 1, Text: "two", Before: []mesh.Text{"one"}, After: []mesh.Text{"Three two"}},
				{Path: "d/a.go", Line: 3, Column: 7, Text: "Three two", Before: []mesh.Text{"two"}, After: []mesh.Text{"four"}},
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.scope == "" {
					c.scope = "."
				}
				for limit := range 4 {
					c.req.Limit = limit
					got, _ := grepAll(t, f.View(c.scope), c.path, c.req)
					require.Equal(t, mesh.GrepReply{Matches: c.want, Files: c.files, Skipped: c.skipped}, got, "limit %d", limit)
				}
			})
		}
	})
}

func TestTreeGrepRefuses(t *testing.T) {
	f := newTreeFixture(t)
	f.put("d/f", "x")
	require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o600))
	for name, c := range map[string]struct {
		path string
		req  mesh.GrepRequest
		code mesh.Code
	}{
		"missing":               {path: "nope", code: mesh.CodeNotFound},
		"a fifo":                {path: "fifo", code: mesh.CodeInvalid},
		"bad pattern":           {path: "d", req: mesh.GrepRequest{Pattern: "(x"}, code: mesh.CodeInvalid},
		"closes our group":      {path: "d", req: mesh.GrepRequest{Pattern: "x)(?i:x", IgnoreCase: true}, code: mesh.CodeInvalid},
		"not RE2":               {path: "d", req: mesh.GrepRequest{Pattern: `(x)\1`}, code: mesh.CodeInvalid},
		"not UTF-8":             {path: "d", req: mesh.GrepRequest{Pattern: "\xff", Literal: true}, code: mesh.CodeInvalid},
		"long pattern":          {path: "d", req: mesh.GrepRequest{Pattern: strings.Repeat("x", mesh.MaxPattern+1)}, code: mesh.CodeInvalid},
		"large pattern":         {path: "d", req: mesh.GrepRequest{Pattern: "((x{30}){30}){30}y{1000}"}, code: mesh.CodeInvalid},
		"large class repeated":  {path: "d", req: mesh.GrepRequest{Pattern: strings.Repeat(`\pL{1000}`, 400)}, code: mesh.CodeInvalid},
		"bad mode":              {path: "d", req: mesh.GrepRequest{Mode: "all"}, code: mesh.CodeInvalid},
		"negative limit":        {path: "d", req: mesh.GrepRequest{Limit: -1}, code: mesh.CodeInvalid},
		"large limit":           {path: "d", req: mesh.GrepRequest{Limit: mesh.MaxMatches + 1}, code: mesh.CodeInvalid},
		"negative context":      {path: "d", req: mesh.GrepRequest{Before: -1}, code: mesh.CodeInvalid},
		"large context":         {path: "d", req: mesh.GrepRequest{After: mesh.MaxContext + 1}, code: mesh.CodeInvalid},
		"negative per file":     {path: "d", req: mesh.GrepRequest{PerFile: -1}, code: mesh.CodeInvalid},
		"bad glob":              {path: "d", req: mesh.GrepRequest{Selection: mesh.Selection{Globs: paths("[")}}, code: mesh.CodeInvalid},
		"cursor from elsewhere": {path: "d", req: mesh.GrepRequest{Cursor: &mesh.GrepCursor{Path: "e/f"}}, code: mesh.CodeInvalid},
		"another file's cursor": {path: "d/f", req: mesh.GrepRequest{Cursor: &mesh.GrepCursor{Path: "d/g"}}, code: mesh.CodeInvalid},
		"behind the only file":  {path: "d/f", req: mesh.GrepRequest{Cursor: &mesh.GrepCursor{Path: "d/f", Offset: -1}}, code: mesh.CodeInvalid},
		"far behind the end":    {path: "d/f", req: mesh.GrepRequest{Cursor: &mesh.GrepCursor{Path: "d/f", Offset: 1 << 62, Line: -1 << 63}}},
		"cursor of what is not": {path: "d", req: mesh.GrepRequest{Cursor: &mesh.GrepCursor{Path: "d/g/h", Offset: 7}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.View(".").Grep(t.Context(), c.path, &c.req)
			requireCode(t, c.code, err)
		})
	}
}

// However it is cut into pages, a grep finds what a simple one does.
func TestTreeGrepPages(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		piece := rapid.SampledFrom([]string{"a", "b", "ab", "\n", "\n", "\n", "\r\n", "\r", "\x00", "é", strings.Repeat("b", 450)})
		content := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(piece, 0, 30).Draw(t, "pieces"), "") })
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			n++
			top := fmt.Sprint(n)
			growTree(rt, f.tenant(top), content)
			req := mesh.GrepRequest{
				Pattern:   rapid.SampledFrom([]string{"a", "^a", "b$", "^$", "", "B", "."}).Draw(rt, "pattern"),
				Selection: drawSelection(rt),
				Mode:      rapid.SampledFrom([]string{"", mesh.GrepFiles, mesh.GrepCounts}).Draw(rt, "mode"),
				Before:    rapid.IntRange(0, 3).Draw(rt, "before"), After: rapid.IntRange(0, 3).Draw(rt, "after"),
				PerFile: rapid.IntRange(0, 3).Draw(rt, "per file"), Limit: rapid.IntRange(0, 3).Draw(rt, "limit"),
			}
			req.IgnoreCase, req.Literal = rapid.Bool().Draw(rt, "ignore case"), rapid.Bool().Draw(rt, "literal")
			f.paging.names = rapid.SampledFrom([]int{1, 3, DefaultSearchEntries}).Draw(rt, "names")
			f.paging.bytes = rapid.SampledFrom([]int64{1, 10, DefaultGrepBytes}).Draw(rt, "bytes")
			want := mesh.GrepReply{Matches: []mesh.GrepMatch{}}
			referenceSearch(rt, f.tenant(top), req.Selection, func(rel string, d fs.DirEntry) {
				if !d.Type().IsRegular() {
					return
				}
				b, err := os.ReadFile(f.tenant(top, rel))
				require.NoError(rt, err)
				found, text := grepText(b, top+"/"+rel, req)
				want.Matches = append(want.Matches, found...)
				want.Files++
				if !text {
					want.Skipped++
				}
			})
			got, _ := grepAll(rt, f.View("."), top, req)
			require.Equal(rt, want, got)
		})
	})
}

func TestTreeGrepLongLines(t *testing.T) {
	f := newTreeFixture(t)
	v := f.View(".")
	long := strings.Repeat("x", maxLine)
	f.put("edge", long+"\n"+long+"\r\n"+long+"y\nend\n")
	f.put("late", "first\n"+long+"needle\nlast\n")
	f.put("cut", strings.Repeat("é", 3000)+"needle"+strings.Repeat("ü", 3000)+"\n")
	f.put("wide", "a"+strings.Repeat("é", 3000)+"\n")

	t.Run("only the first of it is matched", func(t *testing.T) {
		got, _ := grepAll(t, v, "late", mesh.GrepRequest{Pattern: "needle"})
		require.Empty(t, got.Matches)
		got, _ = grepAll(t, v, "edge", mesh.GrepRequest{Pattern: "x$"})
		require.Len(t, got.Matches, 3)
		require.True(t, got.Matches[2].Cut)
	})
	t.Run("context ends at it", func(t *testing.T) {
		for limit := range 3 {
			got, _ := grepAll(t, v, "late", mesh.GrepRequest{Pattern: "^(first|x|last)", Before: 2, After: 2, Limit: limit})
			require.Len(t, got.Matches, 3)
			require.Empty(t, got.Matches[0].After)
			require.Equal(t, []mesh.Text{"first"}, got.Matches[1].Before)
			require.Empty(t, got.Matches[1].After)
			require.Empty(t, got.Matches[2].Before)
			require.Equal(t, int64(3), got.Matches[2].Line)
		}
	})
	t.Run("cut around the match", func(t *testing.T) {
		got, _ := grepAll(t, v, "cut", mesh.GrepRequest{Pattern: "needle"})
		m := got.Matches[0]
		require.True(t, m.Cut)
		require.Equal(t, 6001, m.Column)
		require.Contains(t, string(m.Text), "éneedleü")
		require.InDelta(t, mesh.MaxMatchText, len(m.Text), 4)
		require.NotContains(t, fmt.Sprintf("%q", m.Text), `\x`, "whole runes")
	})
	t.Run("a match longer than the text", func(t *testing.T) {
		got, _ := grepAll(t, v, "wide", mesh.GrepRequest{Pattern: "a.*"})
		require.True(t, strings.HasPrefix(string(got.Matches[0].Text), "aéé"))
		require.InDelta(t, mesh.MaxMatchText, len(got.Matches[0].Text), 2)
	})
}

// Lines longer than a page reads: of data, and of a hole.
func TestTreeGrepHugeLine(t *testing.T) {
	f := newTreeFixture(t)
	f.put("d/data", "head\nneedle "+strings.Repeat("x", 20<<20)+"\nneedle\n")
	f.put("d/hole", strings.Repeat("x", binaryHead)+"\nneedle")
	require.NoError(t, os.Truncate(f.tenant("d/hole"), 4<<40))
	w, err := os.OpenFile(f.tenant("d/hole"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = w.WriteAt([]byte("\nneedle\n"), 3<<40)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	req := mesh.GrepRequest{Pattern: "needle", Before: 1, After: 1}
	for name, bytes := range map[string]int64{"one page": DefaultGrepBytes, "small pages": 3 << 20, "least pages": 1} {
		t.Run(name, func(t *testing.T) {
			f.paging.bytes = bytes
			got, pages := grepAll(t, f.View("."), "d", req)
			require.Less(t, pages, 60)
			require.Equal(t, int64(2), got.Files)
			var at []string
			for _, m := range got.Matches {
				at = append(at, fmt.Sprint(m.Path, m.Line, m.Cut, len(m.Before), len(m.After)))
			}
			require.Equal(t, []string{"d/data2 true 1 0", "d/data3 false 0 0", "d/hole2 true 1 0", "d/hole3 false 0 0"}, at)
		})
	}
}

// Contexts of the worst bytes: no page is too large, each has a match.
func TestTreeGrepWorstText(t *testing.T) {
	f := newTreeFixture(t)
	name := strings.Repeat(strings.Repeat("\x02", 255)+"/", 14) + "f"
	line := strings.Repeat("\x01", 5000) + "\n"
	f.put(name, strings.Repeat(line, 60))
	got, pages := grepAll(t, f.View("."), ".", mesh.GrepRequest{Pattern: "^", Before: mesh.MaxContext, After: mesh.MaxContext})
	require.Len(t, got.Matches, 60)
	require.Greater(t, pages, 15)
	for i, m := range got.Matches {
		require.Equal(t, int64(i+1), m.Line)
		require.Len(t, m.Before, min(i, mesh.MaxContext))
		require.Len(t, m.After, min(59-i, mesh.MaxContext))
	}
}

// What costs the most to match ends in time, when the caller or the Tree has
// had enough too.
func TestTreeGrepCostly(t *testing.T) {
	f := newTreeFixture(t)
	for i := range 20 {
		f.put(fmt.Sprintf("d/%d", i), strings.Repeat(strings.Repeat("x", 1<<10)+"\n", 2000))
	}
	req := &mesh.GrepRequest{Pattern: strings.Repeat("(x|xx|x.x){0,20}", 40) + "y$"}
	f.paging.time = 100 * time.Millisecond
	reply, err := f.View(".").Grep(t.Context(), "d", req)
	require.NoError(t, err)
	require.NotNil(t, reply.Next, "the page ends before the files do")

	f.paging.time = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = f.View(".").Grep(ctx, "d", req)
	requireCode(t, mesh.CodeDeadline, err)
	ended := make(chan error, 1)
	go func() {
		_, err := f.View(".").Grep(context.Background(), "d", req)
		ended <- err
	}()
	require.Eventually(t, func() bool { return len(f.scans) > 0 }, 5*time.Second, time.Millisecond)
	require.NoError(t, f.Close())
	requireCode(t, mesh.CodeUnavailable, <-ended)
}

func FuzzGrep(f *testing.F) {
	for _, p := range []string{"a", "^$", "(a|b)*c", "[^a]{3,}", `\pL+$`, "(?m)^a$", "a\nb", "(?s)."} {
		f.Add(p, []byte("a\nb\r\n\nabc\r"), uint8(1), uint8(2), uint8(0))
		f.Add(p, []byte("aaa\xffbbb\n\nc\n\n\n\n\ncab"), uint8(5), uint8(1), uint8(3))
	}
	tree := &treeFixture{}
	f.Fuzz(func(t *testing.T, pattern string, content []byte, context, limit, perFile uint8) {
		tree = newTreeFixture(t)
		tree.put("f", string(content))
		req := mesh.GrepRequest{
			Pattern: pattern, Before: int(context % 4), After: int(context / 4 % 4), PerFile: int(perFile % 4),
			Literal: context&64 != 0, IgnoreCase: context&128 != 0,
		}
		if _, err := tree.View(".").Grep(t.Context(), "f", &req); err != nil {
			requireCode(t, mesh.CodeInvalid, err)
			return
		}
		whole, _ := grepAll(t, tree.View("."), "f", req)
		req.Limit = int(limit%4) + 1
		tree.paging.bytes = int64(limit)
		paged, _ := grepAll(t, tree.View("."), "f", req)
		require.Equal(t, whole, paged)
		if found, text := grepText(content, "f", req); text && len(content) < 1000 {
			require.Len(t, paged.Matches, len(found))
		}
	})
}

// BenchmarkTreeGrep reads about 64 MiB in 10,000 files, of which few match.
func BenchmarkTreeGrep(b *testing.B) {
	tree := manyFiles(b)
	for name, pattern := range map[string]string{"literal": "needle", "expression": `func \w+\(.*needle`, "no prefix": `\bne+dle\b`} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, pages := grepAll(b, tree.View("."), ".", mesh.GrepRequest{Pattern: pattern})
				b.ReportMetric(float64(pages), "pages")
			}
		})
	}
	b.Run("search", func(b *testing.B) {
		for b.Loop() {
			got, _ := searchAll(b, tree.View("."), ".", mesh.SearchRequest{Selection: mesh.Selection{Globs: paths("**/*7.go")}})
			require.Len(b, got, 1000)
		}
	})
}
