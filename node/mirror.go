package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/mirror"
)

// MirrorConfig is where a node copies the mesh to. All nodes of a mesh that have one
// have the same. The zero value is none.
type MirrorConfig struct {
	Remote objstore.Remote // nil: none
	URL    string          // where that is, for people; without secrets
	Adopt  bool            // write over what another mesh has left there
	Files  bool            // keep a readable copy of the files as well
	After  time.Duration   // how long a change may be in no commit; default DefaultMirrorAfter
	Slice  time.Duration   // how long one request of many works that restore a mesh; default 5 s
}

// When what has changed is copied.
const (
	// DefaultMirrorAfter is how long a change may be in no commit while there is a
	// mirror, which copies commits.
	DefaultMirrorAfter = 3 * time.Second
	// mirrorRest is how much longer than a commit took the next one waits: a tenth of
	// the time goes into commits at most.
	mirrorRest = 9
	// memoryRest is how long a memory's copy is left alone after it was written.
	memoryRest = 5 * time.Second
	// mirrorBatch is how many messages are looked at together.
	mirrorBatch = 256
	// mirrorAckWait is how long a node that says nothing keeps its work from others. One
	// that ends waits that long for what a dead one had, so it is less than DefaultGrace.
	mirrorAckWait = 15 * time.Second
	// mirrorAtOnce bounds the workspaces or memories that a stream's work is done on
	// at once.
	mirrorAtOnce = 2
	// mirrorRetry is how long work that failed waits, at first and at most.
	mirrorRetry, maxMirrorRetry = time.Second, 15 * time.Second
	// filesRetry is how long a readable copy waits for the commit that it shows, and
	// heldRetry one that is held back for the next commit.
	filesRetry, heldRetry = 500 * time.Millisecond, 15 * time.Second
	// mirrorFetch is how long one wait for messages is.
	mirrorFetch = 10 * time.Second
	// claimAge is how long it is believed that the copy is still ours.
	claimAge = 2 * time.Second
	// minFlush is what the end of a node has for the copy at least.
	minFlush = 2 * time.Second
)

// mirroring copies to the mirror. The streams say what is to be copied: a durable
// consumer of each hands every message to one of the nodes, and again to another one
// when that does not say in time that it is done. What a message asks for is read when
// it is done, as it is then; so it may be done late, twice, and for many at once.
type mirroring struct {
	n   *Node
	cfg MirrorConfig
	m   *mirror.Mirror

	claiming sync.Mutex // one claims at a time, for all
	mu       sync.Mutex
	claimed  time.Time           // when the copy was last ours
	paused   error               // why nothing is copied; nil: it is
	failures map[string]error    // of the last try, by name of the source
	held     map[string]heldBack // readable copies that are held back, by journal
	hurry    chan struct{}       // closed by flush: nobody rests
	made     []madeCommit
	copied   map[memoryKey]uint64 // sequence that a memory's copy has
}

// heldBack is what this node has seen of a copy that is held back. Whichever node asks the
// next time sees it again; so what is older than a few times is over.
type heldBack struct {
	err error
	at  time.Time
}

type memoryKey struct {
	tenant mesh.Tenant
	ns     mesh.Namespace
}

// madeCommit is a commit of this node that is not known to be copied.
type madeCommit struct {
	shard    int
	sequence uint64 // of its record in the journal
	bytes    int
	since    time.Time // of the oldest change in it
}

// source is one stream with what its messages ask for.
type source struct {
	stream  string
	commits bool                                                          // it is a journal
	files   bool                                                          // for the readable copy
	group   func(m jetstream.Msg) string                                  // what the message is about; "": nothing to copy
	copy    func(ctx context.Context, what string, m jetstream.Msg) error // of the newest message of what
	rest    time.Duration                                                 // after something was copied
	late    bool                                                          // the stream may not exist yet
}

