package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node"
)

func newGC() *cobra.Command {
	var t target
	var tenant string
	var asJSON bool
	var req mesh.CollectRequest
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "gc [flags]",
		Short: "Delete stored content that nothing refers to any more (operator)",
		Long: fmt.Sprintf("Delete stored content that nothing refers to any more. What snapshots, forks and the files of workspaces are made\n"+
			"of is kept, and so are the commits that the flags name: with snapshot and fork a workspace goes back to any of\n"+
			"them. What is younger than %s is kept in any case. Nodes do this by themselves each day.", shownLong(node.DefaultCollectAge)),
		Args: between(0, 0),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if req.KeepLast < 1 || within < 0 {
			return wrongUse(cmd, "--keep-last is at least 1, and --keep-within is not negative")
		}
		req.KeepWithinMS = max(within.Milliseconds(), 1)
		o, err := t.operator()
		if err != nil {
			return err
		}
		defer o.Close()
		tenants := []mesh.TenantEntry{{Name: mesh.Tenant(tenant)}}
		if tenant == "" {
			if tenants, err = o.tenants(cmd.Context()); err != nil {
				return err
			}
		}
		out := newOutput(cmd, asJSON, "TENANT", "WORKSPACES", "COMMITS", "PACKS", "YOUNG", "DELETED", "BYTES")
		for _, tenant := range tenants {
			if tenant.Removing != nil {
				continue // of which nothing is kept
			}
			req.Tenant, req.ID = tenant.Name, mesh.NewID()
			var r mesh.CollectReply
			for !r.Done {
				if err := o.ask(cmd.Context(), mesh.VerbAdminCollect, req, &r); err != nil {
					return mesh.About("tenant "+string(tenant.Name), err)
				}
			}
			if err := out.row(r, string(r.Tenant), strconv.Itoa(r.Workspaces), strconv.Itoa(r.Commits), strconv.Itoa(r.Packs),
				strconv.Itoa(r.Young), strconv.Itoa(r.Deleted), strconv.FormatInt(r.Bytes, 10)); err != nil {
				return err
			}
		}
		return out.flush()
	}
	t.bindOwn(cmd)
	bindJSON(cmd, &asJSON)
	f := cmd.Flags()
	f.StringVar(&tenant, "tenant", "", "`TENANT` whose content is looked at (default all)")
	f.IntVar(&req.KeepLast, "keep-last", node.DefaultKeepLast, "keep the newest `N` commits of each workspace")
	f.DurationVar(&within, "keep-within", node.DefaultKeepWithin, "and all that are younger than `D`")
	f.BoolVar(&req.DryRun, "dry-run", false, "delete nothing and say what would be")
	return cmd
}

// shownLong is a time of hours or more for people.
func shownLong(d time.Duration) string { return strconv.Itoa(int(d.Hours())) + " hours" }
