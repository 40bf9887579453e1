// Package jsbucket keeps packs in a JetStream stream, cut into parts of
// mesh.MaxMessage.
//
// All parts but the last are published first, a few at a time; when all of them
// are acknowledged, the last one follows, on a subject of its own, and says how
// many there are. So a pack whose writer died has no end, and nobody sees it; who
// stores it again finds some of its parts there already. Each publish expects
// that its subject is empty, and is repeated until its answer is definite.
//
// Whether a pack is there says the stream's leader: a replica may not have yet what
// was acknowledged, and still have what was deleted. The other parts, and all of a pack
// that is known to be there, may come from any replica, since a part never
// changes, and from the leader where that one has none. A read that gets no answer,
// as in an election of the leader, is asked again for mesh.DefaultSettle; then it is
// CodeUnavailable.
package jsbucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

const (
	// Window is how many parts of one Put are on their way, and how many a Bucket
	// reads at once: 2 MiB each.
	Window = 4
	// knownPacks is how many packs' lengths are remembered, 50 bytes each.
	knownPacks = 4096
	// readTry bounds one try of a read. Asking again a server that is only slow
	// makes it slower.
	readTry = 5 * time.Second
	// maxParts bounds what a pack claims to have.
	maxParts = 1 << 10
)

// Bucket is the packs of one tenant in one stream. Safe for concurrent use; it
// needs no Close and leaves the connection open.
type Bucket struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	shard  int
	tenant mesh.Tenant
	known  *lru.Cache[objstore.ID, layout]
	reads  *semaphore.Weighted // parts that are read at once
}

var (
	_ objstore.Bucket     = (*Bucket)(nil)
	_ objstore.Replicated = (*Bucket)(nil)
)

// layout is how a pack is cut.
type layout struct {
	parts int
	part  int64 // bytes of each part but the last
	size  int64
}

// Open returns the bucket of a tenant in the stream mesh.PackStream(shard), which
// mesh.EnsureStreams has made.
func Open(ctx context.Context, js jetstream.JetStream, shard int, tenant mesh.Tenant) (*Bucket, error) {
	stream, err := js.Stream(ctx, mesh.PackStream(shard))
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w (%w)", mesh.PackStream(shard), mesh.Errorf(mesh.CodeUnavailable, "the packs cannot be read now; try again"), err)
	}
	known, err := lru.New[objstore.ID, layout](knownPacks)
	if err != nil {
		return nil, err
	}
	return &Bucket{js: js, stream: stream, shard: shard, tenant: tenant, known: known, reads: semaphore.NewWeighted(Window)}, nil
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, id objstore.ID, data []byte) error {
	last := max(0, (len(data)-1)/mesh.MaxMessage)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(Window)
	for i := range last {
		m := nats.NewMsg(mesh.PackSubject(b.shard, b.tenant, id, i))
		m.Data = data[i*mesh.MaxMessage : (i+1)*mesh.MaxMessage]
		g.Go(func() error { return b.publish(gctx, m) })
	}
	err := g.Wait()
	if err == nil {
		end := nats.NewMsg(mesh.PackEndSubject(b.shard, b.tenant, id))
		end.Header.Set(mesh.HeaderParts, strconv.Itoa(last+1))
		end.Header.Set(mesh.HeaderPartBytes, strconv.Itoa(mesh.MaxMessage))
		end.Data = data[last*mesh.MaxMessage:]
		err = b.publish(ctx, end)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", id, err)
	}
	return nil
}

// publish stores a message on an empty subject. A subject that is not empty has
// this message: an earlier try of ours, or another writer of the same bytes.
func (b *Bucket) publish(ctx context.Context, m *nats.Msg) error {
	_, err := mesh.Publish(ctx, b.js, m, 0)
	if errors.Is(err, mesh.ErrRefused) {
		return nil
	}
	if mesh.CodeOf(err) == mesh.CodeLost { // whether it is stored makes no difference: nothing refers to it
		return mesh.Errorf(mesh.CodeUnavailable, "content could not be stored in time; try again")
	}
	return err
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, id objstore.ID, offset int64, n int) ([]byte, error) {
	return b.get(ctx, id, offset, n, b.read)
}

