package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// The rows of a table of 154 that a backend for agents was measured by: what its
// users type, and what should come of it. Here are the rows on paths, commands,
// files, and scopes; a subtest is named by the number of its row. Where a row
// wants what wsmesh decides otherwise, the subtest says so at "by design".

// row runs one row as a subtest.
func row(t *testing.T, number int, what string, test func(t *testing.T)) {
	t.Helper()
	t.Run(fmt.Sprintf("%03d %s", number, what), test)
}

// put writes files whose content is their own path.
func put(t *testing.T, ws *client.Workspace, paths ...string) {
	t.Helper()
	for _, p := range paths {
		require.NoError(t, ws.WriteFile(t.Context(), p, []byte(p), 0))
	}
}

// shell runs a line and returns what it printed.
func shell(t *testing.T, ws *client.Workspace, line string) string {
	t.Helper()
	out, err := ws.Command(t.Context(), "sh", "-c", line).Output()
	require.NoError(t, err, "%s", line)
	return string(out)
}

func TestUpstreamPaths(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("w")
		put(t, ws, "file.txt", "a/c.txt", "a/b/c", "~/x")
		for _, r := range []struct {
			number     int
			read, want string
			code       mesh.Code
		}{
			{1, "file.txt", "file.txt", ""},
			{2, "./a/../file.txt", "file.txt", ""},
			{3, "a/b/../c.txt", "a/c.txt", ""},
			{4, "/workspace/file.txt", "file.txt", ""},
			{6, "/etc/passwd", "", mesh.CodeNotFound},
			{7, "/workspace2/file.txt", "", mesh.CodeNotFound},
			{8, "../etc/passwd", "", mesh.CodeDenied},
			{9, "../../../../etc/passwd", "", mesh.CodeDenied},
			{10, "a/../../file.txt", "", mesh.CodeDenied},
			{11, "..", "", mesh.CodeDenied},
			{11, "a/../..", "", mesh.CodeDenied},
			{12, "/../etc/passwd", "", mesh.CodeDenied},
			{13, "~/x", "~/x", ""},
			{14, "", "", mesh.CodeInvalid},
			{15, "a//b///c", "a/b/c", ""},
			{17, "a\x00b", "", mesh.CodeInvalid},
		} {
			row(t, r.number, "read "+strings.ReplaceAll(r.read, "\x00", "NUL"), func(t *testing.T) {
				b, err := ws.ReadFile(t.Context(), r.read)
				requireCode(t, r.code, err)
				require.Equal(t, r.want, string(b))
			})
		}
		row(t, 5, "list /workspace", func(t *testing.T) {
			require.Equal(t, []string{"a", "file.txt", "~"}, names(t, ws, "/workspace"))
		})
		row(t, 14, "list the empty path", func(t *testing.T) {
			require.Equal(t, []string{"a", "file.txt", "~"}, names(t, ws, ""))
		})
		row(t, 16, "root with a trailing slash", func(t *testing.T) {
			for _, scope := range []string{"a/", "/a/", "/workspace/a/"} {
				b, err := ws.Scope(scope).ReadFile(t.Context(), "./b/../c.txt")
				require.NoError(t, err)
				require.Equal(t, "a/c.txt", string(b))
				_, err = ws.Scope(scope).ReadFile(t.Context(), "../file.txt")
				requireCode(t, mesh.CodeDenied, err)
			}
		})
		row(t, 26, "remove . with all below", func(t *testing.T) {
			for _, p := range []string{".", "", "/", "/workspace", "a/.."} {
				requireCode(t, mesh.CodeDenied, ws.RemoveAll(t.Context(), p))
			}
			b, err := ws.ReadFile(t.Context(), "file.txt")
			require.NoError(t, err)
			require.Equal(t, "file.txt", string(b))
		})
	})
}

func names(t *testing.T, ws *client.Workspace, dir string) []string {
	t.Helper()
	var all []string
	for e, err := range ws.ReadDir(t.Context(), dir) {
		require.NoError(t, err)
		all = append(all, string(e.Path))
	}
	return all
}

// Rows 18 and 19: names that a shell, a header or a decoder could take for
// something else, in every verb and as arguments of commands.
func TestUpstreamNames(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		for i, name := range []string{
			"two words", "漢字", "🐙.txt", // 18
			`"`, `'`, "$(touch gone)", "`touch gone`", "new\nline", "; touch gone", "-rf", "*", "\\", "%2F", "\xff\xfe", // 19
		} {
			number := 18
			if i > 2 {
				number = 19
			}
			row(t, number, fmt.Sprintf("%q", name), func(t *testing.T) { everyVerb(t, m, fmt.Sprintf("n%d", i), name) })
		}
	})
}

