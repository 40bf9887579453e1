package node

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/mirror"
)

// restoreTry bounds one request to restore; who wants it asks again.
const restoreTry = 5 * time.Second

// answerRestore makes the mesh of the copy at the nodes' mirror, for as long as a request
// may take. All that is done is in the mesh, so the next request, of any node, goes on:
// what is there already stays as it is. A workspace comes as one that begins with the
// commit of its head, as a fork of itself, after the packs of that are in the mesh again;
// so it needs the mirror no more.
func (n *Node) answerRestore(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.MeshRestoreRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	switch {
	case n.mirror == nil:
		return nil, mesh.Errorf(mesh.CodeUnsupported, "node %s has no mirror; start the nodes with --s3 %s", n.cfg.Name, a.URL)
	case a.URL != n.mirror.cfg.URL:
		return nil, mesh.Errorf(mesh.CodeConflict, "the nodes' mirror is %s; restore from that, or start them with --s3 %s", n.mirror.cfg.URL, a.URL)
	}
	m := n.mirror.m
	if err := m.Restoring(ctx); err != nil {
		return nil, err
	}
	r := &meshRestore{n: n, m: m, end: time.Now().Add(restoreTry), reply: mesh.MeshRestoreReply{Tenants: []mesh.Tenant{}, Failed: []string{}}}
	for c, err := range m.Tenants(ctx) {
		if err != nil {
			return nil, err
		}
		if more := r.tenant(ctx, &c); !more {
			return &mesh.Reply{Args: r.reply}, ctx.Err()
		}
	}
	if len(r.reply.Failed) == 0 || a.Partly {
		if err := m.Restored(ctx); err != nil {
			return nil, err
		}
		n.mirror.resume()
	}
	r.reply.Done = true
	return &mesh.Reply{Args: r.reply}, nil
}

// meshRestore is one pass through a copy.
type meshRestore struct {
	n     *Node
	m     *mirror.Mirror
	end   time.Time
	reply mesh.MeshRestoreReply
}

// failed notes what could not be restored; the rest goes on.
func (r *meshRestore) failed(what string, err error) {
	if err != nil {
		r.reply.Failed = append(r.reply.Failed, fmt.Sprintf("%s: %s", what, mesh.AsError(err).Text))
	}
}

// tenant restores a tenant with all that is its own; false says that time is over.
func (r *meshRestore) tenant(ctx context.Context, c *mirror.Copied) bool {
	t := c.Tenant
	var old kv.TenantRecord
	err := json.Unmarshal(c.Record.Value, &old)
	if err == nil {
		_, err = r.n.kv.Tenants.Create(ctx, t)
		if err == nil && old.Limits != (mesh.Limits{}) {
			_, err = r.n.kv.Tenants.SetLimits(ctx, t, old.Limits)
		}
	}
	if err != nil && mesh.CodeOf(err) != mesh.CodeExists {
		r.failed("tenant "+string(t), err)
		return ctx.Err() == nil
	}
	r.reply.Tenants = append(r.reply.Tenants, t)
	for _, w := range c.Workspaces {
		if !time.Now().Before(r.end) {
			return false
		}
		made, old, err := r.workspace(ctx, t, w, c.Snapshots[w])
		r.failed(fmt.Sprintf("workspace %s/%s", t, w), err)
		if made.Origin == nil || made.Origin.Workspace != w || made.Origin.ID != old {
			continue // it is not of the copy
		}
		for _, s := range c.Snapshots[w] {
			if !time.Now().Before(r.end) {
				return false
			}
			r.failed(fmt.Sprintf("snapshot %s of workspace %s/%s", s, t, w), r.snapshot(ctx, &made, s))
		}
	}
	for _, ns := range c.Memories {
		if !time.Now().Before(r.end) {
			return false
		}
		r.failed(fmt.Sprintf("memory %s/%s", t, ns), r.memory(ctx, t, ns))
	}
	return ctx.Err() == nil
}

// workspace restores one that does not exist. Its record comes last: until then nobody
// can open it, and it is restored again. It returns the record that is there then, and
// the id of the copy's.
func (r *meshRestore) workspace(ctx context.Context, t mesh.Tenant, w mesh.Workspace, snapshots []mesh.Snapshot) (now kv.WorkspaceRecord, oldID string, err error) {
	record, head, err := r.m.Workspace(ctx, t, w)
	if err != nil || record.Removed {
		return now, "", err
	}
	var old kv.WorkspaceRecord
	if err := json.Unmarshal(record.Value, &old); err != nil {
		return now, "", fmt.Errorf("its record: %w", err)
	}
	now, err = r.n.kv.Workspaces.Get(ctx, t, w)
	if err == nil {
		r.reply.Workspaces++
	}
	if mesh.CodeOf(err) != mesh.CodeNotFound {
		return now, old.ID, err
	}
	if head.Removed && head.Workspace == old.ID {
		return now, old.ID, nil
	}
	if old.Dir != "" {
		return now, old.ID, mesh.Errorf(mesh.CodeUnsupported, "its files are a directory of the machine that it was on, and not in the copy")
	}
	next := kv.WorkspaceRecord{Tenant: t, Name: w, Settings: old.Settings}
	ref := head.Ref
	if head.Format == 0 || head.Workspace != old.ID { // no commit of this one was copied
		if ref, err = r.begin(ctx, &old, snapshots); err != nil {
			return now, old.ID, err
		}
	}
	if !ref.IsZero() {
		shard := old.PackShard() % len(r.n.shards)
		if err := r.back(ctx, t, ref, shard); err != nil {
			return now, old.ID, err
		}
		next.Origin = &kv.Origin{Workspace: w, ID: old.ID, Commit: ref.String(), PackShard: shard, Time: time.Now().UTC()}
	}
	if now, err = r.n.newWorkspace(ctx, next); err == nil {
		r.reply.Workspaces++
	}
	return now, old.ID, err
}

