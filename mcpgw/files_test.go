package mcpgw

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i+1)
	}
	return b.String()
}

func TestReadByLines(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		x.write(t, "many", numbered(2500))
		x.write(t, "large", strings.Repeat("0123456789abcdef\n", 100_000)) // several messages
		x.write(t, "long line", strings.Repeat("é", 3000)+"\nend\n")
		x.write(t, "no newline", "a\nb")
		x.write(t, "empty", "")
		x.write(t, "crlf", "a\r\nb\r\n")
		x.write(t, "binary", "PNG\x00\x01")
		x.write(t, "latin1", "caf\xe9\n")
		for _, c := range []struct {
			name                    string
			args                    args
			first, last, total, nxt int
			ends                    string
		}{
			{"default", args{"path": "many"}, 1, 1000, 2500, 1001, "line 1000\n[lines 1-1000 of 2500; call read_text_file with path=\"many\" and offset=1001 for more]"},
			{"next", args{"path": "many", "offset": 1001}, 1001, 2000, 2500, 2001, "offset=2001 for more]"},
			{"last page", args{"path": "many", "offset": 2001}, 2001, 2500, 2500, 0, "line 2500\n[lines 2001-2500 of 2500]"},
			{"limit", args{"path": "many", "offset": 7, "limit": 2}, 7, 8, 2500, 9, "offset=9 for more]"},
			{"head", args{"path": "many", "head": 3}, 1, 3, 2500, 4, "offset=4 for more]"},
			{"tail", args{"path": "many", "tail": 2}, 2499, 2500, 2500, 0, "line 2499\nline 2500\n[lines 2499-2500 of 2500]"},
			{"head and tail", args{"path": "many", "head": 3, "tail": 1}, 2500, 2500, 2500, 0, "line 2500\n[tail was taken, and not head, offset or limit; lines 2500-2500 of 2500]"},
			{"neutral values", args{"path": "many", "offset": 0, "limit": nil, "head": 0, "tail": 0}, 1, 1000, 2500, 1001, "for more]"},
			{"by bytes", args{"path": "large", "limit": 5000}, 1, 2942, 100_000, 2943, "offset=2943 for more]"},
			{"deep in a large file", args{"path": "large", "offset": 99_999}, 99_999, 100_000, 100_000, 0, "of 100000]"},
			{"long line", args{"path": "long line"}, 1, 2, 2, 0, "é…\nend\n[1 line cut after 2000 bytes; exec with cut -b shows more]"},
			{"no newline", args{"path": "no newline"}, 1, 2, 2, 0, "a\nb"},
			{"empty", args{"path": "empty"}, 0, 0, 0, 0, ""},
			{"crlf", args{"path": "crlf"}, 1, 2, 2, 0, "a\r\nb\r\n"},
			{"not UTF-8", args{"path": "latin1"}, 1, 1, 1, 0, "caf\uFFFD\n[the file is not UTF-8: other bytes are shown as \uFFFD]"},
		} {
			t.Run(c.name, func(t *testing.T) {
				text, r := x.ok(t, "read_text_file", c.args)
				require.True(t, strings.HasSuffix(text, c.ends), "%q", text[max(0, len(text)-200):])
				require.EqualValues(t, c.first, r["startLine"])
				require.EqualValues(t, c.last, r["endLine"])
				require.EqualValues(t, c.total, r["totalLines"])
				next, _ := r["nextOffset"].(float64)
				require.EqualValues(t, c.nxt, next)
				require.True(t, strings.HasPrefix(text, r["content"].(string)))
				require.NotEmpty(t, r["etag"])
			})
		}
		x.fails(t, mesh.CodeInvalid, "read_text_file", args{"path": "many", "offset": 2501})
		x.fails(t, mesh.CodeUnsupported, "read_text_file", args{"path": "binary"})
	})
}

func TestFileTools(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		text, r := x.ok(t, "write_file", args{"path": "a/b.txt", "content": "hello\n"})
		require.Equal(t, "Wrote 6 bytes to a/b.txt", text)
		require.EqualValues(t, 6, r["bytes"])
		x.requireFile(t, "a/b.txt", "hello\n")
		x.ok(t, "write_file", args{"path": "/workspace/a/abs.txt", "content": ""})
		x.requireFile(t, "a/abs.txt", "")
		x.fails(t, mesh.CodeExists, "write_file", args{"path": "a/b.txt", "content": "x", "createOnly": true})
		large := strings.Repeat("x", 2<<20)
		x.fails(t, mesh.CodeExists, "write_file", args{"path": "a/b.txt", "content": large, "createOnly": true})
		x.requireFile(t, "a/b.txt", "hello\n")
		x.ok(t, "write_file", args{"path": "large", "content": large})
		x.requireFile(t, "large", large)

		x.ok(t, "create_directory", args{"path": "d/e/f"})
		x.ok(t, "create_directory", args{"path": "d/e/f"})
		_, r = x.ok(t, "get_file_info", args{"path": "d/e/f"})
		require.Equal(t, "dir", r["type"])

		x.ok(t, "move_file", args{"source": "a/b.txt", "destination": "new/c.txt"})
		x.requireFile(t, "new/c.txt", "hello\n")
		x.fails(t, mesh.CodeExists, "move_file", args{"source": "a/abs.txt", "destination": "new/c.txt"})
		x.fails(t, mesh.CodeNotFound, "move_file", args{"source": "gone", "destination": "z"})

		x.fails(t, mesh.CodeInvalid, "delete_path", args{"path": "new"})
		x.ok(t, "delete_path", args{"path": "new", "recursive": true})
		x.fails(t, mesh.CodeNotFound, "delete_path", args{"path": "new", "recursive": true})
		x.fails(t, mesh.CodeNotFound, "delete_path", args{"path": "new"})
		x.fails(t, mesh.CodeDenied, "delete_path", args{"path": ".", "recursive": true})
		x.fails(t, mesh.CodeDenied, "read_text_file", args{"path": "../../etc/passwd"})
	})
}

