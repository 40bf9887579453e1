package node

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// answerAPI answers what any node can: placement, workspace records, logs.
func (n *Node) answerAPI(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	a, err := mesh.ParseAPISubject(req.Subject)
	if err != nil {
		return nil, err
	}
	switch a.Service + "." + a.Verb {
	case mesh.ServicePlace + "." + mesh.VerbPlaceOpen:
		return n.place(ctx, a.Tenant, req)
	case mesh.ServiceLog + "." + mesh.VerbLogRead:
		return n.readLog(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceCreate:
		return n.createWorkspace(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceList:
		return n.listWorkspaces(ctx, a.Tenant, req)
	case mesh.ServiceWorkspace + "." + mesh.VerbWorkspaceRemove:
		return n.forgetWorkspace(ctx, a.Tenant, req)
	}
	return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown request %.40s %.40s", a.Service, a.Verb)
}

func (n *Node) place(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.PlaceRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	w, err := mesh.ParseWorkspace(string(a.Workspace))
	if err != nil {
		return nil, err
	}
	_, err = n.kv.Workspaces.Get(ctx, t, w)
	if mesh.CodeOf(err) == mesh.CodeNotFound && a.Create {
		if err = n.newWorkspace(ctx, t, w); mesh.CodeOf(err) == mesh.CodeExists {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	route, err := n.router.Place(ctx, t, w)
	return &mesh.Reply{Args: route}, err
}

// newWorkspace makes the record of a workspace within the tenant's quota.
func (n *Node) newWorkspace(ctx context.Context, t mesh.Tenant, w mesh.Workspace) error {
	if _, err := n.kv.Tenants.Get(ctx, t); err != nil {
		return err
	}
	_, more, err := n.kv.Workspaces.List(ctx, t, "", DefaultMaxWorkspaces-1)
	if err != nil {
		return err
	}
	if more {
		return mesh.Errorf(mesh.CodeQuota, "tenant %s has %d workspaces, which is the limit; remove one with: wsmesh workspace rm NAME", t, DefaultMaxWorkspaces)
	}
	_, err = n.kv.Workspaces.Create(ctx, t, w, n.shardOf(t, w))
	return err
}

// shardOf chooses the shard of a new workspace; its record keeps it.
func (n *Node) shardOf(t mesh.Tenant, w mesh.Workspace) int {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s.%s", t, w)
	return int(h.Sum32() % uint32(len(n.shards)))
}

func (n *Node) createWorkspace(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	w, err := workspaceIn(req)
	if err != nil {
		return nil, err
	}
	if _, err := n.kv.Workspaces.Get(ctx, t, w); err == nil {
		return nil, mesh.Errorf(mesh.CodeExists, "workspace %s exists", w)
	} else if mesh.CodeOf(err) != mesh.CodeNotFound {
		return nil, err
	}
	return nil, n.newWorkspace(ctx, t, w)
}

func workspaceIn(req *mesh.Request) (mesh.Workspace, error) {
	var a mesh.WorkspaceRequest
	if err := req.Args(&a); err != nil {
		return "", err
	}
	return mesh.ParseWorkspace(string(a.Workspace))
}

func (n *Node) listWorkspaces(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.WorkspaceListRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if a.Limit <= 0 || a.Limit > mesh.MaxList {
		a.Limit = mesh.MaxList
	}
	records, more, err := n.kv.Workspaces.List(ctx, t, a.After, a.Limit)
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

// forgetWorkspace removes a workspace: its owner does it, so that no command
// runs on while the files go.
func (n *Node) forgetWorkspace(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	w, err := workspaceIn(req)
	if err != nil {
		return nil, err
	}
	for {
		if _, err := n.kv.Workspaces.Get(ctx, t, w); err != nil {
			return nil, err
		}
		route, err := n.router.Place(ctx, t, w)
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

// readLog returns frames of one exec. Reading a log without an end makes sure
// that the workspace has an owner, who ends what nobody runs.
func (n *Node) readLog(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.LogRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	w, err := mesh.ParseWorkspace(string(a.Workspace))
	if err != nil {
		return nil, err
	}
	id, err := mesh.ParseExecID(string(a.ID))
	if err != nil {
		return nil, err
	}
	record, err := n.kv.Workspaces.Get(ctx, t, w)
	if err != nil {
		return nil, err
	}
	stream, subject := n.shards[record.Shard].log, mesh.ExecLogSubject(record.Shard, t, w, id)
	end, err := lastFrame(ctx, stream, subject)
	if err != nil {
		return nil, err
	}
	if end.frame == nil {
		return nil, mesh.Errorf(mesh.CodeNotFound, "exec %s is not known in workspace %s, or its log has expired", id, w)
	}
	if end.frame.Final == nil && end.sequence <= a.After {
		route, err := n.router.Place(ctx, t, w)
		if err == nil {
			err = n.router.Settle(ctx, t, w, route, id)
		}
		if err != nil {
			return nil, err
		}
	}
	return logPage(ctx, stream, subject, a.After)
}

// logPage reads frames from the leader until a message is full.
func logPage(ctx context.Context, stream jetstream.Stream, subject string, after uint64) (*mesh.Reply, error) {
	var frames []mesh.StoredFrame
	reply := mesh.LogReply{Last: after}
	size := 0
	for {
		raw, err := stream.GetMsg(ctx, reply.Last+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read an exec log: %w", unavailable(err))
		}
		size += len(raw.Data) + 32
		if size > mesh.MaxMessage && len(frames) > 0 {
			reply.More = true
			break
		}
		frames = append(frames, mesh.StoredFrame{Sequence: raw.Sequence, Data: raw.Data})
		reply.Last = raw.Sequence
	}
	return &mesh.Reply{Args: reply, Content: mesh.PackFrames(frames)}, nil
}
