package client

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
)

// DefaultContext is the context that always exists: DIR/client.json.
const DefaultContext = "default"

// Context is a mesh by a name of its own, and who one is there.
type Context struct {
	Name      string `json:"name"`
	URL       string `json:"url"`
	Token     string `json:"token"`
	Tenant    string `json:"tenant"`              // whose token it is
	Workspace string `json:"workspace,omitempty"` // used where none is named
	CA        string `json:"ca,omitempty"`        // in PEM, see Config
}

// Contexts is what DIR/contexts.json holds. It is secret, as client.json is.
type Contexts struct {
	Current string    `json:"current,omitempty"` // "" or DefaultContext: client.json
	All     []Context `json:"contexts"`          // by name, without DefaultContext
}

// ContextsFile is where the contexts of a data directory are kept.
func ContextsFile(dir string) string { return filepath.Join(dir, "contexts.json") }

// ReadContexts reads the contexts of a data directory; a file that does not
// exist is none. CodeInvalid: the file is damaged.
func ReadContexts(dir string) (Contexts, error) {
	path := ContextsFile(dir)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Contexts{}, nil
	}
	if err != nil {
		return Contexts{}, mesh.Errorf(mesh.CodeOf(err), "read %s: %s", path, err)
	}
	var c Contexts
	if json.Unmarshal(raw, &c) != nil { // its text may quote the file, which is secret
		return Contexts{}, mesh.Errorf(mesh.CodeInvalid, "%s is damaged; remove it and add the contexts again", path)
	}
	return c, nil
}

// Default reports whether DefaultContext is in use.
func (c *Contexts) Default() bool { return c.Current == "" || c.Current == DefaultContext }

// Find returns the index of a context in All, or -1.
func (c *Contexts) Find(name string) int {
	return slices.IndexFunc(c.All, func(x Context) bool { return x.Name == name })
}

// ContextIn returns the context in use in a data directory.
func ContextIn(dir string) (Context, error) {
	all, err := ReadContexts(dir)
	if err != nil {
		return Context{}, err
	}
	if all.Default() {
		file, err := ReadFile(filepath.Join(dir, "client.json"))
		return Context{Name: DefaultContext, URL: file.URL, Token: file.Token, CA: string(file.CA)}, err
	}
	i := all.Find(all.Current)
	if i < 0 {
		return Context{}, mesh.Errorf(mesh.CodeInvalid, "the context in use, %q, does not exist; choose another with: wsmesh context use NAME", all.Current)
	}
	return all.All[i], nil
}

// Fill takes what cfg leaves open from the context. Its token goes to its own
// servers and nowhere else: CodeDenied where cfg names another one and no token,
// CodeInvalid where it names none.
func (x *Context) Fill(cfg Config) (Config, error) {
	if cfg.URL == "" {
		cfg.URL = x.URL
	}
	if cfg.CA == nil && x.CA != "" && SameServers(cfg.URL, x.URL) {
		cfg.CA = []byte(x.CA)
	}
	if cfg.Token != "" {
		return cfg, nil
	}
	if err := CheckURL(cfg.URL); err != nil {
		return Config{}, err
	}
	if !SameServers(cfg.URL, x.URL) {
		return Config{}, mesh.Errorf(mesh.CodeDenied, "the token of context %s is for %s and not sent to %s; give that mesh's own token with WSMESH_TOKEN or --token-file, or name none of the two", x.Name, x.URL, cfg.URL)
	}
	cfg.Token = x.Token
	return cfg, nil
}

// SameServers reports whether every server that urls names, by host and port, is
// one of those that known names. A name and its address are two hosts here.
func SameServers(urls, known string) bool {
	all := map[string]bool{}
	for s := range strings.SplitSeq(known, ",") {
		all[serverOf(s)] = true
	}
	delete(all, "")
	for s := range strings.SplitSeq(urls, ",") {
		if !all[serverOf(s)] {
			return false
		}
	}
	return true
}

// serverOf is host:port of a URL as it is dialed; "" if it is none.
func serverOf(s string) string {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Hostname() == "" {
		return ""
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), cmp.Or(u.Port(), "4222"))
}

// Check finds out without a mesh whether a context can be one: its URL, token
// and workspace, and that they go together. It fills in Tenant.
func (x *Context) Check() error {
	if err := CheckSecret(x.URL); err != nil {
		return err
	}
	claims, err := mesh.ParseToken(x.Token)
	if err != nil {
		return err
	}
	x.Tenant = string(claims.Tenant)
	if x.Workspace == "" {
		return nil
	}
	if _, err := mesh.ParseWorkspace(x.Workspace); err != nil {
		return err
	}
	if b := claims.Bound; b != nil && string(b.Workspace) != x.Workspace {
		return mesh.Errorf(mesh.CodeDenied, "the token is bound to workspace %s", b.Workspace)
	}
	return nil
}
