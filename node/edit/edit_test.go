package edit

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

func anySize(int) error { return nil }

func TestReplace(t *testing.T) {
	for _, c := range []struct {
		name, before string
		edits        []mesh.Edit
		after        string
		n            int
	}{
		{"one", "a\nb\nc\n", []mesh.Edit{{Old: "b", New: "B"}}, "a\nB\nc\n", 1},
		{"one after the other", "a\n", []mesh.Edit{{Old: "a", New: "b"}, {Old: "b", New: "c"}}, "c\n", 2},
		{"all", "x x x", []mesh.Edit{{Old: "x", New: "xy", ReplaceAll: true}}, "xy xy xy", 3},
		{"all of one", "x", []mesh.Edit{{Old: "x", New: "y", ReplaceAll: true}}, "y", 1},
		{"literally", "price\n", []mesh.Edit{{Old: "price", New: "$& $1 $$ \\1 %s"}}, "$& $1 $$ \\1 %s\n", 1},
		{"deleted", "a\nb\n", []mesh.Edit{{Old: "a\n"}}, "b\n", 1},
		{"CRLF, asked with LF", "a\r\nb\r\nc\r\n", []mesh.Edit{{Old: "a\nb", New: "A\nnew\nB"}}, "A\r\nnew\r\nB\r\nc\r\n", 1},
		{"CRLF, asked with CRLF", "a\r\nb\r\n", []mesh.Edit{{Old: "a\r\nb", New: "x\r\ny"}}, "x\r\ny\r\n", 1},
		{"both line ends are left alone", "a\r\nb\nc\n", []mesh.Edit{{Old: "b\nc", New: "B\nC"}}, "a\r\nB\nC\n", 1},
		{"byte order mark", "\ufeffa\n", []mesh.Edit{{Old: "a", New: "b"}}, "\ufeffb\n", 1},
		{"other bytes", "caf\xe9 one\n", []mesh.Edit{{Old: "\xe9 one", New: "\xe8 two"}}, "caf\xe8 two\n", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, n, err := Apply(c.before, &mesh.EditRequest{Edits: c.edits}, anySize)
			require.NoError(t, err)
			require.Equal(t, c.after, after)
			require.Equal(t, c.n, n)
		})
	}
}

