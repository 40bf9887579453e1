package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// past is what the journal says of a workspace before this tenure.
type past struct {
	commit  *objstore.Commit // nil: there is none
	ref     objstore.Ref
	covers  objstore.Place           // the last record that is in it; zero: none of this workspace is
	records []*objstore.StoredRecord // that follow it, the open record of this tenure last
}

// saysFiles reports whether the journal knows all of the workspace's files: from
// its first record on, or since a commit. That of a workspace that an earlier
// version has served does not, until what was there is in a commit.
func (p *past) saysFiles() bool {
	return p.commit != nil || slices.ContainsFunc(p.records, func(r *objstore.StoredRecord) bool {
		return r.Has(objstore.KindOpen) && r.Has(objstore.KindPut)
	})
}

// firstNode is the node of the first tenure that the records tell of.
func (p *past) firstNode() mesh.Node {
	for _, r := range p.records {
		for i := range r.Ops {
			if r.Ops[i].Kind == objstore.KindOpen {
				return r.Ops[i].Node
			}
		}
	}
	return ""
}

// readPast reads the journal from its last checkpoint to this tenure's open
// record. An owner before may take records away meanwhile, those before a newer
// checkpoint: then it begins again. Where it cannot be read, what came before that
// is returned as well.
func (w *workspace) readPast(ctx context.Context) (p *past, err error) {
	for range 5 {
		p, err = w.readPastOnce(ctx)
		switch {
		case errors.Is(err, objstore.ErrGap):
			continue
		case err == nil && w.record.Served && w.record.Dir == "" && !p.saysFiles():
			err = mesh.Errorf(mesh.CodeInternal, "the journal of workspace %s was lost: the workspace has been served, and its journal is empty", w.name)
		}
		return p, err
	}
	return p, mesh.Errorf(mesh.CodeInternal, "the journal of workspace %s is damaged: %s", w.name, err)
}

// records are those of the journal, from memory as far as they have been read.
func (w *workspace) records() readAhead {
	return readAhead{objstore.AtLeader(w.streams.journal), w.ahead}
}

func (w *workspace) readPastOnce(ctx context.Context) (*past, error) {
	if c := w.copied; c != nil { // its last record is the one before the open record
		p := *c.past.past
		p.records = append(slices.Clone(p.records), &w.fenced)
		return &p, nil
	}
	p, open := &past{}, &w.fenced
	var after objstore.Place
	if at := open.LastCheckpoint(); at != 0 {
		var err error
		if after, err = w.readCheckpoint(ctx, at, p); err != nil {
			return p, err
		}
	}
	for r, err := range objstore.Chain(ctx, w.records(), w.journal.subject, after, open.Sequence) {
		if err != nil {
			return p, err
		}
		if removedID(r) != "" { // what comes before is of an earlier workspace of this name
			p.records = nil
			continue
		}
		p.records = append(p.records, r)
	}
	if last := len(p.records) - 1; last < 0 || p.records[last].ID != open.ID {
		return p, fmt.Errorf("%w: it does not end with the open record", objstore.ErrGap)
	}
	return p, nil
}

// readCheckpoint reads the commit that a checkpoint record names, and returns the
// place from which the records go on.
func (w *workspace) readCheckpoint(ctx context.Context, sequence uint64, p *past) (objstore.Place, error) {
	r, err := checkpointRecord(ctx, w.records(), w.journal.subject, sequence)
	if err != nil {
		return objstore.Place{}, err
	}
	p.ref = r.checkpointRef()
	store, err := w.content(ctx)
	if err != nil {
		return objstore.Place{}, err
	}
	if p.commit, err = store.Commit(ctx, p.ref); err != nil {
		return objstore.Place{}, err
	}
	switch {
	case p.commit.Workspace == w.record.ID:
		p.covers = placeOf(p.commit)
		return p.covers, nil
	case owns(&w.record, p.ref, p.commit.Workspace): // the record is the workspace's first one
		p.covers = objstore.Place{Sequence: r.Prev, Number: r.Number - 1, Hash: r.Root}
		return p.covers, nil
	}
	return objstore.Place{}, mesh.Errorf(mesh.CodeInternal, "commit %s is of another workspace", p.ref.Commit)
}

