package objstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// Content stores everything that r yields: up to MaxWhole bytes as one blob, more
// as chunks. It holds up to 8 MiB, and for each worker a chunk.
func (w *Writer) Content(ctx context.Context, r io.Reader) ([]Chunk, error) {
	head := w.s.heads.get(MaxWhole + 1)[:MaxWhole+1]
	defer w.s.heads.put(head)
	n, err := io.ReadFull(r, head)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err == nil:
		return w.chunks(ctx, io.MultiReader(bytes.NewReader(head), r))
	case !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	}
	c, err := w.Blob(ctx, head[:n])
	return []Chunk{c}, err
}

// chunks stores a long content with all workers.
func (w *Writer) chunks(ctx context.Context, r io.Reader) ([]Chunk, error) {
	if err := w.s.large.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer w.s.large.Release(1)
	var all []*Chunk
	var readErr error
	cutter := chunker{r: r, buf: w.s.windows.get(maxChunk)[:maxChunk]}
	defer w.s.windows.put(cutter.buf)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.s.workers)
	for gctx.Err() == nil {
		data, err := cutter.next()
		if err != nil {
			readErr = err
			break
		}
		c := &Chunk{}
		all = append(all, c)
		g.Go(func() (err error) {
			*c, err = w.Blob(gctx, data)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if !errors.Is(readErr, io.EOF) {
		return nil, cmp.Or(readErr, ctx.Err())
	}
	chunks := make([]Chunk, len(all))
	for i, c := range all {
		chunks[i] = *c
	}
	return chunks, nil
}

// Keep makes the tree below an entry a part of what this writer stores without
// reading its files: all of it must be in the packs that the writer was opened
// with (else CodeNotFound).
func (w *Writer) Keep(ctx context.Context, e Entry) error {
	for it, err := range w.base.Walk(ctx, e) {
		if err != nil {
			return err
		}
		for _, c := range it.Entry.Content {
			known, err := w.known(c.ID)
			if err == nil && !known {
				err = mesh.Errorf(mesh.CodeNotFound, "blob %s of %.200q is in none of the packs that are kept", c.ID, it.Path)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Tree stores a tree from its names, which come in the order of Reader.Walk, the
// root first, and returns the root's entry with its content. Open of a file is
// called once, by a worker, and must yield DataSize bytes. A file or directory
// without Open and with Content is kept as it is (see Keep); nothing then comes
// from below such a directory. It holds the entries of the directories that are
// not complete.
func (w *Writer) Tree(ctx context.Context, items iter.Seq2[Item, error]) (Entry, error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.s.workers)
	t := &treeWriter{w: w, ctx: gctx, group: g}
	err := t.walk(items)
	if werr := g.Wait(); werr != nil { // the reason for err, if both failed
		err = werr
	}
	if err == nil {
		err = w.putLate(ctx)
	}
	if err == nil && t.root == nil {
		err = mesh.Errorf(mesh.CodeInvalid, "a tree without a root was to be stored")
	}
	if err != nil {
		return Entry{}, fmt.Errorf("store a tree: %w", err)
	}
	return t.root.entry, nil
}

type treeWriter struct {
	w     *Writer
	ctx   context.Context
	group *errgroup.Group
	root  *treeNode
}

// treeNode is an entry on its way. A directory is stored by whoever completes
// the last of what it waits for: its entries, and the walk itself.
type treeNode struct {
	path     string
	entry    Entry
	parent   *treeNode
	children []*treeNode
	waits    atomic.Int64
}

func (t *treeWriter) walk(items iter.Seq2[Item, error]) error {
	var dir *treeNode // the directory that the walk is in
	leave := func() {
		left := dir
		dir = dir.parent
		t.group.Go(func() error { return t.done(left) })
	}
	for it, err := range items {
		if err == nil {
			err = t.ctx.Err()
		}
		if err != nil {
			return err
		}
		for dir != nil && it.Path != path.Join(dir.path, it.Entry.Name) {
			leave()
		}
		n := &treeNode{path: it.Path, entry: it.Entry, parent: dir}
		n.waits.Store(1)
		if err := t.enter(n); err != nil {
			return err
		}
		switch {
		case n.entry.Type == TypeDir && n.entry.Content == nil:
			dir = n
			continue
		case n.entry.Type != TypeDir && n.entry.Type != TypeFile:
			n.parent.waits.Add(-1) // never the last: the walk is in that directory
			continue
		}
		t.group.Go(func() error {
			if err := t.store(n, it.Open); err != nil {
				return fmt.Errorf("%.200q: %w", n.path, err)
			}
			return t.done(n)
		})
	}
	for dir != nil {
		leave()
	}
	return nil
}

// enter puts a node into its directory. Names that are out of order would make
// a tree that cannot be read.
func (t *treeWriter) enter(n *treeNode) error {
	if n.parent == nil {
		if t.root != nil || n.path != "." || n.entry.Name != "" || n.entry.Type != TypeDir {
			return mesh.Errorf(mesh.CodeInvalid, "%.200q came out of order: a tree has one root, a directory, and what is in a directory follows it", n.path)
		}
		t.root = n
		return nil
	}
	if !validName(n.entry.Name) || len(n.entry.Name) > mesh.MaxNameBytes {
		return mesh.Errorf(mesh.CodeInvalid, "%.200q is no name", n.entry.Name)
	}
	siblings := n.parent.children
	if len(siblings) > 0 && siblings[len(siblings)-1].entry.Name >= n.entry.Name {
		return mesh.Errorf(mesh.CodeInvalid, "%.200q came out of order: names are sorted by their bytes", n.path)
	}
	n.parent.waits.Add(1)
	n.parent.children = append(siblings, n)
	return nil
}

// store stores the content of anything but a directory that was walked.
func (t *treeWriter) store(n *treeNode, open func() (io.ReadCloser, error)) error {
	e := &n.entry
	if open == nil {
		return t.w.Keep(t.ctx, *e)
	}
	r, err := open()
	if err != nil {
		return err
	}
	e.Content, err = t.w.Content(t.ctx, io.LimitReader(r, e.DataSize()+1))
	err = errors.Join(err, r.Close())
	var sum int64
	for _, c := range e.Content {
		sum += c.Size
	}
	if err == nil && sum != e.DataSize() {
		err = mesh.Errorf(mesh.CodeConflict, "it changed while it was read: it has another size than the %d bytes it had", e.DataSize())
	}
	return err
}

// done is called once for everything that n waits for; the last one completes n,
// which its directory waits for.
func (t *treeWriter) done(n *treeNode) error {
	for ; n != nil && n.waits.Add(-1) == 0; n = n.parent {
		if n.children == nil && n.entry.Content != nil || n.entry.Type != TypeDir {
			continue
		}
		tree := make(Tree, len(n.children))
		for i, c := range n.children {
			tree[i] = c.entry
		}
		n.children = nil
		b := tree.Encode()
		if _, err := DecodeTree(b); err != nil {
			return fmt.Errorf("%.200q: %w", n.path, err)
		}
		var err error
		if n.entry.Content, err = t.w.directory(t.ctx, b); err != nil {
			return fmt.Errorf("%.200q: %w", n.path, err)
		}
	}
	return nil
}
