package client

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/wsmesh/wsmesh/mesh"
)

// Memory is one memory of the tenant: keys with values, in the mesh and not in
// any workspace. What was acknowledged is seen by the next read, list and watch of
// every client, whichever node and server it talks to. Safe for concurrent use.
type Memory struct {
	client *Client
	ns     mesh.Namespace
	prefix string // "" or with a final slash
	err    error  // of the name; every call returns it
	seen   *lru.Cache[string, seenKey]
}

// seenKey is a revision of a key, and when it was the newest.
type seenKey struct {
	revision uint64
	at       time.Time
}

// DefaultSeen is how many keys a Memory remembers the revisions of, so that it
// never takes an older answer for one.
const DefaultSeen = 4096

// Memory returns a handle; "" is the memory called main. Nothing is asked of the
// mesh: a name that cannot be one is CodeInvalid at the first use.
func (c *Client) Memory(name string) *Memory {
	m := &Memory{client: c}
	m.ns, m.err = mesh.ParseNamespace(name)
	if seen, err := lru.New[string, seenKey](DefaultSeen); err == nil {
		m.seen = seen
	}
	return m
}

// Scope is the part of the memory whose keys begin with path and a slash; its
// own keys are without them. Scopes nest.
func (m *Memory) Scope(path string) *Memory {
	in := *m
	in.prefix += path + "/"
	if path == "" && in.err == nil {
		in.err = mesh.Errorf(mesh.CodeInvalid, "a scope of a memory needs a path")
	}
	return &in
}

// MemoryEntry describes a key, with its Value where Get returns it. Revision
// grows with every change of the key; 0 says that Key ends with a slash and stands
// for all keys that begin with it.
type MemoryEntry struct {
	Key      string
	Value    []byte
	Revision uint64
	Size     int64 // bytes of the value
	Modified time.Time
	Expires  time.Time // zero: never
	Deleted  bool      // it has no value any more
}

func (m *Memory) entry(e mesh.MemoryEntry) MemoryEntry {
	return MemoryEntry{
		Key: strings.TrimPrefix(e.Key, m.prefix), Revision: e.Revision, Size: e.Size,
		Modified: e.Modified, Expires: e.Expires, Deleted: e.Deleted,
	}
}

// MemoryOp is one change of a commit: a put of Value, or a deletion.
type MemoryOp struct {
	Key    string
	Value  []byte
	Delete bool
	op     mesh.MemoryOp
}

// MemoryOption says how a change is made.
type MemoryOption func(*mesh.MemoryOp)

// TTL ends the value's life after d: at least a second, counted in whole seconds.
func TTL(d time.Duration) MemoryOption {
	return func(op *mesh.MemoryOp) {
		if op.TTLMS = d.Milliseconds(); op.TTLMS == 0 {
			op.TTLMS = -1 // refused, not endless
		}
	}
}

// IfRevision makes a change only if the key has this revision; 0 only if it has no
// value.
func IfRevision(rev uint64) MemoryOption { return func(op *mesh.MemoryOp) { op.If = &rev } }

// With adds options to an op of a commit.
func (op MemoryOp) With(opts ...MemoryOption) MemoryOp {
	for _, o := range opts {
		o(&op.op)
	}
	return op
}

// Get returns a key with its value; CodeNotFound if it has none.
func (m *Memory) Get(ctx context.Context, key string) (MemoryEntry, error) {
	ctx, op := m.reads(ctx, "mem get", slog.String("key", m.prefix+key))
	e, err := m.get(ctx, key)
	return e, op.end(err)
}

func (m *Memory) get(ctx context.Context, key string) (MemoryEntry, error) {
	if m.err != nil {
		return MemoryEntry{}, m.err
	}
	key = m.prefix + key
	if err := mesh.CheckKey(key); err != nil {
		return MemoryEntry{}, err
	}
	least := uint64(0)
	if seen, _ := m.seen.Get(key); time.Since(seen.at) < mesh.TombstoneTTL/2 {
		least = seen.revision // whatever came after it, the mesh still remembers
	}
	var reply mesh.MemoryGetReply
	value, err := m.client.apiContent(ctx, mesh.ServiceMemory, call{
		verb: mesh.VerbMemoryGet, args: mesh.MemoryGetRequest{Namespace: m.ns, Key: key, Least: least},
	}, ".", &reply)
	if err != nil {
		return MemoryEntry{}, err
	}
	m.saw(key, reply.Entry.Revision)
	m.client.sawHead(reply.Head)
	e := m.entry(reply.Entry)
	e.Value = value
	return e, nil
}

