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

// restoreSlice bounds one request to restore, which restores one thing at least; who
// wants it asks again. What has failed is tried again after restoreAgain, or when all
// else was tried.
const restoreSlice, restoreAgain = 5 * time.Second, time.Minute

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
	r := &meshRestore{n: n, m: m, end: time.Now().Add(n.mirror.cfg.Slice), reply: mesh.MeshRestoreReply{Tenants: []mesh.Tenant{}, Failed: []string{}}}
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
	n.restored.Clear() // what has failed is tried again when somebody asks again
	r.reply.Done = true
	return &mesh.Reply{Args: r.reply}, nil
}

// meshRestore is one pass through a copy.
type meshRestore struct {
	n     *Node
	m     *mirror.Mirror
	end   time.Time
	tried bool // something that no earlier request has tried
	reply mesh.MeshRestoreReply
}

// restoredPart is what became of a workspace or a memory.
type restoredPart struct {
	at                    time.Time
	workspaces, snapshots int
	failed                []string
}

// fail notes what could not be restored; the rest goes on.
func (p *restoredPart) fail(what string, err error) {
	if err != nil {
		p.failed = append(p.failed, fmt.Sprintf("%s: %s", what, mesh.AsError(err).Text))
	}
}

// part restores something, unless this node has, or could not lately; false says that
// time is over. So a request does not spend its time on what earlier ones have done.
func (r *meshRestore) part(ctx context.Context, what string, restore func(p *restoredPart) error) bool {
	known, _ := r.n.restored.Load(what)
	p, _ := known.(*restoredPart)
	if p == nil || len(p.failed) > 0 && time.Since(p.at) > restoreAgain {
		if r.tried && !time.Now().Before(r.end) {
			return false
		}
		p = &restoredPart{}
		p.fail(what, restore(p))
		if ctx.Err() != nil {
			return false
		}
		p.at, r.tried = time.Now(), true
		r.n.restored.Store(what, p)
	}
	r.reply.Workspaces += p.workspaces
	r.reply.Snapshots += p.snapshots
	r.reply.Failed = append(r.reply.Failed, p.failed...)
	return true
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
		r.reply.Failed = append(r.reply.Failed, fmt.Sprintf("tenant %s: %s", t, mesh.AsError(err).Text))
		return ctx.Err() == nil
	}
	r.reply.Tenants = append(r.reply.Tenants, t)
	ctx, leave, err := r.n.enter(ctx, t)
	if err != nil {
		r.reply.Failed = append(r.reply.Failed, fmt.Sprintf("tenant %s: %s", t, mesh.AsError(err).Text))
		return true
	}
	defer leave()
	for _, w := range c.Workspaces {
		more := r.part(ctx, fmt.Sprintf("workspace %s/%s", t, w), func(p *restoredPart) error { return r.workspace(ctx, t, w, c.Snapshots[w], p) })
		if !more {
			return false
		}
	}
	for _, ns := range c.Memories {
		more := r.part(ctx, fmt.Sprintf("memory %s/%s", t, ns), func(*restoredPart) error { return r.memory(ctx, t, ns) })
		if !more {
			return false
		}
	}
	return ctx.Err() == nil
}

// workspace restores one that does not exist. Its record comes last: until then nobody
// can open it, and it is restored again. Its snapshots follow.
func (r *meshRestore) workspace(ctx context.Context, t mesh.Tenant, w mesh.Workspace, snapshots []mesh.Snapshot, p *restoredPart) error {
	record, head, err := r.m.Workspace(ctx, t, w)
	if err != nil || record.Removed || record.Format == 0 {
		return err
	}
	var old kv.WorkspaceRecord
	if err := json.Unmarshal(record.Value, &old); err != nil {
		return fmt.Errorf("its record: %w", err)
	}
	now, err := r.n.kv.Workspaces.Get(ctx, t, w)
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		if now, err = r.create(ctx, &old, &head, snapshots); now.ID == "" {
			return err
		}
	}
	if err != nil && mesh.CodeOf(err) != mesh.CodeExists { // made beside us
		return err
	}
	p.workspaces = 1
	if now.Origin == nil || now.Origin.Workspace != w || now.Origin.ID != old.ID {
		return nil // it is not of the copy
	}
	for _, s := range snapshots {
		there, err := r.snapshot(ctx, &now, s)
		if there {
			p.snapshots++
		}
		p.fail(fmt.Sprintf("snapshot %s of workspace %s/%s", s, t, w), err)
	}
	return nil
}

// create makes a workspace of its old record and its head; without an ID: it was removed.
func (r *meshRestore) create(ctx context.Context, old *kv.WorkspaceRecord, head *mirror.Head, snapshots []mesh.Snapshot) (none kv.WorkspaceRecord, err error) {
	if head.Removed && head.Workspace == old.ID {
		return none, nil
	}
	if old.Dir != "" {
		return none, mesh.Errorf(mesh.CodeUnsupported, "its files are a directory of the machine that it was on, and not in the copy")
	}
	next := kv.WorkspaceRecord{Tenant: old.Tenant, Name: old.Name, Settings: old.Settings}
	ref := head.Ref
	if head.Format == 0 || head.Workspace != old.ID { // no commit of this one was copied
		if ref, err = r.begin(ctx, old, snapshots); err != nil {
			return none, err
		}
	}
	if !ref.IsZero() {
		shard := old.PackShard() % len(r.n.shards)
		if err := r.back(ctx, old.Tenant, ref, shard); err != nil {
			return none, err
		}
		next.Origin = &kv.Origin{Workspace: old.Name, ID: old.ID, Commit: ref.String(), PackShard: shard, Time: time.Now().UTC()}
	}
	return r.n.newWorkspace(ctx, next)
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

// snapshot restores one of a workspace that was restored, if it is not there, and reports
// whether it is then.
func (r *meshRestore) snapshot(ctx context.Context, w *kv.WorkspaceRecord, name mesh.Snapshot) (bool, error) {
	_, err := r.n.kv.Snapshots.Get(ctx, w.Tenant, w.Name, w.ID, name)
	if mesh.CodeOf(err) != mesh.CodeNotFound {
		return err == nil, err
	}
	s, err := r.copied(ctx, w.Tenant, w.Name, w.Origin.ID, name)
	if err != nil || s.Commit == "" {
		return false, err
	}
	ref, err := objstore.ParseRef(s.Commit)
	if err != nil {
		return false, err
	}
	if err := r.back(ctx, w.Tenant, ref, w.PackShard()); err != nil {
		return false, err
	}
	s.Workspace, s.PackShard = w.ID, w.PackShard()
	_, err = r.n.kv.Snapshots.Create(ctx, w.Tenant, w.Name, s)
	if mesh.CodeOf(err) == mesh.CodeExists {
		err = nil
	}
	return err == nil, err
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
