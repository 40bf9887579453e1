package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/sandbox"
)

// answerNode answers routers.
func (n *Node) answerNode(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	switch req.Verb {
	case mesh.VerbNodePing:
		var ping mesh.NodePingRequest
		if err := req.Args(&ping); err != nil {
			return nil, err
		}
		return &mesh.Reply{Args: mesh.NodePingReply{State: n.ping(ping)}}, nil
	case mesh.VerbNodeOpen:
		var open mesh.NodeOpenRequest
		if err := req.Args(&open); err != nil {
			return nil, err
		}
		route, err := n.openWorkspace(ctx, open)
		return &mesh.Reply{Args: route}, err
	case mesh.VerbNodeSettle:
		var settle mesh.NodeSettleRequest
		if err := req.Args(&settle); err != nil {
			return nil, err
		}
		return n.settle(ctx, settle)
	case mesh.VerbNodeReread:
		var ping mesh.NodePingRequest
		if err := req.Args(&ping); err != nil {
			return nil, err
		}
		return nil, n.reread(ctx, ping)
	case mesh.VerbNodeMove:
		var move mesh.NodeMoveRequest
		if err := req.Args(&move); err != nil {
			return nil, err
		}
		return nil, n.giveWorkspace(move)
	case mesh.VerbNodeAhead:
		var ahead mesh.NodeAheadRequest
		if err := req.Args(&ahead); err != nil {
			return nil, err
		}
		return nil, n.copyAhead(ctx, ahead.Tenant, ahead.Workspace)
	case mesh.VerbNodeForget:
		return nil, n.forget(ctx, req)
	case mesh.VerbNodeRemove:
		var ping mesh.NodePingRequest
		if err := req.Args(&ping); err != nil {
			return nil, err
		}
		return nil, n.removeWorkspace(ctx, ping)
	}
	return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown node verb %q", req.Verb)
}

// ping says open only while the door is known to the server and the sequencer
// works.
func (n *Node) ping(p mesh.NodePingRequest) string {
	n.mu.Lock()
	w, leaving := n.workspaces[key{p.Tenant, p.Workspace}], n.draining
	n.mu.Unlock()
	switch {
	case w == nil && leaving:
		return mesh.PingLeaving
	case w == nil:
		return mesh.PingNotMe
	case mesh.Epoch(w.epoch.Load()) != p.Epoch && w.epoch.Load() != 0:
		return mesh.PingNotMe
	case w.readable.Load() && n.ready.Load():
		return mesh.PingOpen
	}
	return mesh.PingOpening
}

// openWorkspace takes a workspace and opens it, once for any number of
// concurrent callers.
func (n *Node) openWorkspace(ctx context.Context, req mesh.NodeOpenRequest) (mesh.Route, error) {
	k := key{req.Tenant, req.Workspace}
	n.mu.Lock()
	w, present := n.workspaces[k]
	if !present {
		if n.draining {
			n.mu.Unlock()
			return mesh.Route{}, mesh.Errorf(mesh.CodeBusy, "node %s is stopping", n.cfg.Name)
		}
		if err := n.refuses(len(n.workspaces), req.Anyway); err != nil {
			n.mu.Unlock()
			return mesh.Route{}, err
		}
		w = newWorkspace(n, k)
		n.workspaces[k] = w
		n.open.Add(1)
	}
	n.mu.Unlock()
	if !present {
		go func() {
			defer n.open.Done()
			w.run(context.WithoutCancel(ctx), req.After)
		}()
	}
	select {
	case <-ctx.Done():
		return mesh.Route{}, mesh.Errorf(mesh.CodeBusy, "workspace %s is still opening on node %s", req.Workspace, n.cfg.Name)
	case <-w.opened:
	}
	if w.openErr != nil {
		return mesh.Route{}, w.openErr
	}
	return mesh.Route{Node: n.cfg.Name, Epoch: mesh.Epoch(w.epoch.Load())}, nil
}

// take makes this node the owner and fences out all others.
func (w *workspace) take(ctx context.Context, after mesh.Epoch) (err error) {
	if err := w.know(ctx); err != nil {
		return err
	}
	n := w.node
	epoch, err := n.kv.Owners.Take(ctx, w.tenant, w.name, n.cfg.Name, n.incarnation, after)
	if err != nil {
		return err
	}
	w.epoch.Store(uint64(epoch))
	defer func() {
		if err != nil {
			w.release()
		}
	}()
	if err := w.readSettings(ctx); err != nil { // who changes them from now on tells this node
		return err
	}
	if err := w.checkNeed(&w.settings.Load().Need); err != nil {
		return err
	}
	return w.fence(ctx, epoch)
}

