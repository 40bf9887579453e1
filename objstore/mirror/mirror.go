// Package mirror is the copy of a mesh outside of it, and the way back: which object
// is called what, in which order they are written, and who may write.
//
// Below the prefix of a Remote:
//
//	mesh.json                                    Claim: the mesh whose copy this is
//	tenants/<t>/tenant.json                      Record of the tenant; no tokens, no keys
//	tenants/<t>/packs/<aa>/<id>                  content, see package objstore
//	tenants/<t>/workspaces/<w>/record.json       Record of the workspace
//	tenants/<t>/workspaces/<w>/HEAD              Head: its newest commit
//	tenants/<t>/workspaces/<w>/files/<path>      the readable copy: a file's bytes
//	tenants/<t>/workspaces/<w>/files-overflow/   of it, what has too long a name
//	tenants/<t>/workspaces/<w>/files.json        Files: how far it is
//	tenants/<t>/snapshots/<w>/<name>.json        Record of a snapshot
//	tenants/<t>/memory/<namespace>.json          MemoryHead: a memory as of one sequence
//
// # Order
//
// A commit is copied packs first, its own pack, with the commit, last; then HEAD names
// it. Each step is durable before the next, so what HEAD names is whole at any time,
// and a crash leaves packs that nobody names. HEAD and the records are compared and
// set, and never go back: HEAD by epoch and sequence, a record by its revision. So any
// node may do the work, at any time, and twice.
//
// # One mesh
//
// The Claim names the mesh that writes. A mesh with another id writes nothing until it
// takes the claim over (Adopt) or has restored what is there (Restoring). Each object
// that is compared and set names its mesh as well: revisions and sequences of two
// meshes say nothing about each other.
//
// A removal leaves its object there, as a tombstone: what is removed is not restored.
//
// # The readable copy
//
// CopyFiles keeps the files of a workspace's head as objects of their own, for people and
// for other tools; nothing is restored from it. The bytes are the file's, its metadata say
// mode (octal), mtime (seconds since 1970) and, with symlink: true, that the bytes are a
// link's target. An empty directory is an object whose name ends with a slash; FIFOs and
// files with more than MaxHoles are left out, and each further name of a file is a file;
// where holes and such names are more than MaxExtra it stays as it was. In names, a byte that is of no
// UTF-8, a control character or a percent sign is %XX. What has a longer name than S3 or
// a file system takes is files-overflow/<SHA-256 of its path>, beside an object .path
// that holds the path.
package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Format is what the objects say that this version writes.
const Format = 1

// copies is how many packs are copied at a time, of up to 8 MiB each in memory.
const copies = 4

// swaps bounds how often a compare-and-set that others get ahead of is tried again.
const swaps = 20

// Mirror writes the copy of one mesh. Make it with New; safe for concurrent use.
type Mirror struct {
	remote objstore.Remote
	mesh   string
	stores *lru.Cache[mesh.Tenant, *objstore.Store]

	// Step hears of each durable step, for tests that crash there; nil for nobody.
	Step func(step string)
}

// New returns the mirror of the mesh with this id.
func New(r objstore.Remote, meshID string) (*Mirror, error) {
	stores, err := lru.New[mesh.Tenant, *objstore.Store](8) // each caches up to 32 MiB
	if err != nil {
		return nil, err
	}
	return &Mirror{remote: r, mesh: meshID, stores: stores, Step: func(string) {}}, nil
}

// Claim says whose copy it is.
type Claim struct {
	Format    int       `json:"format"`
	Mesh      string    `json:"mesh"`
	Time      time.Time `json:"time"`
	Fresh     bool      `json:"fresh,omitempty"`     // just taken: nothing of the mesh is copied yet
	Restoring bool      `json:"restoring,omitempty"` // the mesh is being made of the copy; nobody writes meanwhile
}

const claimName = "mesh.json"

