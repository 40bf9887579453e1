package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultPoolSize is how many connections a Pool keeps beyond those in use:
	// each costs two goroutines and some 64 KiB.
	DefaultPoolSize = 1024
	// DefaultPoolIdle is how long one is kept that nobody uses: longer than an
	// agent thinks between two steps.
	DefaultPoolIdle = 5 * time.Minute
	// DefaultPoolRefusals is how many new connections per second may end with a
	// refused token, four times as many at once, before a Pool tries no new one:
	// who guesses tokens does not keep the mesh busy with it.
	DefaultPoolRefusals = 10
	// poolDials is how many connections are being made at a time; more wait.
	poolDials = 32
	// refusedTime is how long a refused token is refused without asking again.
	refusedTime = 5 * time.Second
	// dialTime bounds one attempt to connect.
	dialTime = 5 * time.Second
)

// PoolConfig says where a Pool's clients connect, and how many it keeps.
type PoolConfig struct {
	Client Config // of each client; its Token is not used
	// Each, if it is set, says what is special about the client of a key: it changes a
	// copy of Client, and sets its Token. Without it the key is the token. Its error is
	// that of With; a key whose error is CodeDenied is refused for some seconds.
	Each func(ctx context.Context, key string, cfg *Config) error
	Size int           // default DefaultPoolSize
	Idle time.Duration // default DefaultPoolIdle
}

// PoolStats counts the connections of a Pool.
type PoolStats struct {
	Total  int // connections that there are
	Active int // of them in use
	Idle   int // of them kept for later
}

// Pool keeps clients of many tenants or tokens, one for each. A client is closed
// when it was not used for a while or is the one that was not used for longest
// among too many, and never while it is in use. Safe for concurrent use; close it
// when done.
type Pool struct {
	cfg      PoolConfig
	refusals *rate.Limiter
	slots    chan struct{} // of dials under way
	dials    sync.WaitGroup

	mu      sync.Mutex
	entries *simplelru.LRU[[sha256.Size]byte, *pooled]
	open    map[*pooled]struct{} // those that have a client
	users   sync.WaitGroup       // of With, and dials
	closing sync.WaitGroup       // clients that nobody used, being closed
	closed  bool
}

// pooled is one key's client. Everything but ready's closing is under Pool.mu.
type pooled struct {
	ready  chan struct{} // closed once client or err is set
	client *Client
	err    error // why there is none; kept for a while if the token was refused
	users  int
	gone   bool // not in entries any more: its last user closes it
	expire *time.Timer
}

// NewPool makes a pool; nothing is connected yet.
func NewPool(cfg PoolConfig) *Pool {
	cfg.Size = cmp.Or(cfg.Size, DefaultPoolSize)
	cfg.Idle = cmp.Or(cfg.Idle, DefaultPoolIdle)
	p := &Pool{cfg: cfg, refusals: rate.NewLimiter(DefaultPoolRefusals, 4*DefaultPoolRefusals), slots: make(chan struct{}, poolDials), open: map[*pooled]struct{}{}}
	p.entries, _ = simplelru.NewLRU(cfg.Size, func(_ [sha256.Size]byte, e *pooled) { p.drop(e) }) // fails only for a size below 1
	return p
}

// With runs do with the client of a key, a tenant or a token as PoolConfig has it,
// and keeps that client open until do returns or panics; all who use a key at a time use
// one client. With "" do gets a client of its own, which is closed afterwards. Errors are do's own, and those of
// Dial: CodeDenied for a refused token, at once for some seconds after the first
// refusal; CodeUnavailable when no server answers; CodeBusy when too many tokens
// were refused lately.
func (p *Pool) With(ctx context.Context, key string, do func(*Client) error) error {
	e, err := p.take(ctx, key)
	if err != nil {
		return err
	}
	defer p.give(e)
	select {
	case <-e.ready:
	case <-ctx.Done():
		return mesh.AsError(ctx.Err())
	}
	if e.err != nil {
		return e.err
	}
	return do(e.client)
}

