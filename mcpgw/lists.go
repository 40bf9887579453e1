package mcpgw

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultEntries and MaxEntries are how many names one result shows.
	DefaultEntries = 500
	MaxEntries     = 1000
	// MaxSorted is how many files a search sorts by time.
	MaxSorted = 10_000
)

type listArgs struct {
	Path   string `json:"path,omitempty" jsonschema:"path of the directory, relative to the workspace root; default the root itself"`
	Limit  int    `json:"limit,omitempty" jsonschema:"how many entries to show" limits:"min=0 max=1000 default=500"`
	Cursor string `json:"cursor,omitempty" jsonschema:"nextCursor of the call before"`
	At     string `json:"at,omitempty" jsonschema:"as it was: a snapshot, a commit or a time (RFC 3339); default now"`
}

type listEntry struct {
	Name       string `json:"name"`
	Type       string `json:"type" jsonschema:"file, dir, symlink, fifo, socket or device"`
	SizeBytes  int64  `json:"sizeBytes"`
	ModifiedAt string `json:"modifiedAt" jsonschema:"RFC 3339, UTC"`
}

type listResult struct {
	Path       string      `json:"path"`
	Entries    []listEntry `json:"entries" jsonschema:"sorted by name"`
	Truncated  bool        `json:"truncated" jsonschema:"there are more entries"`
	NextCursor string      `json:"nextCursor,omitempty" jsonschema:"cursor of the call that shows the next"`
	Note       string      `json:"note,omitempty" jsonschema:"how to see the rest, or why there is nothing"`
}

func (r listResult) text() string {
	var b strings.Builder
	for _, e := range r.Entries {
		kind := "[" + strings.ToUpper(e.Type) + "] "
		b.WriteString(kind + e.Name)
		if e.Type == "file" {
			fmt.Fprintf(&b, " (%s)", counted(e.SizeBytes, "byte"))
		}
		b.WriteByte('\n')
	}
	if len(r.Entries) == 0 && r.Note != emptyView {
		b.WriteString("(nothing)\n")
	}
	return withNote(&b, r.Note)
}

func withNote(b *strings.Builder, note string) string {
	if note == "" {
		return strings.TrimSuffix(b.String(), "\n")
	}
	return b.String() + "[" + note + "]"
}

type searchArgs struct {
	Path    string   `json:"path,omitempty" jsonschema:"directory to search, relative to the workspace root; default the root itself"`
	Pattern string   `json:"pattern" jsonschema:"glob: * and ? within a name, ** across directories, [abc], {a,b}. Without a slash it is matched with the name alone, so *.go finds all Go files; with one, with the path below the directory"`
	Exclude []string `json:"excludePatterns,omitempty" jsonschema:"globs of what to leave out, a directory with all below it, e.g. node_modules"`
	SortBy  string   `json:"sortBy,omitempty" jsonschema:"path, or mtime: the newest first" limits:"enum=path|mtime default=path"`
	Limit   int      `json:"limit,omitempty" jsonschema:"how many paths to show" limits:"min=0 max=1000 default=500"`
	Cursor  string   `json:"cursor,omitempty" jsonschema:"nextCursor of the call before; only with sortBy path"`
}

type searchResult struct {
	Paths      []string `json:"paths" jsonschema:"relative to the workspace root"`
	Truncated  bool     `json:"truncated" jsonschema:"there may be more"`
	NextCursor string   `json:"nextCursor,omitempty" jsonschema:"cursor of the call that shows the next"`
	Note       string   `json:"note,omitempty" jsonschema:"how to see the rest, or why there is nothing"`
}

func (r searchResult) text() string {
	var b strings.Builder
	for _, p := range r.Paths {
		b.WriteString(p + "\n")
	}
	if len(r.Paths) == 0 && !r.Truncated {
		b.WriteString("No matches found\n")
	}
	return withNote(&b, r.Note)
}

func addLists(s *server.MCPServer) {
	add(s, tool[listArgs, listResult]{
		name: "list_directory", title: "List a directory",
		description: "List the entries of a directory, sorted by name, with type and size. Shows 500 unless limit says otherwise, at most 1000; " +
			"a result that is cut says how to go on. For files below subdirectories use search_files.",
		hints: hints{readOnly: true, idempotent: true},
		run:   listDirectory,
	})
	add(s, tool[searchArgs, searchResult]{
		name: "search_files", title: "Find files by name",
		description: "Find files and directories by a glob pattern, in a directory and everything below it. Symbolic links are named and not " +
			"followed. Hidden files are included; leave large directories out with excludePatterns. To search in files use grep.",
		hints: hints{readOnly: true, idempotent: true},
		run:   searchFiles,
	})
	addGrep(s)
}

// emptyView is what an empty list of the root says when nobody has written yet.
const emptyView = "empty: nothing is here yet; write_file or exec makes it"

// errEmptyView says why a path is not there: nothing is. A workspace, or a scope of
// one, is made by its first write or command.
var errEmptyView = advise(mesh.CodeNotFound, "Make the first file with write_file or exec.", "nothing is here yet, no file at all")