// everyVerb uses a name in each verb that takes one.
func everyVerb(t *testing.T, m *nodetest.Mesh, workspace, name string) {
	ctx, ws := t.Context(), m.Client.Workspace(workspace)
	at := "d/" + name
	require.NoError(t, ws.Mkdir(ctx, "d", 0o755))
	require.NoError(t, ws.WriteFile(ctx, at, []byte("one\n"), 0))
	require.NoError(t, ws.Chmod(ctx, at, 0o600))
	require.NoError(t, ws.Touch(ctx, at, time.Unix(1, 0)))
	info, err := ws.Stat(ctx, at)
	require.NoError(t, err)
	require.Equal(t, mesh.Path(at), info.Path)
	require.Equal(t, uint32(0o600), info.Mode)
	require.Equal(t, []string{name}, names(t, ws, "d"))
	require.NoError(t, ws.Copy(ctx, at, at+".copy"))
	require.NoError(t, ws.Rename(ctx, at+".copy", at+".moved"))
	require.NoError(t, ws.Symlink(ctx, name, at+".link"))
	target, err := ws.Readlink(ctx, at+".link")
	require.NoError(t, err)
	require.Equal(t, name, target)
	b, err := ws.ReadFile(ctx, at+".link")
	require.NoError(t, err)
	require.Equal(t, "one\n", string(b))

	var archive bytes.Buffer
	require.NoError(t, ws.GetDir(ctx, "d", &archive))
	require.NoError(t, ws.PutDir(ctx, "unpacked/"+name, &archive))
	require.Equal(t, names(t, ws, "d"), names(t, ws, "unpacked/"+name))
	require.Equal(t, []string{at}, grepFiles(t, ws, mesh.GrepRequest{Path: mesh.Path(at), Pattern: "^one$", Mode: mesh.GrepFiles}))
	var found []string
	for e, err := range ws.Search(ctx, mesh.SearchRequest{Path: "d"}) {
		require.NoError(t, err)
		found = append(found, string(e.Path))
	}
	require.Contains(t, found, at)
	scoped, err := ws.Scope(at+".d").Scope("in").ReadFile(ctx, "none")
	requireCode(t, mesh.CodeNotFound, err)
	require.Empty(t, scoped)

	if nodetest.Isolation() != "auto" {
		out, err := ws.Command(ctx, "cat", "--", at).Output()
		require.NoError(t, err)
		require.Equal(t, "one\n", string(out))
		echo := ws.Command(ctx, "printf", "%s", name)
		echo.Dir = "unpacked/" + name
		out, err = echo.Output()
		require.NoError(t, err)
		require.Equal(t, name, string(out))
	}
	require.NoError(t, ws.Remove(ctx, at))
	require.NoError(t, ws.RemoveAll(ctx, "unpacked/"+name))
	_, err = ws.Stat(ctx, "gone")
	requireCode(t, mesh.CodeNotFound, err)
}

func grepFiles(t *testing.T, ws *client.Workspace, req mesh.GrepRequest) []string {
	t.Helper()
	var files []string
	for match, err := range ws.Grep(t.Context(), req) {
		require.NoError(t, err)
		files = append(files, string(match.Path))
	}
	return files
}

