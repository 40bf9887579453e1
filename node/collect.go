package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/jsbucket"
)

// What of a tenant's packs is kept when garbage is collected.
const (
	// DefaultKeepLast is how many commits of a workspace are kept, the newest ones.
	DefaultKeepLast = 10
	// DefaultKeepWithin is how long each commit is kept besides.
	DefaultKeepWithin = 7 * 24 * time.Hour
	// DefaultCollectAge is how long a pack is kept, whatever refers to it, and each commit
	// at the least: see collection.
	DefaultCollectAge = 48 * time.Hour
	// DefaultCollectEvery is how often a tenant's garbage is collected by itself.
	DefaultCollectEvery = 24 * time.Hour
)

// collection deletes the packs of a tenant that nothing refers to. It runs beside
// writers, which it does not see, and is safe for them by time alone:
//
//   - A writer refers to packs that the workspace's state refers to when it begins,
//     and to those that it has stored itself, under names that nobody has used. It ends
//     within objstore.MaxWriterLife.
//   - The states of the last DefaultCollectAge are marked: of each workspace the
//     journal's records, and the commits back to the first one that is older. A commit
//     lists what the records before it named, whether its tree has it or not.
//   - What was stored within DefaultCollectAge, which is far longer than a writer lives and
//     a commit takes to be recorded, is not deleted.
//   - A fork's record refers to its commit before it is looked at whether that one is
//     still there, when no collection goes on that may not have read the record.
//
// Where something cannot be read, nothing is deleted: what it refers to is not known.
type collection struct {
	n      *Node
	tenant mesh.Tenant
	last   int           // commits
	within time.Duration // and those that are younger
	dry    bool
	began  kv.Collection
	now    time.Time // when looking began
	used   map[objstore.ID]bool
	until  time.Time
	reply  mesh.CollectReply
}

// collectPoll is how long a request waits for the end of a collection.
const collectPoll = 2 * time.Second