// GetKnown implements objstore.Replicated.
func (b *Bucket) GetKnown(ctx context.Context, id objstore.ID, offset int64, n int) ([]byte, error) {
	return b.get(ctx, id, offset, n, b.readAny)
}

type readMessage func(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error)

func (b *Bucket) get(ctx context.Context, id objstore.ID, offset int64, n int, readEnd readMessage) ([]byte, error) {
	data, err := b.getRange(ctx, id, offset, n, readEnd)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", id, err)
	}
	return data, nil
}

func (b *Bucket) getRange(ctx context.Context, id objstore.ID, offset int64, n int, readEnd readMessage) ([]byte, error) {
	var end []byte // the last part, if it had to be read
	l, ok := b.known.Get(id)
	if !ok {
		var err error
		if l, end, err = b.end(ctx, id, readEnd); err != nil {
			return nil, err
		}
	}
	from, to, err := objstore.Range(l.size, offset, n)
	if err != nil || from == to {
		return nil, err
	}
	data := make([]byte, to-from)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(Window)
	for i := from / l.part; i*l.part < to; i++ {
		g.Go(func() error {
			part, err := b.part(ctx, id, l, i, end, readEnd)
			if err != nil {
				return err
			}
			start := i * l.part
			copy(data[max(0, start-from):], part[max(0, from-start):min(int64(len(part)), to-start)])
			return nil
		})
	}
	return data, g.Wait()
}

// part returns one part of a pack, whose length it has checked.
func (b *Bucket) part(ctx context.Context, id objstore.ID, l layout, i int64, end []byte, readEnd readMessage) ([]byte, error) {
	subject, want, read := mesh.PackSubject(b.shard, b.tenant, id, int(i)), l.part, b.readAny
	if i == int64(l.parts-1) {
		subject, want, read = mesh.PackEndSubject(b.shard, b.tenant, id), l.size-i*l.part, readEnd
		if end != nil {
			return end, nil
		}
	}
	m, err := read(ctx, subject)
	if err != nil {
		b.known.Remove(id)
		return nil, err
	}
	if int64(len(m.Data)) != want {
		return nil, mesh.Errorf(mesh.CodeInternal, "part %d is damaged: it has %d bytes and not %d", i, len(m.Data), want)
	}
	return m.Data, nil
}

// end reads the last part of a pack, which says how it is cut.
func (b *Bucket) end(ctx context.Context, id objstore.ID, read readMessage) (layout, []byte, error) {
	m, err := read(ctx, mesh.PackEndSubject(b.shard, b.tenant, id))
	if err != nil {
		return layout{}, nil, err
	}
	l, err := layoutOf(m)
	if err != nil {
		return layout{}, nil, err
	}
	b.known.Add(id, l)
	return l, m.Data, nil
}

// layoutOf is what the last part of a pack says.
func layoutOf(m *jetstream.RawStreamMsg) (layout, error) {
	parts, err1 := strconv.Atoi(m.Header.Get(mesh.HeaderParts))
	part, err2 := strconv.ParseInt(m.Header.Get(mesh.HeaderPartBytes), 10, 64)
	if err1 != nil || err2 != nil || parts < 1 || parts > maxParts || part < 1 || part > mesh.MaxPayload || int64(len(m.Data)) > part {
		return layout{}, mesh.Errorf(mesh.CodeInternal, "its end is damaged: it does not say how many parts of which length there are")
	}
	return layout{parts: parts, part: part, size: int64(parts-1)*part + int64(len(m.Data))}, nil
}

// readAny returns the message of a subject as a replica has it, or else the leader.
func (b *Bucket) readAny(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	if err := b.reads.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer b.reads.Release(1)
	if b.stream.CachedInfo().Config.AllowDirect { // a stream of an earlier version has none
		try, cancel := context.WithTimeout(ctx, readTry)
		defer cancel()
		if m, err := b.stream.GetLastMsgForSubject(try, subject); err == nil {
			return m, nil
		}
	}
	return b.readLeader(ctx, subject)
}

