// Package edit makes one text of another: by replacing pieces of it, or by a unified
// diff. It also tells as a unified diff how two texts differ. Texts are bytes: what
// is not UTF-8 is kept as it is.
package edit

import (
	"fmt"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
)

// maxPlaces is how many of several matches an error names.
const maxPlaces = 10

// Apply makes what a request asks for, all of it or nothing, and counts what it
// replaced: texts, or hunks of a diff. Errors say which edit does not fit and are
// those of mesh.EditRequest. room is asked before a text of a size, in bytes, is made.
func Apply(text string, req *mesh.EditRequest, room func(size int) error) (string, int, error) {
	switch {
	case len(req.Edits) == 0 && req.Diff == "":
		return "", 0, mesh.Errorf(mesh.CodeInvalid, "there is nothing to do: name edits, or a diff")
	case len(req.Edits) > 0 && req.Diff != "":
		return "", 0, mesh.Errorf(mesh.CodeInvalid, "there are edits and a diff: one of them is enough")
	case len(req.Edits) > mesh.MaxEdits:
		return "", 0, mesh.Errorf(mesh.CodeInvalid, "there are %d edits, more than the %d of one request", len(req.Edits), mesh.MaxEdits)
	case req.Diff != "":
		return patch(text, string(req.Diff), room)
	}
	sum := 0
	for i, e := range req.Edits {
		edited, n, err := replace(text, e, room)
		if err != nil {
			return "", 0, mesh.About(fmt.Sprintf("edit %d of %d", i+1, len(req.Edits)), err)
		}
		text, sum = edited, sum+n
	}
	return text, sum, nil
}

func replace(text string, e mesh.Edit, room func(int) error) (string, int, error) {
	from, to := string(e.Old), string(e.New)
	if crlfOnly(text) {
		from, to = crlf(from), crlf(to)
	}
	if from == "" {
		return "", 0, mesh.Errorf(mesh.CodeInvalid, "the old text is empty; say which text to replace")
	}
	n := strings.Count(text, from)
	switch {
	case n == 0:
		return "", 0, mesh.Errorf(mesh.CodeInvalid, "the old text is not in the file%s", nearest(text, from))
	case n > 1 && !e.ReplaceAll:
		return "", 0, mesh.Errorf(mesh.CodeConflict, "the old text is in the file %d times, at line %s", n, places(text, from))
	}
	if err := room(len(text) + n*(len(to)-len(from))); err != nil {
		return "", 0, err
	}
	return strings.ReplaceAll(text, from, to), n, nil
}

// crlfOnly reports whether all lines of a text end with CRLF: then those of an edit
// do so too. Most programs, and models, write LF.
func crlfOnly(text string) bool {
	ends := strings.Count(text, "\r\n")
	return ends > 0 && ends == strings.Count(text, "\n")
}

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// places names the lines where a piece stands.
func places(text, piece string) string {
	var lines []string
	at, line := 0, 1
	for len(lines) < maxPlaces {
		i := strings.Index(text[at:], piece)
		if i < 0 {
			return strings.Join(lines, ", ")
		}
		line += strings.Count(text[at:at+i], "\n")
		lines = append(lines, fmt.Sprint(line))
		line += strings.Count(piece, "\n")
		at += i + len(piece)
	}
	return strings.Join(lines, ", ") + " and maybe more"
}

// nearest names the line that differs from the first line of a piece in white space
// only: the usual mistake.
func nearest(text, piece string) string {
	first, _, _ := strings.Cut(strings.TrimLeft(piece, "\r\n"), "\n")
	words := strings.Join(strings.Fields(first), " ")
	if words == "" {
		return ""
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if strings.Join(strings.Fields(line), " ") != words {
			continue
		}
		if strings.TrimRight(line, "\r\n") == strings.TrimRight(first, "\r") {
			return fmt.Sprintf("; its first line is line %d, and what follows there is different", number)
		}
		return fmt.Sprintf("; line %d differs from its first line in white space only: %.200q", number, strings.TrimRight(line, "\r\n"))
	}
	return ""
}
