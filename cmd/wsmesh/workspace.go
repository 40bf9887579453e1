package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newWorkspace() *cobra.Command {
	cmd := &cobra.Command{Use: "workspace", Short: "List, create, remove and describe workspaces", RunE: needsSubcommand}
	cmd.AddCommand(newWorkspaceLs(), newWorkspaceCreate(), newWorkspaceSet(), newWorkspaceRm(), newWorkspaceInfo(), newWorkspaceVerify(), newWorkspaceRecover(), newWorkspaceMove(), newWorkspaceConfirm())
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
			return t.withClient(cmd.Context(), func(c *client.Client) error { return listWorkspaces(cmd, c, asJSON) })
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func listWorkspaces(cmd *cobra.Command, c *client.Client, asJSON bool) error {
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
}

func (o *output) workspace(w mesh.WorkspaceEntry) error {
	return o.row(w, string(w.Name), orDash(string(w.Node)), w.Epoch.String(), shownTime(w.Created))
}

func newWorkspaceCreate() *cobra.Command {
	var t target
	var s settingsFlags
	var from, dir string
	cmd := &cobra.Command{
		Use:   "create W",
		Short: "Create a workspace; a first write or exec does it too",
		Long: "Create a workspace; a first write or exec does it too.\n\n" +
			"With --from it is filled with what is below URL, which put says more of. Nothing is made when nothing is there,\n" +
			"or when it has names that cannot be paths.\n\n" +
			"With --dir the workspace is the local directory PATH, where it is: what you change there the agent sees\n" +
			"at once, and the other way round. That is the operator's to say, of the mesh that wsmesh dev runs here.\n" +
			"All that is in PATH is in reach of the workspace, and nothing else of this machine is. Removing the\n" +
			"workspace leaves PATH. Where dev runs as root, files and commands of the workspace have the owner and\n" +
			"group of PATH, which must not be root's; else PATH must be yours, and commands run as you. PATH and dev's\n" +
			"data directory must be in one mount, and neither in the other.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("from") && cmd.Flags().Changed("dir") {
				return wrongUse(cmd, "--from and --dir exclude each other: what PATH has is there")
			}
			settings, err := s.settings(cmd)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("dir") {
				return createInDir(cmd, &t, args[0], dir, settings)
			}
			if cmd.Flags().Changed("from") {
				return createFrom(cmd, &t, args[0], from, settings)
			}
			return t.withClient(cmd.Context(), func(c *client.Client) error {
				return c.CreateWorkspaceWith(cmd.Context(), args[0], settings)
			})
		},
	}
	t.bind(cmd)
	cmd.Flags().StringVar(&from, "from", "", "fill it with what is below `URL`: s3://BUCKET/PREFIX?endpoint=… or file:///DIR")
	s.bind(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "be the local directory `PATH` (operator, on the machine of dev)")
	return cmd
}

func newWorkspaceSet() *cobra.Command {
	var t target
	var s settingsFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "set W",
		Short: "Change what a workspace was created with",
		Long: "Change what a workspace was created with. What is not given stays; an empty value, as in --zone '', takes it\n" +
			"away; --label and --ephemeral replace all that there were. Commands go by it that begin afterwards. A workspace that\n" +
			"needs now what its node has not is given to another one as soon as its commands have ended, or after the node's\n" +
			"grace. With --idle delete it is removed, with all its files, where it otherwise would be closed; with --idle\n" +
			"keep=7d when it has been closed for seven days. A command that runs is use.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := s.change(cmd)
			if err != nil {
				return err
			}
			return t.withClient(cmd.Context(), func(c *client.Client) error {
				now, err := c.SetWorkspace(cmd.Context(), args[0], change)
				if err != nil || !asJSON {
					return err
				}
				return newOutput(cmd, true).row(now)
			})
		},
	}
	t.bind(cmd)
	s.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

// createInDir asks the node of DIR's own mesh, which runs on this machine.
func createInDir(cmd *cobra.Command, t *target, name, dir string, settings mesh.Settings) error {
	if dir == "" {
		return wrongUse(cmd, "--dir is empty; leave it out for a workspace of its own")
	}
	w, err := mesh.ParseWorkspace(name)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return local(err)
	}
	cfg, err := t.ownConfig()
	if err != nil {
		return err
	}
	token, err := mesh.ParseToken(cfg.Token)
	if err != nil {
		return err
	}
	req := mesh.WorkspaceDirRequest{Tenant: token.Tenant, Workspace: w, Dir: mesh.Path(dir), Settings: settings}
	return t.request(cmd.Context(), mesh.VerbAdminWorkspaceDir, req, nil)
}

