package router

import (
	"context"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// DefaultSilence is how long the record of an owner who does not answer must stay as
// it is before a workspace is taken from it. The same time counts as heard of where
// the record could not be renewed by anybody.
const DefaultSilence = 15 * time.Second

// renewals are the revisions of this node's own record, of the last times it was
// renewed. They are the clock by which other nodes are silent: it stands still while
// the registry does not take what is written, or while this node is frozen.
type renewals struct {
	mu   sync.Mutex
	last []uint64 // the newest last; at most as many as make a silence
}

// Renewed notes that this node's own record in the registry was renewed, as it is each
// kv.RenewEvery.
func (r *Router) Renewed(revision uint64) {
	own := &r.renewals
	own.mu.Lock()
	defer own.mu.Unlock()
	own.last = append(own.last, revision)
	if drop := len(own.last) - int(r.cfg.Silence/kv.RenewEvery); drop > 0 {
		own.last = own.last[drop:]
	}
}

// silent reports whether a node has not renewed its record while this one has renewed
// its own for the whole of a silence. That, and a ping without an answer, is a
// death: such a node works for nobody.
func (r *Router) silent(ctx context.Context, n mesh.Node) bool {
	entry, err := r.cfg.Nodes.Get(ctx, n)
	if err != nil {
		return false
	}
	own := &r.renewals
	own.mu.Lock()
	defer own.mu.Unlock()
	return len(own.last) == int(r.cfg.Silence/kv.RenewEvery) && entry.Revision < own.last[0]
}
