package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultWait is how long one call goes on trying when neither its context
	// nor Config.Wait says otherwise: longer than an election of a stream leader, and
	// than a node that stops leaves its commands.
	DefaultWait = 45 * time.Second
	// DefaultRoutes is how many workspaces' routes a client remembers.
	DefaultRoutes = 4096
)

// Config says which mesh to talk to and as whom.
type Config struct {
	URL   string        // NATS server, or several with commas between
	Token string        // a tenant's token; who has it is that tenant
	CA    []byte        // in PEM: who vouches for servers at tls:// URLs; none: whom the machine trusts
	Name  string        // of the connection, for the operator; default "wsmesh client"
	Wait  time.Duration // how long one call may take; default DefaultWait

	// Guard, if it is set, is called with every command before the mesh is asked to
	// start it, by the goroutine that starts it. An error keeps it from starting and
	// is what Start returns; changes of the Cmd hold, for instance AllowDangerous
	// once a person has said yes. What the node's own guard refuses it refuses
	// nevertheless.
	Guard func(ctx context.Context, cmd *Cmd) error

	// Log, if it is set, gets one record of each operation when it is over: what
	// changes something at slog.LevelInfo, what only reads at slog.LevelDebug, so that
	// the level of its handler chooses between the two logs. A record has the
	// message "operation" and op, tenant, workspace, scope, path and to or exec and
	// command, dur, and code and err where it failed; of a command that ended exit,
	// and limit where it met one. A command is over when Wait returns, or with
	// Detach; an open file of FS with its Open. What a call is made of, such as the
	// pages of a listing, is no operation of its own. A command's arguments are
	// recorded as ps shows them, up to 2 KiB; values of the environment, standard
	// input, content of files and values of memories never are. The handler gets
	// the caller's context and runs in the caller's goroutine.
	Log *slog.Logger

	// OnStatus, if it is set, hears how the connection is from Dial on: see
	// Client.OnStatus.
	OnStatus func(Status)
}

// File is what DIR/client.json holds.
type File struct {
	URL   string `json:"url"`
	HTTP  string `json:"http,omitempty"`
	Token string `json:"token"`
}

// DataDir is where a one box keeps its data: WSMESH_DATA, or wsmesh below
// XDG_DATA_HOME, or ~/.local/share/wsmesh.
func DataDir() (string, error) {
	if dir := os.Getenv("WSMESH_DATA"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "wsmesh"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", mesh.Errorf(mesh.CodeInvalid, "no data directory: set WSMESH_DATA")
	}
	return filepath.Join(home, ".local", "share", "wsmesh"), nil
}

// CAFile is the name of the file beside a client.json that has Config.CA; a mesh in
// plain text has none.
const CAFile = "ca.pem"

// ReadCA reads the file, if there is one.
func ReadCA(path string) ([]byte, error) {
	ca, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, mesh.Errorf(mesh.CodeOf(err), "read %s: %s", path, err)
	}
	return ca, nil
}

// ReadFile reads a client.json, and the CAFile beside it.
func ReadFile(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, mesh.Errorf(mesh.CodeUnavailable, "no mesh is known: %s does not exist; start one with: wsmesh dev, or name one with: wsmesh context add (or WSMESH_URL and WSMESH_TOKEN)", path)
	}
	if err != nil {
		return Config{}, mesh.Errorf(mesh.CodeOf(err), "read %s: %s", path, err)
	}
	var f File
	if err := json.Unmarshal(raw, &f); err != nil || f.URL == "" || f.Token == "" {
		return Config{}, mesh.Errorf(mesh.CodeInvalid, "%s is not a client.json with url and token", path)
	}
	ca, err := ReadCA(filepath.Join(filepath.Dir(path), CAFile))
	return Config{URL: f.URL, Token: f.Token, CA: ca}, err
}

// ConfigFromEnv takes WSMESH_URL, WSMESH_TOKEN and WSMESH_CA, the name of a file, and
// what they leave open from the context in use in DataDir, which is its client.json
// unless another was chosen. The context's token is for the context's servers only: CodeDenied where
// WSMESH_URL names another one and WSMESH_TOKEN is not set.
func ConfigFromEnv() (Config, error) {
	cfg := Config{URL: os.Getenv("WSMESH_URL"), Token: os.Getenv("WSMESH_TOKEN")}
	var err error
	if cfg.CA, err = CAFromEnv(); err != nil || cfg.URL != "" && cfg.Token != "" {
		return cfg, err
	}
	dir, err := DataDir()
	if err != nil {
		return Config{}, err
	}
	in, err := ContextIn(dir)
	if err != nil {
		return Config{}, err
	}
	return in.Fill(cfg)
}