// read returns the message of a subject as the leader has it.
func (b *Bucket) read(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	if err := b.reads.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer b.reads.Release(1)
	return b.readLeader(ctx, subject)
}

func (b *Bucket) readLeader(ctx context.Context, subject string) (m *jetstream.RawStreamMsg, err error) {
	err = b.ask(ctx, func(ctx context.Context) error {
		m, err = mesh.LastMessage(ctx, b.js.Conn(), mesh.PackStream(b.shard), subject)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = mesh.Errorf(mesh.CodeNotFound, "no such pack")
	}
	return m, err
}

// ask does a request that changes nothing when it is repeated, until it is
// answered.
func (b *Bucket) ask(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, mesh.DefaultSettle)
	defer cancel()
	for {
		try, cancelTry := context.WithTimeout(ctx, readTry)
		err := request(try)
		cancelTry()
		var api jetstream.JetStreamError
		definite := errors.As(err, &api) && api.APIError() != nil && api.APIError().Code < 500
		if err == nil || definite {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("%w (%w)", mesh.Errorf(mesh.CodeUnavailable, "the stream of packs did not answer in time; try again"), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Delete implements objstore.Bucket. The end goes first: a pack that is half
// deleted is one that does not exist.
func (b *Bucket) Delete(ctx context.Context, id objstore.ID) error {
	b.known.Remove(id)
	for _, subject := range []string{mesh.PackEndSubject(b.shard, b.tenant, id), mesh.PackWildcard(b.shard, b.tenant, id)} {
		err := b.ask(ctx, func(ctx context.Context) error {
			return b.stream.Purge(ctx, jetstream.WithPurgeSubject(subject))
		})
		if err != nil {
			return fmt.Errorf("delete %s: %w", id, err)
		}
	}
	return nil
}

// List implements objstore.Bucket. It holds the tenant's names, 32 bytes each.
func (b *Bucket) List(ctx context.Context) iter.Seq2[objstore.ID, error] {
	return func(yield func(objstore.ID, error) bool) {
		all, err := b.list(ctx, mesh.PackEndWildcard(b.shard, b.tenant))
		for _, id := range all {
			if !yield(id, nil) {
				return
			}
		}
		if err != nil {
			yield(objstore.ID{}, fmt.Errorf("list packs: %w", err))
		}
	}
}

func (b *Bucket) list(ctx context.Context, subjects string) ([]objstore.ID, error) {
	var all []objstore.ID
	err := b.ask(ctx, func(ctx context.Context) error {
		all = nil
		info, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(subjects))
		if err != nil {
			return err
		}
		for subject := range info.State.Subjects {
			pack, _, err := mesh.ParsePackSubject(subject)
			if err != nil {
				return err
			}
			all = append(all, pack)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(x, y objstore.ID) int { return bytes.Compare(x[:], y[:]) })
	return slices.Compact(all), nil
}

// Stored returns every pack that something is stored of, those without an end as
// well, whose writers died or are at work; in ascending order.
func (b *Bucket) Stored(ctx context.Context) ([]objstore.ID, error) {
	return b.list(ctx, mesh.PacksWildcard(b.shard, b.tenant))
}

// Now is the time by the clock of the server that leads the packs.
func (b *Bucket) Now(ctx context.Context) (now time.Time, err error) {
	err = b.ask(ctx, func(ctx context.Context) error {
		info, err := b.stream.Info(ctx)
		if err == nil {
			now = info.TimeStamp
		}
		return err
	})
	return now, err
}

// Time is when the last part of a pack was stored, by that clock, and how many bytes the
// pack has; 0 bytes if it has no end.
func (b *Bucket) Time(ctx context.Context, id objstore.ID) (stored time.Time, size int64, err error) {
	m, err := b.read(ctx, mesh.PackWildcard(b.shard, b.tenant, id))
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("time of %s: %w", id, err)
	}
	if _, end, err := mesh.ParsePackSubject(m.Subject); err == nil && end {
		if l, err := layoutOf(m); err == nil {
			size = l.size
		}
	}
	return m.Time, size, nil
}
