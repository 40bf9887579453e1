// Package onebox is a whole mesh in one process: an embedded NATS server and a
// node. It serves development, tests, and programs that want workspaces without
// running anything beside them.
//
//	box, err := onebox.Start(ctx, onebox.Config{Data: dir})
//	c, err := client.Dial(ctx, box.Client())
//
// One process at a time uses a data directory. What is acknowledged survives
// the process; the keys are made at the first start and kept. A directory that the
// program's user works in becomes a workspace, where it is, with Box.HostDir.
package onebox

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/natsd"
	"github.com/wsmesh/wsmesh/node"
)

// Config of a one box. Only Data is required.
type Config struct {
	Data      string            // directory for everything; made if missing
	Host      string            // loopback address to listen on; default 127.0.0.1
	Port      int               // 0 chooses a free one
	Sync      string            // always (default) or interval: when NATS syncs to disk
	Isolation string            // auto (default), bwrap, software, none
	Capture   string            // auto (default), fanotify, scan: how changes of commands are found
	Net       string            // network for commands: none (default), full or allow:HOST,…; see node/egress
	NetExcept []string          // addresses that are not public, and that they may reach all the same
	Mirror    node.MirrorConfig // where everything is copied to; default nowhere
	Grace     time.Duration     // how long Close lets commands finish; default node.DefaultGrace
	HTTP      string            // URL of the gateway that the caller runs on the box, for client.json; default none
	Version   string
	Log       *slog.Logger
}

// DefaultTenant is the tenant that a one box makes and whose token it hands out.
const DefaultTenant = mesh.Tenant("dev")

// nodeName is fixed: the node of a data directory is always the same one.
const nodeName = mesh.Node("one")

// Box is a running one box. Close it when done.
type Box struct {
	server      *natsd.Server
	door, store *nats.Conn
	client      client.Config
	admin       auth.Creds
	stop        context.CancelFunc
	done        chan struct{} // closed when the node has ended; err is set before
	err         error
	close       sync.Once
}