func TestUpstreamLinks(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		put(t, ws, "u1/own", "u2/secret")
		row(t, 20, "a link to a file outside is not read", func(t *testing.T) {
			for _, target := range []string{"/etc/passwd", "../../../../../../etc/passwd", "/proc/self/environ"} {
				require.NoError(t, ws.RemoveAll(ctx, "out"))
				require.NoError(t, ws.Symlink(ctx, target, "out"))
				_, err := ws.ReadFile(ctx, "out")
				requireCode(t, mesh.CodeDenied, err)
				requireCode(t, mesh.CodeDenied, ws.Copy(ctx, "out", "copied"))
				requireCode(t, mesh.CodeDenied, ws.Chmod(ctx, "out", 0o777))
				requireCode(t, mesh.CodeDenied, ws.Touch(ctx, "out", time.Time{}))
				_, err = ws.GrepPage(ctx, mesh.GrepRequest{Path: "out", Pattern: "root"})
				requireCode(t, mesh.CodeDenied, err)
			}
		})
		row(t, 21, "a link to a directory outside is not written through", func(t *testing.T) {
			require.NoError(t, ws.Symlink(ctx, "/tmp", "tmp"))
			requireCode(t, mesh.CodeDenied, ws.WriteFile(ctx, "tmp/wsmesh-was-here", nil, 0))
			requireCode(t, mesh.CodeDenied, ws.MkdirAll(ctx, "tmp/wsmesh-was-here", 0o755))
			requireCode(t, mesh.CodeDenied, ws.Rename(ctx, "u1/own", "tmp/wsmesh-was-here"))
		})
		row(t, 22, "a link from a scope into its sibling", func(t *testing.T) {
			for i, target := range []string{"../u2/secret", "/workspace/u2/secret"} {
				name := fmt.Sprintf("u1/sibling%d", i)
				require.NoError(t, ws.Symlink(ctx, target, name))
				b, err := ws.ReadFile(ctx, name)
				require.NoError(t, err, "the whole workspace has both")
				require.Equal(t, "u2/secret", string(b))
				_, err = ws.Scope("u1").ReadFile(ctx, path.Base(name))
				requireCode(t, mesh.CodeDenied, err)
				requireCode(t, mesh.CodeDenied, ws.Scope("u1").WriteFile(ctx, path.Base(name), nil, 0))
				if nodetest.Isolation() != "auto" {
					_, err = ws.Scope("u1").Command(ctx, "cat", path.Base(name)).Output()
					var exit *client.ExitError
					require.ErrorAs(t, err, &exit, "the sandbox of the scope has no sibling")
				}
			}
		})
		row(t, 23, "a link that stays inside", func(t *testing.T) {
			for i, target := range []string{"own", "../u1/own", "/workspace/u1/own"} {
				name := fmt.Sprintf("u1/in%d", i)
				require.NoError(t, ws.Symlink(ctx, target, name))
				b, err := ws.ReadFile(ctx, name)
				require.NoError(t, err)
				require.Equal(t, "u1/own", string(b))
			}
		})
		row(t, 24, "two links to their own directory", func(t *testing.T) {
			put(t, ws, "loop/f")
			require.NoError(t, ws.Symlink(ctx, ".", "loop/a"))
			require.NoError(t, ws.Symlink(ctx, "../loop", "loop/b"))
			var found []string
			for e, err := range ws.Search(ctx, mesh.SearchRequest{Path: "loop"}) {
				require.NoError(t, err)
				found = append(found, string(e.Path))
			}
			require.Equal(t, []string{"loop/a", "loop/b", "loop/f"}, found)
			require.Equal(t, []string{"loop/f"}, grepFiles(t, ws, mesh.GrepRequest{Path: "loop", Pattern: "f"}))
			require.NoError(t, ws.Copy(ctx, "loop", "loop2"))
			require.Equal(t, []string{"a", "b", "f"}, names(t, ws, "loop2"))
			b, err := ws.ReadFile(ctx, "loop/a/b/a/b/f")
			require.NoError(t, err)
			require.Equal(t, "loop/f", string(b))
			require.NoError(t, ws.Symlink(ctx, "self", "self"))
			_, err = ws.ReadFile(ctx, "self")
			requireCode(t, mesh.CodeInvalid, err)
		})
	})
}

// Row 25: a command swaps a directory for a link to the sibling scope, as fast as
// it can, while files are written and read through it.
func TestUpstreamRace(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ws := m.Client.Workspace("w")
		put(t, ws, "u1/real/f", "u2/real/f")
		ctx, stop := context.WithCancel(t.Context())
		swap := ws.Command(ctx, "sh", "-c", "cd u1; while :; do mv real was; ln -s ../u2/real real; rm real; mv was real; done")
		require.NoError(t, swap.Start())
		row(t, 25, "a directory becomes a link during a write", func(t *testing.T) {
			u1 := ws.Scope("u1")
			outcomes := map[mesh.Code]int{}
			for i := range 300 {
				err := u1.WriteFile(t.Context(), "real/f", []byte("own"), 0)
				outcomes[mesh.CodeOf(err)]++
				b, err := u1.ReadFile(t.Context(), "real/f")
				outcomes[mesh.CodeOf(err)]++
				if err == nil {
					require.NotEqual(t, "u2/real/f", string(b), "read %d went to the sibling", i)
				}
			}
			for code := range outcomes {
				require.Contains(t, []mesh.Code{"", mesh.CodeDenied, mesh.CodeNotFound, mesh.CodeBusy}, code)
			}
		})
		stop()
		swap.Wait() //nolint:errcheck // it was ended
		b, err := ws.ReadFile(t.Context(), "u2/real/f")
		require.NoError(t, err)
		require.Equal(t, "u2/real/f", string(b), "a write went to the sibling")
		require.Equal(t, []string{"f"}, names(t, ws, "u2/real"))
	})
}

