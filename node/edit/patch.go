package edit

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
)

// bom is the byte order mark of UTF-8, which editors and diffs do not show.
const bom = "\ufeff"

// hunk is one piece of a unified diff.
type hunk struct {
	line     int      // of its first old line, from 1; with no old lines, of the line before
	olds     int      // how many old lines its header promises, that are still to come
	news     int      // likewise
	old, new []string // lines with their ends
	sign     byte     // of the last line
}

// patch applies a unified diff, strictly: each hunk fits where it says, to the byte.
func patch(text, diff string, room func(int) error) (string, int, error) {
	mark := ""
	if strings.HasPrefix(text, bom) && !strings.Contains(diff, bom) {
		mark, text = bom, text[len(bom):]
	}
	if !strings.HasSuffix(diff, "\n") {
		diff += "\n"
	}
	end := "\n"
	if crlfOnly(text) {
		diff, end = crlf(diff), "\r\n"
	}
	hunks, err := parse(diff, end)
	if err != nil {
		return "", 0, err
	}
	size := len(mark) + len(text)
	for _, h := range hunks {
		size += len(strings.Join(h.new, "")) - len(strings.Join(h.old, ""))
	}
	if err := room(size); err != nil {
		return "", 0, err
	}
	var out strings.Builder
	out.Grow(max(0, size))
	out.WriteString(mark)
	rest := lines{text: text}
	for i, h := range hunks {
		before := rest.at
		piece := strings.Join(h.new, "")
		until, why := rest.find(&h)
		if why != "" {
			hint := ""
			if old := strings.Join(h.old, ""); old != "" && strings.Contains(text, old) {
				hint = "; its lines stand at line " + places(text, old)
			}
			return "", 0, mesh.Errorf(mesh.CodeConflict, "hunk %d of %d does not fit at line %d: %s%s", i+1, len(hunks), h.line, why, hint)
		}
		out.WriteString(text[before:rest.at])
		out.WriteString(piece)
		rest.at, rest.line = until, rest.line+len(h.old)
	}
	out.WriteString(text[rest.at:])
	return out.String(), len(hunks), nil
}

// lines is a place in a text.
type lines struct {
	text string
	at   int // the first byte of a line
	line int // how many lines are before it
}

// find goes on to where a hunk belongs and returns where its old lines end, or says
// why it does not fit.
func (l *lines) find(h *hunk) (end int, why string) {
	before := h.line - 1
	if len(h.old) == 0 {
		before = h.line
	}
	if before < l.line {
		return 0, "the hunk before it is behind it"
	}
	for l.line < before {
		i := strings.IndexByte(l.text[l.at:], '\n')
		if i < 0 {
			return 0, "the file ends before"
		}
		l.at, l.line = l.at+i+1, l.line+1
	}
	old, added := strings.Join(h.old, ""), strings.Join(h.new, "")
	end = l.at + len(old)
	switch {
	case !strings.HasPrefix(l.text[l.at:], old):
		return 0, "other lines are there"
	case end < len(l.text) && (unended(old) || unended(added)):
		return 0, "the file does not end there"
	}
	return end, ""
}

// unended reports whether a text ends in the middle of a line, as only a file's last
// line may.
func unended(s string) bool { return s != "" && !strings.HasSuffix(s, "\n") }

var hunkHead = regexp.MustCompile(`^@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@`)

// parse reads a unified diff of one file, whose lines end with end. What stands before
// its first hunk is names.
func parse(diff, end string) ([]hunk, error) {
	var hunks []hunk
	var h *hunk // the last one
	for line := range strings.Lines(diff) {
		switch {
		case h != nil && line[0] == '\\': // No newline at end of file
			h.unend(end)
		case h != nil && h.olds+h.news > 0:
			if !h.add(line) {
				return nil, mesh.Errorf(mesh.CodeInvalid, "hunk %d of the diff has other lines than its header says: %.80q", len(hunks), line)
			}
		case strings.HasPrefix(line, "@@"):
			m := hunkHead.FindStringSubmatch(line)
			if m == nil {
				return nil, mesh.Errorf(mesh.CodeInvalid, "header %.80q of hunk %d is not of the form @@ -LINE,COUNT +LINE,COUNT @@", line, len(hunks)+1)
			}
			hunks = append(hunks, hunk{line: number(m[1], 0), olds: number(m[2], 1), news: number(m[4], 1)})
			h = &hunks[len(hunks)-1]
			if h.olds > 0 && h.line == 0 {
				return nil, mesh.Errorf(mesh.CodeInvalid, "hunk %d begins at line 0; lines count from 1", len(hunks))
			}
		case h != nil && strings.TrimRight(line, "\r\n") != "":
			return nil, mesh.Errorf(mesh.CodeInvalid, "what follows hunk %d is not of it: %.80q; a diff is of one file, and a hunk has as many lines as its header says", len(hunks), line)
		}
	}
	switch {
	case h == nil:
		return nil, mesh.Errorf(mesh.CodeInvalid, "the diff has no hunk, which begins with @@ -LINE,COUNT +LINE,COUNT @@")
	case h.olds+h.news > 0:
		return nil, mesh.Errorf(mesh.CodeInvalid, "hunk %d of the diff has fewer lines than its header says", len(hunks))
	}
	return hunks, nil
}

func number(s string, missing int) int {
	if s == "" {
		return missing
	}
	n, _ := strconv.Atoi(s) // nine digits
	return n
}

// add takes a line that the header promises.
func (h *hunk) add(line string) bool {
	h.sign = line[0]
	text := line[1:]
	if h.sign == '\n' || h.sign == '\r' { // an empty line whose space somebody has trimmed
		h.sign, text = ' ', line
	}
	switch h.sign {
	case ' ':
		h.old, h.new = append(h.old, text), append(h.new, text)
		h.olds, h.news = h.olds-1, h.news-1
	case '-':
		h.old, h.olds = append(h.old, text), h.olds-1
	case '+':
		h.new, h.news = append(h.new, text), h.news-1
	default:
		return false
	}
	return h.olds >= 0 && h.news >= 0
}

// unend takes the end off the last line.
func (h *hunk) unend(end string) {
	for _, side := range []struct {
		lines []string
		not   byte
	}{{h.old, '+'}, {h.new, '-'}} {
		if n := len(side.lines); n > 0 && h.sign != side.not {
			side.lines[n-1] = strings.TrimSuffix(side.lines[n-1], end)
		}
	}
}