func newWorkspaceMove() *cobra.Command {
	var t target
	var tenant string
	var dead bool
	cmd := &cobra.Command{
		Use:   "move W NODE",
		Short: "Have another node host a workspace (operator)",
		Long: "Have another node host a workspace, and return when it does. Its commands have the grace of their node to end;\n" +
			"files can be used meanwhile, and calls that come during the change wait for the new node. With --from-dead its\n" +
			"node is not waited for: that is for one that is frozen or cut off, and finds itself shut out if it comes back.",
		Args: between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := t.tenantOr(tenant)
			if err != nil {
				return err
			}
			req := mesh.WorkspaceMoveRequest{Tenant: of, Workspace: mesh.Workspace(args[0]), Node: mesh.Node(args[1]), FromDead: dead}
			o, err := t.operator()
			if err != nil {
				return err
			}
			defer o.Close()
			for said := false; ; said = true {
				var reply mesh.WorkspaceMoveReply
				if err := o.ask(cmd.Context(), mesh.VerbAdminMove, req, &reply); err != nil || reply.Done {
					return err
				}
				if !said {
					cmd.PrintErrln("wsmesh: moving; commands that run have the grace of their node to end")
				}
				select {
				case <-cmd.Context().Done():
					return mesh.Errorf(mesh.CodeCanceled, "the move goes on without you; see wsmesh workspace info %s", args[0])
				case <-time.After(200 * time.Millisecond):
				}
			}
		},
	}
	t.bindOwn(cmd)
	cmd.Flags().StringVar(&tenant, "tenant", "", "`TENANT` of the workspace (default that of DIR/client.json)")
	cmd.Flags().BoolVar(&dead, "from-dead", false, "its node is dead for certain: do not wait for it")
	return cmd
}

// tenantOr is the tenant that is named, or else that of DIR/client.json.
func (t *target) tenantOr(named string) (mesh.Tenant, error) {
	if named != "" {
		return mesh.Tenant(named), nil
	}
	cfg, err := t.ownConfig()
	if err != nil {
		return "", err
	}
	token, err := mesh.ParseToken(cfg.Token)
	if err != nil {
		return "", err
	}
	return token.Tenant, nil
}

func newWorkspaceConfirm() *cobra.Command {
	var t target
	var tenant string
	cmd := &cobra.Command{
		Use:   "confirm W",
		Short: "Let its readable copy lose what the last commit has removed (operator)",
		Long: "Let the readable copy of a workspace at the mirror lose what its last commit has removed. A commit that removes\n" +
			"more than half of many files is held back there until the next commit, or until this is called; wsmesh status\n" +
			"tells. The files go within half a minute.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := t.tenantOr(tenant)
			if err != nil {
				return err
			}
			o, err := t.operator()
			if err != nil {
				return err
			}
			defer o.Close()
			return o.ask(cmd.Context(), mesh.VerbAdminConfirm, mesh.WorkspaceConfirmRequest{Tenant: of, Workspace: mesh.Workspace(args[0])}, nil)
		},
	}
	t.bindOwn(cmd)
	cmd.Flags().StringVar(&tenant, "tenant", "", "`TENANT` of the workspace (default that of DIR/client.json)")
	return cmd
}

func newWorkspaceRm() *cobra.Command {
	var t target
	var force bool
	cmd := &cobra.Command{
		Use:   "rm W",
		Short: "Remove a workspace with its files; its commands are ended",
		Long: "Remove a workspace with its files; its commands are ended. The directory of one that was made with --dir\n" +
			"stays as it is.\n\n" +
			"With --force neither the node that hosts it is asked nor its journal read: for a workspace whose node does\n" +
			"not answer, or of which something is broken. Its files on that node stay there, out of reach.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.withClient(cmd.Context(), func(c *client.Client) error {
				if force {
					return c.RemoveWorkspaceByForce(cmd.Context(), args[0])
				}
				return c.RemoveWorkspace(cmd.Context(), args[0])
			})
		},
	}
	t.bind(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "without the node that hosts it, whatever is broken")
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
			return t.withClient(cmd.Context(), func(c *client.Client) error { return describeWorkspace(cmd, c, args[0], asJSON) })
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func describeWorkspace(cmd *cobra.Command, c *client.Client, name string, asJSON bool) error {
	info, err := c.Workspace(name).Info(cmd.Context())
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
		{"commit_error", orDash(info.CommitError)},
		{"journal_seq", fmt.Sprint(info.JournalSeq)},
		{"isolation", orDash(info.Isolation)},
		{"lag", strconv.Itoa(info.Lag)},
		{"capture", captureText(info.Capture)},
		{"execs", strconv.Itoa(info.Execs)},
		{"net", orDash(info.Net)},
		{"needs", orDash(info.Settings.Missing("", nil, ""))},
		{"durability", cmp.Or(info.Settings.Durability, mesh.DurabilitySync)},
		{"ephemeral", orDash(ephemeralText(info.Ephemeral))},
		{"idle", cmp.Or(info.Settings.Idle, "close")},
	} {
		if err := out.row(nil, field[0], field[1]); err != nil {
			return err
		}
	}
	return out.flush()
}

func ephemeralText(all []mesh.Path) string {
	var names []string
	for _, p := range all {
		names = append(names, shownName(string(p)))
	}
	return strings.Join(names, " ")
}

// captureText says what becomes of what commands change.
func captureText(capture string) string {
	if capture == mesh.CaptureNone {
		return "none (a directory of the host: what is changed there is kept there only)"
	}
	return orDash(capture)
}
