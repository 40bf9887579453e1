package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

// restored is what restore says.
type restored struct {
	mesh.MeshRestoreReply
	Tokens []mesh.TokenIssueReply `json:"tokens"`
}

func newRestore() *cobra.Command {
	var t target
	var at string
	var partly, asJSON bool
	cmd := &cobra.Command{
		Use:   "restore --s3 URL",
		Short: "Make an empty mesh of the copy at its mirror (operator)",
		Long: "Make an empty mesh of the copy that another one, which is lost, has left at URL: its tenants, workspaces,\n" +
			"snapshots and memories, as they were copied last. Start the nodes with the same --s3 before. What exists stays as it is, so a\n" +
			"restore that was broken off goes on when it is called again. From then on the copy is this mesh's. Prints a new\n" +
			"token of each tenant. Exits 1 naming what could not be restored; --partly ends it all the same.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if at == "" {
				return wrongUse(cmd, "--s3 is missing")
			}
			o, err := t.operator()
			if err != nil {
				return err
			}
			defer o.Close()
			if err := t.keepOut(cmd); err != nil { // servers that have lost everything would let them in again
				return err
			}
			var r restored
			for keys := 0; !r.Done; keys = r.Keys {
				r.MeshRestoreReply = mesh.MeshRestoreReply{}
				if err := o.ask(cmd.Context(), mesh.VerbAdminRestore, mesh.MeshRestoreRequest{URL: at, Partly: partly}, &r.MeshRestoreReply); err != nil {
					return err
				}
				r.Keys += keys
				if !r.Done {
					time.Sleep(10 * time.Millisecond) // each request works for seconds
				}
			}
			for _, tenant := range r.Tenants {
				var token mesh.TokenIssueReply
				if err := o.ask(cmd.Context(), mesh.VerbAdminTokenIssue, mesh.TokenIssueRequest{Tenant: tenant}, &token); err != nil {
					return err
				}
				r.Tokens = append(r.Tokens, token)
			}
			return r.show(cmd, asJSON)
		},
	}
	t.bindOwn(cmd)
	cmd.Flags().StringVar(&at, "s3", "", "where the copy is: the `URL` that the nodes have")
	cmd.Flags().BoolVar(&partly, "partly", false, "end it although something could not be restored")
	bindJSON(cmd, &asJSON)
	return cmd
}

func (r *restored) show(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		if err := newOutput(cmd, true).row(r); err != nil {
			return err
		}
	} else {
		cmd.PrintErrf("%d tenants, %d workspaces, %d snapshots and %d keys of memories are there\n", len(r.Tenants), r.Workspaces, r.Snapshots, r.Keys)
		out := newOutput(cmd, false, "TENANT", "TOKEN")
		for _, t := range r.Tokens {
			if err := out.row(nil, string(t.Tenant), t.Token); err != nil {
				return err
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
	}
	if len(r.Failed) == 0 {
		return nil
	}
	text := ""
	for _, f := range r.Failed {
		text += "\n  " + f
	}
	return mesh.Errorf(mesh.CodeInternal, "%s", fmt.Sprintf("%d of what is in the copy could not be restored:%s", len(r.Failed), text))
}
