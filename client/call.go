package client

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// tryTime is how long an owner may be silent before its route is asked for
	// anew. It is no verdict: the same request, with the same id, goes on.
	tryTime = 5 * time.Second
	// hedgeAfter is when an unanswered api request is sent again, to one node
	// that answered lately: a frozen member of the group swallows its share.
	hedgeAfter = 300 * time.Millisecond
	// lookAfter is when is asked whether an owner is still there that has not answered:
	// what was sent while its process died, nobody refuses. Later looks come each
	// hedgeAfter.
	lookAfter = 100 * time.Millisecond
	// longWait is how long a call that unpacks a whole tree may take.
	longWait = 10 * time.Minute
)

// call is one request to a workspace's owner with its whole retry rule. All
// tries carry one Mesh-Id, so the owner does the work once.
type call struct {
	verb    string
	args    any
	content []byte
	id      string  // of all tries; "": a fresh one
	create  bool    // a workspace that does not exist is created
	reads   bool    // changes nothing: an unanswered try leaves nothing unknown
	long    bool    // takes as long as its content is large: waits longWait
	parts   bool    // is many changes, of which the next owner may find some made
	tenure  *tenure // not nil: goes to the owner in this tenure only
}

// tenure ties calls together that only one owner can answer: the first of them
// chooses it. The zero value is open. Safe for concurrent use.
type tenure struct{ epoch atomic.Uint64 }

func (t *tenure) is(e mesh.Epoch) bool {
	return t.epoch.CompareAndSwap(0, uint64(e)) || t.epoch.Load() == uint64(e)
}

// errMoved is the end of calls that are tied to a tenure that is over.
var errMoved = mesh.Errorf(mesh.CodeConflict, "the workspace got another owner during the upload; nothing was changed; start over")

// tries is what the tries of one call have come to.
type tries struct {
	id      string
	unknown bool       // one was sent and not answered
	silent  mesh.Epoch // the tenure whose owner left it unanswered
	last    error
}

// request does a call and decodes the reply into out.
//
//   - no responders: the tenure is over; the route is asked for anew;
//   - silence: the same, and the outcome of that try stays unknown until a
//     later one is answered, be it by the next owner: the journal has the answer;
//   - stale, busy, unavailable: nothing was done; again;
//   - any other code is the answer.
func (w *Workspace) request(ctx context.Context, k call, out any) ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	if w.at != "" {
		return w.requestAt(ctx, k, out)
	}
	wait := w.client.cfg.Wait
	if k.long {
		wait = max(wait, longWait)
	}
	ctx, cancel := bounded(ctx, wait)
	defer cancel()
	t := tries{id: cmp.Or(k.id, mesh.NewID())}
	for n := 0; ctx.Err() == nil; n++ {
		if n > 0 {
			if !pause(ctx, n) {
				break
			}
			w.client.again.Add(1)
		}
		content, again, err := w.try(ctx, k, &t, out)
		if !again {
			return content, err
		}
	}
	return nil, w.client.gaveUp(ctx, t.unknown && !k.reads, t.last)
}