// placeOf is the last record that is in a commit.
func placeOf(c *objstore.Commit) objstore.Place {
	return objstore.Place{Sequence: c.Sequence, Number: c.Number, Hash: c.Record.String()}
}

// restore makes the workspace's directory what the journal says, up to the open
// record of this tenure: nobody else can change that any more. It opens the tree,
// or leaves the workspace without files and says why in damage.
func (w *workspace) restore(ctx context.Context) error {
	f := newFileState(w)
	err := w.restoreInto(ctx, f)
	switch code := mesh.CodeOf(err); {
	case err == nil && w.damage == nil:
		w.files = f
		w.journal.stored = f.apply
		return nil
	case err == nil:
		f.close()
		return nil
	case code == mesh.CodeUnavailable, code == mesh.CodeDeadline, code == mesh.CodeCanceled, code == mesh.CodeStale, code == mesh.CodeLost, code == mesh.CodeQuota:
		f.close()
		return err
	}
	f.close()
	w.log.Error("the workspace's files cannot be restored", "err", err)
	w.broken = true
	w.damage = mesh.Errorf(mesh.CodeInternal, "the files of workspace %s cannot be restored: %s; see what is damaged with: wsmesh workspace verify %s; "+
		"go back to the newest state that is whole with: wsmesh workspace recover %s; or give it up with: wsmesh workspace rm --force %s",
		w.name, mesh.AsError(err).Text, w.name, w.name, w.name)
	return nil
}

func (w *workspace) restoreInto(ctx context.Context, f *fileState) error {
	defer func() { // nobody needs to know it twice, and it may be megabytes
		if c := w.copied; c != nil {
			w.node.forgetCopy(key{w.tenant, w.name}, c)
			w.copied = nil
		}
	}()
	p, err := w.readPast(ctx)
	w.ahead = nil
	if err != nil {
		return err
	}
	f.resume(p)
	f.recall()
	if err := w.node.copyOf(ctx, key{w.tenant, w.name}).await(ctx); err != nil {
		return err
	}
	host := w.record.Dir != ""
	if !host {
		f.listen()
	}
	switch {
	case w.tree != nil: // no tenure has served it before
	case host: // the directory of the host is the truth
		if _, err := f.load(ctx, p); err != nil {
			return err
		}
		if err := w.makeDir(); err != nil {
			return err
		}
	case !p.saysFiles():
		// Only an earlier version has served it: what is on the disk is the truth.
		f.adopted = true
		_ = os.Remove(w.ledgerFile()) // there is none
		f.watch.Lose()
		if err := w.findTree(p.firstNode()); err != nil || w.damage != nil {
			return err
		}
	default:
		open := &w.journal.end
		if err := f.makeTree(ctx, p, objstore.Place{Sequence: open.Prev, Number: open.Number - 1, Hash: open.Root}); err != nil {
			return err
		}
	}
	if w.tree == nil {
		if err := w.openTree(); err != nil {
			return err
		}
	}
	if f.dir != nil || w.damage != nil {
		return nil
	}
	return f.openDir(w.treePath())
}

// listen begins to hear what changes in the workspace's directory, and in those where
// its tree is made.
func (f *fileState) listen() {
	w := f.w
	if w.node.watcher == nil {
		return
	}
	err := os.MkdirAll(w.dir(), 0o700)
	if err == nil {
		f.watch, err = w.node.watcher.Watch(w.dir())
	}
	if err != nil {
		w.log.Info("changes in the workspace are found by scans", "err", err)
	}
}

// resume takes what is known of the records and of the commit before them, but for
// the ledger.
func (f *fileState) resume(p *past) {
	if c := p.commit; c != nil {
		f.commit, f.committed, f.made = p.ref, append(slices.Clone(c.Packs), p.ref.Pack), c.Time
		f.covers = p.covers
		if c.Workspace == f.w.record.ID { // what another one's requests were answered is its own
			f.answer(c.Answers, time.Now())
		}
	}
	for _, r := range p.records {
		f.apply(r)
	}
}

