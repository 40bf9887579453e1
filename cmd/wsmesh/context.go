package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newContext() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "context",
		Short: "Name meshes and choose between them",
		Long: "Name meshes and choose between them. A client command takes its mesh, token and workspace from flags, then\n" +
			"from WSMESH_URL, WSMESH_TOKEN and WSMESH_WORKSPACE, then from the context in use. The context default is\n" +
			"DIR/client.json, as dev writes it; the others are kept in DIR/contexts.json. Commands of the operator\n" +
			"(tenant, token, bench) act on DIR's own mesh whatever context is in use.",
		RunE: needsSubcommand,
	}
	cmd.AddCommand(newContextAdd(), newContextUse(), newContextLs(), newContextRm())
	return cmd
}

func newContextAdd() *cobra.Command {
	var x client.Context
	var t target
	var caFile string
	cmd := &cobra.Command{
		Use:   "add NAME --url URL --token-file FILE [-w WORKSPACE]",
		Short: "Give a mesh and a token a name; nothing is asked of the mesh",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if x.URL == "" || t.tokenFile == "" {
				return wrongUse(cmd, "--url and --token-file are needed")
			}
			var err error
			if x.Name, err = contextName(args[0]); err != nil {
				return err
			}
			if x.Token, err = readToken(t.tokenFile); err != nil {
				return err
			}
			if caFile != "" {
				ca, err := os.ReadFile(caFile)
				if err != nil {
					return mesh.Errorf(mesh.CodeOf(err), "--ca: %s", err)
				}
				x.CA = string(ca)
			}
			if err := x.Check(); err != nil {
				return err
			}
			return t.changeContexts(func(all *client.Contexts) error {
				if all.Find(x.Name) >= 0 {
					return mesh.Errorf(mesh.CodeExists, "context %s exists; remove it first with: wsmesh context rm %s", x.Name, x.Name)
				}
				all.All = append(all.All, x)
				slices.SortFunc(all.All, func(a, b client.Context) int { return strings.Compare(a.Name, b.Name) })
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&x.URL, "url", "", "NATS `URL` of the mesh, or several with commas between")
	f.StringVar(&t.tokenFile, "token-file", "", "`FILE` with the token, which is copied")
	f.StringVar(&caFile, "ca", "", "`FILE`, in PEM, of who vouches for servers at tls:// URLs; it is copied (default whom this machine trusts)")
	f.StringVarP(&x.Workspace, "workspace", "w", "", "`WORKSPACE` of commands that name none")
	t.bindData(cmd)
	return cmd
}

// contextName checks the name of a new context.
func contextName(s string) (string, error) {
	if s == client.DefaultContext {
		return "", mesh.Errorf(mesh.CodeInvalid, "default is the context of client.json; choose another name")
	}
	return s, mesh.CheckName("context", s)
}

func noContext(name string, all *client.Contexts) error {
	names := []string{client.DefaultContext}
	for _, x := range all.All {
		names = append(names, x.Name)
	}
	return mesh.Errorf(mesh.CodeNotFound, "no context %.60q; there are %s", name, strings.Join(names, " "))
}

func newContextUse() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "use NAME",
		Short: "Choose a context; default goes back to DIR/client.json",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.changeContexts(func(all *client.Contexts) error {
				if args[0] != client.DefaultContext && all.Find(args[0]) < 0 {
					return noContext(args[0], all)
				}
				all.Current = args[0]
				return nil
			})
		},
	}
	t.bindData(cmd)
	return cmd
}

func newContextRm() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Forget a context; the mesh does not notice",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == client.DefaultContext {
				return mesh.Errorf(mesh.CodeInvalid, "default is the context of client.json and always exists")
			}
			return t.changeContexts(func(all *client.Contexts) error {
				i := all.Find(args[0])
				if i < 0 {
					return noContext(args[0], all)
				}
				all.All = slices.Delete(all.All, i, i+1)
				if all.Current == args[0] {
					all.Current = client.DefaultContext
					cmd.PrintErrln("the context in use is default now")
				}
				return nil
			})
		},
	}
	t.bindData(cmd)
	return cmd
}

// contextRow is a context without its token.
type contextRow struct {
	Name      string `json:"name"`
	URL       string `json:"url"`
	Tenant    string `json:"tenant"`
	Workspace string `json:"workspace"`
	Scope     string `json:"scope,omitempty"` // that the token is bound to
	Current   bool   `json:"current"`
}

func newContextLs() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the contexts; * marks the one in use",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := t.dir()
			if err != nil {
				return err
			}
			all, err := client.ReadContexts(dir)
			if err != nil {
				return err
			}
			rows := []contextRow{defaultRow(dir, all.Default())}
			for _, x := range all.All {
				workspace, scope := boundIn(x.Token)
				rows = append(rows, contextRow{x.Name, x.URL, x.Tenant, cmp.Or(x.Workspace, workspace), scope, x.Name == all.Current})
			}
			out := newOutput(cmd, asJSON, "NAME", "URL", "TENANT", "WORKSPACE", "SCOPE", "IN USE")
			for _, r := range rows {
				mark := "-"
				if r.Current {
					mark = "*"
				}
				if err := out.row(r, r.Name, orDash(r.URL), orDash(r.Tenant), orDash(r.Workspace), orDash(shownName(r.Scope)), mark); err != nil {
					return err
				}
			}
			return out.flush()
		},
	}
	t.bindData(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

// boundIn is what a token is bound to; of one that is over nothing is said.
func boundIn(token string) (workspace, scope string) {
	claims, err := mesh.ParseToken(token)
	if err != nil || claims.Bound == nil {
		return "", ""
	}
	if claims.Bound.Scope != "." {
		scope = claims.Bound.Scope
	}
	return string(claims.Bound.Workspace), scope
}

// defaultRow is the row of client.json, which need not be there.
func defaultRow(dir string, current bool) contextRow {
	r := contextRow{Name: client.DefaultContext, Current: current}
	file, err := client.ReadFile(filepath.Join(dir, "client.json"))
	if err != nil {
		return r
	}
	own := client.Context{URL: file.URL, Token: file.Token}
	if own.Check() == nil { // a token that is over says nothing for certain
		r.Tenant = own.Tenant
	}
	r.Workspace, r.Scope = boundIn(file.Token)
	r.URL = file.URL
	return r
}

// changeContexts rewrites DIR/contexts.json, or leaves it where change fails.
func (t *target) changeContexts(change func(*client.Contexts) error) error {
	dir, err := t.dir()
	if err != nil {
		return err
	}
	all, err := client.ReadContexts(dir)
	if err != nil {
		return err
	}
	if err := change(&all); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return local(err)
	}
	return local(replaceFile(client.ContextsFile(dir), append(raw, '\n')))
}

// replaceFile puts a file that only its owner can read in place when it is
// whole: a reader, and who is stopped half-way, has the old one or the new.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}