func TestSpecialFiles(t *testing.T) {
	nodetest.Commands(t)
	eachTools(t, func(t *testing.T, x *tools) {
		x.ok(t, "exec", args{"command": "mkfifo fifo && ln -s a b && ln -s b a && mkdir dir && ln -s /etc/passwd out"})
		for _, path := range []string{"fifo", "a", "dir", "out"} {
			for tool, more := range map[string]args{
				"read_text_file": {},
				"edit_file":      {"edits": []args{{"oldText": "x", "newText": "y"}}},
			} {
				more["path"] = path
				_, _, isError := x.call(t, tool, more)
				require.True(t, isError, "%s %s", tool, path)
			}
		}
		_, r := x.ok(t, "get_file_info", args{"path": "fifo"})
		require.Equal(t, "fifo", r["type"])
		_, r = x.ok(t, "get_file_info", args{"path": "a"})
		require.Equal(t, "b", r["target"])
	})
}

func TestNamesThatMislead(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		x.write(t, "\x1b[31mred", "needle")
		x.write(t, "line\nbreak", "needle")
		x.write(t, "rtl\u202egnp.exe", "needle")
		x.write(t, "\xff\xfe", "needle")
		x.write(t, "漢字", "needle")
		shown := []string{`\x1b[31mred`, `line\x0abreak`, `rtl\u{202e}gnp.exe`, "漢字", `\xff\xfe`}
		_, r := x.ok(t, "list_directory", args{})
		var names []string
		for _, e := range r["entries"].([]any) {
			names = append(names, e.(args)["name"].(string))
		}
		require.ElementsMatch(t, shown, names)
		_, r = x.ok(t, "search_files", args{"pattern": "*"})
		require.ElementsMatch(t, shown, r["paths"])
		text, _ := x.ok(t, "grep", args{"pattern": "needle"})
		require.ElementsMatch(t, shown, strings.Split(text, "\n"))
	})
}

func TestLists(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		for i := range 25 {
			x.write(t, fmt.Sprintf("src/f%02d.go", i), "package f\n// needle\n")
		}
		x.write(t, "src/sub/deep.txt", "x\nneedle one\ny\nneedle two\n")
		x.write(t, "node_modules/m.go", "needle")

		// Every page, by the cursors alone.
		var names []string
		a := args{"path": "src", "limit": 10}
		for {
			_, r := x.ok(t, "list_directory", a)
			for _, e := range r["entries"].([]any) {
				names = append(names, e.(args)["name"].(string))
			}
			if r["nextCursor"] == nil {
				require.Equal(t, false, r["truncated"])
				break
			}
			a["cursor"] = r["nextCursor"]
		}
		require.Len(t, names, 26)
		text, _ := x.ok(t, "list_directory", args{"path": "src/sub"})
		require.Equal(t, "[FILE] deep.txt (26 bytes)", text)

		var found []any
		a = args{"pattern": "*.go", "limit": 10, "excludePatterns": []string{"node_modules"}}
		for {
			_, r := x.ok(t, "search_files", a)
			found = append(found, r["paths"].([]any)...)
			if r["nextCursor"] == nil {
				break
			}
			a["cursor"] = r["nextCursor"]
		}
		require.Len(t, found, 25)
		x.write(t, "src/newest.go", "")
		_, r := x.ok(t, "search_files", args{"pattern": "src/*.go", "sortBy": "mtime", "limit": 1})
		require.Equal(t, []any{"src/newest.go"}, r["paths"])
		text, _ = x.ok(t, "search_files", args{"pattern": "*.none"})
		require.Equal(t, "No matches found", text)

		text, _ = x.ok(t, "grep", args{"pattern": "needle \\w+", "path": "src", "outputMode": "content", "contextBefore": 1})
		require.Equal(t, "src/sub/deep.txt-1-x\nsrc/sub/deep.txt:2:needle one\n--\nsrc/sub/deep.txt-3-y\nsrc/sub/deep.txt:4:needle two\n--", text)
		text, _ = x.ok(t, "grep", args{"pattern": "needle", "outputMode": "count", "type": "txt"})
		require.Equal(t, "src/sub/deep.txt:2", text)
		var paths []any
		a = args{"pattern": "NEEDLE", "caseInsensitive": true, "headLimit": 10, "glob": "*.go", "excludePatterns": []string{"node_modules"}}
		for {
			_, r := x.ok(t, "grep", a)
			for _, m := range r["matches"].([]any) {
				paths = append(paths, m.(args)["path"])
			}
			if r["nextCursor"] == nil {
				break
			}
			a["cursor"] = r["nextCursor"]
		}
		require.Len(t, paths, 25)
		x.fails(t, mesh.CodeInvalid, "grep", args{"pattern": "("})
		x.ok(t, "grep", args{"pattern": "(", "fixedStrings": true})
		x.fails(t, mesh.CodeUnsupported, "grep", args{"pattern": "a", "multiline": true})
		x.fails(t, mesh.CodeInvalid, "list_directory", args{"cursor": "src"})
		x.fails(t, mesh.CodeNotFound, "list_directory", args{"path": "no/such"})
	})
}

