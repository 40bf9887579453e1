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

// All are tried in one go: a survivor makes the whole red and keeps no other
// from being tried.
func TestProve(t *testing.T) {
	cases := map[string]struct{ patch, line, detail string }{
		"caught":         {header(closedOut, stranger) + diff(word, `word != ""`), "caught", ""},
		"panics":         {header(closedOut, stranger) + diff(word, word+" || word[99] == 0"), "caught", ""},
		"survives":       {header(closedOut, ". -run TestFriend") + diff(word, `word != ""`), "NOT CAUGHT", "the mutant survives"},
		"does-not-apply": {header(closedOut, stranger) + diff(`word == "mellon"`, "true"), "NOT CAUGHT", "the patch does not apply"},
		"does-not-build": {header(closedOut, stranger) + diff(word, "1"), "NOT CAUGHT", "with the patch, the test does not build"},
		"no-diff":        {header(closedOut, stranger), "NOT CAUGHT", "the patch does not apply"},
		"test-skips":     {header(closedOut, ". -run TestAway") + diff(word, "true"), "NOT CAUGHT", "the test is skipped"},
		"test-not-run":   {header(closedOut, ". -run TestGone") + diff(word, "true"), "NOT CAUGHT", "no test was run"},
		"test-is-red":    {header(closedOut, ". -run TestBroken") + diff(word, "true"), "NOT CAUGHT", "without the patch, the test does not pass"},
		"package-gone":   {header(closedOut, "./gone -run TestX") + diff(word, "true"), "NOT CAUGHT", "without the patch, the test does not build"},
	}
	patches := map[string]string{}
	for name, c := range cases {
		patches[name+".patch"] = c.patch
	}
	root := repository(t, patches)
	var out bytes.Buffer
	well, err := prove(t.Context(), root, nil, &out)
	require.NoError(t, err)
	require.False(t, well, out.String())
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			require.Regexp(t, `(?m)^`+c.line+` +`+name+` .*\n.*`+c.detail, out.String())
		})
	}
	kept, err := os.ReadFile(filepath.Join(root, "door.go"))
	require.NoError(t, err)
	require.Equal(t, door["door.go"], string(kept), "the working tree was touched")
}

func TestProveOne(t *testing.T) {
	root := repository(t, map[string]string{
		"a.patch": header(closedOut, ". -run TestFriend") + diff(word, `word != ""`),
		"b.patch": header(closedOut, stranger) + diff(word, `word != ""`),
	})
	var out bytes.Buffer
	well, err := prove(t.Context(), root, []string{"b"}, &out)
	require.NoError(t, err)
	require.True(t, well, out.String())
	require.Regexp(t, `^caught +b `, out.String())
}

func TestProveRefuses(t *testing.T) {
	var out bytes.Buffer
	_, err := prove(t.Context(), repository(t, nil), nil, &out)
	require.ErrorContains(t, err, "no patches")

	_, err = prove(t.Context(), repository(t, nil), []string{"gone"}, &out)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestParseMutant(t *testing.T) {
	m, err := parseMutant(header("p", "./mesh -run 'TestA$|Test B'") + "diff --git a/x b/x\nPromise: no\n")
	require.NoError(t, err)
	require.Equal(t, mutant{promise: "p", test: witness{"./mesh", "TestA$|Test B"}}, m)

	bad := map[string]string{
		"no promise":      "Test: ./mesh -run TestA\n",
		"no test":         "Promise: p\n",
		"no -run":         header("p", "./mesh"),
		"more":            header("p", "./mesh -run TestA -short"),
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

// Every patch of this repository still applies: a change that moves the lines it
// breaks has to bring it along. Whether its test catches it, make mutants says.
func TestPatchesApply(t *testing.T) {
	mutants, err := readMutants("../..", nil)
	require.NoError(t, err)
	require.NotEmpty(t, mutants)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			git := exec.Command("git", "apply", "--check", m.file)
			git.Dir = "../.."
			out, err := git.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}
