package node

import (
	"context"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// forceWait is how long this node's own tenure may take to end before its tree is
// taken from under it.
const forceWait = 5 * time.Second

// removeByForce removes a workspace without its owner and without reading more of its
// journal than where it ends: this node takes it, as after the owner's death, and puts
// the deleted record there. An owner that is alive is fenced out by that, like any that
// is late. The tree on another node stays there.
func (n *Node) removeByForce(ctx context.Context, record kv.WorkspaceRecord) error {
	for ctx.Err() == nil {
		_, epoch, err := n.kv.Owners.Get(ctx, record.Tenant, record.Name)
		if err == nil {
			err = n.removeAt(ctx, record, epoch)
		}
		if code := mesh.CodeOf(err); code != mesh.CodeStale && code != mesh.CodeConflict {
			return err
		}
	}
	return mesh.Errorf(mesh.CodeBusy, "workspace %s is changing hands; try again", record.Name)
}

// removeAt is one try of removeByForce, after an epoch. CodeConflict, CodeStale: there is
// another owner since, and nothing is removed.
func (n *Node) removeAt(ctx context.Context, record kv.WorkspaceRecord, after mesh.Epoch) error {
	w := newWorkspace(n, key{record.Tenant, record.Name})
	w.record, w.streams = record, n.shards[record.Shard]
	epoch, err := n.kv.Owners.Take(ctx, w.tenant, w.name, n.cfg.Name, n.incarnation, after)
	if err != nil {
		return err
	}
	w.epoch.Store(uint64(epoch))
	n.endOwn(ctx, w)
	err = w.deleteAt(ctx, epoch)
	w.release()
	if mesh.CodeOf(err) != mesh.CodeNotFound {
		return err
	}
	n.log.Warn("workspace removed without its owner", "tenant", string(w.tenant), "workspace", string(w.name), "epoch", uint64(epoch))
	return nil
}

// endOwn ends this node's tenure of a workspace that was taken from it.
func (n *Node) endOwn(ctx context.Context, w *workspace) {
	n.mu.Lock()
	own := n.workspaces[key{w.tenant, w.name}]
	n.mu.Unlock()
	if own == nil {
		return
	}
	own.stop(mesh.Errorf(mesh.CodeStale, "the workspace is being removed"))
	timer := time.NewTimer(forceWait)
	defer timer.Stop()
	select {
	case <-own.done:
	case <-timer.C:
		w.log.Warn("the tenure does not end; its files are removed nevertheless")
	case <-ctx.Done():
	}
}

// deleteAt puts the deleted record at the journal's end, and makes records and disk
// follow: CodeNotFound says that this is done. CodeStale, CodeConflict: another owner
// came first.
func (w *workspace) deleteAt(ctx context.Context, epoch mesh.Epoch) error {
	subject := mesh.JournalSubject(w.record.Shard, w.tenant, w.name)
	op := objstore.Op{Kind: objstore.KindDeleted, Workspace: w.record.ID}
	for purged := false; ; purged = true {
		last, err := lastRecord(ctx, w.streams.journal, subject)
		if err != nil {
			return err
		}
		if last != nil && removedID(last) == w.record.ID {
			return w.finishRemoval(ctx, last.Sequence)
		}
		j, err := openJournal(ctx, w.node.js, w.streams.journal, subject, epoch, last, op)
		if err == nil {
			return w.finishRemoval(ctx, j.end.Sequence)
		}
		if mesh.CodeOf(err) != mesh.CodeQuota || last == nil || purged {
			return err
		}
		// The stream is full. What the workspace's own records take makes room for the
		// one that ends them; the last one stays, so the subject is never empty.
		if err := w.purgeBefore(ctx, subject, last.Sequence); err != nil {
			return err
		}
	}
}

// purgeBefore takes the records before one out of the journal.
func (w *workspace) purgeBefore(ctx context.Context, subject string, sequence uint64) error {
	err := w.streams.journal.Purge(ctx, subject, sequence)
	if err != nil {
		return mesh.About("purge the journal", unavailable(err))
	}
	return nil
}
