package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newWorkspaceVerify() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify W",
		Short: "Read all that a workspace is made of and check it by its name",
		Long: "Read all that a workspace is made of from the store, and check it by its name: the records of its journal,\n" +
			"its last commit, every pack, and what the names in them refer to; and compare the files on its node with it.\n" +
			"It prints what is broken, a line for each: what kind, the path, the name of the pack, blob or commit, and why.\n" +
			"It ends with 1 where something is. With --json it is one object.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd.Context(), func(c *client.Client) error { return verifyWorkspace(cmd, c, args[0], asJSON) })
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func verifyWorkspace(cmd *cobra.Command, c *client.Client, name string, asJSON bool) error {
	got, err := c.Workspace(name).Verify(cmd.Context(), nil)
	if err != nil {
		return err
	}
	out := newOutput(cmd, asJSON, "KIND", "PATH", "NAME", "WHY")
	if asJSON {
		if err := out.row(got); err != nil {
			return err
		}
	} else {
		for _, b := range got.Broken {
			if err := out.row(b, b.Kind, orDash(shownText(string(b.Path))), orDash(b.Name), shownText(b.Text)); err != nil {
				return err
			}
		}
	}
	if err := out.flush(); err != nil {
		return err
	}
	if len(got.Broken) == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "workspace %s is whole: %d records, %d packs (%d bytes), %d names; %d names on node %s compared\n",
			name, got.Records, got.Packs, got.Read, got.Names, got.Local, got.Node)
		return nil
	}
	more := ""
	if got.More {
		more = ", and more"
	}
	return mesh.Errorf(mesh.CodeInternal, "workspace %s is damaged: %d things%s; if it cannot be opened, go back to the newest state that is whole with: wsmesh workspace recover %s", name, len(got.Broken), more, name)
}

func newWorkspaceRecover() *cobra.Command {
	var t target
	var from string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "recover W",
		Short: "Open a workspace whose files cannot be restored, at an older state",
		Long: "Open a workspace whose files cannot be restored, at an older state: the newest commit that is whole, and what\n" +
			"followed it as far as that is, or exactly the commit COMMIT of wsmesh history --commits. All of it is read\n" +
			"before. It prints what is lost, as far as that is known, in the form of wsmesh history. What the workspace was\n" +
			"made of stays in the store until its next commit.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd.Context(), func(c *client.Client) error { return recoverWorkspace(cmd, c, args[0], from, asJSON) })
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().StringVar(&from, "from", "", "as it was at `COMMIT` (default the newest that is whole)")
	return cmd
}

func recoverWorkspace(cmd *cobra.Command, c *client.Client, name, from string, asJSON bool) error {
	got, err := c.Workspace(name).Recover(cmd.Context(), from, nil)
	if err != nil {
		return err
	}
	out := newOutput(cmd, asJSON, "TIME", "RECORD", "KIND", "WHAT", "BY")
	if asJSON {
		return out.row(got)
	}
	for _, e := range got.Lost {
		if err := out.change(e); err != nil {
			return err
		}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "workspace %s is what it was at record %d (%s); %d records of its journal are given up: %s\n",
		name, got.Number, shownTime(got.Time), got.Records, shownText(orDash(got.Reason)))
	return out.flush()
}
