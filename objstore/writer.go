package objstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Writer stores content in new packs. Content that is in the packs it was opened
// with, or that it has stored itself, is not stored again; nothing else is
// reused, because only those packs are sure to stay. Safe for concurrent use. A
// pack that could not be stored makes every later call fail: begin anew with
// another Writer.
//
// A Writer serves one checkpoint or one record: open, give it content, then Flush
// or Commit, all of it within MaxWriterLife. It owns no goroutines: who fills a pack stores it, and so the packs in memory
// are bounded by the number of callers.
type Writer struct {
	s    *Store
	base *Reader

	began time.Time

	mu    sync.Mutex // guards what follows where calls may run beside each other; not held across I/O
	pack  packBuilder
	late  []lateBlob  // directories, which go into a pack together
	lates int         // bytes of them
	news  map[ID]bool // blobs that this writer has put
	packs map[ID]bool // packs that what it was given refers to
	err   error       // the first failure
}

// Writer returns a writer that may refer to content of the packs of base: those
// of the workspace's last commit and of the journal records behind it. base may
// be nil.
func (s *Store) Writer(base *Reader) *Writer {
	if base == nil {
		base = &Reader{s: s}
	}
	return &Writer{s: s, base: base, began: time.Now(), news: map[ID]bool{}, packs: map[ID]bool{}}
}

// Blob makes sure that a blob of 1 to MaxBlob bytes is stored, or will be by the
// next Flush. data is not kept.
func (w *Writer) Blob(ctx context.Context, data []byte) (Chunk, error) {
	if len(data) == 0 || len(data) > MaxBlob {
		return Chunk{}, mesh.Errorf(mesh.CodeTooLarge, "a blob has 1 to %d bytes, not %d", MaxBlob, len(data))
	}
	c := Chunk{ID: IDOf(data), Size: int64(len(data))}
	known, err := w.known(c.ID)
	if known || err != nil {
		return c, err
	}
	stored := w.s.pack(w.s.stored.get(w.s.encoder.MaxEncodedSize(len(data))), data)
	defer w.s.stored.put(stored)
	return c, w.add(ctx, c.ID, stored, len(data))
}

// known reports whether a blob need not be stored, and notes its pack.
func (w *Writer) known(id ID) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.news[id] {
		return true, w.err
	}
	at, ok := w.base.blobs[id]
	if ok {
		w.packs[at.pack] = true
	}
	return ok, nil
}

// add puts a blob into the pack that is being made, and stores the packs that
// become full by that.
func (w *Writer) add(ctx context.Context, id ID, stored []byte, size int) error {
	w.mu.Lock()
	if w.news[id] || w.err != nil {
		defer w.mu.Unlock()
		return w.err
	}
	w.news[id] = true
	full := w.fill(lateBlob{id, stored, size})
	w.mu.Unlock()
	return w.putAll(ctx, full)
}

// fill puts blobs into the pack that is being made, and returns the packs that are
// full; w.mu is held.
func (w *Writer) fill(blobs ...lateBlob) (full []packBuilder) {
	for _, b := range blobs {
		if !w.pack.fits(len(b.stored)) {
			full = append(full, w.cut())
		}
		w.start(&w.pack)
		w.pack.add(b.id, b.stored, b.size)
		if w.pack.full() {
			full = append(full, w.cut())
		}
	}
	return full
}

func (w *Writer) putAll(ctx context.Context, full []packBuilder) error {
	for i := range full {
		if _, err := w.put(ctx, &full[i]); err != nil {
			return err
		}
	}
	return nil
}

// maxLate bounds the directories that wait for one another.
const maxLate = 1 << 20

// lateBlob is a blob as it is stored.
type lateBlob struct {
	id     ID
	stored []byte
	size   int
}

// directory is Content for an encoded directory. The directories of a tree stand
// together in the packs: who reads all of them, which comes first in a restore, reads
// little else. putLate must follow.
func (w *Writer) directory(ctx context.Context, data []byte) ([]Chunk, error) {
	if len(data) > MaxWhole {
		return w.Content(ctx, bytes.NewReader(data))
	}
	c := Chunk{ID: IDOf(data), Size: int64(len(data))}
	known, err := w.known(c.ID)
	if known || err != nil {
		return []Chunk{c}, err
	}
	stored := w.s.pack(nil, data)
	w.mu.Lock()
	if !w.news[c.ID] {
		w.news[c.ID] = true
		w.late = append(w.late, lateBlob{c.ID, stored, len(data)})
		w.lates += len(stored)
	}
	over := w.lates > maxLate
	w.mu.Unlock()
	if over {
		err = w.putLate(ctx)
	}
	return []Chunk{c}, err
}

