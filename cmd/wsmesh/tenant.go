package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

func newTenant() *cobra.Command {
	cmd := &cobra.Command{Use: "tenant", Short: "Create and list tenants (operator)", RunE: needsSubcommand}
	cmd.AddCommand(newTenantCreate(), newTenantLs())
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
	t.bind(cmd)
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
			var reply mesh.TenantListReply
			if err := t.request(cmd.Context(), mesh.VerbAdminTenantList, struct{}{}, &reply); err != nil {
				return err
			}
			out := newOutput(cmd, asJSON, "NAME", "CREATED")
			for _, e := range reply.Tenants {
				if err := out.row(e, string(e.Name), shownTime(e.Created)); err != nil {
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

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Issue and list tokens (operator)", RunE: needsSubcommand}
	cmd.AddCommand(newTokenIssue(), newTokenLs())
	return cmd
}

func newTokenIssue() *cobra.Command {
	var p place
	var tenant string
	var ttl time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "issue --tenant T [--ttl D]",
		Short: "Issue a token and print it, this once",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := mesh.ParseTenant(tenant)
			switch {
			case err != nil:
				return err
			case cmd.Flags().Changed("workspace"):
				return later("token issue -w")
			case cmd.Flags().Changed("scope"):
				return later("token issue --scope")
			case cmd.Flags().Changed("ttl") && ttl < time.Second: // the token's own clock counts seconds
				return wrongUse(cmd, "--ttl %s is less than a second", ttl)
			}
			var reply mesh.TokenIssueReply
			req := mesh.TokenIssueRequest{Tenant: name, TTLMS: ttl.Milliseconds()}
			if err := p.request(cmd.Context(), mesh.VerbAdminTokenIssue, req, &reply); err != nil {
				return err
			}
			if asJSON {
				return newOutput(cmd, true).row(reply)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), reply.Token)
			return err
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().StringVar(&tenant, "tenant", defaultTenant, "the `TENANT` whose token it is")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it is good for, e.g. 24h (default for ever)")
	return cmd
}

func newTokenLs() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the tokens on record; none is shown itself",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var reply mesh.TokenListReply
			if err := t.request(cmd.Context(), mesh.VerbAdminTokenList, struct{}{}, &reply); err != nil {
				return err
			}
			out := newOutput(cmd, asJSON, "ID", "TENANT", "ISSUED", "EXPIRES")
			for _, e := range reply.Tokens {
				expires := "never"
				if e.Expires != nil {
					expires = shownTime(*e.Expires)
				}
				if err := out.row(e, string(e.ID), string(e.Tenant), shownTime(e.Issued), expires); err != nil {
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
