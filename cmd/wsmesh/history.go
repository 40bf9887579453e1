package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newHistory() *cobra.Command {
	var p place
	var asJSON, commits bool
	var limit int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show what changed in a workspace, and its commits, the newest first",
		Long: "Show what changed in a workspace, the newest first: when, in which record of its journal, what, and by which\n" +
			"verb or command. A commit stands before what is in it; its name is what workspace recover --from takes. Of\n" +
			"what lies between two commits the newest 10,000 changes are kept. With --scope there are no commits.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return wrongUse(cmd, "-n %d is negative", limit)
			}
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				return showHistory(cmd, ws, commits, limit, asJSON)
			})
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().BoolVar(&commits, "commits", false, "commits only")
	cmd.Flags().IntVarP(&limit, "lines", "n", 0, "the newest `N` only (default all)")
	return cmd
}

func showHistory(cmd *cobra.Command, ws *client.Workspace, commits bool, limit int, asJSON bool) error {
	out := newOutput(cmd, asJSON, "TIME", "RECORD", "KIND", "WHAT", "BY")
	list := ws.History
	if commits {
		list = ws.Commits
	}
	n := 0
	for e, err := range list(cmd.Context()) {
		if err != nil {
			return err
		}
		if err := out.change(e); err != nil {
			return err
		}
		if n++; n == limit {
			break
		}
	}
	return out.flush()
}

func (o *output) change(e mesh.HistoryEntry) error {
	return o.row(e, shownTime(e.Time), fmt.Sprint(e.Number), e.Kind, shownChange(e), shownCause(e))
}

func shownChange(e mesh.HistoryEntry) string {
	switch {
	case e.Kind == mesh.HistoryCommit:
		return e.Commit
	case e.To != "":
		return shownText(string(e.Path)) + " -> " + shownText(string(e.To))
	}
	return shownText(string(e.Path))
}

// shownCause is who did what an entry says, or why a commit was made.
func shownCause(e mesh.HistoryEntry) string {
	switch {
	case e.Error != "":
		return shownText(e.Error)
	case e.Kind == mesh.HistoryCommit:
		return fmt.Sprintf("%s, %d changes", e.Cause, e.Changes)
	}
	by := []string{orDash(e.Verb)}
	for _, id := range e.Execs {
		by = append(by, string(id))
	}
	return strings.Join(by, " ")
}