// Start starts a one box and returns when it answers requests. It writes
// client.json and admin.creds (0600) into the data directory. Errors: CodeBusy
// when another process has the directory; CodeDenied when it belongs to another
// user or anybody can write to it; what natsd.Start and node.New say.
func Start(ctx context.Context, cfg Config) (_ *Box, err error) {
	if cfg.Data == "" {
		return nil, mesh.Errorf(mesh.CodeInvalid, "one box: no data directory")
	}
	if cfg.Sync == "" {
		cfg.Sync = natsd.SyncAlways
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		code := mesh.CodeOf(err)
		if code == mesh.CodeInternal {
			code = mesh.CodeDenied // the place is the caller's choice, and this one cannot be had
		}
		return nil, mesh.Errorf(code, "make the data directory: %s", err)
	}
	if err := checkOwner(cfg.Data); err != nil {
		return nil, err
	}
	keys, err := auth.LoadOrCreate(filepath.Join(cfg.Data, "keys"))
	if err != nil {
		return nil, err
	}
	b := &Box{done: make(chan struct{}), stop: func() {}}
	defer func() {
		if err != nil {
			b.shutdown()
		}
	}()
	b.server, err = natsd.Start(natsd.Config{
		Dir: filepath.Join(cfg.Data, "nats"), Host: cfg.Host, Port: cfg.Port, Sync: cfg.Sync, Keys: keys, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	if err := b.connect(keys.Signer()); err != nil {
		return nil, err
	}
	if err := b.startNode(ctx, cfg, keys.Signer()); err != nil {
		return nil, err
	}
	if err := b.handOut(ctx, cfg, keys.Signer()); err != nil {
		b.stop()
		<-b.done
		return nil, err
	}
	return b, nil
}

func (b *Box) connect(signer *auth.Signer) error {
	for _, c := range []struct {
		creds func(mesh.Node) (auth.Creds, error)
		conn  **nats.Conn
		name  string
	}{{signer.Door, &b.door, "door"}, {signer.Store, &b.store, "store"}} {
		creds, err := c.creds(nodeName)
		if err != nil {
			return err
		}
		opts := append(mesh.ConnOptions(string(nodeName)+" "+c.name, creds.Inbox), creds.Option())
		if *c.conn, err = b.server.InProcess(opts...); err != nil {
			return mesh.Errorf(mesh.CodeInternal, "connect the %s: %s", c.name, err)
		}
	}
	return nil
}

// startNode runs the node until stop and returns once it serves.
func (b *Box) startNode(ctx context.Context, cfg Config, signer *auth.Signer) error {
	n, err := node.New(ctx, node.Config{
		Name: nodeName, Data: cfg.Data, Door: b.door, Store: b.store, Signer: signer, Sync: cfg.Sync, HostDirs: true,
		Isolation: cfg.Isolation, Capture: cfg.Capture, Net: cfg.Net, MaxNet: cfg.Net, NetExcept: cfg.NetExcept, Own: []string{b.server.URL(), cfg.HTTP}, Mirror: cfg.Mirror, Grace: cfg.Grace, Version: cfg.Version, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	serving := make(chan struct{})
	go func() {
		defer close(b.done)
		b.err = n.Run(run, func() { close(serving) })
	}()
	select {
	case <-serving:
		return nil
	case <-b.done:
		if b.err == nil {
			b.err = mesh.Errorf(mesh.CodeInternal, "the node ended at once")
		}
		return b.err
	case <-ctx.Done():
		stop()
		<-b.done
		return ctx.Err()
	}
}

// handOut makes the default tenant and writes the credentials for the commands
// on this machine. A client.json that still works is kept, so that a token is
// not issued at every start. It asks the node as an operator would.
func (b *Box) handOut(ctx context.Context, cfg Config, signer *auth.Signer) error {
	var err error
	if b.admin, err = signer.Admin(); err != nil {
		return err
	}
	err = b.ask(ctx, mesh.VerbAdminTenantCreate, mesh.TenantRequest{Tenant: DefaultTenant}, nil)
	leaving := mesh.CodeOf(err) == mesh.CodeDenied // its removal was broken off; who ends it needs the mesh
	if err != nil && mesh.CodeOf(err) != mesh.CodeExists && !leaving {
		return err
	}
	path := filepath.Join(cfg.Data, "client.json")
	token := ""
	if old, err := client.ReadFile(path); err == nil {
		token = b.working(old.Token)
	}
	if token == "" && !leaving {
		var fresh mesh.TokenIssueReply
		if err := b.ask(ctx, mesh.VerbAdminTokenIssue, mesh.TokenIssueRequest{Tenant: DefaultTenant}, &fresh); err != nil {
			return err
		}
		token = fresh.Token
	}
	b.client = client.Config{URL: b.server.URL(), Token: token}
	file, err := json.Marshal(client.File{URL: b.client.URL, HTTP: cfg.HTTP, Token: token})
	if err != nil {
		return err
	}
	if err := writePrivate(path, append(file, '\n')); err != nil {
		return err
	}
	creds, err := b.admin.Encode()
	if err != nil {
		return err
	}
	return writePrivate(filepath.Join(cfg.Data, "admin.creds"), creds)
}

// ask asks the node as the operator.
func (b *Box) ask(ctx context.Context, verb string, args, reply any) error {
	conn, err := b.server.InProcess(append(mesh.ConnOptions(b.admin.Name, b.admin.Inbox), b.admin.Option())...)
	if err != nil {
		return mesh.Errorf(mesh.CodeInternal, "connect as the operator: %s", err)
	}
	defer conn.Close()
	m, err := mesh.NewRequest(mesh.AdminSubject(verb), "", "", args, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	answer, err := conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return mesh.Errorf(mesh.CodeInternal, "%s: the node does not answer: %s", verb, err)
	}
	_, err = mesh.DecodeReply(answer, reply)
	return err
}

// working returns the token if the server takes it, and "" otherwise.
func (b *Box) working(token string) string {
	claims, err := mesh.ParseToken(token)
	if err != nil || claims.Tenant != DefaultTenant {
		return ""
	}
	opts := append(mesh.ConnOptions("token check", mesh.InboxPrefix(string(claims.Tenant), string(claims.ID))), mesh.TokenOption(token))
	conn, err := b.server.InProcess(opts...)
	if err != nil {
		return ""
	}
	conn.Close()
	return token
}

// writePrivate replaces a file in one step; nobody else may read it.
func writePrivate(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "write %s: %s", path, err)
	}
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "write %s: %s", path, err)
	}
	return nil
}

// Client is how to reach the box as its default tenant.
func (b *Box) Client() client.Config { return b.client }

// HostDir makes a workspace of the default tenant whose tree is a directory of
// this machine, where it is; removing the workspace leaves the directory. As root
// its commands run as the directory's owner, which must not be root. CodeExists:
// the workspace exists, or another one has a part of the directory.
func (b *Box) HostDir(ctx context.Context, workspace, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "directory %q: %s", dir, err)
	}
	req := mesh.WorkspaceDirRequest{Tenant: DefaultTenant, Workspace: mesh.Workspace(workspace), Dir: mesh.Path(dir)}
	return b.ask(ctx, mesh.VerbAdminWorkspaceDir, req, nil)
}

// URL is where the NATS server listens.
func (b *Box) URL() string { return b.server.URL() }

// Wait blocks until the node has ended, by Close or by itself, and says why.
func (b *Box) Wait() error {
	<-b.done
	return b.err
}

// Close drains the node, commands within the grace, and then shuts NATS down.
// It returns when nothing runs any more. Idempotent.
func (b *Box) Close() error {
	b.close.Do(func() {
		b.stop()
		<-b.done
		b.shutdown()
	})
	return b.err
}

func (b *Box) shutdown() {
	for _, c := range []*nats.Conn{b.door, b.store} {
		if c != nil {
			c.Close() // the node has drained it
		}
	}
	if b.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		b.server.Shutdown(ctx) //nolint:errcheck // what it had is on disk
	}
}