// try sends a call once. With again it has come to no answer, and t says why.
func (w *Workspace) try(ctx context.Context, k call, t *tries, out any) (content []byte, again bool, err error) {
	c := w.client
	route, err := c.route(ctx, w.name, k.create)
	if err != nil && ctx.Err() != nil && t.last != nil {
		if mesh.CodeOf(err) != mesh.CodeDeadline { // else the reason of the tries before says more
			t.last = err
		}
		return nil, true, nil
	}
	doubt := t.unknown && !k.reads
	switch {
	case err != nil && retrySafe(err) && !c.conn.IsClosed():
		t.last = err
		return nil, true, nil
	case doubt && (err != nil || (k.parts || k.tenure != nil) && route.Epoch != t.silent):
		// A new owner knows the answers to changes that were made whole. Of others
		// its answer to a repeat would be about another state.
		return nil, false, c.gaveUp(ctx, true, nil)
	case err != nil:
		return nil, false, err
	case k.tenure != nil && !k.tenure.is(route.Epoch):
		return nil, false, errMoved
	}
	m, err := mesh.NewRequest(c.ownerSubject(w.name, route.Epoch, k.verb), t.id, w.scope, k.args, k.content)
	if err != nil {
		return nil, false, err
	}
	if w.consistent && k.reads {
		m.Header.Set(mesh.HeaderConsistent, "1")
	}
	reply, err := c.askOwner(ctx, m, func(ctx context.Context) bool {
		return w.gone(ctx, route.Epoch, k.parts || k.tenure != nil)
	})
	if err == nil {
		content, err = mesh.DecodeReply(reply, out)
		if err == nil || !retrySafe(err) {
			return content, false, err
		}
		t.last = err
		if mesh.CodeOf(err) != mesh.CodeBusy {
			c.routes.Remove(w.name)
		}
		return nil, true, nil
	}
	if c.conn.IsClosed() {
		return nil, false, c.closed()
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return nil, false, mesh.Errorf(mesh.CodeTooLarge, "the arguments are too large for one message")
	}
	if mesh.CodeOf(err) == mesh.CodeDeadline && !t.unknown {
		t.unknown, t.silent = true, route.Epoch
	}
	if t.last = err; errors.Is(err, nats.ErrNoResponders) {
		t.last = mesh.Errorf(mesh.CodeUnavailable, "the node that hosted workspace %s is gone, and no other one has opened it in time; try again", w.name)
	}
	c.routes.Remove(w.name)
	return nil, true, nil
}

// ownerSubject and apiSubject are where this client's token may ask; node "" is
// any node.
func (c *Client) ownerSubject(w mesh.Workspace, e mesh.Epoch, verb string) string {
	if b := c.claims.Bound; b != nil {
		return b.OwnerSubject(c.claims.Tenant, e, verb)
	}
	return mesh.OwnerSubject(c.claims.Tenant, w, e, verb)
}

func (c *Client) apiSubject(service, verb string, node mesh.Node) string {
	switch b := c.claims.Bound; {
	case b != nil:
		return b.APISubject(c.claims.Tenant, service, verb, node)
	case node != "":
		return mesh.APINodeSubject(c.claims.Tenant, service, verb, node)
	}
	return mesh.APISubject(c.claims.Tenant, service, verb)
}

// bounded gives a context without a deadline the wait.
func bounded(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, wait)
}

// closed is the error of a connection that is over for good: closed by its
// owner, or given up because the server refused the token twice.
func (c *Client) closed() error {
	if err := refused(c.cfg.Token, c.claims.Tenant, c.conn.LastError()); err != nil {
		return err
	}
	return mesh.Errorf(mesh.CodeUnavailable, "the client is closed")
}

// gaveUp is the error after the last try.
func (c *Client) gaveUp(ctx context.Context, unknown bool, last error) error {
	switch {
	case unknown:
		return mesh.Errorf(mesh.CodeLost, "outcome unknown: the request was sent and not answered in time")
	case errors.Is(ctx.Err(), context.Canceled):
		return mesh.Errorf(mesh.CodeCanceled, "the caller gave up")
	case mesh.CodeOf(last) == mesh.CodeDeadline || last == nil:
		return mesh.Errorf(mesh.CodeDeadline, "no answer in time")
	case errors.Is(last, nats.ErrNoResponders):
		return mesh.Errorf(mesh.CodeUnavailable, "no node answers; is one running?")
	case mesh.CodeOf(last) == mesh.CodeInternal:
		return mesh.Errorf(mesh.CodeUnavailable, "the connection to the mesh is down (%s)", last)
	}
	return last
}

func retrySafe(err error) bool {
	var e *mesh.Error
	if errors.As(err, &e) {
		return e.RetrySafe()
	}
	return errors.Is(err, nats.ErrNoResponders) || mesh.CodeOf(err) == mesh.CodeInternal // not connected
}

