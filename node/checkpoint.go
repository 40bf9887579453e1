package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// When a checkpoint is made: what comes first.
const (
	checkpointOps   = 1000
	checkpointBytes = 4 << 20
	// checkpointRecords counts those as well that change no file, of commands and
	// of refusals: the next owner has to read them.
	checkpointRecords = 2000
	// DefaultCommitAfter is how long after the last change.
	DefaultCommitAfter = 30 * time.Second
	// checkpointRetry is how long after one that failed.
	checkpointRetry = 5 * time.Second
	// DefaultMaxTail is how many bytes of changes a workspace may have that are in no
	// commit, in its journal and in the node's memory. Where commits fail, the change
	// after that is refused.
	DefaultMaxTail = 64 << 20
)

// checkpoints makes checkpoints when they are due, until ctx ends.
func (f *fileState) checkpoints(ctx context.Context) {
	timer := time.NewTimer(f.idleFor())
	defer timer.Stop()
	due := f.due
	var rest time.Time // not before: a mirror asks for more commits than there is time for
	for {
		cause := "full"
		select {
		case <-ctx.Done():
			return
		case <-due:
		case <-timer.C:
			if due != nil {
				cause = "idle"
			}
		}
		wait := max(f.idleFor(), time.Until(rest))
		if cause == "full" || wait <= 0 {
			began := time.Now()
			due = f.due
			err := f.checkpoint(ctx, cause)
			rest = time.Now().Add(mirrorRest * time.Since(began))
			wait = max(f.idleFor(), time.Until(rest))
			if err != nil && ctx.Err() == nil {
				f.w.log.Warn("no checkpoint", "err", err)
				wait, due = checkpointRetry, nil // not with each change
			}
		}
		timer.Reset(wait)
	}
}

// room refuses a change, before it is recorded, while as much as may be is in no
// commit: CodeQuota where the mesh has no room for one, else CodeBusy.
func (f *fileState) room() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	most := f.w.node.cfg.MaxTail
	switch {
	case int64(f.bytes) < most:
		return nil
	case f.failure == nil:
		return mesh.Errorf(mesh.CodeBusy, "workspace %s changes faster than its changes are committed; try again", f.w.name)
	case mesh.CodeOf(f.failure) == mesh.CodeQuota:
		return mesh.Errorf(mesh.CodeQuota, "workspace %s takes no change: %d bytes of its changes wait for a commit, for which the mesh has no room (%s); ask the operator for room, then it goes on by itself",
			f.w.name, f.bytes, mesh.AsError(f.failure).Text)
	}
	return mesh.Errorf(mesh.CodeBusy, "workspace %s takes no change now: %d bytes of its changes wait for a commit, which fails (%s); it is tried again each %s",
		f.w.name, f.bytes, mesh.AsError(f.failure).Text, checkpointRetry)
}

// idleFor is how long it is until the workspace has not changed for
// DefaultCommitAfter, or with a mirror the oldest change is as old as it may be; all of
// that when there is nothing to commit.
func (f *fileState) idleFor() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	mirrored := f.w.node.mirror != nil && f.w.record.Dir == ""
	switch {
	case f.ops == 0 && mirrored:
		return f.w.node.cfg.Mirror.After / 3 // nobody tells of the first change
	case f.ops == 0:
		return DefaultCommitAfter
	case mirrored:
		return time.Until(f.oldest.Add(f.w.node.cfg.Mirror.After))
	}
	return time.Until(f.changed.Add(DefaultCommitAfter))
}

// moment is a workspace's state after one record. It never changes.
type moment struct {
	tree    dirtree.Snapshot
	place   objstore.Place
	inline  map[objstore.ID]inlined
	packs   []objstore.ID
	named   []objstore.ID // those of packs that records name which are in no commit
	parent  objstore.Ref
	answers []objstore.Answer
	history []mesh.HistoryEntry
	changes uint64
	ops     int
	bytes   int
}

// moment takes the state as of the last record.
func (f *fileState) moment() *moment {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &moment{
		tree: f.ledger.Snapshot(), place: f.place, inline: maps.Clone(f.inline), packs: f.packs(), named: slices.Collect(maps.Keys(f.recent)),
		parent: f.commit, answers: slices.Clone(f.answers),
		history: slices.Clone(f.history[max(0, len(f.history)-DefaultHistory):]), changes: f.changes, ops: f.ops, bytes: f.bytes,
	}
}

