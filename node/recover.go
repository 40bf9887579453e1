package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// recoverWorkspace opens a workspace whose files cannot be restored at an older state.
// The owner, which serves without files, makes a commit of that state and puts its
// checkpoint at the end of the journal; then the workspace is opened again, from
// there. So no other owner can do it too, and a late one is refused as ever. Until
// the checkpoint is stored nothing is changed; the records that it gives up stay
// until the next one, and the packs always. Answers of what is given up are not in
// the commit: a repeat of such a request is done anew.
func (w *workspace) recoverWorkspace(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.RecoverRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if req.Scope != "." {
		return nil, mesh.Errorf(mesh.CodeDenied, "a scope cannot be recovered; the whole workspace can")
	}
	key := answerKey(req)
	w.once.Lock()
	given, repeat := w.answers.Get(key)
	w.once.Unlock()
	switch {
	case repeat && key != "": // the tenure that did it is over
		return given.reply, given.err
	case !w.broken:
		return nil, mesh.Errorf(mesh.CodeConflict, "workspace %s can be opened: nothing is to be recovered", w.name)
	}
	run, done, err := w.long.join(ctx, w, req, func(ctx context.Context, run *longRun) (any, error) {
		r := &recovery{w: w, run: run, key: key}
		return r.do(ctx, a.From)
	})
	if err != nil {
		return nil, err
	}
	if !done {
		return &mesh.Reply{Args: mesh.RecoverReply{Read: run.read.Load()}}, nil
	}
	return &mesh.Reply{Args: run.reply}, nil
}

// recovery is one recover.
type recovery struct {
	w     *workspace
	run   *longRun
	key   string
	reply mesh.RecoverReply
}

func (r *recovery) do(ctx context.Context, from string) (any, error) {
	w := r.w
	p, err := r.find(ctx, from)
	if err != nil {
		return nil, err
	}
	f := newFileState(w)
	f.resume(p)
	f.recall()
	if _, err := f.load(ctx, p); err != nil {
		return nil, err
	}
	m := f.moment()
	last := m.place
	if len(p.records) == 0 {
		last = f.covers
	}
	m.place = w.fenced.Place() // what is between is given up
	if err := r.lost(ctx, last.Number); err != nil {
		return nil, err
	}
	r.reply.Done, r.reply.Number = true, last.Number
	r.reply.Records = max(w.fenced.Number, last.Number+1) - last.Number - 1
	commit, _, err := f.commitMoment(ctx, m, fmt.Sprintf("recovered as of record %d", last.Number))
	if err != nil {
		return nil, err
	}
	r.reply.Commit, r.reply.Read = commit.Commit.String(), r.run.read.Load()
	op := objstore.Op{Kind: objstore.KindCheckpoint, Ref: &commit, Sequence: m.place.Sequence, Number: m.place.Number}
	answer, err := r.answer()
	if err != nil {
		return nil, err
	}
	if _, err := w.journal.append(ctx, []objstore.Op{op}, answer); err != nil {
		w.stop(mesh.AsError(err))
		return nil, err
	}
	w.log.Warn("workspace recovered", "commit", r.reply.Commit, "from", r.reply.From, "number", r.reply.Number, "records", r.reply.Records)
	w.stop(mesh.Errorf(mesh.CodeUnavailable, "workspace %s was recovered and is being opened again; try again", w.name))
	return r.reply, nil
}

// answer is what the next owner says to a repeat.
func (r *recovery) answer() (*objstore.Answer, error) {
	if r.key == "" {
		return nil, nil
	}
	for {
		body, err := json.Marshal(r.reply)
		if err != nil {
			return nil, err
		}
		if len(body) <= objstore.MaxAnswer {
			return &objstore.Answer{ID: r.key, Time: time.Now().UTC(), Body: string(body)}, nil
		}
		r.reply.Lost, r.reply.More = r.reply.Lost[:len(r.reply.Lost)/2], true
	}
}

// find returns the state to go back to.
func (r *recovery) find(ctx context.Context, from string) (*past, error) {
	if from != "" {
		return r.named(ctx, from)
	}
	p, err := r.w.readPast(ctx)
	if passing(err) {
		return nil, err
	}
	if err != nil {
		r.because(err)
	}
	for c, err := range r.w.commits(ctx, p.ref, p.ref.IsZero()) {
		if err != nil {
			return nil, err
		}
		whole, err := r.whole(ctx, c)
		if err != nil {
			return nil, err
		}
		if whole {
			p := &past{commit: c.commit, ref: c.ref}
			if !c.origin { // else all records follow it
				p.covers = placeOf(c.commit)
			}
			return r.behind(ctx, p, p.covers)
		}
	}
	// There was no commit yet, or none is left: records alone, from the first one on.
	first, err := r.behind(ctx, &past{}, objstore.Place{})
	if err == nil && !first.saysFiles() {
		err = mesh.Errorf(mesh.CodeNotFound, "no commit of workspace %s is whole, and its first records are gone; give it up with: wsmesh workspace rm --force %s", r.w.name, r.w.name)
	}
	return first, err
}