// CAFromEnv reads the file that WSMESH_CA names, if it does.
func CAFromEnv() ([]byte, error) {
	path := os.Getenv("WSMESH_CA")
	if path == "" {
		return nil, nil
	}
	ca, err := ReadCA(path)
	if err == nil && ca == nil {
		err = mesh.Errorf(mesh.CodeInvalid, "WSMESH_CA: %s does not exist", path)
	}
	return ca, err
}

// FromEnv is Dial with ConfigFromEnv.
func FromEnv(ctx context.Context) (*Client, error) {
	cfg, err := ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	return Dial(ctx, cfg)
}

// Client is one tenant's connection to a mesh. Safe for concurrent use.
type Client struct {
	conn   *nats.Conn
	cfg    Config
	claims mesh.TokenClaims
	routes *lru.Cache[mesh.Workspace, mesh.Route]
	lately atomic.Value  // mesh.Node that answered an api request last
	head   atomic.Uint64 // newest revision of the tenant's memory that was seen
	link   atomic.Pointer[link]
	again  atomic.Uint64 // requests that were sent again

	notices notices
	ended   chan struct{} // closed when the connection is, for good
}

// Retries is how many requests the client has sent again since it was made: to a next
// owner, or because of no answer or of one that nothing was done.
func (c *Client) Retries() uint64 { return c.again.Load() }

// link is one unbroken connection to a server. What was asked over it and not
// answered when it breaks will not be: the reply had nowhere to go.
type link struct {
	context.Context
	breaks context.CancelFunc
}

func (c *Client) renewLink() {
	var fresh link
	fresh.Context, fresh.breaks = context.WithCancel(context.Background())
	if old := c.link.Swap(&fresh); old != nil {
		old.breaks()
	}
}