func newMirroring(ctx context.Context, n *Node) (*mirroring, error) {
	if n.cfg.Mirror.Remote == nil {
		return nil, nil
	}
	id, err := n.kv.Tenants.MeshID(ctx)
	if err != nil {
		return nil, fmt.Errorf("the id of the mesh: %w", err)
	}
	if n.cfg.Mirror.After == 0 {
		n.cfg.Mirror.After = DefaultMirrorAfter
	}
	if n.cfg.Mirror.Slice == 0 {
		n.cfg.Mirror.Slice = restoreSlice
	}
	r := &mirroring{n: n, cfg: n.cfg.Mirror, copied: map[memoryKey]uint64{}, failures: map[string]error{}, held: map[string]heldBack{}, hurry: make(chan struct{})}
	if r.m, err = mirror.New(r.cfg.Remote, id); err != nil {
		return nil, err
	}
	r.m.Step = crashPoint
	return r, nil
}

func (r *mirroring) sources() []source {
	var all []source
	for i := range r.n.shards {
		all = append(all, source{stream: mesh.JournalStream(i), commits: true, group: ofCommits, copy: r.workspace})
	}
	for _, bucket := range []string{mesh.BucketTenants, mesh.BucketWorkspaces, mesh.BucketSnapshots} {
		all = append(all, source{stream: "KV_" + bucket, group: jetstream.Msg.Subject, copy: r.record})
	}
	for i := range mesh.MemoryShards {
		all = append(all, source{stream: mesh.MemoryStream(i), group: ofMemories, copy: r.memory, rest: memoryRest, late: true})
	}
	return all
}

// filesSources are those of the readable copy, which comes after the copy of a commit
// and never holds it up.
func (r *mirroring) filesSources() []source {
	var all []source
	for i := range r.n.shards {
		all = append(all, source{stream: mesh.JournalStream(i), commits: true, files: true, group: ofCommits, copy: r.files})
	}
	return all
}

// run copies until ctx ends.
func (r *mirroring) run(ctx context.Context) {
	var g sync.WaitGroup
	sources := r.sources()
	if r.cfg.Files {
		sources = append(sources, r.filesSources()...)
	}
	for _, s := range sources {
		g.Go(func() { r.follow(ctx, &s) })
	}
	g.Go(func() { r.watchCopied(ctx) })
	g.Wait()
}

// follow does what a stream asks for.
func (r *mirroring) follow(ctx context.Context, s *source) {
	retry := mirrorRetry
	for ctx.Err() == nil {
		copied, err := r.once(ctx, s)
		if errors.Is(err, jetstream.ErrStreamNotFound) && s.late {
			r.wait(ctx, memoryRest)
			continue
		}
		r.tried(ctx, s, err)
		switch {
		case err != nil:
			r.wait(ctx, retry)
			retry = min(2*retry, maxMirrorRetry)
		case copied:
			r.wait(ctx, s.rest)
			fallthrough
		default:
			retry = mirrorRetry
		}
	}
}

// wait rests, unless the node ends.
func (r *mirroring) wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	case <-r.hurry:
		select {
		case <-ctx.Done():
		case <-time.After(min(d, 50*time.Millisecond)):
		}
	}
}

// tried notes why nothing was copied, and says so once.
func (r *mirroring) tried(ctx context.Context, s *source, err error) {
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	before := r.failures[r.consumer(s)+s.stream]
	r.failures[r.consumer(s)+s.stream] = err
	paused := r.paused != nil
	r.mu.Unlock()
	if err != nil && before == nil && !paused {
		r.n.log.Warn("not copied to the mirror; it is tried again", "stream", s.stream, "files", s.files, "err", err)
	}
}

// failure is the first of the last tries of some sources; r.mu is held.
func (r *mirroring) failure(sources []source) error {
	for _, s := range sources {
		if err := r.failures[r.consumer(&s)+s.stream]; err != nil {
			return err
		}
	}
	return nil
}

