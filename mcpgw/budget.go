package mcpgw

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// budget bounds the bytes that calls hold, at all and, to a quarter, for one
// tenant: a call holds them until it ends, so the calls of one would keep those of
// all others out. Safe for concurrent use.
type budget struct {
	all   *semaphore.Weighted
	share int64 // of one tenant

	mu     sync.Mutex
	shares map[string]*share // of tenants that hold or want some
}

type share struct {
	bytes *semaphore.Weighted
	users int // under budget.mu
}

func newBudget(bytes int64) *budget {
	return &budget{all: semaphore.NewWeighted(bytes), share: bytes / 4, shares: map[string]*share{}}
}

// room is what a call has.
type room struct {
	of     *budget
	tenant string
	share  *share
	bytes  int64
}

// take waits for room, at most a tenant's share, until ctx ends.
func (b *budget) take(ctx context.Context, tenant string, size int64) (*room, error) {
	b.mu.Lock()
	s := b.shares[tenant]
	if s == nil {
		s = &share{bytes: semaphore.NewWeighted(b.share)}
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
