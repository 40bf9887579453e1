package mcpgw

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultMatches and MaxMatches are how many matches one result shows, and
	// never more than MaxMatched bytes of them.
	DefaultMatches = 250
	MaxMatches     = 1000
	MaxMatched     = 40_000
)

type grepArgs struct {
	Pattern    string   `json:"pattern" jsonschema:"regular expression (RE2: no look-around, no back references), matched with each line"`
	Path       string   `json:"path,omitempty" jsonschema:"file or directory to search, relative to the workspace root; default the root itself"`
	Glob       string   `json:"glob,omitempty" jsonschema:"search only files whose name matches, e.g. *.ts; with a slash, whose path does"`
	Type       string   `json:"type,omitempty" jsonschema:"search only files of this language or extension, e.g. go, py, ts"`
	Exclude    []string `json:"excludePatterns,omitempty" jsonschema:"globs of what to leave out, e.g. node_modules"`
	OutputMode string   `json:"outputMode,omitempty" jsonschema:"files_with_matches: paths only; content: the lines; count: how many lines of each file match" limits:"enum=files_with_matches|content|count default=files_with_matches"`
	IgnoreCase bool     `json:"caseInsensitive,omitempty" limits:"default=false"`
	Fixed      bool     `json:"fixedStrings,omitempty" jsonschema:"pattern is a text and no expression" limits:"default=false"`
	Before     int      `json:"contextBefore,omitempty" jsonschema:"lines to show before each match (content)" limits:"min=0 max=50"`
	After      int      `json:"contextAfter,omitempty" jsonschema:"lines to show after each match (content)" limits:"min=0 max=50"`
	Around     int      `json:"contextAround,omitempty" jsonschema:"lines to show before and after each match (content)" limits:"min=0 max=50"`
	Numbers    *bool    `json:"lineNumbers,omitempty" jsonschema:"show line numbers in the text (content)" limits:"default=true"`
	Multiline  bool     `json:"multiline,omitempty" jsonschema:"not supported: a match lies within one line" limits:"default=false"`
	HeadLimit  int      `json:"headLimit,omitempty" jsonschema:"how many matches, or files, to show" limits:"min=0 max=1000 default=250"`
	Cursor     string   `json:"cursor,omitempty" jsonschema:"nextCursor of the call before"`
}

type grepMatch struct {
	Path   string   `json:"path" jsonschema:"relative to the workspace root"`
	Line   int64    `json:"line,omitempty" jsonschema:"number of the line, from 1"`
	Text   string   `json:"text,omitempty" jsonschema:"the line"`
	Before []string `json:"before,omitempty" jsonschema:"the lines before it"`
	After  []string `json:"after,omitempty" jsonschema:"the lines after it"`
	Count  int64    `json:"count,omitempty" jsonschema:"matching lines of the file"`
}

type grepResult struct {
	Matches    []grepMatch `json:"matches" jsonschema:"by path and line"`
	Truncated  bool        `json:"truncated" jsonschema:"there may be more"`
	NextCursor string      `json:"nextCursor,omitempty" jsonschema:"cursor of the call that shows the next"`
	Note       string      `json:"note,omitempty" jsonschema:"how to see the rest, or why there is nothing"`
	numbers    bool
}

func (r grepResult) text() string {
	var b strings.Builder
	for _, m := range r.Matches {
		for i, line := range m.Before {
			r.line(&b, m.Path, m.Line-int64(len(m.Before)-i), "-", line)
		}
		switch {
		case m.Count > 0:
			fmt.Fprintf(&b, "%s:%d\n", m.Path, m.Count)
		case m.Line == 0:
			b.WriteString(m.Path + "\n")
		default:
			r.line(&b, m.Path, m.Line, ":", m.Text)
		}
		for i, line := range m.After {
			r.line(&b, m.Path, m.Line+int64(i)+1, "-", line)
		}
		if len(m.Before)+len(m.After) > 0 {
			b.WriteString("--\n")
		}
	}
	if len(r.Matches) == 0 && !r.Truncated {
		b.WriteString("No matches found\n")
	}
	return withNote(&b, r.Note)
}

func (r grepResult) line(b *strings.Builder, path string, number int64, sep, text string) {
	if r.numbers {
		fmt.Fprintf(b, "%s%s%d%s%s\n", path, sep, number, sep, text)
		return
	}
	b.WriteString(path + sep + text + "\n")
}

