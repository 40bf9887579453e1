package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Collected is what Collect has deleted, or would have.
type Collected struct {
	Packs, Young, Deleted int
	Bytes                 int64 // of what was deleted
}

// Collect deletes the packs of a tenant that nothing in the copy refers to, nor the mesh
// itself: kept says what it does, as of a moment before the call. Packs that are younger
// than age stay: what refers to them may be on its way. Where something cannot be read,
// nothing is deleted. The claim must be this mesh's.
func (m *Mirror) Collect(ctx context.Context, t mesh.Tenant, kept map[objstore.ID]bool, age time.Duration, dry bool) (done Collected, err error) {
	before := time.Now().Add(-age)
	var old []objstore.Object
	used := map[objstore.ID]bool{}
	packs := below(t) + "packs/"
	for o, err := range m.remote.List(ctx, packs, "") {
		if err != nil {
			return done, err
		}
		if _, notOurs := objstore.ParseID(o.Name[strings.LastIndexByte(o.Name, '/')+1:]); notOurs == nil {
			old = append(old, o)
		}
	}
	if done.Packs = len(old); done.Packs == 0 {
		return done, nil
	}
	if err := m.mark(ctx, t, used); err != nil {
		return done, err
	}
	for _, o := range old {
		id, err := objstore.ParseID(o.Name[strings.LastIndexByte(o.Name, '/')+1:])
		if err != nil {
			return done, err
		}
		switch {
		case used[id] || kept[id]:
			continue
		case o.Modified.IsZero() || o.Modified.After(before):
			done.Young++
			continue
		}
		if !dry {
			if err := m.remote.Delete(ctx, o.Name); err != nil {
				return done, err
			}
		}
		done.Deleted++
		done.Bytes += o.Size
	}
	return done, nil
}

// named is what records say of a commit.
type named struct {
	Commit string `json:"commit"` // of a snapshot
	Origin *struct {
		Commit string `json:"commit"`
	} `json:"origin"` // of a workspace
}

// mark marks the packs that what is in the copy refers to, whichever mesh wrote it.
func (m *Mirror) mark(ctx context.Context, t mesh.Tenant, used map[objstore.ID]bool) error {
	for dir, marks := range map[string]func(context.Context, mesh.Tenant, string, map[objstore.ID]bool) error{
		"memory/": m.markMemory, "snapshots/": m.markRecord,
	} {
		for o, err := range m.remote.List(ctx, below(t)+dir, "") {
			if err == nil {
				err = marks(ctx, t, o.Name, used)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", o.Name, err)
			}
		}
	}
	for name, err := range m.names(ctx, below(t)+"workspaces/") {
		if err == nil {
			err = m.markWorkspace(ctx, t, mesh.Workspace(name), used)
		}
		if err != nil {
			return fmt.Errorf("workspace %s/%s: %w", t, name, err)
		}
	}
	return nil
}

func (m *Mirror) markMemory(ctx context.Context, _ mesh.Tenant, name string, used map[objstore.ID]bool) error {
	var h MemoryHead
	_, err := getJSON(ctx, m.remote, name, &h)
	for _, id := range h.Packs {
		used[id] = true
	}
	return err
}

func (m *Mirror) markWorkspace(ctx context.Context, t mesh.Tenant, w mesh.Workspace, used map[objstore.ID]bool) error {
	h, err := m.Head(ctx, t, w)
	if err == nil && !h.Removed {
		err = m.markCommit(ctx, t, h.Ref, used)
	}
	var f Files // what it was made of says what is to be changed in it
	if err == nil {
		f, err = m.FilesState(ctx, t, w)
	}
	for _, ref := range []objstore.Ref{f.Ref, f.To} {
		if err == nil {
			err = m.markCommit(ctx, t, ref, used)
		}
	}
	if err != nil {
		return err
	}
	return m.markRecord(ctx, t, WorkspaceName(t, w), used)
}

func (m *Mirror) markRecord(ctx context.Context, t mesh.Tenant, name string, used map[objstore.ID]bool) error {
	var r Record
	var n named
	_, err := getJSON(ctx, m.remote, name, &r)
	if err != nil || r.Removed || len(r.Value) == 0 {
		return err
	}
	if err := json.Unmarshal(r.Value, &n); err != nil {
		return err
	}
	if n.Origin != nil {
		n.Commit = n.Origin.Commit
	}
	if n.Commit == "" {
		return nil
	}
	ref, err := objstore.ParseRef(n.Commit)
	if err != nil {
		return err
	}
	return m.markCommit(ctx, t, ref, used)
}

// markCommit marks what a commit lists. One that is not there cannot be restored, and
// has nothing to be kept for.
func (m *Mirror) markCommit(ctx context.Context, t mesh.Tenant, ref objstore.Ref, used map[objstore.ID]bool) error {
	s, err := m.Store(t)
	if err != nil || ref.IsZero() {
		return err
	}
	c, err := s.Commit(ctx, ref)
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	used[ref.Pack] = true
	for _, id := range c.Packs {
		used[id] = true
	}
	return nil
}
