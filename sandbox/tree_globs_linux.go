package sandbox

import (
	"path"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/wsmesh/wsmesh/mesh"
)

// maxAlternatives bounds what the braces of all globs of a selection expand to:
// a{b,c}{d,e} are four. Matching takes time in proportion, in the worst case 4 ms
// for each.
const maxAlternatives = 64

// selection is a mesh.Selection whose globs are known to be good.
type selection struct {
	globs, exclude []glob
}

type glob struct {
	text  string
	whole bool // matched with the path, not the last name
}

func newSelection(s *mesh.Selection) (*selection, error) {
	if n := len(s.Globs) + len(s.Exclude); n > mesh.MaxGlobs {
		return nil, mesh.Errorf(mesh.CodeInvalid, "%d globs; use at most %d", n, mesh.MaxGlobs)
	}
	sel, total := &selection{}, 0
	for _, g := range s.Globs {
		if err := addGlob(&sel.globs, string(g), &total); err != nil {
			return nil, err
		}
	}
	for _, g := range s.Exclude {
		if err := addGlob(&sel.exclude, string(g), &total); err != nil {
			return nil, err
		}
	}
	return sel, nil
}

// addGlob refuses also what can match no path, such as "dir/" and "./x": it
// would select nothing, or exclude nothing, without a word.
func addGlob(to *[]glob, text string, total *int) error {
	switch {
	case len(text) > mesh.MaxPattern:
		return mesh.Errorf(mesh.CodeInvalid, "glob %.60q… of %d bytes; use at most %d", text, len(text), mesh.MaxPattern)
	case !doublestar.ValidatePattern(text):
		return mesh.Errorf(mesh.CodeInvalid, "glob %.200q: a bracket or brace is not closed, or a backslash ends it", text)
	case text == "" || text == "." || text[0] == '/' || path.Clean(text) != text || strings.HasPrefix(text, "../"):
		return mesh.Errorf(mesh.CodeInvalid, `glob %.200q matches no path: paths here have no "/" at their ends, no "." and no ".."`, text)
	}
	if *total += alternatives(text); *total > maxAlternatives {
		return mesh.Errorf(mesh.CodeInvalid, "glob %.200q: the braces of the globs make more than %d alternatives", text, maxAlternatives)
	}
	*to = append(*to, glob{runes(text), strings.Contains(text, "/")})
	return nil
}

// alternatives counts what the braces of a valid glob expand to, as far as
// maxAlternatives+1.
func alternatives(g string) int {
	n, _ := countBraces(g, false)
	return n
}

// countBraces counts up to the end of the brace it is in, and returns what
// comes behind it.
func countBraces(g string, inside bool) (n int, rest string) {
	sum, product := 0, 1
	for len(g) > 0 {
		c := g[0]
		g = g[1:]
		switch {
		case c == '\\' && len(g) > 0:
			g = g[1:]
		case c == '[':
			g = behindClass(g)
		case c == '{':
			n, g = countBraces(g, true)
			product = min(product*n, maxAlternatives+1)
		case c == ',' && inside:
			sum, product = min(sum+product, maxAlternatives+1), 1
		case c == '}' && inside:
			return min(sum+product, maxAlternatives+1), g
		}
	}
	return min(sum+product, maxAlternatives+1), ""
}

// behindClass returns what comes behind the class [… of a valid glob.
func behindClass(g string) string {
	for i := 0; i < len(g); i++ {
		switch g[i] {
		case '\\':
			i++
		case ']':
			return g[i+1:]
		}
	}
	return ""
}

// excludes says whether to leave out the name with all below it.
func (s *selection) excludes(rel string) bool {
	return matches(s.exclude, rel)
}

func (s *selection) includes(rel string) bool {
	return len(s.globs) == 0 || matches(s.globs, rel)
}

func matches(globs []glob, rel string) bool {
	if len(globs) == 0 {
		return false
	}
	rel = runes(rel)
	name := path.Base(rel)
	for _, g := range globs {
		with := name
		if g.whole {
			with = rel
		}
		if doublestar.MatchUnvalidated(g.text, with) {
			return true
		}
	}
	return false
}

// runes gives each byte that is no UTF-8 a rune of its own, from a range without
// characters: for the matcher all such bytes are the same.
func runes(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			r = 0x10FE00 + rune(s[0])
		}
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}
