//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A repository of one door, which opens to those who know the word.
var door = map[string]string{
	"go.mod": "module example.com/door\n\ngo 1.26.0\n",
	"door.go": `package door

// Open reports whether the door opens.
func Open(word string) bool {
	return word == "friend"
}
`,
	"door_test.go": `package door

import "testing"

func TestFriend(t *testing.T) {
	if !Open("friend") {
		t.Fatal("a friend stays outside")
	}
}

func TestStranger(t *testing.T) {
	if Open("stranger") {
		t.Fatal("a stranger is inside")
	}
}

func TestAway(t *testing.T) { t.Skip("nobody is there") }

func TestBroken(t *testing.T) { t.Fatal("always") }
`,
}

func header(promise, test string) string {
	return "Promise: " + promise + "\nTest: " + test + "\n\n"
}

func diff(from, to string) string {
	return "diff --git a/door.go b/door.go\n--- a/door.go\n+++ b/door.go\n@@ -4,3 +4,3 @@\n" +
		" func Open(word string) bool {\n-\treturn " + from + "\n+\treturn " + to + "\n }\n"
}

const (
	word      = `word == "friend"`
	stranger  = `. -run 'TestStranger$'`
	closedOut = "strangers stay outside"
)

func TestProve(t *testing.T) {
	cases := map[string]struct {
		patch string
		well  bool
		want  string
	}{
		"caught": {header(closedOut, stranger) + diff(word, `word != ""`), true, "caught"},
		"caught by a panic": {
			header(closedOut, stranger) + diff(word, `word == "friend" || word[99] == 0`), true, "caught",
		},
		"survives":         {header(closedOut, ". -run TestFriend") + diff(word, `word != ""`), false, "the mutant survives"},
		"does not apply":   {header(closedOut, stranger) + diff(`word == "mellon"`, "true"), false, "the patch does not apply"},
		"does not build":   {header(closedOut, stranger) + diff(word, "1"), false, "the patched tree does not build"},
		"test is skipped":  {header(closedOut, ". -run TestAway") + diff(word, "true"), false, "the test is skipped"},
		"test is not run":  {header(closedOut, ". -run TestGone") + diff(word, "true"), false, "no test was run"},
		"test is red":      {header(closedOut, ". -run TestBroken") + diff(word, "true"), false, "without the patch, the test does not pass"},
		"package is gone":  {header(closedOut, "./gone -run TestX") + diff(word, "true"), false, "without the patch, the test does not pass"},
		"nothing to apply": {header(closedOut, stranger), false, "the patch does not apply"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			root := repository(t, map[string]string{"m.patch": c.patch})
			var out bytes.Buffer
			well, err := prove(t.Context(), root, []string{"m"}, &out)
			require.NoError(t, err)
			require.Contains(t, out.String(), c.want)
			require.Equal(t, c.well, well, out.String())

			kept, err := os.ReadFile(filepath.Join(root, "door.go"))
			require.NoError(t, err)
			require.Equal(t, door["door.go"], string(kept), "the working tree was touched")
		})
	}
}

// One survivor makes the whole red, and the others are tried all the same.
func TestProveAll(t *testing.T) {
	root := repository(t, map[string]string{
		"a.patch": header(closedOut, ". -run TestFriend") + diff(word, `word != ""`),
		"b.patch": header(closedOut, stranger) + diff(word, `word != ""`),
	})
	var out bytes.Buffer
	well, err := prove(t.Context(), root, nil, &out)
	require.NoError(t, err)
	require.False(t, well, out.String())
	require.Regexp(t, `(?m)^NOT CAUGHT +a `, out.String())
	require.Regexp(t, `(?m)^caught +b `, out.String())
}

func TestProveRefuses(t *testing.T) {
	var out bytes.Buffer
	_, err := prove(t.Context(), repository(t, nil), nil, &out)
	require.ErrorContains(t, err, "no patches")

	_, err = prove(t.Context(), repository(t, nil), []string{"gone"}, &out)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestParseMutant(t *testing.T) {
	m, err := parseMutant(header("p", "./mesh -run 'TestA$|Test B' -short") + "diff --git a/x b/x\nPromise: no\n")
	require.NoError(t, err)
	require.Equal(t, mutant{promise: "p", test: []string{"./mesh", "-run", "TestA$|Test B", "-short"}}, m)

	bad := map[string]string{
		"no promise":      "Test: ./mesh -run TestA\n",
		"no test":         "Promise: p\n",
		"no -run":         header("p", "./mesh"),
		"open quote":      header("p", "./mesh -run 'TestA"),
		"below the diff":  "diff --git a/x b/x\n" + header("p", stranger),
		"an empty header": diff("a", "b"),
	}
	for name, text := range bad {
		t.Run(name, func(t *testing.T) {
			_, err := parseMutant(text)
			require.Error(t, err)
		})
	}
}

// repository makes a working tree with the door and patches; nothing in it is
// committed.
func repository(t *testing.T, patches map[string]string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, patchDir), 0o755))
	for name, text := range door {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	for name, text := range patches {
		require.NoError(t, os.WriteFile(filepath.Join(root, patchDir, name), []byte(text), 0o644))
	}
	out, err := exec.CommandContext(t.Context(), "git", "init", "-q", root).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return root
}
