package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// SnapshotRecord names a commit of a workspace.
type SnapshotRecord struct {
	Workspace string        `json:"workspace"` // id of the workspace's record: a name used again is another one's
	Name      mesh.Snapshot `json:"name"`
	Commit    string        `json:"commit"` // an objstore.Ref as text
	PackShard int           `json:"pack_shard"`
	Created   time.Time     `json:"created"`
	Message   string        `json:"message,omitempty"`
	Request   string        `json:"request,omitempty"` // the Mesh-Id that made it
}

// Snapshots is the bucket of snapshots. Keys are "<tenant>.<workspace>.<name>".
type Snapshots struct{ bucket }

func snapshotKey(t mesh.Tenant, w mesh.Workspace, name mesh.Snapshot) string {
	return ownerKey(t, w) + "." + string(name)
}

// Get reads a snapshot of the workspace with this id; CodeNotFound if there is none.
func (ss *Snapshots) Get(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string, name mesh.Snapshot) (SnapshotRecord, error) {
	var r SnapshotRecord
	rev, err := ss.get(ctx, snapshotKey(t, w, name), &r)
	if err == nil && (rev == 0 || r.Workspace != id) {
		err = mesh.Errorf(mesh.CodeNotFound, "workspace %s has no snapshot %s; see which it has with: wsmesh snapshot ls -w %s", w, name, w)
	}
	return r, err
}

// Create makes a snapshot from a record. CodeExists, with the record, if the workspace
// has one of that name that another request has made.
func (ss *Snapshots) Create(ctx context.Context, t mesh.Tenant, w mesh.Workspace, r SnapshotRecord) (SnapshotRecord, error) {
	key := snapshotKey(t, w, r.Name)
	for {
		var old SnapshotRecord
		rev, err := ss.last(ctx, key, &old)
		if err != nil {
			return SnapshotRecord{}, err
		}
		if old.Workspace == r.Workspace {
			if r.Request != "" && old.Request == r.Request {
				return old, nil
			}
			return old, mesh.Errorf(mesh.CodeExists, "workspace %s has a snapshot %s already, made at %s; take another name, or remove it with: wsmesh snapshot rm -w %s %s",
				w, r.Name, old.Created.Format(time.RFC3339), w, r.Name)
		}
		_, err = ss.set(ctx, key, r, rev)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, mesh.ErrRefused) {
			return SnapshotRecord{}, fmt.Errorf("create snapshot %s of %s/%s: %w", r.Name, t, w, err)
		}
	}
}

// Remove removes a snapshot of the workspace with this id; CodeNotFound if there is
// none.
func (ss *Snapshots) Remove(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string, name mesh.Snapshot) error {
	for {
		if _, err := ss.Get(ctx, t, w, id, name); err != nil {
			return err
		}
		if err := ss.cut(ctx, snapshotKey(t, w, name), id); !errors.Is(err, mesh.ErrRefused) {
			return err
		}
	}
}

// RemoveAll removes every snapshot of the workspace with this id.
func (ss *Snapshots) RemoveAll(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string) error {
	all, err := ss.List(ctx, t, w, id)
	for _, r := range all {
		if err == nil {
			err = ss.Remove(ctx, t, w, id, r.Name)
		}
		if mesh.CodeOf(err) == mesh.CodeNotFound {
			err = nil
		}
	}
	return err
}

// removedFor is how long a marker stays: longer than a late repeat of the publish that
// made the snapshot takes, and than the copy outside of the mesh is out of reach.
const removedFor = 7 * 24 * time.Hour

// cut leaves a marker in place of a snapshot, which goes by itself later.
func (ss *Snapshots) cut(ctx context.Context, key, id string) error {
	var r SnapshotRecord
	rev, err := ss.last(ctx, key, &r)
	if err != nil || r.Workspace != id {
		return err
	}
	m := nats.NewMsg("$KV." + ss.kv.Bucket() + "." + key)
	m.Header.Set(jetstream.MsgTTLHeader, removedFor.String())
	m.Header.Set("KV-Operation", "DEL")
	_, err = mesh.Publish(ctx, ss.js, m, rev)
	return err
}

// last reads a key at the leader into r and returns its revision, also that of a marker;
// 0 says that there is nothing.
func (ss *Snapshots) last(ctx context.Context, key string, r *SnapshotRecord) (uint64, error) {
	stream, err := ss.js.Stream(ctx, "KV_"+ss.kv.Bucket())
	if err != nil {
		return 0, unreachable("read snapshots", err)
	}
	m, err := stream.GetLastMsgForSubject(ctx, "$KV."+ss.kv.Bucket()+"."+key)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, unreachable("read snapshots", err)
	case len(m.Data) == 0:
		return m.Sequence, nil
	}
	if err := json.Unmarshal(m.Data, r); err != nil {
		return 0, fmt.Errorf("snapshot record: %w", err)
	}
	return m.Sequence, nil
}

// List returns the snapshots of the workspace with this id, sorted by when they were
// made.
func (ss *Snapshots) List(ctx context.Context, t mesh.Tenant, w mesh.Workspace, id string) ([]SnapshotRecord, error) {
	return ss.records(ctx, snapshotKey(t, w, "*"), func(r SnapshotRecord) bool { return r.Workspace == id })
}

// ListTenant returns all snapshots of a tenant, also those that a workspace which is
// being removed still has.
func (ss *Snapshots) ListTenant(ctx context.Context, t mesh.Tenant) ([]SnapshotRecord, error) {
	return ss.records(ctx, string(t)+".*.*", func(SnapshotRecord) bool { return true })
}

func (ss *Snapshots) records(ctx context.Context, filter string, wanted func(SnapshotRecord) bool) ([]SnapshotRecord, error) {
	var all []SnapshotRecord
	err := ss.each(ctx, filter, func(_ string, _ uint64, value []byte) error {
		var r SnapshotRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("snapshot record: %w", err)
		}
		if wanted(r) {
			all = append(all, r)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b SnapshotRecord) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(string(a.Name), string(b.Name))
	})
	return all, err
}
