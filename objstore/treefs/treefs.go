// Package treefs reads a stored tree by paths, as the owner of a workspace reads its
// files, and compares two of them. Nothing is restored for that: what is asked for is
// read from packs, and directories are kept in a Cache.
//
// A View's methods have a scope and clean paths relative to the tree's root, as
// mesh.ParseScope and mesh.ResolvePath give them. Symbolic links are followed inside the
// scope, at most 40, a target that is absolute must begin with /workspace and then the
// scope's own path, and what leads out is CodeDenied whether it exists or not. Further
// names of a file (hard links) are that file.
//
// All types are safe for concurrent use.
package treefs

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Bounds of a Cache: how many directories it keeps, how many names the largest of them
// has, and how many long chunks of files. That is some 64 MiB each.
const (
	cachedTrees  = 1024
	cachedNames  = 2000
	cachedChunks = 8
)

// maxLinks is how many symbolic links one path may lead through, as Linux has it.
const maxLinks = 40

// Cache keeps what Views have read. It owns no goroutines.
type Cache struct {
	trees  *lru.Cache[objstore.ID, objstore.Tree]
	chunks *lru.Cache[objstore.ID, []byte]
	reads  singleflight.Group
}

// NewCache returns an empty cache.
func NewCache() (*Cache, error) {
	trees, err := lru.New[objstore.ID, objstore.Tree](cachedTrees)
	if err != nil {
		return nil, err
	}
	chunks, err := lru.New[objstore.ID, []byte](cachedChunks)
	return &Cache{trees: trees, chunks: chunks}, err
}

// View is one stored tree.
type View struct {
	cache *Cache
	r     *objstore.Reader
	root  objstore.Entry
}

// New returns a view of the tree of root, of which r has everything.
func New(cache *Cache, r *objstore.Reader, root objstore.Entry) *View {
	return &View{cache, r, root}
}

// tree returns the entries of a directory, which are the cache's.
func (v *View) tree(ctx context.Context, dir *objstore.Entry) (objstore.Tree, error) {
	if len(dir.Content) != 1 {
		return v.r.Tree(ctx, dir)
	}
	id := dir.Content[0].ID
	if t, ok := v.cache.trees.Get(id); ok {
		return t, nil
	}
	t, err := v.r.Tree(ctx, dir)
	if err == nil && len(t) <= cachedNames {
		v.cache.trees.Add(id, t)
	}
	return t, err
}

// child returns an entry of a directory; nil if there is none.
func (v *View) child(ctx context.Context, dir *objstore.Entry, name string) (*objstore.Entry, error) {
	t, err := v.tree(ctx, dir)
	if err != nil {
		return nil, err
	}
	i, ok := slices.BinarySearchFunc(t, name, func(e objstore.Entry, name string) int { return strings.Compare(e.Name, name) })
	if !ok {
		return nil, nil
	}
	return &t[i], nil
}

// Entry returns what stands at a path that leads through no link; nil if nothing does.
func (v *View) Entry(ctx context.Context, p string) (*objstore.Entry, error) {
	at := &v.root
	for name := range names(p) {
		if at.Type != objstore.TypeDir {
			return nil, nil
		}
		var err error
		if at, err = v.child(ctx, at, name); at == nil || err != nil {
			return nil, err
		}
	}
	return at, nil
}

// names yields the names of a path; none for ".".
func names(p string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(p, "/") {
			if name != "" && name != "." && !yield(name) {
				return
			}
		}
	}
}

// File returns the file that an entry is another name of, or the entry itself.
func (v *View) File(ctx context.Context, e *objstore.Entry) (*objstore.Entry, error) {
	if e == nil || e.Type != objstore.TypeLink {
		return e, nil
	}
	f, err := v.Entry(ctx, e.Target)
	if err == nil && (f == nil || f.Type != objstore.TypeFile) {
		err = mesh.Errorf(mesh.CodeInternal, "it is another name of %.200q, which is no file", e.Target)
	}
	return f, err
}

// Names returns of each file with several names all of them, sorted as a walk meets them,
// the first one being where the file stands. It reads every directory.
func (v *View) Names(ctx context.Context) (map[string][]string, error) {
	all := map[string][]string{}
	for it, err := range v.r.Walk(ctx, v.root) {
		if err != nil {
			return nil, err
		}
		if e := &it.Entry; e.Type == objstore.TypeLink {
			if all[e.Target] == nil {
				all[e.Target] = []string{e.Target}
			}
			all[e.Target] = append(all[e.Target], it.Path)
		}
	}
	return all, nil
}

