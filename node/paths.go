package node

import (
	"context"
	"slices"
	"sync"

	"github.com/wsmesh/wsmesh/mesh"
)

// pathLocks keep changes of one tree apart that share a path, or of which one
// changes what is above the other's: from the look at the disk until the disk has
// followed the journal. All others run beside each other. First come, first
// served. The zero value works.
type pathLocks struct {
	mu      sync.Mutex
	holders []*pathHolder // in the order they came; some still wait for earlier ones
}

type pathHolder struct {
	paths []string
	done  chan struct{}
}

// lock waits until nobody before it holds one of the paths, something above or
// something below. Paths lead through no link; "." is everything.
func (l *pathLocks) lock(ctx context.Context, paths ...string) (unlock func(), err error) {
	h := &pathHolder{paths: paths, done: make(chan struct{})}
	var before []*pathHolder
	l.mu.Lock()
	for _, other := range l.holders {
		if other.meets(paths) {
			before = append(before, other)
		}
	}
	l.holders = append(l.holders, h)
	l.mu.Unlock()
	unlock = sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.holders = slices.DeleteFunc(l.holders, func(other *pathHolder) bool { return other == h })
		close(h.done)
	})
	for _, other := range before {
		select {
		case <-other.done:
		case <-ctx.Done():
			unlock() // who waits for us waits for those before us too
			return nil, mesh.Errorf(mesh.CodeBusy, "other changes of the path take too long; try again")
		}
	}
	return unlock, nil
}

func (h *pathHolder) meets(paths []string) bool {
	for _, mine := range h.paths {
		for _, theirs := range paths {
			if mesh.Inside(mine, theirs) || mesh.Inside(theirs, mine) {
				return true
			}
		}
	}
	return false
}
