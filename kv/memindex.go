package kv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/tidwall/btree"

	"github.com/wsmesh/wsmesh/mesh"
)

// memoryHead is the newest message of a key.
type memoryHead struct {
	seq      uint64 // 0: the key has no message
	prev     uint64 // sequence of the one before; seq itself where the server made the message
	id       string // of the request that made it
	live     bool   // it has a value
	size     int64  // bytes of the value
	modified time.Time
	expires  time.Time
}

func (h memoryHead) entry(key string) mesh.MemoryEntry {
	return mesh.MemoryEntry{Key: key, Revision: h.seq, Size: h.size, Modified: h.modified, Expires: h.expires, Deleted: !h.live}
}

func headOf(header nats.Header, seq uint64, modified time.Time, size int) memoryHead {
	h := memoryHead{seq: seq, prev: seq, id: header.Get(mesh.HeaderID), live: size > 0, size: int64(max(0, size-1)), modified: modified}
	if prev, err := strconv.ParseUint(header.Get(mesh.HeaderPrev), 10, 64); err == nil {
		h.prev = prev
	}
	if ttl, err := time.ParseDuration(header.Get(jetstream.MsgTTLHeader)); err == nil && h.live {
		h.expires = modified.Add(ttl)
	}
	return h
}

// currentCheck is how often an index makes sure that it is current, so that it
// never goes without that for as long as a deletion is remembered.
const currentCheck = time.Minute

// memoryIndex is every key of one memory stream, fed by the stream's messages in
// their order. Safe for concurrent use.
type memoryIndex struct {
	ctx    context.Context
	feeds  *sync.WaitGroup
	js     jetstream.JetStream
	stream jetstream.Stream
	skips  func(mesh.Tenant) uint64 // see Memory.Skip

	mu      sync.Mutex
	loaded  chan struct{} // closed once all is there that was there at the start
	stop    func()        // ends the feed
	spaces  map[memorySpaceKey]*memorySpace
	used    map[mesh.Tenant]memoryUse
	gone    *btree.Map[uint64, memoryGone] // deletions, by their sequence
	applied uint64                         // all messages up to here are in
	target  uint64                         // the last one at the start
	changed chan struct{}                  // closed when applied grows
	current time.Time                      // when it last was
}

type memorySpaceKey struct {
	tenant mesh.Tenant
	ns     mesh.Namespace
}

// memorySpace is one memory: its keys in their order, deleted ones too, and in
// the order of their changes.
type memorySpace struct {
	keys    btree.Map[string, memoryHead]
	changes btree.Map[uint64, string]
}

type memoryUse struct {
	keys, bytes int64
}

type memoryGone struct {
	memorySpaceKey
	key  string
	time time.Time
}

// restart begins with an empty index, and feeds it until ctx ends.
func (x *memoryIndex) restart() {
	ctx, cancel := context.WithCancel(x.ctx)
	x.mu.Lock()
	if x.stop != nil {
		x.stop()
		x.load() // who waits has no index, and asks the leader instead
	}
	x.stop = cancel
	x.loaded, x.changed = make(chan struct{}), make(chan struct{})
	x.spaces, x.used, x.gone = map[memorySpaceKey]*memorySpace{}, map[mesh.Tenant]memoryUse{}, &btree.Map[uint64, memoryGone]{}
	x.applied, x.target, x.current = 0, 0, time.Now()
	x.mu.Unlock()
	x.feeds.Go(func() { x.feed(ctx) })
}

// feed applies every message of the stream until ctx ends. The library makes the
// consumer anew when it is lost, where it was.
func (x *memoryIndex) feed(ctx context.Context) {
	for ctx.Err() == nil {
		err := x.consume(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (x *memoryIndex) consume(ctx context.Context) error {
	info, err := x.stream.Info(ctx)
	if err != nil {
		return err
	}
	name := info.Config.Name
	consumer, err := x.js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return err
	}
	x.mu.Lock()
	if ctx.Err() == nil {
		x.target = info.State.LastSeq
		if info.State.Msgs == 0 {
			x.load()
		}
	}
	x.mu.Unlock()
	feed, err := consumer.Consume(func(m jetstream.Msg) { x.receive(ctx, m) }, jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return err
	}
	<-ctx.Done()
	feed.Stop()
	<-feed.Closed()
	return nil
}

// load says that all is there; x.mu is held.
func (x *memoryIndex) load() {
	select {
	case <-x.loaded:
	default:
		close(x.loaded)
	}
}

// receive applies one message in its turn.
func (x *memoryIndex) receive(ctx context.Context, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		return
	}
	size, _ := strconv.Atoi(m.Headers().Get("Nats-Msg-Size"))
	x.mu.Lock()
	defer x.mu.Unlock()
	if ctx.Err() != nil {
		return // the index began anew
	}
	seq := meta.Sequence.Stream
	if t, ns, key, err := mesh.ParseMemorySubject(m.Subject()); err == nil {
		x.put(t, ns, key, headOf(m.Headers(), seq, meta.Timestamp, size))
	}
	x.applied = max(x.applied, seq)
	if x.applied >= x.target || meta.NumPending == 0 {
		x.load()
	}
	x.forget(meta.Timestamp)
	close(x.changed)
	x.changed = make(chan struct{})
}

// learn applies one message out of turn.
func (x *memoryIndex) learn(t mesh.Tenant, ns mesh.Namespace, key string, h memoryHead) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(t, ns, key, h)
}

