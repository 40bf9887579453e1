package kv

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// WorkspaceRecord is what the mesh knows of a workspace, open or not.
type WorkspaceRecord struct {
	Tenant  mesh.Tenant    `json:"tenant"`
	Name    mesh.Workspace `json:"name"`
	ID      string         `json:"id"`    // fresh per creation: a name used again is another workspace
	Shard   int            `json:"shard"` // of its journal and exec log; never recomputed
	Created time.Time      `json:"created"`
	Removed bool           `json:"removed,omitempty"`
	// Served says that its journal has been the whole truth about its files, and that
	// changes may be acknowledged: a journal that is empty now was lost. It is false as
	// well where only an earlier version has served the workspace.
	Served bool `json:"served,omitempty"`
	// Dir is the directory of the node's host that is the workspace's tree, an
	// absolute path; "" is the node's own place. Only the operator names it.
	Dir mesh.Path `json:"dir,omitempty"`
	// Origin is what the workspace was made of; nil: of nothing.
	Origin *Origin `json:"origin,omitempty"`
	mesh.Settings
}

// Origin is the commit that a fork begins with. The record refers to it for as long as
// the fork exists, whatever becomes of the workspace that it was forked from.
type Origin struct {
	Workspace mesh.Workspace `json:"workspace"` // that it was forked from
	ID        string         `json:"id"`        // of that one's record
	Commit    string         `json:"commit"`    // an objstore.Ref as text
	PackShard int            `json:"pack_shard"`
	Time      time.Time      `json:"time"`              // of the fork
	Request   string         `json:"request,omitempty"` // the Mesh-Id that made it
}

// PackShard is the shard of the workspace's packs: that of its journal, but for a fork
// that of its origin, with which it shares content.
func (r *WorkspaceRecord) PackShard() int {
	if r.Origin != nil {
		return r.Origin.PackShard
	}
	return r.Shard
}

// Workspaces is the bucket of workspace records.
type Workspaces struct{ bucket }

// Get reads a record; CodeNotFound if the workspace does not exist or was
// removed.
func (ws *Workspaces) Get(ctx context.Context, t mesh.Tenant, w mesh.Workspace) (WorkspaceRecord, error) {
	var r WorkspaceRecord
	rev, err := ws.get(ctx, ownerKey(t, w), &r)
	if err == nil && (rev == 0 || r.Removed) {
		err = mesh.Errorf(mesh.CodeNotFound, "workspace %s: nothing is there yet; a first write or exec makes it, or: wsmesh workspace create %s", w, w)
	}
	return r, err
}

// Last reads a record, also one of a workspace that was removed; the zero one says that
// there was never one of the name.
func (ws *Workspaces) Last(ctx context.Context, t mesh.Tenant, w mesh.Workspace) (WorkspaceRecord, error) {
	var r WorkspaceRecord
	_, err := ws.get(ctx, ownerKey(t, w), &r)
	return r, err
}

// Create makes a record from its Tenant, Name, Shard, Dir, Settings and Origin. CodeExists if there
// is one, which is then returned.
func (ws *Workspaces) Create(ctx context.Context, r WorkspaceRecord) (WorkspaceRecord, error) {
	t, w := r.Tenant, r.Name
	for {
		var old WorkspaceRecord
		rev, err := ws.get(ctx, ownerKey(t, w), &old)
		if err != nil {
			return WorkspaceRecord{}, err
		}
		if rev != 0 && !old.Removed {
			return old, mesh.Errorf(mesh.CodeExists, "workspace %s exists", w)
		}
		r.ID, r.Created = mesh.NewID(), time.Now().UTC()
		if rev != 0 {
			r.Shard = old.Shard // its journal subject holds the end of the removed one
		}
		_, err = ws.set(ctx, ownerKey(t, w), r, rev)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, mesh.ErrRefused) {
			return WorkspaceRecord{}, fmt.Errorf("create workspace %s/%s: %w", t, w, err)
		}
		now, err := ws.Get(ctx, t, w)
		if err == nil && now.ID == r.ID {
			return now, nil // ours, acknowledged too late
		}
	}
}

// MarkRemoved sets the tombstone of the workspace with this id. One that is
// gone already, or whose name was used again, is no error.
func (ws *Workspaces) MarkRemoved(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string) error {
	return ws.mark(ctx, t, w, id, func(r *WorkspaceRecord) { r.Removed = true })
}

// MarkServed sets Served of the workspace with this id, unless that is removed.
func (ws *Workspaces) MarkServed(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string) error {
	return ws.mark(ctx, t, w, id, func(r *WorkspaceRecord) { r.Served = true })
}