// filesFailure is why a readable copy is behind, if it is for a reason; r.mu is held.
func (r *mirroring) filesFailure() error {
	maps.DeleteFunc(r.held, func(_ string, h heldBack) bool { return time.Since(h.at) > 3*heldRetry })
	for _, subject := range slices.Sorted(maps.Keys(r.held)) {
		return r.held[subject].err
	}
	return r.failure(r.filesSources())
}

// claim makes sure that the copy is this mesh's.
func (r *mirroring) claim(ctx context.Context) error {
	r.claiming.Lock()
	defer r.claiming.Unlock()
	r.mu.Lock()
	recent := time.Since(r.claimed) < claimAge
	r.mu.Unlock()
	if recent {
		return nil
	}
	err := r.m.Claim(ctx, r.cfg.Adopt, r.startOver)
	r.mu.Lock()
	defer r.mu.Unlock()
	if mesh.CodeOf(err) == mesh.CodeConflict {
		if r.paused == nil {
			r.n.log.Error("nothing is copied to the mirror", "url", r.cfg.URL, "err", err)
		}
		r.paused = err
		return err
	}
	if err == nil {
		r.claimed, r.paused = time.Now(), nil
	}
	return err
}

// resume looks at the claim again.
func (r *mirroring) resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claimed, r.paused = time.Time{}, nil
	clear(r.failures) // they are of before
	clear(r.held)
}

// startOver has everything copied: nothing of this mesh is there.
func (r *mirroring) startOver(ctx context.Context) error {
	r.mu.Lock()
	clear(r.copied)
	r.mu.Unlock()
	for _, s := range append(r.sources(), r.filesSources()...) {
		err := r.n.js.DeleteConsumer(ctx, s.stream, r.consumer(&s))
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("begin the copy of %s: %w", s.stream, unavailable(err))
		}
	}
	return nil
}

// consumer is the name of a source's consumer: another one for another place.
func (r *mirroring) consumer(s *source) string {
	what := "mirror-"
	if s.files {
		what = "files-"
	}
	return what + objstore.IDOf([]byte(r.cfg.URL)).String()[:16]
}

// once takes what is there of a stream, at most mirrorBatch messages, and does it.
func (r *mirroring) once(ctx context.Context, s *source) (copied bool, err error) {
	if err := r.claim(ctx); err != nil {
		return false, err
	}
	consumer, err := r.n.js.CreateOrUpdateConsumer(ctx, s.stream, jetstream.ConsumerConfig{
		Durable: r.consumer(s), DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: mirrorAckWait, MaxAckPending: 4 * mirrorBatch, HeadersOnly: true, InactiveThreshold: 30 * 24 * time.Hour,
	})
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return false, err
		}
		return false, unavailable(err)
	}
	for ctx.Err() == nil {
		msgs, err := fetch(ctx, consumer)
		if err != nil || len(msgs) == 0 {
			return copied, err
		}
		did, err := r.do(ctx, s, msgs)
		if did && err == nil {
			r.tried(ctx, s, nil)
		}
		if copied = copied || did; err != nil || did && s.rest > 0 {
			return copied, err
		}
		if err := r.claim(ctx); err != nil {
			return copied, err
		}
	}
	return copied, ctx.Err()
}

// fetch waits a while for messages.
func fetch(ctx context.Context, consumer jetstream.Consumer) (msgs []jetstream.Msg, err error) {
	bound, cancel := context.WithTimeout(ctx, mirrorFetch)
	defer cancel()
	first, err := consumer.Next(jetstream.FetchContext(bound))
	if bound.Err() != nil || errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrConsumerDeleted) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, unavailable(err)
	}
	msgs = append(msgs, first)
	rest, err := consumer.FetchNoWait(mirrorBatch)
	if err != nil {
		return msgs, nil //nolint:nilerr // the first one was had
	}
	for m := range rest.Messages() {
		msgs = append(msgs, m)
	}
	return msgs, nil
}

