package dirtree

import (
	"context"
	"io"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Scan says how a directory is compared with a ledger.
type Scan struct {
	// Skip names directories that are not looked at; what a ledger has of them stays.
	Skip func(dir string) bool
	// Since makes a scan read again what a scan of that number or a later one, but
	// before Until, has read while somebody could write it (see Ledger.Seen): a mapping
	// of memory can be written to without a sign. Since 0 is from the first one on, Until
	// 0 up to the last.
	Since, Until uint64
	// Tick, unless it is zero, is when those began who may have written since. What the
	// ledger knows as changed then, or later, is read again: the times of many file systems
	// are no finer than the kernel's clock ticks, and what is changed again in the tick in
	// which it was read is described as it was.
	Tick Timespec
	// Dirty are the names that may have changed, see Watch.Take: only those are looked
	// at, and what is below them where that may have changed too. Nil: all.
	Dirty *Dirty
	// Content stores the data of a file, of so many bytes, and returns its chunks;
	// or keeps it as one chunk that is returned. Called by several workers.
	Content func(ctx context.Context, r io.Reader, size int64) ([]objstore.Chunk, []byte, error)
	// MaxOp is how large an op may be, as objstore.Op.Size counts; 0: any.
	MaxOp int
	// Quiet makes a scan leave out a file that has changed less than so long ago: it may
	// be written to still.
	Quiet time.Duration
	// Workers is how many files are read at once; 0 is one.
	Workers int
}

// Changed is what Changes has found.
type Changed struct {
	Changes []Change
	Left    int      // names that were being written to, or went away, which a later scan finds
	Unkept  []Unkept // names that no op says
	Moved   bool     // names may have gone from where they were looked at later to where that was done before
	Whole   bool     // every name was looked at
}

// Unkept is a name that cannot be kept as it is, or a directory that cannot be looked into:
// what the ledger has of it stays.
type Unkept struct {
	Path  string
	Ctime Timespec    // when it was changed last
	Why   *mesh.Error // CodeDenied: this process may not read it; CodeTooLarge: over MaxOp, or its path is too long
}

// Since reports whether it may have been changed at t or later.
func (u *Unkept) Since(t Timespec) bool { return !u.Ctime.before(t) }

// Change is one thing that a ledger says and a directory does not.
type Change struct {
	Op   objstore.Op // without a Kind: only Seen is another one
	Seen Stat        // how Path was described; of what is gone, zero
}

// Owner is a user and a group.
type Owner struct{ UID, GID int }