func TestUpstreamExec(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("w")
		for _, r := range []struct {
			number     int
			line, want string
		}{
			{48, "echo hi", "hi\n"}, // by design: the bytes as they are; who wants them trimmed trims them
			{49, `printf '  a  \n\n'`, "  a  \n\n"},
			{55, `printf '\377\000\200'`, "\xff\x00\x80"},
			{57, "cat", ""},
			{65, `echo ~ "$HOME"; pwd`, "/workspace /workspace\n/workspace\n"},
		} {
			row(t, r.number, r.line, func(t *testing.T) { require.Equal(t, r.want, shell(t, ws, r.line)) })
		}
		row(t, 50, "exit 3 with a word on stderr", func(t *testing.T) {
			_, err := ws.Command(ctx, "sh", "-c", "echo bad >&2; exit 3").Output()
			exit := exitOf(t, err)
			require.Equal(t, 3, exit.Code)
			require.Equal(t, "bad\n", string(exit.Stderr))
			require.ErrorContains(t, err, "3")
		})
		row(t, 51, "exit 3 with output only", func(t *testing.T) {
			out, err := ws.Command(ctx, "sh", "-c", "echo half; exit 3").Output()
			require.Equal(t, 3, exitOf(t, err).Code)
			require.Equal(t, "half\n", string(out))
		})
		row(t, 52, "a word on stderr with exit 0", func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := ws.Command(ctx, "sh", "-c", "echo out; echo warn >&2")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Run())
			require.Equal(t, []string{"out\n", "warn\n"}, []string{stdout.String(), stderr.String()})
		})
		row(t, 53, "killed by a signal", func(t *testing.T) {
			exit := exitOf(t, ws.Command(ctx, "sh", "-c", "kill -TERM $$").Run())
			require.Equal(t, 143, exit.Code)
			require.Empty(t, exit.Limit, "no timeout")
		})
		row(t, 54, "no such shell", func(t *testing.T) {
			_, err := ws.Command(ctx, "/bin/no-such-shell", "-c", "true").Output()
			require.Equal(t, 127, exitOf(t, err).Code)
			require.Contains(t, string(exitOf(t, err).Stderr), "no-such-shell")
		})
		row(t, 56, "a character split over chunks", func(t *testing.T) {
			out := shell(t, ws, "i=0; while [ $i -lt 20000 ]; do printf 漢; i=$((i+1)); done")
			require.Equal(t, strings.Repeat("漢", 20000), out)
		})
		row(t, 58, "a child left in the background", func(t *testing.T) {
			// By design: the end of a command is the end of all it started.
			out := shell(t, ws, "(sleep 2; touch late) & echo done")
			require.Equal(t, "done\n", out)
			idle(t, ws)
			_, err := ws.Stat(ctx, "late")
			requireCode(t, mesh.CodeNotFound, err)
		})
		for number, what := range map[int]string{59: "timeout", 60: "timeout, as a gateway asks for it"} {
			row(t, number, what, func(t *testing.T) {
				cmd := ws.Command(ctx, "sh", "-c", "sleep 4; touch f")
				cmd.Timeout = 200 * time.Millisecond
				exit := exitOf(t, cmd.Run())
				require.Equal(t, 124, exit.Code)
				require.Equal(t, "timeout", exit.Limit)
				idle(t, ws)
				_, err := ws.Stat(ctx, "f")
				requireCode(t, mesh.CodeNotFound, err)
			})
		}
		for number, most := range map[int]int64{61: 100, 62: 20} {
			row(t, number, fmt.Sprintf("at most %d bytes of output", most), func(t *testing.T) {
				// By design: MaxOutput ends the command; what it had written up to
				// there is whole, and no note is mixed into it.
				cmd := ws.Command(ctx, "sh", "-c", "seq 1000; sleep 60")
				var out bytes.Buffer
				cmd.Stdout, cmd.MaxOutput = &out, most
				exit := exitOf(t, cmd.Run())
				require.Equal(t, "output", exit.Limit)
				require.Equal(t, shell(t, ws, "seq 1000")[:most], out.String())
				require.GreaterOrEqual(t, int64(exit.Final.Output), most)
			})
		}
		row(t, 63, "20 MB of output", func(t *testing.T) {
			var n counter
			cmd := ws.Command(ctx, "head", "-c", "20000000", "/dev/zero")
			cmd.Stdout = &n
			require.NoError(t, cmd.Run())
			require.Equal(t, counter(20000000), n)
		})
		row(t, 64, "a working directory outside", func(t *testing.T) {
			for dir, code := range map[string]mesh.Code{"..": mesh.CodeDenied, "../../etc": mesh.CodeDenied, "/etc": mesh.CodeNotFound, "/workspace/../etc": mesh.CodeDenied} {
				cmd := ws.Command(ctx, "pwd")
				cmd.Dir = dir
				requireCode(t, code, cmd.Run())
			}
		})
		row(t, 73, "16 and 64 at once", func(t *testing.T) {
			for _, n := range []int{16, 64} {
				var wg sync.WaitGroup
				outs := make([]string, n)
				errs := make([]error, n)
				for i := range n {
					wg.Go(func() {
						out, err := ws.Command(ctx, "echo", fmt.Sprint(i)).Output()
						outs[i], errs[i] = string(out), err
					})
				}
				wg.Wait()
				for i := range n {
					require.NoError(t, errs[i])
					require.Equal(t, fmt.Sprintln(i), outs[i])
				}
			}
		})
	})
}

