package main

import (
	"errors"
	"fmt"
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
)

// patience bounds every wait of the scripts.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wsmesh": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // a second for each command otherwise
			e.Setenv("WSMESH_DATA", filepath.Join(e.WorkDir, "d"))
			for _, name := range []string{"WSMESH_URL", "WSMESH_TOKEN", "WSMESH_WORKSPACE"} {
				e.Setenv(name, "")
			}
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"waitready":  waitReady,
			"eventually": eventually,
			"exits":      exits,
			"terminate":  terminate,
			"shorten":    shorten,
			"inherit":    inherit,
			"address":    address,
			"bigfile":    bigFile,
		},
	})
}

// condition answers [bwrap]. Where it is required, doing without is an error.
func condition(name string) (bool, error) {
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