// Claim makes sure that the copy is this mesh's. Where nothing was there, or with adopt
// another mesh's, it takes it, and calls begin, which sees to it that all is copied;
// after a crash again. CodeConflict says that it is another mesh's, or that this one is
// being restored from it.
func (m *Mirror) Claim(ctx context.Context, adopt bool, begin func(context.Context) error) error {
	for range swaps {
		now, version, err := m.claim(ctx)
		next := Claim{Mesh: m.mesh}
		switch {
		case err != nil:
			return err
		case now.Mesh == m.mesh && now.Restoring:
			return mesh.Errorf(mesh.CodeConflict, "the mesh is being restored from it; if nobody does that any more, go on with: wsmesh restore")
		case now.Mesh == m.mesh && !now.Fresh:
			return nil
		case now.Mesh == m.mesh:
			if err := begin(ctx); err != nil {
				return err
			}
		case now.Mesh != "" && !adopt:
			return mesh.Errorf(mesh.CodeConflict, "it is the copy of another mesh (%s); get that one's data with: wsmesh restore, or write over it with: --adopt", now.Mesh)
		default:
			next.Fresh = true
		}
		if err := m.setClaim(ctx, next, version); err != nil && mesh.CodeOf(err) != mesh.CodeConflict {
			return err
		}
	}
	return mesh.Errorf(mesh.CodeBusy, "others claim the copy at the same time")
}

func (m *Mirror) claim(ctx context.Context) (c Claim, version string, err error) {
	version, err = getJSON(ctx, m.remote, claimName, &c)
	return c, version, err
}

func (m *Mirror) setClaim(ctx context.Context, c Claim, version string) error {
	c.Format, c.Time = Format, time.Now().UTC()
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return objstore.PutSmall(ctx, m.remote, claimName, b, version)
}

// getJSON reads a small object; "" without an error says that there is none.
func getJSON(ctx context.Context, r objstore.Remote, name string, v any) (version string, err error) {
	b, version, err := objstore.GetSmall(ctx, r, name)
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var head struct{ Format int }
	if err = json.Unmarshal(b, &head); err == nil && head.Format > Format {
		return "", mesh.Errorf(mesh.CodeUnsupported, "%s has format %d; this version reads %d: update it", name, head.Format, Format)
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return "", mesh.Errorf(mesh.CodeInternal, "%s is damaged: %s", name, err)
	}
	return version, nil
}

// advance replaces a small object by v unless what is there, which it reads into old,
// is as new. written says that it was.
func (m *Mirror) advance(ctx context.Context, name string, old, v any, isNewer func() bool) (written bool, err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	for range swaps {
		version, err := getJSON(ctx, m.remote, name, old)
		if err != nil {
			return false, err
		}
		if version != "" && !isNewer() {
			return false, nil
		}
		err = objstore.PutSmall(ctx, m.remote, name, b, version)
		if mesh.CodeOf(err) != mesh.CodeConflict {
			return err == nil, err
		}
	}
	return false, mesh.Errorf(mesh.CodeBusy, "%s is written by others at the same time", name)
}

// Record is a record of the mesh.
type Record struct {
	Format   int             `json:"format"`
	Mesh     string          `json:"mesh"`
	Revision uint64          `json:"revision"` // in the mesh; grows
	Removed  bool            `json:"removed,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`
}

// TenantName is the name of the record of a tenant.
func TenantName(t mesh.Tenant) string { return below(t) + "tenant.json" }

// WorkspaceName is the name of a workspace's record.
func WorkspaceName(t mesh.Tenant, w mesh.Workspace) string {
	return workspaceBelow(t, w) + "record.json"
}

// SnapshotName is the name of a snapshot's record.
func SnapshotName(t mesh.Tenant, w mesh.Workspace, s mesh.Snapshot) string {
	return below(t) + "snapshots/" + string(w) + "/" + string(s) + ".json"
}

func below(t mesh.Tenant) string { return "tenants/" + string(t) + "/" }

func workspaceBelow(t mesh.Tenant, w mesh.Workspace) string {
	return below(t) + "workspaces/" + string(w) + "/"
}

func headName(t mesh.Tenant, w mesh.Workspace) string { return workspaceBelow(t, w) + "HEAD" }

// Record copies a record, unless a later revision of it is there.
func (m *Mirror) Record(ctx context.Context, name string, r Record) error {
	r.Format, r.Mesh = Format, m.mesh
	var old Record
	_, err := m.advance(ctx, name, &old, &r, func() bool { return old.Mesh != m.mesh || old.Revision < r.Revision })
	return err
}