// settles reports whether an answer stands although another try of the same
// request is under way: that of a reading, and that a change is done.
func (k call) settles(reply *nats.Msg) bool {
	if k.verb != mesh.VerbMemoryCommit {
		return true
	}
	var done mesh.MemoryCommitReply
	_, err := mesh.DecodeReply(reply, &done)
	return err == nil && !done.Unsure
}

// lost reports whether an answer says that the node does not know.
func lost(reply *nats.Msg) bool {
	e := mesh.ErrorIn(reply.Header)
	return e != nil && e.Code == mesh.CodeLost
}

// pause waits longer after each try, up to 200 ms.
func pause(ctx context.Context, try int) bool {
	d := min(200*time.Millisecond, time.Duration(5<<min(try, 6))*time.Millisecond)
	return wait(ctx, d/2+rand.N(d))
}

// wait waits; false: ctx has ended before.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// send sends one try and waits for its reply at most for limit, and not beyond
// the end of the connection: CodeDeadline then, too.
func (c *Client) send(ctx context.Context, m *nats.Msg, limit time.Duration) (*nats.Msg, error) {
	try, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	until, _ := try.Deadline()
	m.Header.Set(mesh.HeaderDeadline, strconv.FormatInt(max(1, time.Until(until).Milliseconds()), 10))
	link := c.link.Load()
	defer context.AfterFunc(link, cancel)()
	reply, err := c.conn.RequestMsgWithContext(try, m)
	if errors.Is(err, context.Canceled) && ctx.Err() == nil && link.Err() != nil {
		err = mesh.Errorf(mesh.CodeDeadline, "the connection broke before the answer came")
	}
	return reply, err
}

// askOwner is send to an owner, who is looked after while it does not answer: one that
// is gone will not, and then the try has ended.
func (c *Client) askOwner(ctx context.Context, m *nats.Msg, gone func(context.Context) bool) (*nats.Msg, error) {
	try, end := context.WithCancelCause(ctx)
	var asking sync.WaitGroup
	asking.Add(1)
	timer := time.AfterFunc(lookAfter, func() {
		defer asking.Done()
		for try.Err() == nil {
			if gone(try) {
				end(errOwnerGone)
			}
			wait(try, hedgeAfter)
		}
	})
	reply, err := c.send(try, m, tryTime)
	if err != nil && context.Cause(try) == error(errOwnerGone) {
		err = errOwnerGone
	}
	end(nil)
	if !timer.Stop() {
		asking.Wait()
	}
	return reply, err
}

// errOwnerGone is the end of a try: whether it was done before, nobody has said.
var errOwnerGone = mesh.Errorf(mesh.CodeDeadline, "the owner was gone before its answer came")

// gone reports whether the owner in a tenure is. What only this owner can answer, it may
// still be about to where it stops in peace, until there is another one and a little
// longer.
func (w *Workspace) gone(ctx context.Context, e mesh.Epoch, last bool) bool {
	c := w.client
	sign, err := mesh.NewRequest(c.ownerSubject(w.name, e, mesh.VerbInfo), mesh.NewID(), "", struct{}{}, nil)
	if err == nil {
		_, err = c.send(ctx, sign, 2*hedgeAfter)
	}
	if !errors.Is(err, nats.ErrNoResponders) || !last {
		return errors.Is(err, nats.ErrNoResponders)
	}
	c.routes.Remove(w.name)
	next, err := c.route(ctx, w.name, false)
	return err == nil && next.Epoch != e && wait(ctx, hedgeAfter)
}

// route returns where a workspace is, from the cache or from a router.
func (c *Client) route(ctx context.Context, w mesh.Workspace, create bool) (mesh.Route, error) {
	if route, ok := c.routes.Get(w); ok {
		return route, nil
	}
	var route mesh.Route
	err := c.api(ctx, mesh.ServicePlace, mesh.VerbPlaceOpen, mesh.PlaceRequest{Workspace: w, Create: create}, &route)
	if err == nil {
		c.routes.Add(w, route)
	}
	return route, err
}