// Dial connects. CodeDenied: the token is refused. CodeUnavailable: no server
// answers at the URL. A token is never sent in plain text to anything but
// loopback (CodeUnsupported).
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg.Token = strings.TrimSpace(cfg.Token) // a file's last line break
	claims, err := mesh.ParseToken(cfg.Token)
	if err != nil {
		return nil, err
	}
	if err := CheckSecret(cfg.URL); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "wsmesh client"
	}
	if cfg.Wait <= 0 {
		cfg.Wait = DefaultWait
	}
	routes, err := lru.New[mesh.Workspace, mesh.Route](DefaultRoutes)
	if err != nil {
		return nil, err
	}
	secure, err := mesh.TLSOption(cfg.URL, cfg.CA)
	if err != nil {
		return nil, err
	}
	opts := append(mesh.ConnOptions(cfg.Name, mesh.InboxPrefix(string(claims.Tenant), string(claims.ID))), mesh.TokenOption(cfg.Token), secure)
	if until, ok := ctx.Deadline(); ok {
		opts = append(opts, nats.Timeout(max(time.Millisecond, min(5*time.Second, time.Until(until)))))
	}
	c := &Client{cfg: cfg, claims: claims, routes: routes, ended: make(chan struct{})}
	if cfg.OnStatus != nil {
		c.OnStatus(cfg.OnStatus)
	}
	c.renewLink()
	opts = append(
		opts,
		nats.ConnectHandler(func(*nats.Conn) { c.notices.tell(StatusConnected) }),
		nats.DisconnectErrHandler(func(conn *nats.Conn, _ error) {
			c.renewLink()
			if _, ended := mesh.ParseToken(cfg.Token); ended != nil {
				conn.Close() // its time is over: no server would let it in again
			}
			if !conn.IsClosed() {
				c.notices.tell(StatusReconnecting)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { c.notices.tell(StatusConnected) }),
		nats.ClosedHandler(func(*nats.Conn) {
			c.notices.tell(StatusClosed)
			close(c.ended)
		}),
	)
	c.notices.tell(StatusConnecting)
	c.conn, err = nats.Connect(cfg.URL, opts...)
	if err != nil {
		c.notices.tell(StatusClosed)
		if denied := refused(cfg.Token, claims.Tenant, err); denied != nil {
			return nil, denied
		}
		hint := "a mesh of one machine is started with: wsmesh dev"
		if strings.Contains(err.Error(), "certificate signed by unknown authority") {
			hint = "its certificate is of the mesh's own CA: name its ca.pem with WSMESH_CA, or put it beside client.json"
		}
		return nil, mesh.Errorf(mesh.CodeUnavailable, "no mesh answers at %s (%s); is it running? %s", cfg.URL, err, hint)
	}
	return c, nil
}

// refused tells a token that the server does not take from other failures; nil
// is one of those. A token can have expired since it was looked at.
func refused(token string, t mesh.Tenant, err error) error {
	if _, now := mesh.ParseToken(token); now != nil {
		return now
	}
	text := ""
	if err != nil {
		text = strings.ToLower(err.Error()) // the library has no error value for some of what servers say
	}
	if strings.Contains(text, "authorization") || strings.Contains(text, "authentication") {
		return mesh.Errorf(mesh.CodeDenied, "the server refuses the token; issue a new one with: wsmesh token issue --tenant %s", t)
	}
	return nil
}

// CheckURL finds out without a mesh whether urls names NATS servers, with commas
// between; CodeInvalid if not.
func CheckURL(urls string) error {
	for s := range strings.SplitSeq(urls, ",") {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil || u.Hostname() == "" {
			return mesh.Errorf(mesh.CodeInvalid, "%q is not a URL like nats://127.0.0.1:4222", s)
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		case "http", "https":
			return mesh.Errorf(mesh.CodeInvalid, "%q looks like the address of an MCP gateway; what is needed is a NATS URL like nats://127.0.0.1:4222 (url in client.json)", s)
		default:
			return mesh.Errorf(mesh.CodeInvalid, "%q is not a URL like nats://127.0.0.1:4222", s)
		}
	}
	return nil
}

// CheckSecret is CheckURL of who sends a token or credentials there: CodeUnsupported
// where they would cross a network in plain text.
func CheckSecret(urls string) error {
	if err := CheckURL(urls); err != nil {
		return err
	}
	for s := range strings.SplitSeq(urls, ",") {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return mesh.Errorf(mesh.CodeInvalid, "%q is not a URL", s)
		}
		ip := net.ParseIP(u.Hostname())
		if u.Scheme != "tls" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return mesh.Errorf(mesh.CodeUnsupported, "a token is not sent in plain text to %s, nor are credentials; use a tls:// URL", u.Hostname())
		}
	}
	return nil
}

// Close drains the connection: replies on their way still arrive. Idempotent.
func (c *Client) Close() error {
	if err := c.conn.Drain(); err != nil {
		c.conn.Close()
	}
	<-c.ended
	return nil
}

// Lost is closed when the connection breaks, or is closed. The client goes on
// reconnecting, and Lost is then another one.
func (c *Client) Lost() <-chan struct{} { return c.link.Load().Done() }

// Connected reports whether the client has a connection right now.
func (c *Client) Connected() bool { return c.conn.IsConnected() }

// over reports whether the connection is gone for good: closed by its owner, or
// because the server refuses the token.
func (c *Client) over() bool { return c.conn.IsClosed() }

// Tenant is whose token the client has.
func (c *Client) Tenant() string { return string(c.claims.Tenant) }

// Bound is the workspace that the token is bound to and the path in it, "." for
// all of it; both are "" for a token of the whole tenant.
func (c *Client) Bound() (workspace, scope string) {
	if b := c.claims.Bound; b != nil {
		return string(b.Workspace), b.Scope
	}
	return "", ""
}

// Workspace returns a handle, of the path that the token is bound to if it is
// bound to one. Nothing is asked of the mesh: a name that is not a workspace name
// is CodeInvalid at the first use, and one that the token is not bound to
// CodeDenied.
func (c *Client) Workspace(name string) *Workspace {
	w := &Workspace{client: c, name: mesh.Workspace(name), scope: "."}
	if _, w.err = mesh.ParseWorkspace(name); w.err != nil {
		return w
	}
	if b := c.claims.Bound; b != nil {
		w.scope = b.Scope
		if b.Workspace != w.name {
			w.err = mesh.Errorf(mesh.CodeDenied, "the token is bound to workspace %s", b.Workspace)
		}
	}
	return w
}

