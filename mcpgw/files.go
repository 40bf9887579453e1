package mcpgw

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultLines and MaxLines are how many lines of a file one result shows,
	// and never more than MaxShown bytes of it.
	DefaultLines = 1000
	MaxLines     = 5000
	MaxShown     = 50_000
	// MaxLine is where a line is cut, in bytes: minified files have lines of megabytes.
	MaxLine = 2000
	// MaxScan is the largest file in which lines are counted.
	MaxScan = 64 << 20
)

type readArgs struct {
	Path   string `json:"path" jsonschema:"path of the file, relative to the workspace root"`
	Offset int64  `json:"offset,omitempty" jsonschema:"first line to show, counted from 1" limits:"min=0 default=1"`
	Limit  int64  `json:"limit,omitempty" jsonschema:"how many lines to show" limits:"min=0 max=5000 default=1000"`
	Head   int64  `json:"head,omitempty" jsonschema:"show the first so many lines; the same as limit" limits:"min=0"`
	Tail   int64  `json:"tail,omitempty" jsonschema:"show the last so many lines instead" limits:"min=0"`
	At     string `json:"at,omitempty" jsonschema:"as it was: a snapshot, a commit or a time (RFC 3339); default now"`
}

type readResult struct {
	Content    string `json:"content" jsonschema:"the lines, as they stand in the file"`
	Path       string `json:"path"`
	StartLine  int64  `json:"startLine" jsonschema:"number of the first line shown, from 1; 0 when none is"`
	EndLine    int64  `json:"endLine" jsonschema:"number of the last line shown"`
	TotalLines int64  `json:"totalLines" jsonschema:"lines of the file"`
	SizeBytes  int64  `json:"sizeBytes" jsonschema:"bytes of the file"`
	Truncated  bool   `json:"truncated" jsonschema:"the file has lines, or parts of lines, that are not shown"`
	NextOffset int64  `json:"nextOffset,omitempty" jsonschema:"offset of the next lines, if there are more"`
	ETag       string `json:"etag" jsonschema:"changes whenever the content may have changed"`
	Note       string `json:"note,omitempty" jsonschema:"what is not shown, and how to see it"`
}

func (r readResult) text() string {
	if r.Note == "" {
		return r.Content
	}
	sep := "\n"
	if r.Content == "" || strings.HasSuffix(r.Content, "\n") {
		sep = ""
	}
	return r.Content + sep + "[" + r.Note + "]"
}

type writeArgs struct {
	Path       string `json:"path" jsonschema:"path of the file, relative to the workspace root; missing directories are made"`
	Content    string `json:"content" jsonschema:"the whole new content"`
	CreateOnly bool   `json:"createOnly,omitempty" jsonschema:"fail if the file exists" limits:"default=false"`
	IfMatch    string `json:"ifMatch,omitempty" jsonschema:"etag that the file must still have, else nothing is written"`
}

type writeResult struct {
	Path  string `json:"path"`
	Bytes int    `json:"bytes" jsonschema:"bytes written"`
	ETag  string `json:"etag,omitempty" jsonschema:"of the file as written"`
}

func (r writeResult) text() string {
	return fmt.Sprintf("Wrote %s to %s", counted(int64(r.Bytes), "byte"), r.Path)
}

type pathArgs struct {
	Path string `json:"path" jsonschema:"path, relative to the workspace root"`
}

type pathResult struct {
	Path string `json:"path"`
	Done string `json:"done" jsonschema:"what was done"`
}

func (r pathResult) text() string { return r.Done }

type moveArgs struct {
	Source      string `json:"source" jsonschema:"path of the file or directory, relative to the workspace root"`
	Destination string `json:"destination" jsonschema:"its new path; missing directories are made"`
}

type moveResult struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

func (r moveResult) text() string { return "Moved " + r.Source + " to " + r.Destination }

type deleteArgs struct {
	Path      string `json:"path" jsonschema:"path, relative to the workspace root"`
	Recursive bool   `json:"recursive,omitempty" jsonschema:"delete a directory with everything below it" limits:"default=false"`
}

