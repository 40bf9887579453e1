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
	Workspaces []mesh.Workspace
	Snapshots  map[mesh.Workspace][]mesh.Snapshot // removed ones among them
	Memories   []mesh.Namespace
}

// Tenants yields what a copy has, removed tenants apart.
func (m *Mirror) Tenants(ctx context.Context) iter.Seq2[Copied, error] {
	return func(yield func(Copied, error) bool) {
		var names []mesh.Tenant
		seen := map[mesh.Tenant]bool{}
		for o, err := range m.remote.List(ctx, "tenants/") {
			if err != nil {
				yield(Copied{}, err)
				return
			}
			part := strings.Split(o.Name, "/")
			t, err := mesh.ParseTenant(part[1])
			if err == nil && len(part) == 3 && part[2] == "tenant.json" && !seen[t] {
				seen[t], names = true, append(names, t)
			}
		}
		for _, t := range names {
			c, err := m.tenant(ctx, t)
			if err == nil && c.Record.Removed {
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
	if _, err := getJSON(ctx, m.remote, TenantName(t), &c.Record); err != nil {
		return c, err
	}
	for o, err := range m.remote.List(ctx, below(t)+"memory/") {
		if err != nil {
			return c, err
		}
		ns, err := mesh.ParseNamespace(strings.TrimSuffix(strings.TrimPrefix(o.Name, below(t)+"memory/"), ".json"))
		if err == nil {
			c.Memories = append(c.Memories, ns)
		}
	}
	for o, err := range m.remote.List(ctx, below(t)+"snapshots/") {
		if err != nil {
			return c, err
		}
		name, file, _ := strings.Cut(strings.TrimPrefix(o.Name, below(t)+"snapshots/"), "/")
		w, err := mesh.ParseWorkspace(name)
		s, err2 := mesh.ParseSnapshot(strings.TrimSuffix(file, ".json"))
		if err == nil && err2 == nil {
			c.Snapshots[w] = append(c.Snapshots[w], s)
		}
	}
	for o, err := range m.remote.List(ctx, below(t)+"workspaces/") {
		if err != nil {
			return c, err
		}
		name, what, _ := strings.Cut(strings.TrimPrefix(o.Name, below(t)+"workspaces/"), "/")
		if w, err := mesh.ParseWorkspace(name); err == nil && what == "record.json" {
			c.Workspaces = append(c.Workspaces, w)
		}
	}
	return c, nil
}

// Workspace returns what the copy has of a workspace: its record, and its head, whose
// Format is 0 where no commit of it was copied.
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