// Head is the newest commit of a workspace that is in the copy.
type Head struct {
	Format    int          `json:"format"`
	Mesh      string       `json:"mesh"`
	Workspace string       `json:"workspace"` // id of its record
	Epoch     mesh.Epoch   `json:"epoch"`
	Sequence  uint64       `json:"sequence"` // of the journal's record that names the commit
	Ref       objstore.Ref `json:"ref"`
	Time      time.Time    `json:"time"` // of that record
	Removed   bool         `json:"removed,omitempty"`
}

// covers reports whether h is as new as what is to be written.
func (h *Head) covers(meshID string, e mesh.Epoch, sequence uint64) bool {
	return h.Mesh == meshID && (h.Epoch > e || h.Epoch == e && h.Sequence >= sequence)
}

// Packs is the bucket of a tenant's packs in the copy.
func (m *Mirror) Packs(t mesh.Tenant) *objstore.RemotePacks {
	return objstore.PacksIn(m.remote, below(t)+"packs/")
}

// Store is the store on Packs.
func (m *Mirror) Store(t mesh.Tenant) (*objstore.Store, error) {
	if s, ok := m.stores.Get(t); ok {
		return s, nil
	}
	s, err := objstore.New(m.Packs(t), objstore.Config{})
	if err == nil {
		m.stores.Add(t, s)
	}
	return s, err
}

// Head reads the head of a workspace; its Format is 0 where there is none.
func (m *Mirror) Head(ctx context.Context, t mesh.Tenant, w mesh.Workspace) (h Head, err error) {
	_, err = getJSON(ctx, m.remote, headName(t, w), &h)
	return h, err
}

// Commit copies the commit of h, from the store of its tenant, and what it reaches, and
// then makes it the workspace's head; with Removed it says that there is none any more.
// It returns the head that is there then: h, or a newer one.
func (m *Mirror) Commit(ctx context.Context, t mesh.Tenant, w mesh.Workspace, h Head, from *objstore.Store) (Head, error) {
	h.Format, h.Mesh = Format, m.mesh
	old, err := m.Head(ctx, t, w)
	if err != nil || old.covers(m.mesh, h.Epoch, h.Sequence) {
		return old, err
	}
	if !h.Removed {
		if err := m.content(ctx, t, old.Ref, h.Ref, from); err != nil {
			return old, err
		}
	}
	var now Head
	written, err := m.advance(ctx, headName(t, w), &now, &h, func() bool { return !now.covers(m.mesh, h.Epoch, h.Sequence) })
	if written {
		now = h
		m.Step("mirror head stored")
	}
	return now, err
}

// Content copies a commit that something else than a head names, before that is copied.
func (m *Mirror) Content(ctx context.Context, t mesh.Tenant, ref objstore.Ref, from *objstore.Store) error {
	return m.content(ctx, t, objstore.Ref{}, ref, from)
}

// content copies a commit with all that it reaches. What the old one reaches is there.
func (m *Mirror) content(ctx context.Context, t mesh.Tenant, old, ref objstore.Ref, from *objstore.Store) error {
	packs := m.Packs(t)
	known := map[objstore.ID]bool{}
	if !old.IsZero() {
		s, err := m.Store(t)
		if err != nil {
			return err
		}
		c, err := s.Commit(ctx, old)
		if mesh.CodeOf(err) == mesh.CodeUnavailable {
			return err
		}
		if err == nil { // else it is damaged, or that of an earlier mesh, and collected
			known[old.Pack] = true
			for _, id := range c.Packs {
				known[id] = true
			}
		}
	}
	c, err := from.Commit(ctx, ref)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copies)
	for _, id := range c.Packs {
		if !known[id] {
			g.Go(func() error { return m.pack(gctx, packs, id, from) })
		}
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("copy commit %s: %w", ref.Commit, err)
	}
	m.Step("mirror packs stored")
	// That its own pack is there says nothing of the others: a later commit may list it.
	if err := m.pack(ctx, packs, ref.Pack, from); err != nil {
		return fmt.Errorf("copy commit %s: %w", ref.Commit, err)
	}
	m.Step("mirror commit stored")
	return nil
}

// pack copies a pack that may be there already.
func (m *Mirror) pack(ctx context.Context, to *objstore.RemotePacks, id objstore.ID, from *objstore.Store) error {
	if has, err := to.Has(ctx, id); has || err != nil {
		return err
	}
	data, err := from.Pack(ctx, id)
	if err == nil {
		err = to.Put(ctx, id, data)
	}
	return err
}
