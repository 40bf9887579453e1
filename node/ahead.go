package node

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// A workspace moves to another node without a long pause because that one copies its
// files before it has it, from the last commit and the journal, while the owner goes on,
// or while it is made sure that there is none any more.
// The copy lies where a tenure there would have left its tree, with its ledger: who
// opens the workspace then brings the one that is there up to date, whoever has left it.

const (
	// aheadTime bounds the copying before a move; without it, the next owner makes the
	// files when it opens the workspace.
	aheadTime = 10 * time.Minute
	// aheadTurns is how often is copied what has changed during the copying before.
	aheadTurns = 2
	// aheadKept is how long a node remembers a copy that it has made, beside the files.
	aheadKept = 10 * time.Second
	// usedLately is how long ago a workspace was used of which a node that stops has its
	// heir make a copy first.
	usedLately = time.Minute
)

// copying is one copy being made, or made a while ago.
type copying struct {
	cancel context.CancelFunc
	known  chan struct{}   // closed when what follows is known, or will not be
	past   *foreknown      // nil: it is not known
	wanted atomic.Bool     // somebody opens the workspace with it
	done   chan struct{}   // closed at the end
	err    error           // set before that
	ledger *dirtree.Ledger // of the copy; nil: there is none
}

// foreknown is what who makes a copy knows of the journal. Who opens the workspace after
// the same record need not read it again.
type foreknown struct {
	last       objstore.StoredRecord
	past       *past         // up to that one
	unfinished []mesh.ExecID // execs that had no final frame; what is final stays so
}

func (c *copying) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// copyAhead makes a copy of a workspace's files that another node has, as they are now.
// It is made once for any number of concurrent callers, who ask again after CodeBusy.
// CodeStale: it is open here.
func (n *Node) copyAhead(ctx context.Context, t mesh.Tenant, name mesh.Workspace) error {
	k := key{t, name}
	n.mu.Lock()
	c := n.copies[k]
	switch {
	case n.workspaces[k] != nil:
		n.mu.Unlock()
		return mesh.Errorf(mesh.CodeStale, "workspace %s is open on node %s", name, n.cfg.Name)
	case n.draining:
		n.mu.Unlock()
		return mesh.Errorf(mesh.CodeUnavailable, "node %s is stopping", n.cfg.Name)
	case c == nil || c.ended():
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), aheadTime)
		c = &copying{cancel: cancel, known: make(chan struct{}), done: make(chan struct{})}
		n.copies[k] = c
		n.open.Go(func() {
			defer cancel()
			c.err = newWorkspace(n, k).copyFiles(work, c)
			select {
			case <-c.known:
			default:
				close(c.known)
			}
			close(c.done)
			if c.err != nil {
				n.forgetCopy(k, c)
				return
			}
			time.AfterFunc(aheadKept, func() { n.forgetCopy(k, c) })
		})
	}
	n.mu.Unlock()
	select {
	case <-ctx.Done():
		return mesh.Errorf(mesh.CodeBusy, "workspace %s is still being copied to node %s", name, n.cfg.Name)
	case <-c.done:
		return c.err
	}
}

func (n *Node) forgetCopy(k key, c *copying) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.copies[k] == c {
		delete(n.copies, k)
	}
}

// copyOf is the copy of a workspace that is being made here or was a moment ago, with what
// is known of the journal; nil: none.
func (n *Node) copyOf(ctx context.Context, k key) *copying {
	n.mu.Lock()
	c := n.copies[k]
	n.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-ctx.Done():
	case <-c.known:
	}
	return c
}

// await waits for the end of the copy of a workspace, which is opened here now: what it has
// made need not be made again.
func (c *copying) await(ctx context.Context) error {
	if c == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return nil
	}
}

// endCopies gives up the copy of one workspace, or all of them, and forgets them.
func (n *Node) endCopies(which func(key) bool) {
	n.mu.Lock()
	var ending []*copying
	for k, c := range n.copies {
		if which(k) {
			ending = append(ending, c)
			delete(n.copies, k)
		}
	}
	n.mu.Unlock()
	for _, c := range ending {
		c.cancel()
		<-c.done
	}
}

// copyFiles makes the files on this node what the journal says now, without owning the
// workspace: another one goes on writing it, and nothing but this directory is changed.
func (w *workspace) copyFiles(ctx context.Context, c *copying) (err error) {
	defer w.endTenure()
	defer w.endChanges()
	if err := w.know(ctx); err != nil {
		return err
	}
	if err := w.readSettings(ctx); err != nil {
		return err
	}
	subject := mesh.JournalSubject(w.record.Shard, w.tenant, w.name)
	last, err := lastRecord(ctx, w.streams.journal, subject)
	if err != nil || last == nil || last.ID == "" || removedID(last) != "" || w.record.Dir != "" {
		return err // there is nothing to copy
	}
	w.fenced, w.journal = *last, &journal{subject: subject, end: *last}
	w.fenced.Checkpoint = last.LastCheckpoint()
	execs, err := w.readEnd(ctx, last, subject)
	if err != nil {
		return err
	}
	p, err := w.readPast(ctx)
	w.ahead = nil
	if err != nil || !p.saysFiles() {
		return err
	}
	var looking sync.WaitGroup // for their ends, while the files are made
	defer looking.Wait()
	looking.Go(func() {
		defer close(c.known)
		if open, err := w.withoutEnd(ctx, execs); err == nil {
			c.past = &foreknown{last: *last, past: p, unfinished: open}
		}
	})
	f := newFileState(w)
	defer f.close()
	f.resume(p)
	if err := f.makeTree(ctx, p, f.place); err != nil {
		return err
	}
	c.ledger = f.ledger
	if c.wanted.Load() { // by who opens the workspace, and changes the tree
		return nil
	}
	return f.save()
}

