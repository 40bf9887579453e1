package client

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

// Change is one change of a workspace's files.
type Change struct {
	// Kind is one of mesh.ChangePut, ChangeRemove, ChangeRename and ChangeAttr, or
	// ChangeResync.
	Kind string
	Path string // below the workspace's scope; "" for ChangeResync
	To   string // ChangeRename
	Time time.Time
	// Cursor is behind this change: Watch goes on from there, whenever, with any
	// client of the tenant.
	Cursor string
}

// ChangeResync is the Kind of a Change that says: what came before it is not known
// any more. The files are to be looked at anew; what changes from here on follows.
const ChangeResync = "resync"

// Cursor is where the workspace is now: Watch from there tells all that changes
// later.
func (w *Workspace) Cursor(ctx context.Context) (string, error) {
	ctx, op := w.reads(ctx, "watch")
	var reply mesh.ChangesReply
	err := w.changesPage(ctx, "", 0, &reply)
	return reply.Cursor, op.end(err)
}

func (w *Workspace) changesPage(ctx context.Context, cursor string, wait time.Duration, reply *mesh.ChangesReply) error {
	if w.err != nil {
		return w.err
	}
	req := mesh.ChangesRequest{Workspace: w.name, Cursor: cursor, WaitMS: wait.Milliseconds()}
	_, err := w.client.apiContent(ctx, mesh.ServiceLog, call{verb: mesh.VerbLogChanges, args: req}, w.scope, reply)
	return err
}

// Watch yields the changes of the workspace's files from a cursor on, or from now
// on with "", in the order in which they were made, each once, until ctx ends. What
// a command changes is told when it is captured. Watch goes on through lost
// connections, dead nodes and new owners, opens no workspace, and costs nodes nothing
// while it listens; a token of a path, which hears nothing, asks.
//
// What a watcher has missed is read from the journal, which keeps it until the next
// checkpoint; later it is told by one ChangeResync. An error ends the watch:
// CodeNotFound when there is no such workspace, or not any more; CodeInvalid for what
// is no cursor; CodeUnavailable when the client was closed.
func (w *Workspace) Watch(ctx context.Context, cursor string) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		ctx, op := w.reads(ctx, "watch")
		whole(op, func(yield func(Change, error) bool) {
			f := feed{workspace: w, yield: yield}
			if err := f.run(ctx, cursor); err != nil && ctx.Err() == nil {
				yield(Change{}, err)
			}
		}, yield)
	}
}

// feed follows the journal of a workspace: it hears the records' headers as they are
// stored, and reads from a node what it did not hear.
type feed struct {
	workspace *Workspace
	yield     func(Change, error) bool
	at        mesh.ChangeCursor
	ended     bool // the reader has had enough
}

func (f *feed) run(ctx context.Context, cursor string) error {
	w := f.workspace
	if w.err != nil {
		return w.err
	}
	var live chan *nats.Msg // nil: never says anything
	wait := mesh.MaxLogWait
	if _, scope := w.client.Bound(); scope == "" || scope == "." {
		live, wait = make(chan *nats.Msg, liveBuffer), 0
		sub, err := w.client.conn.ChanSubscribe(mesh.EventSubject(w.client.claims.Tenant, w.name), live)
		if err != nil {
			return mesh.Errorf(mesh.CodeUnavailable, "watch workspace %s: %s", w.name, err)
		}
		defer sub.Unsubscribe() //nolint:errcheck // gone with the connection otherwise
	}
	if err := f.fill(ctx, cursor, wait); err != nil {
		return err
	}
	quiet := time.Second
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for !f.ended {
		if live == nil {
			timer.Reset(0) // the node waits
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case m := <-live:
			quiet = time.Second
			err = f.hear(ctx, m)
		case <-timer.C: // the last message of a subject may be lost without a trace
			quiet = min(5*time.Second, 2*quiet)
			err = f.fill(ctx, f.at.String(), wait)
		}
		if err != nil {
			return err
		}
		timer.Reset(quiet)
	}
	return nil
}

// hear takes in a record's headers. Only one that follows what was told says what
// comes next.
func (f *feed) hear(ctx context.Context, m *nats.Msg) error {
	seq, _ := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if seq != 0 && seq <= f.at.Sequence {
		return nil // heard twice, or read before
	}
	prev, err := strconv.ParseUint(m.Header.Get(mesh.HeaderPrev), 10, 64)
	if err != nil {
		return f.fill(ctx, f.at.String(), 0)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		at = time.Now()
	}
	changes, all, err := mesh.ChangesIn(m.Header, at)
	if err != nil || !all || prev != f.at.Sequence || seq == 0 {
		return f.fill(ctx, f.at.String(), 0)
	}
	for i, c := range changes {
		if i < f.at.Told {
			continue
		}
		f.at.Told = i + 1
		if c, ok := c.In(f.workspace.scope); ok && !f.tell(c) {
			return nil
		}
	}
	f.at.Sequence, f.at.Told = seq, 0
	return nil
}

// fill reads from a node what follows a cursor. A mesh that cannot answer now is
// asked again.
func (f *feed) fill(ctx context.Context, cursor string, wait time.Duration) error {
	for try := 0; !f.ended; {
		var reply mesh.ChangesReply
		err := f.workspace.changesPage(ctx, cursor, wait, &reply)
		later := retrySafe(err) || mesh.CodeOf(err) == mesh.CodeDeadline
		switch {
		case err != nil && ctx.Err() == nil && later && !f.workspace.client.over():
			try++
			pause(ctx, try)
			continue
		case err != nil:
			return err
		}
		next, err := mesh.ParseChangeCursor(reply.Cursor)
		if err != nil {
			return err
		}
		if reply.Resync {
			f.at = next
			f.give(Change{Kind: ChangeResync, Time: time.Now()})
		}
		for _, c := range reply.Changes {
			f.at = mesh.ChangeCursor{Workspace: next.Workspace, Sequence: c.After, Told: c.Told}
			if !f.tell(c.Change) {
				return nil
			}
		}
		f.at, cursor = next, reply.Cursor
		if !reply.More {
			return nil
		}
		wait = 0
	}
	return nil
}

func (f *feed) tell(c mesh.Change) bool {
	return f.give(Change{Kind: c.Kind, Path: string(c.Path), To: string(c.To), Time: c.Time})
}

func (f *feed) give(c Change) bool {
	c.Cursor = f.at.String()
	f.ended = f.ended || !f.yield(c, nil)
	return !f.ended
}
