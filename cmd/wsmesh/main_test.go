package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// patience bounds every wait of the scripts.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wsmesh": main})
}

// onCluster are the scripts that a cluster of three servers can tell from one:
// commands with their logs, memory, and what status and doctor say of servers.
var onCluster = []string{"doctor", "exec", "mem", "status"}

// TestScripts runs every script against `wsmesh dev`, and some of those that say
// `mesh` against a node on a cluster of three servers as well: in the long run
// all.
func TestScripts(t *testing.T) {
	all, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	var onAny []string
	for _, file := range all {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		if strings.Contains("\n"+string(text), "\nmesh\n") && (meshtest.Long() || slices.Contains(onCluster, name)) {
			onAny = append(onAny, file)
		}
	}
	require.NotEmpty(t, onAny)
	commands := commands(t)
	t.Run("one server", func(t *testing.T) { runScripts(t, all, commands, startDev) })
	t.Run("cluster", func(t *testing.T) { runScripts(t, onAny, commands, startCluster) })
}

// commands is a directory with a program that was built without the race detector: to
// start it takes a fraction of the time, and scripts have many commands that do one
// thing each. What serves them (WSMESH) is this test's program; in the long run
// everything is.
func commands(t *testing.T) (dir string) {
	if meshtest.Long() {
		return ""
	}
	dir = t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "wsmesh"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return dir
}

// runScripts runs scripts, whose command `mesh` is start, with the programs in a
// directory before all others.
func runScripts(t *testing.T, files []string, commands string, start func(ts *testscript.TestScript, neg bool, args []string)) {
	testscript.RunT(scriptT{t}, testscript.Params{
		Files: files,
		Setup: func(e *testscript.Env) error {
			e.Values[scriptT{}] = e.T().(scriptT).T
			e.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // a second for each command otherwise
			e.Setenv("WSMESH", program(e.Getenv("PATH")))
			if commands != "" {
				e.Setenv("PATH", commands+string(filepath.ListSeparator)+e.Getenv("PATH"))
			}
			e.Setenv("WSMESH_DATA", filepath.Join(e.WorkDir, "d"))
			for _, name := range []string{"WSMESH_URL", "WSMESH_TOKEN", "WSMESH_WORKSPACE"} {
				e.Setenv(name, "")
			}
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"mesh":       start,
			"waitready":  waitReady,
			"eventually": eventually,
			"exits":      exits,
			"terminate":  terminate,
			"shorten":    shorten,
			"tokenid":    tokenID,
			"inherit":    inherit,
			"address":    address,
			"freeport":   freePort,
			"url":        urlOf,
			"bigfile":    bigFile,
			"mode":       mode,
			"chown":      chown,
		},
	})
}

// program is where testscript put the program under test.
func program(path string) string {
	for _, dir := range filepath.SplitList(path) {
		if at := filepath.Join(dir, "wsmesh"); exists(at) {
			return at
		}
	}
	return ""
}

// scriptT is a test as testscript wants it. Unlike testscript's own it gives the
// commands the *testing.T of their script, whose end ends what they started.
type scriptT struct{ *testing.T }

func (t scriptT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(scriptT{t}) })
}

func (t scriptT) Verbose() bool { return testing.Verbose() }

// condition answers [root] and [bwrap]. Where that is required, doing without is an
// error.
func condition(name string) (bool, error) {
	if name == "root" {
		return os.Geteuid() == 0, nil
	}
	if name != "bwrap" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	err := exec.Command("bwrap", "--ro-bind", "/", "/", "--unshare-all", "true").Run()
	if err != nil && slices.Contains(strings.Split(os.Getenv("WSMESH_REQUIRE"), ","), "bwrap") {
		return false, fmt.Errorf("bubblewrap is required and does not work: %w", err)
	}
	return err == nil, nil
}

// poll calls done until it is true.
func poll(ts *testscript.TestScript, what string, done func() bool) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-limit.C:
			ts.Fatalf("%s: not within %s", what, patience)
		case <-tick.C:
		}
	}
}

// waitReady waits until `wsmesh status` succeeds. A dev that has ended will
// never be ready; its own output says why.
func waitReady(ts *testscript.TestScript, _ bool, _ []string) {
	poll(ts, "waitready", func() bool {
		for _, c := range ts.BackgroundCmds() {
			if c.ProcessState != nil {
				ts.Fatalf("dev has ended: %s%s", c.Stdout, c.Stderr)
			}
		}
		return ts.Exec("wsmesh", "status") == nil
	})
}

