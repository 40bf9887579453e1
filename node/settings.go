package node

import (
	"context"

	"github.com/wsmesh/wsmesh/mesh"
)

// checkSettings refuses what cannot be or is not granted.
func (n *Node) checkSettings(s *mesh.Settings) error {
	if err := s.Check(); err != nil {
		return err
	}
	return n.checkNet(s.Net)
}

// setWorkspace changes settings in the workspace's record and has its owner, if there is
// one, work by them before it answers. A repeat does the same again.
func (n *Node) setWorkspace(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.WorkspaceSetRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	w, err := reachable(req, a.Workspace)
	if err != nil {
		return nil, err
	}
	if req.Bound != nil {
		return nil, mesh.Errorf(mesh.CodeDenied, "a token that is bound to a workspace cannot change its settings")
	}
	old, err := n.kv.Workspaces.Get(ctx, t, w)
	if err != nil {
		return nil, err
	}
	if old.Dir != "" && (a.Change.Zone != nil || a.Change.Labels != nil) {
		return nil, mesh.Errorf(mesh.CodeInvalid, "workspace %s is a directory of its node's machine, and stays there; it can need no zone and no labels", w)
	}
	record, err := n.kv.Workspaces.Set(ctx, t, w, func(s *mesh.Settings) error {
		a.Change.Apply(s)
		return n.checkSettings(s)
	})
	if err != nil {
		return nil, err
	}
	if err := n.router.Reread(ctx, t, w); err != nil {
		return nil, err
	}
	return &mesh.Reply{Args: record.Settings}, nil
}

// reread answers a node that has changed the settings of a workspace.
func (n *Node) reread(ctx context.Context, p mesh.NodePingRequest) error {
	n.mu.Lock()
	w := n.workspaces[key{p.Tenant, p.Workspace}]
	n.mu.Unlock()
	if w == nil {
		return nil // whoever opens it reads them
	}
	if err := w.readSettings(ctx); err != nil {
		return err
	}
	select {
	case <-w.opened:
	case <-ctx.Done():
		return mesh.Errorf(mesh.CodeBusy, "the settings of workspace %s are stored, and it is still opening on node %s; try again", p.Workspace, n.cfg.Name)
	}
	if w.serving.Load() && n.missing(&w.settings.Load().Need) != "" {
		go w.drain(n.cfg.Grace, mesh.Errorf(mesh.CodeCanceled, "the workspace needs what node %s has not", n.cfg.Name)) // ends with the tenure
	}
	return nil
}

// readSettings makes the settings in the workspace's record those that it works by. The
// later of two readings counts.
func (w *workspace) readSettings(ctx context.Context) error {
	w.reading.Lock()
	defer w.reading.Unlock()
	record, err := w.node.kv.Workspaces.Get(ctx, w.tenant, w.name)
	if err != nil {
		return err
	}
	before := w.settings.Swap(&record.Settings)
	if before != nil && w.serving.Load() && w.files != nil {
		w.files.watch.Lose() // what was ephemeral may not be any more: all is looked at once
	}
	return nil
}