// Set changes the settings of a workspace and returns its record; CodeNotFound. An error of
// change is returned, and nothing is changed.
func (ws *Workspaces) Set(ctx context.Context, t mesh.Tenant, w mesh.Workspace, change func(*mesh.Settings) error) (WorkspaceRecord, error) {
	for {
		var r WorkspaceRecord
		rev, err := ws.get(ctx, ownerKey(t, w), &r)
		if err == nil && (rev == 0 || r.Removed) {
			return ws.Get(ctx, t, w) // says that it does not exist
		}
		if err == nil {
			err = change(&r.Settings)
		}
		if err != nil {
			return r, err
		}
		if _, err = ws.set(ctx, ownerKey(t, w), r, rev); !errors.Is(err, mesh.ErrRefused) {
			return r, err
		}
	}
}

func (ws *Workspaces) mark(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string, set func(*WorkspaceRecord)) error {
	for {
		var r WorkspaceRecord
		rev, err := ws.get(ctx, ownerKey(t, w), &r)
		if err != nil {
			return err
		}
		if rev == 0 || r.Removed || r.ID != id {
			return nil
		}
		set(&r)
		_, err = ws.set(ctx, ownerKey(t, w), r, rev)
		if !errors.Is(err, mesh.ErrRefused) {
			return err
		}
	}
}

// List returns the tenant's workspaces with names greater than after, at most
// limit, sorted, and whether there are more.
func (ws *Workspaces) List(ctx context.Context, t mesh.Tenant, after mesh.Workspace, limit int) ([]WorkspaceRecord, bool, error) {
	all, err := ws.records(ctx, string(t)+".*", func(r WorkspaceRecord) bool { return r.Name > after })
	slices.SortFunc(all, func(a, b WorkspaceRecord) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if len(all) > limit {
		return all[:limit], true, err
	}
	return all, false, err
}

// ListIdle returns every tenant's workspaces that say something of what becomes of them
// when nobody uses them.
func (ws *Workspaces) ListIdle(ctx context.Context) ([]WorkspaceRecord, error) {
	return ws.records(ctx, "*.*", func(r WorkspaceRecord) bool { return r.Idle != "" })
}

// ListDirs returns every tenant's workspaces that have a Dir.
func (ws *Workspaces) ListDirs(ctx context.Context) ([]WorkspaceRecord, error) {
	return ws.records(ctx, "*.*", func(r WorkspaceRecord) bool { return r.Dir != "" })
}

// records returns what is wanted of the workspaces that are not removed.
func (ws *Workspaces) records(ctx context.Context, filter string, wanted func(WorkspaceRecord) bool) ([]WorkspaceRecord, error) {
	var all []WorkspaceRecord
	err := ws.each(ctx, filter, func(_ string, _ uint64, value []byte) error {
		var r WorkspaceRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("workspace record: %w", err)
		}
		if !r.Removed && wanted(r) {
			all = append(all, r)
		}
		return nil
	})
	return all, err
}

// TenantRecord is what the mesh knows of a tenant.
type TenantRecord struct {
	Name       mesh.Tenant `json:"name"`
	Number     uint32      `json:"number"`     // unique in the mesh; host user ids derive from it
	Generation uint64      `json:"generation"` // tokens carry it
	Created    time.Time   `json:"created"`
	Limits     mesh.Limits `json:"limits,omitzero"` // 0 in it is a node's default

	Removing time.Time `json:"removing,omitzero"` // since when; zero: it is not
	// Removed says that nothing else is left of it. The record stays, so that nobody
	// makes the tenant again by mistake, and a node that was away learns of it.
	Removed bool `json:"removed,omitempty"`
	// Forgotten is the sequence in the stream of its memory up to which that is an earlier
	// tenant's of the name, and nothing of it is there.
	Forgotten uint64 `json:"forgotten,omitempty"`
}

// Alive returns CodeNotFound for a tenant that was removed, and CodeDenied for one that
// is being removed.
func (r *TenantRecord) Alive() error {
	switch {
	case r.Removed || r.Name == "":
		return mesh.Errorf(mesh.CodeNotFound, "tenant %s does not exist", r.Name)
	case !r.Removing.IsZero():
		return mesh.Errorf(mesh.CodeDenied, "tenant %s is being removed; end that with: wsmesh tenant rm %s", r.Name, r.Name)
	}
	return nil
}

// TokenRecord describes an issued token. The token itself is stored nowhere.
type TokenRecord struct {
	ID         mesh.TokenID   `json:"id"`
	User       string         `json:"user"` // public key, by which the servers know it
	Tenant     mesh.Tenant    `json:"tenant"`
	Generation uint64         `json:"generation"`
	Workspace  mesh.Workspace `json:"workspace,omitempty"` // the one it is bound to
	Scope      mesh.Path      `json:"scope,omitempty"`     // the path in it that it is bound to
	Issued     time.Time      `json:"issued"`
	Expires    time.Time      `json:"expires"`          // zero: never
	Revoked    time.Time      `json:"revoked,omitzero"` // zero: it is not
	// Removed says that its tenant was removed, and Revoked is set. The record stays, so
	// that whoever tells the servers whom not to let in tells of it.
	Removed bool `json:"removed,omitempty"`
}

