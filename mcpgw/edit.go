package mcpgw

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// MaxDiff is how much of a diff is shown.
const MaxDiff = 20_000

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
		run:   editFile,
		next: map[mesh.Code]string{
			mesh.CodeInvalid:     "Correct the edits and call again; nothing was changed.",
			mesh.CodeConflict:    "Put more of the surrounding text into oldText, or set replaceAll; after another etag read the file again. Nothing was changed.",
			mesh.CodeTooLarge:    "Edit it with exec (sed, patch); nothing was changed.",
			mesh.CodeUnsupported: "Look at it with exec (file, xxd, strings).",
		},
	})
}

func editFile(ctx context.Context, c *call, in editArgs) (editResult, error) {
	req := client.EditRequest{DryRun: in.DryRun}
	for _, e := range in.Edits {
		req.Edits = append(req.Edits, mesh.Edit{Old: mesh.Text(e.OldText), New: mesh.Text(e.NewText), ReplaceAll: e.ReplaceAll})
	}
	done, err := c.workspace.Edit(ctx, in.Path, req, ifMatch(in.IfMatch)...)
	if err != nil {
		return editResult{}, err
	}
	r := editResult{
		Path: shownName(in.Path), ETag: done.File.Revision, Added: done.Added, Removed: done.Removed,
		Applied: done.DiffBytes > 0 && !in.DryRun,
	}
	if done.DiffBytes == 0 {
		r.Note = "nothing changed: the file has this content already"
		return r, nil
	}
	r.show(done)
	if in.DryRun {
		r.Note = strings.TrimPrefix(r.Note+"; dry run: nothing was written", "; ")
	}
	return r, nil
}

// show fills in the diff, as far as it is shown.
func (r *editResult) show(done client.Edited) {
	if done.Diff == "" {
		r.Note = "the diff got lost on the way; see the file with read_text_file"
		return
	}
	diff := strings.SplitN(done.Diff, "\n", 3)[2] // behind the names
	diff = "--- a/" + r.Path + "\n+++ b/" + r.Path + "\n" + validText([]byte(diff))
	r.Diff = diff
	if len(diff) > MaxDiff || len(done.Diff) < done.DiffBytes {
		shown := whole([]byte(diff[:min(len(diff), MaxDiff)]))
		r.Diff = string(shown[:bytes.LastIndexByte(shown, '\n')+1])
		r.Note = fmt.Sprintf("%d of %d bytes of the diff are shown; see the file with read_text_file", len(r.Diff), done.DiffBytes)
	}
}
