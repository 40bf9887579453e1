package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

// defaultGrace is what most commands of an agent need to end by themselves, and
// not longer than a person waits after Ctrl-C.
const defaultGrace = 30 * time.Second

type devFlags struct {
	data, http, nats              string
	isolation, capture, net, sync string
	mirror                        mirrorFlags
	origins, netExcept            []string
	grace                         time.Duration
	logFormat, logLevel           string
}

func newDev() *cobra.Command {
	var d devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole mesh on this machine, in the foreground",
		Long: "Run a whole mesh on this machine, in the foreground: a NATS server, a node and an MCP gateway. It is ready\n" +
			"when `wsmesh status` succeeds. Ctrl-C and SIGTERM let commands finish within --grace; a second Ctrl-C stops at\n" +
			"once. Each flag can also be given as WSMESH_<FLAG>.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("data") && d.data == "" { // in the environment that is as good as none
				return wrongUse(cmd, "--data is empty; leave it out for the default directory")
			}
			names := []string{"data", "http", "origin", "nats", "isolation", "capture", "net", "net-except", "sync", "grace", "log-format", "log-level"}
			if err := flagsFromEnv(cmd, append(names, mirrorNames...)...); err != nil {
				return err
			}
			return d.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.data, "data", "", "data directory `DIR` (default ~/.local/share/wsmesh)")
	f.StringVar(&d.http, "http", defaultHTTP, "`HOST:PORT` of the MCP gateway; port 0 takes a free one, '' runs none")
	bindOrigins(cmd, &d.origins)
	f.StringVar(&d.nats, "nats", "127.0.0.1:4222", "`HOST:PORT` of the NATS server; port 0 takes a free one")
	f.StringVar(&d.isolation, "isolation", "auto", "auto, bwrap, software or none")
	f.StringVar(&d.capture, "capture", "auto", captureUsage)
	bindNet(cmd, &d.net, &d.netExcept)
	f.StringVar(&d.sync, "sync", "always", "when NATS syncs to disk: always or interval")
	d.mirror.bind(cmd, true)
	f.DurationVar(&d.grace, "grace", defaultGrace, "how long commands may go on when it ends")
	f.StringVar(&d.logFormat, "log-format", "text", "text or json")
	f.StringVar(&d.logLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// flagsFromEnv takes flags that were not given from WSMESH_<FLAG>.
func flagsFromEnv(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		variable := "WSMESH_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		value, ok := os.LookupEnv(variable)
		if !ok || cmd.Flags().Changed(name) {
			continue
		}
		if err := cmd.Flags().Set(name, value); err != nil {
			return wrongUse(cmd, "%s: %s", variable, flagText(err))
		}
	}
	return nil
}

// check refuses what is wrong or not built yet, and splits --nats.
func (d *devFlags) check(cmd *cobra.Command) (host string, port int, err error) {
	if err := checkNets(cmd, d.net, d.netExcept); err != nil {
		return "", 0, err
	}
	if err := checkOrigins(cmd, d.origins); err != nil {
		return "", 0, err
	}
	if err := checkIsolation(cmd, d.isolation); err != nil {
		return "", 0, err
	}
	if err := checkCapture(cmd, d.capture); err != nil {
		return "", 0, err
	}
	if d.sync != "always" && d.sync != "interval" {
		return "", 0, wrongUse(cmd, "--sync %q is not always or interval", d.sync)
	}
	if d.grace < 0 {
		return "", 0, wrongUse(cmd, "--grace %s is negative", d.grace)
	}
	host, digits, err := net.SplitHostPort(d.nats)
	if err != nil {
		return "", 0, wrongUse(cmd, "--nats %q is not HOST:PORT", d.nats)
	}
	number, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return "", 0, wrongUse(cmd, "--nats %q: the port is not 0 to 65535", d.nats)
	}
	return host, int(number), nil
}

// checkIsolation checks an --isolation flag.
func checkIsolation(cmd *cobra.Command, isolation string) error {
	switch isolation {
	case "auto", "bwrap", "software", "none":
		return nil
	}
	return wrongUse(cmd, "--isolation %q is not auto, bwrap, software or none", isolation)
}

const captureUsage = "how changes of commands are found: auto, fanotify (the kernel tells them) or scan"

// checkCapture checks a --capture flag.
func checkCapture(cmd *cobra.Command, capture string) error {
	switch capture {
	case "auto", mesh.CaptureFanotify, mesh.CaptureScan:
		return nil
	}
	return wrongUse(cmd, "--capture %q is not auto, fanotify or scan", capture)
}

func (d *devFlags) logger(cmd *cobra.Command) (*slog.Logger, error) {
	return newLogger(cmd, d.logFormat, d.logLevel)
}

func newLogger(cmd *cobra.Command, format, level string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, wrongUse(cmd, "--log-level %q is not debug, info, warn or error", level)
	}
	o.Level = least
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), &o)), nil
	}
	return nil, wrongUse(cmd, "--log-format %q is not text or json", format)
}

// weakness warns of an isolation that was asked for and is no wall.
func (d *devFlags) weakness() string {
	switch d.isolation {
	case "none":
		return "wsmesh: warning: --isolation none: commands are plain processes that reach all that you reach; for your own commands only"
	case "software":
		return "wsmesh: warning: --isolation software: no kernel wall keeps a command from the files and the network of this machine; for commands that you trust"
	}
	return ""
}

// banner shows what runs and complete commands to try.
func (d *devFlags) banner(out io.Writer, url, http, dir string, nodes []mesh.NodeStatus) {
	self, to := d.self(), ""
	if d.data != "" { // a client would look elsewhere
		to = " --data " + shellQuote(dir)
	}
	fmt.Fprintf(out, "wsmesh %s runs at %s, data in %s\n", version, url, dir)
	if http != "" {
		fmt.Fprintf(out, "MCP at %s/mcp, with the token in client.json there; or over stdio: %s mcp%s\n", http, self, to)
	}
	for _, n := range nodes {
		level := levelOf(&n)
		if level.Driver != "" {
			fmt.Fprintf(out, "isolation of commands: %s\n", level.Driver)
			continue
		}
		fmt.Fprintf(out, "commands will be refused: %s\n", orDash(level.Reason))
		fmt.Fprint(out, "to run them, install bubblewrap (sudo apt-get install bubblewrap) and start again, ")
		fmt.Fprintf(out, "or do without kernel isolation: %s dev%s --isolation software\n", self, to)
	}
	fmt.Fprintf(out, "\nin another terminal:\n\n")
	for _, line := range []string{
		`exec%s -c 'echo "hello from $(pwd)" > hello.txt && cat hello.txt'`,
		"ls%s", "cat%s hello.txt", "status%s",
	} {
		fmt.Fprintf(out, "  %s %s\n", self, fmt.Sprintf(line, to))
	}
	fmt.Fprintf(out, "\nCtrl-C ends it, a second one at once\n")
}

// self is how a person calls this program from any directory.
func (d *devFlags) self() string {
	if filepath.Base(os.Args[0]) == os.Args[0] {
		if _, err := exec.LookPath(os.Args[0]); err == nil {
			return os.Args[0]
		}
	}
	path, err := filepath.Abs(os.Args[0])
	if err != nil {
		return "wsmesh"
	}
	return shellQuote(path)
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("/._-+:@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
