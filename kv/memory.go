package kv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"github.com/wsmesh/wsmesh/mesh"
)

// Limits of one tenant's memories together. Deleted keys count until the mesh
// forgets them (mesh.TombstoneTTL).
const (
	DefaultMemoryKeys  = 100_000
	DefaultMemoryBytes = 1 << 30 // keys and values
	// DefaultMemoryBatches is how many commits of several keys are under way at
	// a time in one stream from one node.
	DefaultMemoryBatches = 16
)

// memoryFormat is the first byte of a stored value. A message without a body is
// no value: a deletion, or the server's marker that a value's life has ended.
const memoryFormat = 1

// Memory keeps the memories of all tenants: one message for each key, in the
// stream of its tenant.
//
// What a key holds is asked of the stream's leader. Every change is published
// expecting the change of that key which it was decided on, so of two that were
// decided on the same one the second is refused, and decided anew. A node keeps
// an index of all keys of the streams it is asked about, made of the messages'
// headers: it answers listings and watches once it has caught up with the
// leader, and is the first guess of what a change is decided on.
//
// A change may be asked for more than once: by a client that got no answer, of
// another node, while the first one still works on it. It is done once, because
// the message that a key has now names the request that made it and its
// predecessor: if the predecessor was there before the request was made, nothing
// else came between. If not, and the request is not the one that is named, nobody
// can tell, and the answer says so.
type Memory struct {
	ctx     context.Context // of the indexes
	cancel  context.CancelFunc
	closing sync.Mutex // guards closed, and the step from there into feeds
	closed  bool
	feeds   sync.WaitGroup
	conn    *nats.Conn
	js      jetstream.JetStream
	storage mesh.Storage
	starts  singleflight.Group
	shards  [mesh.MemoryShards]atomic.Pointer[memoryShard]

	skipping sync.Mutex
	skipped  map[mesh.Tenant]uint64 // up to where messages are an earlier tenant's of the name
}

