package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// changeRow is one line of watch --json.
type changeRow struct {
	Kind   string    `json:"kind"`
	Path   mesh.Path `json:"path,omitempty"`
	To     mesh.Path `json:"to,omitempty"`
	Time   time.Time `json:"time"`
	Cursor string    `json:"cursor"`
}

func newWatch() *cobra.Command {
	var p place
	var from string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "watch [-w WORKSPACE]",
		Short: "Print what changes in a workspace from now on, until interrupted",
		Long: "Print what changes in a workspace from now on, until interrupted: put, remove, rename or attr (mode or time), and the path.\n" +
			"A line of --json has a cursor: --from goes on behind that change, at any time. What the journal does not hold any more\n" +
			"is one line: resync; look at the files anew then.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := p.with(cmd.Context(), func(ws *client.Workspace) error {
				for c, err := range ws.Watch(cmd.Context(), from) {
					if err != nil {
						return err
					}
					if err := showChange(cmd, asJSON, c); err != nil {
						return err
					}
				}
				return nil
			})
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().StringVar(&from, "from", "", "go on behind `CURSOR`, of a line of --json")
	return cmd
}

func showChange(cmd *cobra.Command, asJSON bool, c client.Change) error {
	out := newOutput(cmd, asJSON)
	cells := []string{c.Kind}
	for _, name := range []string{c.Path, c.To} {
		if name != "" {
			cells = append(cells, shownName(name))
		}
	}
	row := changeRow{Kind: c.Kind, Path: mesh.Path(c.Path), To: mesh.Path(c.To), Time: c.Time, Cursor: c.Cursor}
	if err := out.row(row, cells...); err != nil {
		return err
	}
	return out.flush()
}