// Put sets a key's value, at most 512 KiB, and returns its revision.
func (m *Memory) Put(ctx context.Context, key string, value []byte, opts ...MemoryOption) (uint64, error) {
	return m.Commit(ctx, MemoryOp{Key: key, Value: value}.With(opts...))
}

// Create is Put for a key that has no value: CodeExists if it has one.
func (m *Memory) Create(ctx context.Context, key string, value []byte, opts ...MemoryOption) (uint64, error) {
	return m.Put(ctx, key, value, append(slices.Clip(opts), IfRevision(0))...)
}

// Update is Put for a key that has this revision: CodeConflict if it has another,
// CodeNotFound if it has no value.
func (m *Memory) Update(ctx context.Context, key string, value []byte, rev uint64, opts ...MemoryOption) (uint64, error) {
	return m.Put(ctx, key, value, append(slices.Clip(opts), IfRevision(rev))...)
}

// Delete takes a key's value away; CodeNotFound if it has none.
func (m *Memory) Delete(ctx context.Context, key string, opts ...MemoryOption) error {
	_, err := m.Commit(ctx, MemoryOp{Key: key, Delete: true}.With(opts...))
	return err
}

// Commit makes up to 1,000 changes, of which no two are of one key, all or none;
// their keys and values together fit into 512 KiB. The last one has the revision
// that is returned, those before it have the numbers before. The error of a
// condition that does not hold names its key.
//
// It is made once, however often a lost connection or a silent node makes the
// client ask. CodeLost: a request was not answered, and whether it was done could
// not be found out.
func (m *Memory) Commit(ctx context.Context, ops ...MemoryOp) (uint64, error) {
	name, about := "mem commit", slog.Int("changes", len(ops))
	if len(ops) == 1 {
		name, about = "mem put", slog.String("key", m.prefix+ops[0].Key)
		if ops[0].Delete {
			name = "mem delete"
		}
	}
	ctx, op := m.changes(ctx, name, about)
	rev, err := m.commit(ctx, ops)
	return rev, op.end(err)
}

func (m *Memory) commit(ctx context.Context, ops []MemoryOp) (uint64, error) {
	if m.err != nil {
		return 0, m.err
	}
	req := mesh.MemoryCommitRequest{Namespace: m.ns, Ops: make([]mesh.MemoryOp, len(ops))}
	content := []byte{}
	for i, op := range ops {
		req.Ops[i] = op.op
		req.Ops[i].Key, req.Ops[i].Delete, req.Ops[i].Size = m.prefix+op.Key, op.Delete, len(op.Value)
		if err := mesh.CheckKey(req.Ops[i].Key); err != nil {
			return 0, err
		}
		if len(op.Value) > mesh.MaxValueBytes {
			return 0, mesh.Errorf(mesh.CodeTooLarge, "the value of %.80q has %d bytes; at most %d are possible: keep it in a file of a workspace", op.Key, len(op.Value), mesh.MaxValueBytes)
		}
		content = append(content, op.Value...)
	}
	if len(content) > mesh.MaxMessage {
		return 0, mesh.Errorf(mesh.CodeTooLarge, "the values of a commit have %d bytes together; at most %d are possible", len(content), mesh.MaxMessage)
	}
	last, err := m.client.commitMemory(ctx, req, content)
	if err != nil {
		return 0, err
	}
	for i, op := range req.Ops {
		m.saw(op.Key, last-uint64(len(ops)-1-i))
	}
	return last, nil
}

// saw remembers a revision of a key.
func (m *Memory) saw(key string, rev uint64) {
	if old, ok := m.seen.Peek(key); !ok || old.revision <= rev {
		m.seen.Add(key, seenKey{rev, time.Now()})
	}
}

