package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// longPoll is how long a request waits for what takes longer than a request may.
const longPoll = 2 * time.Second

// longWork is what an owner does for a request that takes as long as the workspace is
// large: one at a time, in the background of the tenure. Requests with the same
// Mesh-Id wait for it in turns. The zero value works.
type longWork struct {
	mu  sync.Mutex
	now *longRun // the last one
}

type longRun struct {
	id    string
	done  chan struct{}
	read  atomic.Int64 // bytes of content
	reply any
	err   error
}

// busy reports whether work goes on.
func (l *longWork) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now != nil && !l.now.over()
}

// join waits for the work of a request, which the first of its kind begins. Not
// finished in time it is nil, and the caller says so. CodeBusy: another is going on.
func (l *longWork) join(ctx context.Context, w *workspace, req *mesh.Request, work func(context.Context, *longRun) (any, error)) (*longRun, bool, error) {
	l.mu.Lock()
	r := l.now
	if r == nil || r.id != req.ID || req.ID == "" {
		if r != nil && !r.over() {
			l.mu.Unlock()
			return nil, false, mesh.Errorf(mesh.CodeBusy, "workspace %s is being verified, recovered or restored for another request; try again", w.name)
		}
		if !w.node.verifies.Take(string(w.tenant)) {
			l.mu.Unlock()
			return nil, false, mesh.Errorf(mesh.CodeBusy, "node %s verifies as much as it may, at all or for one tenant; try again", w.node.cfg.Name)
		}
		r = &longRun{id: req.ID, done: make(chan struct{})}
		l.now = r
		w.background.Go(func() {
			defer w.node.verifies.Give(string(w.tenant))
			defer close(r.done)
			r.reply, r.err = work(w.tenure, r)
		})
	}
	l.mu.Unlock()
	timer := time.NewTimer(longPoll)
	defer timer.Stop()
	select {
	case <-r.done:
		return r, true, r.err
	case <-timer.C:
	case <-ctx.Done():
	}
	return r, false, nil
}

func (r *longRun) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}