// do does what messages ask for, and says of each that it is done, or is to be done
// again later.
func (r *mirroring) do(ctx context.Context, s *source, msgs []jetstream.Msg) (copied bool, err error) {
	groups := map[string][]jetstream.Msg{}
	for _, m := range msgs {
		groups[s.group(m)] = append(groups[s.group(m)], m)
	}
	ack(groups[""])
	delete(groups, "")
	working, done := context.WithCancel(ctx)
	var alive sync.WaitGroup
	alive.Go(func() {
		for working.Err() == nil {
			select {
			case <-working.Done():
				return
			case <-time.After(mirrorAckWait / 3):
			}
			for _, group := range groups {
				for _, m := range group {
					_ = m.InProgress() // or another node does it as well
				}
			}
		}
	})
	var g errgroup.Group
	g.SetLimit(mirrorAtOnce)
	for what, group := range groups {
		g.Go(func() error {
			err := s.copy(ctx, what, group[len(group)-1])
			if err == nil {
				ack(group)
				return nil
			}
			after := mirrorRetry
			if wait := postponed(0); errors.As(err, &wait) {
				after, err = time.Duration(wait), nil
			}
			for _, m := range group {
				_ = m.NakWithDelay(after) // or it comes after mirrorAckWait
			}
			return err
		})
	}
	err = g.Wait()
	done()
	alive.Wait()
	return len(groups) > 0, err
}

func ack(msgs []jetstream.Msg) {
	for _, m := range msgs {
		_ = m.Ack() // or it is done again
	}
}

// postponed is the error of what can be done only later, and has not failed.
type postponed time.Duration

func (p postponed) Error() string { return "it is done in " + time.Duration(p).String() }

// ofCommits is the journal of a record that names a commit, or ends the workspace.
func ofCommits(m jetstream.Msg) string {
	kinds := strings.Split(m.Headers().Get(mesh.HeaderKind), ",")
	if slices.Contains(kinds, objstore.KindCheckpoint) || slices.Contains(kinds, objstore.KindDeleted) {
		return m.Subject()
	}
	return ""
}

// workspace copies a workspace's newest commit.
func (r *mirroring) workspace(ctx context.Context, subject string, _ jetstream.Msg) error {
	shard, t, w, err := mesh.ParseJournalSubject(subject)
	if err != nil {
		return nil //nolint:nilerr // nobody's
	}
	return r.of(ctx, t, func(ctx context.Context) error { return r.newest(ctx, shard, t, w) })
}

func (r *mirroring) newest(ctx context.Context, shard int, t mesh.Tenant, w mesh.Workspace) error {
	h, packs, err := r.head(ctx, shard, t, w)
	if err != nil || h == nil {
		return mesh.About(fmt.Sprintf("workspace %s/%s", t, w), err)
	}
	store, err := r.n.content(ctx, t, packs)
	if err != nil {
		return err
	}
	_, err = r.m.Commit(ctx, t, w, *h, store)
	return mesh.About(fmt.Sprintf("workspace %s/%s", t, w), err)
}

// files makes the readable copy of what workspace has copied.
func (r *mirroring) files(ctx context.Context, subject string, _ jetstream.Msg) error {
	shard, t, w, err := mesh.ParseJournalSubject(subject)
	if err != nil {
		return nil //nolint:nilerr // nobody's
	}
	return r.of(ctx, t, func(ctx context.Context) error { return r.filesOf(ctx, subject, shard, t, w) })
}