// sawHead remembers the newest revision of any key.
func (c *Client) sawHead(head uint64) {
	for {
		old := c.head.Load()
		if head <= old || c.head.CompareAndSwap(old, head) {
			return
		}
	}
}

// commitMemory asks until the answer is definite. All tries have one id, by which
// a node finds that it was done already, and After, by which it is sure that it
// was not.
func (c *Client) commitMemory(ctx context.Context, req mesh.MemoryCommitRequest, content []byte) (uint64, error) {
	ctx, cancel := bounded(ctx, c.cfg.Wait)
	defer cancel()
	id := mesh.NewID()
	req.After = c.head.Load()
	t := tries{id: id}
	for try := 0; ctx.Err() == nil; try++ {
		if try > 0 && !pause(ctx, try) {
			break
		}
		k := call{verb: mesh.VerbMemoryCommit, args: req, content: content, reads: true}
		reply, open, err := c.hedged(ctx, k, mesh.ServiceMemory, ".", id)
		t.unknown = t.unknown || open > 0
		if err != nil {
			if c.conn.IsClosed() {
				return 0, c.closed()
			}
			if mesh.CodeOf(err) == mesh.CodeTooLarge {
				return 0, err
			}
			t.unknown = t.unknown || mesh.CodeOf(err) == mesh.CodeDeadline
			t.last = err
			continue
		}
		c.lately.Store(mesh.Node(reply.Header.Get(mesh.HeaderNode)))
		var answer mesh.MemoryCommitReply
		_, err = mesh.DecodeReply(reply, &answer)
		c.sawHead(answer.Head)
		switch {
		case err == nil && !answer.Unsure:
			return answer.Revision, nil
		case err == nil && t.unknown:
			return 0, c.gaveUp(ctx, true, nil)
		case err == nil: // nothing was done, and nothing else is under way
			req.After = answer.Head
			try = -1
		case mesh.CodeOf(err) == mesh.CodeLost:
			t.unknown, t.last = true, err
		case retrySafe(err):
			t.last = err
		case t.unknown:
			// A try that still is under way may be done after this refusal.
			return 0, c.gaveUp(ctx, true, nil)
		default:
			return 0, err
		}
	}
	return 0, c.gaveUp(ctx, t.unknown, t.last)
}

// MemoryList says what a page shows.
type MemoryList struct {
	Prefix string // only keys that begin with it
	After  string // only greater ones: Next of the page before
	Limit  int    // at most so many, 0 being 1,000
	// Level shows keys that have a slash after Prefix once, up to and with that
	// slash: what a directory's listing is to a tree.
	Level bool
}

// MemoryPage is a page of keys, without values, sorted by their bytes. Next is
// where the next page begins; "" if this is the last.
type MemoryPage struct {
	Entries []MemoryEntry
	Next    string
}

// ListPage returns one page. It can be empty with a Next.
func (m *Memory) ListPage(ctx context.Context, l MemoryList) (MemoryPage, error) {
	ctx, op := m.reads(ctx, "mem list", slog.String("prefix", m.prefix+l.Prefix))
	page, err := m.listPage(ctx, l)
	return page, op.end(err)
}

func (m *Memory) listPage(ctx context.Context, l MemoryList) (MemoryPage, error) {
	if m.err != nil {
		return MemoryPage{}, m.err
	}
	req := mesh.MemoryListRequest{Namespace: m.ns, Prefix: m.prefix + l.Prefix, Limit: l.Limit, Level: l.Level}
	if l.After != "" {
		req.After = m.prefix + l.After
	}
	var reply mesh.MemoryListReply
	if err := m.client.api(ctx, mesh.ServiceMemory, mesh.VerbMemoryList, req, &reply); err != nil {
		return MemoryPage{}, err
	}
	m.client.sawHead(reply.Head)
	page := MemoryPage{Next: strings.TrimPrefix(reply.Next, m.prefix), Entries: make([]MemoryEntry, len(reply.Entries))}
	for i, e := range reply.Entries {
		page.Entries[i] = m.entry(e)
	}
	return page, nil
}