func exitOf(t *testing.T, err error) *client.ExitError {
	t.Helper()
	var exit *client.ExitError
	require.ErrorAs(t, err, &exit)
	return exit
}

// idle waits until no command runs in the workspace.
func idle(t *testing.T, ws *client.Workspace) {
	t.Helper()
	require.Eventually(t, func() bool {
		info, err := ws.Info(t.Context())
		return err == nil && info.Execs == 0
	}, 20*time.Second, 5*time.Millisecond)
}

// Row 54: without bubblewrap a command is refused, by name, and files go on.
func TestUpstreamNoSandbox(t *testing.T) {
	servers := meshtest.Server(t)
	t.Setenv("PATH", t.TempDir())
	m := nodetest.Start(t, servers, nodetest.Config{Isolation: "auto"})
	row(t, 54, "no sandbox", func(t *testing.T) {
		ws := m.Client.Workspace("w")
		put(t, ws, "f")
		requireCode(t, mesh.CodeUnsupported, ws.Command(t.Context(), "true").Run())
		require.Equal(t, []string{"f"}, names(t, ws, ""))
	})
}

func TestUpstreamEnv(t *testing.T) {
	t.Setenv("WSMESH_TEST_SECRET", "of the daemon")
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("w")
		run := func(ws *client.Workspace, line string, env ...string) (string, error) {
			cmd := ws.Command(ctx, "sh", "-c", line)
			cmd.Env = env
			out, err := cmd.Output()
			return string(out), err
		}
		for _, r := range []struct {
			number     int
			what       string
			ws         *client.Workspace
			env        []string
			line, want string
		}{
			{66, "of the command", ws, []string{"FOO=bar"}, `echo "[$FOO]"`, "[bar]\n"},
			{67, "of the scope", ws.Scope("s", client.Env{"FOO": "bar"}), nil, `echo "[$FOO]"`, "[bar]\n"},
			// By design: the environment is the caller's, and the walls do not depend on it.
			{68, "LD_PRELOAD", ws, []string{"LD_PRELOAD=/nowhere.so"}, `echo "$LD_PRELOAD" 2>/dev/null`, "/nowhere.so\n"},
			{68, "BASH_ENV", ws, []string{"BASH_ENV=x"}, `echo "$BASH_ENV"`, "x\n"},
			{69, "line break and semicolon", ws, []string{"FOO=a\nb;c"}, `echo "$FOO"`, "a\nb;c\n"},
			{71, "taken away from the scope's", ws.Scope("s", client.Env{"FOO": "bar"}), []string{"FOO"}, `echo "${FOO-none}"`, "none\n"},
			{71, "taken away from the defaults", ws, []string{"LANG"}, `echo "${LANG-none}"`, "none\n"},
			{72, "the daemon's", ws, nil, `env; cat /proc/1/environ /proc/self/environ | tr '\0' '\n' | grep -c SECRET`, ""},
			{104, "nested", ws.Scope("s", client.Env{"A": "1", "B": "1"}).Scope("t", client.Env{"B": "2"}), []string{"C=3"}, `echo $A $B $C`, "1 2 3\n"},
			{104, "the command's wins", ws.Scope("s", client.Env{"A": "1"}), []string{"A=2"}, `echo $A`, "2\n"},
		} {
			row(t, r.number, r.what, func(t *testing.T) {
				out, err := run(r.ws, r.line, r.env...)
				if r.number == 72 {
					require.Equal(t, 1, exitOf(t, err).Code, "grep found the secret")
					require.NotContains(t, out, "SECRET")
					return
				}
				require.NoError(t, err)
				require.Equal(t, r.want, out)
			})
		}
		for number, env := range map[int]string{69: "FOO=a\x00b", 70: "X=1 touch gone; Y"} {
			row(t, number, fmt.Sprintf("refused: %q", env), func(t *testing.T) {
				if number == 70 {
					env = "X touch gone; Y=1"
				}
				_, err := run(ws, "true", env)
				requireCode(t, mesh.CodeInvalid, err)
				_, err = ws.Stat(ctx, "gone")
				requireCode(t, mesh.CodeNotFound, err)
			})
		}
	})
}

