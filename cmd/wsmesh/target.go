package main

import (
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

// target is which mesh, as whom: flags, then the environment, then
// DIR/client.json.
type target struct{ url, tokenFile, data string }

func (t *target) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.url, "url", "", "NATS `URL` of the mesh (default WSMESH_URL, else DIR/client.json)")
	f.StringVar(&t.tokenFile, "token-file", "", "`FILE` with the token (default WSMESH_TOKEN, else DIR/client.json)")
	f.StringVar(&t.data, "data", "", "data directory `DIR` of a one box (default WSMESH_DATA, else ~/.local/share/wsmesh)")
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
	if t.tokenFile != "" {
		raw, err := os.ReadFile(t.tokenFile)
		if err != nil {
			return cfg, mesh.Errorf(mesh.CodeOf(err), "token file: %s", err)
		}
		if cfg.Token = strings.TrimSpace(string(raw)); cfg.Token == "" {
			return cfg, mesh.Errorf(mesh.CodeInvalid, "token file %s is empty", t.tokenFile)
		}
	}
	return cfg, nil
}

func (t *target) config() (client.Config, error) {
	cfg, err := t.given()
	if err != nil || cfg.URL != "" && cfg.Token != "" {
		return cfg, err
	}
	dir, err := t.dir()
	if err != nil {
		return cfg, err
	}
	file, err := client.ReadFile(filepath.Join(dir, "client.json"))
	if err != nil {
		return cfg, err
	}
	if cfg.URL == "" {
		cfg.URL = file.URL
	}
	if cfg.Token == "" {
		cfg.Token = file.Token
	}
	return cfg, nil
}

func (t *target) dial(ctx context.Context) (*client.Client, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	return client.Dial(ctx, cfg)
}

// place is a target and which workspace, and what part of it.
type place struct {
	target
	name, scope string
}

func (p *place) bind(cmd *cobra.Command) {
	p.target.bind(cmd)
	p.bindName(cmd)
	cmd.Flags().StringVar(&p.scope, "scope", "", "see only what is below `PATH`")
}

func (p *place) bindName(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&p.name, "workspace", "w", "", "`WORKSPACE` (default WSMESH_WORKSPACE, else main)")
}

func (p *place) workspace() string {
	if p.name != "" {
		return p.name
	}
	if w := os.Getenv("WSMESH_WORKSPACE"); w != "" {
		return w
	}
	return defaultWorkspace
}

// with runs do on the workspace and closes the connection after it.
func (p *place) with(ctx context.Context, do func(*client.Workspace) error) error {
	c, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ws := c.Workspace(p.workspace())
	if p.scope != "" {
		ws = ws.Scope(p.scope)
	}
	return do(ws)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
