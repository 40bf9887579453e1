package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newMem() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mem",
		Short: "Read and change the tenant's memory: values by key",
		Long: "Read and change the tenant's memory: values by key, in the mesh and not in any workspace.\n" +
			"A key is any UTF-8 text of up to 512 bytes, a value up to 512 KiB. What one command was told,\n" +
			"the next one sees, wherever it asks.",
		RunE: needsSubcommand,
	}
	cmd.AddCommand(newMemPut(), newMemGet(), newMemRm(), newMemLs(), newMemWatch())
	return cmd
}

// memory is which memory of which mesh a command is about.
type memory struct {
	target
	name string
}

func (m *memory) bind(cmd *cobra.Command) {
	m.target.bind(cmd)
	cmd.Flags().StringVarP(&m.name, "memory", "m", string(mesh.DefaultNamespace), "`NAMESPACE` of the memory")
}

func (m *memory) with(ctx context.Context, do func(*client.Memory) error) error {
	c, err := m.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c.Memory(m.name))
}

// memoryRow is a key as --json shows it. A value that is not UTF-8 is {"b64":"…"}.
type memoryRow struct {
	Key      string     `json:"key"`
	Revision uint64     `json:"revision,omitempty"`
	Value    *mesh.Path `json:"value,omitempty"`
	Size     int64      `json:"size"`
	Modified time.Time  `json:"modified,omitzero"`
	Expires  time.Time  `json:"expires,omitzero"`
	Deleted  bool       `json:"deleted,omitempty"`
}

func rowOf(e client.MemoryEntry) memoryRow {
	return memoryRow{Key: e.Key, Revision: e.Revision, Size: e.Size, Modified: e.Modified, Expires: e.Expires, Deleted: e.Deleted}
}

// ifRevision is --rev; it was given if it stands on the command line.
func ifRevision(cmd *cobra.Command, rev uint64) []client.MemoryOption {
	if !cmd.Flags().Changed("rev") {
		return nil
	}
	return []client.MemoryOption{client.IfRevision(rev)}
}

func newMemPut() *cobra.Command {
	var m memory
	var ttl time.Duration
	var rev uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "put [-m NAMESPACE] KEY [VALUE]",
		Short: "Set a key's value, from standard input without VALUE or with -",
		Args:  between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := ifRevision(cmd, rev)
			if cmd.Flags().Changed("ttl") {
				opts = append(opts, client.TTL(ttl))
			}
			value, err := valueOf(cmd, args[1:])
			if err != nil {
				return err
			}
			return m.with(cmd.Context(), func(m *client.Memory) error {
				revision, err := m.Put(cmd.Context(), args[0], value, opts...)
				if err != nil || !asJSON {
					return err
				}
				return newOutput(cmd, true).row(memoryRow{Key: args[0], Revision: revision, Size: int64(len(value))})
			})
		},
	}
	m.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "end the value's life after `D`, such as 90s or 24h")
	cmd.Flags().Uint64Var(&rev, "rev", 0, "only if the key has revision `N`; 0: only if it has no value")
	return cmd
}

func valueOf(cmd *cobra.Command, args []string) ([]byte, error) {
	if len(args) == 1 && args[0] != "-" {
		return []byte(args[0]), nil
	}
	value, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), mesh.MaxValueBytes+1))
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeOf(err), "read standard input: %s", err)
	}
	if len(value) > mesh.MaxValueBytes {
		return nil, mesh.Errorf(mesh.CodeTooLarge, "a value has at most %d bytes; keep more in a file: wsmesh put", mesh.MaxValueBytes)
	}
	return value, nil
}

func newMemGet() *cobra.Command {
	var m memory
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get [-m NAMESPACE] KEY",
		Short: "Print a key's value, byte for byte",
		Args:  between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.with(cmd.Context(), func(m *client.Memory) error {
				e, err := m.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					row, value := rowOf(e), mesh.Path(e.Value)
					row.Value = &value
					return newOutput(cmd, true).row(row)
				}
				_, err = cmd.OutOrStdout().Write(e.Value)
				return err
			})
		},
	}
	m.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func newMemRm() *cobra.Command {
	var m memory
	var rev uint64
	var recursive, all bool
	cmd := &cobra.Command{
		Use:   "rm [-m NAMESPACE] ([-r] KEY | --all)",
		Short: "Delete a key, with -r all keys that begin with KEY, or with --all every key",
		Args:  between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return wrongUse(cmd, "either KEY or --all, not both")
			case !all && len(args) == 0:
				return wrongUse(cmd, "KEY is missing")
			case recursive && !all && args[0] == "": // an unset variable would quietly delete the whole memory
				return wrongUse(cmd, "every key begins with an empty KEY; to delete all of memory %s say --all", m.name)
			case (recursive || all) && cmd.Flags().Changed("rev"):
				return wrongUse(cmd, "-r and --all exclude --rev")
			}
			return m.with(cmd.Context(), func(m *client.Memory) error {
				if recursive || all {
					_, err := m.DeleteAll(cmd.Context(), prefixOf(args))
					return err
				}
				return m.Delete(cmd.Context(), args[0], ifRevision(cmd, rev)...)
			})
		},
	}
	m.bind(cmd)
	cmd.Flags().Uint64Var(&rev, "rev", 0, "only if the key has revision `N`")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "all keys that begin with KEY, which must not be empty")
	cmd.Flags().BoolVar(&all, "all", false, "every key of the memory")
	return cmd
}

func newMemLs() *cobra.Command {
	var m memory
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [-m NAMESPACE] [PREFIX]",
		Short: "List the keys, or those that begin with PREFIX",
		Args:  between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.with(cmd.Context(), func(m *client.Memory) error {
				out := newOutput(cmd, asJSON, "REVISION", "SIZE", "MODIFIED", "EXPIRES", "KEY")
				for e, err := range m.List(cmd.Context(), prefixOf(args)) {
					if err != nil {
						return err
					}
					if err := out.key(e); err != nil {
						return err
					}
				}
				return out.flush()
			})
		},
	}
	m.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func prefixOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (o *output) key(e client.MemoryEntry) error {
	if !o.terminal {
		return o.row(rowOf(e), shownName(e.Key))
	}
	return o.row(rowOf(e), fmt.Sprint(e.Revision), strconv.FormatInt(e.Size, 10), shownTime(e.Modified), shownTime(e.Expires), shownName(e.Key))
}

func newMemWatch() *cobra.Command {
	var m memory
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "watch [-m NAMESPACE] [PREFIX]",
		Short: "Print the keys that change from now on, until interrupted",
		Long: "Print the keys that change from now on, until interrupted: put or del, revision and key.\n" +
			"A key that changes twice in a moment may be shown once.",
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := m.with(cmd.Context(), func(m *client.Memory) error {
				for e, err := range m.Watch(cmd.Context(), prefixOf(args)) {
					if err != nil {
						return err
					}
					what := "put"
					if e.Deleted {
						what = "del"
					}
					out := newOutput(cmd, asJSON)
					if err := out.row(rowOf(e), what, fmt.Sprint(e.Revision), shownName(e.Key)); err != nil {
						return err
					}
					if err := out.flush(); err != nil {
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
	m.bind(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}