// Rows 74 to 76: what a command can do in its sandbox, and what it cannot see.
func TestUpstreamSandbox(t *testing.T) {
	nodetest.LocalWith(t, nodetest.Config{Net: "full"}, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		_, err := exec.LookPath("git")
		nodetest.Need(t, err == nil, "git", "git is missing")
		_, err = exec.LookPath("python3")
		nodetest.Need(t, err == nil, "python3", "Python is missing")
		sandboxRows(t, m)
	})
}

func sandboxRows(t *testing.T, m *nodetest.Mesh) {
	ctx, ws := t.Context(), m.Client.Workspace("w")
	m.CreateTenant(t, "other")
	put(t, m.Connect(t, m.Token(t, "other")).Workspace("w"), "secret-of-other")
	row(t, 74, "pwd, write, read back", func(t *testing.T) {
		require.Equal(t, "/workspace\nx\n", shell(t, ws, "pwd; echo x > made; cat made"))
		b, err := ws.ReadFile(ctx, "made")
		require.NoError(t, err)
		require.Equal(t, "x\n", string(b))
	})
	row(t, 74, "git", func(t *testing.T) {
		out := shell(t, ws, "git init -q r && cd r && git config user.email a@b && git config user.name a && echo 1 > f && git add f && git commit -qm one && git log --format=%s")
		require.Equal(t, "one\n", out)
	})
	row(t, 74, "names and TLS", func(t *testing.T) {
		cmd := ws.Command(ctx, "python3", "-c", "import socket, ssl; print(socket.gethostbyname('localhost')); print(len(ssl.create_default_context().get_ca_certs()) >= 0)")
		cmd.Net = "full"
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1\nTrue\n", string(out))
	})
	row(t, 75, "other tenants, the host's homes and processes", func(t *testing.T) {
		out := shell(t, ws, "ls /; ls /home /root 2>&1; ls -d /proc/[0-9]* | wc -l; find / -name 'secret-of-*' 2>/dev/null | head -3")
		require.NotContains(t, out, "secret-of-other")
		require.NotContains(t, out, m.Dir)
		require.Less(t, strings.Count(shell(t, ws, "ls -d /proc/[0-9]*"), "\n"), 10, "only its own processes")
	})
	row(t, 76, "no network", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		dial := fmt.Sprintf("import socket; socket.create_connection(('127.0.0.1', %d), 5); print('reached')", l.Addr().(*net.TCPAddr).Port)
		_, err = ws.Command(ctx, "python3", "-c", dial).Output()
		require.Contains(t, string(exitOf(t, err).Stderr), "refused")
		granted := ws.Command(ctx, "python3", "-c", dial)
		granted.Net = "full"
		out, err := granted.Output()
		require.NoError(t, err)
		require.Equal(t, "reached\n", string(out))
	})
	row(t, 76, "processes", func(t *testing.T) {
		cmd := ws.Command(ctx, "sh", "-c", "for i in $(seq 600); do sleep 60 & done; exit 0")
		cmd.Run() //nolint:errcheck // the shell may give up or not
		require.NotNil(t, cmd.Final())
		require.Equal(t, "pids", cmd.Final().Limit)
		require.Equal(t, "alive\n", shell(t, ws, "echo alive"))
	})
	row(t, 76, "memory", func(t *testing.T) {
		cmd := ws.Command(ctx, "python3", "-c", "b = bytearray(3 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1")
		var exit *client.ExitError
		require.ErrorAs(t, cmd.Run(), &exit)
		require.Equal(t, "memory", exit.Limit)
		require.Equal(t, 137, exit.Code)
	})
}