func (r *mirroring) filesOf(ctx context.Context, subject string, shard int, t mesh.Tenant, w mesh.Workspace) error {
	h, packs, err := r.head(ctx, shard, t, w)
	if err != nil || h == nil {
		return mesh.About(fmt.Sprintf("workspace %s/%s", t, w), err)
	}
	store, err := r.n.content(ctx, t, packs)
	if err != nil {
		return err
	}
	err = mesh.About(fmt.Sprintf("workspace %s/%s", t, w), r.m.CopyFiles(ctx, t, w, h.Sequence, store))
	var held *mirror.HeldBack
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, subject)
	switch {
	case errors.As(err, &held):
		r.held[subject] = heldBack{err, time.Now()}
		return postponed(heldRetry)
	case mesh.CodeOf(err) == mesh.CodeBusy:
		return postponed(filesRetry)
	}
	return err
}

// confirmFiles lets a readable copy lose what is held back. The node that looks at it next
// goes on with it.
func (n *Node) confirmFiles(ctx context.Context, req *mesh.Request) error {
	var a mesh.WorkspaceConfirmRequest
	if err := req.Args(&a); err != nil {
		return err
	}
	t, err := mesh.ParseTenant(string(a.Tenant))
	if err != nil {
		return err
	}
	w, err := mesh.ParseWorkspace(string(a.Workspace))
	if err != nil {
		return err
	}
	_, leave, err := n.enter(ctx, t)
	if err != nil {
		return err
	}
	defer leave()
	if n.mirror == nil {
		return mesh.Errorf(mesh.CodeUnsupported, "node %s has no mirror; start the nodes with --s3 URL", n.cfg.Name)
	}
	if err := n.mirror.claim(ctx); err != nil {
		return err
	}
	return n.mirror.m.ConfirmFiles(ctx, t, w)
}

// head is what the end of a journal says that the copy should have; nil: nothing yet.
func (r *mirroring) head(ctx context.Context, shard int, t mesh.Tenant, w mesh.Workspace) (*mirror.Head, int, error) {
	if shard >= len(r.n.shards) {
		return nil, 0, mesh.Errorf(mesh.CodeInternal, "shard %d is not known to this node", shard)
	}
	journal, subject := r.n.shards[shard].journal, mesh.JournalSubject(shard, t, w)
	for range 5 {
		last, err := lastRecord(ctx, journal, subject)
		if err != nil || last == nil {
			return nil, 0, err
		}
		if id := removedID(last); id != "" {
			return &mirror.Head{Workspace: id, Epoch: last.Epoch, Sequence: last.Sequence, Time: last.Time, Removed: true}, 0, nil
		}
		record, err := r.n.kv.Workspaces.Get(ctx, t, w)
		if mesh.CodeOf(err) == mesh.CodeNotFound || err == nil && record.Dir != "" {
			return nil, 0, nil // its removal comes, or its files are the host's
		}
		at := last.LastCheckpoint()
		if err != nil || at == 0 {
			return nil, 0, err
		}
		raw, err := journal.Next(ctx, subject, at)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && raw.Sequence != at {
			continue // purged: there is a newer one
		}
		if err != nil {
			return nil, 0, unavailable(err)
		}
		named, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
		if err != nil {
			return nil, 0, err
		}
		for _, op := range named.Ops {
			if op.Kind == objstore.KindCheckpoint && op.Ref != nil {
				return &mirror.Head{Workspace: record.ID, Epoch: named.Epoch, Sequence: at, Ref: *op.Ref, Time: named.Time}, record.PackShard(), nil
			}
		}
		return nil, 0, mesh.Errorf(mesh.CodeInternal, "record %d names no commit", at)
	}
	return nil, 0, mesh.Errorf(mesh.CodeBusy, "it is committed all the time")
}

// record copies a record of a bucket, after the content that it refers to.
func (r *mirroring) record(ctx context.Context, subject string, m jetstream.Msg) error {
	bucket, key := mesh.ParseRecordSubject(subject)
	if bucket == mesh.BucketTenants { // that one was removed is told too
		return r.recordAs(ctx, bucket, key, m)
	}
	t, _, _ := strings.Cut(key, ".")
	return r.of(ctx, mesh.Tenant(t), func(ctx context.Context) error { return r.recordAs(ctx, bucket, key, m) })
}

