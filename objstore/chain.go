package objstore

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// Place is where a record stands in its journal: what the next one must name.
// The zero Place is before the first record.
type Place struct {
	Sequence uint64 // in the stream
	Number   uint64 // in the chain
	Hash     string
}

// Place returns the record's place.
func (s *StoredRecord) Place() Place { return Place{s.Sequence, s.Number, s.Hash} }

// Follows reports whether the record is the one after the record at p.
func (s *StoredRecord) Follows(p Place) bool {
	return s.Prev == p.Sequence && s.Number == p.Number+1 && s.Root == p.Hash
}

// ErrGap says that a record of a chain is not there, or is another than its
// neighbours say. Where the owner of another tenure may purge, begin again at the
// last checkpoint.
var ErrGap = errors.New("the journal has a gap")

// Records reads the records of journals, as AtLeader does.
type Records interface {
	// Next reads the first record of a journal at or after a sequence; ErrGap: there is
	// none; CodeUnavailable: the stream cannot be read now.
	Next(ctx context.Context, subject string, from uint64) (*StoredRecord, error)
}

// AtLeader reads records from a stream as its leader has it.
func AtLeader(stream mesh.Leader) Records { return leaderRecords{stream} }

type leaderRecords struct{ stream mesh.Leader }

// Chain yields the records of one journal that follow the one at after, up to and
// including the one at sequence last, and checks that each follows the one
// before: else it ends with ErrGap. With the zero Place it begins at the first
// record that is there, whichever that is. It ends with the first error;
// CodeUnavailable says that the stream cannot be read now.
func Chain(ctx context.Context, journal Records, subject string, after Place, last uint64) iter.Seq2[*StoredRecord, error] {
	return func(yield func(*StoredRecord, error) bool) {
		any := after == Place{}
		for after.Sequence < last {
			r, err := journal.Next(ctx, subject, after.Sequence+1)
			if err == nil && (r.Sequence > last || !any && !r.Follows(after)) {
				err = fmt.Errorf("%w: record %d does not follow %d", ErrGap, r.Sequence, after.Sequence)
			}
			if !yield(r, err) || err != nil {
				return
			}
			after, any = r.Place(), false
		}
	}
}

func (l leaderRecords) Next(ctx context.Context, subject string, from uint64) (*StoredRecord, error) {
	raw, err := l.stream.Next(ctx, subject, from)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, fmt.Errorf("%w: nothing at or after %d", ErrGap, from)
	case errors.Is(err, context.Canceled):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("read the journal: %w (%w)", mesh.Errorf(mesh.CodeUnavailable, "the mesh's streams cannot be read now; try again"), err)
	}
	return DecodeRecord(raw.Sequence, raw.Data)
}
