package mcpgw

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestEdit(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		for _, c := range []struct {
			name, before string
			edits        []args
			after        string
		}{
			{"one", "a\nb\nc\n", []args{{"oldText": "b", "newText": "B"}}, "a\nB\nc\n"},
			{"one after the other", "a\n", []args{{"oldText": "a", "newText": "b"}, {"oldText": "b", "newText": "c"}}, "c\n"},
			{"all", "x x x", []args{{"oldText": "x", "newText": "y", "replaceAll": true}}, "y y y"},
			{"literally", "price\n", []args{{"oldText": "price", "newText": "$& $1 $$ \\1 %s"}}, "$& $1 $$ \\1 %s\n"},
			{"deleted", "a\nb\n", []args{{"oldText": "a\n", "newText": ""}}, "b\n"},
			{"CRLF, asked with LF", "a\r\nb\r\nc\r\n", []args{{"oldText": "a\nb", "newText": "A\nnew\nB"}}, "A\r\nnew\r\nB\r\nc\r\n"},
			{"CRLF, asked with CRLF", "a\r\nb\r\n", []args{{"oldText": "a\r\nb", "newText": "x\r\ny"}}, "x\r\ny\r\n"},
			{"both line ends are left alone", "a\r\nb\nc\n", []args{{"oldText": "b\nc", "newText": "B\nC"}}, "a\r\nB\nC\n"},
			{"byte order mark", "\ufeffa\n", []args{{"oldText": "a", "newText": "b"}}, "\ufeffb\n"},
			{"other bytes", "caf\xe9 one\n", []args{{"oldText": "one", "newText": "two"}}, "caf\xe9 two\n"},
		} {
			t.Run(c.name, func(t *testing.T) {
				require.NoError(t, x.ws.WriteFile(t.Context(), "f.txt", []byte(c.before), 0o755))
				text, r := x.ok(t, "edit_file", args{"path": "f.txt", "edits": c.edits, "dryRun": true})
				require.Contains(t, text, "+++ b/f.txt")
				require.Equal(t, false, r["applied"])
				x.requireFile(t, "f.txt", c.before)
				_, r = x.ok(t, "edit_file", args{"path": "f.txt", "edits": c.edits})
				require.Equal(t, true, r["applied"])
				x.requireFile(t, "f.txt", c.after)
				info, err := x.ws.Stat(t.Context(), "f.txt")
				require.NoError(t, err)
				require.EqualValues(t, 0o755, info.Mode)
			})
		}
	})
}

// Edits side by side keep one another's, and what a model has not seen it does not
// overwrite if it says so.
func TestEditsOfOthersAreKept(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		x.write(t, "f", "a0 b0 c0")
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			wg.Go(func() {
				x.ok(t, "edit_file", args{"path": "f", "edits": []args{{"oldText": name + "0", "newText": name + "1"}}})
			})
		}
		wg.Wait()
		x.requireFile(t, "f", "a1 b1 c1")

		_, seen := x.ok(t, "get_file_info", args{"path": "f"})
		_, wrote := x.ok(t, "write_file", args{"path": "f", "content": "other", "ifMatch": seen["etag"]})
		require.NotEqual(t, seen["etag"], wrote["etag"])
		x.fails(t, mesh.CodeConflict, "write_file", args{"path": "f", "content": "mine", "ifMatch": seen["etag"]})
		x.fails(t, mesh.CodeConflict, "edit_file", args{"path": "f", "edits": []args{{"oldText": "other", "newText": "mine"}}, "ifMatch": seen["etag"]})
		x.requireFile(t, "f", "other")
		x.ok(t, "edit_file", args{"path": "f", "edits": []args{{"oldText": "other", "newText": "mine"}}, "ifMatch": wrote["etag"]})
		x.requireFile(t, "f", "mine")
	})
}

