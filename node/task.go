package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/sandbox"
)

// task is one request that changes files, in the order that keeps what is
// acknowledged: look at the disk under the lock of the paths, make the content
// aside, store large content in packs, store the record, change the disk, answer.
// The steps before the record leave nothing that anybody sees; a crash after it
// leaves a disk that the next opening makes follow.
type task struct {
	*workspace
	ctx context.Context
	req *mesh.Request
	key string // of its answer in the journal; "" without a Mesh-Id

	held      []string                 // paths that it has locked
	unlock    func()                   // gives them back
	elsewhere []string                 // where the paths really lead, through links; the locked ones are of no use
	looked    bool                     // at the disk: a refusal is one of this state
	answered  bool                     // the journal has the answer
	answer    func(sandbox.Change) any // the reply for a change, when it is known before
	private   bool                     // changed nothing that others see: no record
}

// maxLookups bounds how often the paths of one request are looked up again because
// links on the way change.
const maxLookups = 8

// at runs a change of a view under the lock of its paths, which begin as a guess.
func (t *task) at(view *sandbox.View, change func(*sandbox.View) error, paths ...string) error {
	for range maxLookups {
		unlock, err := t.locks.lock(t.ctx, paths...)
		if err != nil {
			return err
		}
		t.held, t.unlock, t.looked = paths, unlock, true
		err = change(view.Gated(t.gate))
		t.unlock()
		if t.elsewhere == nil {
			return err
		}
		paths, t.elsewhere = t.elsewhere, nil
	}
	return errPathMoves
}

// errPathMoves ends a lookup that comes to another place each time.
var errPathMoves = mesh.Errorf(mesh.CodeBusy, "the path is being changed all the time; try again")

// gate is where a change of a view waits for the journal.
func (t *task) gate(c sandbox.Change) (func(error) error, error) {
	paths := pathsOf(&c)
	for _, p := range paths {
		if !slices.ContainsFunc(t.held, func(held string) bool { return mesh.Inside(held, p) }) {
			t.elsewhere = paths
			return nil, errPathMoves
		}
	}
	return t.pass(c, t.answer)
}

// each is the gate of a change that is one of many: each locks its own paths.
func (t *task) each(c sandbox.Change) (func(error) error, error) {
	one := *t
	var err error
	if one.unlock, err = t.locks.lock(t.ctx, pathsOf(&c)...); err != nil {
		return nil, err
	}
	one.key = ""
	done, err := one.pass(c, nil)
	if err != nil {
		one.unlock()
		return nil, err
	}
	return func(err error) error {
		defer one.unlock()
		return done(err)
	}, nil
}

func pathsOf(c *sandbox.Change) []string {
	paths := []string{c.Path}
	for _, p := range []string{c.To, c.LinkTo} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	return paths
}

// pass records a change and returns what to do once the disk was to follow.
func (t *task) pass(c sandbox.Change, reply func(sandbox.Change) any) (func(error) error, error) {
	r := &recorder{w: t.workspace, ctx: t.ctx, verb: t.req.Verb}
	err := t.files.room()
	if err == nil {
		err = r.change(&c)
	}
	if err == nil && t.key != "" {
		var args any
		if reply != nil {
			args = reply(c)
		}
		r.answer, err = t.answerOf(args, nil)
	}
	if err == nil {
		err = r.flush()
	}
	if err != nil {
		return nil, t.giveUp(r, &c, err)
	}
	t.answered = true
	crashPoint("record stored")
	if c.Kind == sandbox.ChangeRename {
		t.files.renames.Add(1)
	}
	return func(err error) error {
		if c.Kind == sandbox.ChangeRename {
			t.files.renamed.Add(1)
		}
		if err == nil {
			t.files.done(&c)
			crashPoint("disk changed")
			return nil
		}
		return t.mend(&c, err)
	}, nil
}

// giveUp ends a change that could not be recorded. Where a part of it was, the
// journal is told that it is not so.
func (t *task) giveUp(r *recorder, c *sandbox.Change, err error) error {
	if r.flushed == 0 || mesh.CodeOf(err) == mesh.CodeLost || mesh.CodeOf(err) == mesh.CodeStale {
		return err
	}
	return t.mend(c, err)
}