func (r *mirroring) recordAs(ctx context.Context, bucket, key string, m jetstream.Msg) error {
	value, revision, err := r.n.kv.Raw(ctx, bucket, key)
	if err != nil {
		return err
	}
	if revision == 0 { // the marker of a removal, which has gone as well
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		revision = meta.Sequence.Stream
	}
	rec := mirror.Record{Revision: revision, Value: value, Removed: len(value) == 0}
	part := strings.Split(key, ".")
	var name string
	switch {
	case bucket == mesh.BucketTenants && len(part) == 1 && kv.IsTenant(key):
		name = mirror.TenantName(mesh.Tenant(key))
		var t kv.TenantRecord
		if err := json.Unmarshal(value, &t); err != nil {
			return fmt.Errorf("record %s: %w", key, err)
		}
		if rec.Removed = t.Alive() != nil; rec.Removed {
			rec.Value = nil
		}
	case bucket == mesh.BucketWorkspaces && len(part) == 2:
		name = mirror.WorkspaceName(mesh.Tenant(part[0]), mesh.Workspace(part[1]))
		var w kv.WorkspaceRecord
		if err := json.Unmarshal(value, &w); err != nil {
			return fmt.Errorf("record %s: %w", key, err)
		}
		if rec.Removed = w.Removed; !w.Removed && w.Origin != nil {
			err = r.commit(ctx, w.Tenant, w.Origin.Commit, w.Origin.PackShard)
		}
	case bucket == mesh.BucketSnapshots && len(part) == 3:
		name = mirror.SnapshotName(mesh.Tenant(part[0]), mesh.Workspace(part[1]), mesh.Snapshot(part[2]))
		var s kv.SnapshotRecord
		if !rec.Removed {
			if err := json.Unmarshal(value, &s); err != nil {
				return fmt.Errorf("record %s: %w", key, err)
			}
			err = r.commit(ctx, mesh.Tenant(part[0]), s.Commit, s.PackShard)
		}
	default: // a token, a number of ours
		return nil
	}
	if mesh.CodeOf(err) == mesh.CodeNotFound { // collected: the record is gone as well, or the commit can be had no more
		r.n.log.Warn("a commit that a record names cannot be copied", "record", key, "err", err)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", key, err)
	}
	return r.m.Record(ctx, name, rec)
}

// bury tells the copy of snapshots that were removed and forgotten while it could not be
// reached.
func (r *mirroring) bury(ctx context.Context, t mesh.Tenant) error {
	return r.m.Bury(ctx, t, func(ctx context.Context, w mesh.Workspace, s mesh.Snapshot) (bool, error) {
		value, _, err := r.n.kv.Raw(ctx, mesh.BucketSnapshots, fmt.Sprintf("%s.%s.%s", t, w, s))
		return len(value) == 0, err
	})
}

// commit copies a commit that a record names.
func (r *mirroring) commit(ctx context.Context, t mesh.Tenant, text string, shard int) error {
	ref, err := objstore.ParseRef(text)
	if err != nil {
		return err
	}
	store, err := r.n.content(ctx, t, shard)
	if err != nil {
		return err
	}
	return r.m.Content(ctx, t, ref, store)
}

// ofMemories is what the subjects of one memory begin with.
func ofMemories(m jetstream.Msg) string {
	t, ns, _, err := mesh.ParseMemorySubject(m.Subject())
	if err != nil {
		return ""
	}
	return string(t) + "." + string(ns)
}

// memory copies a memory, unless the copy has the message already.
func (r *mirroring) memory(ctx context.Context, what string, last jetstream.Msg) error {
	t, ns, _ := strings.Cut(what, ".")
	return r.of(ctx, mesh.Tenant(t), func(ctx context.Context) error { return r.memoryOf(ctx, t, ns, last) })
}

