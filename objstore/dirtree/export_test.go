//go:build linux

package dirtree

// Deaf keeps it from reading events.
func (w *Watcher) Deaf() (listen func()) {
	w.mu.Lock()
	return w.mu.Unlock
}

// Drain reads the events that there are.
func (w *Watcher) Drain() { w.drain() }
