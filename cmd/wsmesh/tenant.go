package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

func newTenant() *cobra.Command {
	cmd := &cobra.Command{Use: "tenant", Short: "Create, list, limit and remove tenants (operator)", RunE: needsSubcommand}
	cmd.AddCommand(newTenantCreate(), newTenantLs(), newTenantQuota(), newTenantRm())
	return cmd
}

func newTenantCreate() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "create T",
		Short: "Create a tenant; issue it a token next",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, err := mesh.ParseTenant(args[0])
			if err != nil {
				return err
			}
			return t.request(cmd.Context(), mesh.VerbAdminTenantCreate, mesh.TenantRequest{Tenant: tenant}, nil)
		},
	}
	t.bindOwn(cmd)
	return cmd
}

func newTenantLs() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the tenants",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := t.operator()
			if err != nil {
				return err
			}
			defer o.Close()
			all, err := o.tenants(cmd.Context())
			if err != nil {
				return err
			}
			out := newOutput(cmd, asJSON, "NAME", "CREATED", "STATE")
			for _, e := range all {
				state := "-"
				if e.Removing != nil {
					state = "removing"
				}
				if err := out.row(e, string(e.Name), shownTime(e.Created), state); err != nil {
					return err
				}
			}
			return out.flush()
		},
	}
	t.bindOwn(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

// tenants are all there are.
func (o *operator) tenants(ctx context.Context) (all []mesh.TenantEntry, err error) {
	for more := true; more; {
		var req mesh.TenantListRequest
		if len(all) > 0 {
			req.After = all[len(all)-1].Name
		}
		var reply mesh.TenantListReply
		if err := o.ask(ctx, mesh.VerbAdminTenantList, req, &reply); err != nil {
			return nil, err
		}
		all, more = append(all, reply.Tenants...), reply.More
	}
	return all, nil
}

func newTenantRm() *cobra.Command {
	var t target
	var force bool
	cmd := &cobra.Command{
		Use:   "rm T",
		Short: "Remove a tenant; its tokens are of no use any more",
		Long: "Remove a tenant: its tokens, which are of no use any more, its commands, workspaces, snapshots and logs, its memory,\n" +
			"and what a mirror has of it. Directories of the host that are workspaces stay. A tenant that has workspaces or\n" +
			"memory is removed with --force only. From the first moment on everything is refused to it. What was broken off\n" +
			"is made good by doing it again; wsmesh tenant ls shows it as removing until then.\n\n" +
			"This needs DIR/keys, which only the machine has that made the mesh. Files on nodes that are down cannot be\n" +
			"reached, and go when those start.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, err := mesh.ParseTenant(args[0])
			if err != nil {
				return err
			}
			r, err := t.revoker(cmd)
			if err != nil {
				return err
			}
			defer r.Close()
			return r.removeTenant(cmd.Context(), tenant, force)
		},
	}
	t.bindOwn(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "with all workspaces and memory that it has")
	return cmd
}