// know reads what the mesh's records say of the workspace and of its tenant.
func (w *workspace) know(ctx context.Context) (err error) {
	n := w.node
	if w.record, err = n.kv.Workspaces.Get(ctx, w.tenant, w.name); err != nil {
		return err
	}
	if w.record.Shard >= len(n.shards) {
		return mesh.Errorf(mesh.CodeInternal, "workspace %s lives in shard %d; this node knows %d", w.name, w.record.Shard, len(n.shards))
	}
	if err := w.checkNeed(&w.record.Need); err != nil {
		return err
	}
	w.streams = n.shards[w.record.Shard]
	tenant, err := n.kv.Tenants.Get(ctx, w.tenant)
	if err != nil {
		return err
	}
	w.uid, w.gid = sandbox.TenantIDs(tenant.Number)
	n.learnTenant(tenant)
	w.generation.Store(tenant.Generation)
	return nil
}

func (w *workspace) checkNeed(need *mesh.Need) error {
	if miss := w.node.missing(need); miss != "" {
		return mesh.Errorf(mesh.CodeUnsupported, "node %s has not what workspace %s needs: %s", w.node.cfg.Name, w.name, miss)
	}
	return nil
}

// fence opens the journal at epoch and then the tree.
func (w *workspace) fence(ctx context.Context, epoch mesh.Epoch) error {
	subject := mesh.JournalSubject(w.record.Shard, w.tenant, w.name)
	for {
		err := w.fenceAfterLast(ctx, epoch, subject)
		if !errors.Is(err, errOvertaken) {
			return err
		}
	}
}

func (w *workspace) fenceAfterLast(ctx context.Context, epoch mesh.Epoch, subject string) error {
	last, err := lastRecord(ctx, w.streams.journal, subject)
	if err != nil {
		return err
	}
	if last != nil && removedID(last) == w.record.ID {
		return w.finishRemoval(ctx, last.Sequence) // a crash came between the journal and the record
	}
	// No tenure has served this workspace yet, so there are no files to miss. They
	// have their place before the journal says that there was one. Where one has, the
	// journal was lost: the open record says nothing of files then (readPast).
	empty := last == nil || removedID(last) != ""
	fresh := empty && !w.record.Served
	if fresh && w.record.Origin == nil && w.tree == nil {
		if err := w.makeDir(); err != nil {
			return err
		}
		if err := w.openTree(); err != nil {
			return err
		}
	}
	var unfinished []mesh.ExecID
	w.ahead, w.copied = nil, nil
	switch c := w.node.copyOf(ctx, key{w.tenant, w.name}); {
	case empty || last.ID == "": // the logs of a removed workspace are gone, and with them their ends
	case c != nil && c.past != nil && c.past.last.ID == last.ID && c.past.last.Sequence == last.Sequence:
		w.copied = c
		c.wanted.Store(true)
		unfinished = c.past.unfinished
	default:
		unfinished, err = w.readEnd(ctx, last, subject)
	}
	if err == nil {
		unfinished, err = w.withoutEnd(ctx, unfinished)
	}
	if err != nil {
		return err
	}
	ops := []objstore.Op{{Kind: objstore.KindOpen, Node: w.node.cfg.Name, Workspace: w.record.ID, Unfinished: unfinished}}
	switch { // the journal says from now on what the files are
	case fresh && w.record.Origin != nil:
		ref, err := objstore.ParseRef(w.record.Origin.Commit)
		if err != nil {
			return err
		}
		ops = append(ops, objstore.Op{Kind: objstore.KindCheckpoint, Ref: &ref})
	case fresh: // nothing yet
		root := objstore.Entry{Type: objstore.TypeDir, Mode: 0o700, ModTime: time.Now().UTC()}
		ops = append(ops, objstore.Op{Kind: objstore.KindPut, Path: ".", Entry: &root})
	}
	if w.journal, err = openJournal(ctx, w.node.js, w.streams.journal, subject, epoch, last, ops...); err != nil {
		return err
	}
	w.journal.running = w.runningExecs
	ends, ended := errgroup.WithContext(ctx)
	ends.SetLimit(16)
	for _, id := range unfinished {
		ends.Go(func() error {
			if err := endLog(ended, w.node.js, w.streams.log, w.logSubject(id), epoch, errNodeGone); err != nil {
				return fmt.Errorf("end exec %s: %w", id, err)
			}
			return nil
		})
	}
	if err := ends.Wait(); err != nil {
		return err
	}
	w.fenced = w.journal.end
	return nil
}

