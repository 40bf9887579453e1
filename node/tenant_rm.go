package node

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore/mirror"
)

const (
	// removeSlice bounds one turn of the removal of a tenant.
	removeSlice = 5 * time.Second
	// removeAtOnce is how many of its workspaces are removed at once.
	removeAtOnce = 8
)

// removeTenant is one turn of the removal of a tenant. All that was done is in the mesh, so
// the next turn, of any node, goes on: see the package comment for the steps.
func (n *Node) removeTenant(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.TenantRemoveRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	t, err := mesh.ParseTenant(string(a.Tenant))
	if err != nil {
		return nil, err
	}
	r, err := n.kv.Tenants.Find(ctx, t)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Generation == 0 && r.Removed:
		_, err := n.kv.Tenants.Get(ctx, t)
		return nil, err
	case a.Generation == 0:
		return &mesh.Reply{Args: mesh.TenantRemoveReply{Generation: r.Generation}}, nil
	case a.Generation != r.Generation:
		return nil, mesh.Errorf(mesh.CodeConflict, "tenant %s is not the one that was to be removed", t)
	case r.Removed:
		return &mesh.Reply{Args: mesh.TenantRemoveReply{Generation: r.Generation, Done: true}}, nil
	}
	if r.Removing.IsZero() {
		if err := n.beginRemoval(ctx, &a); err != nil {
			return nil, err
		}
	}
	reply := mesh.TenantRemoveReply{Generation: r.Generation}
	if !a.Told {
		if err := n.kv.Tenants.RevokeTokens(ctx, t); err != nil {
			return nil, err
		}
		crashPoint("tenant tokens revoked")
		// At once, as far as nodes answer: the turns that follow insist.
		_, _, err := n.router.Forget(ctx, mesh.NodeForgetRequest{Tenant: t, Generation: r.Generation})
		return &mesh.Reply{Args: reply}, err
	}
	slice, cancel := context.WithTimeout(ctx, removeSlice)
	defer cancel()
	if err = n.removeRest(slice, t, &reply); err != nil && slice.Err() != nil {
		err = nil // the next turn goes on
	}
	return &mesh.Reply{Args: reply}, err
}

// beginRemoval is the point from which on the tenant is to be removed. Who makes it a
// workspace at this very moment loses that too.
func (n *Node) beginRemoval(ctx context.Context, a *mesh.TenantRemoveRequest) error {
	some, _, err := n.kv.Workspaces.List(ctx, a.Tenant, "", 1)
	memory := false
	if err == nil && !a.Force {
		memory, err = n.memory.Holds(ctx, a.Tenant)
	}
	switch {
	case err != nil:
		return err
	case !a.Force && len(some) > 0:
		return mesh.Errorf(mesh.CodeConflict, "tenant %s has workspaces, such as %s; remove it with all that it has with: wsmesh tenant rm --force %s", a.Tenant, some[0].Name, a.Tenant)
	case memory:
		return mesh.Errorf(mesh.CodeConflict, "tenant %s has memory; remove it with all that it has with: wsmesh tenant rm --force %s", a.Tenant, a.Tenant)
	}
	r, err := n.kv.Tenants.BeginRemoval(ctx, a.Tenant, a.Generation)
	if err != nil {
		return err
	}
	n.learnTenant(r)
	n.log.Info("tenant is being removed", "tenant", string(a.Tenant))
	crashPoint("tenant removal begun")
	return nil
}

// removeRest takes the steps after the servers know of the tokens.
func (n *Node) removeRest(ctx context.Context, t mesh.Tenant, reply *mesh.TenantRemoveReply) (err error) {
	forget := mesh.NodeForgetRequest{Tenant: t, Generation: reply.Generation}
	if reply.Away, reply.Waits, err = n.router.Forget(ctx, forget); err != nil || reply.Waits != "" {
		return err
	}
	crashPoint("tenant forgotten")
	if reply.Workspaces, err = n.removeWorkspaces(ctx, t); err != nil {
		return err
	}
	crashPoint("tenant workspaces removed")
	forgotten, err := n.removeStored(ctx, t)
	if err != nil {
		return err
	}
	crashPoint("tenant streams purged")
	if done, err := n.removeCopy(ctx, t); err != nil || !done {
		return err
	}
	crashPoint("tenant copy removed")
	if err := n.kv.Tenants.ForgetTokens(ctx, t); err != nil {
		return err
	}
	crashPoint("tenant tokens forgotten")
	r, err := n.kv.Tenants.EndRemoval(ctx, t, reply.Generation, forgotten)
	if err != nil {
		return err
	}
	n.learnTenant(r)
	reply.Done = true
	n.log.Info("tenant removed", "tenant", string(t))
	crashPoint("tenant removed")
	return nil
}