// mend records the true state of what a change was to touch, after the journal
// said that it has happened and the disk did not follow. An owner that cannot
// leaves the workspace to the next one, which follows the journal.
func (t *task) mend(c *sandbox.Change, failure error) error {
	if t.unlock != nil {
		t.unlock() // a path above is wanted, whose holders may wait for ours
	}
	defer t.files.watch.Lose() // what is recorded of the disk, nothing on the disk tells of
	paths := pathsOf(c)[:1]
	if c.To != "" {
		paths = append(paths, c.To)
	}
	if len(c.Missing) > 0 {
		paths[len(paths)-1] = c.Missing[0]
	}
	e := t.public(failure)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), maxMend)
	defer cancel()
	err := t.tellTruth(ctx, paths, e)
	if err == nil {
		return e
	}
	t.log.Error("the disk does not follow the journal", "err", err, "failure", failure)
	lost := mesh.Errorf(mesh.CodeLost, "outcome unknown: node %s could not make the change and gives the workspace up", t.node.cfg.Name)
	t.stop(lost)
	return lost
}

// maxMend bounds how long the state of paths is read and recorded.
const maxMend = time.Minute

// truthTries is how often what commands go on changing is read.
const truthTries = 100

func (t *task) tellTruth(ctx context.Context, paths []string, e *mesh.Error) error {
	unlock, err := t.locks.lock(ctx, paths...)
	if err != nil {
		return err
	}
	defer unlock()
	var r *recorder
	for try := range truthTries { // commands may change what is read
		if try > truthTries/10 { // as fast as it is read
			time.Sleep(rand.N(5 * time.Millisecond))
		}
		r = &recorder{w: t.workspace, ctx: ctx, verb: t.req.Verb}
		for _, p := range paths {
			if err = r.state(p); err != nil {
				break
			}
		}
		if err == nil || !isUnsteady(mesh.CodeOf(err)) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if t.key != "" {
		if r.answer, err = t.answerOf(nil, e); err != nil {
			return err
		}
	}
	return r.flush()
}

// isUnsteady tells how reading a tree fails that changes meanwhile: names go, and
// directories become links.
func isUnsteady(c mesh.Code) bool {
	switch c {
	case mesh.CodeBusy, mesh.CodeConflict, mesh.CodeNotFound, mesh.CodeDenied, mesh.CodeInvalid, mesh.CodeExists:
		return true
	}
	return false
}

// public is an error as the caller and the journal may have it.
func (t *task) public(err error) *mesh.Error {
	var e *mesh.Error
	if errors.As(err, &e) {
		return e
	}
	t.log.Error("change failed", "verb", t.req.Verb, "err", err)
	return mesh.Errorf(mesh.CodeOf(err), "%s failed on node %s; its log has the details", t.req.Verb, t.node.cfg.Name)
}

// finish records the outcome of a change that no record tells of yet: a refusal,
// or that nothing was to be done. Otherwise a fenced owner would refuse from an old
// disk, and a second try of a request could overtake the first.
func (t *task) finish(reply *mesh.Reply, err error) (*mesh.Reply, error) {
	if t.answered || t.private || !t.looked || err != nil && !isRefusal(mesh.CodeOf(err)) {
		return reply, err
	}
	op := objstore.Op{Kind: objstore.KindRefused, Code: mesh.CodeOf(err)}
	var answer *objstore.Answer
	var args any
	if reply != nil {
		args = reply.Args
	}
	if t.key != "" {
		var e *mesh.Error
		if err != nil {
			e = t.public(err)
		}
		var failed error
		if answer, failed = t.answerOf(args, e); failed != nil {
			return nil, failed
		}
	}
	if _, failed := t.journal.append(t.ctx, []objstore.Op{op}, answer); failed != nil {
		return nil, failed
	}
	return reply, err
}

// isRefusal tells verdicts on a change from failures, which a repeat may not meet.
func isRefusal(c mesh.Code) bool {
	switch c {
	case mesh.CodeInvalid, mesh.CodeNotFound, mesh.CodeExists, mesh.CodeDenied, mesh.CodeConflict, mesh.CodeTooLarge, mesh.CodeUnsupported:
		return true
	}
	return false
}