// answerCollect has a tenant's garbage collected, and waits for it in turns: of any
// node, since the outcome is on record.
func (n *Node) answerCollect(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.CollectRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if _, err := n.kv.Tenants.Get(ctx, a.Tenant); err != nil {
		return nil, err
	}
	if a.KeepLast < 0 || a.KeepWithinMS < 0 || len(a.ID) != len(mesh.NewID()) {
		return nil, mesh.Errorf(mesh.CodeInvalid, "what is kept cannot be less than nothing, and the request has an id")
	}
	for end := time.Now().Add(collectPoll); ; {
		last, err := n.kv.Garbage.Last(ctx, a.Tenant)
		switch {
		case err != nil:
			return nil, err
		case last.ID != a.ID:
			if err := n.beginCollect(ctx, a); err != nil {
				return nil, err
			}
		case last.Code != "":
			return nil, mesh.Errorf(last.Code, "%s", last.Text)
		case !last.Ended.IsZero():
			return &mesh.Reply{Args: last.Reply}, nil
		case time.Now().After(end):
			return &mesh.Reply{Args: mesh.CollectReply{Tenant: a.Tenant}}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (n *Node) beginCollect(ctx context.Context, a mesh.CollectRequest) error {
	c := n.collection(a.Tenant)
	c.dry = a.DryRun
	if a.KeepLast > 0 {
		c.last = a.KeepLast
	}
	if a.KeepWithinMS > 0 {
		c.within = time.Duration(a.KeepWithinMS) * time.Millisecond
	}
	var err error
	if c.began, err = n.kv.Garbage.Begin(ctx, a.Tenant, n.cfg.Name, a.ID); err != nil {
		return err
	}
	select {
	case n.collect <- c:
	default:
		c.end(ctx, mesh.Errorf(mesh.CodeBusy, "node %s is collecting garbage; try again", n.cfg.Name))
	}
	return nil
}

func (n *Node) collection(t mesh.Tenant) collection {
	return collection{n: n, used: map[objstore.ID]bool{}, tenant: t, last: DefaultKeepLast, within: DefaultKeepWithin, reply: mesh.CollectReply{Tenant: t}}
}

// awaitCollection waits until no collection of a tenant's garbage goes on. What refers to
// something now, those that begin later see.
func (n *Node) awaitCollection(ctx context.Context, t mesh.Tenant) error {
	for {
		last, err := n.kv.Garbage.Last(ctx, t)
		if err != nil || !last.Running() {
			return err
		}
		select {
		case <-ctx.Done():
			return mesh.Errorf(mesh.CodeBusy, "garbage of tenant %s is being collected, of which an old commit may be a part; try again", t)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// collectDaily collects the garbage of every tenant where no node has done so for
// DefaultCollectEvery, and what it is asked to, until ctx ends.
func (n *Node) collectDaily(ctx context.Context) error {
	look := time.NewTimer(rand.N(time.Hour)) // not all nodes at the same time
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-n.collect:
			c.do(ctx)
		case <-look.C:
			n.collectDue(ctx)
			look.Reset(time.Hour)
		}
	}
}

func (n *Node) collectDue(ctx context.Context) {
	tenants, err := n.kv.Tenants.List(ctx)
	if err != nil && ctx.Err() == nil {
		n.log.Debug("tenants not listed", "err", err)
	}
	for _, t := range tenants {
		last, err := n.kv.Garbage.Last(ctx, t.Name)
		if err != nil || t.Alive() != nil || last.Running() || time.Since(last.Ended) < DefaultCollectEvery {
			continue
		}
		c := n.collection(t.Name)
		if c.began, err = n.kv.Garbage.Begin(ctx, t.Name, n.cfg.Name, mesh.NewID()); err == nil { // else the next time, or another node
			c.do(ctx)
		}
	}
}

// do collects in all shards.
func (c *collection) do(ctx context.Context) {
	c.until = time.Now().Add(kv.MaxCollection)
	var err error
	for shard := 0; shard < len(c.n.shards) && err == nil; shard++ {
		err = c.shard(ctx, shard)
	}
	if err == nil && c.n.mirror != nil {
		err = c.copied(ctx)
	}
	c.end(ctx, err)
}

// end records the outcome.
func (c *collection) end(ctx context.Context, err error) {
	log := c.n.log.With("tenant", c.tenant, "packs", c.reply.Deleted, "bytes", c.reply.Bytes, "dry", c.dry)
	switch c.reply.Done = err == nil; {
	case err != nil:
		e := mesh.AsError(err)
		c.began.Code, c.began.Text = e.Code, e.Text
		log.Warn("garbage was not collected", "err", err)
	case c.reply.Deleted > 0:
		log.Info("garbage collected")
	}
	c.began.Reply = c.reply
	if err := c.n.kv.Garbage.End(context.WithoutCancel(ctx), c.tenant, c.began); err != nil {
		log.Debug("the end of a collection is not recorded", "err", err)
	}
}

// shard collects among the packs of one shard.
func (c *collection) shard(ctx context.Context, shard int) error {
	bucket, err := c.n.bucket(ctx, storeKey{c.tenant, shard})
	if err != nil {
		return err
	}
	// What is stored or committed after this moment is young, however long this takes:
	// who does it may refer to what had no reference when it was looked for.
	if c.now, err = bucket.Now(ctx); err != nil {
		return err
	}
	packs, err := bucket.Stored(ctx)
	if err != nil || len(packs) == 0 && c.n.mirror == nil {
		return err
	}
	// A store of its own: what it reads nobody else wants.
	store, err := objstore.New(bucket, objstore.Config{})
	if err != nil {
		return err
	}
	m := &marks{collection: c, store: store, seen: map[objstore.Ref]bool{}}
	if err := m.snapshots(ctx, shard); err != nil {
		return err
	}
	if err := m.workspaces(ctx, shard); err != nil {
		return err
	}
	c.reply.Packs += len(packs)
	for _, id := range packs {
		if m.used[id] {
			continue
		}
		if err := c.sweep(ctx, bucket, id); err != nil {
			return err
		}
	}
	return nil
}

// copied collects in the copy on the mirror, after all shards: of what these keep, all
// is kept there.
func (c *collection) copied(ctx context.Context) error {
	if err := c.n.mirror.claim(ctx); err != nil {
		return nil //nolint:nilerr // it is another mesh's, or cannot be reached: status says which
	}
	if !c.dry {
		if err := c.n.mirror.bury(ctx, c.tenant); err != nil {
			return mesh.About("the mirror", err)
		}
	}
	done, err := c.n.mirror.m.Collect(ctx, c.tenant, c.used, c.n.cfg.CollectAge, c.dry)
	c.reply.Mirror = &mesh.MirrorCollected{Packs: done.Packs, Young: done.Young, Deleted: done.Deleted, Bytes: done.Bytes}
	if err != nil {
		return mesh.About("the mirror", err)
	}
	return nil
}

// sweep deletes a pack that nothing refers to, unless it is young.
func (c *collection) sweep(ctx context.Context, bucket *jsbucket.Bucket, id objstore.ID) error {
	if time.Now().After(c.until) {
		return mesh.Errorf(mesh.CodeUnavailable, "collecting garbage takes longer than %s; the rest is for the next time", kv.MaxCollection)
	}
	stored, size, err := bucket.Time(ctx, id)
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if c.now.Sub(stored) < c.n.cfg.CollectAge {
		c.reply.Young++
		return nil
	}
	if !c.dry {
		if err := bucket.Delete(ctx, id); err != nil {
			return err
		}
	}
	c.reply.Deleted++
	c.reply.Bytes += size
	return nil
}

// marks are the packs that something refers to.
type marks struct {
	*collection
	store *objstore.Store
	seen  map[objstore.Ref]bool // commits whose packs are marked
}

// snapshots marks what the tenant's snapshots refer to.
func (m *marks) snapshots(ctx context.Context, shard int) error {
	all, err := m.n.kv.Snapshots.ListTenant(ctx, m.tenant)
	for _, s := range all {
		if err != nil || s.PackShard != shard {
			continue
		}
		if err = m.named(ctx, s.Commit); err != nil {
			err = fmt.Errorf("snapshot %s: %w", s.Name, err)
		}
	}
	return err
}

// named marks a commit that a record names, and no others.
func (m *marks) named(ctx context.Context, text string) error {
	ref, err := objstore.ParseRef(text)
	if err != nil {
		return err
	}
	commit, err := m.store.Commit(ctx, ref)
	if err == nil {
		m.packs(ref, commit)
	}
	return err
}

func (m *marks) packs(ref objstore.Ref, commit *objstore.Commit) {
	m.used[ref.Pack] = true
	for _, id := range commit.Packs {
		m.used[id] = true
	}
}

// workspaces marks what the tenant's workspaces refer to. One that is made meanwhile
// of another's commit is found by listing them again.
func (m *marks) workspaces(ctx context.Context, shard int) error {
	read := map[string]bool{}
	for {
		records, more, err := m.n.kv.Workspaces.List(ctx, m.tenant, "", DefaultMaxWorkspaces*2)
		if err == nil && more {
			err = mesh.Errorf(mesh.CodeQuota, "tenant %s has more workspaces than it may have", m.tenant)
		}
		if err != nil {
			return err
		}
		fresh := false
		for _, r := range records {
			if read[r.ID] || r.PackShard() != shard {
				continue
			}
			read[r.ID], fresh = true, true
			if err := m.workspace(ctx, r); err != nil {
				return fmt.Errorf("workspace %s: %w", r.Name, err)
			}
		}
		if !fresh {
			m.reply.Workspaces += len(read)
			return nil
		}
	}
}

// workspace marks what one refers to: what is in its journal, and its commits. Who
// takes records away meanwhile may do so for a checkpoint that is behind the end that was
// looked for, and then neither is read: all is read again until the journal has begun at
// the same record from before that end was found to after the last one was read.
func (m *marks) workspace(ctx context.Context, r kv.WorkspaceRecord) error {
	if r.Origin != nil { // to which the record refers, opened or not
		if err := m.named(ctx, r.Origin.Commit); err != nil {
			return err
		}
	}
	for time.Now().Before(m.until) {
		first, err := m.first(ctx, r)
		if err != nil {
			return err
		}
		heads, err := m.journal(ctx, r)
		if err != nil {
			return err
		}
		begin, err := m.first(ctx, r)
		if err != nil {
			return err
		}
		if begin != first {
			continue
		}
		for _, ref := range heads {
			if err := m.commits(ctx, ref); err != nil {
				return err
			}
		}
		return nil
	}
	return mesh.Errorf(mesh.CodeUnavailable, "its journal changes too fast to be read; garbage is collected the next time")
}

// first is where the journal begins; 0: it is empty.
func (m *marks) first(ctx context.Context, r kv.WorkspaceRecord) (uint64, error) {
	raw, err := m.n.shards[r.Shard].journal.Next(ctx, mesh.JournalSubject(r.Shard, m.tenant, r.Name), 1)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, unavailable(err)
	}
	return raw.Sequence, nil
}

// journal marks what the records refer to, and returns the commits that they name.
func (m *marks) journal(ctx context.Context, r kv.WorkspaceRecord) (heads []objstore.Ref, err error) {
	journal, subject := m.n.shards[r.Shard].journal, mesh.JournalSubject(r.Shard, m.tenant, r.Name)
	end, err := lastRecord(ctx, journal, subject)
	switch {
	case err != nil:
		return nil, err
	case end == nil && r.Served:
		return nil, mesh.Errorf(mesh.CodeConflict, "its journal was lost, so what it refers to is not known; recover it, or remove it by force")
	case end == nil:
		return nil, nil
	case removedID(end) == r.ID:
		return nil, mesh.Errorf(mesh.CodeBusy, "it is being removed; try again")
	}
	for raw, err := range journal.Messages(ctx, subject, 1, end.Sequence) {
		if err != nil {
			return nil, unavailable(err)
		}
		rec, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
		if err != nil {
			return nil, err
		}
		for i := range rec.Ops {
			op := &rec.Ops[i]
			for _, id := range op.Packs {
				m.used[id] = true
			}
			if op.Ref != nil {
				heads = append(heads, *op.Ref)
			}
		}
	}
	return heads, nil
}

// commits marks a commit that must be there, and those before it that are kept: the
// last of them is older than all that a writer may still refer to.
func (m *marks) commits(ctx context.Context, head objstore.Ref) error {
	for kept, ref := 0, head; !ref.IsZero(); kept++ {
		if m.seen[ref] && kept > 0 {
			return nil // and with it those before, from where more of them are kept
		}
		commit, err := m.store.Commit(ctx, ref)
		if mesh.CodeOf(err) == mesh.CodeNotFound && kept > 0 {
			return nil // it was collected
		}
		if err != nil {
			return err
		}
		if !m.seen[ref] {
			m.seen[ref] = true
			m.reply.Commits++
		}
		m.packs(ref, commit)
		if age := m.now.Sub(commit.Time); age > max(m.within, m.n.cfg.CollectAge) && kept+1 >= m.last {
			return nil
		}
		ref = commit.Parent
	}
	return nil
}
