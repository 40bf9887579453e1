package main

import (
	"cmp"
	"context"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mcpgw"
	"github.com/wsmesh/wsmesh/mesh"
)

type mcpFlags struct {
	place
	isolation, net string
	netExcept      []string
	logLevel       string
}

func newMCP() *cobra.Command {
	var m mcpFlags
	cmd := &cobra.Command{
		Use:   "mcp [-w WORKSPACE] [--scope PATH]",
		Short: "Serve MCP over standard input and output, for one client",
		Long: "Serve MCP over standard input and output: the command to put into an MCP client's configuration. Without a\n" +
			"mesh named by --url, the environment or a context it uses the one box in the data directory, and runs that\n" +
			"itself while nobody else does. It ends with its input.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flagsFromEnv(cmd, "isolation", "net", "net-except", "log-level"); err != nil {
				return err
			}
			return m.run(cmd)
		},
	}
	m.bind(cmd)
	f := cmd.Flags()
	f.StringVar(&m.isolation, "isolation", "auto", "of a one box that it runs: auto, bwrap, software or none")
	bindNet(cmd, &m.net, &m.netExcept)
	f.StringVar(&m.logLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

func (m *mcpFlags) run(cmd *cobra.Command) error {
	log, err := newLogger(cmd, "text", m.logLevel)
	if err != nil {
		return err
	}
	if err := checkNets(cmd, m.net, m.netExcept); err != nil {
		return err
	}
	if err := checkIsolation(cmd, m.isolation); err != nil {
		return err
	}
	workspace := cmp.Or(m.name, os.Getenv("WSMESH_WORKSPACE"))
	if workspace != "" {
		if _, err := mesh.ParseWorkspace(workspace); err != nil {
			return wrongUse(cmd, "-w: %s", errorText(err))
		}
	}
	if _, err := mesh.ParseScope("", m.scope); err != nil {
		return wrongUse(cmd, "--scope: %s", errorText(err))
	}
	link, ofContext, err := m.link()
	if err != nil {
		return err
	}
	link.start = func(ctx context.Context, port int) (box, error) { return m.startBox(ctx, port, log) }
	// A client that goes away is the end of the input as well, and no reason to
	// die of a broken pipe and leave a box that was not closed.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(cmd.Context())
	kept := make(chan struct{})
	go func() { defer close(kept); link.keep(ctx) }()
	err = mcpgw.ServeStdio(ctx, cmd.InOrStdin(), cmd.OutOrStdout(), mcpgw.StdioConfig{
		Client: link.client, Workspace: cmp.Or(workspace, ofContext), Scope: m.scope, Version: version, Log: log,
	})
	cancel()
	<-kept
	return err
}

// link decides which mesh is meant: one that is named, or the data directory's own.
func (m *mcpFlags) link() (*meshLink, string, error) {
	given, err := m.given()
	if err != nil {
		return nil, "", err
	}
	if given.Token != "" { // no mesh that comes up later would take it
		if _, err := mesh.ParseToken(given.Token); err != nil {
			return nil, "", err
		}
	}
	l := &meshLink{config: func() (client.Config, error) {
		cfg, _, err := m.config()
		cfg.Name = "wsmesh mcp"
		return cfg, err
	}, news: make(chan struct{})}
	if given.URL != "" || given.Token != "" {
		return l, "", nil
	}
	dir, err := m.dir()
	if err != nil {
		return nil, "", err
	}
	all, err := client.ReadContexts(dir)
	if err != nil {
		return nil, "", err
	}
	if l.own = all.Default(); l.own {
		return l, "", nil
	}
	in, err := client.ContextIn(dir)
	return l, in.Workspace, err
}

// box is a one box that this process runs.
type box interface {
	Wait() error // until it has ended, by Close or by itself
	Close() error
}

const (
	// linkPause is how often a mesh that is away is looked for.
	linkPause = 100 * time.Millisecond
	// linkPatience is how long another process may take to start the box that it
	// has the lock of.
	linkPatience = 30 * time.Second
)

// meshLink is the connection of a process to its mesh. The data directory's own
// mesh is in whichever process got the lock first; when that one ends, the others
// notice, and the first of them starts the box again, at the port that it had, so
// that everybody's connections come back by themselves.
type meshLink struct {
	config func() (client.Config, error)
	own    bool // the data directory's: started when it is away
	start  func(ctx context.Context, port int) (box, error)

	mu      sync.Mutex
	current *client.Client
	err     error         // why there is none
	news    chan struct{} // closed when current or err is another

	// Owned by keep.
	box   box
	ended chan struct{} // closed when box has ended
	cfg   client.Config // of current
}

// client returns the connection, and waits for the first one.
func (l *meshLink) client(ctx context.Context) (*client.Client, error) {
	for {
		l.mu.Lock()
		c, err, news := l.current, l.err, l.news
		l.mu.Unlock()
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, mesh.AsError(ctx.Err())
		}
	}
}