// putLate puts the directories that wait into packs.
func (w *Writer) putLate(ctx context.Context) error {
	w.mu.Lock()
	full := w.fill(w.late...)
	w.late, w.lates = nil, 0
	w.mu.Unlock()
	return w.putAll(ctx, full)
}

// start gives an empty pack its memory.
func (w *Writer) start(p *packBuilder) {
	if p.data == nil {
		p.data = append(w.s.packs.get(maxPack), PackFormat)
		rand.Read(p.nonce[:]) // never fails: crypto/rand crashes the program instead
	}
}

// cut takes the pack that is being made; w.mu is held.
func (w *Writer) cut() packBuilder {
	p := w.pack
	w.pack = packBuilder{}
	return p
}

func (w *Writer) put(ctx context.Context, p *packBuilder) (ID, error) {
	id, data := p.finish()
	err := w.s.bucket.Put(ctx, id, data)
	w.s.packs.put(data)
	if err == nil {
		w.s.ends.Add(id, p.blobs)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packs[id] = true
	if err != nil {
		err = fmt.Errorf("store %w", inPack(id, err))
		w.err = errors.Join(w.err, err)
	}
	return id, err
}

// List makes the commit list packs of the writer's base, whatever is in them: as long as
// it is kept, they are.
func (w *Writer) List(packs ...ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range packs {
		w.packs[id] = true
	}
}

// MaxWriterLife is how long after it was opened a Writer still says what is durable, unless
// Config says less: what it refers to is not collected sooner.
const MaxWriterLife = 6 * time.Hour

// alive refuses to go on with what may have been collected, by both clocks: one
// stands still while the machine sleeps, the other may be set.
func (w *Writer) alive() error {
	now := time.Now()
	if now.Sub(w.began) > w.s.life || now.Round(0).Sub(w.began.Round(0)) > w.s.life {
		return mesh.Errorf(mesh.CodeUnavailable, "content took more than %s to be stored, and is stored anew; try again", w.s.life)
	}
	return w.err
}

// Flush stores what is not stored yet and returns, sorted, every pack that the
// content given to this writer is in: what the calls before it returned is
// durable now. No other call may run beside it.
func (w *Writer) Flush(ctx context.Context) ([]ID, error) {
	if w.err == nil && len(w.pack.blobs) > 0 {
		p := w.cut()
		_, _ = w.put(ctx, &p) // kept in w.err
	}
	if err := w.alive(); err != nil {
		return nil, err
	}
	return w.sortedPacks(), nil
}

func (w *Writer) sortedPacks() []ID {
	var all []ID
	for id := range w.packs {
		all = append(all, id)
	}
	slices.SortFunc(all, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	return all
}

// MaxCommit is the most bytes of a commit: they fit into every pack that is not
// full.
const MaxCommit = MaxPackBytes - PackBytes

// Commit stores a commit, whose Packs it fills in, as the last blob of the last
// pack: all other packs are durable before that one is stored. c.Root comes from
// this writer's Tree. No other call may run beside it. CodeTooLarge says that the
// commit is over MaxCommit.
func (w *Writer) Commit(ctx context.Context, c Commit) (Ref, error) {
	if err := w.alive(); err != nil {
		return Ref{}, err
	}
	c.Packs = w.sortedPacks()
	b := c.Encode()
	if len(b) > MaxCommit {
		return Ref{}, mesh.Errorf(mesh.CodeTooLarge, "a commit of %d bytes is longer than %d", len(b), MaxCommit)
	}
	if _, err := DecodeCommit(b); err != nil {
		return Ref{}, fmt.Errorf("store a commit: %w", err)
	}
	id, p := IDOf(b), w.cut()
	w.start(&p)
	p.add(id, w.s.pack(nil, b), len(b))
	pack, err := w.put(ctx, &p)
	if err != nil {
		return Ref{}, err
	}
	return Ref{Pack: pack, Commit: id}, nil
}
