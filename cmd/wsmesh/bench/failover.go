package bench

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// failoverFiles is how many files the workspace has whose owner is killed.
const failoverFiles = 1000

// failoverPair kills the node that hosts a workspace, one of two that are started for
// this, and asks at once for a change, up to its acknowledgement by the other one.
func failoverPair(ctx context.Context, cfg Config, ws *client.Workspace, setting Setting) (_ *pair, err error) {
	archive, names, sums, err := tree(cmp.Or(cfg.Files, failoverFiles))
	if err != nil {
		return nil, err
	}
	nodes, stop, err := startNodes(ctx, cfg, ws.Name(), setting, 2, false)
	if err != nil {
		return nil, err
	}
	moved := ws.Name() + "-moved"
	closing := func() {
		_ = cfg.Client.RemoveWorkspace(context.WithoutCancel(ctx), moved) // the result stands
		stop()
	}
	defer func() {
		if err != nil {
			closing()
		}
	}()
	need := mesh.Need{Labels: map[string]string{ownLabel: ws.Name()}}
	if err = cfg.Client.CreateWorkspaceWith(ctx, moved, client.WorkspaceConfig{Need: need}); err != nil {
		return nil, err
	}
	own := cfg.Client.Workspace(moved)
	if err = own.PutDir(ctx, ".", bytes.NewReader(archive)); err != nil {
		return nil, err
	}
	owner, err := hostOf(ctx, own, nodes)
	if err != nil {
		return nil, err
	}
	rounds := 0
	return &pair{
		least: 3,
		ours: func(ctx context.Context, i int) error {
			if err := owner.cmd.Process.Kill(); err != nil {
				return err
			}
			return own.WriteFile(ctx, fmt.Sprintf("after-%d", i), fmt.Append(nil, i), 0)
		},
		after: func(ctx context.Context, i int) error {
			rounds = i + 1
			owner.end()
			err := owner.start(cfg.Program)
			if err == nil {
				err = owner.serves(ctx, cfg)
			}
			if err == nil {
				owner, err = hostOf(ctx, own, nodes)
			}
			return err
		},
		check: func(ctx context.Context) error {
			for i := range rounds {
				b, err := own.ReadFile(ctx, fmt.Sprintf("after-%d", i))
				if err := same(b, fmt.Append(nil, i), err); err != nil {
					return err
				}
			}
			for i := 0; i < len(names); i += perDirectory {
				b, err := own.ReadFile(ctx, names[i])
				if err == nil && sha256.Sum256(b) != sums[i] {
					err = mesh.Errorf(mesh.CodeInternal, "bench: the file %s has other bytes than were written", names[i])
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
		close: closing,
	}, nil
}

// hostOf is which of the nodes hosts a workspace.
func hostOf(ctx context.Context, ws *client.Workspace, nodes []*ownNode) (*ownNode, error) {
	info, err := ws.Info(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if n.name == info.Node {
			return n, nil
		}
	}
	return nil, mesh.Errorf(mesh.CodeInternal, "bench: workspace %s is on node %s, which is none of this row's", ws.Name(), info.Node)
}