// Tenants is the bucket of tenants and their tokens, and of what the mesh has once. Keys
// are "<tenant>", "<tenant>.<token id>", and "_count" and "_mesh", which no tenant can be
// called.
type Tenants struct{ bucket }

const (
	tenantCount = "_count"
	meshRecord  = "_mesh"
)

// IsTenant reports whether a key of the bucket of tenants is that of a tenant or a token.
func IsTenant(key string) bool { return key != tenantCount && key != meshRecord }

// MeshID returns the id of the mesh, which is made when it is first asked for: another
// one where the streams are gone.
func (ts *Tenants) MeshID(ctx context.Context) (string, error) {
	for {
		var r struct {
			ID      string    `json:"id"`
			Created time.Time `json:"created"`
		}
		rev, err := ts.get(ctx, meshRecord, &r)
		if err != nil || rev != 0 {
			return r.ID, err
		}
		r.ID, r.Created = mesh.NewID(), time.Now().UTC()
		if _, err = ts.set(ctx, meshRecord, r, 0); !errors.Is(err, mesh.ErrRefused) {
			return r.ID, err
		}
	}
}

// Get reads a record; CodeNotFound if the tenant does not exist, CodeDenied if it is being
// removed.
func (ts *Tenants) Get(ctx context.Context, t mesh.Tenant) (TenantRecord, error) {
	r, _, err := ts.find(ctx, t)
	if err == nil {
		err = r.Alive()
	}
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		err = mesh.Errorf(mesh.CodeNotFound, "tenant %s does not exist; create it with: wsmesh tenant create %s", t, t)
	}
	return r, err
}

// find reads a record and its revision, also that of a tenant that was removed; 0 says that
// there was never one.
func (ts *Tenants) find(ctx context.Context, t mesh.Tenant) (r TenantRecord, rev uint64, err error) {
	rev, err = ts.get(ctx, string(t), &r)
	return r, rev, err
}

// Create makes a tenant; CodeExists, with the record, if there is one, CodeDenied if it is
// being removed. A crash in between wastes a number and nothing else.
func (ts *Tenants) Create(ctx context.Context, t mesh.Tenant) (TenantRecord, error) {
	old, rev, err := ts.find(ctx, t)
	if err != nil {
		return TenantRecord{}, err
	}
	switch err := old.Alive(); mesh.CodeOf(err) {
	case "":
		return old, mesh.Errorf(mesh.CodeExists, "tenant %s exists", t)
	case mesh.CodeDenied:
		return old, err
	}
	number, err := ts.nextNumber(ctx)
	if err != nil {
		return TenantRecord{}, fmt.Errorf("create tenant %s: %w", t, err)
	}
	r := TenantRecord{Name: t, Number: number, Generation: uint64(number), Created: time.Now().UTC(), Forgotten: old.Forgotten}
	_, err = ts.set(ctx, string(t), r, rev)
	if errors.Is(err, mesh.ErrRefused) {
		now, err := ts.Get(ctx, t)
		if err == nil && now.Number != number {
			err = mesh.Errorf(mesh.CodeExists, "tenant %s exists", t)
		}
		return now, err
	}
	return r, err
}

// CreateFirst makes the first tenant of a mesh, with the record of a token that was
// issued for it before, or ends what another node has begun of that. Whatever has
// become of the tenant since stays: it does nothing then. Each node calls it before it
// answers anybody, so that nobody else gets the first number.
func (ts *Tenants) CreateFirst(ctx context.Context, token TokenRecord) error {
	const number = 1
	_, err := ts.set(ctx, tenantCount, uint32(number), 0)
	if err != nil && !errors.Is(err, mesh.ErrRefused) {
		return err
	}
	r := TenantRecord{Name: token.Tenant, Number: number, Generation: token.Generation, Created: token.Issued}
	_, err = ts.set(ctx, string(r.Name), r, 0)
	if err != nil && !errors.Is(err, mesh.ErrRefused) {
		return err
	}
	now, _, err := ts.find(ctx, token.Tenant)
	if err != nil || now.Alive() != nil || now.Generation != token.Generation {
		return err // its tokens have gone with it
	}
	return ts.PutToken(ctx, token)
}

