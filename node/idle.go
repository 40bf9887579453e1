package node

import (
	"context"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultIdle is when a workspace that nobody uses is closed, or removed where its
	// settings say so. Closed, what is in no commit gets into one, and the node keeps its
	// files, but neither memory nor a subscription. The next request opens it again. A
	// command that runs is use, and so is each request.
	DefaultIdle = 10 * time.Minute
	// DefaultSweep is how often closed workspaces are looked at of which the settings say
	// how long they are kept.
	DefaultSweep = time.Hour
)

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

// leaveUnused is leave, and lets nothing else begin either: what is asked from now on is
// for who has the workspace next. false as well: it was used after all.
func (w *workspace) leaveUnused(idle time.Duration) bool {
	if !w.gate.TryLock() {
		return false // an answer is in the making
	}
	defer w.gate.Unlock()
	if w.closed || !w.unused(idle) || !w.leave() {
		return false
	}
	w.closed = true
	return true
}

// closeIdle closes workspaces that are not used, or removes them, until ctx ends.
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
			if !w.unused(n.cfg.Idle) {
				continue
			}
			remove, keep, err := mesh.ParseIdle(w.settings.Load().Idle)
			switch {
			case err == nil && remove && keep == 0:
				n.removeUnused(ctx, w)
			case w.leave():
				go w.drain(n.cfg.Grace, mesh.Errorf(mesh.CodeCanceled, "the workspace was not used")) // ends with the tenure
			}
		}
	}
}

// removeUnused removes a workspace that this node owns, unless it is used. Where that
// fails half-way, whoever opens it ends it.
func (n *Node) removeUnused(ctx context.Context, w *workspace) {
	if !w.leaveUnused(n.cfg.Idle) {
		return
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*mesh.DefaultSettle)
	defer cancel()
	err := n.removeWorkspace(within, mesh.NodePingRequest{Tenant: w.tenant, Workspace: w.name, Epoch: mesh.Epoch(w.epoch.Load())})
	if err != nil {
		w.log.Warn("workspace that is not used not removed", "err", err)
		w.stop(mesh.Errorf(mesh.CodeCanceled, "the workspace was not used"))
		return
	}
	w.log.Info("workspace removed: nobody used it")
}

// sweepClosed removes closed workspaces when their time has come, until ctx ends.
func (n *Node) sweepClosed(ctx context.Context) error {
	tick := time.NewTicker(n.cfg.Sweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		first, err := n.router.First(ctx, "sweep")
		if err != nil {
			continue
		}
		records, err := n.kv.Workspaces.ListIdle(ctx)
		if err != nil {
			n.log.Debug("closed workspaces not looked at", "err", err)
		}
		for i := range records {
			if err := n.sweep(ctx, &records[i], first == n.cfg.Name); err != nil {
				n.log.Warn("workspace that is not used not removed", "tenant", string(records[i].Tenant), "workspace", string(records[i].Name), "err", err)
			}
		}
	}
}

// sweep removes a workspace that has been closed for as long as it was to be kept. The
// node that had it does that, which has its files, and where that is gone, the first one.
// Nobody opens it between the look and the taking: that would be another epoch.
func (n *Node) sweep(ctx context.Context, r *kv.WorkspaceRecord, first bool) error {
	remove, keep, err := mesh.ParseIdle(r.Idle)
	if err != nil || !remove {
		return err
	}
	owner, epoch, err := n.kv.Owners.Get(ctx, r.Tenant, r.Name)
	since := owner.Time
	if epoch == 0 {
		since = r.Created
	}
	if err != nil || time.Since(since) <= keep+n.cfg.Idle {
		return err
	}
	if owner.Node != n.cfg.Name && (!first || epoch != 0 && n.router.Answers(ctx, owner.Node)) {
		return nil
	}
	if epoch != 0 && !owner.Released { // open, or its node has died: then it is opened, and closed when its time has come
		_, err := n.router.Place(ctx, r)
		return err
	}
	return n.removeAt(ctx, *r, epoch)
}