// removeTenant has the nodes begin, tells the servers of the tokens, and has the nodes go on
// until nothing is left.
func (r *revoker) removeTenant(ctx context.Context, t mesh.Tenant, force bool) error {
	var reply mesh.TenantRemoveReply
	req := mesh.TenantRemoveRequest{Tenant: t, Force: force}
	if err := r.ask(ctx, mesh.VerbAdminTenantRemove, req, &reply); err != nil {
		return err
	}
	req.Generation = reply.Generation
	if err := r.ask(ctx, mesh.VerbAdminTenantRemove, req, &reply); err != nil {
		return err
	}
	if err := r.revoke(ctx, ""); err != nil {
		return err
	}
	waits := mesh.Node("")
	for req.Told = true; !reply.Done; {
		var now mesh.TenantRemoveReply
		err := r.ask(ctx, mesh.VerbAdminTenantRemove, req, &now)
		switch {
		case ctx.Err() != nil:
			return mesh.Errorf(mesh.CodeCanceled, "tenant %s is not removed yet, and everything is refused to it; go on with: wsmesh tenant rm %s", t, t)
		case mesh.CodeOf(err) == mesh.CodeDeadline: // a frozen node was asked
			continue
		case err != nil:
			return fmt.Errorf("tenant %s is not removed yet; do this again: %w", t, err)
		}
		if reply = now; reply.Waits != waits && reply.Waits != "" {
			r.cmd.PrintErrf("wsmesh: waiting for node %s, which does not answer\n", reply.Waits)
		}
		waits = reply.Waits
		if !reply.Done {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	for _, n := range reply.Away {
		r.cmd.PrintErrf("wsmesh: node %s is down; files that it has of %s are out of reach, and go when it starts\n", n, t)
	}
	return nil
}

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Issue, list and revoke tokens (operator)", RunE: needsSubcommand}
	cmd.AddCommand(newTokenIssue(), newTokenLs(), newTokenRevoke())
	return cmd
}

func newTokenIssue() *cobra.Command {
	var i tokenIssue
	cmd := &cobra.Command{
		Use:   "issue --tenant T [-w W [--scope P]] [--ttl D]",
		Short: "Issue a token and print it, this once",
		Long: "Issue a token and print it, this once. It is good for all of the tenant; with -w only for that workspace,\n" +
			"with --scope only for what is below that path of it.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return i.run(cmd) },
	}
	i.bindOwn(cmd)
	f := cmd.Flags()
	f.StringVar(&i.tenant, "tenant", defaultTenant, "the `TENANT` whose token it is")
	f.StringVarP(&i.workspace, "workspace", "w", "", "bind it to `WORKSPACE` (WSMESH_WORKSPACE does not)")
	f.StringVar(&i.scope, "scope", "", "bind it to what is below `PATH` of that workspace")
	f.DurationVar(&i.ttl, "ttl", 0, "how long it is good for, e.g. 24h (default for ever)")
	bindJSON(cmd, &i.json)
	return cmd
}

type tokenIssue struct {
	target
	tenant, workspace, scope string
	ttl                      time.Duration
	json                     bool
}

// request turns the flags into a request. A flag that is given and empty, as in
// -w "$UNSET", would quietly make a token for more than was meant.
func (i *tokenIssue) request(cmd *cobra.Command) (req mesh.TokenIssueRequest, err error) {
	given := cmd.Flags().Changed
	switch {
	case given("workspace") && i.workspace == "":
		return req, wrongUse(cmd, "-w is empty; leave it out for a token of the whole tenant")
	case given("scope") && i.scope == "":
		return req, wrongUse(cmd, "--scope is empty; leave it out for a token of the whole workspace")
	case given("scope") && !given("workspace"):
		return req, wrongUse(cmd, "--scope needs -w")
	case given("ttl") && i.ttl < time.Second: // the token's own clock counts seconds
		return req, wrongUse(cmd, "--ttl %s is less than a second", i.ttl)
	}
	req = mesh.TokenIssueRequest{Scope: mesh.Path(i.scope), TTLMS: i.ttl.Milliseconds()}
	if req.Tenant, err = mesh.ParseTenant(i.tenant); err != nil {
		return req, err
	}
	if given("workspace") {
		req.Workspace, err = mesh.ParseWorkspace(i.workspace)
	}
	return req, err
}

func (i *tokenIssue) run(cmd *cobra.Command) error {
	req, err := i.request(cmd)
	if err != nil {
		return err
	}
	var reply mesh.TokenIssueReply
	if err := i.target.request(cmd.Context(), mesh.VerbAdminTokenIssue, req, &reply); err != nil {
		return err
	}
	if i.json {
		return newOutput(cmd, true).row(reply)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), reply.Token)
	return err
}

// tokens are all that are on record.
func (t *target) tokens(ctx context.Context) (all []mesh.TokenEntry, err error) {
	o, err := t.operator()
	if err != nil {
		return nil, err
	}
	defer o.Close()
	for more := true; more; {
		var req mesh.TokenListRequest
		if len(all) > 0 {
			req.After = all[len(all)-1].ID
		}
		var reply mesh.TokenListReply
		if err := o.ask(ctx, mesh.VerbAdminTokenList, req, &reply); err != nil {
			return nil, err
		}
		all, more = append(all, reply.Tokens...), reply.More
	}
	return all, nil
}

func newTokenLs() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the tokens on record; none is shown itself",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := t.tokens(cmd.Context())
			if err != nil {
				return err
			}
			out := newOutput(cmd, asJSON, "ID", "TENANT", "WORKSPACE", "SCOPE", "ISSUED", "EXPIRES")
			for _, e := range all {
				expires := "never"
				switch {
				case e.Revoked != nil:
					expires = "revoked"
				case e.Expires != nil:
					expires = shownTime(*e.Expires)
				}
				err := out.row(
					e, string(e.ID), string(e.Tenant), orDash(string(e.Workspace)), orDash(shownName(string(e.Scope))),
					shownTime(e.Issued), expires,
				)
				if err != nil {
					return err
				}
			}
			return out.flush()
		},
	}
	t.bindOwn(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}
