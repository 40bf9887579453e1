package mcpgw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
)

const (
	// DefaultStdioCalls is how many calls one stdio server works on at a time;
	// mcp-go's own default of 5 would let five long commands stop everything.
	DefaultStdioCalls = 64
	// DefaultStdioQueue is how many more may wait.
	DefaultStdioQueue = 1000
	// DefaultLastCalls is how long calls may go on when the input has ended: who
	// pipes a few requests in wants their answers.
	DefaultLastCalls = 30 * time.Second
)

// StdioConfig says on what a stdio server works. Only Client is required.
type StdioConfig struct {
	// Client gives the connection to work with. It is asked for each call, and may
	// wait for a mesh to be there until its context ends.
	Client    func(ctx context.Context) (*client.Client, error)
	Workspace string // default the token's own, or DefaultWorkspace
	Scope     string // see only what is below it
	Version   string
	Log       *slog.Logger // never to out, which is the protocol's
}

// ServeStdio answers what comes from in, one JSON-RPC message on a line, on out. It
// returns nil when in ends and everything is answered, and when ctx ends, which
// cancels what is under way. A process can serve one client so: mcp-go keeps its
// session in a variable.
func ServeStdio(ctx context.Context, in io.Reader, out io.Writer, cfg StdioConfig) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	who := caller{client: cfg.Client, workspace: cfg.Workspace, scope: cfg.Scope}
	ctx, cancel := context.WithCancel(ctx)
	n := newNotices(ctx, who)
	defer n.done.Wait()
	defer cancel()
	s := server.NewStdioServer(newServer(cfg.Version, cfg.Log, n))
	for _, option := range []server.StdioOption{
		server.WithErrorLogger(slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug)),
		server.WithWorkerPoolSize(DefaultStdioCalls),
		server.WithQueueSize(DefaultStdioQueue),
		server.WithStdioContextFunc(func(ctx context.Context) context.Context {
			return withCaller(ctx, who)
		}),
	} {
		option(s)
	}
	open := &unanswered{out: out, changed: make(chan struct{}, 1)}
	err := s.Listen(ctx, &lastLine{Reader: in, ctx: ctx, open: open}, open)
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// unanswered counts requests that have come in and not been answered, and passes
// the answers on.
type unanswered struct {
	out     io.Writer
	mu      sync.Mutex
	count   int
	changed chan struct{} // something was answered
}

// asked notes a line of input. What is no message is answered as well.
func (u *unanswered) asked(line []byte) {
	if !isNotification(line) {
		u.mu.Lock()
		u.count++
		u.mu.Unlock()
	}
}

// Write passes on one message, as mcp-go writes them.
func (u *unanswered) Write(p []byte) (int, error) {
	n, err := u.out.Write(p)
	if isAnswer(p) {
		u.mu.Lock()
		u.count = max(0, u.count-1)
		u.mu.Unlock()
		select {
		case u.changed <- struct{}{}:
		default:
		}
	}
	return n, err
}

// isAnswer reports whether a message of ours answers one of the client's.
func isAnswer(message []byte) bool {
	var m struct {
		Method string `json:"method"`
	}
	return json.Unmarshal(message, &m) == nil && m.Method == ""
}

// wait returns when everything is answered, or after DefaultLastCalls.
func (u *unanswered) wait(ctx context.Context) {
	limit := time.NewTimer(DefaultLastCalls)
	defer limit.Stop()
	for {
		u.mu.Lock()
		done := u.count == 0
		u.mu.Unlock()
		if done {
			return
		}
		select {
		case <-u.changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// lastLine holds the end of the input back until what was asked is answered:
// mcp-go cancels everything at the end of its input.
type lastLine struct {
	io.Reader
	ctx  context.Context
	open *unanswered
	line bytes.Buffer // the part of a line that has been read
}

func (l *lastLine) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			l.line.Write(rest)
			break
		}
		l.line.Write(rest[:end])
		l.open.asked(l.line.Bytes())
		l.line.Reset()
		rest = rest[end+1:]
	}
	if n == 0 && err != nil {
		l.open.wait(l.ctx)
	}
	return n, err
}
