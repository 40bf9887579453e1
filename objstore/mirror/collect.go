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
	for o, err := range m.remote.List(ctx, packs) {
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
	for _, dir := range []string{"memory/", "snapshots/", "workspaces/"} {
		for o, err := range m.remote.List(ctx, below(t)+dir) {
			if err == nil {
				err = m.markObject(ctx, t, dir, strings.TrimPrefix(o.Name, below(t)+dir), used)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", o.Name, err)
			}
		}
	}
	return nil
}

func (m *Mirror) markObject(ctx context.Context, t mesh.Tenant, dir, name string, used map[objstore.ID]bool) error {
	name, full := strings.TrimSuffix(name, ".json"), below(t)+dir+name
	part := strings.Split(name, "/")
	switch {
	case dir == "memory/":
		var h MemoryHead
		_, err := getJSON(ctx, m.remote, full, &h)
		for _, id := range h.Packs {
			used[id] = true
		}
		return err
	case dir == "workspaces/" && len(part) == 2 && part[1] == "HEAD":
		var h Head
		if _, err := getJSON(ctx, m.remote, full, &h); err != nil || h.Removed {
			return err
		}
		return m.markCommit(ctx, t, h.Ref, used)
	case dir == "snapshots/", dir == "workspaces/" && len(part) == 2 && part[1] == "record":
		var r Record
		var n named
		_, err := getJSON(ctx, m.remote, full, &r)
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
	return nil // a file of the readable copy
}

// markCommit marks what a commit lists. One that is not there cannot be restored, and
// has nothing to be kept for.
func (m *Mirror) markCommit(ctx context.Context, t mesh.Tenant, ref objstore.Ref, used map[objstore.ID]bool) error {
	s, err := m.Store(t)
	if err != nil {
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
