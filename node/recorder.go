package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
	"github.com/wsmesh/wsmesh/sandbox"
)

// recorder turns what happens to files into ops, and these into as many records as
// they need. Content that is too large for a record is in packs before it. One
// goroutine at a time.
type recorder struct {
	w       *workspace
	ctx     context.Context
	verb    string           // why
	answer  *objstore.Answer // goes into the last record
	ops     []objstore.Op
	size    int
	writer  *objstore.Writer // of the content in packs; nil for none yet
	flushed int              // records that are stored
}

// bulkRecord is how large the records of a change of many files become.
const bulkRecord = maxRecord / 2

// add takes an op; it may store those before it.
func (r *recorder) add(op objstore.Op) error {
	op.Verb = r.verb
	n := op.Size()
	if len(r.ops) > 0 && r.size+n > bulkRecord {
		answer := r.answer
		r.answer = nil
		err := r.flush()
		r.answer = answer
		if err != nil {
			return err
		}
	}
	r.ops = append(r.ops, op)
	r.size += n
	return nil
}

// flush stores what was added.
func (r *recorder) flush() error {
	if len(r.ops) == 0 && r.answer == nil {
		return nil
	}
	if r.writer != nil {
		packs, err := r.writer.Flush(r.ctx)
		if err != nil {
			return err
		}
		r.writer = nil
		crashPoint("packs stored")
		for i := range r.ops {
			if e := r.ops[i].Entry; e != nil && len(e.Content) > 0 && r.ops[i].Data == nil {
				r.ops[i].Packs = packs
			}
		}
	}
	if _, err := r.w.journal.append(r.ctx, r.ops, r.answer); err != nil {
		return err
	}
	r.ops, r.size = nil, 0
	r.flushed++
	return nil
}

// change adds what a change does.
func (r *recorder) change(c *sandbox.Change) error {
	for _, dir := range c.Missing {
		e := objstore.Entry{Type: objstore.TypeDir, Mode: 0o755, ModTime: time.Now().UTC()}
		if err := r.add(objstore.Op{Kind: objstore.KindPut, Path: mesh.Path(dir), Entry: &e}); err != nil {
			return err
		}
	}
	switch c.Kind {
	case sandbox.ChangePut:
		return r.put(c)
	case sandbox.ChangeRemove:
		return r.add(objstore.Op{Kind: objstore.KindRemove, Path: mesh.Path(c.Path)})
	case sandbox.ChangeRename:
		if err := r.know(c.Path, true); err != nil {
			return err
		}
		return r.add(objstore.Op{Kind: objstore.KindRename, Path: mesh.Path(c.Path), To: mesh.Path(c.To)})
	case sandbox.ChangeAttr:
		if err := r.know(c.Path, false); err != nil {
			return err
		}
		op := objstore.Op{Kind: objstore.KindAttr, Path: mesh.Path(c.Path), Mode: c.Mode}
		if c.ModTime != nil {
			at := c.ModTime.UTC()
			op.ModTime = &at
		}
		return r.add(op)
	}
	return r.add(objstore.Op{Kind: objstore.KindRefused, Path: mesh.Path(c.Path)})
}

func (r *recorder) put(c *sandbox.Change) error {
	e := objstore.Entry{Mode: c.Info.Mode, ModTime: c.Info.ModTime.UTC(), Size: c.Info.Size}
	switch {
	case c.LinkTo != "":
		if err := r.know(c.LinkTo, false); err != nil {
			return err
		}
		return r.add(objstore.Op{Kind: objstore.KindPut, Path: mesh.Path(c.Path), Entry: &objstore.Entry{Type: objstore.TypeLink, Target: c.LinkTo}})
	case c.Temp == "":
		e.Type, e.Size = objstore.TypeDir, 0
		return r.add(objstore.Op{Kind: objstore.KindPut, Path: mesh.Path(c.Path), Entry: &e})
	case c.Data != nil:
		return r.file(c.Path, e, bytes.NewReader(c.Data))
	}
	_, dir := r.w.tree.Dirs()
	stage, err := dirtree.Open(dir)
	if err != nil {
		return err
	}
	defer stage.Close()
	return r.items(stage, c.Temp, c.Path)
}

