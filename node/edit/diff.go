package edit

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/aymanbagabas/go-udiff"
)

const (
	// maxCompared is how many lines, of both texts, are compared to make a diff: of
	// more it takes minutes and gigabytes.
	maxCompared = 50_000
	// maxCounted is how many bytes are looked at to find the lines of all differences.
	maxCounted = 4 << 30
)

// Diff is the unified diff of two texts and how many lines it adds and removes; "" if
// they are the same. Large texts are compared coarsely: as if all lines from the first
// difference to the last one were replaced.
func Diff(name, before, after string) (diff string, added, removed int) {
	if before == after {
		return "", 0, 0
	}
	diff = hunks(before, after)
	for line := range strings.Lines(diff) {
		switch line[0] {
		case '+':
			added++
		case '-':
			removed++
		}
	}
	return "--- " + quoted("a/"+name) + "\n+++ " + quoted("b/"+name) + "\n" + diff, added, removed
}

// quoted is a name as it can stand in a line.
func quoted(name string) string {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return strconv.Quote(name)
	}
	return name
}

func hunks(before, after string) string {
	if strings.Count(before, "\n")+strings.Count(after, "\n") > maxCompared {
		return coarse(before, after)
	}
	edits := udiff.Lines(before, after)
	if len(edits)*len(before) > maxCounted {
		return coarse(before, after)
	}
	diff, err := udiff.ToUnified("", "", before, edits, udiff.DefaultContextLines)
	if err != nil { // the edits do not fit the text that they were made of
		return coarse(before, after)
	}
	return diff[max(0, strings.Index(diff, "@@")):] // behind the names
}

// coarse is one hunk in which all lines from the first difference to the last one are
// replaced.
func coarse(before, after string) string {
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
	fmt.Fprintf(&b, "@@ -%s +%s @@\n", span(line, before), span(line, after))
	sign(&b, '-', before)
	sign(&b, '+', after)
	return b.String()
}

func lineStart(s string, at int) bool { return at == 0 || s[at-1] == '\n' }

// span is how a hunk's header says which lines a text is.
func span(line int, text string) string {
	n := strings.Count(text, "\n")
	switch {
	case unended(text):
		n++
	case n == 0:
		line-- // of the line before
	}
	return fmt.Sprintf("%d,%d", line, n)
}

// sign writes the lines of a text with a sign before each.
func sign(b *strings.Builder, sign byte, text string) {
	for line := range strings.Lines(text) {
		b.WriteByte(sign)
		b.WriteString(line)
	}
	if unended(text) {
		b.WriteString("\n\\ No newline at end of file\n")
	}
}
