package mcpgw

import (
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
			{"not there", mesh.CodeInvalid, args{"oldText": "three", "newText": "x"}, "edit f: edit 2 of 2: the old text is not in the file"},
			{"white space", mesh.CodeInvalid, args{"oldText": "indented line", "newText": "x"}, `line 2 differs from its first line in white space only: "\tindented  line"`},
			{"what follows", mesh.CodeInvalid, args{"oldText": "two\nthree", "newText": "x"}, "its first line is line 4"},
			{"several", mesh.CodeConflict, args{"oldText": "one", "newText": "x"}, "the old text is in the file 2 times, at line 1, 3"},
			{"empty", mesh.CodeInvalid, args{"oldText": "", "newText": "x"}, "the old text is empty"},
		} {
			t.Run(c.name, func(t *testing.T) {
				first := args{"oldText": "two", "newText": "two"}
				require.Contains(t, x.fails(t, c.code, "edit_file", args{"path": "f", "edits": []args{first, c.edit}}), c.says)
				x.requireFile(t, "f", before)
			})
		}
		x.write(t, "binary", "\x00 one")
		require.Contains(t, x.fails(t, mesh.CodeUnsupported, "edit_file", args{"path": "binary", "edits": []args{{"oldText": "one", "newText": "two"}}}), "xxd")
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
		grow := args{"oldText": "a", "newText": strings.Repeat("b", mesh.MaxEdit/10_000), "replaceAll": true}
		require.Contains(t, x.fails(t, mesh.CodeTooLarge, "edit_file", args{"path": "f", "edits": []args{grow}}), "20960000 bytes")
		double := args{"oldText": "a", "newText": "aa", "replaceAll": true}
		x.fails(t, mesh.CodeTooLarge, "edit_file", args{"path": "f", "edits": []args{double, double, double, double, double, double, double, double, double, double}})
		x.requireFile(t, "f", strings.Repeat("a", 20_000))
	})
}