type infoArgs struct {
	Path string `json:"path" jsonschema:"path, relative to the workspace root"`
	At   string `json:"at,omitempty" jsonschema:"as it was: a snapshot, a commit or a time (RFC 3339); default now"`
}

type infoResult struct {
	Path       string `json:"path"`
	Type       string `json:"type" jsonschema:"file, dir, symlink, fifo, socket or device"`
	SizeBytes  int64  `json:"sizeBytes"`
	Mode       string `json:"mode" jsonschema:"permission bits, octal"`
	ModifiedAt string `json:"modifiedAt" jsonschema:"RFC 3339, UTC"`
	Target     string `json:"target,omitempty" jsonschema:"where a symbolic link points"`
	ETag       string `json:"etag,omitempty" jsonschema:"changes whenever the content may have changed"`
}

func (r infoResult) text() string {
	s := fmt.Sprintf("path: %s\ntype: %s\nsize: %s\nmode: %s\nmodified: %s", r.Path, r.Type, counted(r.SizeBytes, "byte"), r.Mode, r.ModifiedAt)
	if r.Target != "" {
		s += "\ntarget: " + r.Target
	}
	return s
}

func addFiles(s *server.MCPServer) {
	add(s, tool[readArgs, readResult]{
		name: "read_text_file", title: "Read a text file",
		description: "Read a text file, whole or by lines. Lines count from 1. Without offset and limit the first 1000 lines are shown; at most " +
			"5000 lines and 50000 bytes in one call, and lines are cut after 2000 bytes. A result that is cut says which offset to go on with. " +
			"head and tail show the first or last so many lines. Binary files are refused.",
		hints: hints{readOnly: true, idempotent: true},
		run:   readText,
		next:  map[mesh.Code]string{mesh.CodeInvalid: "Correct the arguments; what a directory holds list_directory shows."},
	})
	add(s, tool[writeArgs, writeResult]{
		name: "write_file", title: "Write a file",
		description: "Create a file or replace all of its content; missing directories are made. Readers see the old content or the new, never " +
			"a part. To change a part of a file use edit_file. With createOnly an existing file is an error. " +
			"With ifMatch a file that somebody changed since it was read is an error.",
		hints: hints{destructive: true, idempotent: true},
		run:   writeFile,
		next: map[mesh.Code]string{
			mesh.CodeExists:   "Read it with read_text_file, then change it with edit_file, or choose another name.",
			mesh.CodeConflict: "Read it again with read_text_file and write with the new etag; nothing was changed.",
		},
	})
	add(s, tool[pathArgs, pathResult]{
		name: "create_directory", title: "Create a directory",
		description: "Create a directory with its missing parents. One that exists already is fine.",
		hints:       hints{idempotent: true},
		run:         createDirectory,
	})
	add(s, tool[moveArgs, moveResult]{
		name: "move_file", title: "Move or rename",
		description: "Move or rename a file or directory. It fails if the destination exists, and replaces nothing.",
		hints:       hints{destructive: true},
		run:         moveFile,
	})
	add(s, tool[deleteArgs, pathResult]{
		name: "delete_path", title: "Delete a file or directory",
		description: "Delete a file, a symbolic link (not what it points to) or an empty directory; with recursive a directory and everything " +
			"below it. It cannot be undone. A path that does not exist is an error.",
		hints: hints{destructive: true, idempotent: true},
		run:   deletePath,
		next:  map[mesh.Code]string{mesh.CodeInvalid: "To delete a directory that is not empty, set recursive."},
	})
	add(s, tool[infoArgs, infoResult]{
		name: "get_file_info", title: "Describe a file",
		description: "Describe a file, directory or symbolic link (itself, not what it points to): type, size, mode, time of last change.",
		hints:       hints{readOnly: true, idempotent: true},
		run:         fileInfo,
	})
}

