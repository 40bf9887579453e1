package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

// adminTime bounds one request of the operator: longer than a server needs to find out
// that a node is frozen, to which it hands all that it gets where no other one is connected
// to it.
const adminTime = 20 * time.Second

// adminAgain is when a request that may be asked again first is, unanswered, and then
// after twice as long each time, up to a second: a node that is frozen swallows what the servers hand to it.
const adminAgain = 250 * time.Millisecond

// askedAgain are the verbs that may be: done twice is done once.
var askedAgain = map[string]bool{
	mesh.VerbAdminStatus: true, mesh.VerbAdminTenantList: true, mesh.VerbAdminTokenList: true, mesh.VerbAdminTenantQuota: true,
	mesh.VerbAdminTokenRevoke: true, mesh.VerbAdminMove: true, mesh.VerbAdminCollect: true,
}

// operator asks nodes with the operator's credentials. Close it when done.
type operator struct {
	conn  *nats.Conn
	creds auth.Creds
	url   string
	ca    []byte
}

// operator connects with DIR/admin.creds to the mesh that DIR/client.json names;
// CodeDenied without them, or where another mesh is named.
func (t *target) operator() (*operator, error) {
	dir, err := t.dir()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "admin.creds")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, mesh.Errorf(mesh.CodeDenied, "this needs the operator's credentials, and %s cannot be read; name the mesh's data directory with --data DIR", path)
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeInternal, "read %s: %s", path, err)
	}
	creds, err := auth.ParseCreds(raw)
	if err != nil {
		return nil, err
	}
	cfg, err := t.given()
	if err != nil {
		return nil, err
	}
	file, err := client.ReadFile(filepath.Join(dir, "client.json"))
	if err != nil {
		return nil, err
	}
	if cfg.URL == "" {
		cfg.URL = file.URL
	}
	if err := client.CheckSecret(cfg.URL); err != nil {
		return nil, err
	}
	if !client.SameServers(cfg.URL, file.URL) {
		return nil, mesh.Errorf(mesh.CodeDenied, "the operator's credentials in %s are for %s and not sent to %s; name that mesh's own data directory with --data DIR", dir, file.URL, cfg.URL)
	}
	return connectOperator(cfg.URL, creds, file.CA)
}

func connectOperator(url string, creds auth.Creds, ca []byte) (*operator, error) {
	secure, err := mesh.TLSOption(url, ca)
	if err != nil {
		return nil, err
	}
	conn, err := nats.Connect(url, append(mesh.ConnOptions("wsmesh operator", creds.Inbox), creds.Option(), secure)...)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return nil, mesh.Errorf(mesh.CodeDenied, "the mesh at %s refuses admin.creds: they belong to another mesh; name the right data directory with --data DIR", url)
	case err != nil:
		return nil, mesh.Errorf(mesh.CodeUnavailable, "no mesh answers at %s (%s); is it running?", url, err)
	}
	return &operator{conn: conn, creds: creds, url: url, ca: ca}, nil
}

func (o *operator) Close() { o.conn.Close() }

// ask does one request and decodes its reply into out.
func (o *operator) ask(ctx context.Context, verb string, args, out any) error {
	ctx, cancel := context.WithTimeout(ctx, adminTime)
	defer cancel()
	m, err := mesh.NewRequest(mesh.AdminSubject(verb), mesh.NewID(), "", args, nil)
	if err != nil {
		return err
	}
	reply, err := o.try(ctx, verb, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return mesh.Errorf(mesh.CodeUnavailable, "NATS runs at %s, but no node answers", o.url)
	case err != nil:
		return mesh.Errorf(mesh.CodeOf(err), "%s: no answer from %s: %s", verb, o.url, err)
	}
	_, err = mesh.DecodeReply(reply, out)
	return err
}

// try asks the nodes, and goes on to ask where that may be done twice. The first answer
// counts.
func (o *operator) try(ctx context.Context, verb string, m *nats.Msg) (*nats.Msg, error) {
	if !askedAgain[verb] {
		return o.conn.RequestMsgWithContext(ctx, m)
	}
	var asking sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); asking.Wait() }()
	type result struct {
		reply *nats.Msg
		err   error
	}
	results := make(chan result)
	for wait := adminAgain; ; wait = min(2*wait, time.Second) {
		asking.Go(func() {
			reply, err := o.conn.RequestMsgWithContext(ctx, m)
			select {
			case results <- result{reply, err}:
			case <-ctx.Done():
			}
		})
		select {
		case r := <-results:
			return r.reply, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// request connects, asks once and closes.
func (t *target) request(ctx context.Context, verb string, args, out any) error {
	o, err := t.operator()
	if err != nil {
		return err
	}
	defer o.Close()
	return o.ask(ctx, verb, args, out)
}
