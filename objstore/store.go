package objstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/wsmesh/wsmesh/mesh"
)

// Config of a Store; the zero value is useful.
type Config struct {
	Workers    int           // files or chunks that one Store's readers and writers work on at once; 0 is DefaultWorkers
	WriterLife time.Duration // 0 is MaxWriterLife; what collects sooner needs writers that end sooner
}

// Bounds of a Store.
const (
	// pieceBytes is how much of a pack is read at once: the part in which a
	// JetStream bucket keeps it. piecesAhead is how many are, where the one before has
	// been read: a bucket gets them beside one another.
	pieceBytes  = mesh.MaxMessage
	piecesAhead = 4
	// cachedPieces holds 32 MiB: a restore reads packs in the order they were
	// written, from a few places at a time.
	cachedPieces = 64
	// cachedEnds bounds the indexes of packs, of up to 500 KiB but mostly of 20.
	cachedEnds = 256
	// endGuess is how much of a pack's end is read at first: the index of 1,500
	// blobs.
	endGuess = 64 << 10
)

// DefaultWorkers is a worker for each processor, at least 2, so that one reads
// while another computes, and at most 8: each holds up to two packs in memory.
func DefaultWorkers() int { return min(max(runtime.GOMAXPROCS(0), 2), 8) }

// Store keeps the content of one tenant in a bucket. It is safe for concurrent
// use and owns no goroutines; it needs no Close.
type Store struct {
	bucket  Bucket
	workers int
	life    time.Duration       // of a Writer
	large   *semaphore.Weighted // one file is cut at a time: its chunks keep all workers busy
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	heads   buffers // as much of a content as tells whether it is cut
	windows buffers // what a long content is cut in
	stored  buffers // blobs on their way into a pack
	packs   buffers

	reads  singleflight.Group
	pieces *lru.Cache[piece, []byte]
	ends   *lru.Cache[ID, []packedBlob]
}

// piece is an aligned range of a pack.
type piece struct {
	pack  ID
	index int64
}

// New returns the store of the tenant whose packs are in bucket.
func New(bucket Bucket, cfg Config) (*Store, error) {
	s := &Store{bucket: bucket, workers: cfg.Workers, life: cmp.Or(cfg.WriterLife, MaxWriterLife), large: semaphore.NewWeighted(1)}
	if s.workers <= 0 {
		s.workers = DefaultWorkers()
	}
	var err [4]error
	s.encoder, err[0] = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(s.workers), zstd.WithEncoderCRC(false))
	s.decoder, err[1] = zstd.NewReader(nil, zstd.WithDecoderConcurrency(s.workers), zstd.WithDecoderMaxMemory(MaxBlob), zstd.WithDecodeAllCapLimit(true))
	s.pieces, err[2] = lru.New[piece, []byte](cachedPieces)
	s.ends, err[3] = lru.New[ID, []packedBlob](cachedEnds)
	if err := errors.Join(err[:]...); err != nil {
		return nil, fmt.Errorf("open a content store: %w", err)
	}
	return s, nil
}

// Packs returns the names of all packs of the tenant, in ascending order: with
// them a Reader finds everything that is stored.
func (s *Store) Packs(ctx context.Context) ([]ID, error) {
	var all []ID
	for id, err := range s.bucket.List(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list packs: %w", err)
		}
		all = append(all, id)
	}
	return all, nil
}

// Pack returns the bytes of a whole pack, checked by its name.
func (s *Store) Pack(ctx context.Context, id ID) ([]byte, error) {
	data, err := s.bucket.Get(ctx, id, 0, maxPack+1)
	if err == nil && IDOf(data) != id {
		err = mesh.Errorf(mesh.CodeInternal, "its bytes are not those that were stored")
	}
	if err != nil {
		return nil, inPack(id, err)
	}
	return data, nil
}

// CheckStored reads a whole pack and checks it, see CheckPack.
func (s *Store) CheckStored(ctx context.Context, id ID) error {
	data, err := s.bucket.Get(ctx, id, 0, maxPack+1)
	if err != nil {
		return inPack(id, err)
	}
	return s.CheckPack(id, data)
}

// Commit reads the commit at ref. CodeNotFound says that its pack is not there.
func (s *Store) Commit(ctx context.Context, ref Ref) (*Commit, error) {
	r, err := s.Reader(ctx, ref.Pack)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", ref.Commit, err)
	}
	b, err := r.Blob(ctx, ref.Commit)
	if err == nil {
		var c *Commit
		if c, err = DecodeCommit(b); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("commit %s: %w", ref.Commit, err)
}

