package mcpgw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// MaxEdit is the largest file that edit_file takes, and makes.
	MaxEdit = 10 << 20
	// DefaultEdits is how many bytes of files are edited at a time, a quarter of
	// them by one tenant; each is held some ten times, and who comes with more waits.
	DefaultEdits = 4 * MaxEdit
	// MaxDiff is how much of a diff is shown.
	MaxDiff = 20_000
	// maxCompared is how many lines, of both files, are compared to make a diff: of
	// more it takes minutes and gigabytes, and shows the first of them anyway.
	maxCompared = 50_000
	// maxPlaces is how many of several matches an error names.
	maxPlaces = 10
)

type edit struct {
	OldText    string `json:"oldText" jsonschema:"text to replace, exactly as it stands in the file, with enough around it to be found once"`
	NewText    string `json:"newText" jsonschema:"text to put there, taken literally"`
	ReplaceAll bool   `json:"replaceAll,omitempty" jsonschema:"replace every match instead of the only one" limits:"default=false"`
}

type editArgs struct {
	Path   string `json:"path" jsonschema:"path of the file, relative to the workspace root"`
	Edits  []edit `json:"edits" jsonschema:"edits, applied one after the other" limits:"items=1"`
	DryRun bool   `json:"dryRun,omitempty" jsonschema:"show the diff and write nothing" limits:"default=false"`

	IfMatch string `json:"ifMatch,omitempty" jsonschema:"etag that the file must still have, else nothing is changed"`
}

type editResult struct {
	Path    string `json:"path"`
	Diff    string `json:"diff" jsonschema:"unified diff of the change"`
	Added   int    `json:"added" jsonschema:"lines added"`
	Removed int    `json:"removed" jsonschema:"lines removed"`
	Applied bool   `json:"applied" jsonschema:"the file was written; false after a dry run and when nothing changed"`
	ETag    string `json:"etag,omitempty" jsonschema:"of the file as it is now"`
	Note    string `json:"note,omitempty"`
}

func (r editResult) text() string {
	if r.Note == "" {
		return r.Diff
	}
	return r.Diff + "[" + r.Note + "]"
}

func addEdit(s *server.MCPServer) {
	add(s, tool[editArgs, editResult]{
		name: "edit_file", title: "Edit a file",
		description: "Replace pieces of text in a file and show the change as a diff. Each oldText must be in the file exactly once, or " +
			"replaceAll must be set. If one edit does not fit, none is applied. Line ends, encoding and mode of the file are kept. With dryRun " +
			"the diff is shown and nothing is written. What another writer changes meanwhile is kept: the edits are made on its content, or with " +
			"ifMatch refused.",
		hints: hints{destructive: true},
		run:   (&editor{newBudget(DefaultEdits)}).edit,
		next: map[mesh.Code]string{
			mesh.CodeInvalid:  "Correct the edits and call again; nothing was changed.",
			mesh.CodeConflict: "Put more of the surrounding text into oldText, or set replaceAll; after another etag read the file again. Nothing was changed.",
		},
	})
}

// editByCommand is the next move where a file is too large to be edited here.
const editByCommand = "Edit it with exec (sed, patch); nothing was changed."

// editor edits files that are held in memory.
type editor struct{ held *budget }

// maxEditTries is how often an edit is made anew on what another writer has written.
const maxEditTries = 10

func (ed *editor) edit(ctx context.Context, c *call, in editArgs) (r editResult, err error) {
	for range maxEditTries {
		r, err = ed.once(ctx, c, in)
		var e *mesh.Error
		if in.IfMatch != "" || !errors.As(err, &e) || e.Code != mesh.CodeConflict || e.Revision == "" {
			break
		}
	}
	return r, err
}

func (ed *editor) once(ctx context.Context, c *call, in editArgs) (editResult, error) {
	name := shownName(in.Path)
	file, err := openText(ctx, c, in.Path)
	if err != nil {
		return editResult{}, err
	}
	if in.IfMatch != "" && in.IfMatch != file.Revision {
		return editResult{}, mesh.Errorf(mesh.CodeConflict, "%s has another etag by now: %s", name, file.Revision)
	}
	if file.Size > MaxEdit {
		return editResult{}, advise(mesh.CodeTooLarge, editByCommand, "%s has %d bytes, more than the %d that can be edited here", name, file.Size, MaxEdit)
	}
	room, err := ed.held.take(ctx, c.client.Tenant(), file.Size)
	if err != nil {
		return editResult{}, err
	}
	defer room.give()
	content := make([]byte, 0, file.Size)
	if err := file.parts(ctx, func(part []byte) { content = append(content, part...) }); err != nil {
		return editResult{}, err
	}
	edited := string(content)
	for i, e := range in.Edits {
		if edited, err = e.apply(edited); err != nil {
			return editResult{}, fmt.Errorf("edit %d of %d in %s: %w", i+1, len(in.Edits), name, err)
		}
	}
	r := editResult{Path: name, ETag: file.Revision}
	if edited == string(content) {
		r.Note = "nothing changed: the file has this content already"
		return r, nil
	}
	if err := r.compare(validText(content), validText([]byte(edited))); err != nil {
		return editResult{}, err
	}
	if in.DryRun {
		r.Note = strings.TrimPrefix(r.Note+"; dry run: nothing was written", "; ")
		return r, nil
	}
	r.Applied = true
	info, err := c.workspace.WriteFileInfo(ctx, in.Path, []byte(edited), 0, client.IfMatch(file.Revision))
	r.ETag = info.Revision
	return r, err
}

