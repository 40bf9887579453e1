package kv

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// The steps of the removal of a tenant that are of its records and its memory; package
// node says in which order they are taken.

// Find reads the record of a tenant that may be in removal, or removed; CodeNotFound if
// there was never one of the name.
func (ts *Tenants) Find(ctx context.Context, t mesh.Tenant) (TenantRecord, error) {
	r, rev, err := ts.find(ctx, t)
	if err == nil && rev == 0 {
		return ts.Get(ctx, t) // says so
	}
	return r, err
}

// BeginRemoval says of the tenant of this generation that it is being removed: from now on
// everything is refused to it. CodeConflict: it is another one.
func (ts *Tenants) BeginRemoval(ctx context.Context, t mesh.Tenant, generation uint64) (TenantRecord, error) {
	return ts.remove(ctx, t, generation, func(r *TenantRecord) bool {
		if !r.Removing.IsZero() || r.Removed {
			return false
		}
		r.Removing = time.Now().UTC()
		return true
	})
}

// EndRemoval says that nothing is left of the tenant, whose removal has begun. forgotten is
// what Memory.Forget has returned.
func (ts *Tenants) EndRemoval(ctx context.Context, t mesh.Tenant, generation, forgotten uint64) (TenantRecord, error) {
	return ts.remove(ctx, t, generation, func(r *TenantRecord) bool {
		if r.Removing.IsZero() {
			return false
		}
		*r = TenantRecord{Name: t, Number: r.Number, Generation: generation, Created: r.Created, Removed: true, Forgotten: max(r.Forgotten, forgotten)}
		return true
	})
}

func (ts *Tenants) remove(ctx context.Context, t mesh.Tenant, generation uint64, change func(*TenantRecord) bool) (TenantRecord, error) {
	for {
		r, rev, err := ts.find(ctx, t)
		if err == nil && (rev == 0 || r.Generation != generation) {
			err = mesh.Errorf(mesh.CodeConflict, "tenant %s is not the one that was to be removed", t)
		}
		if err != nil || !change(&r) {
			return r, err
		}
		if _, err = ts.set(ctx, string(t), r, rev); !errors.Is(err, mesh.ErrRefused) {
			return r, err
		}
	}
}

// RevokeTokens records that all tokens of a tenant are revoked, whose removal has begun: a
// token whose record comes later is not handed out.
func (ts *Tenants) RevokeTokens(ctx context.Context, t mesh.Tenant) error {
	return ts.changeTokens(ctx, t, (*TokenRecord).revoke)
}

// ForgetTokens leaves nothing of the tokens of a tenant, all of which are revoked, but what
// the servers are told.
func (ts *Tenants) ForgetTokens(ctx context.Context, t mesh.Tenant) error {
	return ts.changeTokens(ctx, t, (*TokenRecord).forget)
}

// ForgetToken does that of one that is not handed out, since its tenant is being removed.
func (ts *Tenants) ForgetToken(ctx context.Context, r TokenRecord) error {
	_, err := ts.changeToken(ctx, r, (*TokenRecord).forget)
	return err
}

func (r *TokenRecord) forget() bool {
	if r.Removed {
		return false
	}
	r.revoke()
	r.Removed, r.Workspace, r.Scope = true, "", ""
	return true
}

func (ts *Tenants) changeTokens(ctx context.Context, t mesh.Tenant, change func(*TokenRecord) bool) error {
	all, err := ts.tokens(ctx, string(t)+".*")
	for _, r := range all {
		if now := r; err == nil && change(&now) {
			_, err = ts.changeToken(ctx, r, change)
		}
	}
	return err
}

// Forget leaves nothing of a tenant's last collection, which may go on: it records no end.
func (g *Garbage) Forget(ctx context.Context, t mesh.Tenant) error {
	for {
		var last Collection
		rev, err := g.get(ctx, string(t), &last)
		if err != nil || last.ID == "" {
			return err
		}
		if _, err = g.set(ctx, string(t), Collection{}, rev); !errors.Is(err, mesh.ErrRefused) {
			return err
		}
	}
}

