package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// doctorTime bounds the whole examination: the canary and a server that is
// silent are the slowest of it.
const doctorTime = 30 * time.Second

// States of a finding. Only stateFail makes doctor end with 1.
const (
	stateOK   = "ok"
	stateWarn = "warn" // it works, and less well than it could
	stateFail = "fail"
)

// finding is what one check found; Fix is empty where nothing needs one. It
// never holds a token.
type finding struct {
	Check  string `json:"check"`
	State  string `json:"state"`
	Detail string `json:"detail"`
	Fix    string `json:"fix"`
}

func ok(check, format string, args ...any) finding {
	return finding{Check: check, State: stateOK, Detail: fmt.Sprintf(format, args...)}
}

func warn(check, detail, fix string) finding { return finding{check, stateWarn, detail, fix} }

func fail(check, detail, fix string) finding { return finding{check, stateFail, detail, fix} }

// doctor is one examination. Its checks try what they report on; none of them
// changes the machine.
type doctor struct {
	target *target
	dir    string
	found  []finding
}

func (d *doctor) add(f ...finding) { d.found = append(d.found, f...) }

func newDoctor() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what this machine lacks, and how to get it",
		Long: "Try what hosting workspaces and reaching a mesh need, and name the fix for what is missing. It changes\n" +
			"nothing. It ends with 1 when a check fails; a warning is about something that works less well than it could.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := t.dir()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorTime)
			defer cancel()
			d := &doctor{target: &t, dir: dir}
			d.host(ctx)
			d.mesh(ctx)
			if err := cmd.Context().Err(); err != nil { // what was cut short is no finding
				return err
			}
			return d.show(cmd, asJSON)
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func (d *doctor) show(cmd *cobra.Command, asJSON bool) error {
	out := newOutput(cmd, asJSON, "CHECK", "STATE", "DETAIL")
	failed := false
	for _, f := range d.found {
		failed = failed || f.State == stateFail
		cells := []string{f.Check, f.State, f.Detail, orDash(f.Fix)}
		if out.tab != nil { // a fourth column would be off the screen
			cells = cells[:3]
		}
		if err := out.row(f, cells...); err != nil {
			return err
		}
		if out.tab != nil && f.Fix != "" {
			if err := out.row(nil, "", "", "fix: "+f.Fix); err != nil {
				return err
			}
		}
	}
	if err := out.flush(); err != nil {
		return err
	}
	if failed {
		return &exitError{code: exitMesh}
	}
	return nil
}
