package mcpgw

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/mesh"
)

// DefaultDifferences is how many names one result of snapshot_diff shows.
const DefaultDifferences = 200

type snapshotArgs struct {
	Name    string `json:"name" jsonschema:"name of the new snapshot: 1 to 40 of a-z, 0-9 and -"`
	Message string `json:"message,omitempty" jsonschema:"what it is, for people"`
}

type snapshotResult struct {
	Name      string `json:"name"`
	Commit    string `json:"commit" jsonschema:"what it names"`
	CreatedAt string `json:"createdAt" jsonschema:"RFC 3339, UTC"`
	Message   string `json:"description,omitempty" jsonschema:"the message that it was made with"`
}

func (r snapshotResult) text() string {
	return "Made snapshot " + r.Name + " (commit " + r.Commit + ")"
}

func shownSnapshot(e mesh.SnapshotEntry) snapshotResult {
	return snapshotResult{string(e.Name), e.Commit, e.Created.UTC().Format(time.RFC3339), shownName(e.Message)}
}

type snapshotListArgs struct{}

type snapshotListResult struct {
	Snapshots []snapshotResult `json:"snapshots" jsonschema:"the oldest first"`
	Truncated bool             `json:"truncated" jsonschema:"there are more"`
}

func (r snapshotListResult) text() string {
	var b strings.Builder
	for _, s := range r.Snapshots {
		fmt.Fprintf(&b, "%s  %s  %s\n", s.Name, s.CreatedAt, s.Message)
	}
	if len(r.Snapshots) == 0 {
		b.WriteString("(no snapshots)")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

type snapshotDiffArgs struct {
	From   string `json:"from" jsonschema:"a snapshot, a commit or a time (RFC 3339)"`
	To     string `json:"to,omitempty" jsonschema:"likewise; default what the files are now"`
	Path   string `json:"path,omitempty" jsonschema:"only this path and what is below it"`
	Text   bool   `json:"text,omitempty" jsonschema:"with unified diffs of text files" limits:"default=false"`
	Limit  int    `json:"limit,omitempty" jsonschema:"how many names to show" limits:"min=0 max=1000 default=200"`
	Cursor string `json:"cursor,omitempty" jsonschema:"nextCursor of the call before"`
}

type snapshotChange struct {
	Path string `json:"path"`
	Kind string `json:"kind" jsonschema:"added, removed, changed, type (of another type) or mode (mode alone)"`
	Diff string `json:"diff,omitempty" jsonschema:"unified diff of a text file"`
	Note string `json:"note,omitempty" jsonschema:"why there is no diff, or not all of it"`
}

type snapshotDiffResult struct {
	Changes    []snapshotChange `json:"changes" jsonschema:"in the order of paths"`
	Truncated  bool             `json:"truncated" jsonschema:"there may be more"`
	NextCursor string           `json:"nextCursor,omitempty" jsonschema:"cursor of the call that shows the next; from and to stay the same"`
	From       string           `json:"from" jsonschema:"what to name as from in the next call"`
	To         string           `json:"to" jsonschema:"what to name as to in the next call"`
}

func (r snapshotDiffResult) text() string {
	var b strings.Builder
	for _, c := range r.Changes {
		note := ""
		if c.Note != "" {
			note = " (" + c.Note + ")"
		}
		fmt.Fprintf(&b, "%s %s%s\n%s", c.Kind, c.Path, note, c.Diff)
	}
	if len(r.Changes) == 0 && !r.Truncated {
		b.WriteString("No differences\n")
	}
	if r.NextCursor != "" {
		return withNote(&b, fmt.Sprintf("there may be more; call snapshot_diff with from=%q, to=%q and cursor=%q", r.From, r.To, r.NextCursor))
	}
	return withNote(&b, "")
}

type snapshotRestoreArgs struct {
	At    string   `json:"at" jsonschema:"a snapshot, a commit or a time (RFC 3339)"`
	Paths []string `json:"paths,omitempty" jsonschema:"what to restore, with everything below; default all files"`
}

type snapshotRestoreResult struct {
	Changed int64  `json:"changed" jsonschema:"names that were made, replaced, changed or removed"`
	Commit  string `json:"commit" jsonschema:"what the files are now as of"`
	Before  string `json:"before" jsonschema:"snapshot of what was before"`
}

func (r snapshotRestoreResult) text() string {
	return fmt.Sprintf("%s; what was before is snapshot %s", counted(r.Changed, "change"), r.Before)
}

type forkArgs struct {
	Name string `json:"name" jsonschema:"name of the new workspace: 1 to 40 of a-z, 0-9 and -"`
	At   string `json:"at,omitempty" jsonschema:"a snapshot, a commit or a time (RFC 3339) of this workspace; default now"`
}

type forkResult struct {
	Name   string `json:"name"`
	From   string `json:"from" jsonschema:"the workspace that it was forked from"`
	Commit string `json:"commit" jsonschema:"what it begins with"`
}

func (r forkResult) text() string {
	return fmt.Sprintf("Made workspace %s of %s (commit %s)", r.Name, r.From, r.Commit)
}

func addSnapshots(s *server.MCPServer) {
	gone := map[mesh.Code]string{mesh.CodeNotFound: "See which snapshots there are with snapshot_list."}
	add(s, tool[snapshotArgs, snapshotResult]{
		name: "snapshot_create", title: "Make a snapshot",
		description: "Name what all files of the workspace are now, so that they can be compared with it and restored later. It copies nothing " +
			"and takes milliseconds; commands may run. Make one before a risky change.",
		hints: hints{},
		run: func(ctx context.Context, c *call, in snapshotArgs) (snapshotResult, error) {
			e, err := c.workspace.CreateSnapshot(ctx, in.Name, in.Message)
			return shownSnapshot(e), err
		},
		next: map[mesh.Code]string{mesh.CodeExists: "Choose another name."},
	})
	add(s, tool[snapshotListArgs, snapshotListResult]{
		name: "snapshot_list", title: "List snapshots",
		description: "List the snapshots of the workspace, the oldest first.",
		hints:       hints{readOnly: true, idempotent: true},
		run:         listSnapshots,
	})
	add(s, tool[snapshotDiffArgs, snapshotDiffResult]{
		name: "snapshot_diff", title: "Compare snapshots",
		description: "List the files that differ between two snapshots, or between one and now: added, removed, changed, of another type or mode. " +
			"With text the changes of text files are shown as unified diffs. read_text_file, list_directory and get_file_info show files as they were with at.",
		hints: hints{readOnly: true, idempotent: true},
		run:   diffSnapshots,
		next:  gone,
	})
	add(s, tool[snapshotRestoreArgs, snapshotRestoreResult]{
		name: "snapshot_restore", title: "Restore a snapshot",
		description: "Make files what they were in a snapshot: all, or only some paths. What was not there then is removed; what is the same is left " +
			"alone. Before that the present is made a snapshot, which the result names, so that it can be undone.",
		hints: hints{destructive: true, idempotent: true},
		run: func(ctx context.Context, c *call, in snapshotRestoreArgs) (snapshotRestoreResult, error) {
			done, err := c.workspace.Restore(ctx, in.At, in.Paths, func(r mesh.RestoreReply) {
				if !r.Done {
					c.progress(ctx, float64(r.Changed), counted(r.Changed, "change"))
				}
			})
			return snapshotRestoreResult{done.Changed, done.Commit, string(done.Before)}, err
		},
		next: gone,
	})
	add(s, tool[forkArgs, forkResult]{
		name: "workspace_fork", title: "Fork the workspace",
		description: "Make another workspace of what this one is now, or was in a snapshot, without copying anything. The two know nothing of each " +
			"other from then on. Other tools go on working in this workspace.",
		hints: hints{},
		run: func(ctx context.Context, c *call, in forkArgs) (forkResult, error) {
			origin, err := c.client.Fork(ctx, c.workspace.Name(), in.At, in.Name)
			return forkResult{in.Name, string(origin.Workspace), origin.Commit}, err
		},
		next: map[mesh.Code]string{mesh.CodeExists: "Choose another name.", mesh.CodeNotFound: gone[mesh.CodeNotFound]},
	})
}

// past makes a call one of what the workspace was; "" leaves it.
func (c *call) past(ctx context.Context, at string) error {
	if at == "" {
		return nil
	}
	ws, err := c.workspace.At(ctx, at)
	if err == nil {
		c.workspace = ws
	}
	return err
}

func listSnapshots(ctx context.Context, c *call, _ snapshotListArgs) (snapshotListResult, error) {
	r := snapshotListResult{Snapshots: []snapshotResult{}}
	for e, err := range c.workspace.Snapshots(ctx) {
		if err != nil {
			return r, err
		}
		if r.Truncated = len(r.Snapshots) == MaxEntries; r.Truncated {
			break
		}
		r.Snapshots = append(r.Snapshots, shownSnapshot(e))
	}
	return r, nil
}

func diffSnapshots(ctx context.Context, c *call, in snapshotDiffArgs) (snapshotDiffResult, error) {
	r := snapshotDiffResult{Changes: []snapshotChange{}, From: in.From, To: in.To}
	if r.To == "" {
		var err error
		if r.To, err = c.workspace.Commit(ctx); err != nil {
			return r, err
		}
	}
	req := mesh.DiffRequest{From: r.From, To: r.To, Path: mesh.Path(in.Path), Text: in.Text, Limit: cmp.Or(in.Limit, DefaultDifferences)}
	if err := decodeCursor(in.Cursor, &req.Cursor); err != nil {
		return r, err
	}
	page, err := c.workspace.DiffPage(ctx, req)
	if err != nil {
		return r, err
	}
	shown := 0
	for i, e := range page.Entries {
		if shown += len(e.Diff); shown > MaxShown && i > 0 {
			page.Next = page.Entries[i-1].Path
			break
		}
		change := snapshotChange{Path: shownName(string(e.Path)), Kind: e.Kind, Diff: validText([]byte(e.Diff))}
		switch {
		case e.Binary:
			change.Note = "binary"
		case e.Cut:
			change.Note = "the diff is cut"
		}
		r.Changes = append(r.Changes, change)
	}
	if r.Truncated = page.Next != ""; r.Truncated {
		r.NextCursor = encodeCursor(page.Next)
	}
	return r, nil
}