func addGrep(s *server.MCPServer) {
	add(s, tool[grepArgs, grepResult]{
		name: "grep", title: "Search in files",
		description: "Search the lines of text files for a regular expression, in one file or in a directory and everything below it. Shows the " +
			"paths of the files unless outputMode says otherwise; 250 matches unless headLimit says otherwise, at most 1000. A result that is " +
			"cut says how to go on. Binary files are skipped; symbolic links are not followed.",
		hints: hints{readOnly: true, idempotent: true},
		run:   grep,
		next:  map[mesh.Code]string{mesh.CodeInvalid: "Correct the arguments; to search for the text as it is, set fixedStrings."},
	})
}

// extensions are globs of languages that are not called like their extension.
var extensions = map[string]string{
	"c": "*.{c,h}", "cpp": "*.{cpp,cc,cxx,hpp,hh,h}", "javascript": "*.{js,jsx,mjs,cjs}", "js": "*.{js,jsx,mjs,cjs}",
	"typescript": "*.{ts,tsx,mts,cts}", "ts": "*.{ts,tsx,mts,cts}", "python": "*.{py,pyi}", "py": "*.{py,pyi}", "rust": "*.rs",
	"ruby": "*.rb", "markdown": "*.{md,markdown}", "md": "*.{md,markdown}", "yaml": "*.{yaml,yml}", "html": "*.{html,htm}",
	"kotlin": "*.{kt,kts}", "csharp": "*.cs", "shell": "*.{sh,bash}",
}

func grep(ctx context.Context, c *call, in grepArgs) (grepResult, error) {
	req, err := in.request()
	if err != nil {
		return grepResult{}, err
	}
	most := cmp.Or(in.HeadLimit, DefaultMatches)
	r := grepResult{Matches: []grepMatch{}, numbers: in.Numbers == nil || *in.Numbers}
	for size := 0; ; {
		req.Limit = min(most-len(r.Matches), 100) // a page of long lines stays below MaxMatched
		page, err := c.workspace.GrepPage(ctx, req)
		if c.noView(ctx, in.Path, err) {
			return grepResult{Matches: []grepMatch{}, Note: emptyView}, nil
		}
		if err != nil {
			return grepResult{}, err
		}
		for _, m := range page.Matches {
			r.Matches = append(r.Matches, matchOf(m, &size))
		}
		req.Cursor = page.Next
		if page.Next == nil || len(r.Matches) >= most || size >= MaxMatched {
			break
		}
	}
	if req.Cursor != nil {
		r.Truncated, r.NextCursor = true, encodeCursor(req.Cursor)
		r.Note = fmt.Sprintf("%d matches are shown and there may be more; call grep with the same arguments and cursor=%q for more", len(r.Matches), r.NextCursor)
	}
	return r, nil
}

func (in *grepArgs) request() (mesh.GrepRequest, error) {
	req := mesh.GrepRequest{Path: mesh.Path(in.Path), Pattern: in.Pattern, IgnoreCase: in.IgnoreCase, Literal: in.Fixed}
	req.Exclude = asPaths(in.Exclude)
	switch {
	case in.Multiline:
		return req, advise(mesh.CodeUnsupported, "Search line by line, or use exec (grep -Pzo, rg -U).", "multiline is not supported")
	case in.Glob != "" && in.Type != "":
		return req, advise(mesh.CodeInvalid, "Leave one of them out and call again.", "glob and type are both there")
	case in.Glob != "":
		req.Globs = []mesh.Path{mesh.Path(in.Glob)}
	case in.Type != "":
		req.Globs = []mesh.Path{mesh.Path(cmp.Or(extensions[in.Type], "*."+in.Type))}
	}
	switch in.OutputMode {
	case "content":
		req.Mode, req.Before, req.After = mesh.GrepLines, max(in.Before, in.Around), max(in.After, in.Around)
	case "count":
		req.Mode = mesh.GrepCounts
	default:
		req.Mode = mesh.GrepFiles
	}
	return req, decodeCursor(in.Cursor, &req.Cursor)
}

// matchOf makes a match of the result and adds its size.
func matchOf(m mesh.GrepMatch, size *int) grepMatch {
	g := grepMatch{Path: shownName(string(m.Path)), Line: m.Line, Text: validText([]byte(m.Text)), Count: m.Count}
	for _, line := range m.Before {
		g.Before = append(g.Before, validText([]byte(line)))
	}
	for _, line := range m.After {
		g.After = append(g.After, validText([]byte(line)))
	}
	*size += len(g.Path) + len(g.Text) + len(strings.Join(g.Before, "\n")) + len(strings.Join(g.After, "\n"))
	return g
}