// missing tells a path that is not there from a view that is not there yet. Only
// an error that names a path is looked into.
func (c *call) missing(ctx context.Context, err error) error {
	var ofPath *fs.PathError
	if mesh.CodeOf(err) != mesh.CodeNotFound || !errors.As(err, &ofPath) {
		return err
	}
	if _, rootErr := c.workspace.Lstat(ctx, "."); mesh.CodeOf(rootErr) != mesh.CodeNotFound {
		return err
	}
	return &fs.PathError{Op: ofPath.Op, Path: ofPath.Path, Err: errEmptyView}
}

// noView reports whether err says that the root of the view, which name is, is not
// there yet: it lists as empty, since it takes files.
func (c *call) noView(ctx context.Context, name string, err error) bool {
	_, within := c.client.Bound()
	scope, scopeErr := mesh.ParseScope(within, c.scope)
	full, pathErr := mesh.ResolvePath(scope, name)
	return scopeErr == nil && pathErr == nil && full == scope && errors.Is(c.missing(ctx, err), errEmptyView)
}

func listDirectory(ctx context.Context, c *call, in listArgs) (listResult, error) {
	req := mesh.ListRequest{Path: mesh.Path(in.Path), Limit: cmp.Or(in.Limit, DefaultEntries)}
	if err := decodeCursor(in.Cursor, &req.After); err != nil {
		return listResult{}, err
	}
	if err := c.past(ctx, in.At); err != nil {
		return listResult{}, err
	}
	page, err := c.workspace.ReadDirPage(ctx, req)
	if c.noView(ctx, in.Path, err) {
		return listResult{Path: shownName(cmp.Or(in.Path, ".")), Entries: []listEntry{}, Note: emptyView}, nil
	}
	if err != nil {
		return listResult{}, err
	}
	r := listResult{Path: shownName(cmp.Or(in.Path, ".")), Entries: []listEntry{}, Truncated: page.More}
	for _, e := range page.Entries {
		r.Entries = append(r.Entries, listEntry{shownName(string(e.Path)), e.Type, e.Size, e.ModTime.UTC().Format(time.RFC3339)})
	}
	if page.More {
		r.NextCursor = encodeCursor(page.Entries[len(page.Entries)-1].Path)
		r.Note = fmt.Sprintf("%d entries are shown and there are more; call list_directory with path=%q and cursor=%q for more", len(r.Entries), r.Path, r.NextCursor)
	}
	return r, nil
}

func searchFiles(ctx context.Context, c *call, in searchArgs) (searchResult, error) {
	req := mesh.SearchRequest{Path: mesh.Path(in.Path)}
	if err := decodeCursor(in.Cursor, &req.Cursor); err != nil {
		return searchResult{}, err
	}
	req.Globs, req.Exclude = []mesh.Path{mesh.Path(in.Pattern)}, asPaths(in.Exclude)
	limit := cmp.Or(in.Limit, DefaultEntries)
	most := limit
	if in.SortBy == "mtime" {
		most, req.Cursor = MaxSorted, ""
	}
	found, next, err := search(ctx, c, req, most)
	if c.noView(ctx, in.Path, err) {
		return searchResult{Paths: []string{}, Note: emptyView}, nil
	}
	if err != nil {
		return searchResult{}, err
	}
	r := searchResult{Paths: []string{}, Truncated: next != ""}
	if next != "" {
		r.NextCursor = encodeCursor(next)
	}
	if in.SortBy == "mtime" {
		slices.SortStableFunc(found, func(a, b mesh.FileInfo) int { return b.ModTime.Compare(a.ModTime) })
		r.NextCursor, r.Truncated = "", r.Truncated || len(found) > limit
	}
	for _, f := range found[:min(limit, len(found))] {
		r.Paths = append(r.Paths, shownName(string(f.Path)))
	}
	switch {
	case r.NextCursor != "":
		r.Note = fmt.Sprintf("%d paths are shown and there may be more; call search_files with the same arguments and cursor=%q for more", len(r.Paths), r.NextCursor)
	case r.Truncated:
		r.Note = fmt.Sprintf("the newest %d of %d paths are shown; a narrower pattern, or sortBy=path with a cursor, shows the others", len(r.Paths), len(found))
	}
	return r, nil
}

// search gathers pages until there are most files.
func search(ctx context.Context, c *call, req mesh.SearchRequest, most int) (found []mesh.FileInfo, next mesh.Path, err error) {
	for {
		req.Limit = min(most-len(found), mesh.MaxList)
		page, err := c.workspace.SearchPage(ctx, req)
		if err != nil {
			return nil, "", err
		}
		found = append(found, page.Entries...)
		if page.Next == "" || len(found) >= most {
			return found, page.Next, nil
		}
		req.Cursor = page.Next
	}
}

// A cursor is where a list goes on, in a form that survives a model: names may
// hold anything.
func encodeCursor(at any) string { return base64.RawURLEncoding.EncodeToString(asJSON(at)) }

// decodeCursor reads one into at; "" leaves at alone.
func decodeCursor(cursor string, at any) error {
	if cursor == "" {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || json.Unmarshal(raw, at) != nil {
		return advise(mesh.CodeInvalid, "Leave it out to start over.", "argument cursor is not a nextCursor of an earlier result")
	}
	return nil
}

func asPaths(all []string) []mesh.Path {
	var paths []mesh.Path
	for _, s := range all {
		paths = append(paths, mesh.Path(s))
	}
	return paths
}
