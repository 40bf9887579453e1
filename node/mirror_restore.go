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
		r.failed(fmt.Sprintf("workspace %s/%s", t, w), r.workspace(ctx, t, w))
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
// can open it, and it is restored again.
func (r *meshRestore) workspace(ctx context.Context, t mesh.Tenant, w mesh.Workspace) error {
	record, head, err := r.m.Workspace(ctx, t, w)
	if err != nil || record.Removed {
		return err
	}
	var old kv.WorkspaceRecord
	if err := json.Unmarshal(record.Value, &old); err != nil {
		return fmt.Errorf("its record: %w", err)
	}
	if _, err := r.n.kv.Workspaces.Get(ctx, t, w); err == nil {
		r.reply.Workspaces++
		return nil
	} else if mesh.CodeOf(err) != mesh.CodeNotFound {
		return err
	}
	if head.Removed && head.Workspace == old.ID {
		return nil
	}
	if old.Dir != "" {
		return mesh.Errorf(mesh.CodeUnsupported, "its files are a directory of the machine that it was on, and not in the copy")
	}
	next := kv.WorkspaceRecord{Tenant: t, Name: w, Settings: old.Settings}
	ref := head.Ref
	if head.Format == 0 || head.Workspace != old.ID { // no commit of this one was copied
		ref = objstore.Ref{}
		if old.Origin != nil {
			if ref, err = objstore.ParseRef(old.Origin.Commit); err != nil {
				return err
			}
		}
	}
	if !ref.IsZero() {
		shard := old.PackShard() % len(r.n.shards)
		bucket, err := r.n.bucket(ctx, storeKey{t, shard})
		if err != nil {
			return err
		}
		if _, err := r.m.Return(ctx, t, ref, bucket); err != nil {
			return err
		}
		next.Origin = &kv.Origin{Workspace: w, ID: old.ID, Commit: ref.String(), PackShard: shard, Time: time.Now().UTC()}
	}
	if _, err = r.n.newWorkspace(ctx, next); err == nil {
		r.reply.Workspaces++
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