// SetLimits replaces the limits of a tenant and returns its record.
func (ts *Tenants) SetLimits(ctx context.Context, t mesh.Tenant, limits mesh.Limits) (TenantRecord, error) {
	for {
		r, rev, err := ts.find(ctx, t)
		if err == nil && r.Alive() != nil {
			r, err = ts.Get(ctx, t) // says why not
			if err == nil {
				continue // it was made just now
			}
		}
		if err != nil {
			return TenantRecord{}, err
		}
		r.Limits = limits
		if _, err = ts.set(ctx, string(t), r, rev); !errors.Is(err, mesh.ErrRefused) {
			return r, err
		}
	}
}

// Watch calls fn with every present record, of tenants that were removed too, and then with every change, one at a
// time, until ctx ends or the watch breaks; its error says why it ended.
func (ts *Tenants) Watch(ctx context.Context, fn func(TenantRecord)) error {
	return ts.watch(ctx, "tenants", "*", func(key string, _ uint64, value []byte) {
		var r TenantRecord
		if IsTenant(key) && json.Unmarshal(value, &r) == nil {
			fn(r)
		}
	})
}

// nextNumber counts up. A number whose write stayed unknown is never used.
func (ts *Tenants) nextNumber(ctx context.Context) (uint32, error) {
	for {
		var n uint32
		rev, err := ts.get(ctx, tenantCount, &n)
		if err != nil {
			return 0, err
		}
		_, err = ts.set(ctx, tenantCount, n+1, rev)
		if err == nil {
			return n + 1, nil
		}
		if !errors.Is(err, mesh.ErrRefused) {
			return 0, err
		}
	}
}

// List returns every tenant that was not removed, sorted by name.
func (ts *Tenants) List(ctx context.Context) ([]TenantRecord, error) {
	var all []TenantRecord
	err := ts.each(ctx, "*", func(key string, _ uint64, value []byte) error {
		if !IsTenant(key) {
			return nil
		}
		var r TenantRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("tenant record: %w", err)
		}
		if !r.Removed {
			all = append(all, r)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b TenantRecord) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return all, err
}

// PutToken records an issued token.
func (ts *Tenants) PutToken(ctx context.Context, r TokenRecord) error {
	_, err := ts.set(ctx, string(r.Tenant)+"."+string(r.ID), r, 0)
	if errors.Is(err, mesh.ErrRefused) {
		return nil // ids are random: only an earlier try of ours can be there
	}
	return err
}

// RevokeToken records that a token is revoked, since the first time that it was, and not
// before it was issued, by whatever clock; CodeNotFound for an id of none. What the servers
// let in is another thing.
func (ts *Tenants) RevokeToken(ctx context.Context, id mesh.TokenID) (TokenRecord, error) {
	all, err := ts.ListTokens(ctx)
	if err != nil {
		return TokenRecord{}, err
	}
	i := slices.IndexFunc(all, func(r TokenRecord) bool { return r.ID == id })
	if i < 0 {
		return TokenRecord{}, mesh.Errorf(mesh.CodeNotFound, "no token on record has id %.80q; see wsmesh token ls", id)
	}
	return ts.changeToken(ctx, all[i], (*TokenRecord).revoke)
}

// revoke reports whether that changes anything.
func (r *TokenRecord) revoke() bool {
	if !r.Revoked.Before(r.Issued) {
		return false
	}
	if r.Revoked = time.Now().UTC(); r.Revoked.Before(r.Issued) {
		r.Revoked = r.Issued
	}
	return true
}

// changeToken changes a record, unless change says that it is as it should be.
func (ts *Tenants) changeToken(ctx context.Context, of TokenRecord, change func(*TokenRecord) bool) (TokenRecord, error) {
	key := string(of.Tenant) + "." + string(of.ID)
	for {
		var r TokenRecord
		rev, err := ts.get(ctx, key, &r)
		if err == nil && rev == 0 {
			err = mesh.Errorf(mesh.CodeNotFound, "token %s is not on record any more", of.ID)
		}
		if err != nil || !change(&r) {
			return r, err
		}
		if _, err = ts.set(ctx, key, r, rev); !errors.Is(err, mesh.ErrRefused) {
			return r, err
		}
	}
}

// ListTokens returns every token on record, sorted by tenant and time.
func (ts *Tenants) ListTokens(ctx context.Context) ([]TokenRecord, error) {
	return ts.tokens(ctx, "*.*")
}

func (ts *Tenants) tokens(ctx context.Context, filter string) ([]TokenRecord, error) {
	var all []TokenRecord
	err := ts.each(ctx, filter, func(_ string, _ uint64, value []byte) error {
		var r TokenRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("token record: %w", err)
		}
		all = append(all, r)
		return nil
	})
	slices.SortFunc(all, func(a, b TokenRecord) int {
		return cmp.Or(strings.Compare(string(a.Tenant), string(b.Tenant)), a.Issued.Compare(b.Issued), strings.Compare(string(a.ID), string(b.ID)))
	})
	return all, err
}
