package mcpgw

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escapes are the sequences that terminals obey: colors and cursor, titles and
// links, and the short ones.
var escapes = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])`)

// shownOutput is the output of a command as a model should see it: text, without
// what only a terminal would obey, and without characters that nobody sees.
func shownOutput(b []byte) string {
	if plain(b) {
		return string(b)
	}
	b = escapes.ReplaceAll(b, nil)
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	b = bytes.ReplaceAll(b, []byte("\r"), []byte("\n"))
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unseen(r) {
			return -1
		}
		return r
	}, validText(b))
}

// validText is bytes as UTF-8; what is not UTF-8 becomes U+FFFD.
func validText(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

// shownName is a file name as a model should see it: what cannot be seen is
// escaped, so that nobody is misled by it.
func shownName(name string) string {
	if plain([]byte(name)) && !strings.ContainsAny(name, "\n\t") {
		return name
	}
	var b strings.Builder
	for i, r := range name {
		_, size := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, name[i])
		case r < 0x80 && unseen(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		case unseen(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// plain reports whether b is ASCII that can be seen, line breaks and tabs: the
// usual case, and cheap to find out.
func plain(b []byte) bool {
	for _, c := range b {
		if (c < 0x20 && c != '\n' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}

// unseen reports whether a character is a control character or one of those that
// change what is around them without being seen: zero width, direction, tags.
func unseen(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}

// counted is a number with its noun, in the singular of one.
func counted(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