func TestUpstreamFiles(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		for _, r := range []struct {
			number        int
			path, content string
		}{
			{77, "utf8", "grüße, 漢字\n"},
			{78, "bytes", "\x00\xff\x80\n"},
			{79, "a/b/c.txt", "deep"},
			{92, "ten MiB", string(randomBytes(10 << 20))},
		} {
			row(t, r.number, "write and read "+r.path, func(t *testing.T) {
				require.NoError(t, ws.WriteFile(ctx, r.path, []byte(r.content), 0))
				b, err := ws.ReadFile(ctx, r.path)
				require.NoError(t, err)
				require.True(t, r.content == string(b), "other bytes came back")
			})
		}
		put(t, ws, "f", "dir/f")
		for _, r := range []struct {
			number int
			what   string
			err    error
			code   mesh.Code
		}{
			{80, "read what is missing", second(ws.ReadFile(ctx, "none")), mesh.CodeNotFound},
			{83, "rename what is missing", ws.Rename(ctx, "none", "other"), mesh.CodeNotFound},
			{84, "remove what is missing", ws.Remove(ctx, "none"), mesh.CodeNotFound},
			{84, "remove what is missing, by force", ws.RemoveAll(ctx, "none"), ""},
			{85, "remove a directory", ws.Remove(ctx, "dir"), mesh.CodeInvalid},
			{86, "list what is missing", firstError(ws.ReadDir(ctx, "none")), mesh.CodeNotFound},
			{88, "mkdir without its parent", ws.Mkdir(ctx, "no/such/parent", 0o755), mesh.CodeNotFound},
			{88, "mkdir with parents", ws.MkdirAll(ctx, "made/with/parents", 0o755), ""},
			{88, "mkdir of what exists", ws.Mkdir(ctx, "made", 0o755), mesh.CodeExists},
			{88, "mkdir with parents of what exists", ws.MkdirAll(ctx, "made", 0o755), ""},
			{90, "a file exists", second(ws.Stat(ctx, "f")), ""},
			{90, "a directory exists", second(ws.Stat(ctx, "dir")), ""},
			{90, "nothing exists", second(ws.Stat(ctx, "none")), mesh.CodeNotFound},
		} {
			row(t, r.number, r.what, func(t *testing.T) { requireCode(t, r.code, r.err) })
		}
		row(t, 81, "a reader sees the old content or the new", func(t *testing.T) { replaceUnderReaders(t, ws) })
		row(t, 82, "rename into a new directory", func(t *testing.T) {
			put(t, ws, "moves")
			require.NoError(t, ws.Rename(ctx, "moves", "new/dir/moved"))
			b, err := ws.ReadFile(ctx, "new/dir/moved")
			require.NoError(t, err)
			require.Equal(t, "moves", string(b))
		})
		row(t, 87, "list with entries that lead nowhere", func(t *testing.T) {
			require.NoError(t, ws.Symlink(ctx, "nowhere", "odd/dangling"))
			require.NoError(t, ws.Symlink(ctx, "/etc", "odd/outside"))
			put(t, ws, "odd/f")
			require.Equal(t, []string{"dangling", "f", "outside"}, names(t, ws, "odd"))
		})
		row(t, 89, "touch keeps the content", func(t *testing.T) {
			require.NoError(t, ws.Touch(ctx, "f", time.Unix(1_000_000_000, 5)))
			info, err := ws.Stat(ctx, "f")
			require.NoError(t, err)
			require.Equal(t, int64(1_000_000_000_000_000_005), info.ModTime.UnixNano())
			b, err := ws.ReadFile(ctx, "f")
			require.NoError(t, err)
			require.Equal(t, "f", string(b))
			require.NoError(t, ws.Touch(ctx, "touched/new", time.Time{}))
			info, err = ws.Stat(ctx, "touched/new")
			require.NoError(t, err)
			require.Zero(t, info.Size)
			require.WithinDuration(t, time.Now(), info.ModTime, time.Minute)
		})
		row(t, 91, "stat", func(t *testing.T) {
			info, err := ws.Stat(ctx, "dir/f")
			require.NoError(t, err)
			require.Equal(t, []any{"file", int64(5)}, []any{info.Type, info.Size})
			info, err = ws.Stat(ctx, "dir")
			require.NoError(t, err)
			require.Equal(t, "dir", info.Type)
		})
		row(t, 93, "list a thousand", func(t *testing.T) {
			var want []string
			for i := range 1000 {
				want = append(want, fmt.Sprintf("f%04d", i))
			}
			var wg sync.WaitGroup
			for some := range slices.Chunk(want, 125) {
				wg.Go(func() {
					for _, name := range some {
						if err := ws.WriteFile(ctx, "many/"+name, nil, 0); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			require.Equal(t, want, names(t, ws, "many"))
		})
	})
}

func second[T any](_ T, err error) error { return err }

func firstError[T any](all func(func(T, error) bool)) (err error) {
	all(func(_ T, e error) bool { err = e; return e == nil })
	return err
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// replaceUnderReaders writes one file over and over, in one message and in
// parts, while others read it.
func replaceUnderReaders(t *testing.T, ws *client.Workspace) {
	ctx, stop := context.WithCancel(t.Context())
	contents := [][]byte{bytes.Repeat([]byte("a"), 400<<10), bytes.Repeat([]byte("b"), 300<<10), bytes.Repeat([]byte("c"), 700<<10)}
	require.NoError(t, ws.WriteFile(ctx, "replaced", contents[0], 0))
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	wg.Go(func() {
		defer stop()
		for i := 0; i < 60 && ctx.Err() == nil; i++ {
			if err := ws.WriteFile(t.Context(), "replaced", contents[i%3], 0); err != nil {
				t.Error(err)
			}
		}
	})
	whole := 0
	for ctx.Err() == nil {
		b, err := ws.ReadFile(t.Context(), "replaced")
		if errors.Is(err, &mesh.Error{Code: mesh.CodeConflict}) {
			continue // replaced between two ranges, and said so
		}
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(contents, func(c []byte) bool { return bytes.Equal(b, c) }), "%d bytes that are no version of the file", len(b))
		whole++
	}
	wg.Wait()
	require.Positive(t, whole)
}

func TestUpstreamScopes(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		read := func(ws *client.Workspace, path string) (string, error) {
			b, err := ws.ReadFile(ctx, path)
			return string(b), err
		}
		require.NoError(t, ws.Scope("users/u1").WriteFile(ctx, "f", []byte("one"), 0))
		require.NoError(t, ws.Scope("users/u2").WriteFile(ctx, "f", []byte("two"), 0))
		require.NoError(t, ws.Scope("a").Scope("b").Scope("c").WriteFile(ctx, "f", []byte("nested"), 0))
		require.NoError(t, ws.Scope("/etc").WriteFile(ctx, "f", []byte("etc"), 0))
		for _, r := range []struct {
			number     int
			what       string
			ws         *client.Workspace
			path, want string
			code       mesh.Code
		}{
			{94, "a file of a scope", ws, "users/u1/f", "one", ""},
			{95, "a scope outside", ws.Scope("../x"), "f", "", mesh.CodeDenied},
			{96, "an absolute scope", ws, "etc/f", "etc", ""},
			{97, "three scopes", ws, "a/b/c/f", "nested", ""},
			{98, "a nested scope that leaves the outer one", ws.Scope("a").Scope("../users"), "u1/f", "", mesh.CodeDenied},
			{98, "and comes back", ws.Scope("a").Scope("../a"), "b/c/f", "", mesh.CodeDenied},
			{99, "up from a scope", ws.Scope("users/u1"), "../u2/f", "", mesh.CodeDenied},
			{100, "the scope's own absolute path", ws.Scope("users/u1"), "/workspace/users/u1/f", "one", ""},
			{101, "a sibling's absolute path", ws.Scope("users/u1"), "/users/u2/f", "", mesh.CodeNotFound},
			{101, "a sibling's path in the workspace", ws.Scope("users/u1"), "/workspace/users/u2/f", "", mesh.CodeDenied},
			{102, "two scopes, one name", ws.Scope("users/u2"), "f", "two", ""},
		} {
			row(t, r.number, r.what, func(t *testing.T) {
				got, err := read(r.ws, r.path)
				requireCode(t, r.code, err)
				require.Equal(t, r.want, got)
			})
		}
		if nodetest.Isolation() != "auto" {
			row(t, 103, "a command of a scope reads its sibling", func(t *testing.T) {
				for _, path := range []string{"../u2/f", "/workspace/users/u2/f"} {
					_, err := ws.Scope("users/u1").Command(ctx, "cat", path).Output()
					require.Contains(t, string(exitOf(t, err).Stderr), "No such file")
				}
				require.Equal(t, "/workspace/users/u1\n", shell(t, ws.Scope("users/u1"), "pwd"))
			})
		}
		row(t, 105, "scopes that are open", func(t *testing.T) {
			// By design: a scope is a handle without state. There is nothing to list,
			// and nothing to destroy.
			before, err := ws.Info(ctx)
			require.NoError(t, err)
			for range 1000 {
				ws.Scope("users/u1").Scope("deeper")
			}
			after, err := ws.Info(ctx)
			require.NoError(t, err)
			before.Execs, after.Execs = 0, 0 // a command before may be on its way out
			require.Equal(t, before, after)
		})
		c := m.Connect(t, m.Token(t, nodetest.Tenant))
		scope := c.Workspace("w").Scope("users").Scope("u1")
		row(t, 106, "a scope lives as its client", func(t *testing.T) {
			got, err := read(scope, "f")
			require.NoError(t, err)
			require.Equal(t, "one", got)
		})
		row(t, 107, "and ends with it", func(t *testing.T) {
			// By design: what is to be closed is the client; its handles end with it.
			require.NoError(t, c.Close())
			_, err := read(scope, "f")
			requireCode(t, mesh.CodeUnavailable, err)
			require.NotErrorIs(t, err, fs.ErrNotExist)
		})
	})
}
