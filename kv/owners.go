package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Owner is the record of who owns a workspace. It is written only to take or to
// release; the revision of the take is the epoch.
type Owner struct {
	Node        mesh.Node `json:"node"`
	Incarnation string    `json:"incarnation"` // of the node's process
	Take        string    `json:"take"`        // fresh per take: tells one's own write from another's
	Released    bool      `json:"released,omitempty"`
	Time        time.Time `json:"time"`
}

// Owners is the bucket of ownership records.
type Owners struct{ bucket }

func ownerKey(t mesh.Tenant, w mesh.Workspace) string { return string(t) + "." + string(w) }

// Get reads the record at the leader. Epoch 0 says that the workspace never had
// an owner.
func (o *Owners) Get(ctx context.Context, t mesh.Tenant, w mesh.Workspace) (Owner, mesh.Epoch, error) {
	var owner Owner
	rev, err := o.get(ctx, ownerKey(t, w), &owner)
	return owner, mesh.Epoch(rev), err
}

// Take makes node the owner if the record is still at epoch prev, and returns
// the new epoch. CodeConflict says that someone else took it; CodeLost that the
// outcome could not be settled: then the node must not act as the owner.
func (o *Owners) Take(ctx context.Context, t mesh.Tenant, w mesh.Workspace, node mesh.Node, incarnation string, prev mesh.Epoch) (mesh.Epoch, error) {
	mine := Owner{Node: node, Incarnation: incarnation, Take: mesh.NewID(), Time: time.Now().UTC()}
	return o.write(ctx, t, w, mine, prev)
}

// Release gives the workspace up if the record is still the take of epoch.
func (o *Owners) Release(ctx context.Context, t mesh.Tenant, w mesh.Workspace, owner Owner, epoch mesh.Epoch) error {
	owner.Released, owner.Take, owner.Time = true, mesh.NewID(), time.Now().UTC()
	_, err := o.write(ctx, t, w, owner, epoch)
	return err
}

// write settles one compare-and-set: a refusal after a try without an answer
// may be caused by that very try, so the take id decides.
func (o *Owners) write(ctx context.Context, t mesh.Tenant, w mesh.Workspace, mine Owner, prev mesh.Epoch) (mesh.Epoch, error) {
	rev, err := o.set(ctx, ownerKey(t, w), mine, uint64(prev))
	if err == nil {
		return mesh.Epoch(rev), nil
	}
	if !errors.Is(err, mesh.ErrRefused) && mesh.CodeOf(err) != mesh.CodeLost {
		return 0, err
	}
	now, epoch, readErr := o.Get(ctx, t, w)
	switch {
	case readErr == nil && now.Take == mine.Take:
		return epoch, nil
	case errors.Is(err, mesh.ErrRefused) && readErr == nil:
		return 0, mesh.Errorf(mesh.CodeConflict, "workspace %s was taken by another node", w)
	}
	return 0, fmt.Errorf("take %s/%s after epoch %d: %w", t, w, prev, err)
}

// OwnerEvent is one change of an ownership record.
type OwnerEvent struct {
	Tenant    mesh.Tenant
	Workspace mesh.Workspace
	Owner     Owner
	Epoch     mesh.Epoch
}

// Watch calls fn with every present record and then with every change, one at a
// time, until ctx ends or the watch breaks; its error says why it ended.
func (o *Owners) Watch(ctx context.Context, fn func(OwnerEvent)) error {
	return o.watch(ctx, "owners", ">", func(key string, rev uint64, value []byte) {
		var ev OwnerEvent
		if json.Unmarshal(value, &ev.Owner) != nil {
			return
		}
		t, name, _ := strings.Cut(key, ".")
		ev.Tenant, ev.Workspace, ev.Epoch = mesh.Tenant(t), mesh.Workspace(name), mesh.Epoch(rev)
		fn(ev)
	})
}
