package objstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// Damage is something stored that is not what its name says, or is not there.
type Damage struct {
	Path string // of whose content it is, from the root of the tree; "" where that is not asked
	Pack ID     // where it is, or should be; zero: in none of the packs
	Blob ID     // zero: the pack as such
	Err  error
}

// Checked is packs all of whose bytes were read and checked. Safe for concurrent use.
type Checked struct {
	Broken []Damage // packs whose bytes are not those that were stored, or that are not there

	good Reader // of the blobs that are what their names say
	bad  map[ID]Damage
}

// Check reads packs whole, past every cache, and checks each and every blob in them
// by its name; read counts the bytes. The error is one of reading (CodeUnavailable)
// and none of what was read. It holds about 100 bytes for each blob.
func (s *Store) Check(ctx context.Context, packs []ID, read *atomic.Int64) (*Checked, error) {
	c := &Checked{good: Reader{s: s, blobs: map[ID]place{}}, bad: map[ID]Damage{}}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.workers)
	for _, pack := range packs {
		g.Go(func() error {
			data, err := s.bucket.Get(ctx, pack, 0, maxPack+1)
			if code := mesh.CodeOf(err); err != nil && code != mesh.CodeNotFound && code != mesh.CodeInternal || ctx.Err() != nil {
				return errors.Join(err, ctx.Err())
			}
			read.Add(int64(len(data)))
			if err == nil && IDOf(data) != pack {
				err = mesh.Errorf(mesh.CodeInternal, "its bytes are not those that were stored")
			}
			blobs, failed := s.checkBlobs(data)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				c.Broken = append(c.Broken, Damage{Pack: pack, Err: err})
			}
			for i, b := range blobs {
				if failed[i] != nil {
					c.bad[b.id] = Damage{Pack: pack, Blob: b.id, Err: failed[i]}
					continue
				}
				c.good.blobs[b.id] = place{pack, b}
			}
			return nil
		})
	}
	return c, g.Wait()
}

// checkBlobs checks each blob of a pack, which may be damaged; failed says which are.
// There are none where the index is damaged.
func (s *Store) checkBlobs(pack []byte) (blobs []packedBlob, failed []error) {
	blobs, _, err := decodePackEnd(pack)
	if err != nil {
		return nil, nil
	}
	failed = make([]error, len(blobs))
	for i, b := range blobs {
		if b.end() > int64(len(pack)) {
			failed[i] = errShort
			continue
		}
		_, failed[i] = s.unpack(b, pack[b.offset:b.end()])
	}
	return blobs, failed
}

// Commit returns a commit that is in the packs; the error says why it cannot be read.
func (c *Checked) Commit(ctx context.Context, ref Ref) (*Commit, error) {
	if d := c.Missing(Chunk{ID: ref.Commit}); d != nil {
		return nil, d.Err
	}
	b, err := c.good.Blob(ctx, ref.Commit)
	if err != nil {
		return nil, err
	}
	return DecodeCommit(b)
}

// Missing returns what is wrong with the first of the chunks of which something is;
// nil if nothing is.
func (c *Checked) Missing(chunks ...Chunk) *Damage {
	for _, chunk := range chunks {
		at, ok := c.good.blobs[chunk.ID]
		if ok && (chunk.Size == 0 || int64(at.blob.size) == chunk.Size) {
			continue
		}
		d, known := c.bad[chunk.ID]
		switch {
		case ok:
			d = Damage{Pack: at.pack, Blob: chunk.ID, Err: mesh.Errorf(mesh.CodeInternal, "blob %s has %d bytes and not %d", chunk.ID, at.blob.size, chunk.Size)}
		case !known:
			d = Damage{Blob: chunk.ID, Err: mesh.Errorf(mesh.CodeInternal, "blob %s is in none of the packs that can be read", chunk.ID)}
		}
		return &d
	}
	return nil
}

// Tree looks at every name of a tree and calls broken for each whose content is
// damaged. What is below a directory that cannot be read is not looked at. It returns
// the number of names.
func (c *Checked) Tree(ctx context.Context, root Entry, broken func(Damage)) (names int, err error) {
	return c.tree(ctx, ".", &root, broken)
}

func (c *Checked) tree(ctx context.Context, p string, e *Entry, broken func(Damage)) (names int, err error) {
	names = 1
	if d := c.Missing(e.Content...); d != nil {
		d.Path = p
		broken(*d)
		return names, ctx.Err()
	}
	if e.Type != TypeDir {
		return names, nil
	}
	tree, err := c.good.Tree(ctx, e)
	if mesh.CodeOf(err) == mesh.CodeInternal && ctx.Err() == nil {
		broken(Damage{Path: p, Err: err})
		return names, nil
	}
	if err != nil {
		return names, fmt.Errorf("%.200q: %w", p, err)
	}
	for i := range tree {
		child := tree[i].Name
		if p != "." {
			child = p + "/" + child
		}
		n, err := c.tree(ctx, child, &tree[i], broken)
		if names += n; err != nil {
			return names, err
		}
	}
	return names, nil
}