func TestEditRefuses(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		const before = "one\n\tindented  line\none\ntwo\n"
		x.write(t, "f", before)
		for _, c := range []struct {
			name string
			code mesh.Code
			edit args
			says string
		}{
			{"not there", mesh.CodeInvalid, args{"oldText": "three", "newText": "x"}, "edit 2 of 2 in f: oldText is not in the file"},
			{"white space", mesh.CodeInvalid, args{"oldText": "indented line", "newText": "x"}, `line 2 differs from its first line in white space only: "\tindented  line"`},
			{"what follows", mesh.CodeInvalid, args{"oldText": "two\nthree", "newText": "x"}, "its first line is line 4"},
			{"several", mesh.CodeConflict, args{"oldText": "one", "newText": "x"}, "oldText is in the file 2 times, at line 1, 3"},
			{"empty", mesh.CodeInvalid, args{"oldText": "", "newText": "x"}, "oldText is empty"},
		} {
			t.Run(c.name, func(t *testing.T) {
				first := args{"oldText": "two", "newText": "two"}
				require.Contains(t, x.fails(t, c.code, "edit_file", args{"path": "f", "edits": []args{first, c.edit}}), c.says)
				x.requireFile(t, "f", before)
			})
		}
		x.fails(t, mesh.CodeNotFound, "edit_file", args{"path": "none", "edits": []args{{"oldText": "a", "newText": "b"}}})
		text, r := x.ok(t, "edit_file", args{"path": "f", "edits": []args{{"oldText": "two", "newText": "two"}}})
		require.Equal(t, "[nothing changed: the file has this content already]", text)
		require.Equal(t, false, r["applied"])
	})
}

func TestLongDiffIsCut(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		x.write(t, "f", strings.Repeat("old line\n", 10_000))
		text, r := x.ok(t, "edit_file", args{"path": "f", "edits": []args{{"oldText": "old", "newText": "new", "replaceAll": true}}})
		require.Less(t, len(text), MaxDiff+200)
		require.Contains(t, text, "bytes of the diff are shown")
		require.EqualValues(t, 10_000, r["added"])
		require.EqualValues(t, 10_000, r["removed"])
	})
}

// What one edit can make of a file is bounded before it is made.
func TestEditDoesNotGrowAFileWithoutBound(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		x.write(t, "f", strings.Repeat("a", 20_000))
		grow := args{"oldText": "a", "newText": strings.Repeat("b", MaxEdit/10_000), "replaceAll": true}
		require.Contains(t, x.fails(t, mesh.CodeTooLarge, "edit_file", args{"path": "f", "edits": []args{grow}}), "20960000 bytes")
		double := args{"oldText": "a", "newText": "aa", "replaceAll": true}
		x.fails(t, mesh.CodeTooLarge, "edit_file", args{"path": "f", "edits": []args{double, double, double, double, double, double, double, double, double, double}})
		x.requireFile(t, "f", strings.Repeat("a", 20_000))
	})
}

// Files of many lines are compared coarsely, in little time and memory.
func TestDiffOfManyLines(t *testing.T) {
	many := strings.Repeat("x\n", maxCompared)
	for _, c := range []struct{ name, before, after, diff string }{
		{"one line", many + "a\n" + many, many + "b\n" + many, "@@ -50001,1 +50001,1 @@\n-a\n+b\n"},
		{"inserted", many + "a\n", many + "b\na\n", "@@ -50001,0 +50001,1 @@\n+b\n"},
		{"deleted", many + "b\nc\na\n", many + "a\n", "@@ -50001,2 +50001,0 @@\n-b\n-c\n"},
		{"repeated", many, many + many[:4], "@@ -50001,0 +50001,2 @@\n+x\n+x\n"},
		{"at the start", "a\n" + many, "b\n" + many, "@@ -1,1 +1,1 @@\n-a\n+b\n"},
		{"within a line", many + "abc\n" + many, many + "adc\n" + many, "@@ -50001,1 +50001,1 @@\n-abc\n+adc\n"},
		{"line end at the end", many + "a\n", many + "a", "@@ -50001,1 +50001,0 @@\n-a\n+a\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.diff, firstBytes(replaced(c.before, c.after), 1000))
		})
	}
	r := editResult{Path: "f"}
	require.NoError(t, r.compare(many, many+"a\nb\n"))
	require.Equal(t, "--- a/f\n+++ b/f\n@@ -50001,0 +50001,2 @@\n+a\n+b\n", r.Diff)
	require.Equal(t, [2]int{2, 0}, [2]int{r.Added, r.Removed})
}

func firstBytes(s string, n int) string { return s[:min(n, len(s))] }

// Who edits as much as he may keeps nobody else from editing.
func TestEditsAreShared(t *testing.T) {
	held := newBudget(DefaultEdits)
	mine, err := held.take(t.Context(), "acme", MaxEdit)
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = held.take(ended, "acme", 1)
	require.Equal(t, mesh.CodeBusy, mesh.CodeOf(err))
	other, err := held.take(t.Context(), "other", MaxEdit)
	require.NoError(t, err)
	mine.give()
	other.give()
	require.Empty(t, held.shares)
	require.True(t, held.all.TryAcquire(DefaultEdits), "all is given back")
}