// startDev runs `wsmesh dev` until the script ends, and judges its end.
func startDev(ts *testscript.TestScript, _ bool, _ []string) {
	var out bytes.Buffer
	cmd := exec.Command(ts.Getenv("WSMESH"), "dev", "--data", ts.Getenv("WSMESH_DATA"), "--nats", "127.0.0.1:0", "--http", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = &out, &out
	for _, name := range []string{"PATH", "HOME", "GORACE", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	running := true
	ts.Defer(func() {
		if running {
			cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
			if err := <-ended; err != nil {
				ts.Logf("dev: %s\n%s", err, out.String())
				ts.Value(scriptT{}).(*testing.T).Fail()
			}
		}
	})
	poll(ts, "mesh", func() bool {
		select {
		case err := <-ended:
			running = false
			ts.Fatalf("dev has ended: %v\n%s", err, out.String())
		default:
		}
		return ts.Exec("wsmesh", "status") == nil
	})
}

// startCluster runs a node on three servers and leaves in the data directory what
// dev leaves there: client.json of a tenant dev, admin.creds and the keys.
func startCluster(ts *testscript.TestScript, _ bool, _ []string) {
	t := ts.Value(scriptT{}).(*testing.T)
	dir := ts.Getenv("WSMESH_DATA")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	m := nodetest.Start(t, meshtest.Cluster(t, 3), nodetest.Config{Dir: dir})
	m.CreateTenant(t, defaultTenant)
	var issued mesh.TokenIssueReply
	require.NoError(t, m.Ask(t, mesh.VerbAdminTokenIssue, mesh.TokenIssueRequest{Tenant: defaultTenant}, &issued))
	file, err := json.Marshal(client.File{URL: m.URL(), Token: issued.Token})
	require.NoError(t, err)
	admin, err := m.Keys.Signer().Admin()
	require.NoError(t, err)
	creds, err := admin.Encode()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "client.json"), file, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "admin.creds"), creds, 0o600))
	require.NoError(t, os.Symlink(m.KeysDir, filepath.Join(dir, "keys")))
	poll(ts, "mesh", func() bool { return ts.Exec("wsmesh", "status") == nil })
}

// urlOf NAME FILE sets a variable to the URL of a client.json.
func urlOf(ts *testscript.TestScript, _ bool, args []string) {
	cfg, err := client.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Setenv(args[0], cfg.URL)
}

// mode WANT FILE checks the permission bits of a local file.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// chown ID DIR gives a local directory, with what is in it, to a user and group.
func chown(ts *testscript.TestScript, _ bool, args []string) {
	id, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, id, id))
	}))
}

// eventually repeats a command until it succeeds, with ! until it fails.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	poll(ts, strings.Join(args, " "), func() bool { return (ts.Exec(args[0], args[1:]...) == nil) != neg })
}

// exits CODE CMD ARG… checks the exit code of a command.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// terminate SIGNAL [NAME] sends it to the background command of that name, or
// to the first; `wait` judges the end.
func terminate(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL}
	cmds := ts.BackgroundCmds()
	c := cmds[0]
	if len(args) > 1 && args[1] != "dev" {
		c = cmds[len(cmds)-1] // started after dev
	}
	ts.Check(c.Process.Signal(signals[args[0]]))
}

// address NAME FILE sets a variable to HOST:PORT of a client.json.
func address(ts *testscript.TestScript, _ bool, args []string) {
	cfg, err := client.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Setenv(args[0], strings.TrimPrefix(cfg.URL, "nats://"))
}

// freePort NAME sets a variable to a port that nobody has, nor the one for servers.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if port+clusterPorts < 65536 {
			ts.Setenv(args[0], strconv.Itoa(port))
			return
		}
	}
	ts.Fatalf("no free port")
}

// shorten FILE N keeps the first N bytes.
func shorten(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// inherit NAME FILE sets a variable to the content of a file.
func inherit(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// tokenID NAME FILE sets a variable to the id of the token in a file.
func tokenID(ts *testscript.TestScript, _ bool, args []string) {
	token, err := mesh.ParseToken(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Setenv(args[0], string(token.ID))
}

// bigFile FILE N writes N bytes that do not repeat every block.
func bigFile(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, 0, n+20)
	for i := 0; len(b) < n; i++ {
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, '\n')
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b[:n], 0o644))
}

func TestShellQuote(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"plain":       {"/usr/bin/wsmesh-2", "/usr/bin/wsmesh-2"},
		"empty":       {"", "''"},
		"space":       {"a b", "'a b'"},
		"quote":       {"it's", `'it'\''s'`},
		"dollar":      {"$HOME", "'$HOME'"},
		"tilde":       {"~x", "'~x'"},
		"line break":  {"a\nb", "'a\nb'"},
		"other bytes": {"a\xffb", "'a\xffb'"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, shellQuote(c.in))
			out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(c.in)).Output()
			require.NoError(t, err)
			require.Equal(t, c.in, string(out))
		})
	}
}