// apply does one edit. In a file whose lines all end with CRLF the edit's lines do
// so too: models write LF.
func (e edit) apply(content string) (string, error) {
	from, to := e.OldText, e.NewText
	if ends := strings.Count(content, "\r\n"); ends > 0 && ends == strings.Count(content, "\n") {
		from, to = crlf(from), crlf(to)
	}
	if from == "" {
		return "", advise(mesh.CodeInvalid, "Say which text to replace; write_file writes a whole file. Nothing was changed.", "oldText is empty")
	}
	n := strings.Count(content, from)
	switch size := len(content) + n*(len(to)-len(from)); {
	case n == 0:
		return "", mesh.Errorf(mesh.CodeInvalid, "oldText is not in the file%s", nearest(content, from))
	case n > 1 && !e.ReplaceAll:
		return "", mesh.Errorf(mesh.CodeConflict, "oldText is in the file %d times, at line %s", n, places(content, from))
	case size > MaxEdit:
		return "", advise(mesh.CodeTooLarge, editByCommand, "with it the file would have %d bytes, more than the %d that can be edited here", size, MaxEdit)
	}
	return strings.ReplaceAll(content, from, to), nil
}

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// places names the lines where text stands.
func places(content, text string) string {
	var lines []string
	at, line := 0, 1
	for len(lines) < maxPlaces {
		i := strings.Index(content[at:], text)
		if i < 0 {
			return strings.Join(lines, ", ")
		}
		line += strings.Count(content[at:at+i], "\n")
		lines = append(lines, fmt.Sprint(line))
		line += strings.Count(text, "\n")
		at += i + len(text)
	}
	return strings.Join(lines, ", ") + " and more"
}

// nearest names the line that differs from the first line of text in white space
// only: the usual mistake.
func nearest(content, text string) string {
	first, _, _ := strings.Cut(strings.TrimLeft(text, "\r\n"), "\n")
	words := strings.Fields(first)
	if len(words) == 0 {
		return ""
	}
	number := 0
	for line := range strings.Lines(content) {
		number++
		if strings.Join(strings.Fields(line), " ") != strings.Join(words, " ") {
			continue
		}
		if strings.TrimRight(line, "\r\n") == strings.TrimRight(first, "\r") {
			return fmt.Sprintf("; its first line is line %d, and what follows there is different", number)
		}
		return fmt.Sprintf("; line %d differs from its first line in white space only: %.200q", number, strings.TrimRight(line, "\r\n"))
	}
	return ""
}

// compare fills in the diff.
func (r *editResult) compare(before, after string) error {
	diff := ""
	if strings.Count(before, "\n")+strings.Count(after, "\n") > maxCompared {
		diff = replaced(before, after)
	} else {
		var err error
		if diff, err = udiff.ToUnified("", "", before, udiff.Lines(before, after), udiff.DefaultContextLines); err != nil {
			return err
		}
		diff = diff[max(0, strings.Index(diff, "@@")):] // behind the names
	}
	for line := range strings.Lines(diff) {
		switch line[0] {
		case '+':
			r.Added++
		case '-':
			r.Removed++
		}
	}
	diff = "--- a/" + r.Path + "\n+++ b/" + r.Path + "\n" + diff
	r.Diff = diff
	if len(diff) > MaxDiff {
		shown := whole([]byte(diff[:MaxDiff]))
		r.Diff = string(shown[:bytes.LastIndexByte(shown, '\n')+1])
		r.Note = fmt.Sprintf("%d of %d bytes of the diff are shown; see the file with read_text_file", len(r.Diff), len(diff))
	}
	return nil
}

// replaced is the part of a diff that says what is different, coarsely: all lines
// from the first difference to the last one are replaced.
func replaced(before, after string) string {
	same := 0
	for same < min(len(before), len(after)) && before[same] == after[same] {
		same++
	}
	start := strings.LastIndexByte(before[:same], '\n') + 1
	line := strings.Count(before[:start], "\n") + 1
	before, after = before[start:], after[start:]
	for same = 0; same < min(len(before), len(after)) && before[len(before)-1-same] == after[len(after)-1-same]; {
		same++
	}
	if !lineStart(before, len(before)-same) || !lineStart(after, len(after)-same) {
		_, rest, _ := strings.Cut(before[len(before)-same:], "\n")
		same = len(rest)
	}
	before, after = before[:len(before)-same], after[:len(after)-same]
	var b strings.Builder
	fmt.Fprintf(&b, "@@ -%d,%d +%d,%d @@\n", line, strings.Count(before, "\n"), line, strings.Count(after, "\n"))
	mark(&b, '-', before)
	mark(&b, '+', after)
	return b.String()
}

func lineStart(s string, at int) bool { return at == 0 || s[at-1] == '\n' }

// mark writes the lines of a text with a sign before each.
func mark(b *strings.Builder, sign byte, text string) {
	for line := range strings.Lines(text) {
		b.WriteByte(sign)
		b.WriteString(line)
	}
	newLine(b)
}
