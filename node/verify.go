package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// DefaultMaxVerifies bounds the workspaces that are verified or recovered at a time on
// one node: each keeps the processors busy for as long as its content is large.
const DefaultMaxVerifies = 4

// maxBroken bounds what one verification names.
const maxBroken = 1000

// verification is one verify: everything that the workspace is made of is read from
// the store and checked by its name, and then the tree of this node against it.
type verification struct {
	w     *workspace
	run   *longRun
	reply mesh.VerifyReply
}

func (w *workspace) verify(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	run, done, err := w.long.join(ctx, w, req, func(ctx context.Context, run *longRun) (any, error) {
		v := &verification{w: w, run: run, reply: mesh.VerifyReply{Done: true, Node: w.node.cfg.Name}}
		err := v.all(ctx)
		v.reply.Read = run.read.Load()
		return v.reply, err
	})
	if err != nil {
		return nil, err
	}
	if !done {
		return &mesh.Reply{Args: mesh.VerifyReply{Read: run.read.Load()}}, nil
	}
	reply, ok := run.reply.(mesh.VerifyReply)
	if !ok {
		return nil, mesh.Errorf(mesh.CodeInvalid, "the request has the id of another one")
	}
	all := reply.Broken
	reply.Broken = []mesh.Broken{}
	size := 0
	for _, b := range all {
		if b.Path != "" {
			if !mesh.Inside(req.Scope, string(b.Path)) {
				continue
			}
			b.Path = mesh.Below(req.Scope, b.Path)
		}
		if size += 6*len(b.Path) + len(b.Name) + len(b.Text) + 100; size > mesh.MaxMessage {
			reply.More = true
			break
		}
		reply.Broken = append(reply.Broken, b)
	}
	return &mesh.Reply{Args: reply}, nil
}

func (v *verification) broken(kind, path, name string, err error) {
	if len(v.reply.Broken) == maxBroken {
		v.reply.More = true
		return
	}
	v.reply.Broken = append(v.reply.Broken, mesh.Broken{Kind: kind, Path: mesh.Path(path), Name: name, Text: mesh.AsError(err).Text})
}

// all verifies. The error is one of reading, and none of what was read.
func (v *verification) all(ctx context.Context) error {
	p, end, err := v.journal(ctx)
	if err != nil {
		return err
	}
	if end.Sequence != 0 {
		v.reply.JournalSeq = end.Sequence
	}
	if err := v.content(ctx, p); err != nil {
		return err
	}
	return v.local(ctx)
}

// journal reads the records that are in no commit, up to the last one, and returns
// them with the commit that they follow.
func (v *verification) journal(ctx context.Context) (p *past, end objstore.Place, err error) {
	w := v.w
	if w.files == nil {
		p, err = w.readPast(ctx)
		if passing(err) {
			return nil, end, err
		}
		if err != nil && !p.ref.IsZero() && p.commit == nil && len(p.records) == 0 {
			err = nil // of the commit: content tells of it
		}
		if err != nil {
			v.broken(mesh.BrokenJournal, "", "", err)
		}
		v.reply.Records = len(p.records)
		return p, w.fenced.Place(), nil
	}
	for range 5 {
		w.files.mu.Lock()
		p = &past{ref: w.files.commit}
		covers := w.files.covers
		end = w.files.place
		w.files.mu.Unlock()
		at := covers
		for r, failed := range objstore.Chain(ctx, objstore.AtLeader(w.streams.journal), w.journal.subject, covers, end.Sequence) {
			if err = failed; err != nil {
				break
			}
			at = r.Place()
			p.records = append(p.records, r)
		}
		if err == nil && at != end {
			err = fmt.Errorf("%w: it does not end with the record that was stored last", objstore.ErrGap)
		}
		w.files.mu.Lock()
		moved := w.files.covers != covers
		w.files.mu.Unlock()
		if err == nil || !moved { // else a checkpoint took records away
			break
		}
	}
	if passing(err) {
		return nil, end, err
	}
	if err != nil {
		v.broken(mesh.BrokenJournal, "", "", err)
	}
	v.reply.Records = len(p.records)
	return p, end, nil
}

// content reads the packs of the commit and of the records, and then looks at
// everything that these reach.
func (v *verification) content(ctx context.Context, p *past) error {
	store, err := v.w.content(ctx)
	if err != nil {
		return err
	}
	packs := map[objstore.ID]bool{}
	for _, r := range p.records {
		for i := range r.Ops {
			for _, id := range r.Ops[i].Packs {
				packs[id] = true
			}
		}
	}
	var commit *objstore.Commit
	if !p.ref.IsZero() {
		v.reply.Commit = p.ref.Commit.String()
		one, err := store.Check(ctx, []objstore.ID{p.ref.Pack}, &v.run.read)
		if err != nil {
			return err
		}
		if commit, err = one.Commit(ctx, p.ref); err == nil && !owns(&v.w.record, p.ref, commit.Workspace) {
			err = mesh.Errorf(mesh.CodeInternal, "it is of another workspace")
		}
		if passing(err) {
			return err
		}
		packs[p.ref.Pack] = true
		if err != nil {
			commit = nil
			v.broken(mesh.BrokenCommit, "", p.ref.Commit.String(), err)
		} else {
			for _, id := range commit.Packs {
				packs[id] = true
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(packs), func(a, b objstore.ID) int { return bytes.Compare(a[:], b[:]) })
	checked, err := store.Check(ctx, names, &v.run.read)
	if err != nil {
		return err
	}
	v.reply.Packs = len(names)
	for _, d := range checked.Broken {
		v.broken(mesh.BrokenPack, "", d.Pack.String(), d.Err)
	}
	if commit != nil {
		v.reply.Names, err = checked.Tree(ctx, commit.Root, func(d objstore.Damage) { v.broken(mesh.BrokenContent, d.Path, blobName(d), d.Err) })
		if err != nil {
			return err
		}
	}
	for _, r := range p.records {
		for i := range r.Ops {
			op := &r.Ops[i]
			if op.Kind != objstore.KindPut || len(op.Data) > 0 {
				continue
			}
			if d := checked.Missing(op.Entry.Content...); d != nil {
				v.broken(mesh.BrokenContent, string(op.Path), blobName(*d), d.Err)
			}
		}
	}
	return nil
}

func blobName(d objstore.Damage) string {
	if d.Blob.IsZero() {
		return ""
	}
	return d.Blob.String()
}

// local compares the tree of this node with what the journal says.
func (v *verification) local(ctx context.Context) (err error) {
	f := v.w.files
	if f == nil || v.w.record.Dir != "" {
		return nil
	}
	scan := &dirtree.Scan{Skip: f.isEphemeral}
	v.reply.Local, v.reply.Changed, err = f.dir.Verify(ctx, scan, f.ledger.Snapshot(), func(p string, err error) {
		var e *mesh.Error
		if !errors.As(err, &e) {
			v.w.log.Error("a file cannot be read", "path", p, "err", err)
			err = mesh.Errorf(mesh.CodeInternal, "it cannot be read on node %s; its log has the details", v.w.node.cfg.Name)
		}
		v.broken(mesh.BrokenLocal, p, "", err)
	})
	return err
}