// checkpoint commits the state as of the last record, and then takes the records
// up to that one out of the journal. Writers wait while the moment is taken, and
// no longer. Each step is acknowledged before the next; a crash
//
//   - before the commit is stored leaves packs that nobody lists;
//   - before the checkpoint record leaves a commit that nobody knows;
//   - before the purge leaves records that nobody needs, for the next one to take.
func (f *fileState) checkpoint(ctx context.Context, cause string) (err error) {
	f.one.Lock()
	defer f.one.Unlock()
	f.mu.Lock()
	clean := f.ops == 0 && !f.commit.IsZero() && f.records() < checkpointRecords
	f.mu.Unlock()
	if clean {
		return nil
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.failure = err
	}()
	m := f.moment()
	commit, packs, err := f.commitMoment(ctx, m, cause)
	if err == nil {
		err = f.record(ctx, m, commit, packs)
	}
	if err != nil {
		return fmt.Errorf("checkpoint at record %d: %w", m.place.Number, err)
	}
	crashPoint("checkpoint recorded")
	err = f.purge(ctx, m.place)
	crashPoint("checkpoint purged")
	return err
}

// commitMoment stores the tree and a commit of it.
func (f *fileState) commitMoment(ctx context.Context, m *moment, cause string) (objstore.Ref, []objstore.ID, error) {
	store, err := f.w.content(ctx)
	if err != nil {
		return objstore.Ref{}, nil, err
	}
	base, err := store.Reader(ctx, m.packs...)
	if err != nil {
		return objstore.Ref{}, nil, err
	}
	w := store.Writer(base)
	w.List(m.named...) // who began before this commit may still refer to them
	root, err := w.Tree(ctx, m.items())
	if err != nil {
		return objstore.Ref{}, nil, err
	}
	history, err := w.History(ctx, m.history)
	if err != nil {
		return objstore.Ref{}, nil, err
	}
	crashPoint("checkpoint packs stored")
	record, err := objstore.ParseID(m.place.Hash)
	if err != nil {
		return objstore.Ref{}, nil, err
	}
	ref, err := w.Commit(ctx, objstore.Commit{
		Workspace: f.w.record.ID, Epoch: mesh.Epoch(f.w.epoch.Load()),
		Sequence: m.place.Sequence, Number: m.place.Number, Record: record,
		Parent: m.parent, Time: time.Now().UTC(), Cause: cause, Root: root,
		Unfinished: f.w.runningExecs(), Answers: m.answers,
		Changes: m.changes, History: history,
	})
	if err != nil {
		return objstore.Ref{}, nil, err
	}
	crashPoint("checkpoint commit stored")
	packs, err := w.Flush(ctx) // nothing is left to store: it names what the commit lists, and the commit's own
	return ref, packs, err
}

// items yields the tree of a moment for objstore.Writer.Tree: content that only
// records have is stored, all other is kept.
func (m *moment) items() iter.Seq2[objstore.Item, error] {
	return func(yield func(objstore.Item, error) bool) {
		for it := range m.tree.Items() {
			if c := it.Entry.Content; it.Entry.Type == objstore.TypeFile {
				var data []byte
				if len(c) == 1 {
					data = m.inline[c[0].ID].data
				}
				if len(c) == 0 || data != nil {
					it.Entry.Content = nil
					it.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
				}
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}

// record puts the checkpoint into the journal.
func (f *fileState) record(ctx context.Context, m *moment, commit objstore.Ref, packs []objstore.ID) error {
	op := objstore.Op{Kind: objstore.KindCheckpoint, Ref: &commit, Sequence: m.place.Sequence, Number: m.place.Number}
	sequence, err := f.w.journal.append(ctx, []objstore.Op{op}, nil)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.node.mirror.committed(madeCommit{f.w.record.Shard, sequence, m.bytes, f.oldest})
	f.committed = packs
	maps.DeleteFunc(f.recent, func(_ objstore.ID, seq uint64) bool { return seq <= m.place.Sequence })
	maps.DeleteFunc(f.inline, func(_ objstore.ID, c inlined) bool { return c.sequence <= m.place.Sequence })
	f.history = slices.DeleteFunc(f.history, func(h mesh.HistoryEntry) bool { return h.Number <= m.place.Number })
	f.commit, f.covers, f.made = commit, m.place, time.Now()
	f.ops, f.bytes, f.changes = f.ops-m.ops, f.bytes-m.bytes, f.changes-m.changes
	f.oldest, f.failure = f.made, nil
	return nil
}

// purge takes the records up to one that is in an acknowledged checkpoint out of
// the journal; that checkpoint's own record stays. By sequence and never the whole
// subject: an empty one would take a publish that expects nothing before it.
func (f *fileState) purge(ctx context.Context, upTo objstore.Place) error {
	err := f.w.streams.journal.Purge(ctx, f.w.journal.subject, upTo.Sequence+1)
	if err != nil {
		return fmt.Errorf("purge the journal up to record %d: %w", upTo.Number, unavailable(err))
	}
	return nil
}