// NewMemory makes a Memory; call Close when it is not used any more. Streams are
// made when they are first needed.
func NewMemory(conn *nats.Conn, js jetstream.JetStream, s mesh.Storage) *Memory {
	m := &Memory{conn: conn, js: js, storage: s, skipped: map[mesh.Tenant]uint64{}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Close ends the indexes and returns when nothing of them runs any more.
func (m *Memory) Close() {
	m.closing.Lock()
	m.closed = true
	m.closing.Unlock()
	m.cancel()
	m.feeds.Wait()
}

// enter counts a start that Close waits for; false after Close.
func (m *Memory) enter() bool {
	m.closing.Lock()
	defer m.closing.Unlock()
	if !m.closed {
		m.feeds.Add(1)
	}
	return !m.closed
}

// memoryShard is one stream with its index.
type memoryShard struct {
	conn    *nats.Conn
	js      jetstream.JetStream
	stream  jetstream.Stream
	index   *memoryIndex
	batches chan struct{}
}

// shard returns a tenant's shard, making the stream and the index at first use.
func (m *Memory) shard(ctx context.Context, t mesh.Tenant) (*memoryShard, error) {
	n := mesh.MemoryShard(t)
	if s := m.shards[n].Load(); s != nil {
		return s, nil
	}
	started := m.starts.DoChan(strconv.Itoa(n), func() (any, error) {
		if m.shards[n].Load() != nil {
			return nil, nil // just now
		}
		if !m.enter() { // who asked may have gone meanwhile, and the node with it
			return nil, mesh.Errorf(mesh.CodeUnavailable, "the node is stopping")
		}
		defer m.feeds.Done()
		ctx, cancel := context.WithTimeout(m.ctx, mesh.DefaultRequestTime)
		defer cancel()
		stream, err := mesh.EnsureStream(ctx, m.js, mesh.MemoryStreams(m.storage)[n])
		if err != nil {
			return nil, err
		}
		s := &memoryShard{conn: m.conn, js: m.js, stream: stream, batches: make(chan struct{}, DefaultMemoryBatches)}
		s.index = &memoryIndex{ctx: m.ctx, feeds: &m.feeds, js: m.js, stream: stream, skips: m.skips}
		s.index.restart()
		m.feeds.Go(s.index.keepCurrent)
		m.shards[n].Store(s)
		return nil, nil
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("memory: %w", ctx.Err())
	case r := <-started:
		if r.Err != nil {
			var refused *mesh.Error
			if errors.As(r.Err, &refused) {
				return nil, r.Err
			}
			return nil, unreachable("open the memory", r.Err)
		}
		return m.shards[n].Load(), nil
	}
}

// Get returns a key's value and the newest revision known. CodeNotFound: it has
// none. An answer older than least, which the caller has seen of this key lately,
// comes from a leader that is one no longer, and is asked for again.
func (m *Memory) Get(ctx context.Context, t mesh.Tenant, ns mesh.Namespace, key string, least uint64) (mesh.MemoryGetReply, []byte, error) {
	s, err := m.shard(ctx, t)
	if err != nil {
		return mesh.MemoryGetReply{}, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, behindWait)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		h, value, err := s.read(ctx, mesh.MemorySubject(t, ns, key))
		if err != nil {
			return mesh.MemoryGetReply{}, nil, err
		}
		if h.seq >= least {
			reply := mesh.MemoryGetReply{Entry: h.entry(key), Head: max(h.seq, s.index.head())}
			if !h.live {
				err = mesh.Errorf(mesh.CodeNotFound, "memory %s has no key %q", ns, key)
			}
			return reply, value, err
		}
		select {
		case <-ctx.Done():
			return mesh.MemoryGetReply{}, nil, mesh.Errorf(mesh.CodeUnavailable, "memory %s: the server is behind what you have seen; try again", ns)
		case <-time.After(pause):
		}
	}
}

// behindWait is how long a reading waits for a leader that is not behind.
const behindWait = 10 * time.Second

// read asks the leader for a key; the zero head says that it has no message.
func (s *memoryShard) read(ctx context.Context, subject string) (memoryHead, []byte, error) {
	raw, err := s.stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return memoryHead{}, nil, nil
	}
	if err != nil {
		return memoryHead{}, nil, unreachable("read the memory", err)
	}
	h := headOf(raw.Header, raw.Sequence, raw.Time, len(raw.Data))
	if !h.live {
		return h, nil, nil
	}
	if raw.Data[0] != memoryFormat {
		return memoryHead{}, nil, mesh.Errorf(mesh.CodeUnsupported, "a memory value has format %d; this node reads %d: update it", raw.Data[0], memoryFormat)
	}
	return h, raw.Data[1:], nil
}

// MemoryChange is a commit: values[i] is what Ops[i] puts. ID is the same in all
// repeats of one request.
type MemoryChange struct {
	mesh.MemoryCommitRequest
	Tenant mesh.Tenant
	ID     string
	Values [][]byte
}

// subjects are where its ops are stored.
func (c *MemoryChange) subjects() []string {
	all := make([]string, len(c.Ops))
	for i, op := range c.Ops {
		all[i] = mesh.MemorySubject(c.Tenant, c.Namespace, op.Key)
	}
	return all
}

// Commit does all of a change or nothing; see mesh.MemoryCommitRequest. CodeQuota:
// a limit of the tenant. CodeLost: whether it was done is unknown; a repeat finds
// out.
func (m *Memory) Commit(ctx context.Context, c *MemoryChange) (mesh.MemoryCommitReply, error) {
	s, err := m.shard(ctx, c.Tenant)
	if err == nil {
		err = s.index.ready(ctx)
	}
	if err != nil {
		return mesh.MemoryCommitReply{}, err
	}
	heads := s.index.heads(c)
	var unanswered []uint64 // what a publish expected that may still be stored
	for fresh, pause := false, time.Millisecond; ; {
		v := c.judge(heads)
		if unanswered != nil && !v.done {
			since := func(i int) uint64 { return unanswered[i] }
			if !sure(heads, since) {
				return mesh.MemoryCommitReply{}, lost(c.Namespace)
			}
			if changed(heads, since) {
				unanswered = nil // refused for ever
			}
		}
		if !fresh && !v.done && (v.unsure || v.refusal != nil) { // not on a guess
			if heads, err = s.refresh(ctx, c); err != nil {
				return mesh.MemoryCommitReply{}, err
			}
			fresh = true
			continue
		}
		reply := mesh.MemoryCommitReply{Revision: v.revision, Head: max(newest(heads), s.index.head()), Unsure: v.unsure}
		if v.done || v.unsure || v.refusal != nil {
			return reply, v.refusal
		}
		if err := s.index.allow(c, heads); err != nil && unanswered == nil {
			return mesh.MemoryCommitReply{}, err
		}
		last, err := s.publish(ctx, c, heads)
		if err == nil {
			return mesh.MemoryCommitReply{Revision: last, Head: max(last, s.index.head())}, nil
		}
		if !errors.Is(err, mesh.ErrRefused) {
			if unanswered != nil {
				err = lost(c.Namespace)
			}
			return mesh.MemoryCommitReply{}, err
		}
		if errors.Is(err, mesh.ErrUnanswered) {
			unanswered = expectations(heads)
		}
		expected := expectations(heads)
		if heads, err = s.refresh(ctx, c); err != nil {
			if unanswered != nil {
				err = lost(c.Namespace)
			}
			return mesh.MemoryCommitReply{}, err
		}
		fresh = true
		if changed(heads, func(i int) uint64 { return expected[i] }) {
			continue
		}
		// A leader that is behind refused it, or one that is behind was read.
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}

func lost(ns mesh.Namespace) error {
	return mesh.Errorf(mesh.CodeLost, "memory %s: outcome unknown: the stream did not answer in time", ns)
}

// verdict is what is to be done about a change, as the keys stand.
type verdict struct {
	done     bool // it was done, and its last op has the revision
	revision uint64
	unsure   bool  // whether it was done cannot be told
	refusal  error // a condition does not hold
}

func (c *MemoryChange) judge(heads []memoryHead) verdict {
	for i, h := range heads {
		if h.id == c.ID {
			return verdict{done: true, revision: h.seq + uint64(len(heads)-1-i)}
		}
	}
	if !sure(heads, func(int) uint64 { return c.After }) {
		return verdict{unsure: true}
	}
	for i, h := range heads {
		if err := c.refusal(i, h); err != nil {
			return verdict{refusal: err}
		}
	}
	return verdict{}
}

// sure reports whether a change that none of the heads is of was certainly not
// done after since, which is a sequence for each of its keys. One key tells for
// all: that it has not changed since, or once.
func sure(heads []memoryHead, since func(i int) uint64) bool {
	for i, h := range heads {
		if h.seq <= since(i) || h.prev <= since(i) {
			return true
		}
	}
	return false
}

// changed reports whether a key has changed after since.
func changed(heads []memoryHead, since func(i int) uint64) bool {
	for i, h := range heads {
		if h.seq > since(i) {
			return true
		}
	}
	return false
}

func (c *MemoryChange) refusal(i int, h memoryHead) error {
	op := c.Ops[i]
	switch {
	case op.Delete && !h.live, op.If != nil && *op.If != 0 && !h.live:
		return mesh.Errorf(mesh.CodeNotFound, "memory %s has no key %q", c.Namespace, op.Key)
	case op.If != nil && *op.If == 0 && h.live:
		return mesh.Errorf(mesh.CodeExists, "key %q exists in memory %s with revision %d", op.Key, c.Namespace, h.seq)
	case op.If != nil && *op.If != 0 && *op.If != h.seq:
		return mesh.Errorf(mesh.CodeConflict, "key %q of memory %s has revision %d, not %d; read it again", op.Key, c.Namespace, h.seq, *op.If)
	}
	return nil
}

func expectations(heads []memoryHead) []uint64 {
	all := make([]uint64, len(heads))
	for i, h := range heads {
		all[i] = h.seq
	}
	return all
}

func newest(heads []memoryHead) (seq uint64) {
	for _, h := range heads {
		seq = max(seq, h.seq)
	}
	return seq
}

// refresh returns what the keys are now. A deletion that the server has
// forgotten leaves no trace, so one that is old is looked up.
func (s *memoryShard) refresh(ctx context.Context, c *MemoryChange) ([]memoryHead, error) {
	if err := s.index.catchUp(ctx, mesh.MemoryPrefix(c.Tenant, c.Namespace)+">"); err != nil {
		return nil, err
	}
	heads := s.index.heads(c)
	for i, h := range heads {
		if h.seq == 0 || h.live || time.Since(h.modified) < mesh.TombstoneTTL/2 {
			continue
		}
		now, _, err := s.read(ctx, mesh.MemorySubject(c.Tenant, c.Namespace, c.Ops[i].Key))
		if err != nil {
			return nil, err
		}
		heads[i] = now
	}
	return heads, nil
}

// publish stores the change, if the keys are still as heads has them.
func (s *memoryShard) publish(ctx context.Context, c *MemoryChange, heads []memoryHead) (last uint64, err error) {
	msgs := make([]*nats.Msg, len(c.Ops))
	for i, subject := range c.subjects() {
		msgs[i] = c.message(i, subject, heads[i].seq)
	}
	if len(msgs) == 1 {
		last, err = mesh.Publish(ctx, s.js, msgs[0], heads[0].seq)
	} else {
		select {
		case s.batches <- struct{}{}:
		case <-ctx.Done():
			return 0, mesh.Errorf(mesh.CodeBusy, "too many commits at a time; try again")
		}
		last, err = mesh.PublishAll(ctx, s.conn, msgs, expectations(heads))
		<-s.batches
	}
	if err != nil {
		return 0, err
	}
	now := time.Now()
	for i, m := range msgs {
		s.index.learn(c.Tenant, c.Namespace, c.Ops[i].Key, headOf(m.Header, last-uint64(len(msgs)-1-i), now, len(m.Data)))
	}
	return last, nil
}

func (c *MemoryChange) message(i int, subject string, prev uint64) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set(mesh.HeaderID, c.ID)
	m.Header.Set(mesh.HeaderPrev, strconv.FormatUint(prev, 10))
	op := c.Ops[i]
	if op.Delete {
		m.Header.Set("KV-Operation", "PURGE") // the server then leaves no marker of its own
		m.Header.Set(jetstream.MsgTTLHeader, mesh.TombstoneTTL.String())
		return m
	}
	m.Data = append([]byte{memoryFormat}, c.Values[i]...)
	if op.TTLMS > 0 {
		seconds := (op.TTLMS + 999) / 1000
		m.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(seconds, 10)+"s")
	}
	return m
}
