package node

import (
	"context"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// present commits what the files are now: what commands have written up to now is
// captured first. Where nothing has changed since the last commit, that is it.
func (f *fileState) present(ctx context.Context, cause string) (ref objstore.Ref, made time.Time, err error) {
	if f.w.record.Dir != "" {
		return ref, made, mesh.Errorf(mesh.CodeUnsupported, "workspace %s is a directory of its node's machine, of which the mesh keeps no copy: it has no snapshots, and cannot be forked", f.w.name)
	}
	if f.live.Load() > 0 || f.begun.Load() != f.settled.Load() || f.adopted {
		if _, err := f.capture(ctx, beginning{}); err != nil {
			return ref, made, mesh.About("capture what commands have written", err)
		}
	}
	if err := f.checkpoint(ctx, cause); err != nil {
		return ref, made, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commit, f.made.UTC(), nil
}

func (w *workspace) commit(ctx context.Context, _ *mesh.Request) (*mesh.Reply, error) {
	ref, made, err := w.files.present(ctx, "asked for")
	if err != nil {
		return nil, err
	}
	return &mesh.Reply{Args: mesh.CommitReply{Commit: ref.Commit.String(), Time: made}}, nil
}

// wholeOnly refuses what a scope must not do: a snapshot is of all of a workspace.
func wholeOnly(req *mesh.Request, what string) error {
	if req.Scope == "." && (req.Bound == nil || req.Bound.Scope == ".") {
		return nil
	}
	return mesh.Errorf(mesh.CodeDenied, "snapshots are of the whole workspace: a scope cannot %s one", what)
}

// snapshot names the present state. It takes the steps of present and then makes the
// record; a crash before leaves a commit like any other, and a repeat that another owner
// gets finds the record by its Mesh-Id.
func (t *task) snapshot() (*mesh.Reply, error) {
	var a mesh.SnapshotRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	if err := wholeOnly(t.req, "make"); err != nil {
		return nil, err
	}
	name, err := mesh.ParseSnapshot(string(a.Name))
	if err != nil {
		return nil, err
	}
	if len(a.Message) > mesh.MaxSnapshotText {
		return nil, mesh.Errorf(mesh.CodeTooLarge, "the message of a snapshot has %d bytes; it may have %d", len(a.Message), mesh.MaxSnapshotText)
	}
	r, err := t.nameState(t.ctx, kv.SnapshotRecord{Name: name, Message: a.Message, Request: t.key})
	if err != nil {
		return nil, err
	}
	e, err := snapshotEntry(r)
	return &mesh.Reply{Args: e}, err
}

// nameState makes a snapshot of the present from a record without a commit.
func (w *workspace) nameState(ctx context.Context, r kv.SnapshotRecord) (kv.SnapshotRecord, error) {
	snapshots := w.node.kv.Snapshots
	old, err := snapshots.Get(ctx, w.tenant, w.name, w.record.ID, r.Name)
	switch {
	case err == nil && r.Request != "" && old.Request == r.Request:
		return old, nil
	case err != nil && mesh.CodeOf(err) != mesh.CodeNotFound:
		return r, err
	}
	if err != nil { // else Create says that the name is used
		var ref objstore.Ref
		if ref, _, err = w.files.present(ctx, "snapshot "+string(r.Name)); err != nil {
			return r, err
		}
		r.Commit = ref.String()
	}
	crashPoint("snapshot committed")
	r.Workspace, r.PackShard, r.Created = w.record.ID, w.record.PackShard(), time.Now().UTC()
	return snapshots.Create(ctx, w.tenant, w.name, r)
}

func snapshotEntry(r kv.SnapshotRecord) (mesh.SnapshotEntry, error) {
	ref, err := objstore.ParseRef(r.Commit)
	return mesh.SnapshotEntry{Name: r.Name, Commit: ref.Commit.String(), Created: r.Created, Message: r.Message}, err
}

// answerSnapshot answers what any node can of snapshots, and of what workspaces were:
// they need not be open.
func (n *Node) answerSnapshot(ctx context.Context, a mesh.APIAddress, req *mesh.Request) (*mesh.Reply, error) {
	switch a.Verb {
	case mesh.VerbSnapshotList:
		return n.listSnapshots(ctx, a.Tenant, req)
	case mesh.VerbSnapshotFind:
		return n.findSnapshot(ctx, a.Tenant, req)
	case mesh.VerbSnapshotRemove:
		return nil, n.removeSnapshot(ctx, a.Tenant, req)
	case mesh.VerbSnapshotDiff:
		return n.diff(ctx, a.Tenant, req)
	case mesh.AtVerb(mesh.VerbStat):
		return readAt(ctx, n, a.Tenant, req, (*viewAt).stat)
	case mesh.AtVerb(mesh.VerbList):
		return readAt(ctx, n, a.Tenant, req, (*viewAt).list)
	case mesh.AtVerb(mesh.VerbRead):
		return readAt(ctx, n, a.Tenant, req, (*viewAt).read)
	case mesh.AtVerb(mesh.VerbReadlink):
		return readAt(ctx, n, a.Tenant, req, (*viewAt).readlink)
	}
	return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown request %.40s %.40s", a.Service, a.Verb)
}

// recordOf is the record of a workspace that a request names and may reach.
func (n *Node) recordOf(ctx context.Context, t mesh.Tenant, req *mesh.Request, name mesh.Workspace) (kv.WorkspaceRecord, error) {
	w, err := reachable(req, name)
	if err != nil {
		return kv.WorkspaceRecord{}, err
	}
	return n.kv.Workspaces.Get(ctx, t, w)
}

func (n *Node) listSnapshots(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.SnapshotListRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	record, err := n.recordOf(ctx, t, req, a.Workspace)
	if err != nil {
		return nil, err
	}
	if a.Limit <= 0 || a.Limit > mesh.MaxList {
		a.Limit = mesh.MaxList
	}
	all, err := n.kv.Snapshots.List(ctx, t, record.Name, record.ID)
	if err != nil {
		return nil, err
	}
	if a.After != "" {
		i := slices.IndexFunc(all, func(r kv.SnapshotRecord) bool { return r.Name == a.After })
		if i < 0 {
			return nil, mesh.Errorf(mesh.CodeConflict, "snapshot %.60q was removed while snapshots were listed; list them again", a.After)
		}
		all = all[i+1:]
	}
	reply := mesh.SnapshotListReply{Snapshots: []mesh.SnapshotEntry{}, More: len(all) > a.Limit}
	size := 0
	for _, r := range all[:min(len(all), a.Limit)] {
		e, err := snapshotEntry(r)
		if err != nil {
			return nil, err
		}
		if size += 6*len(e.Message) + 300; size > mesh.MaxMessage {
			reply.More = true
			break
		}
		reply.Snapshots = append(reply.Snapshots, e)
	}
	return &mesh.Reply{Args: reply}, nil
}

func (n *Node) removeSnapshot(ctx context.Context, t mesh.Tenant, req *mesh.Request) error {
	var a mesh.AtRequest
	if err := req.Args(&a); err != nil {
		return err
	}
	if err := wholeOnly(req, "remove"); err != nil {
		return err
	}
	name, err := mesh.ParseSnapshot(a.At)
	if err != nil {
		return err
	}
	record, err := n.recordOf(ctx, t, req, a.Workspace)
	if err != nil {
		return err
	}
	return n.kv.Snapshots.Remove(ctx, t, record.Name, record.ID, name)
}

func (n *Node) findSnapshot(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.AtRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	record, err := n.recordOf(ctx, t, req, a.Workspace)
	if err != nil {
		return nil, err
	}
	e, _, err := n.find(ctx, &record, a.At)
	return &mesh.Reply{Args: e}, err
}