// Chunk returns a chunk of a file.
func (v *View) Chunk(ctx context.Context, c objstore.Chunk) ([]byte, error) { return v.r.Chunk(ctx, c) }

// find returns what a path leads to from a scope.
func (v *View) find(ctx context.Context, scope, p string, follow bool) (*objstore.Entry, error) {
	if !mesh.Inside(scope, p) {
		return nil, mesh.Errorf(mesh.CodeDenied, "the path leaves the scope")
	}
	w := walker{v: v, scope: slices.Collect(names(scope)), follow: follow}
	root := &v.root
	for _, name := range w.scope {
		e, err := v.child(ctx, root, name)
		switch {
		case err != nil:
			return nil, err
		case e == nil:
			return nil, errMissing
		case e.Type == objstore.TypeSymlink:
			return nil, mesh.Errorf(mesh.CodeDenied, "the scope passes through a symbolic link")
		case e.Type != objstore.TypeDir:
			return nil, errNoDir
		}
		root = e
	}
	w.dirs, w.todo = []*objstore.Entry{root}, slices.Collect(names(string(mesh.Below(scope, mesh.Path(p)))))
	e, err := w.run(ctx)
	if err != nil {
		return nil, err
	}
	return v.File(ctx, e)
}

var (
	errMissing = mesh.Errorf(mesh.CodeNotFound, "no such file or directory")
	errNoDir   = mesh.Errorf(mesh.CodeInvalid, "not a directory")
	errOutside = mesh.Errorf(mesh.CodeDenied, "a symbolic link on the way leads out of the scope")
)

// walker resolves a path name by name.
type walker struct {
	v      *View
	scope  []string
	follow bool
	dirs   []*objstore.Entry // from the scope's root to where it is
	todo   []string
	links  int
}

func (w *walker) run(ctx context.Context) (*objstore.Entry, error) {
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		if name == ".." {
			if len(w.dirs) == 1 {
				return nil, errOutside
			}
			w.dirs = w.dirs[:len(w.dirs)-1]
			continue
		}
		e, err := w.v.child(ctx, w.dirs[len(w.dirs)-1], name)
		last := len(w.todo) == 0
		switch {
		case err != nil:
			return nil, err
		case e == nil:
			return nil, errMissing
		case e.Type == objstore.TypeSymlink && (!last || w.follow):
			if err := w.expand(e.Target); err != nil {
				return nil, err
			}
		case e.Type == objstore.TypeDir:
			w.dirs = append(w.dirs, e)
		case last:
			return e, nil
		default:
			return nil, errNoDir
		}
	}
	return w.dirs[len(w.dirs)-1], nil
}

// expand puts the target of a link in place of its name.
func (w *walker) expand(target string) error {
	if w.links++; w.links > maxLinks {
		return mesh.Errorf(mesh.CodeInvalid, "too many levels of symbolic links")
	}
	to := slices.Collect(names(target))
	if strings.HasPrefix(target, "/") {
		prefix := append(slices.Collect(names(mesh.WorkspaceRoot)), w.scope...)
		if len(to) < len(prefix) || !slices.Equal(to[:len(prefix)], prefix) {
			return errOutside
		}
		to, w.dirs = to[len(prefix):], w.dirs[:1]
	}
	w.todo = append(to, w.todo...)
	return nil
}

// Stat describes what stands at a path; with follow, what a symbolic link there leads
// to.
func (v *View) Stat(ctx context.Context, scope, p string, follow bool) (mesh.FileInfo, error) {
	e, err := v.find(ctx, scope, p, follow)
	if err != nil {
		return mesh.FileInfo{}, err
	}
	return describe(e, mesh.Below(scope, mesh.Path(p))), nil
}

// List returns a page of a directory: entries with names greater than after, at most
// limit.
func (v *View) List(ctx context.Context, scope, p, after string, limit int) (page mesh.ListReply, err error) {
	dir, err := v.find(ctx, scope, p, true)
	if err != nil {
		return page, err
	}
	if dir.Type != objstore.TypeDir {
		return page, errNoDir
	}
	t, err := v.tree(ctx, dir)
	if err != nil {
		return page, err
	}
	i, ok := slices.BinarySearchFunc(t, after, func(e objstore.Entry, name string) int { return strings.Compare(e.Name, name) })
	if ok {
		i++
	}
	end := min(len(t), i+limit)
	page = mesh.ListReply{Entries: make([]mesh.FileInfo, 0, end-i), More: end < len(t)}
	for ; i < end; i++ {
		f, err := v.File(ctx, &t[i])
		if err != nil {
			return page, fmt.Errorf("%.200q: %w", path.Join(p, t[i].Name), err)
		}
		page.Entries = append(page.Entries, describe(f, mesh.Path(t[i].Name)))
	}
	return page, nil
}

