// Package router finds the node that hosts a workspace and makes sure that the
// workspace is open there. A router runs inside every node; several may work on
// one workspace at a time, because ownership is taken by compare-and-set and
// the losers answer with the winner's route.
//
// A workspace goes back to the node that had it last, which may have its files
// still, and to another one when that is gone: nobody subscribes to its pings, or they
// are not answered and the node's record in the registry has not been renewed for
// DefaultSilence. It goes to another one as well when that is full, unfit, or has not
// what the workspace needs: a node that cannot take it says so, and the next one is asked
// (see Choose). One in a directory of a host stays with its node: when that is not
// running, placing it is unavailable.
package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/singleflight"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// pingTime is how long one ping waits. A timeout alone is never taken for death.
	pingTime = time.Second
	// openTime is how long a node may take to open a workspace.
	openTime = 25 * time.Second
	// forgetTime is how long nodes have to forget a tenant; who waits asks again.
	forgetTime = 3 * time.Second
)

// deadAfter are the pauses between pings that find no responder. A server that
// has not heard of a fresh subscription says the same, for up to some 100 ms;
// after all of them the node is gone.
var deadAfter = []time.Duration{20 * time.Millisecond, 80 * time.Millisecond, 150 * time.Millisecond}

// Config is what a router works with. Conn holds the store's credential.
type Config struct {
	Conn    *nats.Conn
	Owners  *kv.Owners
	Nodes   *kv.Nodes
	Silence time.Duration // default DefaultSilence
}

// Router places workspaces. Safe for concurrent use.
type Router struct {
	cfg      Config
	flight   singleflight.Group
	renewals renewals
}

// New makes a router; it owns nothing that needs closing.
func New(cfg Config) *Router {
	cfg.Silence = cmp.Or(cfg.Silence, DefaultSilence)
	return &Router{cfg: cfg}
}

// Place returns the route to a workspace, which exists, opening it if need be.
// CodeBusy: it is being opened, its owner does not answer, or every node is full; try
// again. CodeUnavailable: no node is running that may open it. CodeUnsupported: none has
// what it needs.
func (r *Router) Place(ctx context.Context, record *kv.WorkspaceRecord) (mesh.Route, error) {
	t, w := record.Tenant, record.Name
	done := r.flight.DoChan(string(t)+"."+string(w), func() (any, error) {
		// The first caller may give up; the others still want the answer.
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTime)
		defer cancel()
		return r.place(shared, record)
	})
	select {
	case <-ctx.Done():
		return mesh.Route{}, mesh.Errorf(mesh.CodeBusy, "workspace %s is still being opened; try again", w)
	case res := <-done:
		route, _ := res.Val.(mesh.Route)
		return route, res.Err
	}
}