// take finds or begins an entry and counts a user of it.
func (p *Pool) take(ctx context.Context, key string) (*pooled, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, mesh.Errorf(mesh.CodeUnavailable, "the pool is closed")
	}
	p.users.Add(1)
	id := sha256.Sum256([]byte(key)) // a token is not kept longer than its client
	if key == "" {
		return p.begin(ctx, id, key, true), nil
	}
	e, ok := p.entries.Get(id)
	if ok && e.client != nil && e.client.over() {
		p.entries.Remove(id)
		ok = false
	}
	if !ok {
		e = p.begin(ctx, id, key, false)
		p.entries.Add(id, e)
		return e, nil
	}
	e.users++
	if e.expire != nil && e.err == nil { // who asks again does not prolong a refusal
		e.expire.Stop()
	}
	return e, nil
}

// begin makes an entry with one user and dials for it; once: it is nobody else's. p.mu
// is held.
func (p *Pool) begin(ctx context.Context, id [sha256.Size]byte, key string, once bool) *pooled {
	e := &pooled{ready: make(chan struct{}), users: 2, gone: once} // the dial is a user
	p.users.Add(1)
	p.dials.Go(func() { p.dial(context.WithoutCancel(ctx), id, key, e) })
	return e
}

// dial fills an entry. It is one for all who wait, so it outlives the context of
// the first.
func (p *Pool) dial(ctx context.Context, id [sha256.Size]byte, key string, e *pooled) {
	defer p.give(e)
	c, err := p.connect(ctx, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.client, e.err = c, err; c != nil {
		p.open[e] = struct{}{}
	}
	close(e.ready)
	denied := mesh.CodeOf(err) == mesh.CodeDenied
	switch {
	case e.gone:
	case err != nil && !denied:
		p.entries.Remove(id) // the next one tries again
	case denied:
		e.expire = time.AfterFunc(refusedTime, func() { p.expired(id, e) })
	default:
		e.expire = time.AfterFunc(p.cfg.Idle, func() { p.expired(id, e) })
	}
}

func (p *Pool) connect(ctx context.Context, key string) (*Client, error) {
	p.slots <- struct{}{}
	defer func() { <-p.slots }()
	if p.refusals.Tokens() < 1 {
		return nil, mesh.Errorf(mesh.CodeBusy, "too many tokens were refused lately; try again in a moment")
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	cfg := p.cfg.Client
	cfg.Token = key
	if p.cfg.Each != nil {
		if err := p.cfg.Each(ctx, key, &cfg); err != nil {
			return nil, err
		}
	}
	c, err := Dial(ctx, cfg)
	if mesh.CodeOf(err) == mesh.CodeDenied {
		p.refusals.Allow()
	}
	return c, err
}

// give takes a user off an entry. The last user of a client that is in nobody
// else's hands closes it.
func (p *Pool) give(e *pooled) {
	defer p.users.Done()
	p.mu.Lock()
	e.users--
	last := e.users == 0 && e.gone && e.client != nil
	if e.users == 0 && !e.gone && e.expire != nil && e.err == nil {
		e.expire.Reset(p.cfg.Idle)
	}
	p.mu.Unlock()
	if last {
		p.shut(e)
	}
}

// shut closes the client of an entry, which drains it.
func (p *Pool) shut(e *pooled) {
	e.client.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, e)
}

// expired drops an entry that is still the one of its key and not in use.
func (p *Pool) expired(id [sha256.Size]byte, e *pooled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now, ok := p.entries.Peek(id); ok && now == e && (e.users == 0 || e.err != nil) {
		p.entries.Remove(id)
	}
}

// drop is told of each entry that leaves entries. Called with mu held.
func (p *Pool) drop(e *pooled) {
	e.gone = true
	if e.expire != nil {
		e.expire.Stop()
	}
	if e.users == 0 && e.client != nil {
		p.closing.Go(func() { p.shut(e) })
	}
}

// Stats counts the connections at the moment; those that are being made are not there yet.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PoolStats{Total: len(p.open)}
	for e := range p.open {
		if e.users > 0 {
			s.Active++
		}
	}
	s.Idle = s.Total - s.Active
	return s
}

// Close refuses new users with CodeUnavailable, waits for those that there are, and
// returns when every connection is closed. Do not call it from within With. Idempotent.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.entries.Purge()
	p.mu.Unlock()
	p.users.Wait()
	p.dials.Wait()
	p.closing.Wait()
}
