package client

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

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
		return Context{Name: DefaultContext, URL: file.URL, Token: file.Token}, err
	}
	i := all.Find(all.Current)
	if i < 0 {
		return Context{}, mesh.Errorf(mesh.CodeInvalid, "the context in use, %q, does not exist; choose another with: wsmesh context use NAME", all.Current)
	}
	return all.All[i], nil
}

// Check finds out without a mesh whether a context can be one: its URL, token
// and workspace, and that they go together. It fills in Tenant.
func (x *Context) Check() error {
	if err := checkURLs(x.URL); err != nil {
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
