package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"slices"
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
	if c.Kind != sandbox.ChangeRemove && c.Kind != sandbox.ChangeNone {
		for _, p := range pathsOf(c) {
			if len(c.Missing) > 0 && mesh.Inside(c.Missing[0], p) {
				p = c.Missing[0]
			}
			if err := r.above(p); err != nil {
				return err
			}
		}
	}
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
		switch kept, err := r.know(c.Path, true); {
		case err != nil:
			return err
		case !kept: // what the journal may have at the two paths goes
			err := r.add(objstore.Op{Kind: objstore.KindRemove, Path: mesh.Path(c.Path)})
			return errors.Join(err, r.add(objstore.Op{Kind: objstore.KindRemove, Path: mesh.Path(c.To)}))
		}
		return r.add(objstore.Op{Kind: objstore.KindRename, Path: mesh.Path(c.Path), To: mesh.Path(c.To)})
	case sandbox.ChangeAttr:
		switch kept, err := r.know(c.Path, false); {
		case err != nil:
			return err
		case !kept:
			return r.add(objstore.Op{Kind: objstore.KindRefused, Path: mesh.Path(c.Path)})
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
		switch kept, err := r.know(c.LinkTo, false); {
		case err != nil:
			return err
		case !kept:
			return r.add(objstore.Op{Kind: objstore.KindRemove, Path: mesh.Path(c.Path)})
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
	_, err = r.items(stage, c.Temp, c.Path, true)
	return err
}

// items adds what stands at from in a directory, and with below all that is below it,
// as what is now at the path to. found says that there was anything.
func (r *recorder) items(dir *dirtree.Dir, from, to string, below bool) (found bool, err error) {
	for it, err := range dir.Below(r.ctx, from) {
		if err == nil {
			err = r.item(it, from, to)
		}
		if err != nil {
			return false, settled(err)
		}
		if found = true; !below {
			break
		}
	}
	return found, nil
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
// takes all that is below it along. What stands there may be nothing that is kept:
// then no op can refer to it.
func (r *recorder) know(p string, below bool) (kept bool, err error) {
	if p == "." || r.w.files.knows(p) {
		return true, nil
	}
	tree, done, err := r.made()
	if err != nil {
		return false, err
	}
	defer done()
	if found, err := r.items(tree, p, p, below); found || err != nil {
		return found, err
	}
	if st, err := tree.Stat(p); err != nil || st.Kept() { // a command has just removed it, or made it anew
		return false, errChanges(p)
	}
	return false, nil
}

// above makes sure that the journal has the directories that a path is in: a command
// may have made them. The lock of the path keeps them there, in the journal.
func (r *recorder) above(p string) error {
	dirs := []string{}
	for dir := path.Dir(p); dir != "." && p != "."; dir = path.Dir(dir) {
		if e, ok := r.w.files.ledger.Entry(dir); ok && e.Type == objstore.TypeDir {
			break
		}
		dirs = append(dirs, dir)
	}
	if len(dirs) == 0 {
		return nil
	}
	tree, done, err := r.made()
	if err != nil {
		return err
	}
	defer done()
	for _, dir := range slices.Backward(dirs) {
		found := false
		for it, err := range tree.Below(r.ctx, dir) {
			if err != nil {
				return settled(err)
			}
			if found = it.Entry.Type == objstore.TypeDir; found {
				err = r.item(it, dir, dir)
			}
			if err != nil {
				return err
			}
			break
		}
		if !found {
			return errChanges(p)
		}
	}
	return nil
}

// made opens the tree, for ops of what a command has made there.
func (r *recorder) made() (tree *dirtree.Dir, done func(), err error) {
	dir, _ := r.w.tree.Dirs()
	if tree, err = dirtree.Open(dir); err != nil {
		return nil, nil, err
	}
	verb := r.verb
	r.verb = mesh.VerbExec
	return tree, func() {
		r.verb = verb
		tree.Close()
	}, nil
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
	for it, err := range tree.Below(r.ctx, p) {
		if err == nil && it.Path == p {
			err = r.above(p)
		}
		if err == nil {
			err = r.item(it, p, p)
		}
		if err != nil {
			return settled(err)
		}
	}
	return nil
}
