package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newLs() *cobra.Command {
	var p place
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [-w WORKSPACE] [PATH]",
		Short: "List a directory of a workspace",
		Args:  between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				name := "."
				if len(args) > 0 {
					name = args[0]
				}
				err := list(cmd, ws, name, asJSON)
				if mesh.CodeOf(err) == mesh.CodeNotFound && path.Clean("/"+name) == "/" {
					return p.notYet(cmd.Context(), ws, err)
				}
				return err
			})
		},
	}
	p.bind(cmd)
	p.bindAt(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

// notYet is what to say of a root that is not there: nothing where nobody named
// it, since the first write makes it.
func (p *place) notYet(ctx context.Context, ws *client.Workspace, err error) error {
	if p.at != "" {
		return err
	}
	_, missing := ws.Info(ctx)
	switch {
	case missing == nil && p.scope != "":
		return mesh.Errorf(mesh.CodeNotFound, "scope %s of workspace %s: nothing is there yet; a first write or exec makes it", p.scope, ws.Name())
	case mesh.CodeOf(missing) == mesh.CodeNotFound && p.named():
		return missing
	case mesh.CodeOf(missing) == mesh.CodeNotFound:
		return nil
	}
	return err
}

func list(cmd *cobra.Command, ws *client.Workspace, path string, asJSON bool) error {
	info, err := ws.Stat(cmd.Context(), path)
	if err != nil {
		return err
	}
	out := newOutput(cmd, asJSON, "TYPE", "SIZE", "MODIFIED", "NAME")
	if info.Type != "dir" {
		info.Path = mesh.Path(path)
		if err := out.entry(info); err != nil {
			return err
		}
		return out.flush()
	}
	for e, err := range ws.ReadDir(cmd.Context(), path) {
		if err != nil {
			return err
		}
		if err := out.entry(e); err != nil {
			return err
		}
	}
	return out.flush()
}

func (o *output) entry(e mesh.FileInfo) error {
	if !o.terminal {
		return o.row(e, string(e.Path))
	}
	name := shownName(string(e.Path)) // a terminal must not obey what a file is called
	if e.Target != "" {
		name += " -> " + shownName(string(e.Target))
	}
	return o.row(e, e.Type, strconv.FormatInt(e.Size, 10), shownTime(e.ModTime), name)
}

func shownName(name string) string {
	if q := strconv.Quote(name); q != `"`+name+`"` {
		return q
	}
	return name
}

func newCat() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "cat [-w WORKSPACE] PATH…",
		Short: "Print files of a workspace",
		Args:  between(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				for _, path := range args {
					if err := ws.Get(cmd.Context(), path, cmd.OutOrStdout()); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	p.bind(cmd)
	p.bindAt(cmd)
	return cmd
}

func newStat() *cobra.Command {
	var p place
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stat [-w WORKSPACE] PATH…",
		Short: "Describe files of a workspace; a symbolic link is not followed",
		Args:  between(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				out := newOutput(cmd, asJSON, "TYPE", "MODE", "SIZE", "MODIFIED", "NAME")
				for _, path := range args {
					info, err := ws.Lstat(cmd.Context(), path)
					if err != nil {
						return err
					}
					name := path
					if out.terminal {
						name = shownName(path)
					}
					mode, size := fmt.Sprintf("%04o", info.Mode), strconv.FormatInt(info.Size, 10)
					if err := out.row(info, info.Type, mode, size, shownTime(info.ModTime), name); err != nil {
						return err
					}
				}
				return out.flush()
			})
		},
	}
	p.bind(cmd)
	p.bindAt(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func newRm() *cobra.Command {
	var p place
	var recursive bool
	cmd := &cobra.Command{
		Use:   "rm [-w WORKSPACE] [-r] PATH…",
		Short: "Remove files of a workspace",
		Args:  between(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				for _, path := range args {
					if err := remove(cmd, ws, path, recursive); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	p.bind(cmd)
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "with everything below")
	return cmd
}

// remove finds a name that is not there a mistake, with -r as well.
func remove(cmd *cobra.Command, ws *client.Workspace, path string, recursive bool) error {
	err := ws.Remove(cmd.Context(), path)
	if recursive && mesh.CodeOf(err) == mesh.CodeInvalid { // a directory that is not empty, most likely
		err = ws.RemoveAll(cmd.Context(), path)
	}
	return err
}

func newMv() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "mv [-w WORKSPACE] FROM TO",
		Short: "Rename a file of a workspace; TO is the new name itself",
		Args:  between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				return ws.Rename(cmd.Context(), args[0], args[1])
			})
		},
	}
	p.bind(cmd)
	return cmd
}

func newCp() *cobra.Command {
	var p place
	var recursive bool
	cmd := &cobra.Command{
		Use:   "cp [-w WORKSPACE] [-r] FROM TO",
		Short: "Copy a file within a workspace; TO is the new name itself",
		Args:  between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				return copyWithin(cmd, ws, args[0], args[1], recursive)
			})
		},
	}
	p.bind(cmd)
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "a directory with everything below")
	return cmd
}

// copyWithin asks what FROM is only where -r does not allow a directory.
func copyWithin(cmd *cobra.Command, ws *client.Workspace, from, to string, recursive bool) error {
	if !recursive {
		info, err := ws.Stat(cmd.Context(), from)
		if err != nil {
			return err
		}
		if info.Type == "dir" {
			return mesh.Errorf(mesh.CodeInvalid, "%s is a directory; copy it with everything below: wsmesh cp -r", cmp.Or(shownName(from), "."))
		}
	}
	return ws.Copy(cmd.Context(), from, to)
}

func newMkdir() *cobra.Command {
	var p place
	var parents bool
	cmd := &cobra.Command{
		Use:   "mkdir [-w WORKSPACE] [-p] PATH…",
		Short: "Make directories in a workspace",
		Args:  between(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				for _, path := range args {
					make := ws.Mkdir
					if parents {
						make = ws.MkdirAll
					}
					if err := make(cmd.Context(), path, fs.FileMode(0o755)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	p.bind(cmd)
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make missing parents; an existing directory is fine")
	return cmd
}
