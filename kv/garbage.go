package kv

import (
	"context"
	"errors"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Collection is the record of a tenant's last collection of garbage.
type Collection struct {
	Node  mesh.Node `json:"node"` // that does it
	ID    string    `json:"id"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended,omitzero"` // zero: it goes on, or its node died

	Reply mesh.CollectReply `json:"reply,omitzero"` // once it has ended
	Code  mesh.Code         `json:"code,omitempty"` // and why it failed
	Text  string            `json:"text,omitempty"`
}

// MaxCollection bounds how long a collection goes on; BreakCollection is when one
// without an end counts as dead.
const (
	MaxCollection   = time.Hour
	BreakCollection = 2 * MaxCollection
)

// Running reports whether the collection may still delete something.
func (c *Collection) Running() bool {
	return c.ID != "" && c.Ended.IsZero() && time.Since(c.Began) < BreakCollection
}

// Garbage is the bucket of the tenants' collections.
type Garbage struct{ bucket }

// Last returns a tenant's last collection; the zero Collection if there was none.
func (g *Garbage) Last(ctx context.Context, t mesh.Tenant) (Collection, error) {
	var c Collection
	_, err := g.get(ctx, string(t), &c)
	return c, err
}

// Begin records the beginning of a collection with a fresh id. CodeBusy: another one
// is running.
func (g *Garbage) Begin(ctx context.Context, t mesh.Tenant, node mesh.Node, id string) (Collection, error) {
	var last Collection
	rev, err := g.get(ctx, string(t), &last)
	if err != nil {
		return Collection{}, err
	}
	busy := mesh.Errorf(mesh.CodeBusy, "garbage of tenant %s is being collected by node %s", t, last.Node)
	if last.Running() {
		return last, busy
	}
	now := Collection{Node: node, ID: id, Began: time.Now().UTC()}
	_, err = g.set(ctx, string(t), now, rev)
	if errors.Is(err, mesh.ErrRefused) || mesh.CodeOf(err) == mesh.CodeLost {
		var found Collection
		if _, err := g.get(ctx, string(t), &found); err != nil || found.ID != now.ID {
			return found, errors.Join(busy, err)
		}
		err = nil
	}
	return now, err
}

// End records the end and the outcome of a collection, unless another has begun since.
func (g *Garbage) End(ctx context.Context, t mesh.Tenant, c Collection) error {
	var found Collection
	rev, err := g.get(ctx, string(t), &found)
	if err != nil || found.ID != c.ID {
		return err
	}
	c.Ended = time.Now().UTC()
	_, err = g.set(ctx, string(t), c, rev)
	return err
}
