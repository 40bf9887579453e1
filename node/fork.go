package node

import (
	"context"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// forkWorkspace makes a workspace of a commit of another, of the same tenant: a record
// that refers to the commit, and nothing is copied. Its first owner opens its journal
// with a checkpoint of that commit (fenceAfterLast); from then on it is like any other.
// The commit is looked at again behind the record, when no garbage is collected that was
// looked for before there was the record: so either that was read, or the commit is seen
// to be gone.
func (n *Node) forkWorkspace(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.ForkRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if req.Bound != nil {
		return nil, mesh.Errorf(mesh.CodeDenied, "a token that is bound to a workspace cannot make another one")
	}
	to, err := mesh.ParseWorkspace(string(a.Workspace))
	if err != nil {
		return nil, err
	}
	from, err := n.recordOf(ctx, t, req, a.From)
	if err != nil {
		return nil, err
	}
	_, ref, err := n.find(ctx, &from, a.At)
	if err != nil {
		return nil, err
	}
	v, err := n.view(ctx, &from, ref)
	if err != nil {
		return nil, err
	}
	r := kv.WorkspaceRecord{Tenant: t, Name: to, Settings: from.Settings, Origin: &kv.Origin{
		Workspace: from.Name, ID: from.ID, Commit: ref.String(), PackShard: from.PackShard(), Time: time.Now().UTC(), Request: req.ID,
	}}
	old, err := n.kv.Workspaces.Get(ctx, t, to)
	switch {
	case err == nil && (old.Origin == nil || req.ID == "" || old.Origin.Request != req.ID):
		return nil, mesh.Errorf(mesh.CodeExists, "workspace %s exists; take another name", to)
	case err == nil:
		r = old
	case mesh.CodeOf(err) == mesh.CodeNotFound:
		r, err = n.newWorkspace(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	crashPoint("fork recorded")
	if time.Since(v.commit.Time) > n.cfg.CollectAge/2 { // else it is too young to be collected
		if err := n.awaitCollection(ctx, t); err != nil {
			return nil, err
		}
	}
	store, err := n.content(ctx, t, from.PackShard())
	if err == nil {
		err = store.Present(ctx, ref)
	}
	if mesh.CodeOf(err) == mesh.CodeNotFound && err != nil {
		return nil, mesh.Errorf(mesh.CodeNotFound, "commit %s of workspace %s was collected; remove workspace %s, which has no files", ref.Commit, from.Name, to)
	}
	return &mesh.Reply{Args: originOf(&r)}, err
}

// originOf is a fork's origin as the wire has it; nil: it is no fork.
func originOf(r *kv.WorkspaceRecord) *mesh.Origin {
	if r.Origin == nil {
		return nil
	}
	return &mesh.Origin{Workspace: r.Origin.Workspace, Commit: commitName(r.Origin.Commit), Time: r.Origin.Time}
}
