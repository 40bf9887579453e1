package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newSnapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Name what the files of a workspace are, compare and restore that",
		Long: "Name what the files of a workspace are, compare and restore that. What a workspace was is named by a snapshot,\n" +
			"by a commit of wsmesh history --commits, or by a time (2006-01-02T15:04:05Z: its newest commit that is not newer).\n" +
			"wsmesh ls, cat, get and stat show it with --at; wsmesh fork makes another workspace of it.",
		RunE: needsSubcommand,
	}
	cmd.AddCommand(newSnapshotCreate(), newSnapshotLs(), newSnapshotDiff(), newSnapshotRestore(), newSnapshotRm())
	return cmd
}

func newSnapshotCreate() *cobra.Command {
	var p place
	var asJSON bool
	var message string
	cmd := &cobra.Command{
		Use:   "create [-w WORKSPACE] NAME",
		Short: "Make a snapshot, while commands run; prints its commit",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				e, err := ws.CreateSnapshot(cmd.Context(), args[0], message)
				if err != nil {
					return err
				}
				return newOutput(cmd, asJSON).row(e, e.Commit)
			})
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().StringVarP(&message, "message", "m", "", "`TEXT` for people")
	return cmd
}

func newSnapshotLs() *cobra.Command {
	var p place
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [-w WORKSPACE]",
		Short: "List the snapshots of a workspace, the oldest first",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				out := newOutput(cmd, asJSON, "NAME", "CREATED", "COMMIT", "MESSAGE")
				for s, err := range ws.Snapshots(cmd.Context()) {
					if err != nil {
						return err
					}
					if err := out.row(s, string(s.Name), shownTime(s.Created), s.Commit, orDash(shownText(s.Message))); err != nil {
						return err
					}
				}
				return out.flush()
			})
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func newSnapshotDiff() *cobra.Command {
	var p place
	var asJSON bool
	var opts client.DiffOptions
	cmd := &cobra.Command{
		Use:   "diff [-w WORKSPACE] FROM [TO]",
		Short: "Show what differs between two snapshots, or one and now",
		Long: "Show which files differ between two snapshots, commits or times, or between one and now: added, removed, changed,\n" +
			"of another type, or of another mode. Times alone make no difference. With --text the differences of text files\n" +
			"are shown as a unified diff, of files up to 1 MiB and at most 64 KiB of it.",
		Args: between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				to := ""
				if len(args) > 1 {
					to = args[1]
				}
				out := newOutput(cmd, asJSON, "KIND", "PATH")
				for e, err := range ws.Diff(cmd.Context(), args[0], to, opts) {
					if err != nil {
						return err
					}
					if err := out.difference(e, opts.Text); err != nil {
						return err
					}
				}
				return out.flush()
			})
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().StringVar(&opts.Path, "path", "", "only `PATH` and what is below it")
	cmd.Flags().BoolVar(&opts.Text, "text", false, "with unified diffs of text files")
	return cmd
}

func (o *output) difference(e mesh.DiffEntry, text bool) error {
	kind := e.Kind
	if text && !o.json {
		switch {
		case e.Binary:
			kind += " (binary)"
		case e.Cut:
			kind += " (cut)"
		}
	}
	if err := o.row(e, kind, shownText(string(e.Path))); err != nil || o.json || e.Diff == "" {
		return err
	}
	if err := o.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(o.out, string(e.Diff))
	return err
}

func newSnapshotRestore() *cobra.Command {
	var p place
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "restore [-w WORKSPACE] SNAPSHOT [PATH…]",
		Short: "Make files what they were, all or some",
		Long: "Make the files at PATHs, or all files, what they were in SNAPSHOT, which may be a commit or a time: content and\n" +
			"attributes. What was not there is removed; what is the same is left alone, and commands go on. Before that the\n" +
			"present is made a snapshot, which is named.",
		Args: between(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				done, err := ws.Restore(cmd.Context(), args[0], args[1:], nil)
				if err != nil {
					return err
				}
				if asJSON {
					return newOutput(cmd, true).row(done)
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%d changes; what was before is snapshot %s\n", done.Changed, done.Before)
				return nil
			})
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func newSnapshotRm() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "rm [-w WORKSPACE] NAME…",
		Short: "Remove snapshots; what only they refer to is collected later",
		Args:  between(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				for _, name := range args {
					if err := ws.RemoveSnapshot(cmd.Context(), name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	p.bind(cmd)
	return cmd
}

func newFork() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fork SRC[@SNAPSHOT] DST",
		Short: "Make a workspace of what another one is, or was",
		Long: "Make the workspace DST of what the workspace SRC is now, or was in SNAPSHOT, which may be a commit or a time.\n" +
			"Nothing is copied: DST can be read at once, and from then on the two know nothing of each other. It begins without\n" +
			"commands, logs and snapshots, and wsmesh history says where it came from.",
		Args: between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, at, named := strings.Cut(args[0], "@")
			if named && at == "" {
				return wrongUse(cmd, "there is no snapshot behind the @")
			}
			return t.withClient(cmd.Context(), func(c *client.Client) error {
				origin, err := c.Fork(cmd.Context(), from, at, args[1])
				if err != nil || !asJSON {
					return err
				}
				return newOutput(cmd, true).row(origin)
			})
		},
	}
	t.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}