// CreateWorkspace makes a workspace; CodeExists, CodeQuota.
func (c *Client) CreateWorkspace(ctx context.Context, name string) error {
	return c.CreateWorkspaceWith(ctx, name, WorkspaceConfig{})
}

// WorkspaceConfig is what a workspace is made with. The zero value is as the mesh is
// set.
type WorkspaceConfig = mesh.Settings

// CreateWorkspaceWith makes a workspace; CodeExists, CodeQuota, CodeDenied for a
// network that the operator does not grant. What it needs of a node may be had of none
// yet: that is found out when it is opened.
func (c *Client) CreateWorkspaceWith(ctx context.Context, name string, cfg WorkspaceConfig) error {
	ctx, op := c.Workspace(name).changes(ctx, "workspace create")
	return op.end(c.api(ctx, mesh.ServiceWorkspace, mesh.VerbWorkspaceCreate, mesh.WorkspaceRequest{Workspace: mesh.Workspace(name), Settings: cfg}, nil))
}

// SetWorkspace changes settings of a workspace and returns all of them: its commands and
// captures go by them from then on. CodeNotFound, and as CreateWorkspaceWith. A workspace
// that needs now what its node has not is moved as soon as its commands have ended, or the
// node's grace has.
func (c *Client) SetWorkspace(ctx context.Context, name string, change mesh.SettingsChange) (mesh.Settings, error) {
	ctx, op := c.Workspace(name).changes(ctx, "workspace set")
	var now mesh.Settings
	err := c.api(ctx, mesh.ServiceWorkspace, mesh.VerbWorkspaceSet, mesh.WorkspaceSetRequest{Workspace: mesh.Workspace(name), Change: change}, &now)
	return now, op.end(err)
}

// RemoveWorkspace removes a workspace with its files and ends its commands.
func (c *Client) RemoveWorkspace(ctx context.Context, name string) error {
	ctx, op := c.Workspace(name).changes(ctx, "workspace remove")
	defer c.routes.Remove(mesh.Workspace(name))
	return op.end(c.api(ctx, mesh.ServiceWorkspace, mesh.VerbWorkspaceRemove, mesh.WorkspaceRequest{Workspace: mesh.Workspace(name)}, nil))
}

// RemoveWorkspaceByForce is RemoveWorkspace without the node that hosts the workspace
// and without reading its journal: for one whose owner does not answer, or of which
// something is broken. Files that are on another node stay there, out of reach.
func (c *Client) RemoveWorkspaceByForce(ctx context.Context, name string) error {
	ctx, op := c.Workspace(name).changes(ctx, "workspace remove")
	defer c.routes.Remove(mesh.Workspace(name))
	return op.end(c.api(ctx, mesh.ServiceWorkspace, mesh.VerbWorkspaceRemove, mesh.WorkspaceRequest{Workspace: mesh.Workspace(name), Force: true}, nil))
}

// Workspaces yields the tenant's workspaces by name.
func (c *Client) Workspaces(ctx context.Context) iter.Seq2[mesh.WorkspaceEntry, error] {
	return func(yield func(mesh.WorkspaceEntry, error) bool) {
		ctx, op := c.begin(ctx, slog.LevelDebug, "workspace list")
		req := mesh.WorkspaceListRequest{}
		whole(op, pages(func() ([]mesh.WorkspaceEntry, bool, error) {
			var page mesh.WorkspaceListReply
			err := c.api(ctx, mesh.ServiceWorkspace, mesh.VerbWorkspaceList, req, &page)
			if n := len(page.Workspaces); n > 0 {
				req.After = page.Workspaces[n-1].Name
			}
			return page.Workspaces, page.More, err
		}), yield)
	}
}

// ExitError says that the command itself failed; the mesh did its part.
type ExitError struct {
	Code   int        // exit status; 128+s for signal s, 124 after a timeout
	Limit  string     // the limit that ended or hit it: memory pids output timeout, or ""
	Final  mesh.Final // everything known about the end
	Stderr []byte     // the end of standard error, when Cmd.Output collected it
}

// Error implements error.
func (e *ExitError) Error() string {
	if e.Limit != "" {
		return fmt.Sprintf("exit status %d (%s)", e.Code, e.Limit)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}
