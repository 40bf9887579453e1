package dirtree

import (
	"context"
	"errors"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/objstore"
)

// Update makes the tree in the directory, which is what from says and which nobody else
// may change meanwhile, what to says, as RestoreItems would in an empty one: what is the
// same in both stays. An error leaves the tree in between, and of no use: it is to be
// made anew, as some trees have to be, such as one where something that no ledger keeps
// stands in the way. Nothing is synced.
func (d *Dir) Update(ctx context.Context, from, to Snapshot, chunk func(context.Context, objstore.Chunk) ([]byte, error)) error {
	u, err := updateOf(from, to)
	if err != nil {
		return err
	}
	for _, it := range slices.Backward(u.gone) {
		if err := d.removeName(it); err != nil {
			return err
		}
	}
	t := &restore{d: d, chunk: chunk}
	err = t.make(ctx, func(yield func(objstore.Item, error) bool) {
		for _, it := range u.made {
			if !yield(it, nil) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	for _, it := range u.attributes {
		if err := t.attributes(it.Path, &it.Entry); err != nil {
			return err
		}
	}
	t.dirs = append(t.dirs, u.touched...)
	slices.SortFunc(t.dirs, func(a, b objstore.Item) int { return len(a.Path) - len(b.Path) })
	return t.finish()
}

// removeName removes a name, of a directory once it is empty.
func (d *Dir) removeName(it objstore.Item) error {
	parent, err := d.open(path.Dir(it.Path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	flags := 0
	if it.Entry.Type == objstore.TypeDir {
		flags = unix.AT_REMOVEDIR
	}
	return translate(it.Path, unix.Unlinkat(int(parent.Fd()), path.Base(it.Path), flags))
}

// update is what makes one tree of another.
type update struct {
	gone       []objstore.Item // in the order of the old tree
	made       []objstore.Item // in the order of the new one
	attributes []objstore.Item // files with the same content
	touched    []objstore.Item // directories that stay
}

// errAnew says that one tree is not made of another.
var errAnew = errors.New("a directory has lost attributes")

func updateOf(from, to Snapshot) (*update, error) {
	old, dirs := map[string]objstore.Entry{}, map[string]objstore.Entry{}
	for it := range from.Items() {
		old[it.Path] = it.Entry
	}
	u := &update{}
	made, touched, stays := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for it := range to.Items() {
		e, o := it.Entry, old[it.Path]
		_, had := old[it.Path]
		switch keep := had && sameName(&o, &e) && !made[e.Target]; {
		case !keep:
			made[it.Path] = true
			u.made = append(u.made, it)
			touched[path.Dir(it.Path)] = true
			continue
		case e.Type == objstore.TypeDir:
			dirs[it.Path] = e
			if !slices.Equal(o.Xattrs, e.Xattrs) {
				return nil, errAnew
			}
			touched[it.Path] = touched[it.Path] || !sameAttributes(&o, &e)
		case e.Type == objstore.TypeFile && !sameAttributes(&o, &e):
			u.attributes = append(u.attributes, it)
		}
		stays[it.Path] = true
	}
	for it := range from.Items() {
		if stays[it.Path] {
			continue
		}
		u.gone = append(u.gone, it)
		touched[path.Dir(it.Path)] = true
	}
	for p := range touched {
		if e, stays := dirs[p]; stays && touched[p] {
			u.touched = append(u.touched, objstore.Item{Path: p, Entry: e})
		}
	}
	return u, nil
}

// sameName reports whether what stands there is made of the old one by its mode and its
// time, where those of a directory or a file are not the same.
func sameName(o, e *objstore.Entry) bool {
	switch {
	case o.Type != e.Type:
		return false
	case e.Type == objstore.TypeDir:
		return true
	case e.Type == objstore.TypeFile:
		return sameButTimes(o, e)
	}
	return sameButTimes(o, e) && sameAttributes(o, e)
}

func sameAttributes(o, e *objstore.Entry) bool { return o.Mode == e.Mode && o.ModTime.Equal(e.ModTime) }
