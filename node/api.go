package node

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// answerAPI answers what any node can: placement, workspace records, logs.
func (n *Node) answerAPI(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	a, err := mesh.ParseAPISubject(req.Subject)
	if err != nil {
		return nil, err
	}
	ctx, leave, err := n.enter(ctx, a.Tenant)
	if err != nil {
		return nil, err
	}
	defer leave()
	switch a.Service {
	case mesh.ServiceMemory:
		return n.answerMemory(ctx, a, req)
	case mesh.ServiceSnapshot:
		return n.answerSnapshot(ctx, a, req)
	}
	switch a.Service + "." + a.Verb {
	case mesh.ServicePlace + "." + mesh.VerbPlaceOpen:
		return n.place(ctx, a.Tenant, req)
	case mesh.ServiceLog + "." + mesh.VerbLogRead:
		return n.readLog(ctx, a.Tenant, req)
	case mesh.ServiceLog + "." + mesh.VerbLogList:
		return n.listLogs(ctx, a.Tenant, req)
	case mesh.ServiceLog + "." + mesh.VerbLogChanges:
		return n.readChanges(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceCreate:
		return n.createWorkspace(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceList:
		return n.listWorkspaces(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceFork:
		return n.forkWorkspace(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceRemove:
		return n.forgetWorkspace(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceSet:
		return n.setWorkspace(ctx, a.Tenant, req)
	}
	return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown request %.40s %.40s", a.Service, a.Verb)
}

func (n *Node) place(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.PlaceRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	w, err := reachable(req, a.Workspace)
	if err != nil {
		return nil, err
	}
	record, err := n.kv.Workspaces.Get(ctx, t, w)
	if mesh.CodeOf(err) == mesh.CodeNotFound && a.Create {
		if record, err = n.newWorkspace(ctx, kv.WorkspaceRecord{Tenant: t, Name: w}); mesh.CodeOf(err) == mesh.CodeExists {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	route, err := n.router.Place(ctx, &record)
	return &mesh.Reply{Args: route}, err
}

// newWorkspace makes the record of a workspace within the tenant's quota, which
// those created at the same moment can exceed: by three on each node. CodeExists comes
// with the record that there is.
func (n *Node) newWorkspace(ctx context.Context, r kv.WorkspaceRecord) (kv.WorkspaceRecord, error) {
	t := r.Tenant
	if !n.creations.Take(string(t)) {
		return r, mesh.Errorf(mesh.CodeBusy, "node %s is creating as many workspaces as it may, at all or for one tenant; try again", n.cfg.Name)
	}
	defer n.creations.Give(string(t))
	tenant, err := n.kv.Tenants.Get(ctx, t)
	if err != nil {
		return r, err
	}
	_, more, err := n.kv.Workspaces.List(ctx, t, "", DefaultMaxWorkspaces-1)
	if err != nil {
		return r, err
	}
	if more {
		return r, mesh.Errorf(mesh.CodeQuota, "tenant %s has %d workspaces, which is the limit; remove one with: wsmesh workspace rm NAME", t, DefaultMaxWorkspaces)
	}
	r.Shard = n.shardOf(t, r.Name)
	if r, err = n.kv.Workspaces.Create(ctx, r); err != nil {
		return r, err
	}
	err = n.stillThere(ctx, tenant)
	if code := mesh.CodeOf(err); code != mesh.CodeNotFound && code != mesh.CodeDenied {
		return r, nil // who removes the tenant waits for us, or is not there
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), mesh.DefaultSettle)
	defer cancel()
	if undone := n.kv.Workspaces.MarkRemoved(undo, t, r.Name, r.ID); undone != nil {
		n.log.Warn("a workspace of a removed tenant remains on record", "tenant", string(t), "workspace", string(r.Name), "err", undone)
	}
	return kv.WorkspaceRecord{}, err
}

// shardOf chooses the shard of a new workspace; its record keeps it.
func (n *Node) shardOf(t mesh.Tenant, w mesh.Workspace) int {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s.%s", t, w)
	return int(h.Sum32() % uint32(len(n.shards)))
}

func (n *Node) createWorkspace(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	w, a, err := workspaceIn(req)
	if err != nil {
		return nil, err
	}
	if err := n.checkSettings(&a.Settings); err != nil {
		return nil, err
	}
	if _, err := n.kv.Workspaces.Get(ctx, t, w); err == nil {
		return nil, mesh.Errorf(mesh.CodeExists, "workspace %s exists", w)
	} else if mesh.CodeOf(err) != mesh.CodeNotFound {
		return nil, err
	}
	_, err = n.newWorkspace(ctx, kv.WorkspaceRecord{Tenant: t, Name: w, Settings: a.Settings})
	return nil, err
}

func workspaceIn(req *mesh.Request) (w mesh.Workspace, a mesh.WorkspaceRequest, err error) {
	if err = req.Args(&a); err == nil {
		w, err = reachable(req, a.Workspace)
	}
	return w, a, err
}

// reachable parses the workspace that a request names in its body, and refuses
// one that the caller's token is not bound to.
func reachable(req *mesh.Request, name mesh.Workspace) (mesh.Workspace, error) {
	w, err := mesh.ParseWorkspace(string(name))
	if err == nil && req.Bound != nil && req.Bound.Workspace != w {
		err = mesh.Errorf(mesh.CodeDenied, "the token is bound to workspace %s", req.Bound.Workspace)
	}
	return w, err
}

func (n *Node) listWorkspaces(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.WorkspaceListRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if a.Limit <= 0 || a.Limit > mesh.MaxList {
		a.Limit = mesh.MaxList
	}
	records, more, err := n.visible(ctx, t, req.Bound, a)
	if err != nil {
		return nil, err
	}
	reply := mesh.WorkspaceListReply{Workspaces: []mesh.WorkspaceEntry{}, More: more}
	for _, r := range records {
		entry := mesh.WorkspaceEntry{Name: r.Name, Created: r.Created}
		owner, epoch, err := n.kv.Owners.Get(ctx, t, r.Name)
		if err != nil {
			return nil, err
		}
		if !owner.Released {
			entry.Node, entry.Epoch = owner.Node, epoch
		}
		reply.Workspaces = append(reply.Workspaces, entry)
	}
	return &mesh.Reply{Args: reply}, nil
}

// visible is a page of the workspaces that a token reaches.
func (n *Node) visible(ctx context.Context, t mesh.Tenant, bound *mesh.Bound, a mesh.WorkspaceListRequest) ([]kv.WorkspaceRecord, bool, error) {
	if bound == nil {
		return n.kv.Workspaces.List(ctx, t, a.After, a.Limit)
	}
	if bound.Workspace <= a.After {
		return nil, false, nil
	}
	r, err := n.kv.Workspaces.Get(ctx, t, bound.Workspace)
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		return nil, false, nil
	}
	return []kv.WorkspaceRecord{r}, false, err
}

// forgetWorkspace removes a workspace: its owner does it, so that no command
// runs on while the files go; or this node, by force.
func (n *Node) forgetWorkspace(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	w, a, err := workspaceIn(req)
	if err != nil {
		return nil, err
	}
	if req.Bound != nil {
		return nil, mesh.Errorf(mesh.CodeDenied, "a token that is bound to a workspace cannot remove it")
	}
	for {
		record, err := n.kv.Workspaces.Get(ctx, t, w)
		if mesh.CodeOf(err) == mesh.CodeNotFound {
			return nil, mesh.Errorf(mesh.CodeNotFound, "workspace %s does not exist; see which do with: wsmesh workspace ls", w)
		}
		if err != nil {
			return nil, err
		}
		if a.Force {
			return nil, n.removeByForce(ctx, record)
		}
		route, err := n.router.Place(ctx, &record)
		if err != nil {
			return nil, err
		}
		err = n.router.Remove(ctx, t, w, route)
		if mesh.CodeOf(err) != mesh.CodeStale {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
