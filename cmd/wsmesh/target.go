package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	defaultTenant    = "dev"
	defaultWorkspace = "main"
)

// target is which mesh, as whom: flags, then the environment, then the context
// in use in DIR, which is DIR/client.json where none was chosen.
type target struct{ url, tokenFile, data string }

func (t *target) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.url, "url", "", "NATS `URL` of the mesh (default WSMESH_URL, else the context in use)")
	f.StringVar(&t.tokenFile, "token-file", "", "`FILE` with the token (default WSMESH_TOKEN, else the context in use)")
	t.bindData(cmd)
}

// bindOwn is bind for commands of the operator: they act on DIR's own mesh.
func (t *target) bindOwn(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.url, "url", "", "NATS `URL` of the mesh (default WSMESH_URL, else DIR/client.json)")
	f.StringVar(&t.tokenFile, "token-file", "", "`FILE` with the token (default WSMESH_TOKEN, else DIR/client.json)")
	t.bindData(cmd)
}

func (t *target) bindData(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.data, "data", "", "data directory `DIR` of a one box (default WSMESH_DATA, else ~/.local/share/wsmesh)")
}

func (t *target) dir() (string, error) {
	if t.data != "" {
		return t.data, nil
	}
	return client.DataDir()
}

func (t *target) given() (client.Config, error) {
	cfg := client.Config{URL: t.url, Token: os.Getenv("WSMESH_TOKEN"), Name: "wsmesh cli"}
	if cfg.URL == "" {
		cfg.URL = os.Getenv("WSMESH_URL")
	}
	var err error
	if cfg.CA, err = client.CAFromEnv(); err != nil {
		return cfg, err
	}
	if t.tokenFile != "" {
		if cfg.Token, err = readToken(t.tokenFile); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

func readToken(file string) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", mesh.Errorf(mesh.CodeOf(err), "token file: %s", err)
	}
	token := strings.TrimSpace(string(raw))
	if token == "" {
		return "", mesh.Errorf(mesh.CodeInvalid, "token file %s is empty", file)
	}
	return token, nil
}

// config is how to connect, and the workspace of the context if that had a part
// in it: another mesh's says nothing here.
func (t *target) config() (cfg client.Config, workspace string, err error) {
	return t.filled(client.ContextIn)
}

// ownConfig is config on DIR's own mesh, whatever context is in use.
func (t *target) ownConfig() (client.Config, error) {
	cfg, _, err := t.filled(func(dir string) (client.Context, error) {
		file, err := client.ReadFile(filepath.Join(dir, "client.json"))
		return client.Context{Name: client.DefaultContext, URL: file.URL, Token: file.Token, CA: string(file.CA)}, err
	})
	return cfg, err
}

// filled takes what flags and environment leave open from the data directory,
// whose token goes nowhere but to its own servers.
func (t *target) filled(from func(dir string) (client.Context, error)) (cfg client.Config, workspace string, err error) {
	cfg, err = t.given()
	if err != nil || cfg.URL != "" && cfg.Token != "" {
		return cfg, "", err
	}
	dir, err := t.dir()
	if err != nil {
		return cfg, "", err
	}
	in, err := from(dir)
	if err != nil {
		return cfg, "", err
	}
	cfg, err = in.Fill(cfg)
	return cfg, in.Workspace, err
}

// withClient runs do on a connection and closes it after it.
func (t *target) withClient(ctx context.Context, do func(*client.Client) error) error {
	c, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

func (t *target) dial(ctx context.Context) (*client.Client, error) {
	c, _, err := t.dialNamed(ctx)
	return c, err
}

// dialNamed is dial with the workspace of the context.
func (t *target) dialNamed(ctx context.Context) (*client.Client, string, error) {
	cfg, workspace, err := t.config()
	if err != nil {
		return nil, "", err
	}
	c, err := client.Dial(ctx, cfg)
	return c, workspace, err
}

// place is a target and which workspace, and what part of it.
type place struct {
	target
	name, scope string
	at          string // what it was; "": what it is
}

func (p *place) bind(cmd *cobra.Command) {
	p.target.bind(cmd)
	f := cmd.Flags()
	f.StringVarP(&p.name, "workspace", "w", "", "`WORKSPACE` (default WSMESH_WORKSPACE, else that of the token or context, else main)")
	f.StringVar(&p.scope, "scope", "", "see only what is below `PATH`")
}

// bindAt lets a command show what a workspace was.
func (p *place) bindAt(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.at, "at", "", "as it was: a `SNAPSHOT`, a commit or a time (2006-01-02T15:04:05Z)")
}

// workspace is the first that is known: named, the only one that the token is
// good for, the context's.
func (p *place) workspace(c *client.Client, ofContext string) string {
	bound, _ := c.Bound()
	return cmp.Or(p.name, os.Getenv("WSMESH_WORKSPACE"), bound, ofContext, defaultWorkspace)
}

// named reports whether somebody said which workspace, or what part of it.
func (p *place) named() bool {
	return p.name != "" || p.scope != "" || os.Getenv("WSMESH_WORKSPACE") != ""
}

// with runs do on the workspace and closes the connection after it.
func (p *place) with(ctx context.Context, do func(*client.Workspace) error) error {
	c, ofContext, err := p.dialNamed(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ws := c.Workspace(p.workspace(c, ofContext))
	if p.scope != "" {
		ws = ws.Scope(p.scope)
	}
	if p.at != "" {
		if ws, err = ws.At(ctx, p.at); err != nil {
			return err
		}
	}
	return do(ws)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