func TestPatch(t *testing.T) {
	for _, c := range []struct{ name, before, diff, after string }{
		{"one hunk", "a\nb\nc\n", "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n", "a\nB\nc\n"},
		{"from git", "a\nb\n", "diff --git a/f b/f\nindex 1..2 100644\n--- a/f\n+++ b/f\n@@ -2 +2 @@ func\n-b\n+B\n", "a\nB\n"},
		{"two hunks", "a\nb\nc\nd\n", "@@ -1 +1,2 @@\n-a\n+A\n+new\n@@ -4 +5 @@\n-d\n+D\n", "A\nnew\nb\nc\nD\n"},
		{"inserted at the start", "a\n", "@@ -0,0 +1 @@\n+b\n", "b\na\n"},
		{"inserted at the end", "a\n", "@@ -1,0 +2 @@\n+b\n", "a\nb\n"},
		{"into an empty file", "", "@@ -0,0 +1,2 @@\n+a\n+b\n", "a\nb\n"},
		{"all is deleted", "a\nb\n", "@@ -1,2 +0,0 @@\n-a\n-b\n", ""},
		{"no line end at the end of the diff", "a\n", "@@ -1 +1 @@\n-a\n+b", "b\n"},
		{"no line end at the end of the file", "a", "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n", "b"},
		{"a line end is added", "a", "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n", "a\n"},
		{"a line end is taken off", "x\na\n", "@@ -1,2 +1,2 @@\n x\n-a\n+a\n\\ No newline at end of file\n", "x\na"},
		{"trimmed empty line", "a\n\nb\n", "@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n", "a\n\nc\n"},
		{"looks like names", "-- a\n", "@@ -1 +1 @@\n--- a\n+++ b\n", "++ b\n"},
		{"CRLF", "a\r\nb\r\n", "@@ -1,2 +1,3 @@\n a\n-b\n+B\n+c\n", "a\r\nB\r\nc\r\n"},
		{"CRLF, asked with CRLF", "a\r\nb\r\n", "@@ -1,2 +1,2 @@\r\n a\r\n-b\r\n+B\r\n", "a\r\nB\r\n"},
		{"CRLF, no line end", "a\r\nb", "@@ -2 +2 @@\n-b\n\\ No newline at end of file\n+B\n\\ No newline at end of file\n", "a\r\nB"},
		{"byte order mark", "\ufeffa\n", "@@ -1 +1 @@\n-a\n+b\n", "\ufeffb\n"},
		{"byte order mark in the diff", "\ufeffa\n", "@@ -1 +1 @@\n-\ufeffa\n+\ufeffb\n", "\ufeffb\n"},
		{"other bytes", "\xe9\n", "@@ -1 +1 @@\n-\xe9\n+\xe8\n", "\xe8\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, _, err := Apply(c.before, &mesh.EditRequest{Diff: mesh.Text(c.diff)}, anySize)
			require.NoError(t, err)
			require.Equal(t, c.after, after)
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	const text = "one\n\tindented  line\none\ntwo\n"
	edits := func(old mesh.Text) *mesh.EditRequest {
		return &mesh.EditRequest{Edits: []mesh.Edit{{Old: "two", New: "2"}, {Old: old, New: "x"}}}
	}
	diff := func(s mesh.Text) *mesh.EditRequest { return &mesh.EditRequest{Diff: s} }
	for _, c := range []struct {
		name string
		req  *mesh.EditRequest
		code mesh.Code
		says string
	}{
		{"nothing", &mesh.EditRequest{}, mesh.CodeInvalid, "nothing to do"},
		{"both", &mesh.EditRequest{Diff: "x", Edits: []mesh.Edit{{}}}, mesh.CodeInvalid, "one of them"},
		{"too many", &mesh.EditRequest{Edits: make([]mesh.Edit, mesh.MaxEdits+1)}, mesh.CodeInvalid, "257 edits"},
		{"not there", edits("three"), mesh.CodeInvalid, "edit 2 of 2: the old text is not in the file"},
		{"white space", edits("indented line"), mesh.CodeInvalid, `line 2 differs from its first line in white space only: "\tindented  line"`},
		{"what follows", edits("line\none\nthree"), mesh.CodeInvalid, "the old text is not in the file"},
		{"several", edits("one"), mesh.CodeConflict, "2 times, at line 1, 3"},
		{"empty", edits(""), mesh.CodeInvalid, "the old text is empty"},

		{"no hunk", diff("--- a\n+++ b\n"), mesh.CodeInvalid, "no hunk"},
		{"bad header", diff("@@ ... @@\n-one\n+1\n"), mesh.CodeInvalid, "@@ -LINE,COUNT"},
		{"line 0", diff("@@ -0,1 +1 @@\n-one\n+1\n"), mesh.CodeInvalid, "line 0"},
		{"no sign", diff("@@ -1 +1 @@\none\n+1\n"), mesh.CodeInvalid, "hunk 1"},
		{"fewer lines", diff("@@ -1,2 +1,2 @@\n-one\n+1\n"), mesh.CodeInvalid, "fewer lines"},
		{"more lines", diff("@@ -1 +1 @@\n-one\n+1\n+2\n"), mesh.CodeInvalid, `what follows hunk 1 is not of it: "+2\n"`},
		{"another file", diff("@@ -1 +1 @@\n-one\n+1\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n"), mesh.CodeInvalid, "of one file"},
		{"another line", diff("@@ -1 +1 @@\n-one\n+1\n@@ -3 +3 @@\n-two\n+2\n"), mesh.CodeConflict, "hunk 2 of 2 does not fit at line 3: other lines are there; its lines stand at line 4"},
		{"white space of a line", diff("@@ -1,2 +1,2 @@\n-one\n+1\n \tindented line\n"), mesh.CodeConflict, "hunk 1 of 1 does not fit at line 1"},
		{"behind the end", diff("@@ -9 +9 @@\n-two\n+2\n"), mesh.CodeConflict, "the file ends before"},
		{"backwards", diff("@@ -4 +4 @@\n-two\n+2\n@@ -1 +1 @@\n-one\n+1\n"), mesh.CodeConflict, "hunk 2 of 2"},
		{"no line end in the middle", diff("@@ -1 +1 @@\n-one\n+1\n\\ No newline at end of file\n"), mesh.CodeConflict, "does not end there"},
		{"has a line end", diff("@@ -4 +4 @@\n-two\n\\ No newline at end of file\n+2\n"), mesh.CodeConflict, "does not end there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, _, err := Apply(text, c.req, anySize)
			require.Equal(t, c.code, mesh.CodeOf(err), "%q %v", after, err)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// The size of a text is asked for before it is made.
func TestRoom(t *testing.T) {
	for _, req := range []mesh.EditRequest{
		{Edits: []mesh.Edit{{Old: "a", New: "bb", ReplaceAll: true}}},
		{Diff: "@@ -1 +1 @@\n-aa\n+bbbb\n"},
	} {
		asked := 0
		_, _, err := Apply("aa\n", &req, func(size int) error {
			asked = size
			return mesh.Errorf(mesh.CodeTooLarge, "")
		})
		require.Equal(t, mesh.CodeTooLarge, mesh.CodeOf(err))
		require.Equal(t, len("bbbb\n"), asked)
	}
}

// A diff makes the second text of the first.
func TestDiffApplies(t *testing.T) {
	line := rapid.SampledFrom([]string{"a\n", "b\n", "c\n", "\n", "- a\n", "@@ -1 +1 @@\n", "a\r\n", "\xe9\n", "\\ x\n"})
	text := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOf(line).Draw(t, "lines"), "") + rapid.SampledFrom([]string{"", "a", "b", "\r"}).Draw(t, "end")
	})
	rapid.Check(t, func(t *rapid.T) {
		before, after := text.Draw(t, "before"), text.Draw(t, "after")
		if crlfOnly(before) && (!crlfOnly(after) || strings.HasSuffix(before, "\r") || strings.HasSuffix(after, "\r")) {
			return // its lines would get CRLF
		}
		for _, diff := range []string{hunks(before, after), coarse(before, after)} {
			if before == after {
				continue
			}
			got, _, err := Apply(before, &mesh.EditRequest{Diff: mesh.Text(diff)}, anySize)
			if err != nil || got != after {
				t.Fatalf("%q, which %q made, %v", got, diff, err)
			}
		}
	})
}

func TestDiff(t *testing.T) {
	diff, added, removed := Diff("d/f", "a\nb\nc\n", "a\nB\nnew\nc\n")
	require.Equal(t, "--- a/d/f\n+++ b/d/f\n@@ -1,3 +1,4 @@\n a\n-b\n+B\n+new\n c\n", diff)
	require.Equal(t, [2]int{2, 1}, [2]int{added, removed})
	diff, _, _ = Diff("odd\nname", "", "a")
	require.True(t, strings.HasPrefix(diff, "--- \"a/odd\\nname\"\n"), diff)
	diff, _, _ = Diff("f", "same", "same")
	require.Empty(t, diff)
}

// Files of many lines are compared coarsely, in little time and memory.
func TestDiffOfManyLines(t *testing.T) {
	many := strings.Repeat("x\n", maxCompared)
	for _, c := range []struct{ name, before, after, diff string }{
		{"one line", many + "a\n" + many, many + "b\n" + many, "@@ -50001,1 +50001,1 @@\n-a\n+b\n"},
		{"inserted", many + "a\n", many + "b\na\n", "@@ -50000,0 +50001,1 @@\n+b\n"},
		{"deleted", many + "b\nc\na\n", many + "a\n", "@@ -50001,2 +50000,0 @@\n-b\n-c\n"},
		{"repeated", many, many + many[:4], "@@ -50000,0 +50001,2 @@\n+x\n+x\n"},
		{"at the start", "a\n" + many, "b\n" + many, "@@ -1,1 +1,1 @@\n-a\n+b\n"},
		{"within a line", many + "abc\n" + many, many + "adc\n" + many, "@@ -50001,1 +50001,1 @@\n-abc\n+adc\n"},
		{"line end at the end", many + "a\n", many + "a", "@@ -50001,1 +50001,1 @@\n-a\n+a\n\\ No newline at end of file\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			diff := hunks(c.before, c.after)
			require.Equal(t, c.diff, diff[:min(len(diff), 1000)])
		})
	}
	var alternating strings.Builder // few lines, but long ones, many of them different
	for i := range 20_000 {
		fmt.Fprintf(&alternating, "%d%s\n", i%2, strings.Repeat("x", 500))
	}
	diff, added, removed := Diff("f", alternating.String(), strings.ReplaceAll(alternating.String(), "1", "2"))
	require.Equal(t, added, removed)
	require.NotEmpty(t, diff)
}

// Whatever a diff says, it is applied or refused.
func FuzzPatch(f *testing.F) {
	f.Add("a\nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n")
	f.Add("", "@@ -0,0 +1 @@\n+a\n\\ No newline at end of file\n")
	f.Add("a", "\\\n@@ -1 +1 @@\n-a\n\\\n+\n\\\n")
	f.Fuzz(func(t *testing.T, text, diff string) {
		size := 0
		after, _, err := patch(text, diff, func(n int) error { size = n; return nil })
		if err == nil {
			require.Len(t, after, size)
		} else {
			require.Contains(t, []mesh.Code{mesh.CodeInvalid, mesh.CodeConflict}, mesh.CodeOf(err))
		}
	})
}