// Readlink returns the text of a symbolic link.
func (v *View) Readlink(ctx context.Context, scope, p string) (string, error) {
	e, err := v.find(ctx, scope, p, false)
	if err == nil && e.Type != objstore.TypeSymlink {
		err = mesh.Errorf(mesh.CodeInvalid, "it is a %s, not a symbolic link", e.Type)
	}
	if err != nil {
		return "", err
	}
	return e.Target, nil
}

// ReadAt reads at most most bytes of a file from offset on; fewer only at its end. With
// a revision the file must have it, else CodeConflict.
func (v *View) ReadAt(ctx context.Context, scope, p string, offset int64, most int, revision string) ([]byte, mesh.FileInfo, error) {
	if offset < 0 {
		return nil, mesh.FileInfo{}, mesh.Errorf(mesh.CodeInvalid, "offset %d is negative", offset)
	}
	e, err := v.find(ctx, scope, p, true)
	if err != nil {
		return nil, mesh.FileInfo{}, err
	}
	info := describe(e, mesh.Below(scope, mesh.Path(p)))
	switch {
	case e.Type == objstore.TypeDir:
		return nil, info, mesh.Errorf(mesh.CodeInvalid, "it is a directory, not a regular file")
	case e.Type != objstore.TypeFile:
		return nil, info, mesh.Errorf(mesh.CodeInvalid, "it is a %s, not a regular file", e.Type)
	case revision != "" && revision != info.Revision:
		return nil, info, mesh.Errorf(mesh.CodeConflict, "the file is another one than its first range was read of; start over")
	}
	b := make([]byte, max(0, min(int64(most), e.Size-offset)))
	return b, info, v.fill(ctx, e, b, offset)
}

// fill reads a range of a file, which has as many bytes; holes stay zeros.
func (v *View) fill(ctx context.Context, e *objstore.Entry, b []byte, offset int64) error {
	chunks, at := e.Content, int64(0) // where in the data the first chunk begins
	from := int64(0)                  // where in the data the extent begins
	for _, x := range e.Data() {
		lo, hi := max(offset, x.Offset), min(offset+int64(len(b)), x.Offset+x.Length)
		for lo < hi {
			data := from + lo - x.Offset
			for len(chunks) > 0 && at+chunks[0].Size <= data {
				at += chunks[0].Size
				chunks = chunks[1:]
			}
			if len(chunks) == 0 {
				return mesh.Errorf(mesh.CodeInternal, "its content is shorter than its size")
			}
			c, err := v.chunk(ctx, chunks[0])
			if err != nil {
				return err
			}
			lo += int64(copy(b[lo-offset:hi-offset], c[data-at:]))
		}
		from += x.Length
	}
	return nil
}

// chunk returns a chunk. Of a long one several ranges are asked for, at once or one after
// the other: it is read once for them.
func (v *View) chunk(ctx context.Context, c objstore.Chunk) ([]byte, error) {
	if c.Size <= mesh.MaxMessage {
		return v.r.Chunk(ctx, c)
	}
	if b, ok := v.cache.chunks.Get(c.ID); ok {
		return b, nil
	}
	b, err, _ := v.cache.reads.Do(c.ID.String(), func() (any, error) {
		b, err := v.r.Chunk(context.WithoutCancel(ctx), c)
		if err == nil {
			v.cache.chunks.Add(c.ID, b)
		}
		return b, err
	})
	if err != nil {
		return nil, err
	}
	return b.([]byte), ctx.Err()
}

// Content returns the content of a file of at most most bytes, holes included; nil where
// it is longer.
func (v *View) Content(ctx context.Context, e *objstore.Entry, most int64) ([]byte, error) {
	if e.Size > most {
		return nil, nil
	}
	b := make([]byte, e.Size)
	return b, v.fill(ctx, e, b, 0)
}

// describe is an entry as the wire has it.
func describe(e *objstore.Entry, p mesh.Path) mesh.FileInfo {
	info := mesh.FileInfo{Path: p, Type: e.Type.String(), Size: e.Size, Mode: e.Mode, ModTime: e.ModTime, Revision: revision(e)}
	if e.Type == objstore.TypeSymlink {
		info.Target, info.Size = mesh.Path(e.Target), int64(len(e.Target))
	}
	return info
}

// revision is of all that an entry says but its name, and so of its content.
func revision(e *objstore.Entry) string {
	unnamed := *e
	unnamed.Name = ""
	id := objstore.IDOf(objstore.Tree{unnamed}.Encode())
	return fmt.Sprintf("c-%x", id[:12])
}