// removedID returns the id of the workspace whose removal is the last record.
func removedID(last *objstore.StoredRecord) string {
	for _, op := range last.Ops {
		if op.Kind == objstore.KindDeleted {
			return op.Workspace
		}
	}
	return ""
}

// makeDir makes the directory of a workspace that is opened for the first time.
// That of an earlier workspace of the same name is moved away.
func (w *workspace) makeDir() error {
	id, err := w.treeID()
	if err != nil || id == w.record.ID {
		return err
	}
	if id != "" {
		if err := w.discardTree(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(w.dir(), 0o700); err != nil {
		return w.hostError("make the workspace's directory", err)
	}
	spread(w.dir())
	if err := writeSynced(w.idFile(), []byte(w.record.ID)); err != nil {
		return w.hostError("write the workspace's id", err)
	}
	return nil
}

// findTree opens the directory that a tenure of an earlier version has left, which
// the journal says nothing about; first is the node that had the workspace first, and
// all the time: earlier versions moved none. It opens it, and no other. Without the
// directory the workspace serves no files: an empty tree would be a lie about
// acknowledged writes.
func (w *workspace) findTree(first mesh.Node) error {
	id, err := w.treeID()
	if err != nil {
		return err
	}
	_, err = os.Lstat(w.treePath())
	if id != w.record.ID || w.record.Dir == "" && errors.Is(err, os.ErrNotExist) {
		if first != "" && first != w.node.cfg.Name {
			w.home = first
			return mesh.Errorf(mesh.CodeUnavailable, "the files of workspace %s are on node %s only, which an earlier version served them from; start that node, or give them up with: wsmesh workspace rm %s", w.name, first, w.name)
		}
		w.damage = errFilesGone(w.name, w.node.cfg.Name)
		w.log.Error("the workspace's directory is missing", "dir", w.dir())
		return nil
	}
	return w.openTree()
}

func (w *workspace) openTree() (err error) {
	if w.record.Dir != "" {
		w.openHostDir()
		return nil
	}
	w.tree, err = sandbox.OpenTree(sandbox.TreeConfig{Dir: w.treePath(), Stage: w.stagePath(), UID: w.uid, GID: w.gid})
	return err
}

// treeID returns the id of the workspace whose files are in the directory, ""
// for none.
func (w *workspace) treeID() (string, error) {
	id, err := os.ReadFile(w.idFile())
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err == nil && len(id) != len(w.record.ID):
		err = errors.New("it is damaged")
	}
	if err != nil {
		return "", w.hostError("read the workspace's id", err)
	}
	return string(id), nil
}

func (w *workspace) dir() string {
	return filepath.Join(w.node.treeDir(), string(w.tenant), string(w.name))
}

func (w *workspace) idFile() string    { return filepath.Join(w.dir(), "id") }
func (w *workspace) stagePath() string { return filepath.Join(w.dir(), "stage") }

func (w *workspace) treePath() string {
	if w.record.Dir != "" {
		return string(w.record.Dir)
	}
	return filepath.Join(w.dir(), "workspace")
}

// originPath is where the tree is of what a fork was made of, if this node has it.
func (w *workspace) originPath() string {
	return filepath.Join(w.node.treeDir(), string(w.tenant), string(w.record.Origin.Workspace), "workspace")
}

// writeSynced writes a small file that is there whole or not at all, also after
// a loss of power.
func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// discardTree discards all that the node keeps of the workspace.
func (w *workspace) discardTree() error {
	own := key{w.tenant, w.name}
	w.node.endCopies(func(k key) bool { return k == own })
	return w.discard(w.dir())
}

// hostError hides the host's paths from the tenant and shows them to the
// operator.
func (w *workspace) hostError(op string, err error) error {
	w.log.Error(op, "err", err)
	return mesh.Errorf(mesh.CodeInternal, "workspace %s: %s: failed on the node; its log has the details", w.name, op)
}

// release gives ownership up, so that the next owner need not wait: this node again,
// or the one that has the files.
func (w *workspace) release() {
	w.releasing.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), mesh.DefaultSettle)
	defer cancel()
	owner := kv.Owner{Node: cmp.Or(w.home, w.node.cfg.Name), Incarnation: w.node.incarnation}
	if heir := w.heir.Load(); heir != nil {
		owner.Node = *heir
	}
	if err := w.node.kv.Owners.Release(ctx, w.tenant, w.name, owner, mesh.Epoch(w.epoch.Load())); err != nil {
		w.log.Debug("ownership not released", "err", err)
	}
}

