package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

func newWorkspace() *cobra.Command {
	cmd := &cobra.Command{Use: "workspace", Short: "List, create, remove and describe workspaces", RunE: needsSubcommand}
	cmd.AddCommand(newWorkspaceLs(), newWorkspaceCreate(), newWorkspaceRm(), newWorkspaceInfo())
	cmd.AddCommand(laterCommands("move", "verify")...)
	return cmd
}

func newWorkspaceLs() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the workspaces of the token's tenant",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			out := newOutput(cmd, asJSON, "NAME", "NODE", "EPOCH", "CREATED")
			for w, err := range c.Workspaces(cmd.Context()) {
				if err != nil {
					return err
				}
				if err := out.workspace(w); err != nil {
					return err
				}
			}
			return out.flush()
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func (o *output) workspace(w mesh.WorkspaceEntry) error {
	return o.row(w, string(w.Name), orDash(string(w.Node)), w.Epoch.String(), shownTime(w.Created))
}

func newWorkspaceCreate() *cobra.Command {
	var t target
	var from, net, dir string
	cmd := &cobra.Command{
		Use:   "create W",
		Short: "Create a workspace; a first write or exec does it too",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for flag, value := range map[string]string{"--from": from, "--net": net, "--dir": dir} {
				if value != "" {
					return later("workspace create " + flag)
				}
			}
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return c.CreateWorkspace(cmd.Context(), args[0])
		},
	}
	t.bind(cmd)
	cmd.Flags().StringVar(&from, "from", "", "fill it from `URL` (not built yet)")
	cmd.Flags().StringVar(&net, "net", "", "network of its commands (not built yet)")
	cmd.Flags().StringVar(&dir, "dir", "", "use the local directory `PATH` (not built yet)")
	return cmd
}

func newWorkspaceRm() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "rm W",
		Short: "Remove a workspace with its files; its commands are ended",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return c.RemoveWorkspace(cmd.Context(), args[0])
		},
	}
	t.bind(cmd)
	return cmd
}

func newWorkspaceInfo() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info W",
		Short: "Say where a workspace is open, and how",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Workspace(args[0]).Info(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return newOutput(cmd, true).row(info)
			}
			out := newOutput(cmd, false)
			for _, field := range [][2]string{
				{"workspace", string(info.Workspace)},
				{"node", string(info.Node)},
				{"epoch", info.Epoch.String()},
				{"commit", orDash(info.Commit)},
				{"journal_seq", fmt.Sprint(info.JournalSeq)},
				{"isolation", orDash(info.Isolation)},
				{"capture", orDash(info.Capture)},
				{"execs", strconv.Itoa(info.Execs)},
			} {
				if err := out.row(nil, field[0], field[1]); err != nil {
					return err
				}
			}
			return out.flush()
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}