// recall has repeats of requests be answered as the journal tells.
func (f *fileState) recall() {
	for _, a := range f.answers {
		f.w.remember(a)
	}
}

// load makes the ledger what the journal says, and returns the reader of its content.
func (f *fileState) load(ctx context.Context, p *past) (*objstore.Reader, error) {
	_, base, err := f.base(ctx)
	if err != nil || p.commit == nil { // the records, from the first one on, are applied
		return base, err
	}
	if f.ledger, err = dirtree.LoadLedger(ctx, base, p.commit.Root); err != nil {
		return nil, err
	}
	for _, r := range p.records {
		for i := range r.Ops {
			if r.Ops[i].Changes() {
				f.ledger.Apply(&r.Ops[i], r.Time)
			}
		}
	}
	return base, nil
}

// restoreTree makes the tree aside and puts it in place of what is there, whose
// content it takes where that is the wanted one: a crash before leaves that, and what
// it leaves aside is made anew.
func (f *fileState) restoreTree(ctx context.Context, base *objstore.Reader) error {
	w := f.w
	aside := w.treePath() + ".new"
	if err := w.discard(aside); err != nil {
		return err
	}
	if err := w.makeAside(aside); err != nil {
		return w.hostError("make a directory to restore into", err)
	}
	d, err := dirtree.Open(aside)
	if err != nil {
		return w.hostError("open a directory to restore into", err)
	}
	f.dir = d
	f.ownTree()
	began := time.Now()
	if d.Seed, err = dirtree.Open(w.treePath()); err != nil && w.record.Origin != nil {
		d.Seed, err = dirtree.Open(w.originPath())
	}
	if err == nil {
		defer d.Seed.Close()
	}
	items := func(yield func(objstore.Item, error) bool) {
		for it := range f.ledger.Snapshot().Items() {
			if !yield(it, nil) {
				return
			}
		}
	}
	err = d.RestoreItems(ctx, items, f.contentOf(base))
	if err == nil {
		err = f.ledgerOf(ctx)
	}
	if err != nil {
		return fmt.Errorf("restore workspace %s from commit %s: %w", w.name, f.commit.Commit, err)
	}
	d.Seed = nil
	if err := w.discard(w.treePath()); err != nil {
		return err
	}
	if err := os.Rename(aside, w.treePath()); err != nil {
		return w.hostError("put the restored tree in place", err)
	}
	if st, err := d.Stat("."); err == nil {
		f.ledger.Seen(".", st, 0) // the move has changed that, and nothing else
	}
	if err := writeSynced(w.idFile(), []byte(w.record.ID)); err != nil {
		return w.hostError("write the workspace's id", err)
	}
	w.log.Info("workspace restored", "names", f.ledger.Len(), "dur", time.Since(began))
	return nil
}

// makeAside makes a directory in that of the workspace. Where the file system puts it, its
// first name decides, which is always another one.
func (w *workspace) makeAside(dir string) error {
	if err := os.MkdirAll(w.dir(), 0o700); err != nil {
		return err
	}
	spread(w.dir())
	first, err := makeApart(w.dir())
	if err != nil {
		return err
	}
	return os.Rename(first, dir)
}

// ownTree has what is made in the tree belong to the tenant.
func (f *fileState) ownTree() {
	if os.Geteuid() == 0 {
		f.dir.Owner = &dirtree.Owner{UID: f.w.uid, GID: f.w.gid}
	}
}

// contentOf reads content from the records that have it, and else from a commit's packs.
func (f *fileState) contentOf(base *objstore.Reader) func(context.Context, objstore.Chunk) ([]byte, error) {
	return func(ctx context.Context, c objstore.Chunk) ([]byte, error) {
		if in, ok := f.inline[c.ID]; ok {
			return in.data, nil
		}
		return base.Chunk(ctx, c)
	}
}

