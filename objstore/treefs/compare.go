package treefs

import (
	"context"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/wsmesh/wsmesh/objstore"
)

// Difference is a name that two trees do not have alike. Of a directory Old and New say
// nothing of what is in it.
type Difference struct {
	Path     string
	Old, New *objstore.Entry // nil: there is none
}

// Compare yields every name that differs, in any attribute, below a path that leads
// through no link: a directory before what is in it, names in the order of their bytes,
// and all that is below a directory which only one of the trees has. after is where to
// go on: the Path of a difference that came last, or "". Directories of one name in
// the store are not looked at, so it costs as much as differs; a further name of a file
// that differs is missed there. It ends with the first error.
func Compare(ctx context.Context, before, now *View, below, after string) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		c := comparer{ctx: ctx, before: before, now: now, yield: yield}
		a, err := before.Entry(ctx, below)
		if err != nil {
			yield(Difference{Path: below}, err)
			return
		}
		b, err := now.Entry(ctx, below)
		if err != nil {
			yield(Difference{Path: below}, err)
			return
		}
		var rest []string
		if after != "" {
			rest = slices.Collect(names(after))[len(slices.Collect(names(below))):]
		}
		c.name(below, a, b, rest, after != "")
	}
}

type comparer struct {
	ctx         context.Context
	before, now *View
	yield       func(Difference, error) bool
}

// name compares one name and what is below it; false ends everything. With past it was
// yielded already, and below it all up to the path rest.
func (c *comparer) name(p string, a, b *objstore.Entry, rest []string, past bool) bool {
	if !past {
		same, err := c.alike(a, b)
		if (!same || err != nil) && !c.yield(Difference{p, a, b}, err) || err != nil {
			return false
		}
	}
	a, b = directory(a), directory(b)
	if a == nil && b == nil || a != nil && b != nil && slices.Equal(a.Content, b.Content) {
		return true
	}
	old, err := c.tree(c.before, a)
	var now objstore.Tree
	if err == nil {
		now, err = c.tree(c.now, b)
	}
	if err == nil {
		err = c.ctx.Err()
	}
	if err != nil {
		c.yield(Difference{Path: p}, err)
		return false
	}
	for len(old) > 0 || len(now) > 0 {
		var x, y *objstore.Entry
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(now) == 0:
			order = -1
		default:
			order = strings.Compare(old[0].Name, now[0].Name)
		}
		if order <= 0 {
			x, old = &old[0], old[1:]
		}
		if order >= 0 {
			y, now = &now[0], now[1:]
		}
		name := nameOf(x, y)
		if len(rest) > 0 && name < rest[0] {
			continue
		}
		at := len(rest) > 0 && name == rest[0]
		var inside []string
		if at {
			inside = rest[1:]
		}
		if !c.name(path.Join(p, name), x, y, inside, at) {
			return false
		}
	}
	return true
}

func nameOf(a, b *objstore.Entry) string {
	if a != nil {
		return a.Name
	}
	return b.Name
}

func directory(e *objstore.Entry) *objstore.Entry {
	if e != nil && e.Type == objstore.TypeDir {
		return e
	}
	return nil
}

func (c *comparer) tree(v *View, dir *objstore.Entry) (objstore.Tree, error) {
	if dir == nil {
		return nil, nil
	}
	return v.tree(c.ctx, dir)
}

// alike compares all that entries say, and of further names what their files do.
func (c *comparer) alike(a, b *objstore.Entry) (bool, error) {
	if a == nil || b == nil || a.Type != objstore.TypeLink || b.Type != objstore.TypeLink || a.Target != b.Target {
		return alike(a, b), nil
	}
	a, err := c.before.File(c.ctx, a)
	if err != nil {
		return false, err
	}
	b, err = c.now.File(c.ctx, b)
	return alike(a, b), err
}

// alike compares all that entries say; of directories but what is in them.
func alike(a, b *objstore.Entry) bool {
	return a == nil && b == nil || a != nil && b != nil && SameContent(a, b) && SameMode(a, b) && a.ModTime.Equal(b.ModTime)
}

// SameContent compares types, content and targets; those of directories are alike.
func SameContent(a, b *objstore.Entry) bool {
	return a.Type == b.Type && a.Size == b.Size && a.Target == b.Target && slices.Equal(a.Holes, b.Holes) &&
		(a.Type == objstore.TypeDir || slices.Equal(a.Content, b.Content))
}

// SameMode compares modes and extended attributes.
func SameMode(a, b *objstore.Entry) bool {
	return a.Mode == b.Mode && slices.Equal(a.Xattrs, b.Xattrs)
}