// api does a request that any node can answer.
func (c *Client) api(ctx context.Context, service, verb string, args, out any) error {
	_, err := c.apiContent(ctx, service, call{verb: verb, args: args}, ".", out)
	return err
}

// apiContent is api within a scope, for a reply with raw content.
func (c *Client) apiContent(ctx context.Context, service string, k call, scope string, out any) ([]byte, error) {
	ctx, cancel := bounded(ctx, c.cfg.Wait)
	defer cancel()
	id := mesh.NewID()
	changes := service == mesh.ServiceWorkspace && k.verb != mesh.VerbWorkspaceList || service == mesh.ServiceSnapshot && k.verb == mesh.VerbSnapshotRemove
	k.reads = !changes
	var unknown bool
	var last error
	for try := 0; ctx.Err() == nil; try++ {
		if try > 0 {
			if !pause(ctx, try) {
				break
			}
			c.again.Add(1)
		}
		reply, _, err := c.hedged(ctx, k, service, scope, id)
		if err == nil {
			c.lately.Store(mesh.Node(reply.Header.Get(mesh.HeaderNode)))
			content, err := mesh.DecodeReply(reply, out)
			if err != nil && unknown && changes && !retrySafe(err) {
				break // exists or not_found may be our own doing
			}
			if err == nil || !retrySafe(err) {
				return content, err
			}
			last = err
			continue
		}
		if c.conn.IsClosed() {
			return nil, c.closed()
		}
		if mesh.CodeOf(err) == mesh.CodeTooLarge {
			return nil, err
		}
		unknown = unknown || mesh.CodeOf(err) == mesh.CodeDeadline
		if last == nil || ctx.Err() == nil { // else the end of time cut it off: the tries before say more
			last = err
		}
	}
	return nil, c.gaveUp(ctx, unknown && changes, last)
}

// hedged sends a request to the group and, when it stays unanswered for
// hedgeAfter, the same request to the node that answered lately; where none has, to the
// group, again and again. A change is not
// hedged, since two nodes would do it side by side, but for memory's, of which the
// second does nothing; a refusal of one then stands when the other is answered
// too. open is how many were not answered, or with lost: those may have been done.
func (c *Client) hedged(ctx context.Context, k call, service, scope, id string) (reply *nats.Msg, open int, err error) {
	var asking sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); asking.Wait() }() // the answer ends the other try
	type result struct {
		reply *nats.Msg
		err   error
	}
	results := make(chan result, 2*tryTime/hedgeAfter)
	ask := func(subject string) {
		m, err := mesh.NewRequest(subject, id, scope, k.args, k.content)
		if err == nil {
			m, err = c.send(ctx, m, 2*tryTime)
		}
		results <- result{m, err}
	}
	asking.Go(func() { ask(c.apiSubject(service, k.verb, "")) })
	asked := 1
	timer := time.NewTimer(hedgeAfter)
	defer timer.Stop()
	for {
		select {
		case r := <-results:
			asked--
			if r.err == nil && (reply == nil || k.settles(r.reply)) {
				reply = r.reply
			}
			if mesh.CodeOf(r.err) == mesh.CodeDeadline || r.err == nil && lost(r.reply) {
				open++
			}
			if reply != nil && (asked == 0 || k.settles(reply)) {
				return reply, open + asked, nil
			}
			if asked == 0 {
				return nil, open, r.err
			}
		case <-timer.C:
			if !k.reads {
				continue
			}
			node, known := c.lately.Load().(mesh.Node)
			asking.Go(func() { ask(c.apiSubject(service, k.verb, node)) })
			asked++
			if !known && asked < cap(results) {
				timer.Reset(hedgeAfter)
			}
		}
	}
}
