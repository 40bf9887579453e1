package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newStatus() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the nodes; succeeds once the mesh is ready",
		Long: "Show the nodes and how they isolate commands; succeeds once the mesh is ready. Without the operator's\n" +
			"credentials, and in a context other than default, it shows the workspaces that the token reaches instead.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := t.dir()
			if err != nil {
				return err
			}
			contexts, err := client.ReadContexts(dir)
			if err != nil {
				return err
			}
			if !contexts.Default() || !exists(filepath.Join(dir, "admin.creds")) {
				return ownStatus(cmd, &t, asJSON)
			}
			var reply mesh.StatusReply
			if err := t.request(cmd.Context(), mesh.VerbAdminStatus, struct{}{}, &reply); err != nil {
				return err
			}
			return showStatus(cmd, &reply, asJSON)
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func showStatus(cmd *cobra.Command, reply *mesh.StatusReply, asJSON bool) error {
	if len(reply.Nodes) == 0 {
		return mesh.Errorf(mesh.CodeUnavailable, "no node is ready")
	}
	if asJSON {
		return newOutput(cmd, true).row(reply)
	}
	out := newOutput(cmd, false, "NODE", "VERSION", "WORKSPACES", "ISOLATION", "STARTED", "NETWORK", "CAPTURE", "STATE")
	for _, n := range reply.Nodes {
		level := levelOf(&n)
		driver := level.Driver
		if driver == "" {
			driver = "commands are refused: " + level.Reason
		}
		if err := out.row(nil, string(n.Node), orDash(n.Version), strconv.Itoa(n.Workspaces), driver, shownTime(n.Started), networkOf(&n, level), orDash(n.Capture), stateOf(&n)); err != nil {
			return err
		}
	}
	if err := out.flush(); err != nil {
		return err
	}
	showMirror(cmd, reply.Mirror)
	return nil
}

// showMirror says how far the copy is.
func showMirror(cmd *cobra.Command, m *mesh.MirrorStatus) {
	if m == nil {
		return
	}
	state := "all is copied"
	if m.Bytes > 0 || m.Seconds > 0 {
		state = fmt.Sprintf("%d bytes and %.1f seconds behind", m.Bytes, m.Seconds)
	}
	switch {
	case m.Error != "" && m.Bytes == 0 && m.Seconds == 0: // what is missing is not known
		state = m.Error
	case m.Error != "":
		state += ": " + m.Error
	}
	cmd.PrintErrf("mirror %s: %s\n", m.URL, state)
	switch {
	case m.FilesError != "":
		cmd.PrintErrf("readable copy of the files: %s\n", m.FilesError)
	case m.FilesSeconds > 0:
		cmd.PrintErrf("readable copy of the files: %.1f seconds behind\n", m.FilesSeconds)
	}
}

// stateOf is whether a node is there, and whether workspaces come to it.
func stateOf(n *mesh.NodeStatus) string {
	if n.Unfit != "" && n.State == mesh.NodeUp {
		return "takes no workspaces: " + n.Unfit
	}
	return n.State
}

// networkOf is what commands of a node may reach at most, and do where nothing
// keeps them from it.
func networkOf(n *mesh.NodeStatus, level isolation) string {
	if level.Driver != "" && !level.Net {
		return "full"
	}
	return orDash(n.Net)
}

// isolation is what a person wants to know of a node's sandbox.
type isolation struct {
	Driver string `json:"driver"` // "" when commands are refused
	Net    bool   `json:"net"`    // commands have no network but the granted one
	Reason string `json:"reason"`
}

func levelOf(n *mesh.NodeStatus) isolation {
	var level isolation
	raw, err := json.Marshal(n.Isolation)
	if err == nil {
		err = json.Unmarshal(raw, &level)
	}
	if err != nil {
		return isolation{Driver: "unknown"}
	}
	return level
}

// reachable is what a tenant may know of the mesh's state.
type reachable struct {
	URL        string                `json:"url"`
	Tenant     string                `json:"tenant"`
	Workspace  string                `json:"workspace,omitempty"` // the one that the token is bound to
	Scope      string                `json:"scope,omitempty"`     // the path in it that the token is bound to
	Workspaces []mesh.WorkspaceEntry `json:"workspaces"`
}

func ownStatus(cmd *cobra.Command, t *target, asJSON bool) error {
	cfg, _, err := t.config()
	if err != nil {
		return err
	}
	c, err := client.Dial(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	state := reachable{URL: cfg.URL, Tenant: c.Tenant(), Workspaces: []mesh.WorkspaceEntry{}}
	state.Workspace, state.Scope = c.Bound()
	for w, err := range c.Workspaces(cmd.Context()) {
		if err != nil {
			return err
		}
		state.Workspaces = append(state.Workspaces, w)
	}
	if asJSON {
		return newOutput(cmd, true).row(state)
	}
	cmd.PrintErrf("the mesh answers at %s; tenant %s%s\n", state.URL, state.Tenant, boundTo(state.Workspace, state.Scope))
	out := newOutput(cmd, false, "NAME", "NODE", "EPOCH", "CREATED")
	for _, w := range state.Workspaces {
		if err := out.workspace(w); err != nil {
			return err
		}
	}
	return out.flush()
}

// boundTo says what a token is good for besides its tenant.
func boundTo(workspace, scope string) string {
	switch {
	case workspace == "":
		return ""
	case scope == "" || scope == ".":
		return ", workspace " + workspace
	}
	return ", workspace " + workspace + " below " + shownName(scope)
}
