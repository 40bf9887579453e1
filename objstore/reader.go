package objstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// Reader finds blobs in a fixed set of packs. What it returns was checked
// against its name: damage is an error with CodeInternal that says which blob in
// which pack, and never other bytes. Safe for concurrent use. It holds about 100
// bytes for each blob in its packs.
type Reader struct {
	s     *Store
	blobs map[ID]place
}

// place is where a blob is.
type place struct {
	pack ID
	blob packedBlob
}

// Reader reads the ends of the packs and returns a reader of what is in them.
// CodeNotFound says that one of the packs is not there.
func (s *Store) Reader(ctx context.Context, packs ...ID) (*Reader, error) {
	r := &Reader{s: s, blobs: map[ID]place{}}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * s.workers)
	for _, pack := range packs {
		g.Go(func() error {
			blobs, err := s.end(ctx, pack)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, b := range blobs {
				r.blobs[b.id] = place{pack, b}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read the indexes of %d packs: %w", len(packs), err)
	}
	return r, nil
}

// CommitReader returns a reader of everything that a commit reaches.
func (s *Store) CommitReader(ctx context.Context, ref Ref) (*Reader, *Commit, error) {
	c, err := s.Commit(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.Reader(ctx, append(slices.Clip(c.Packs), ref.Pack)...)
	return r, c, err
}

// Blob returns a blob, which the caller must not change. CodeNotFound says that
// it is in none of the reader's packs.
func (r *Reader) Blob(ctx context.Context, id ID) ([]byte, error) {
	at, ok := r.blobs[id]
	if !ok {
		return nil, mesh.Errorf(mesh.CodeNotFound, "blob %s is in none of the packs it was looked for in", id)
	}
	stored, err := r.s.load(ctx, at.pack, at.blob)
	if err == nil {
		stored, err = r.s.unpack(at.blob, stored)
	}
	if err != nil {
		return nil, inPack(at.pack, err)
	}
	return stored, nil
}

// Open returns the content of a file or a directory, without holes, chunk by
// chunk as it is read.
func (r *Reader) Open(ctx context.Context, e *Entry) io.Reader {
	return &contentReader{ctx: ctx, r: r, rest: e.Content}
}

type contentReader struct {
	ctx   context.Context
	r     *Reader
	chunk []byte
	rest  []Chunk
}

func (c *contentReader) Read(b []byte) (int, error) {
	for len(c.chunk) == 0 {
		if len(c.rest) == 0 {
			return 0, io.EOF
		}
		chunk, err := c.r.Chunk(c.ctx, c.rest[0])
		if err != nil {
			return 0, err
		}
		c.chunk, c.rest = chunk, c.rest[1:]
	}
	n := copy(b, c.chunk)
	c.chunk = c.chunk[n:]
	return n, nil
}

// Chunk returns one chunk of a content, see Blob.
func (r *Reader) Chunk(ctx context.Context, c Chunk) ([]byte, error) {
	b, err := r.Blob(ctx, c.ID)
	if err == nil && int64(len(b)) != c.Size {
		err = mesh.Errorf(mesh.CodeInternal, "blob %s has %d bytes and not the %d that its tree says", c.ID, len(b), c.Size)
	}
	return b, err
}

// Tree returns the entries of a directory.
func (r *Reader) Tree(ctx context.Context, dir *Entry) (Tree, error) {
	if dir.Type != TypeDir {
		return nil, mesh.Errorf(mesh.CodeInvalid, "%.200q is a %s and has no entries", dir.Name, dir.Type)
	}
	if len(dir.Content) == 1 {
		b, err := r.Chunk(ctx, dir.Content[0])
		if err != nil {
			return nil, err
		}
		return decodeTreeOf(dir, b)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r.Open(ctx, dir)); err != nil {
		return nil, err
	}
	return decodeTreeOf(dir, b.Bytes())
}

func decodeTreeOf(dir *Entry, b []byte) (Tree, error) {
	t, err := DecodeTree(b)
	if err != nil {
		return nil, fmt.Errorf("directory %.200q: %w", dir.Name, err)
	}
	return t, nil
}

// Item is one name of a tree on its way in or out of a store.
type Item struct {
	Path  string // from the root of the tree, which is "."
	Entry Entry
	Open  func() (io.ReadCloser, error) // the data of a file without its holes; see Writer.Tree
}

// Walk yields the names of a tree: the root, then depth first and in the order
// of the bytes of names, a directory before what is in it. It holds the
// directories that it is in, and ends with the first error. Open of the items is
// nil; the content of a file is read by Reader.Open.
func (r *Reader) Walk(ctx context.Context, root Entry) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if yield(Item{Path: ".", Entry: root}, nil) && root.Type == TypeDir {
			r.walk(ctx, ".", &root, yield)
		}
	}
}

func (r *Reader) walk(ctx context.Context, dir string, e *Entry, yield func(Item, error) bool) bool {
	tree, err := r.Tree(ctx, e)
	if err != nil {
		yield(Item{Path: dir}, fmt.Errorf("%.200q: %w", dir, err))
		return false
	}
	for i := range tree {
		p := path.Join(dir, tree[i].Name)
		if !yield(Item{Path: p, Entry: tree[i]}, nil) {
			return false
		}
		if tree[i].Type == TypeDir && !r.walk(ctx, p, &tree[i], yield) {
			return false
		}
	}
	return true
}

// Verify reads everything that an entry reaches and returns the first damage.
func (r *Reader) Verify(ctx context.Context, root Entry) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.s.workers)
	for it, err := range r.Walk(ctx, root) {
		if err != nil {
			g.Go(func() error { return err })
			break
		}
		if it.Entry.Type != TypeFile {
			continue
		}
		g.Go(func() error {
			if _, err := io.Copy(io.Discard, r.Open(ctx, &it.Entry)); err != nil {
				return fmt.Errorf("%.200q: %w", it.Path, err)
			}
			return nil
		})
	}
	return g.Wait()
}