func (r *mirroring) memoryOf(ctx context.Context, t, ns string, last jetstream.Msg) error {
	k := memoryKey{mesh.Tenant(t), mesh.Namespace(ns)}
	meta, err := last.Metadata()
	if err != nil {
		return err
	}
	least := meta.Sequence.Stream
	r.mu.Lock()
	done := r.copied[k] >= least
	r.mu.Unlock()
	if done {
		return nil
	}
	h, err := r.m.Memory(ctx, k.tenant, k.ns, least, func(ctx context.Context, yield func(mirror.MemoryEntry) error) (uint64, error) {
		return r.n.memory.Dump(ctx, k.tenant, k.ns, func(v kv.MemoryValue) error {
			return yield(mirror.MemoryEntry{Key: v.Key, Revision: v.Revision, Modified: v.Modified, Expires: v.Expires, Deleted: v.Deleted, Value: v.Value})
		})
	})
	if err != nil {
		return mesh.About("memory "+t+"/"+ns, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.copied[k] = h.Sequence
	return nil
}

// committed notes a commit that is to be copied.
func (r *mirroring) committed(c madeCommit) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, c)
}

// watchCopied forgets the commits that are copied.
func (r *mirroring) watchCopied(ctx context.Context) {
	for ctx.Err() == nil {
		r.wait(ctx, time.Second)
		r.mu.Lock()
		shards := map[int]uint64{}
		for _, c := range r.made {
			shards[c.shard] = 0
		}
		r.mu.Unlock()
		for shard := range shards {
			info, err := r.info(ctx, &source{stream: mesh.JournalStream(shard)})
			if err == nil {
				shards[shard] = info.AckFloor.Stream
			}
		}
		r.mu.Lock()
		r.made = slices.DeleteFunc(r.made, func(c madeCommit) bool { return c.sequence <= shards[c.shard] })
		r.mu.Unlock()
	}
}

func (r *mirroring) info(ctx context.Context, s *source) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := r.n.js.Consumer(ctx, s.stream, r.consumer(s))
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