// put enters a head unless a newer one is there; x.mu is held.
func (x *memoryIndex) put(t mesh.Tenant, ns mesh.Namespace, key string, h memoryHead) {
	if h.seq <= x.skips(t) {
		return // of a tenant that was removed
	}
	at := memorySpaceKey{t, ns}
	space := x.spaces[at]
	if space == nil {
		space = &memorySpace{}
		x.spaces[at] = space
	}
	old, known := space.keys.Get(key)
	if known && old.seq >= h.seq {
		return
	}
	use := x.used[t]
	if known {
		space.changes.Delete(old.seq)
		x.gone.Delete(old.seq)
		use.keys--
		use.bytes -= int64(len(key)) + old.size
	}
	use.keys++
	use.bytes += int64(len(key)) + h.size
	x.used[t] = use
	space.keys.Set(key, h)
	space.changes.Set(h.seq, key)
	if !h.live {
		x.gone.Set(h.seq, memoryGone{at, key, h.modified})
	}
}

// forget drops deletions that the stream has dropped long ago; x.mu is held.
func (x *memoryIndex) forget(now time.Time) {
	for {
		seq, g, ok := x.gone.Min()
		if !ok || now.Sub(g.time) <= 2*mesh.TombstoneTTL {
			return
		}
		x.drop(g.memorySpaceKey, x.spaces[g.memorySpaceKey], seq, g.key)
	}
}

// head is the newest sequence known.
func (x *memoryIndex) head() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.applied
}

// heads returns the keys of a change as far as they are known.
func (x *memoryIndex) heads(c *MemoryChange) []memoryHead {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := make([]memoryHead, len(c.Ops))
	if space := x.spaces[memorySpaceKey{c.Tenant, c.Namespace}]; space != nil {
		for i, op := range c.Ops {
			all[i], _ = space.keys.Get(op.Key)
		}
	}
	return all
}

// allow refuses a change that would exceed the tenant's limits. Those under way
// at the same time are not counted.
func (x *memoryIndex) allow(c *MemoryChange, heads []memoryHead) error {
	var keys, bytes int64
	for i, op := range c.Ops {
		if op.Delete {
			continue
		}
		bytes += int64(len(c.Values[i])) - heads[i].size
		if heads[i].seq == 0 {
			keys++
			bytes += int64(len(op.Key))
		}
	}
	x.mu.Lock()
	use := x.used[c.Tenant]
	x.mu.Unlock()
	if keys > 0 && use.keys+keys > DefaultMemoryKeys {
		return mesh.Errorf(mesh.CodeQuota, "the memory of tenant %s has %d keys; at most %d are possible; delete some", c.Tenant, use.keys, DefaultMemoryKeys)
	}
	if bytes > 0 && use.bytes+bytes > DefaultMemoryBytes {
		return mesh.Errorf(mesh.CodeQuota, "the memory of tenant %s has %d bytes; at most %d are possible; delete some", c.Tenant, use.bytes, DefaultMemoryBytes)
	}
	return nil
}

// ready waits until the index is loaded. One that takes long is used as it is:
// what counts is asked of the leader.
func (x *memoryIndex) ready(ctx context.Context) error {
	x.mu.Lock()
	loaded := x.loaded
	x.mu.Unlock()
	select {
	case <-loaded:
		return nil
	case <-time.After(loadWait):
		return nil
	case <-ctx.Done():
		return unreachable("read the memory's keys", ctx.Err())
	}
}