// items adds what stands at from in a directory, and all below it, as what is now
// at the path to.
func (r *recorder) items(dir *dirtree.Dir, from, to string) error {
	for it, err := range dir.Below(r.ctx, from) {
		if err == nil {
			err = r.item(it, from, to)
		}
		if err != nil {
			return settled(err)
		}
	}
	return nil
}

// item adds one name of what items adds.
func (r *recorder) item(it objstore.Item, from, to string) error {
	e, p := it.Entry, it.Path
	e.Name = ""
	if from != to {
		p = path.Join(to, strings.TrimPrefix(p, from))
		e.Target = moved(&e, from, to)
	}
	if e.Type != objstore.TypeFile {
		return r.add(objstore.Op{Kind: objstore.KindPut, Path: mesh.Path(p), Entry: &e})
	}
	content, err := it.Open()
	if err != nil {
		return err
	}
	return errors.Join(r.file(p, e, content), content.Close())
}

// moved is the target of an entry that is read at from and belongs to.
func moved(e *objstore.Entry, from, to string) string {
	if e.Type != objstore.TypeLink {
		return e.Target
	}
	return path.Join(to, strings.TrimPrefix(e.Target, from))
}

// file adds a file whose data, without holes, comes from content.
func (r *recorder) file(p string, e objstore.Entry, content io.Reader) error {
	size := e.DataSize()
	if size <= objstore.MaxInline {
		data := make([]byte, size)
		if _, err := io.ReadFull(content, data); err != nil {
			return errChanges(p)
		}
		if n, err := io.Copy(io.Discard, content); n > 0 || err != nil {
			return errChanges(p)
		}
		return r.add(objstore.PutFile(p, e, data))
	}
	if r.writer == nil {
		store, err := r.w.content(r.ctx)
		if err != nil {
			return err
		}
		r.writer = store.Writer(nil)
	}
	var err error
	e.Type = objstore.TypeFile
	if e.Content, err = r.writer.Content(r.ctx, content); err != nil {
		return err
	}
	var sum int64
	for _, c := range e.Content {
		sum += c.Size
	}
	if sum != size {
		return errChanges(p)
	}
	return r.add(objstore.Op{Kind: objstore.KindPut, Path: mesh.Path(p), Entry: &e})
}

func errChanges(p string) error {
	return mesh.Errorf(mesh.CodeBusy, "%.200q changes while it is read; try again", p)
}

// know makes sure that the journal knows a path before an op refers to it: what a
// command has made since its last capture it does not know. below says that the op
// takes all that is below it along.
func (r *recorder) know(p string, below bool) error {
	if p == "." || r.w.files.knows(p) {
		return nil
	}
	verb := r.verb
	r.verb = mesh.VerbExec
	defer func() { r.verb = verb }()
	dir, _ := r.w.tree.Dirs()
	tree, err := dirtree.Open(dir)
	if err != nil {
		return err
	}
	defer tree.Close()
	found := false
	for it, err := range tree.Below(r.ctx, p) {
		if err == nil {
			err = r.item(it, p, p)
		}
		if err != nil || !below {
			return settled(err)
		}
		found = true
	}
	if !found {
		if _, err := tree.Stat(p); err != nil { // a command has just removed it
			return errChanges(p)
		}
	}
	return nil
}

// settled is an error of reading a tree as a change may have it: what a command
// changes meanwhile is no conflict of the caller's.
func settled(err error) error {
	if mesh.CodeOf(err) == mesh.CodeConflict {
		return mesh.Errorf(mesh.CodeBusy, "%s", mesh.AsError(err).Text)
	}
	return err
}

// state adds what is at a path now, as if the journal knew nothing of it.
func (r *recorder) state(p string) error {
	if p != "." {
		if err := r.add(objstore.Op{Kind: objstore.KindRemove, Path: mesh.Path(p)}); err != nil {
			return err
		}
	}
	dir, _ := r.w.tree.Dirs()
	tree, err := dirtree.Open(dir)
	if err != nil {
		return err
	}
	defer tree.Close()
	return r.items(tree, p, p)
}