// Present looks past every cache whether a commit and all packs that it lists are there:
// CodeNotFound if one is not.
func (s *Store) Present(ctx context.Context, ref Ref) error {
	c, err := s.Commit(ctx, ref)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * s.workers)
	for _, pack := range append(slices.Clip(c.Packs), ref.Pack) {
		g.Go(func() error {
			_, err := s.bucket.Get(ctx, pack, -1, 1)
			if err != nil {
				return inPack(pack, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// end returns the index of a pack.
func (s *Store) end(ctx context.Context, id ID) ([]packedBlob, error) {
	if blobs, ok := s.ends.Get(id); ok {
		return blobs, nil
	}
	for guess := endGuess; ; {
		b, err := s.read(ctx, id, int64(-guess), guess)
		if err != nil {
			return nil, inPack(id, err)
		}
		blobs, need, err := decodePackEnd(b)
		if err == nil && blobs == nil && need <= guess {
			err = mesh.Errorf(mesh.CodeInternal, "its index is longer than the pack")
		}
		if err != nil {
			return nil, inPack(id, err)
		}
		if blobs != nil {
			s.ends.Add(id, blobs)
			return blobs, nil
		}
		guess = need
	}
}

// load returns the stored bytes of a blob. They belong to the cache.
func (s *Store) load(ctx context.Context, pack ID, blob packedBlob) ([]byte, error) {
	first, last := blob.offset/pieceBytes, (blob.end()-1)/pieceBytes
	if last > first+1 { // several whole pieces: nobody else will want them
		return s.exactly(ctx, pack, blob.offset, blob.stored)
	}
	var all []byte
	for i := first; i <= last; i++ {
		b, err := s.piece(ctx, piece{pack, i})
		if err != nil {
			return nil, err
		}
		from, to := max(blob.offset-i*pieceBytes, 0), min(blob.end()-i*pieceBytes, pieceBytes)
		if to > int64(len(b)) {
			return nil, errShort
		}
		if first == last {
			return b[from:to:to], nil
		}
		all = append(all, b[from:to]...)
	}
	return all, nil
}

var errShort = mesh.Errorf(mesh.CodeInternal, "the pack is shorter than its index says")

// read reads of a pack that something which is stored refers to.
func (s *Store) read(ctx context.Context, pack ID, offset int64, n int) ([]byte, error) {
	if b, ok := s.bucket.(Replicated); ok {
		return b.GetKnown(ctx, pack, offset, n)
	}
	return s.bucket.Get(ctx, pack, offset, n)
}

func (s *Store) exactly(ctx context.Context, pack ID, offset int64, n int) ([]byte, error) {
	b, err := s.read(ctx, pack, offset, n)
	if err == nil && len(b) != n {
		err = errShort
	}
	return b, err
}

// piece reads a piece once for all who want it at the same time, so one of them
// that is canceled must not end the read: a bucket bounds its reads itself.
func (s *Store) piece(ctx context.Context, p piece) ([]byte, error) {
	if b, ok := s.pieces.Get(p); ok {
		return b, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v, err, _ := s.reads.Do(fmt.Sprintf("%s/%d", p.pack, p.index), func() (any, error) {
		if b, ok := s.pieces.Get(p); ok {
			return b, nil
		}
		n := 1
		if s.pieces.Contains(piece{p.pack, p.index - 1}) {
			n = piecesAhead
		}
		b, err := s.read(context.WithoutCancel(ctx), p.pack, p.index*pieceBytes, n*pieceBytes)
		if err != nil {
			return nil, err
		}
		first := b[:min(len(b), pieceBytes)]
		for index := p.index; len(b) > 0; index++ {
			k := min(len(b), pieceBytes)
			s.pieces.Add(piece{p.pack, index}, b[:k:k])
			b = b[k:]
		}
		return first, nil
	})
	if err != nil {
		return nil, err
	}
	return v.([]byte), nil
}

// pack appends the stored form of a blob to buf, which is empty: compressed when
// that is shorter.
func (s *Store) pack(buf, data []byte) []byte {
	if packed := s.encoder.EncodeAll(data, buf); len(packed) < len(data) {
		return packed
	}
	return append(buf, data...)
}

// unpack is the inverse of pack, and checks the blob against its name.
func (s *Store) unpack(blob packedBlob, stored []byte) ([]byte, error) {
	data := stored
	if blob.stored < blob.size {
		var err error
		data, err = s.decoder.DecodeAll(stored, make([]byte, 0, blob.size))
		if err != nil {
			return nil, mesh.Errorf(mesh.CodeInternal, "blob %s is damaged: %s", blob.id, err)
		}
	}
	if len(data) != blob.size || IDOf(data) != blob.id {
		return nil, mesh.Errorf(mesh.CodeInternal, "blob %s is damaged: its bytes are not those that were stored", blob.id)
	}
	return data, nil
}

func inPack(id ID, err error) error { return fmt.Errorf("pack %s: %w", id, err) }

// buffers are used again: content passes through in megabytes, faster than a
// collector of garbage likes.
type buffers struct{ pool sync.Pool }

// get returns an empty slice with some capacity.
func (b *buffers) get(capacity int) []byte {
	if p, ok := b.pool.Get().(*[]byte); ok && cap(*p) >= capacity {
		return (*p)[:0]
	}
	return make([]byte, 0, capacity)
}

func (b *buffers) put(buf []byte) { b.pool.Put(&buf) }