func readText(ctx context.Context, c *call, in readArgs) (readResult, error) {
	if err := c.past(ctx, in.At); err != nil {
		return readResult{}, err
	}
	file, err := openText(ctx, c, in.Path)
	if err != nil {
		return readResult{}, err
	}
	shown := lines{}
	if in.Tail > 0 { // which lines are the last ones is known at the end
		err = file.parts(ctx, shown.add)
		shown.end()
		shown = lines{first: max(0, shown.total-min(in.Tail, MaxLines)), last: shown.total}
	} else {
		shown.first = max(in.Offset, 1) - 1
		shown.last = shown.first + min(cmp.Or(in.Limit, in.Head, DefaultLines), MaxLines)
	}
	if err == nil {
		err = file.parts(ctx, shown.add)
	}
	if err != nil {
		return readResult{}, err
	}
	shown.end()
	if shown.first >= shown.total && shown.first > 0 {
		return readResult{}, mesh.Errorf(mesh.CodeInvalid, "argument offset: %d is behind the last line of %s, which has %d", in.Offset, shownName(in.Path), shown.total)
	}
	r := file.result(&shown)
	if in.Tail > 0 && (in.Head > 0 || in.Limit > 0 || in.Offset > 1) {
		r.Note = strings.TrimSuffix("tail was taken, and not head, offset or limit; "+r.Note, "; ")
	}
	return r, nil
}

// result says what is shown of a file, and how to see the rest.
func (f *textFile) result(l *lines) readResult {
	r := readResult{
		Path: shownName(f.name), SizeBytes: f.Size, ETag: f.Revision, Content: l.content.String(),
		TotalLines: l.total, EndLine: l.shown, Truncated: l.first > 0 || l.shown < l.total || l.cut > 0,
	}
	if l.shown > l.first {
		r.StartLine = l.first + 1
	} else {
		r.EndLine = 0
	}
	var notes []string
	if l.first > 0 || l.shown < l.total {
		notes = append(notes, fmt.Sprintf("lines %d-%d of %d", r.StartLine, r.EndLine, r.TotalLines))
	}
	if l.shown < l.total {
		r.NextOffset = l.shown + 1
		notes = append(notes, fmt.Sprintf("call read_text_file with path=%q and offset=%d for more", r.Path, r.NextOffset))
	}
	if l.cut > 0 {
		notes = append(notes, fmt.Sprintf("%s cut after %d bytes; exec with cut -b shows more", counted(int64(l.cut), "line"), MaxLine))
	}
	if l.invalid {
		notes = append(notes, "the file is not UTF-8: other bytes are shown as \uFFFD")
	}
	r.Note = strings.Join(notes, "; ")
	return r
}

// lines takes those that are shown out of a file that passes in parts. It holds no
// more of the file than these.
type lines struct {
	first, last int64 // what is wanted, from 0; last behind
	total       int64 // lines that have ended
	content     strings.Builder
	shown       int64 // behind the last line in content
	cut         int   // lines of which only the beginning is there
	invalid     bool  // something is not UTF-8

	line []byte // the line under way, as far as it is wanted
	size int    // all of it
	rest []byte // of a character in which a part ended
}

func (l *lines) add(part []byte) {
	text := part
	if len(l.rest) > 0 {
		text = append(l.rest, part...)
	}
	l.rest = bytes.Clone(text[len(whole(text)):])
	l.invalid = l.invalid || !utf8.Valid(whole(text))
	for len(part) > 0 {
		end := bytes.IndexByte(part, '\n') + 1
		piece := part[:cmp.Or(end, len(part))]
		part = part[len(piece):]
		l.size += len(piece)
		if l.wanted() {
			l.line = append(l.line, piece[:min(len(piece), MaxLine+2-len(l.line))]...)
		}
		if end > 0 {
			l.endLine()
		}
	}
}

// end says that the last part has passed.
func (l *lines) end() {
	l.invalid = l.invalid || len(l.rest) > 0
	if l.size > 0 {
		l.endLine()
	}
}

func (l *lines) wanted() bool {
	return l.total >= l.first && l.total < l.last && l.content.Len() < MaxShown
}

func (l *lines) endLine() {
	if l.wanted() {
		line := l.line
		if l.size > MaxLine+1 {
			line = append(whole(line[:MaxLine]), "…\n"...)
			l.cut++
		}
		l.content.WriteString(validText(line))
		l.shown = l.total + 1
	}
	l.line, l.size = l.line[:0], 0
	l.total++
}

