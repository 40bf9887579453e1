package mirror

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Restoring claims a copy for the mesh that is to be made of it: whoever wrote it stops,
// and this one does not write before Restored. It is its own marker: who died in the
// middle goes on. CodeConflict says that the copy is this mesh's own.
func (m *Mirror) Restoring(ctx context.Context) error {
	for range swaps {
		now, version, err := m.claim(ctx)
		switch {
		case err != nil:
			return err
		case now.Mesh == "":
			return mesh.Errorf(mesh.CodeNotFound, "no copy of a mesh is there")
		case now.Mesh == m.mesh && now.Restoring:
			return nil
		case now.Mesh == m.mesh:
			return mesh.Errorf(mesh.CodeConflict, "it is the copy of this mesh, which has what is in it")
		}
		err = m.setClaim(ctx, Claim{Mesh: m.mesh, Restoring: true}, version)
		if mesh.CodeOf(err) != mesh.CodeConflict {
			return err
		}
	}
	return mesh.Errorf(mesh.CodeBusy, "others claim the copy at the same time")
}

// Restored ends Restoring: the mesh copies everything, as one that is new here.
func (m *Mirror) Restored(ctx context.Context) error {
	now, version, err := m.claim(ctx)
	if err != nil || now.Mesh != m.mesh || !now.Restoring {
		return err
	}
	return m.setClaim(ctx, Claim{Mesh: m.mesh, Fresh: true}, version)
}

// Copied is what a copy has of one tenant.
type Copied struct {
	Tenant     mesh.Tenant
	Record     Record
	Workspaces []mesh.Workspace                   // some perhaps without a Record
	Snapshots  map[mesh.Workspace][]mesh.Snapshot // removed ones among them
	Memories   []mesh.Namespace
}

// names yields the names of the directories that are in one, and looks into none.
func (m *Mirror) names(ctx context.Context, dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for o, err := range m.remote.List(ctx, dir, "/") {
			name, isDir := strings.CutSuffix(strings.TrimPrefix(o.Name, dir), "/")
			if err == nil && (!isDir || name == "") {
				continue
			}
			if !yield(name, err) || err != nil {
				return
			}
		}
	}
}

// Tenants yields what a copy has, removed tenants apart.
func (m *Mirror) Tenants(ctx context.Context) iter.Seq2[Copied, error] {
	return func(yield func(Copied, error) bool) {
		var names []mesh.Tenant
		for name, err := range m.names(ctx, "tenants/") {
			if err != nil {
				yield(Copied{}, err)
				return
			}
			if t, err := mesh.ParseTenant(name); err == nil {
				names = append(names, t)
			}
		}
		for _, t := range names {
			c, err := m.tenant(ctx, t)
			if err == nil && (c.Record.Removed || c.Record.Format == 0) {
				continue
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

func (m *Mirror) tenant(ctx context.Context, t mesh.Tenant) (Copied, error) {
	c := Copied{Tenant: t, Snapshots: map[mesh.Workspace][]mesh.Snapshot{}}
	if _, err := getJSON(ctx, m.remote, TenantName(t), &c.Record); err != nil || c.Record.Format == 0 {
		return c, err
	}
	for o, err := range m.remote.List(ctx, below(t)+"memory/", "") {
		if err != nil {
			return c, err
		}
		ns, err := mesh.ParseNamespace(strings.TrimSuffix(strings.TrimPrefix(o.Name, below(t)+"memory/"), ".json"))
		if err == nil {
			c.Memories = append(c.Memories, ns)
		}
	}
	if err := m.snapshots(ctx, &c); err != nil {
		return c, err
	}
	for name, err := range m.names(ctx, below(t)+"workspaces/") {
		if err != nil {
			return c, err
		}
		if w, err := mesh.ParseWorkspace(name); err == nil {
			c.Workspaces = append(c.Workspaces, w)
		}
	}
	return c, nil
}

// snapshots lists those of a tenant.
func (m *Mirror) snapshots(ctx context.Context, c *Copied) error {
	below := below(c.Tenant) + "snapshots/"
	for o, err := range m.remote.List(ctx, below, "") {
		if err != nil {
			return err
		}
		name, file, _ := strings.Cut(strings.TrimPrefix(o.Name, below), "/")
		w, err := mesh.ParseWorkspace(name)
		s, err2 := mesh.ParseSnapshot(strings.TrimSuffix(file, ".json"))
		if err == nil && err2 == nil {
			c.Snapshots[w] = append(c.Snapshots[w], s)
		}
	}
	return nil
}

// Bury leaves a tombstone in place of each snapshot that the copy has of this mesh and
// that is gone from it: who removed it may have been forgotten before the copy could be
// reached.
func (m *Mirror) Bury(ctx context.Context, t mesh.Tenant, gone func(context.Context, mesh.Workspace, mesh.Snapshot) (bool, error)) error {
	c := Copied{Tenant: t, Snapshots: map[mesh.Workspace][]mesh.Snapshot{}}
	if err := m.snapshots(ctx, &c); err != nil {
		return err
	}
	for w, names := range c.Snapshots {
		for _, s := range names {
			r, err := m.Snapshot(ctx, t, w, s)
			is := false
			if err == nil && !r.Removed && r.Mesh == m.mesh {
				is, err = gone(ctx, w, s)
			}
			if err == nil && is { // a later one of the name has a higher revision
				err = m.Record(ctx, SnapshotName(t, w, s), Record{Revision: r.Revision + 1, Removed: true})
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Workspace returns what the copy has of a workspace: its record, whose Format is 0 where
// none was copied, and its head, of which that says that no commit was.
func (m *Mirror) Workspace(ctx context.Context, t mesh.Tenant, w mesh.Workspace) (r Record, h Head, err error) {
	if _, err = getJSON(ctx, m.remote, WorkspaceName(t, w), &r); err == nil {
		h, err = m.Head(ctx, t, w)
	}
	return r, h, err
}

// Snapshot returns the record of a snapshot.
func (m *Mirror) Snapshot(ctx context.Context, t mesh.Tenant, w mesh.Workspace, s mesh.Snapshot) (r Record, err error) {
	_, err = getJSON(ctx, m.remote, SnapshotName(t, w, s), &r)
	return r, err
}

// Return puts the commit at ref, and what it reaches, into a bucket of the mesh: each
// pack checked by its name, the commit's own last. What is there stays. It returns the
// number of packs.
func (m *Mirror) Return(ctx context.Context, t mesh.Tenant, ref objstore.Ref, to objstore.Bucket) (int, error) {
	s, err := m.Store(t)
	if err != nil {
		return 0, err
	}
	c, err := s.Commit(ctx, ref)
	if err != nil {
		return 0, err
	}
	packs := append(c.Packs[:len(c.Packs):len(c.Packs)], ref.Pack)
	for i, id := range packs {
		if _, err := to.Get(ctx, id, 0, 1); err == nil {
			continue
		} else if mesh.CodeOf(err) != mesh.CodeNotFound {
			return i, err
		}
		data, err := s.Pack(ctx, id)
		if err == nil {
			err = to.Put(ctx, id, data)
		}
		if err != nil {
			return i, fmt.Errorf("commit %s: %w", ref.Commit, err)
		}
	}
	return len(packs), nil
}
