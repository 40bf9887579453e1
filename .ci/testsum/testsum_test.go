package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each case is a module of its own, run by the real go test.
func TestRun(t *testing.T) {
	const pass = "func TestPass(t *testing.T) { t.Log(\"chatter\") }\n"
	const skipped = "func TestAway(t *testing.T) { t.Skip(\"no moon tonight\") }\n"
	cases := map[string]struct {
		body  string
		skips string
		well  bool
		last  string
		want  []string // parts of the output, in order
		not   string
	}{
		"all pass": {
			body: pass, well: true, last: "1 passed, 0 failed, 0 skipped",
			want: []string{"ok  \tgithub.com/wsmesh/wsmesh"}, not: "chatter",
		},
		"a listed skip": {
			body: pass + skipped, skips: ". TestAway always the moon is not ours\n", well: true,
			last: "1 passed, 0 failed, 1 skipped",
			want: []string{"skipped: github.com/wsmesh/wsmesh TestAway: x_test.go:", "no moon tonight"},
		},
		"a skip that is not listed": {
			body: pass + skipped, skips: "./other TestAway always elsewhere\n",
			last: "1 passed, 0 failed, 1 skipped",
			want: []string{"skipped, but the list of skips does not allow it: github.com/wsmesh/wsmesh TestAway"},
		},
		"a skip listed for other machines": {
			body: pass + skipped, skips: ". TestAway never the condition does not hold\n",
			last: "1 passed, 0 failed, 1 skipped",
		},
		"a skipped subtest goes by its whole name": {
			body:  "func TestX(t *testing.T) { t.Run(\"in it\", func(t *testing.T) { t.Skip(\"no\") }) }\n",
			skips: ". TestX/in_it always no\n", well: true, last: "1 passed, 0 failed, 1 skipped",
		},
		"a failure shows all it said, and only that": {
			body: pass + `func TestX(t *testing.T) {
				t.Run("good", func(t *testing.T) { t.Log("praise") })
				t.Run("bad", func(t *testing.T) { t.Log("before"); t.Error("broken") })
			}`,
			last: "2 passed, 2 failed, 0 skipped",
			want: []string{"--- FAIL: TestX", "before", "broken", "--- FAIL: TestX/bad", "FAIL\tgithub.com"},
			not:  "praise",
		},
		"a panic counts the test it ended": {
			body: pass + `func TestX(t *testing.T) { t.Log("before"); panic("boom") }`,
			want: []string{"panic: boom", "FAIL\tgithub.com"},
		},
		"an exit counts the test it ended": {
			body: `func TestX(t *testing.T) { println("last words"); os.Exit(3) }`,
			last: "0 passed, 1 failed, 0 skipped",
			want: []string{"last words", "FAIL\tgithub.com"},
		},
		"a package fails with no test to blame": {
			body: pass + `func TestMain(m *testing.M) { m.Run(); os.Exit(1) }`,
			last: "1 passed, 1 failed, 0 skipped",
		},
		"a package that does not build": {
			body: "func TestX(t *testing.T) { return 1 }", last: "0 passed, 1 failed, 0 skipped",
			want: []string{"too many return values", "[build failed]"},
		},
		"no test at all": {body: "", last: "0 passed, 0 failed, 0 skipped", want: []string{"no test was run"}},
	}
	conditions["never"] = func() bool { return false }
	t.Cleanup(func() { delete(conditions, "never") })
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "go.mod", "module github.com/wsmesh/wsmesh\n\ngo 1.26.0\n")
			write(t, dir, "x_test.go", "package x\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nvar _ = os.Args\n\nvar _ testing.TB\n\n"+c.body)
			list := write(t, dir, "skips.txt", "# reasons\n\n"+c.skips)
			t.Chdir(dir)

			var out bytes.Buffer
			well, err := run(list, []string{"go", "test", "-json", "-count=1", "."}, &out)
			require.NoError(t, err)
			require.Equal(t, c.well, well, out.String())
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			if c.last != "" {
				require.Equal(t, c.last, lines[len(lines)-1], out.String())
			}
			rest := out.String()
			for _, w := range c.want {
				_, after, found := strings.Cut(rest, w)
				require.True(t, found, "%q is not in, or not in this order:\n%s", w, out.String())
				rest = after
			}
			if c.not != "" {
				require.NotContains(t, out.String(), c.not)
			}
		})
	}
}

func TestReadSkipsRefuses(t *testing.T) {
	cases := map[string]string{
		"no reason":         ". TestX always\n",
		"unknown condition": ". TestX full-moon it howls\n",
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := readSkips(write(t, t.TempDir(), "skips.txt", text))
			require.ErrorContains(t, err, "skips.txt:1: ")
		})
	}
	_, err := readSkips(filepath.Join(t.TempDir(), "gone.txt"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	name = filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	return name
}