// whole takes the beginning of a character off the end.
func whole(b []byte) []byte {
	for i := 1; i <= min(utf8.UTFMax, len(b)); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return b[:len(b)-i]
			}
			break
		}
	}
	return b
}

// binaryProbe is how much of a file is looked at for a NUL byte, as grep does.
const binaryProbe = 8 << 10

// textFile is a text file, of one revision.
type textFile struct {
	mesh.FileInfo
	name  string
	ws    *client.Workspace
	begin []byte // as much as came with the first answer
}

// openText refuses what is not a text file, or too large to be read as one.
func openText(ctx context.Context, c *call, name string) (*textFile, error) {
	begin, info, err := c.workspace.ReadRange(ctx, mesh.ReadRequest{Path: mesh.Path(name)})
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(begin[:min(len(begin), binaryProbe)], 0) >= 0 {
		return nil, advise(mesh.CodeUnsupported, "Look at it with exec (file, xxd, strings).", "%s is a binary file of %d bytes", shownName(name), info.Size)
	}
	if info.Size > MaxScan {
		return nil, advise(mesh.CodeTooLarge, "Use exec (sed -n '1,200p', tail, grep).", "%s has %d bytes, more than the %d that can be read by lines", shownName(name), info.Size, int64(MaxScan))
	}
	return &textFile{info, name, c.workspace, begin}, nil
}

// parts calls do with all of the file, part by part.
func (f *textFile) parts(ctx context.Context, do func(part []byte)) error {
	do(f.begin)
	for at := int64(len(f.begin)); at < f.Size; {
		part, _, err := f.ws.ReadRange(ctx, mesh.ReadRequest{Path: mesh.Path(f.name), Offset: at, Revision: f.Revision})
		if err != nil {
			return err
		}
		do(part)
		at += int64(len(part))
	}
	return nil
}

func writeFile(ctx context.Context, c *call, in writeArgs) (writeResult, error) {
	opts := ifMatch(in.IfMatch)
	if in.CreateOnly {
		opts = append(opts, client.CreateOnly())
	}
	info, err := c.workspace.WriteFileInfo(ctx, in.Path, []byte(in.Content), 0, opts...)
	return writeResult{Path: shownName(in.Path), Bytes: len(in.Content), ETag: info.Revision}, err
}

// ifMatch is the condition that a model names, or none.
func ifMatch(etag string) []client.FileOption {
	if etag == "" {
		return nil
	}
	return []client.FileOption{client.IfMatch(etag)}
}

func createDirectory(ctx context.Context, c *call, in pathArgs) (pathResult, error) {
	return done("Created directory ", in.Path), c.workspace.MkdirAll(ctx, in.Path, 0o755)
}

func done(what, name string) pathResult {
	name = shownName(cmp.Or(name, "."))
	return pathResult{Path: name, Done: what + name}
}

func moveFile(ctx context.Context, c *call, in moveArgs) (moveResult, error) {
	err := c.workspace.RenameNew(ctx, in.Source, in.Destination)
	return moveResult{shownName(in.Source), shownName(in.Destination)}, err
}

// deletePath tells a name that is not there from one that was deleted.
func deletePath(ctx context.Context, c *call, in deleteArgs) (pathResult, error) {
	if !in.Recursive {
		return done("Deleted ", in.Path), c.workspace.Remove(ctx, in.Path)
	}
	if _, err := c.workspace.Lstat(ctx, in.Path); err != nil {
		return pathResult{}, err
	}
	return done("Deleted ", in.Path), c.workspace.RemoveAll(ctx, in.Path)
}

func fileInfo(ctx context.Context, c *call, in infoArgs) (infoResult, error) {
	if err := c.past(ctx, in.At); err != nil {
		return infoResult{}, err
	}
	f, err := c.workspace.Lstat(ctx, in.Path)
	return infoResult{
		Path: shownName(cmp.Or(path.Clean(in.Path), ".")), Type: f.Type, SizeBytes: f.Size, Mode: fmt.Sprintf("%04o", f.Mode),
		ModifiedAt: f.ModTime.UTC().Format(time.RFC3339Nano), Target: shownName(string(f.Target)), ETag: f.Revision,
	}, err
}
