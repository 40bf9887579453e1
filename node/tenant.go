package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// tenants are those for whom the node does something now, and those for whom it does
// nothing any more.
type tenants struct {
	mu     sync.Mutex
	inside map[mesh.Tenant]map[*context.CancelFunc]struct{}
	gone   map[mesh.Tenant]uint64 // generation of the last that is being removed, or was
}

func newTenants() tenants {
	return tenants{inside: map[mesh.Tenant]map[*context.CancelFunc]struct{}{}, gone: map[mesh.Tenant]uint64{}}
}

// enter is called by who does something for a tenant, in a workspace or in none, and leave
// when that is done. It ends with its context, at once where the tenant's removal begins.
// CodeDenied: it has begun; CodeNotFound: it has ended. A tenure of a workspace does not
// enter: it is ended itself.
func (n *Node) enter(ctx context.Context, t mesh.Tenant) (inside context.Context, leave func(), err error) {
	for {
		if inside, leave = n.tenants.enter(ctx, t); leave != nil {
			return inside, leave, nil
		}
		r, err := n.kv.Tenants.Get(ctx, t) // there may be another one of the name
		if err != nil {
			return nil, nil, err
		}
		if !n.learnTenant(r) {
			return nil, nil, mesh.Errorf(mesh.CodeDenied, "tenant %s is being removed", t)
		}
	}
}

func (ts *tenants) enter(ctx context.Context, t mesh.Tenant) (context.Context, func()) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if _, gone := ts.gone[t]; gone {
		return nil, nil
	}
	inside, cancel := context.WithCancel(ctx)
	if ts.inside[t] == nil {
		ts.inside[t] = map[*context.CancelFunc]struct{}{}
	}
	ts.inside[t][&cancel] = struct{}{}
	return inside, func() {
		cancel()
		ts.mu.Lock()
		defer ts.mu.Unlock()
		if delete(ts.inside[t], &cancel); len(ts.inside[t]) == 0 {
			delete(ts.inside, t)
		}
	}
}

// learn takes a record, and reports whether its tenant may enter.
func (ts *tenants) learn(r *kv.TenantRecord) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	gone, is := ts.gone[r.Name]
	switch {
	case is && r.Generation < gone:
		return false // late news
	case r.Alive() == nil:
		if is && r.Generation == gone {
			return false
		}
		delete(ts.gone, r.Name)
		return true
	}
	ts.gone[r.Name] = r.Generation
	for cancel := range ts.inside[r.Name] {
		(*cancel)()
	}
	return false
}

