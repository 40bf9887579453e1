package node

import (
	"context"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// DefaultIdle is when a workspace that nobody uses is closed: what is in no commit gets
// into one, and the node keeps its files, but neither memory nor a subscription. The
// next request opens it again. A command that runs is use, and so is each request.
const DefaultIdle = 10 * time.Minute

// use notes that the workspace is used now.
func (w *workspace) use() { w.used.Store(time.Now().UnixNano()) }

// unused reports whether the workspace is open and has not been used for so long.
func (w *workspace) unused(idle time.Duration) bool {
	return w.serving.Load() && time.Since(time.Unix(0, w.used.Load())) > idle && !w.long.busy()
}

// leave lets no command begin any more; false: there is one, or the workspace is being
// left already.
func (w *workspace) leave() bool {
	w.execMu.Lock()
	defer w.execMu.Unlock()
	if w.leaving || len(w.execs) > 0 {
		return false
	}
	w.leaving = true
	return true
}

// closeIdle closes workspaces that are not used, until ctx ends.
func (n *Node) closeIdle(ctx context.Context) error {
	tick := time.NewTicker(n.cfg.Idle / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, w := range n.list() {
			if w.unused(n.cfg.Idle) && w.leave() {
				go w.drain(n.cfg.Grace, mesh.Errorf(mesh.CodeCanceled, "the workspace was not used")) // ends with the tenure
			}
		}
	}
}