// begin is what a workspace without a head begins with: its newest snapshot, or what it
// was forked from, or zero.
func (r *meshRestore) begin(ctx context.Context, old *kv.WorkspaceRecord, snapshots []mesh.Snapshot) (objstore.Ref, error) {
	var newest kv.SnapshotRecord
	for _, name := range snapshots {
		s, err := r.copied(ctx, old.Tenant, old.Name, old.ID, name)
		if err != nil {
			return objstore.Ref{}, err
		}
		if s.Created.After(newest.Created) {
			newest = s
		}
	}
	switch {
	case newest.Commit != "":
		return objstore.ParseRef(newest.Commit)
	case old.Origin != nil:
		return objstore.ParseRef(old.Origin.Commit)
	}
	return objstore.Ref{}, nil
}

// copied is a snapshot of the workspace with that id, as the copy has it; without a
// Commit where it was removed, or another one's.
func (r *meshRestore) copied(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string, name mesh.Snapshot) (s kv.SnapshotRecord, err error) {
	record, err := r.m.Snapshot(ctx, t, w, name)
	if err != nil || record.Removed || len(record.Value) == 0 {
		return s, err
	}
	if err := json.Unmarshal(record.Value, &s); err != nil {
		return s, fmt.Errorf("its record: %w", err)
	}
	if s.Workspace != id {
		s = kv.SnapshotRecord{}
	}
	return s, nil
}

// back puts what a commit reaches into the mesh again.
func (r *meshRestore) back(ctx context.Context, t mesh.Tenant, ref objstore.Ref, shard int) error {
	bucket, err := r.n.bucket(ctx, storeKey{t, shard})
	if err == nil {
		_, err = r.m.Return(ctx, t, ref, bucket)
	}
	return err
}

// snapshot restores one of a workspace that was restored, if it is not there.
func (r *meshRestore) snapshot(ctx context.Context, w *kv.WorkspaceRecord, name mesh.Snapshot) error {
	s, err := r.n.kv.Snapshots.Get(ctx, w.Tenant, w.Name, w.ID, name)
	if err == nil {
		r.reply.Snapshots++
	}
	if mesh.CodeOf(err) != mesh.CodeNotFound {
		return err
	}
	if s, err = r.copied(ctx, w.Tenant, w.Name, w.Origin.ID, name); err != nil || s.Commit == "" {
		return err
	}
	ref, err := objstore.ParseRef(s.Commit)
	if err != nil {
		return err
	}
	if err := r.back(ctx, w.Tenant, ref, w.PackShard()); err != nil {
		return err
	}
	s.Workspace, s.PackShard = w.ID, w.PackShard()
	_, err = r.n.kv.Snapshots.Create(ctx, w.Tenant, w.Name, s)
	if err == nil || mesh.CodeOf(err) == mesh.CodeExists {
		r.reply.Snapshots++
		return nil
	}
	return err
}

// memory restores the keys that do not exist, with what is left of their lives.
func (r *meshRestore) memory(ctx context.Context, t mesh.Tenant, ns mesh.Namespace) error {
	h, err := r.m.MemoryHead(ctx, t, ns)
	if err != nil {
		return err
	}
	last := map[string]uint64{} // of several entries of a key the last one counts
	for e, err := range r.m.Entries(ctx, t, h) {
		if err != nil {
			return err
		}
		last[e.Key] = e.Revision
	}
	for list := (mesh.MemoryListRequest{Namespace: ns}); ; {
		page, err := r.n.memory.List(ctx, t, list)
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			delete(last, e.Key)
		}
		if list.After = page.Next; page.Next == "" {
			break
		}
	}
	for e, err := range r.m.Entries(ctx, t, h) {
		if err != nil {
			return err
		}
		if e.Deleted || last[e.Key] != e.Revision || !e.Expires.IsZero() && !e.Expires.After(time.Now()) {
			continue
		}
		none := uint64(0)
		op := mesh.MemoryOp{Key: e.Key, If: &none}
		if !e.Expires.IsZero() {
			op.TTLMS = max(time.Until(e.Expires), mesh.MinTTL).Milliseconds()
		}
		change := &kv.MemoryChange{Tenant: t, ID: mesh.NewID(), Values: [][]byte{e.Value}}
		change.Namespace, change.Ops = ns, []mesh.MemoryOp{op}
		if _, err := r.n.memory.Commit(ctx, change); err != nil && mesh.CodeOf(err) != mesh.CodeExists {
			return err
		}
		r.reply.Keys++
	}
	return nil
}