// removeWorkspaces removes all of a tenant's, which nobody has open: as by force, so none is
// restored to be removed. left is how many there are still.
func (n *Node) removeWorkspaces(ctx context.Context, t mesh.Tenant) (left int, err error) {
	for {
		records, more, err := n.kv.Workspaces.List(ctx, t, "", DefaultMaxWorkspaces)
		if err != nil || len(records) == 0 {
			return left, err
		}
		left = len(records)
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(removeAtOnce)
		for _, r := range records {
			g.Go(func() error {
				if r.Shard >= len(n.shards) {
					return mesh.Errorf(mesh.CodeInternal, "workspace %s lives in shard %d; this node knows %d", r.Name, r.Shard, len(n.shards))
				}
				err := n.removeByForce(gctx, r)
				if err == nil {
					crashPoint("tenant workspace removed")
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			if records, _, err2 := n.kv.Workspaces.List(context.WithoutCancel(ctx), t, "", DefaultMaxWorkspaces); err2 == nil {
				left = len(records)
			}
			return left, err
		}
		if !more {
			left = 0
		}
	}
}

// removeStored removes what the streams have of a tenant besides, and returns what
// Memory.Forget does. The last record of each journal stays, which says that its workspace
// was removed: a late owner is refused by it.
func (n *Node) removeStored(ctx context.Context, t mesh.Tenant) (forgotten uint64, err error) {
	for i, s := range n.shards {
		if err := s.log.Purge(ctx, jetstream.WithPurgeSubject(mesh.ExecLogsWildcard(i, t))); err != nil {
			return 0, mesh.About("remove the exec logs", unavailable(err))
		}
		packs, err := n.js.Stream(ctx, mesh.PackStream(i))
		if err == nil {
			err = packs.Purge(ctx, jetstream.WithPurgeSubject(mesh.PacksWildcard(i, t)))
		}
		if err != nil {
			return 0, mesh.About("remove the content", unavailable(err))
		}
	}
	if err := n.kv.Snapshots.Forget(ctx, t); err != nil {
		return 0, err
	}
	if err := n.kv.Garbage.Forget(ctx, t); err != nil {
		return 0, err
	}
	return n.memory.Forget(ctx, t)
}

// removeCopy removes what the mirror has of a tenant; false: another node has to, since this
// one has no mirror.
func (n *Node) removeCopy(ctx context.Context, t mesh.Tenant) (bool, error) {
	if n.mirror != nil {
		return true, n.mirror.removeTenant(ctx, t)
	}
	nodes, err := n.kv.Nodes.List(ctx)
	if err != nil {
		return false, err
	}
	for _, r := range nodes {
		if r.Mirror != nil && !r.Draining && n.router.Answers(ctx, r.Node) {
			return false, nil
		}
	}
	return true, nil
}

// removeTenant leaves of a tenant in the copy that it was removed, and nothing else. A copy
// that is another mesh's is left alone.
func (r *mirroring) removeTenant(ctx context.Context, t mesh.Tenant) error {
	err := r.claim(ctx)
	if mesh.CodeOf(err) == mesh.CodeConflict {
		r.n.log.Warn("a removed tenant stays in the mirror, which is not this mesh's", "tenant", string(t), "err", err)
		return nil
	}
	if err == nil {
		var revision uint64
		if _, revision, err = r.n.kv.Raw(ctx, mesh.BucketTenants, string(t)); err == nil {
			err = r.m.RemoveTenant(ctx, t, mirror.Record{Revision: revision, Removed: true})
		}
	}
	if err != nil {
		return mesh.About("the mirror", err)
	}
	return nil
}

// of does something for a tenant in the copy; nothing, if that is being removed, or was.
func (r *mirroring) of(ctx context.Context, t mesh.Tenant, do func(ctx context.Context) error) error {
	_, err := r.n.kv.Tenants.Get(ctx, t)
	inside, leave := ctx, func() {}
	if err == nil {
		inside, leave, err = r.n.enter(ctx, t)
	}
	switch mesh.CodeOf(err) {
	case "":
	case mesh.CodeNotFound, mesh.CodeDenied:
		return nil
	default:
		return err
	}
	defer leave()
	err = do(inside)
	if err != nil && inside.Err() != nil && ctx.Err() == nil {
		return postponed(mirrorRetry) // to be told that there is nothing to do
	}
	return err
}

// forget answers who removes a tenant.
func (n *Node) forget(ctx context.Context, req *mesh.Request) error {
	var a mesh.NodeForgetRequest
	if err := req.Args(&a); err != nil {
		return err
	}
	return n.forgetTenant(ctx, a.Tenant, a.Generation)
}

// stillThere makes sure that a tenant was not removed, nor its removal begun, between a look
// at its record and what was made of that since: either this sees it, or who removes the
// tenant sees what was made.
func (n *Node) stillThere(ctx context.Context, of kv.TenantRecord) error {
	now, err := n.kv.Tenants.Get(ctx, of.Name)
	if err == nil && now.Generation != of.Generation {
		err = mesh.Errorf(mesh.CodeNotFound, "tenant %s was removed", of.Name)
	}
	return err
}