// Forget removes every snapshot of a tenant, whichever workspace it was of.
func (ss *Snapshots) Forget(ctx context.Context, t mesh.Tenant) error {
	of := map[string]string{}
	err := ss.each(ctx, string(t)+".*.*", func(key string, _ uint64, value []byte) error {
		var r SnapshotRecord
		err := json.Unmarshal(value, &r)
		of[key] = r.Workspace
		return err
	})
	for key, id := range of {
		if err == nil {
			err = ss.cut(ctx, key, id)
		}
	}
	return err
}

// Holds reports whether a tenant has a value in any memory.
func (m *Memory) Holds(ctx context.Context, t mesh.Tenant) (bool, error) {
	s, err := m.shard(ctx, t)
	if err == nil {
		err = s.index.catchUp(ctx, mesh.MemoriesWildcard(t))
	}
	if err != nil {
		return false, err
	}
	return s.index.holds(t), nil
}

// Forget takes all memories of a tenant, whom nobody answers any more, out of the mesh, and
// returns the last sequence of them. The indexes of all nodes have to Skip them.
func (m *Memory) Forget(ctx context.Context, t mesh.Tenant) (uint64, error) {
	stream, err := m.js.Stream(ctx, mesh.MemoryStream(mesh.MemoryShard(t)))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	all := mesh.MemoriesWildcard(t)
	for err == nil {
		if err = stream.Purge(ctx, jetstream.WithPurgeSubject(all)); err != nil {
			break
		}
		var info *jetstream.StreamInfo // also of what was on its way
		if info, err = stream.Info(ctx, jetstream.WithSubjectFilter(all)); err == nil && len(info.State.Subjects) == 0 {
			return info.State.LastSeq, nil
		}
	}
	return 0, unreachable("forget the memory", err)
}

// Skip forgets what a tenant's memories had up to a sequence, also where it comes later: the
// feed of an index may be behind.
func (m *Memory) Skip(t mesh.Tenant, sequence uint64) {
	if sequence == 0 {
		return
	}
	m.skipping.Lock()
	known := m.skipped[t]
	m.skipped[t] = max(known, sequence)
	m.skipping.Unlock()
	if s := m.shards[mesh.MemoryShard(t)].Load(); s != nil && known < sequence {
		s.index.skip(t, sequence)
	}
}

// skips is up to where a tenant's messages are an earlier one's.
func (m *Memory) skips(t mesh.Tenant) uint64 {
	m.skipping.Lock()
	defer m.skipping.Unlock()
	return m.skipped[t]
}

// skip drops what is of a tenant's earlier namesakes.
func (x *memoryIndex) skip(t mesh.Tenant, sequence uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for at, space := range x.spaces {
		if at.tenant != t {
			continue
		}
		for seq, key, ok := space.changes.Min(); ok && seq <= sequence; seq, key, ok = space.changes.Min() {
			x.drop(at, space, seq, key)
		}
	}
}

// drop takes a key out of the index; x.mu is held.
func (x *memoryIndex) drop(at memorySpaceKey, space *memorySpace, seq uint64, key string) {
	h, _ := space.keys.Delete(key)
	space.changes.Delete(seq)
	x.gone.Delete(seq)
	use := x.used[at.tenant]
	use.keys--
	use.bytes -= int64(len(key)) + h.size
	x.used[at.tenant] = use
	if space.keys.Len() == 0 {
		delete(x.spaces, at)
	}
}

func (x *memoryIndex) holds(t mesh.Tenant) (live bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for at, space := range x.spaces {
		if at.tenant == t && !live {
			space.keys.Scan(func(_ string, h memoryHead) bool {
				live = h.live
				return !live
			})
		}
	}
	return live
}
