package mcpgw

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// MaxEdit is the largest file that edit_file takes.
	MaxEdit = 10 << 20
	// MaxDiff is how much of a diff is shown.
	MaxDiff = 20_000
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
}

type editResult struct {
	Path    string `json:"path"`
	Diff    string `json:"diff" jsonschema:"unified diff of the change"`
	Added   int    `json:"added" jsonschema:"lines added"`
	Removed int    `json:"removed" jsonschema:"lines removed"`
	Applied bool   `json:"applied" jsonschema:"the file was written; false after a dry run and when nothing changed"`
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
			"the diff is shown and nothing is written. Not promised: the file is read and then written, so what another writer changes in " +
			"between is overwritten.",
		hints: hints{destructive: true},
		run:   editFile,
		next: map[mesh.Code]string{
			mesh.CodeInvalid:  "Correct the edits and call again; nothing was changed.",
			mesh.CodeConflict: "Put more of the surrounding text into oldText, or set replaceAll; nothing was changed.",
		},
	})
}

func editFile(ctx context.Context, c *call, in editArgs) (editResult, error) {
	name := shownName(in.Path)
	content, file, err := readAll(ctx, c, in.Path)
	if err != nil {
		return editResult{}, err
	}
	if file.Size > MaxEdit {
		return editResult{}, mesh.Errorf(mesh.CodeTooLarge, "%s has %d bytes, more than the %d that can be edited here; use exec (sed, patch)", name, file.Size, MaxEdit)
	}
	edited := string(content)
	for i, e := range in.Edits {
		if edited, err = e.apply(edited); err != nil {
			return editResult{}, mesh.Errorf(mesh.CodeOf(err), "edit %d of %d in %s: %s", i+1, len(in.Edits), name, mesh.AsError(err).Text)
		}
	}
	r := editResult{Path: name}
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
	return r, c.workspace.WriteFile(ctx, in.Path, []byte(edited), 0)
}

// apply does one edit. In a file whose lines all end with CRLF the edit's lines do
// so too: models write LF.
func (e edit) apply(content string) (string, error) {
	from, to := e.OldText, e.NewText
	if ends := strings.Count(content, "\r\n"); ends > 0 && ends == strings.Count(content, "\n") {
		from, to = crlf(from), crlf(to)
	}
	if from == "" {
		return "", mesh.Errorf(mesh.CodeInvalid, "oldText is empty; to write a whole file use write_file")
	}
	switch n := strings.Count(content, from); {
	case n == 0:
		return "", mesh.Errorf(mesh.CodeInvalid, "oldText is not in the file%s", nearest(content, from))
	case n > 1 && !e.ReplaceAll:
		return "", mesh.Errorf(mesh.CodeConflict, "oldText is in the file %d times, at line %s", n, places(content, from))
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
	diff, err := udiff.ToUnified("a/"+r.Path, "b/"+r.Path, before, udiff.Lines(before, after), udiff.DefaultContextLines)
	if err != nil {
		return err
	}
	for line := range strings.Lines(diff) {
		switch {
		case strings.HasPrefix(line, "+++ "), strings.HasPrefix(line, "--- "):
		case line[0] == '+':
			r.Added++
		case line[0] == '-':
			r.Removed++
		}
	}
	r.Diff = diff
	if len(diff) > MaxDiff {
		shown := whole([]byte(diff[:MaxDiff]))
		r.Diff = string(shown[:bytes.LastIndexByte(shown, '\n')+1])
		r.Note = fmt.Sprintf("%d of %d bytes of the diff are shown; see the file with read_text_file", len(r.Diff), len(diff))
	}
	return nil
}