func (r *Router) place(ctx context.Context, record *kv.WorkspaceRecord) (mesh.Route, error) {
	t, w, stays := record.Tenant, record.Name, record.Dir != ""
	for {
		owner, epoch, err := r.cfg.Owners.Get(ctx, t, w)
		if err != nil {
			return mesh.Route{}, fmt.Errorf("place %s/%s: %w", t, w, err)
		}
		var gone, heir mesh.Node // gone does not answer, or not for long
		if epoch != 0 && !owner.Released {
			var state string
			state, heir, err = r.pingOwner(ctx, record, owner.Node, epoch)
			switch {
			case err == nil && state == mesh.PingOpen:
				return mesh.Route{Node: owner.Node, Epoch: epoch}, nil
			case err == nil && state == mesh.PingOpening:
				if err := pause(ctx, 20*time.Millisecond); err != nil {
					return mesh.Route{}, mesh.Errorf(mesh.CodeBusy, "workspace %s is being opened on node %s", w, owner.Node)
				}
				continue
			case err != nil && !errors.Is(err, nats.ErrNoResponders) && (stays || !r.silent(ctx, owner.Node)):
				return mesh.Route{}, mesh.Errorf(mesh.CodeBusy, "node %s, which hosts workspace %s, does not answer; try again", owner.Node, w)
			}
			if err != nil || state == mesh.PingLeaving {
				gone = owner.Node
			}
		}
		open := mesh.NodeOpenRequest{Tenant: t, Workspace: w, After: epoch, Anyway: stays}
		var route mesh.Route
		if epoch != 0 && !stays && gone == "" && !r.Answers(ctx, owner.Node) {
			gone = owner.Node
		}
		first := heir // which answered just now
		if epoch != 0 && (stays || gone == "") {
			first = owner.Node
		}
		if first != "" {
			route, err = r.open(ctx, first, open)
		}
		if first == "" || !stays && mayNext(err) {
			route, err = r.openElsewhere(ctx, record.Need, open, gone, err)
		}
		switch code := mesh.CodeOf(err); {
		case err == nil:
			return route, nil
		case code != mesh.CodeConflict && code != mesh.CodeStale:
			return mesh.Route{}, err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil { // someone else took it: ask again
			return mesh.Route{}, mesh.Errorf(mesh.CodeBusy, "workspace %s is changing hands; try again", w)
		}
	}
}

// pingOwner is ping of who owns a workspace. While it is made sure that nobody is there, who
// would get the workspace copies its files already: the copy is what the next tenure begins
// with, and else a copy that nobody needs. It changes nothing of anybody else. heir is who
// has been asked for it, if anybody.
func (r *Router) pingOwner(ctx context.Context, record *kv.WorkspaceRecord, owner mesh.Node, epoch mesh.Epoch) (state string, heir mesh.Node, err error) {
	var copying sync.WaitGroup
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	state, err = r.pingUntil(ctx, owner, mesh.NodePingRequest{Tenant: record.Tenant, Workspace: record.Name, Epoch: epoch}, func() {
		if record.Dir != "" {
			return
		}
		copying.Go(func() {
			to, err := r.Heir(asking, record, owner)
			if err != nil {
				return
			}
			heir = to
			_ = r.CopyAhead(asking, to, record.Tenant, record.Name) // what is not copied, the next tenure makes
		})
	})
	cancel() // who copies goes on
	copying.Wait()
	return state, heir, err
}

// refusal is the error of a node that does not open a workspace for a reason of its own:
// another one may.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func mayNext(err error) bool { return errors.As(err, new(refusal)) }

// open asks a node to take a workspace.
func (r *Router) open(ctx context.Context, node mesh.Node, open mesh.NodeOpenRequest) (route mesh.Route, err error) {
	err = r.request(ctx, mesh.NodeSubject(node, mesh.VerbNodeOpen), open, &route)
	switch code := mesh.CodeOf(err); {
	case errors.Is(err, nats.ErrNoResponders):
		return route, refusal{mesh.Errorf(mesh.CodeUnavailable, "node %s, which was to open workspace %s, is not running", node, open.Workspace)}
	case code == mesh.CodeBusy || code == mesh.CodeUnsupported:
		return route, refusal{err}
	}
	return route, err
}

// openElsewhere asks one node after the other, the best first, and in the end, where none
// runs commands, for the files alone; never gone, of which is known that it does not
// answer. last is why the node that had the workspace has not opened it, if it was asked.
func (r *Router) openElsewhere(ctx context.Context, need mesh.Need, open mesh.NodeOpenRequest, gone mesh.Node, last error) (mesh.Route, error) {
	entries, err := r.cfg.Nodes.List(ctx)
	if err != nil {
		return mesh.Route{}, err
	}
	var up []Candidate
	for i := range entries {
		if !entries[i].Draining {
			up = append(up, candidate(&entries[i].NodeRecord))
		}
	}
	able := Choose(string(open.Tenant)+"."+string(open.Workspace), need, up)
	if len(able) == 0 && len(up) > 0 {
		return mesh.Route{}, mesh.Errorf(mesh.CodeUnsupported, "no node has what workspace %s needs: %s; ask the operator for one, or change what it needs with: wsmesh workspace set %s",
			open.Workspace, need.Missing("", nil, ""), open.Workspace)
	}
	if !mayNext(last) {
		last = mesh.Errorf(mesh.CodeUnavailable, "no node is running that may open workspace %s", open.Workspace)
	}
	for _, open.Anyway = range []bool{false, true} {
		for _, node := range able {
			if node == gone || !r.Answers(ctx, node) {
				continue
			}
			route, err := r.open(ctx, node, open)
			if !mayNext(err) {
				return route, err
			}
			last = err
		}
	}
	return mesh.Route{}, last
}

// Move makes node to the host of a workspace that exists. Until the reply says that it
// is, the caller asks again. dead says that an owner who does not answer never will:
// it is passed over then, and if it lives after all, finds itself fenced out.
// CodeUnavailable: node to does not answer. CodeBusy: the owner does not. CodeConflict:
// it does, although it is called dead, or node to is full or unfit. CodeUnsupported: it
// has not what the workspace needs.
func (r *Router) Move(ctx context.Context, record *kv.WorkspaceRecord, to mesh.Node, dead bool) (reply mesh.WorkspaceMoveReply, err error) {
	t, w := record.Tenant, record.Name
	if !r.Answers(ctx, to) {
		return reply, mesh.Errorf(mesh.CodeUnavailable, "node %s does not answer; wsmesh status shows those that do", to)
	}
	owner, epoch, err := r.cfg.Owners.Get(ctx, t, w)
	if err != nil {
		return reply, fmt.Errorf("move %s/%s: %w", t, w, err)
	}
	tenure := mesh.NodePingRequest{Tenant: t, Workspace: w, Epoch: epoch}
	state, silence := mesh.PingNotMe, error(nil)
	if epoch != 0 && !owner.Released {
		state, silence = r.ping(ctx, owner.Node, tenure)
	}
	if owner.Node == to && silence == nil {
		switch state {
		case mesh.PingOpen: // whatever it takes now: it has this one
			return mesh.WorkspaceMoveReply{Done: true, Node: to, Epoch: epoch}, nil
		case mesh.PingOpening:
			return reply, nil
		}
	}
	if err := r.takes(ctx, record, to); err != nil {
		return reply, err
	}
	switch {
	case silence == nil && state == mesh.PingOpening:
		return reply, nil
	case silence == nil && state == mesh.PingOpen && dead:
		return reply, mesh.Errorf(mesh.CodeConflict, "node %s, which hosts workspace %s, answers; move it without --from-dead", owner.Node, w)
	case silence == nil && state == mesh.PingOpen:
		err = r.request(ctx, mesh.NodeSubject(owner.Node, mesh.VerbNodeMove), mesh.NodeMoveRequest{NodePingRequest: tenure, To: to}, nil)
		if retrySafe(err) {
			err = nil // its tenure has ended since it said that it was open
		}
		return reply, err
	case silence != nil && !errors.Is(silence, nats.ErrNoResponders) && !dead && !r.silent(ctx, owner.Node):
		return reply, mesh.Errorf(mesh.CodeBusy, "node %s, which hosts workspace %s, does not answer; if it is dead for certain, move the workspace with --from-dead", owner.Node, w)
	}
	var route mesh.Route
	err = r.request(ctx, mesh.NodeSubject(to, mesh.VerbNodeOpen), mesh.NodeOpenRequest{Tenant: t, Workspace: w, After: epoch}, &route)
	switch code := mesh.CodeOf(err); {
	case err == nil && route.Node == to:
		return mesh.WorkspaceMoveReply{Done: true, Node: to, Epoch: route.Epoch}, nil
	case err == nil || code == mesh.CodeBusy || code == mesh.CodeConflict || code == mesh.CodeStale || code == mesh.CodeDeadline:
		return reply, nil // somebody else took it, or it is being restored
	}
	return reply, err
}

// takes refuses a node that would not take a workspace, as far as its record tells.
func (r *Router) takes(ctx context.Context, record *kv.WorkspaceRecord, to mesh.Node) error {
	n, err := r.cfg.Nodes.Get(ctx, to)
	if err != nil {
		return err
	}
	if miss := record.Missing(n.Zone, n.Labels, n.Driver); miss != "" {
		return mesh.Errorf(mesh.CodeUnsupported, "node %s has not what workspace %s needs: %s; wsmesh status shows what nodes have", to, record.Name, miss)
	}
	switch {
	case n.Unfit != "":
		return mesh.Errorf(mesh.CodeConflict, "node %s takes no workspace now: %s", to, n.Unfit)
	case n.Room != (mesh.NodeRoom{}) && n.Room.Workspaces <= 0:
		return mesh.Errorf(mesh.CodeConflict, "node %s has as many workspaces open as it may; wsmesh status shows what room nodes have", to)
	}
	return nil
}

// Heir is the node that would open a workspace if not did not run. CodeUnavailable: none.
func (r *Router) Heir(ctx context.Context, record *kv.WorkspaceRecord, not mesh.Node) (mesh.Node, error) {
	entries, err := r.cfg.Nodes.List(ctx)
	if err != nil {
		return "", err
	}
	var up []Candidate
	for i := range entries {
		if !entries[i].Draining && entries[i].Node != not {
			up = append(up, candidate(&entries[i].NodeRecord))
		}
	}
	for _, node := range Choose(string(record.Tenant)+"."+string(record.Name), record.Need, up) {
		if r.Answers(ctx, node) {
			return node, nil
		}
	}
	return "", mesh.Errorf(mesh.CodeUnavailable, "no other node may open workspace %s", record.Name)
}

// CopyAhead has a node copy the files of a workspace that it may get, as they are now,
// and returns when it has.
func (r *Router) CopyAhead(ctx context.Context, to mesh.Node, t mesh.Tenant, w mesh.Workspace) error {
	for {
		err := r.request(ctx, mesh.NodeSubject(to, mesh.VerbNodeAhead), mesh.NodeAheadRequest{Tenant: t, Workspace: w}, nil)
		if mesh.CodeOf(err) != mesh.CodeBusy || pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// Alive reports whether a process answers under the node's name, or may, and goes on to
// live: only certain silence counts as dead.
func (r *Router) Alive(ctx context.Context, n mesh.Node) bool {
	state, err := r.ping(ctx, n, mesh.NodePingRequest{})
	return !errors.Is(err, nats.ErrNoResponders) && state != mesh.PingLeaving
}

// Answers reports whether a process answers under the node's name now.
func (r *Router) Answers(ctx context.Context, n mesh.Node) bool {
	state, err := r.ping(ctx, n, mesh.NodePingRequest{})
	return err == nil && state != mesh.PingLeaving
}

// ping asks a node for the state of a workspace. nats.ErrNoResponders means,
// after the pauses of deadAfter, that the node is gone.
func (r *Router) ping(ctx context.Context, n mesh.Node, p mesh.NodePingRequest) (string, error) {
	return r.pingUntil(ctx, n, p, func() {})
}

// pingUntil is ping, and calls missing once when the first ping finds no responder.
func (r *Router) pingUntil(ctx context.Context, n mesh.Node, p mesh.NodePingRequest, missing func()) (string, error) {
	for try := 0; ; try++ {
		var reply mesh.NodePingReply
		one, cancel := context.WithTimeout(ctx, pingTime)
		err := r.request(one, mesh.NodeSubject(n, mesh.VerbNodePing), p, &reply)
		cancel()
		if !errors.Is(err, nats.ErrNoResponders) || try == len(deadAfter) {
			return reply.State, err
		}
		if try == 0 {
			missing()
		}
		if pause(ctx, deadAfter[try]) != nil {
			return "", ctx.Err()
		}
	}
}

// Remove asks the owner to remove a workspace for good.
func (r *Router) Remove(ctx context.Context, t mesh.Tenant, w mesh.Workspace, route mesh.Route) error {
	err := r.request(ctx, mesh.NodeSubject(route.Node, mesh.VerbNodeRemove), mesh.NodePingRequest{Tenant: t, Workspace: w, Epoch: route.Epoch}, nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return mesh.Errorf(mesh.CodeUnavailable, "node %s is not running", route.Node)
	}
	return err
}

// Forget has every node end what it does for a tenant whose removal has begun. Those that
// are away are dead; waits is one that does not answer and may not be, if there is any.
func (r *Router) Forget(ctx context.Context, req mesh.NodeForgetRequest) (away []mesh.Node, waits mesh.Node, err error) {
	nodes, err := r.cfg.Nodes.List(ctx)
	if err != nil {
		return nil, "", err
	}
	within, cancel := context.WithTimeout(ctx, forgetTime)
	defer cancel()
	errs := make([]error, len(nodes))
	var asking sync.WaitGroup
	for i, n := range nodes {
		asking.Go(func() { errs[i] = r.forget(within, n.Node, req) })
	}
	asking.Wait()
	for i, n := range nodes {
		var refused *mesh.Error
		switch {
		case errs[i] == nil:
		case errors.Is(errs[i], nats.ErrNoResponders) || !errors.As(errs[i], &refused) && r.silent(ctx, n.Node):
			away = append(away, n.Node)
		case refused == nil || refused.RetrySafe() || refused.Code == mesh.CodeDeadline:
			waits = n.Node
		default:
			return nil, "", fmt.Errorf("node %s: %w", n.Node, errs[i])
		}
	}
	return away, waits, nil
}

// forget asks one node; ErrNoResponders as of ping.
func (r *Router) forget(ctx context.Context, n mesh.Node, req mesh.NodeForgetRequest) error {
	for try := 0; ; try++ {
		err := r.request(ctx, mesh.NodeSubject(n, mesh.VerbNodeForget), req, nil)
		if !errors.Is(err, nats.ErrNoResponders) || try == len(deadAfter) {
			return err
		}
		if err := pause(ctx, deadAfter[try]); err != nil {
			return err
		}
	}
}

// First is the node that does something for the whole mesh: one that answers, and for as
// long as the same ones do, the same. Two may believe it of themselves for a moment.
func (r *Router) First(ctx context.Context, what string) (mesh.Node, error) {
	entries, err := r.cfg.Nodes.List(ctx)
	if err != nil {
		return "", err
	}
	var up []Candidate
	for _, e := range entries {
		if !e.Draining {
			up = append(up, Candidate{Node: e.Node, Weight: 1})
		}
	}
	for _, node := range Choose(what, mesh.Need{}, up) {
		if r.Answers(ctx, node) {
			return node, nil
		}
	}
	return "", mesh.Errorf(mesh.CodeUnavailable, "no node is running")
}

// Reread has the owner of a workspace, if there is one, read its settings again. CodeBusy:
// it does not answer, and what it works by is not known.
func (r *Router) Reread(ctx context.Context, t mesh.Tenant, w mesh.Workspace) error {
	owner, epoch, err := r.cfg.Owners.Get(ctx, t, w)
	if err != nil || epoch == 0 || owner.Released {
		return err
	}
	err = r.request(ctx, mesh.NodeSubject(owner.Node, mesh.VerbNodeReread), mesh.NodePingRequest{Tenant: t, Workspace: w, Epoch: epoch}, nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil // the next owner reads them
	case mesh.CodeOf(err) == mesh.CodeDeadline:
		return mesh.Errorf(mesh.CodeBusy, "the settings of workspace %s are stored, but node %s, which hosts it, does not answer; try again", w, owner.Node)
	}
	return err
}

// Settle asks the owner whether it runs an exec, and to end the log of one that it
// does not run.
func (r *Router) Settle(ctx context.Context, t mesh.Tenant, w mesh.Workspace, route mesh.Route, id mesh.ExecID) (running bool, err error) {
	req := mesh.NodeSettleRequest{NodePingRequest: mesh.NodePingRequest{Tenant: t, Workspace: w, Epoch: route.Epoch}, ID: id}
	var reply mesh.NodeSettleReply
	err = r.request(ctx, mesh.NodeSubject(route.Node, mesh.VerbNodeSettle), req, &reply)
	if errors.Is(err, nats.ErrNoResponders) {
		err = mesh.Errorf(mesh.CodeUnavailable, "node %s is not running", route.Node)
	}
	return reply.Running, err
}

func (r *Router) request(ctx context.Context, subject string, args, reply any) error {
	m, err := mesh.NewRequest(subject, "", "", args, nil)
	if err != nil {
		return err
	}
	answer, err := r.cfg.Conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return err
	}
	_, err = mesh.DecodeReply(answer, reply)
	return err
}

// retrySafe reports whether a node has refused, or was not there to answer, and the same
// may succeed a moment later.
func retrySafe(err error) bool {
	e := mesh.AsError(err)
	return e != nil && e.RetrySafe()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
