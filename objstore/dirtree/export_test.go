//go:build linux

package dirtree

// NewBoundedWatcher is NewWatcher with a queue that overflows.
func NewBoundedWatcher(dir string) (*Watcher, error) { return newWatcher(dir, 0) }

// Deaf keeps it from reading events.
func (w *Watcher) Deaf() (listen func()) {
	w.mu.Lock()
	return w.mu.Unlock
}