// behind is what this node knows not to be in the copy: of the workspaces that it has,
// and of the commits that it has made.
func (r *mirroring) behind() *mesh.MirrorStatus {
	if r == nil {
		return nil
	}
	s := &mesh.MirrorStatus{URL: r.cfg.URL}
	var oldest time.Time
	add := func(bytes int, since time.Time) {
		s.Bytes += int64(bytes)
		if oldest.IsZero() || since.Before(oldest) {
			oldest = since
		}
	}
	for _, w := range r.n.list() {
		if !w.serving.Load() || w.files == nil || w.record.Dir != "" {
			continue
		}
		w.files.mu.Lock()
		if w.files.ops > 0 {
			add(w.files.bytes, w.files.oldest)
		}
		w.files.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.made {
		add(c.bytes, c.since)
	}
	if !oldest.IsZero() {
		s.Seconds = max(0, time.Since(oldest).Seconds())
	}
	switch {
	case r.paused != nil:
		s.Paused, s.Error = true, mesh.AsError(r.paused).Text
	case r.failure(r.sources()) != nil:
		s.Error = mesh.AsError(r.failure(r.sources())).Text
	}
	if err := r.filesFailure(); err != nil && r.paused == nil {
		s.FilesError = mesh.AsError(err).Text
	}
	return s
}

// waiting is how much the streams have that is not copied yet, and since when. The bytes
// are those of memories and records, as long as others of their stream are on average.
func (r *mirroring) waiting(ctx context.Context, sources []source) (messages, bytes uint64, since time.Time, err error) {
	for _, s := range sources {
		info, err := r.info(ctx, &s)
		if errors.Is(err, jetstream.ErrStreamNotFound) && s.late {
			continue
		}
		begun := !errors.Is(err, jetstream.ErrConsumerNotFound) // else all that the stream has is waiting
		if err != nil && begun {
			return 0, 0, since, err
		}
		var n, floor uint64
		if begun {
			n, floor = info.NumPending+uint64(info.NumAckPending), info.AckFloor.Stream
			if n == 0 {
				continue
			}
		}
		stream, err := r.n.js.Stream(ctx, s.stream)
		if err != nil {
			return 0, 0, since, err
		}
		all := stream.CachedInfo().State
		if !begun {
			n = all.Msgs
		}
		messages += n
		if !s.commits {
			bytes += n * all.Bytes / max(all.Msgs, 1)
		}
		first, err := mesh.AtLeader(r.n.cfg.Store, s.stream).Next(ctx, ">", floor+1)
		if err == nil && (since.IsZero() || first.Time.Before(since)) {
			since = first.Time
		}
	}
	return messages, bytes, since, nil
}

// flushMirror is the last that a node does: what it has committed is copied.
func (n *Node) flushMirror(ctx context.Context, end time.Time) error {
	if least := time.Now().Add(minFlush); end.Before(least) {
		end = least
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	return n.mirror.flush(ctx)
}

// status is how far the copy is, as the nodes and the streams say.
func (r *mirroring) status(ctx context.Context, nodes []kv.NodeEntry) *mesh.MirrorStatus {
	all := r.behind()
	if all != nil {
		_, bytes, since, err := r.waiting(ctx, r.sources())
		all.Bytes += int64(bytes)
		if !since.IsZero() {
			all.Seconds = max(all.Seconds, time.Since(since).Seconds())
		}
		if r.cfg.Files && err == nil {
			if _, _, since, _ = r.waiting(ctx, r.filesSources()); !since.IsZero() {
				all.FilesSeconds = time.Since(since).Seconds()
			}
		}
		if err != nil && all.Error == "" {
			all.Error = "how far it is cannot be told now"
		}
	}
	for _, n := range nodes {
		s := n.Mirror
		switch {
		case s == nil || n.Draining || r != nil && n.Node == r.n.cfg.Name:
			continue
		case all == nil:
			all = &mesh.MirrorStatus{URL: s.URL}
		}
		all.Bytes += s.Bytes
		all.Seconds = max(all.Seconds, s.Seconds)
		all.Paused = all.Paused || s.Paused
		all.Error = cmp.Or(all.Error, s.Error)
		all.FilesError = cmp.Or(all.FilesError, s.FilesError)
	}
	return all
}

// flush waits until everything is copied. The error says what is not when ctx ends; that
// a readable copy is behind is none.
func (r *mirroring) flush(ctx context.Context) error {
	if r == nil {
		return nil
	}
	close(r.hurry)
	for {
		messages, _, _, err := r.waiting(ctx, r.sources())
		r.mu.Lock()
		paused, failure, claimed := r.paused, r.failure(r.sources()), !r.claimed.IsZero()
		r.mu.Unlock()
		switch {
		case paused != nil:
			return mesh.About("not all was copied to the mirror", paused)
		case messages == 0 && err == nil && claimed:
			r.flushFiles(ctx)
			return nil
		}
		select {
		case <-ctx.Done():
			why := "the grace has ended"
			if failure != nil {
				why = mesh.AsError(failure).Text
			}
			return mesh.Errorf(mesh.CodeUnavailable, "not all was copied to the mirror at %s: %s; nothing is lost, it goes on with the next start of a node", r.cfg.URL, why)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// flushFiles waits until the readable copies are made, or one of them cannot be.
func (r *mirroring) flushFiles(ctx context.Context) {
	r.mu.Lock()
	for _, s := range r.filesSources() {
		delete(r.failures, r.consumer(&s)+s.stream) // it is tried once more
	}
	r.mu.Unlock()
	for r.cfg.Files && ctx.Err() == nil {
		messages, _, _, err := r.waiting(ctx, r.filesSources())
		r.mu.Lock()
		failure := r.filesFailure()
		r.mu.Unlock()
		if failure != nil || messages == 0 && err == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
