package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	costWorkspaces = 150
	costSettle     = 2 * time.Second // until a node has given back what it used for a moment
)

// Cost is what a workspace takes of the memory of a node, which one that is started for
// this says; of N of them. None of them has a sandbox.
type Cost struct {
	N    int   `json:"n"`
	Idle int64 `json:"idle_bytes"` // of one that is there and not open
	Open int64 `json:"open_bytes"` // of one that is open, with one file
}

// cost measures it. nil: no node can be started here, or its memory not be read.
func cost(ctx context.Context, cfg Config, name string, setting Setting) (*Cost, error) {
	nodes, stop, err := startNodes(ctx, cfg, name, setting, 1, true)
	if mesh.CodeOf(err) == mesh.CodeUnsupported {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer stop()
	if _, err := nodes[0].memory(); err != nil {
		return nil, nil
	}
	need := client.WorkspaceConfig{Need: mesh.Need{Labels: map[string]string{ownLabel: name}}}
	each := func(from, to int, do func(w string) error) error {
		var g errgroup.Group
		g.SetLimit(8)
		for i := from; i < to; i++ {
			g.Go(func() error { return do(fmt.Sprintf("%s-cost-%d", name, i)) })
		}
		return g.Wait()
	}
	create := func(w string) error { return cfg.Client.CreateWorkspaceWith(ctx, w, need) }
	write := func(w string) error { return cfg.Client.Workspace(w).WriteFile(ctx, "f", []byte(w), 0) }
	const n = costWorkspaces
	defer each(0, 2*n, func(w string) error { return cfg.Client.RemoveWorkspace(context.WithoutCancel(ctx), w) }) //nolint:errcheck // the result stands
	var at []int64
	for _, step := range []func() error{
		func() error { return each(0, n, create) }, // which takes what no later one takes again
		func() error { return each(n, 2*n, create) },
		func() error { return each(0, n, write) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
		time.Sleep(costSettle)
		now, err := nodes[0].memory()
		if err != nil {
			return nil, err
		}
		at = append(at, now)
	}
	return &Cost{N: n, Idle: max(0, at[1]-at[0]) / n, Open: max(0, at[2]-at[1]) / n}, nil
}

// memory is what the node has for itself, without the pages of its program.
func (n *ownNode) memory() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", n.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(raw) {
		if f := bytes.Fields(line); len(f) > 1 && string(f[0]) == "Anonymous:" {
			kb, err := strconv.ParseInt(string(f[1]), 10, 64)
			return kb << 10, err
		}
	}
	return 0, os.ErrNotExist
}
