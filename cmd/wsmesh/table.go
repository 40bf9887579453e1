package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// output shows rows: aligned and with a header on a terminal, with tabs between
// and none off it, or as one JSON object a line. Call flush at the end.
type output struct {
	out      io.Writer
	tab      *tabwriter.Writer
	terminal bool
	json     bool
}

func bindJSON(cmd *cobra.Command, p *bool) {
	cmd.Flags().BoolVar(p, "json", false, "print one JSON object a line")
}

func newOutput(cmd *cobra.Command, asJSON bool, header ...string) *output {
	o := &output{out: cmd.OutOrStdout(), json: asJSON, terminal: isTerminal(cmd.OutOrStdout())}
	if o.terminal && !asJSON {
		o.tab = tabwriter.NewWriter(o.out, 0, 8, 2, ' ', 0)
		if len(header) > 0 {
			fmt.Fprintln(o.tab, strings.Join(header, "\t"))
		}
	}
	return o
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// row shows v as JSON, or else its cells.
func (o *output) row(v any, cells ...string) error {
	if o.json {
		e := json.NewEncoder(o.out)
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	var to io.Writer = o.out
	if o.tab != nil {
		to = o.tab
	}
	_, err := fmt.Fprintln(to, strings.Join(cells, "\t"))
	return err
}

func (o *output) flush() error {
	if o.tab == nil {
		return nil
	}
	return o.tab.Flush()
}

func shownTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