const (
	// readAhead is how many messages a request reads itself before it waits for
	// the feed.
	readAhead = 32
	// feedWait is how long it waits before it looks again: the message that it
	// waits for may be gone.
	feedWait = 20 * time.Millisecond
	// loadWait is how long it waits for an index that is being made.
	loadWait = 5 * time.Second
	// maxScan is how many keys one page looks at.
	maxScan = 20_000
)

// catchUp returns when the index has every message below filter that was stored
// when it was called.
func (x *memoryIndex) catchUp(ctx context.Context, filter string) error {
	if err := x.notTooOld(ctx); err != nil {
		return err
	}
	pos, last := x.head(), uint64(0)
	for n := 0; ; n++ {
		raw, err := x.stream.GetMsg(ctx, pos+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return unreachable("read the memory's keys", err)
		}
		if t, ns, key, err := mesh.ParseMemorySubject(raw.Subject); err == nil {
			x.learn(t, ns, key, headOf(raw.Header, raw.Sequence, raw.Time, len(raw.Data)))
		}
		pos = raw.Sequence
		if last == 0 {
			info, err := x.stream.Info(ctx)
			if err != nil {
				return unreachable("read the memory's keys", err)
			}
			last = info.State.LastSeq
		}
		if n >= readAhead {
			x.waitChange(ctx, pos, feedWait)
		}
		if pos = max(pos, x.head()); pos >= last {
			break
		}
	}
	x.mu.Lock()
	if filter == mesh.MemoryWildcard && x.applied >= pos {
		x.current = time.Now()
	}
	x.mu.Unlock()
	return nil
}

// notTooOld makes the index anew when it may have missed that a key was deleted
// and forgotten, and waits until it is loaded.
func (x *memoryIndex) notTooOld(ctx context.Context) error {
	x.mu.Lock()
	// The wall clock: a computer that slept is what this is about.
	old := time.Now().Round(0).Sub(x.current.Round(0)) > mesh.TombstoneTTL/2
	x.mu.Unlock()
	if old {
		x.restart()
	}
	return x.ready(ctx)
}