func (l *meshLink) set(c *client.Client, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.err = c, err
	close(l.news)
	l.news = make(chan struct{})
}

// keep connects, and again whenever the mesh is lost, until ctx ends.
func (l *meshLink) keep(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := l.connect(ctx)
		if err != nil {
			l.set(nil, err)
			wait(ctx, time.Second)
			continue
		}
		l.set(c, nil)
		l.watch(ctx, c)
		if ctx.Err() == nil {
			l.set(nil, nil)
		}
		c.Close()
	}
	l.closeBox()
}

// watch returns when a connection is of no more use: ctx has ended, or the mesh has
// another address or token by now.
func (l *meshLink) watch(ctx context.Context, c *client.Client) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.Lost():
		}
		for !c.Connected() && ctx.Err() == nil {
			cfg, err := l.config()
			if err == nil && (cfg.URL != l.cfg.URL || cfg.Token != l.cfg.Token) {
				return
			}
			if l.own && !l.runs() {
				l.open(ctx) //nolint:errcheck // another process has it, or it is tried again
			}
			wait(ctx, linkPause)
		}
	}
}

// connect finds the mesh, and starts the own one if nobody runs it.
func (l *meshLink) connect(ctx context.Context) (*client.Client, error) {
	for begin := time.Now(); ; wait(ctx, linkPause) {
		cfg, err := l.config()
		if err == nil {
			l.cfg = cfg
			var c *client.Client
			if c, err = client.Dial(ctx, cfg); err == nil {
				return c, nil
			}
		}
		if !l.own || ctx.Err() != nil {
			return nil, err
		}
		if l.runs() { // it is up, and yet nobody answers
			return nil, err
		}
		startErr := l.open(ctx)
		switch {
		case startErr == nil || mesh.CodeOf(startErr) == mesh.CodeBusy && time.Since(begin) < linkPatience:
		case mesh.CodeOf(startErr) == mesh.CodeBusy:
			return nil, err
		default:
			return nil, startErr
		}
	}
}

// open starts the box, at the port that it had if it is free.
func (l *meshLink) open(ctx context.Context) error {
	l.closeBox()
	port := 0
	if cfg, err := l.config(); err == nil {
		if u, err := url.Parse(cfg.URL); err == nil {
			port, _ = strconv.Atoi(u.Port()) // 0 if it names none
		}
	}
	b, err := l.start(ctx, port)
	if mesh.CodeOf(err) == mesh.CodeExists && port != 0 {
		b, err = l.start(ctx, 0)
	}
	if err == nil {
		l.box, l.ended = b, make(chan struct{})
		go func(ended chan struct{}) {
			defer close(ended)
			b.Wait() //nolint:errcheck // the log has it
		}(l.ended)
	}
	return err
}

// runs reports whether the box is ours and has not failed.
func (l *meshLink) runs() bool {
	if l.box == nil {
		return false
	}
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

func (l *meshLink) closeBox() {
	if l.box != nil {
		l.box.Close() //nolint:errcheck // what was acknowledged is on disk
		<-l.ended
		l.box = nil
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
