package objstore

import (
	"context"
	"iter"

	"github.com/wsmesh/wsmesh/mesh"
)

// Bucket keeps the packs of one tenant. An object is named by the SHA-256 of its
// bytes, so what has a name never changes, and putting it twice is putting it
// once. All methods may be called concurrently, from several processes too.
// Package buckettest is what every driver must pass.
//
// Errors carry the codes of package mesh: CodeNotFound for an object that is not
// there, CodeQuota when the bucket is full, CodeUnavailable when it cannot be read now,
// or it is unknown whether a Put was done (put it again).
type Bucket interface {
	// Put stores an object. When it returns nil the object is durable, and every
	// Get and List that begins afterwards finds it; when it fails, or the process
	// dies in the middle, no one ever finds a part of it. data is the caller's
	// again afterwards.
	Put(ctx context.Context, id ID, data []byte) error

	// Get returns up to n bytes from an offset on, fewer only where the object
	// ends. A negative offset counts from the end, and from the beginning when it
	// is more than the object has. An offset behind the end is CodeInvalid.
	Get(ctx context.Context, id ID, offset int64, n int) ([]byte, error)

	// Delete removes an object; one that does not exist is no error. It must not
	// run beside a Put of the same object: who deletes makes sure before that
	// nobody refers to it or is about to.
	Delete(ctx context.Context, id ID) error

	// List yields the names of all objects in ascending order. It ends with the
	// first error.
	List(ctx context.Context) iter.Seq2[ID, error]
}

// Replicated is a Bucket with several copies of each object.
type Replicated interface {
	// GetKnown is Get of an object that is known to be there, from any copy of it, which
	// is faster. One that was deleted may still be found.
	GetKnown(ctx context.Context, id ID, offset int64, n int) ([]byte, error)
}

// Range resolves what Get was asked for in an object of size bytes: the bytes
// from … to. CodeInvalid says that the offset lies behind the end.
func Range(size, offset int64, n int) (from, to int64, err error) {
	if offset < 0 {
		offset = max(size+offset, 0)
	}
	if offset > size || n < 0 {
		return 0, 0, mesh.Errorf(mesh.CodeInvalid, "%d bytes from %d on of an object of %d", n, offset, size)
	}
	return offset, min(offset+int64(n), size), nil
}