// empty waits until nobody is inside.
func (ts *tenants) empty(ctx context.Context, t mesh.Tenant) error {
	for {
		ts.mu.Lock()
		inside := len(ts.inside[t])
		ts.mu.Unlock()
		if inside == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// learnTenant takes what a record says of a tenant, and reports whether it may enter.
func (n *Node) learnTenant(r kv.TenantRecord) bool {
	n.memory.Skip(r.Name, r.Forgotten)
	alive := n.tenants.learn(&r)
	n.mu.Lock()
	defer n.mu.Unlock()
	if alive {
		n.limits[r.Name] = r.Limits
	} else {
		delete(n.limits, r.Name)
	}
	return alive
}

// watchTenants keeps the limits of all tenants at hand, since an exec must not wait for a
// read of them, and forgets those that are removed. A watch that breaks is set up again.
func (n *Node) watchTenants(ctx context.Context) error {
	var forgetting sync.WaitGroup
	defer forgetting.Wait()
	for {
		err := n.kv.Tenants.Watch(ctx, func(r kv.TenantRecord) {
			if n.learnTenant(r) || r.Alive() == nil || !n.holds(r.Name) {
				return
			}
			forgetting.Go(func() {
				within, cancel := context.WithTimeout(ctx, mesh.DefaultRequestTime)
				defer cancel()
				if err := n.forgetTenant(within, r.Name, r.Generation); err != nil {
					n.log.Warn("a removed tenant is not forgotten", "tenant", string(r.Name), "err", err)
				}
			})
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.log.Debug("tenants watch ended, starting again", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (n *Node) tenantDir(t mesh.Tenant) string { return filepath.Join(n.treeDir(), string(t)) }

// holds reports whether the node has a workspace of a tenant, or had.
func (n *Node) holds(t mesh.Tenant) bool {
	for _, w := range n.list() {
		if w.tenant == t {
			return true
		}
	}
	_, err := os.Lstat(n.tenantDir(t))
	return err == nil
}

// forgetTenant ends all that the node does for a tenant whose removal has begun, or ended:
// its commands, its tenures without a commit, and requests that are being answered. It
// returns when nothing of that goes on, and nothing of the tenant can be reached in this
// node's memory or on its disk. A later tenant of the name is left alone.
func (n *Node) forgetTenant(ctx context.Context, t mesh.Tenant, generation uint64) error {
	r, err := n.kv.Tenants.Find(ctx, t)
	if err != nil || r.Generation != generation {
		return err
	}
	if r.Alive() == nil {
		return mesh.Errorf(mesh.CodeConflict, "the removal of tenant %s has not begun", t)
	}
	n.learnTenant(r)
	for _, w := range n.list() {
		if err := w.giveUp(ctx, t, generation); err != nil {
			return mesh.About("end workspace "+string(w.name), err)
		}
	}
	n.endCopies(func(k key) bool { return k.tenant == t })
	if err := n.tenants.empty(ctx, t); err != nil {
		return err
	}
	for _, k := range n.stores.Keys() {
		if k.tenant == t {
			n.stores.Remove(k)
		}
	}
	n.logs.dropTenant(t)
	if err := n.discardTrees(t); err != nil {
		return err
	}
	// What was published is with the server before somebody looks what there is.
	return n.cfg.Store.FlushWithContext(ctx)
}

// giveUp ends a tenure for good if it is of a tenant up to a generation. Nothing is
// committed: all of it is being removed.
func (w *workspace) giveUp(ctx context.Context, t mesh.Tenant, generation uint64) error {
	if w.tenant != t {
		return nil
	}
	for w.generation.Load() == 0 { // whose it is, it finds out now
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	if w.generation.Load() > generation {
		return nil
	}
	w.fate.CompareAndSwap(undecided, removing)
	w.stop(mesh.Errorf(mesh.CodeDenied, "tenant %s is being removed", t))
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// discardTrees discards the directory of a tenant with all of its trees, unless there is a
// tenure or a copy, which are of a later tenant: it discards those that it does not know.
func (n *Node) discardTrees(t mesh.Tenant) error {
	n.mu.Lock() // held for one rename: none begins meanwhile
	defer n.mu.Unlock()
	for k := range n.workspaces {
		if k.tenant == t {
			return nil
		}
	}
	for k := range n.copies {
		if k.tenant == t {
			return nil
		}
	}
	return n.discard(n.tenantDir(t))
}

// discardRemoved discards what the node has of workspaces that were removed while it was
// away. A record has to say so: what is not on record stays.
func (n *Node) discardRemoved(ctx context.Context) error {
	all, err := os.ReadDir(n.treeDir())
	for _, t := range all {
		var trees []os.DirEntry
		if _, not := mesh.ParseTenant(t.Name()); not == nil && err == nil {
			trees, err = os.ReadDir(filepath.Join(n.treeDir(), t.Name()))
		}
		for _, w := range trees {
			if err == nil {
				err = n.discardIfRemoved(ctx, mesh.Tenant(t.Name()), w.Name())
			}
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, os.ErrNotExist) {
		n.log.Warn("trees of removed workspaces remain", "err", err)
	}
	return ctx.Err()
}

func (n *Node) discardIfRemoved(ctx context.Context, t mesh.Tenant, name string) error {
	w, err := mesh.ParseWorkspace(name)
	if err != nil {
		return nil //nolint:nilerr // not ours
	}
	r, err := n.kv.Workspaces.Last(ctx, t, w)
	if err != nil || !r.Removed {
		return err
	}
	n.mu.Lock() // as in discardTrees
	defer n.mu.Unlock()
	if k := (key{t, w}); n.workspaces[k] != nil || n.copies[k] != nil {
		return nil
	}
	dir := filepath.Join(n.tenantDir(t), name)
	if id, err := os.ReadFile(filepath.Join(dir, "id")); err != nil || string(id) != r.ID {
		return nil //nolint:nilerr // it has just gone, or is another one's
	}
	return n.discard(dir)
}
