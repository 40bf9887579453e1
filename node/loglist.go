package node

import (
	"context"
	"math"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// maxLogReads is how many logs one listing reads at a time.
const maxLogReads = 16

// ps answers with the commands that run here. One whose log was ended by another
// owner is not told of: it is over for everybody else.
func (w *workspace) ps(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var all []mesh.ExecEntry
	w.execMu.Lock()
	for id, x := range w.execs {
		if claim := x.claim.Load(); claim != nil && mesh.Inside(req.Scope, x.command.scope) {
			e := mesh.NewExecEntry(id, claim, req.Scope)
			e.Running, e.Output = true, x.log.written.Load()
			all = append(all, e)
		}
	}
	w.execMu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxLogReads)
	for i := range all {
		e := &all[i]
		g.Go(func() error {
			end, err := lastFrame(ctx, w.streams.log, w.logSubject(e.ID))
			e.Running = end.frame != nil && end.frame.Final == nil
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(e mesh.ExecEntry) bool { return !e.Running })
	slices.SortFunc(all, func(a, b mesh.ExecEntry) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return &mesh.Reply{Args: mesh.PsReply{Execs: all}}, nil
}

// listLogs answers with a page of the execs whose logs are kept.
func (n *Node) listLogs(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.LogListRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	w, err := reachable(req, a.Workspace)
	if err != nil {
		return nil, err
	}
	for _, id := range []mesh.ExecID{a.ID, a.Before} {
		if id == "" {
			continue
		}
		if _, err := mesh.ParseExecID(string(id)); err != nil {
			return nil, err
		}
	}
	record, err := n.kv.Workspaces.Get(ctx, t, w)
	if err != nil {
		return nil, err
	}
	if !n.lists.Take(string(t)) {
		return nil, mesh.Errorf(mesh.CodeBusy, "node %s is listing as much as it may, at all or for one tenant; try again", n.cfg.Name)
	}
	defer n.lists.Give(string(t))
	l := logLister{node: n, record: record, scope: req.Scope}
	if a.ID != "" {
		e, err := l.entry(ctx, a.ID)
		if err == nil && e == nil {
			err = unknownExec(a.ID, w)
		}
		if err != nil {
			return nil, err
		}
		return &mesh.Reply{Args: mesh.LogListReply{Execs: []mesh.ExecEntry{*e}}}, nil
	}
	reply, err := l.page(ctx, a)
	return &mesh.Reply{Args: reply}, err
}

// logLister reads the logs of one workspace for who sees it from a scope.
type logLister struct {
	node   *Node
	record kv.WorkspaceRecord
	scope  string
}

func (l *logLister) page(ctx context.Context, a mesh.LogListRequest) (mesh.LogListReply, error) {
	if a.Limit <= 0 || a.Limit > mesh.MaxExecPage {
		a.Limit = mesh.MaxExecPage
	}
	reply := mesh.LogListReply{Execs: []mesh.ExecEntry{}}
	ids, cursor, err := l.before(ctx, a)
	if err != nil {
		return reply, err
	}
	entries := make([]*mesh.ExecEntry, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxLogReads)
	for i, id := range ids {
		g.Go(func() (err error) {
			entries[i], err = l.entry(gctx, id)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return reply, err
	}
	for _, e := range slices.Backward(entries) {
		if e != nil {
			reply.Execs = append(reply.Execs, *e)
		}
	}
	if cursor > 0 {
		reply.Before, reply.Cursor = ids[0], cursor
	}
	return reply, nil
}

// before returns the last ids before one in their order, and how many older ones
// there are about. Ids leave at the beginning as their logs expire and come at the
// end, so the cursor is a first guess.
func (l *logLister) before(ctx context.Context, a mesh.LogListRequest) ([]mesh.ExecID, int, error) {
	guess := a.Cursor
	if a.Before == "" {
		guess = math.MaxInt32 // none: how many there are
	}
	for step := a.Limit; ; step *= 2 {
		from := max(0, guess-step)
		if guess == math.MaxInt32 {
			from = guess
		}
		ids, _, total, err := mesh.LogCounts(ctx, l.node.cfg.Store, l.record.Shard, l.record.Tenant, l.record.Name, from)
		if err != nil {
			return nil, 0, unavailable(err)
		}
		if guess == math.MaxInt32 {
			if guess = total; total == 0 {
				return nil, 0, nil
			}
			continue
		}
		if a.Before != "" {
			n, _ := slices.BinarySearch(ids, a.Before)
			ids = ids[:n]
		}
		switch {
		case len(ids) > a.Limit || len(ids) == a.Limit && from > 0:
			return ids[len(ids)-a.Limit:], from + len(ids) - a.Limit, nil
		case from == 0:
			return ids, 0, nil
		}
	}
}

// entry describes one exec; nil: the scope does not see it, or an earlier
// workspace of the name had it. An unfinished log that nobody writes is ended.
func (l *logLister) entry(ctx context.Context, id mesh.ExecID) (*mesh.ExecEntry, error) {
	n, r := l.node, l.record
	stream, subject := n.shards[r.Shard].log, mesh.ExecLogSubject(r.Shard, r.Tenant, r.Name, id)
	first, err := firstFrame(ctx, stream, subject)
	if err != nil || first.frame == nil {
		return nil, err
	}
	e := mesh.ExecEntry{ID: id, Started: id.Time().UTC(), Args: []mesh.Path{}}
	switch claim := first.frame.Claim; {
	case claim != nil && (claim.Time.Before(r.Created) || !mesh.Inside(l.scope, string(claim.Scope))):
		return nil, nil
	case claim != nil:
		e = mesh.NewExecEntry(id, claim, l.scope)
	case l.scope != "." && first.frame.Number != 0: // the claim has expired: it is not known whose this is
		return nil, nil
	}
	running := false
	end, err := lastFrame(ctx, stream, subject)
	if err == nil && end.frame != nil && end.frame.Final == nil {
		running, err = n.settleLog(ctx, &r, id)
	}
	if err != nil || end.frame == nil {
		return nil, err
	}
	if running {
		e.Running, e.Output = true, end.frame.Offset+end.frame.Size()
		return &e, nil
	}
	final, _, err := finalFrame(ctx, n.js, stream, subject)
	if err == nil && final.frame == nil {
		err = mesh.Errorf(mesh.CodeBusy, "the end of exec %s is being settled; try again", id)
	}
	if err != nil {
		return nil, err
	}
	e.Final, e.Output = final.frame.Final, final.frame.Final.Output
	return &e, nil
}

// settleLog asks the owner of a workspace, which gets one if need be, whether it
// runs an exec; if not, its log is ended.
func (n *Node) settleLog(ctx context.Context, r *kv.WorkspaceRecord, id mesh.ExecID) (running bool, err error) {
	route, err := n.router.Place(ctx, r)
	if err != nil {
		return false, err
	}
	return n.router.Settle(ctx, r.Tenant, r.Name, route, id)
}
