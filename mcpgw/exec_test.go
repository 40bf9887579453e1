package mcpgw

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestExecTool(t *testing.T) {
	nodetest.Commands(t)
	eachTools(t, func(t *testing.T, x *tools) {
		for _, c := range []struct {
			name string
			args args
			code int
			out  string
			err  string
		}{
			{"output", args{"command": "echo hello"}, 0, "hello\n", ""},
			{"status", args{"command": "echo oops >&2; exit 3"}, 3, "", "oops\n"},
			{"not a program", args{"command": "no-such-program 2>/dev/null"}, 127, "", ""},
			{"signal", args{"command": "kill -TERM $$"}, 143, "", ""},
			{"environment", args{"command": "echo $A-$B", "env": args{"A": "1", "B": "$x"}}, 0, "1-$x\n", ""},
			{"directory", args{"command": "mkdir -p sub && cd sub && pwd"}, 0, "/workspace/sub\n", ""},
			{"stdin", args{"command": "wc -c", "stdin": "four"}, 0, "4\n", ""},
			{"colors", args{"command": `printf '\033[31mred\033[0m\033]0;title\007 50%%\r100%%\n'`}, 0, "red 50%\n100%\n", ""},
			{"raw", args{"command": `printf '\033[31mred'`, "raw": true}, 0, "\x1b[31mred", ""},
			{"not UTF-8", args{"command": `printf '\377'`}, 0, "\uFFFD", ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				_, r := x.ok(t, "exec", c.args)
				require.EqualValues(t, c.code, r["exitCode"])
				require.Equal(t, c.out, r["stdout"])
				require.Equal(t, c.err, r["stderr"])
			})
		}
		text, _ := x.ok(t, "exec", args{"command": "echo out; echo err >&2; exit 1"})
		require.Regexp(t, `^out\n\[stderr\]\nerr\n\[exit code 1, \d+\.\d\d s\]$`, text)

		_, r := x.ok(t, "exec", args{"command": "echo abc >made"})
		require.EqualValues(t, 1, r["filesChanged"])
		require.EqualValues(t, 4, r["bytesStored"])
		_, r = x.ok(t, "exec", args{"command": "true"})
		require.NotContains(t, r, "filesChanged")

		text, r = x.ok(t, "exec", args{"command": "seq 100000", "maxOutputBytes": 1000})
		require.True(t, strings.HasPrefix(r["stdout"].(string), "1\n2\n3\n"))
		require.True(t, strings.HasSuffix(r["stdout"].(string), "\n99999\n100000\n"))
		require.Contains(t, text, "[587895 of 588895 bytes are not shown here]")
		require.Contains(t, text, `call read_text_file with path="out.txt"`)
		require.EqualValues(t, 588_895, r["stdoutBytes"])
		require.Equal(t, true, r["truncated"])

		text = x.fails(t, mesh.CodeDeadline, "exec", args{"command": "echo begun; exec sleep 60", "timeoutMs": 1000})
		require.Contains(t, text, "killed after 1000 ms")
		require.Contains(t, text, "begun\n")
		require.Contains(t, text, "longer timeoutMs")
		text = x.fails(t, mesh.CodeDeadline, "exec", args{"command": "exec sleep 60", "timeoutMs": 100})
		require.Regexp(t, `(?s)^deadline: the command was killed after 100 ms; [^.]*\. Its output until then:\n\(no output\)\n\[exit code 124, .*\] Give it a longer timeoutMs`, text)
		x.fails(t, mesh.CodeDenied, "exec", args{"command": "true", "cwd": "../.."})
		x.fails(t, mesh.CodeTooLarge, "exec", args{"command": "true", "stdin": strings.Repeat("x", mesh.MaxMessage+1)})
	})
}

// Whatever pieces output comes in, its beginning and its end are kept.
func TestEndsKeepBothEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 50).Draw(t, "limit")
		e := newEnds(limit)
		var all []byte
		for _, piece := range rapid.SliceOfN(rapid.SliceOfN(rapid.ByteRange('a', 'z'), 0, 200), 0, 10).Draw(t, "pieces") {
			all = append(all, piece...)
			n, err := e.Write(piece)
			require.NoError(t, err)
			require.Equal(t, len(piece), n)
		}
		require.EqualValues(t, len(all), e.size)
		got := e.show(false)
		if len(all) <= limit {
			require.Equal(t, string(all), got)
			return
		}
		head := limit * 2 / 5
		require.True(t, bytes.HasPrefix([]byte(got), all[:head]))
		require.True(t, bytes.HasSuffix([]byte(got), all[len(all)-(limit-head):]))
	})
}

func FuzzShown(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[1;31mred\x1b[0m", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "a\r\nb\rc", "\u202e\u200b", "\xff\xfe\x1b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, shown := range []string{shownOutput(b), shownName(string(b))} {
			for _, r := range shown {
				if r != '\n' && r != '\t' && unseen(r) {
					t.Fatalf("%q shows %q", b, r)
				}
			}
		}
		if s := shownOutput(b); shownOutput([]byte(s)) != s {
			t.Fatalf("%q is shown as %q, and that as another text", b, s)
		}
	})
}