func (f *fileState) ledgerOf(ctx context.Context) error {
	f.watch.Take() // what was restored is described here
	return f.dir.Describe(ctx, &dirtree.Scan{Skip: f.isEphemeral}, f.ledger)
}

// savedLedger is the header of a ledger that an owner leaves at its end.
type savedLedger struct {
	Boot      string         // what was not synced is gone after another start of the machine
	Workspace string         // id of the workspace's record
	Place     objstore.Place // the journal's end
}

func (w *workspace) ledgerFile() string { return filepath.Join(w.dir(), "ledger") }

// left opens the tree that was left on this node, by an earlier tenure or by who made a
// copy, if it is provably what its ledger says: the ledger was saved with no command
// running, since when nobody has written here, and every name is described as it was
// then. place is where in the journal that was. Tenures that crashed leave no ledger, and
// nor does who is about to change the tree.
func (f *fileState) left(ctx context.Context) (l *dirtree.Ledger, place objstore.Place) {
	w := f.w
	file, err := os.Open(w.ledgerFile())
	if err != nil {
		return nil, place
	}
	defer file.Close()
	defer os.Remove(w.ledgerFile())
	var h savedLedger
	l, err = dirtree.ReadSaved(file, &h)
	if err != nil {
		w.log.Warn("saved ledger not used", "err", err)
		return nil, place
	}
	if h.Boot != bootID() || h.Workspace != w.record.ID {
		return nil, place
	}
	if id, err := w.treeID(); err != nil || id != w.record.ID {
		return nil, place
	}
	d, err := dirtree.Open(w.treePath())
	if err != nil {
		return nil, place
	}
	differs, err := d.Differs(ctx, &dirtree.Scan{Skip: f.isEphemeral}, l.Snapshot())
	if err != nil || differs {
		w.log.Info("the local tree was changed since the workspace was closed", "err", err)
		d.Close()
		return nil, place
	}
	f.dir = d
	return l, h.Place
}

// begin is the begin of a tenure that serves: what the journal does not say yet
// about a tree that was not restored from it is captured, and checkpoints are made.
func (f *fileState) begin() {
	f.w.background.Go(func() { f.checkpoints(f.w.tenure) })
	if !f.adopted {
		return
	}
	f.w.background.Go(func() {
		_, err := f.capture(f.w.tenure, beginning{})
		if err == nil {
			err = f.checkpoint(f.w.tenure, "adopted")
		}
		if err != nil {
			f.w.log.Warn("the workspace's files are not in the journal yet", "err", err)
		}
	})
}

// finish is the end of a tenure that nobody has taken: what commands changed is
// captured, everything is committed, and the ledger is left for the next owner on
// this node, once it is given up. Whatever fails, the journal has what was acknowledged.
func (f *fileState) finish() {
	ctx, cancel := context.WithTimeout(f.w.tenure, 2*mesh.DefaultSettle)
	defer cancel()
	moves := f.w.heir.Load() != nil
	if !moves {
		f.watch.Lose() // once, all is looked at: the next opening does so, too
	}
	_, err := f.capture(ctx, beginning{})
	if err == nil && !moves { // else the heir waits, and has the commit of before and what followed
		err = f.checkpoint(ctx, "release")
	}
	f.whole = err == nil
	if err != nil {
		f.w.log.Warn("the workspace's files are not committed; they will be restored from the journal", "err", err)
	}
}

func (f *fileState) save() error {
	f.mu.Lock()
	h := savedLedger{Boot: bootID(), Workspace: f.w.record.ID, Place: f.place}
	tree := f.ledger.Snapshot()
	f.mu.Unlock()
	file, err := os.OpenFile(f.w.ledgerFile()+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(tree.Save(file, h), file.Close()) // not synced: after a start of the machine nobody trusts it
	if err == nil {
		err = os.Rename(f.w.ledgerFile()+".new", f.w.ledgerFile())
	}
	return err
}
