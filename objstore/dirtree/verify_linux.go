package dirtree

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Verify reads every file that is described as it was when the ledger last knew it,
// and calls broken for each whose content is another than the ledger says: no scan
// finds those. A name that is described in another way is one that changed, which a
// scan finds, and is counted only.
func (d *Dir) Verify(ctx context.Context, s *Scan, tree Snapshot, broken func(p string, err error)) (checked, changed int, err error) {
	tree.known(".", tree.root, s.Skip, func(p string, n *node) bool {
		if err = ctx.Err(); err != nil {
			return false
		}
		st, statErr := d.stat(p)
		if statErr != nil || statOf(&st) != n.seen || n.provisional != 0 {
			changed++
			return true
		}
		checked++
		if n.entry.Type != objstore.TypeFile {
			return true
		}
		r, failed := d.content(p, st, n.entry.Data())
		if failed == nil {
			failed = errors.Join(equals(r, n.entry.Content), r.Close())
		}
		switch {
		case failed == nil:
		case mesh.CodeOf(failed) == mesh.CodeConflict, errors.Is(failed, fs.ErrNotExist):
			checked, changed = checked-1, changed+1 // it changes now
		default:
			broken(p, failed)
		}
		return true
	})
	return checked, changed, err
}

// known calls do for every name, without what is below directories that are skipped,
// until do says no.
func (s *Snapshot) known(p string, n *node, skip func(string) bool, do func(p string, n *node) bool) bool {
	if n = s.resolve(n); !do(p, n) {
		return false
	}
	for name, c := range n.children {
		child := path.Join(p, name)
		if skip != nil && c.children != nil && skip(child) {
			continue
		}
		if !s.known(child, c, skip, do) {
			return false
		}
	}
	return true
}

// equals compares the data of a file with its chunks.
func equals(r io.Reader, chunks []objstore.Chunk) error {
	for _, c := range chunks {
		b := make([]byte, c.Size)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if objstore.IDOf(b) != c.ID {
			return mesh.Errorf(mesh.CodeInternal, "its content is not what the journal says")
		}
	}
	_, err := io.Copy(io.Discard, r) // at its end it is looked at whether it is the same file
	return err
}
