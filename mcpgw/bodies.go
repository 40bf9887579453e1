package mcpgw

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// bodies bounds the bytes of large bodies that are worked on, at all and for one
// tenant: a call holds its body until it ends, so the calls of one would keep the
// bodies of all others out. Safe for concurrent use.
type bodies struct {
	all *semaphore.Weighted

	mu     sync.Mutex
	shares map[string]*share // of tenants that hold or want some
}

type share struct {
	bytes *semaphore.Weighted
	users int // under bodies.mu
}

func newBodies() *bodies {
	return &bodies{all: semaphore.NewWeighted(DefaultBodies), shares: map[string]*share{}}
}

// room is what a body has.
type room struct {
	of     *bodies
	tenant string
	share  *share
	bytes  int64
}

// take waits for room until ctx ends.
func (b *bodies) take(ctx context.Context, tenant string, size int64) (*room, error) {
	b.mu.Lock()
	s := b.shares[tenant]
	if s == nil {
		s = &share{bytes: semaphore.NewWeighted(DefaultBodies / 4)}
		b.shares[tenant] = s
	}
	s.users++
	b.mu.Unlock()
	r := &room{b, tenant, s, 0}
	if s.bytes.Acquire(ctx, size) != nil {
		r.give()
		return nil, errBusy
	}
	if b.all.Acquire(ctx, size) != nil {
		s.bytes.Release(size)
		r.give()
		return nil, errBusy
	}
	r.bytes = size
	return r, nil
}

// keep gives back what is beyond size.
func (r *room) keep(size int64) {
	more := max(0, r.bytes-size)
	r.share.bytes.Release(more)
	r.of.all.Release(more)
	r.bytes -= more
}

// give gives all of it back.
func (r *room) give() {
	r.keep(0)
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.share.users--; r.share.users == 0 {
		delete(r.of.shares, r.tenant)
	}
}