// makeTree makes the tree what the journal says: of what is on this node already, if
// that is known.
func (f *fileState) makeTree(ctx context.Context, p *past, place objstore.Place) error {
	left, at := f.copied()
	if left == nil {
		left, at = f.left(ctx)
	}
	if left != nil && at == place {
		f.w.log.Debug("the local tree is what the journal says")
		f.ledger = left
		return nil
	}
	if left == nil && f.w.epoch.Load() != 0 {
		f.w.readEarly(ctx, p)
	}
	base, err := f.load(ctx, p)
	if err != nil {
		return err
	}
	if left != nil {
		if err = f.update(ctx, left, base); err == nil || ctx.Err() != nil {
			return err
		}
		f.w.log.Info("the local tree is not brought up to date, but made anew", "err", err)
		f.dir.Close()
	}
	return f.restoreTree(ctx, base)
}

// copied opens the tree that was copied ahead for this tenure, by this process, where
// nobody has written since.
func (f *fileState) copied() (*dirtree.Ledger, objstore.Place) {
	c := f.w.copied
	if c == nil || c.ledger == nil {
		return nil, objstore.Place{}
	}
	d, err := dirtree.Open(f.w.treePath())
	if err != nil {
		return nil, objstore.Place{}
	}
	_ = os.Remove(f.w.ledgerFile())
	f.dir = d
	return c.ledger, c.past.last.Place()
}

// update brings the tree up to date, which is what its ledger says. What the ledger does
// not know goes: what is ephemeral is of another time, and nothing else is kept either.
func (f *fileState) update(ctx context.Context, left *dirtree.Ledger, base *objstore.Reader) error {
	began := time.Now()
	f.ownTree()
	for it := range left.Snapshot().Items() {
		if it.Entry.Type != objstore.TypeDir {
			continue
		}
		if err := f.discardUnknown(it.Path, left, began); err != nil {
			return err
		}
	}
	err := f.dir.Update(ctx, left.Snapshot(), f.ledger.Snapshot(), f.contentOf(base))
	if err == nil {
		err = f.ledgerOf(ctx)
	}
	if err == nil {
		f.w.log.Info("workspace brought up to date", "names", f.ledger.Len(), "dur", time.Since(began))
	}
	return err
}

// discardUnknown discards the names in a directory that its ledger has not, and notes
// that the directory has another time then.
func (f *fileState) discardUnknown(dir string, left *dirtree.Ledger, now time.Time) error {
	host := filepath.Join(f.w.treePath(), dir)
	names, err := os.ReadDir(host)
	if err != nil {
		return err
	}
	for _, e := range names {
		if _, known := left.Entry(path.Join(dir, e.Name())); known {
			continue
		}
		if err := f.w.discard(filepath.Join(host, e.Name())); err != nil {
			return err
		}
		left.Apply(&objstore.Op{Kind: objstore.KindAttr, Path: mesh.Path(dir), ModTime: &now}, now)
	}
	return nil
}

// handOver gives the workspace to another node, which has a copy of its files by then.
// That takes no longer than limit.
func (w *workspace) handOver(to mesh.Node, limit time.Duration, why *mesh.Error) {
	if !w.heir.CompareAndSwap(nil, &to) {
		return // it is under way
	}
	if err := w.sendAhead(to, limit); err != nil {
		w.log.Info("the workspace is moved without a copy of its files", "to", to, "err", err)
	}
	w.drain(w.node.cfg.Grace, why)
}

// sendAhead has another node copy the files, from a commit that is of now.
func (w *workspace) sendAhead(to mesh.Node, limit time.Duration) error {
	if w.files == nil || w.files.adopted {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.tenure, limit)
	defer cancel()
	for range aheadTurns {
		if err := w.files.checkpoint(ctx, "move"); err != nil {
			return err
		}
		if err := w.node.router.CopyAhead(ctx, to, w.tenant, w.name); err != nil {
			return fmt.Errorf("copy workspace %s to node %s: %w", w.name, to, err)
		}
	}
	return nil
}

// leaveTo ends a workspace of a node that stops.
func (n *Node) leaveTo(ctx context.Context, w *workspace, why *mesh.Error) {
	select {
	case <-w.opened:
		if w.openErr == nil && w.serving.Load() && w.record.Dir == "" && w.heir.Load() == nil && time.Since(time.Unix(0, w.used.Load())) < usedLately {
			to, err := n.router.Heir(ctx, &w.record, n.cfg.Name)
			if err == nil {
				w.handOver(to, n.cfg.Grace, why)
			} else {
				n.log.Debug("no node to move a workspace to", "workspace", string(w.name), "err", err)
			}
		}
	default:
	}
	w.drain(n.cfg.Grace, why) // it has ended, or is being moved
}