// giveWorkspace begins to give a workspace to another node: as when this one stops, its
// commands have the grace to end. Who reads the record of the owner then finds the
// other's name in it.
func (n *Node) giveWorkspace(m mesh.NodeMoveRequest) error {
	n.mu.Lock()
	w := n.workspaces[key{m.Tenant, m.Workspace}]
	n.mu.Unlock()
	switch {
	case w != nil && mesh.Epoch(w.epoch.Load()) == m.Epoch && w.readable.Load() && !w.serving.Load():
		return nil // its files are being restored; it is asked again
	case w == nil || mesh.Epoch(w.epoch.Load()) != m.Epoch || !w.serving.Load():
		return mesh.Errorf(mesh.CodeStale, "node %s does not host workspace %s", n.cfg.Name, m.Workspace)
	case w.record.Dir != "":
		return mesh.Errorf(mesh.CodeUnsupported, "workspace %s is a directory of node %s, and stays there", m.Workspace, n.cfg.Name)
	}
	if w.heir.Load() == nil {
		go w.handOver(m.To, aheadTime, mesh.Errorf(mesh.CodeCanceled, "the workspace was moved to node %s", m.To)) // ends with the tenure
	}
	return nil
}

// removeWorkspace ends a workspace for good. The deleted record is the commit
// point; what follows is finished by the next opener after a crash.
func (n *Node) removeWorkspace(ctx context.Context, p mesh.NodePingRequest) error {
	n.mu.Lock()
	w := n.workspaces[key{p.Tenant, p.Workspace}]
	n.mu.Unlock()
	if w == nil || mesh.Epoch(w.epoch.Load()) != p.Epoch || !w.serving.Load() {
		return mesh.Errorf(mesh.CodeStale, "node %s does not host workspace %s", n.cfg.Name, p.Workspace)
	}
	if !w.fate.CompareAndSwap(undecided, removing) {
		return mesh.Errorf(mesh.CodeStale, "workspace %s is being closed; try again", p.Workspace)
	}
	w.quiesce(errRemoved(w.name)) // no command may write while the tree goes
	w.endTenure()                 // nor may a checkpoint or a capture follow the last record
	w.background.Wait()
	deleted, err := w.journal.append(ctx, []objstore.Op{{Kind: objstore.KindDeleted, Workspace: w.record.ID}}, nil)
	if err != nil {
		w.stop(mesh.AsError(err))
		return err
	}
	err = w.finishRemoval(ctx, deleted)
	w.stop(errRemoved(w.name))
	<-w.done
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		return nil
	}
	return err
}

func errRemoved(w mesh.Workspace) *mesh.Error {
	return mesh.Errorf(mesh.CodeNotFound, "workspace %s was removed", w)
}

// finishRemoval makes the records and the disk follow the journal's deleted
// record, whose sequence is deleted; it returns CodeNotFound when that is done. The
// records before that one go, and it stays: a used name is never an empty subject.
func (w *workspace) finishRemoval(ctx context.Context, deleted uint64) error {
	if err := w.discardTree(); err != nil {
		return err
	}
	if err := w.dropLogs(ctx); err != nil {
		return err
	}
	if err := w.purgeBefore(ctx, mesh.JournalSubject(w.record.Shard, w.tenant, w.name), deleted); err != nil {
		return err
	}
	if err := w.node.kv.Snapshots.RemoveAll(ctx, w.tenant, w.name, w.record.ID); err != nil {
		return err
	}
	if err := w.node.kv.Workspaces.MarkRemoved(ctx, w.tenant, w.name, w.record.ID); err != nil {
		return err
	}
	return errRemoved(w.name)
}