// named returns the state of one commit, which must be whole.
func (r *recovery) named(ctx context.Context, name string) (*past, error) {
	id, err := objstore.ParseID(name)
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "%.80q is not the name of a commit; see which there are with: wsmesh history --commits -w %s", name, r.w.name)
	}
	store, err := r.w.content(ctx)
	if err != nil {
		return nil, err
	}
	found, err := r.w.found.commits(ctx, store, r.w.record.ID)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(found, func(c objstore.FoundCommit) bool { return c.Commit == id })
	if i < 0 {
		return nil, mesh.Errorf(mesh.CodeNotFound, "workspace %s has no commit %s that can be read; see which there are with: wsmesh history --commits -w %s", r.w.name, name, r.w.name)
	}
	c := storedCommit{ref: found[i].Ref}
	if c.commit, c.err = store.Commit(ctx, c.ref); passing(c.err) {
		return nil, c.err
	}
	whole, err := r.whole(ctx, c)
	if err != nil {
		return nil, err
	}
	if !whole {
		return nil, mesh.Errorf(mesh.CodeConflict, "commit %s is not whole: %s; the newest that is whole is found without --from", name, r.reply.Reason)
	}
	r.reply.From, r.reply.Time = id.String(), c.commit.Time
	return &past{commit: c.commit, ref: c.ref, covers: placeOf(c.commit)}, nil
}

// whole reports whether all that a commit reaches is stored, by reading it.
func (r *recovery) whole(ctx context.Context, c storedCommit) (bool, error) {
	if c.err != nil {
		r.because(c.err)
		return false, nil
	}
	store, err := r.w.content(ctx)
	if err != nil {
		return false, err
	}
	checked, err := store.Check(ctx, append(slices.Clip(c.commit.Packs), c.ref.Pack), &r.run.read)
	if err != nil {
		return false, err
	}
	if _, err = checked.Commit(ctx, c.ref); passing(err) {
		return false, err
	}
	whole := err == nil
	if err != nil {
		r.because(err)
	}
	_, err = checked.Tree(ctx, c.commit.Root, func(d objstore.Damage) {
		r.because(mesh.About(fmt.Sprintf("%.200q", d.Path), d.Err))
		whole = false
	})
	return whole, err
}

// because keeps what was found wrong first, which is the newest.
func (r *recovery) because(err error) {
	if r.reply.Reason == "" {
		r.reply.Reason = mesh.AsError(err).Text
	}
}

// behind adds to a state the records that follow it, as far as they and their content
// are whole. With the zero place that is all from the first record on.
func (r *recovery) behind(ctx context.Context, p *past, after objstore.Place) (*past, error) {
	w := r.w
	if p.commit != nil {
		r.reply.From, r.reply.Time = p.ref.Commit.String(), p.commit.Time
	}
	store, err := w.content(ctx)
	if err != nil {
		return nil, err
	}
	for rec, err := range objstore.Chain(ctx, objstore.AtLeader(w.streams.journal), w.fencedSubject(), after, w.fenced.Sequence) {
		if passing(err) {
			return nil, err
		}
		if err == nil {
			err = r.contentOf(ctx, store, rec)
			if passing(err) {
				return nil, err
			}
		}
		if err != nil {
			r.because(err)
			break
		}
		if removedID(rec) != "" { // of an earlier workspace of this name
			p.records = nil
			continue
		}
		p.records = append(p.records, rec)
		r.reply.Time = rec.Time
	}
	if p.commit == nil {
		i := slices.IndexFunc(p.records, func(rec *objstore.StoredRecord) bool { return rec.Has(objstore.KindOpen) && rec.Has(objstore.KindPut) })
		p.records = p.records[max(i, 0):]
	}
	return p, nil
}

// contentOf checks what a record's ops refer to.
func (r *recovery) contentOf(ctx context.Context, store *objstore.Store, rec *objstore.StoredRecord) error {
	packs := map[objstore.ID]bool{}
	var chunks []objstore.Chunk
	for i := range rec.Ops {
		op := &rec.Ops[i]
		for _, id := range op.Packs {
			packs[id] = true
		}
		if op.Kind == objstore.KindPut && len(op.Data) == 0 {
			chunks = append(chunks, op.Entry.Content...)
		}
	}
	if len(packs) == 0 {
		return nil // what is in no pack of its own is in one of those before
	}
	checked, err := store.Check(ctx, slices.Collect(maps.Keys(packs)), &r.run.read)
	if err != nil {
		return err
	}
	if d := checked.Missing(chunks...); d != nil {
		return d.Err
	}
	return nil
}

// lost tells what is known of what changed after a record: by those behind it that
// can be read, and by commits.
func (r *recovery) lost(ctx context.Context, after uint64) error {
	w, first := r.w, uint64(math.MaxUint64)
	var all []mesh.HistoryEntry
	for seq := uint64(1); seq < w.fenced.Sequence; seq++ {
		raw, err := w.streams.journal.Next(ctx, w.fencedSubject(), seq)
		if err != nil {
			return unavailable(err)
		}
		seq = raw.Sequence
		rec, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
		if err != nil || rec.Number <= after {
			continue
		}
		first = min(first, rec.Number)
		all = append(all, rec.HistoryOf()...)
	}
	slices.Reverse(all)
	err := w.tell(ctx, historyPlace{}, false, func(t told) bool {
		if t.Kind != mesh.HistoryCommit && t.Number > after && t.Number < first {
			all = append(all, t.HistoryEntry)
		}
		return t.Number > after || t.Error != "" || t.Number >= first
	})
	r.reply.Lost = all[:min(len(all), mesh.MaxList)]
	r.reply.More = len(all) > mesh.MaxList
	return err
}

func (w *workspace) fencedSubject() string {
	return mesh.JournalSubject(w.record.Shard, w.tenant, w.name)
}
