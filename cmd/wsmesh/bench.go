package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/cmd/wsmesh/bench"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

func newBench() *cobra.Command {
	var t target
	var asJSON, long bool
	var n, files int
	cmd := &cobra.Command{
		Use:   "bench NAME",
		Short: "Measure a running mesh next to the floor under it (operator)",
		Long: "Measure a running mesh over TCP with the tenant's token, and next to it, interleaved, the floor under it:\n" +
			"exec      a command, against os/exec of the same command\n" +
			"exec_32   the same with 32 callers at a time\n" +
			"read      a file of 4 KiB, against request and reply of the same bytes\n" +
			"write     a file of 4 KiB, against a fenced publish of the same bytes\n" +
			"upload    a file of 1 MiB, against the same bytes in acknowledged NATS messages\n" +
			"download  a file of 1 MiB, against the same bytes in replies of NATS\n" +
			"restore   a tree of 10,000 files that is gone from the node's disk, against tar of the same tree; where the node runs\n" +
			"untar     2,000 files by tar in a command, without their capture, against the same tar outside; where the node runs\n" +
			"mem_get   a value of 4 KiB, against the same reading of a stream's leader\n" +
			"mem_put   a value of 4 KiB, against the same write to a stream\n" +
			"mem_list  100 of 1,000 keys, against the same keys by a consumer of a stream\n" +
			"mcp_exec  a command through the MCP gateway of client.json, against our exec of it\n" +
			"mcp_read  a file of 4 KiB through the gateway, against our read of it\n" +
			"exec_output  a command that writes 1 MiB, against the same bytes published to a NATS stream\n" +
			"snapshot  of 10,000 files, one of which has changed, against one where nothing has\n" +
			"mirror    of 64 MiB, from a commit to its copy at --s3 URL, against puts of 4 MiB there, 4 at a time; with the nodes' keys\n" +
			"and without a floor:\n" +
			"exit_lag     from the last act of a command to when its client knows of its end\n" +
			"open         a new workspace, up to the output of its first command\n" +
			"capture      from the last act of a command that changes nothing to when that is known, in 10,000 files\n" +
			"failover     from the SIGKILL of a node, one of two that are started for this, to the first change of 1,000 files\n" +
			"             by the other one; where wsmesh init has left node.creds\n" +
			"fork         of a workspace of 10,000 files, up to the first one that is read\n" +
			"warm_memory  what a sandbox without a command takes\n" +
			"scale        commands that sleep on every node, against so many times what one node does; with two nodes at least.\n" +
			"             Where wsmesh init has left node.creds, with the memory that a node needs for a workspace that is\n" +
			"             there, and for one that is open",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !slices.Contains(bench.Names, args[0]):
				return wrongUse(cmd, "unknown bench %q; there are %s", args[0], strings.Join(bench.Names, " "))
			case long:
				return later("bench --long")
			case n < 0:
				return wrongUse(cmd, "--n %d is negative", n)
			}
			row, err := measure(cmd, &t, bench.Config{Name: args[0], N: n, Files: files})
			if err != nil {
				return err
			}
			return showBench(cmd, row, asJSON)
		},
	}
	t.bindOwn(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().BoolVar(&long, "long", false, "the whole set (not built yet)")
	cmd.Flags().IntVar(&n, "n", 0, "measure `N` operations")
	cmd.Flags().IntVar(&files, "files", 0, "work on a tree of `N` files")
	cmd.Flags().MarkHidden("n")     //nolint:errcheck // the flag exists
	cmd.Flags().MarkHidden("files") //nolint:errcheck // the flag exists
	return cmd
}

func measure(cmd *cobra.Command, t *target, cfg bench.Config) (*bench.Row, error) {
	floor, err := t.operator()
	if err != nil {
		return nil, err
	}
	defer floor.Close()
	echo, err := connectOperator(floor.url, floor.creds, floor.ca)
	if err != nil {
		return nil, err
	}
	defer echo.Close()
	own, err := t.ownConfig()
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(cmd.Context(), own)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cfg.Client, cfg.Floor, cfg.Echo, cfg.Token = c, floor.conn, echo.conn, own.Token
	dir, err := t.dir()
	if err != nil {
		return nil, err
	}
	if cfg.Program, err = os.Executable(); err != nil {
		return nil, err
	}
	cfg.Data, cfg.URL = dir, floor.url
	if raw, err := os.ReadFile(filepath.Join(dir, "client.json")); err == nil { // without it the rows of MCP say what is missing
		var file client.File
		if json.Unmarshal(raw, &file) == nil {
			cfg.HTTP = file.HTTP
		}
	}
	if cfg.Name == "mirror" {
		if cfg.Mirror, err = mirrorOf(cmd.Context(), floor); err != nil {
			return nil, err
		}
	}
	return bench.Run(cmd.Context(), cfg)
}

// mirrorOf opens the mesh's mirror; nil: it has none.
func mirrorOf(ctx context.Context, o *operator) (objstore.Remote, error) {
	var s mesh.StatusReply
	if err := o.ask(ctx, mesh.VerbAdminStatus, struct{}{}, &s); err != nil || s.Mirror == nil {
		return nil, err
	}
	return openRemote(ctx, s.Mirror.URL)
}

func showBench(cmd *cobra.Command, row *bench.Row, asJSON bool) error {
	if asJSON {
		return newOutput(cmd, true).row(row)
	}
	out := newOutput(cmd, false, "NAME", "N", "P50", "P99", "OPS/S", "FLOOR", "FLOOR P50", "FLOOR OPS/S", "P50 RATIO", "OPS RATIO")
	if row.Bytes > 0 {
		if err := out.row(nil, row.Name, fmt.Sprint(row.N), fmt.Sprintf("%.1fMiB", float64(row.Bytes)/(1<<20)), "-", "-", "-", "-", "-", "-", "-"); err != nil {
			return err
		}
		return out.flush()
	}
	floor := bench.Floor{Name: "-"}
	if row.Floor != nil {
		floor = *row.Floor
	}
	err := out.row(
		nil, row.Name, fmt.Sprint(row.N), micro(row.P50), micro(row.P99), fmt.Sprintf("%.0f", row.Ops),
		floor.Name, micro(floor.P50), fmt.Sprintf("%.0f", floor.Ops),
		fmt.Sprintf("%.2f", row.RatioP50), fmt.Sprintf("%.2f", row.RatioOps),
	)
	if err != nil {
		return err
	}
	if c := row.Cost; c != nil {
		kib := func(of string, size int64) error {
			return out.row(nil, of, fmt.Sprint(c.N), fmt.Sprintf("%.1fKiB", float64(size)/(1<<10)), "-", "-", "-", "-", "-", "-", "-")
		}
		if err := errors.Join(kib("idle_memory", c.Idle), kib("open_memory", c.Open)); err != nil {
			return err
		}
	}
	return out.flush()
}

func micro(us float64) string {
	if us >= 10_000 {
		return fmt.Sprintf("%.1fms", us/1000)
	}
	return fmt.Sprintf("%.0fµs", us)
}
