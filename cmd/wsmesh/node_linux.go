package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/node"
)

func (n *nodeFlags) run(cmd *cobra.Command) error {
	name, err := n.check(cmd)
	if err != nil {
		return err
	}
	log, err := newLogger(cmd, n.logFormat, n.logLevel)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	remote, err := n.mirror.open(ctx, cmd)
	if err != nil {
		return err
	}
	m, err := joinMesh(n.nats, n.creds)
	if err != nil {
		return err
	}
	cfg := node.Config{
		Name: name, Data: n.data, Signer: m.creds.Signer, Storage: m.creds.Storage, First: m.creds.First,
		Isolation: n.isolation, Capture: n.capture, Net: n.net, MaxNet: n.net, NetExcept: n.netExcept, Own: strings.Split(n.nats, ","),
		Mirror: n.mirror.config(remote),
		Zone:   n.zone, Labels: n.labels, Grace: n.grace, Version: version, Log: log,
	}
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return local(err)
	}
	for _, c := range []struct {
		creds func(mesh.Node) (auth.Creds, error)
		conn  **nats.Conn
	}{{m.creds.Signer.Door, &cfg.Door}, {m.creds.Signer.Store, &cfg.Store}} {
		creds, err := c.creds(name)
		if err == nil {
			*c.conn, err = m.connect(cmd, creds)
		}
		if err != nil {
			return ended(ctx, err)
		}
		defer (*c.conn).Close()
	}
	host, err := node.New(ctx, cfg)
	if err != nil {
		return ended(ctx, local(err))
	}
	return host.Run(ctx, func() { cmd.PrintErrf("wsmesh %s: node %s serves\n", version, name) })
}

// ended is nil once the caller has asked for the end: an error that follows is of no
// interest.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// joined is a mesh and how to be a node of it.
type joined struct {
	url    string
	creds  *auth.NodeCreds
	secure nats.Option
}

func joinMesh(url, file string) (*joined, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeOf(err), "--creds: %s", err)
	}
	m := &joined{url: url}
	if m.creds, err = auth.ParseNodeCreds(raw); err != nil {
		return nil, err
	}
	ca, err := client.ReadCA(filepath.Join(filepath.Dir(file), auth.CAFile))
	if err != nil {
		return nil, err
	}
	m.secure, err = mesh.TLSOption(url, ca)
	return m, err
}

// connect waits until a server takes the connection.
func (m *joined) connect(cmd *cobra.Command, creds auth.Creds) (*nats.Conn, error) {
	opts := append(mesh.ConnOptions(creds.Name, creds.Inbox), creds.Option(), m.secure)
	for said := ""; ; {
		conn, err := nats.Connect(m.url, opts...)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, nats.ErrAuthorization):
			return nil, mesh.Errorf(mesh.CodeDenied, "the mesh at %s refuses the credentials; they belong to another mesh", m.url)
		case err.Error() != said:
			said = err.Error()
			cmd.PrintErrf("wsmesh: waiting for a NATS server at %s (%s)\n", m.url, err)
		}
		select {
		case <-cmd.Context().Done():
			return nil, cmd.Context().Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