// waitChange waits until a message beyond seq is applied, at most for limit.
func (x *memoryIndex) waitChange(ctx context.Context, seq uint64, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		x.mu.Lock()
		applied, changed := x.applied, x.changed
		x.mu.Unlock()
		if applied > seq {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (x *memoryIndex) keepCurrent() {
	for {
		select {
		case <-x.ctx.Done():
			return
		case <-time.After(currentCheck):
			ctx, cancel := context.WithTimeout(x.ctx, currentCheck)
			x.catchUp(ctx, mesh.MemoryWildcard) //nolint:errcheck // the next minute tries again
			cancel()
		}
	}
}

// List returns a page of one memory's keys, current when it was asked for.
func (m *Memory) List(ctx context.Context, t mesh.Tenant, req mesh.MemoryListRequest) (mesh.MemoryListReply, error) {
	s, err := m.shard(ctx, t)
	if err == nil {
		err = s.index.catchUp(ctx, mesh.MemoryPrefix(t, req.Namespace)+">")
	}
	if err != nil {
		return mesh.MemoryListReply{}, err
	}
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	reply := mesh.MemoryListReply{Entries: []mesh.MemoryEntry{}, Head: s.index.applied}
	if space := s.index.spaces[memorySpaceKey{t, req.Namespace}]; space != nil {
		reply.Entries, reply.Next = space.page(req)
	}
	return reply, nil
}

// page is what req asks for, in at most one message, and what the next page
// comes after: "" if there is none.
func (s *memorySpace) page(req mesh.MemoryListRequest) (page []mesh.MemoryEntry, next string) {
	page = []mesh.MemoryEntry{}
	room := newMemoryRoom(req.Limit)
	level := func(key string) (string, bool) { // what stands for the key in a page
		if i := strings.IndexByte(key[len(req.Prefix):], '/'); req.Level && i >= 0 {
			return key[:len(req.Prefix)+i+1], true
		}
		return key, false
	}
	last, from := req.After, max(req.Prefix, req.After)
	if strings.HasPrefix(req.After, req.Prefix) {
		if shown, is := level(req.After); is && shown == req.After {
			from = afterLevel(shown)
		}
	}
	for again := true; again; {
		again = false
		s.keys.Ascend(from, func(key string, h memoryHead) bool {
			switch {
			case !strings.HasPrefix(key, req.Prefix):
				return false
			case room.scanned():
				next = last
				return false
			}
			shown, isLevel := level(key)
			if key <= req.After || !h.live {
				if !isLevel || shown != key { // as After it would stand for the whole level
					last = key
				}
				return true
			}
			if !room.take(shown) {
				next = last
				return false
			}
			last = shown
			if !isLevel {
				page = append(page, h.entry(key))
				return true
			}
			page = append(page, mesh.MemoryEntry{Key: shown})
			from, again = afterLevel(shown), true
			return false
		})
	}
	return page, next
}

// afterLevel is where the keys below a level, whose name ends with a slash, have
// ended: '0' follows '/'.
func afterLevel(shown string) string { return shown[:len(shown)-1] + "0" }

// memoryRoom is what still fits into a page.
type memoryRoom struct{ entries, bytes, scans int }

func newMemoryRoom(limit int) *memoryRoom {
	if limit <= 0 || limit > mesh.MaxList {
		limit = mesh.MaxList
	}
	return &memoryRoom{limit, mesh.MaxMessage - 4<<10, maxScan}
}

// scanned reports whether enough keys were looked at, and counts one.
func (r *memoryRoom) scanned() bool {
	r.scans--
	return r.scans < 0
}

func (r *memoryRoom) take(key string) bool {
	r.entries--
	r.bytes -= 200 + 6*len(key) // as JSON at its longest
	return r.entries >= 0 && r.bytes >= 0
}

// Watch returns what changed since a cursor, and waits for it if nothing did.
func (m *Memory) Watch(ctx context.Context, t mesh.Tenant, req mesh.MemoryWatchRequest) (mesh.MemoryWatchReply, error) {
	s, err := m.shard(ctx, t)
	if err != nil {
		return mesh.MemoryWatchReply{}, err
	}
	x := s.index
	if req.Cursor == "" {
		err := x.catchUp(ctx, mesh.MemoryPrefix(t, req.Namespace)+">")
		return mesh.MemoryWatchReply{Entries: []mesh.MemoryEntry{}, Cursor: memoryCursor(x.head())}, err
	}
	after, seen, err := parseMemoryCursor(req.Cursor)
	if err == nil {
		err = x.notTooOld(ctx)
	}
	if err != nil {
		return mesh.MemoryWatchReply{}, err
	}
	if time.Since(seen) > mesh.TombstoneTTL-currentCheck {
		return mesh.MemoryWatchReply{Entries: []mesh.MemoryEntry{}, Cursor: memoryCursor(x.head()), Resync: true}, nil
	}
	wait := min(time.Duration(max(0, req.WaitMS))*time.Millisecond, mesh.MaxMemoryWait)
	for until := time.Now().Add(wait); ; {
		entries, next := x.since(t, req, after)
		rest := time.Until(until)
		if len(entries) > 0 || rest <= 0 || ctx.Err() != nil {
			return mesh.MemoryWatchReply{Entries: entries, Cursor: memoryCursor(next)}, nil
		}
		after = next
		x.waitChange(ctx, after, rest)
	}
}

// since returns what changed after a sequence, and up to which one that is all.
func (x *memoryIndex) since(t mesh.Tenant, req mesh.MemoryWatchRequest, after uint64) ([]mesh.MemoryEntry, uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	entries, next := []mesh.MemoryEntry{}, max(after, x.applied)
	space := x.spaces[memorySpaceKey{t, req.Namespace}]
	if space == nil {
		return entries, next
	}
	room := newMemoryRoom(req.Limit)
	space.changes.Ascend(after+1, func(seq uint64, key string) bool {
		if seq > x.applied {
			return false // learned out of turn: others may come before it
		}
		if room.scanned() {
			next = seq - 1
			return false
		}
		if !strings.HasPrefix(key, req.Prefix) {
			return true
		}
		if !room.take(key) {
			next = seq - 1
			return false
		}
		h, _ := space.keys.Get(key)
		entries = append(entries, h.entry(key))
		return true
	})
	return entries, next
}

// memoryCursor is a sequence and when it was the newest.
func memoryCursor(seq uint64) string { return fmt.Sprintf("%d.%d", seq, time.Now().Unix()) }

func parseMemoryCursor(s string) (seq uint64, seen time.Time, err error) {
	a, b, ok := strings.Cut(s, ".")
	seq, err1 := strconv.ParseUint(a, 10, 64)
	unix, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return 0, time.Time{}, mesh.Errorf(mesh.CodeInvalid, "cursor %.40q is not one that a watch gave", s)
	}
	return seq, time.Unix(unix, 0), nil
}