// List yields the keys that begin with prefix, sorted by their bytes, without
// values. It asks page by page: each page is current when it is asked for.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[MemoryEntry, error] {
	return func(yield func(MemoryEntry, error) bool) {
		ctx, op := m.reads(ctx, "mem list", slog.String("prefix", m.prefix+prefix))
		l := MemoryList{Prefix: prefix}
		whole(op, pages(func() ([]MemoryEntry, bool, error) {
			page, err := m.ListPage(ctx, l)
			l.After = page.Next
			return page.Entries, page.Next != "", err
		}), yield)
	}
}

// DeleteAll deletes the keys that begin with prefix, "" being all, and returns how
// many. Those that are put meanwhile may remain, and keys that change are deleted
// as they are then.
func (m *Memory) DeleteAll(ctx context.Context, prefix string) (n int, err error) {
	ctx, op := m.changes(ctx, "mem delete", slog.String("prefix", m.prefix+prefix))
	defer func() { op.record(err) }()
	for e, err := range m.List(ctx, prefix) {
		if err == nil {
			err = m.Delete(ctx, e.Key)
		}
		switch {
		case err == nil:
			n++
		case mesh.CodeOf(err) != mesh.CodeNotFound: // somebody else was faster
			return n, err
		}
	}
	return n, nil
}

// MemoryChanges is what changed after a cursor.
type MemoryChanges struct {
	Entries []MemoryEntry // newest state of each key, in the order of the changes, without values
	Cursor  string        // of the next call
	Resync  bool          // the cursor was older than an hour: deletions may be missing; list the keys
}

// Changes returns what changed after a cursor below a prefix, and waits for it if
// nothing did, for a moment: no entries say to ask again. "" asks for a first
// cursor. Cursors hold for an hour, with any node and for any client of the
// tenant. States between are skipped.
func (m *Memory) Changes(ctx context.Context, prefix, cursor string) (MemoryChanges, error) {
	ctx, op := m.reads(ctx, "mem watch", slog.String("prefix", m.prefix+prefix))
	changes, err := m.changed(ctx, prefix, cursor)
	return changes, op.end(err)
}

func (m *Memory) changed(ctx context.Context, prefix, cursor string) (MemoryChanges, error) {
	if m.err != nil {
		return MemoryChanges{}, m.err
	}
	req := mesh.MemoryWatchRequest{Namespace: m.ns, Prefix: m.prefix + prefix, Cursor: cursor, WaitMS: mesh.MaxMemoryWait.Milliseconds()}
	var reply mesh.MemoryWatchReply
	if err := m.client.api(ctx, mesh.ServiceMemory, mesh.VerbMemoryWatch, req, &reply); err != nil {
		return MemoryChanges{}, err
	}
	all := MemoryChanges{Cursor: reply.Cursor, Resync: reply.Resync, Entries: make([]MemoryEntry, len(reply.Entries))}
	for i, e := range reply.Entries {
		all.Entries[i] = m.entry(e)
	}
	return all, nil
}

// Watch yields every key below a prefix that changes from now on, until ctx ends.
// It goes on through lost connections and dead nodes. An error ends it:
// CodeConflict when it was away for more than an hour, and may have missed
// deletions; CodeUnavailable when the client was closed.
func (m *Memory) Watch(ctx context.Context, prefix string) iter.Seq2[MemoryEntry, error] {
	return func(yield func(MemoryEntry, error) bool) {
		ctx, op := m.reads(ctx, "mem watch", slog.String("prefix", m.prefix+prefix))
		whole(op, m.watch(ctx, prefix), yield)
	}
}

func (m *Memory) watch(ctx context.Context, prefix string) iter.Seq2[MemoryEntry, error] {
	return func(yield func(MemoryEntry, error) bool) {
		cursor := ""
		for {
			changes, err := m.Changes(ctx, prefix, cursor)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil && !m.client.over() && (retrySafe(err) || mesh.CodeOf(err) == mesh.CodeDeadline):
				continue // the call has waited
			case err == nil && changes.Resync:
				err = mesh.Errorf(mesh.CodeConflict, "the watch was away for too long and may have missed deletions; list the keys")
			}
			if err != nil {
				yield(MemoryEntry{}, err)
				return
			}
			cursor = changes.Cursor
			for _, e := range changes.Entries {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}