func TestWrongArguments(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		for _, c := range []struct {
			name, tool string
			args       args
			says       string
		}{
			{"missing", "read_text_file", args{}, "arguments: path is missing"},
			{"none at all", "read_text_file", nil, "arguments: path is missing"},
			{"unknown", "read_text_file", args{"path": "a", "file_path": "b"}, `unknown argument "file_path" (did you mean path?); there are path, offset, limit, head, tail`},
			{"unknown, close", "exec", args{"command": "true", "timeout": 1}, `unknown argument "timeout" (did you mean timeoutMs?); there are command, `},
			{"unknown, far", "list_directory", args{"zzz": 1}, `unknown argument "zzz"; there are path, limit, cursor`},
			{"unknown, within", "edit_file", args{"path": "a", "edits": []args{{"oldText": "a", "newText": "b", "all": true}}}, "argument edits[]: there is no all in it"},
			{"unknown tool", "read_file", args{"path": "a"}, `there is no tool "read_file"; there are create_directory, delete_path, edit_file, exec, `},
			{"type", "read_text_file", args{"path": 1}, "argument path: must be of type string, not integer"},
			{"range", "exec", args{"command": "true", "timeoutMs": 600_001}, "argument timeoutMs: must be at most 600000, not 600001"},
			{"enum", "grep", args{"pattern": "a", "outputMode": "lines"}, "argument outputMode: must be one of: files_with_matches content count"},
			{"in a list", "edit_file", args{"path": "a", "edits": []args{{"oldText": "a"}}}, "argument edits[]: newText is missing"},
			{"empty list", "edit_file", args{"path": "a", "edits": []args{}}, "argument edits: must not be empty"},
			{"fraction", "read_text_file", args{"path": "a", "offset": 1.5}, "argument offset: must be of type integer, not number"},
			{"environment", "exec", args{"command": "true", "env": args{"A=B": "c"}}, "argument env"},
		} {
			t.Run(c.name, func(t *testing.T) {
				require.Contains(t, x.fails(t, mesh.CodeInvalid, c.tool, c.args), c.says)
			})
		}
	})
}

// A limit holds however the argument is spelled: of one that is there twice the
// schema and the tool take the same.
func TestArgumentTwice(t *testing.T) {
	eachTools(t, func(t *testing.T, x *tools) {
		x.write(t, "f", numbered(3))
		text, _, isError := x.callRaw(t, "read_text_file", json.RawMessage(`{"path":"f","limit":-1,"limit":null}`))
		require.False(t, isError, text)
		require.Equal(t, numbered(3), text)
		for _, a := range []string{
			`{"path":"f","limit":1,"limit":-1}`, `{"path":"f","limit":1,"Limit":-1}`, `{"path":"f","path":null}`, `[]`, `"f"`,
		} {
			text, structured, isError := x.callRaw(t, "read_text_file", json.RawMessage(a))
			require.True(t, isError, "%s: %s", a, text)
			require.Equal(t, string(mesh.CodeInvalid), structured["code"], "%s: %s", a, text)
		}
		text, _, isError = x.callRaw(t, "memory_put", json.RawMessage(`{"key":"k","value":"v","ifRevision":18446744073709551615}`))
		require.True(t, isError)
		require.Contains(t, text, "not_found", "a number keeps all its digits")
	})
}

// Of a large file nothing is held but what is shown.
func TestLinesHoldLittle(t *testing.T) {
	parts := [][]byte{bytes.Repeat([]byte("\n"), mesh.MaxMessage), bytes.Repeat([]byte("x"), mesh.MaxMessage), []byte("é\n")[:1], []byte("é\n")[1:]}
	l := lines{last: MaxLines}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, part := range parts {
		for range 20 {
			l.add(part)
		}
		if len(part) == 1 {
			break
		}
	}
	runtime.ReadMemStats(&after)
	l.end()
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
	require.Equal(t, int64(20*mesh.MaxMessage+1), l.total)
	require.Equal(t, int64(MaxLines), l.shown)
	require.True(t, l.invalid)

	l = lines{last: 10}
	for _, b := range []byte("aé\n€\n𝄞") {
		l.add([]byte{b})
	}
	l.end()
	require.Equal(t, "aé\n€\n𝄞", l.content.String())
	require.False(t, l.invalid, "characters that parts share")
}
