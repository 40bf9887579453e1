package mirror

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// deletes is how many objects are deleted at a time.
const deletes = 16

// RemoveTenant leaves gone in place of the record of a tenant, so that a restore does not
// bring it back, and nothing else of it: neither content nor readable files. Nobody may
// write of it meanwhile. What was deleted when ctx ends is; call it again. The claim must
// be this mesh's.
func (m *Mirror) RemoveTenant(ctx context.Context, t mesh.Tenant, gone Record) error {
	if err := m.Record(ctx, TenantName(t), gone); err != nil {
		return err
	}
	m.stores.Remove(t)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(deletes)
	for o, err := range m.remote.List(gctx, below(t), "") {
		if err != nil {
			g.Go(func() error { return err })
			break
		}
		if o.Name != TenantName(t) {
			g.Go(func() error { return m.remote.Delete(gctx, o.Name) })
		}
	}
	return g.Wait()
}
