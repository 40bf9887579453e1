//go:build !linux

package dirtree

import (
	"context"
	"iter"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Dir is a directory that is read or restored.
type Dir struct {
	Note  func(path, what string)
	Owner *Owner
	Seed  *Dir
}

var errUnsupported = mesh.Errorf(mesh.CodeUnsupported, "trees are read and restored on Linux only")

// Open fails with CodeUnsupported.
func Open(string) (*Dir, error) { return nil, errUnsupported }

// Close does nothing.
func (d *Dir) Close() error { return nil }

// Items yields CodeUnsupported.
func (d *Dir) Items(context.Context) iter.Seq2[objstore.Item, error] {
	return func(yield func(objstore.Item, error) bool) { yield(objstore.Item{}, errUnsupported) }
}

// Restore fails with CodeUnsupported.
func (d *Dir) Restore(context.Context, *objstore.Reader, objstore.Entry) error { return errUnsupported }

// RestoreItems fails with CodeUnsupported.
func (d *Dir) RestoreItems(context.Context, iter.Seq2[objstore.Item, error], func(context.Context, objstore.Chunk) ([]byte, error)) error {
	return errUnsupported
}

// Update fails with CodeUnsupported.
func (d *Dir) Update(context.Context, Snapshot, Snapshot, func(context.Context, objstore.Chunk) ([]byte, error)) error {
	return errUnsupported
}

// Changes fails with CodeUnsupported.
func (d *Dir) Changes(context.Context, *Scan, Snapshot) (Changed, error) {
	return Changed{}, errUnsupported
}

// Differs fails with CodeUnsupported.
func (d *Dir) Differs(context.Context, *Scan, Snapshot) (bool, error) { return false, errUnsupported }

// Describe fails with CodeUnsupported.
func (d *Dir) Describe(context.Context, *Scan, *Ledger) error { return errUnsupported }

// Verify fails with CodeUnsupported.
func (d *Dir) Verify(context.Context, *Scan, Snapshot, func(string, error)) (checked, changed int, err error) {
	return 0, 0, errUnsupported
}

// Stat fails with CodeUnsupported.
func (d *Dir) Stat(string) (Stat, error) { return Stat{}, errUnsupported }

// Tick is no time.
func Tick() Timespec { return Timespec{} }

// Below yields CodeUnsupported.
func (d *Dir) Below(ctx context.Context, _ string) iter.Seq2[objstore.Item, error] {
	return d.Items(ctx)
}

// SetTime fails with CodeUnsupported.
func (d *Dir) SetTime(string, time.Time) error { return errUnsupported }

// SetAttributes fails with CodeUnsupported.
func (d *Dir) SetAttributes(string, *objstore.Entry) error { return errUnsupported }

// Watcher hears what changes on one file system.
type Watcher struct{}

// Watch is what changed below one directory. A nil Watch knows nothing.
type Watch struct{}

// Dirty is what may have changed in a directory.
type Dirty struct{}

// NewWatcher fails with CodeUnsupported.
func NewWatcher(string) (*Watcher, error) { return nil, errUnsupported }

// Close does nothing.
func (w *Watcher) Close() error { return nil }

// Watch fails with CodeUnsupported.
func (w *Watcher) Watch(string) (*Watch, error) { return nil, errUnsupported }

// Close does nothing.
func (x *Watch) Close() {}

// Take knows nothing.
func (x *Watch) Take() *Dirty { return nil }

// Moved knows nothing.
func (x *Watch) Moved() bool { return false }

// Return does nothing.
func (x *Watch) Return(*Dirty) {}

// Lose does nothing.
func (x *Watch) Lose() {}
