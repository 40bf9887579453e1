package node

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// maxHistoryCommits bounds how many commits are read for one page.
const maxHistoryCommits = 32

// historyPlace is what has been told of a workspace's history, which is told from
// its end to its beginning: everything behind the record number, and of that one
// told changes, its last ones. A commit is told before the changes of the last record
// that is in it.
type historyPlace struct {
	number uint64
	told   int
	commit objstore.Ref // that is being told, or the next; zero: what is in none is
}

func (p historyPlace) String() string {
	return fmt.Sprintf("%d.%d.%s.%s", p.number, p.told, p.commit.Pack, p.commit.Commit)
}

// parseHistoryPlace is the inverse of String. A cursor is the caller's data: a commit
// that it names is looked at like any other, and has to be of the workspace.
func parseHistoryPlace(s string) (p historyPlace, err error) {
	part := strings.Split(s, ".")
	if len(part) != 4 {
		return p, errCursor
	}
	if _, err := fmt.Sscanf(part[0]+" "+part[1], "%d %d", &p.number, &p.told); err != nil {
		return p, errCursor
	}
	if p.commit.Pack, err = objstore.ParseID(part[2]); err == nil {
		p.commit.Commit, err = objstore.ParseID(part[3])
	}
	if err != nil {
		return p, errCursor
	}
	return p, nil
}

var errCursor = mesh.Errorf(mesh.CodeInvalid, "the cursor is not one of a page of history; begin without one")

// told is an entry of history and the place behind it.
type told struct {
	mesh.HistoryEntry
	behind historyPlace
}

func (w *workspace) history(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.HistoryRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	var from historyPlace
	if a.Cursor != "" {
		var err error
		if from, err = parseHistoryPlace(a.Cursor); err != nil {
			return nil, err
		}
	}
	if a.Limit <= 0 || a.Limit > mesh.MaxList {
		a.Limit = mesh.MaxList
	}
	if !w.node.lists.Take(string(w.tenant)) {
		return nil, mesh.Errorf(mesh.CodeBusy, "node %s makes as many lists as it may, at all or for one tenant; try again", w.node.cfg.Name)
	}
	defer w.node.lists.Give(string(w.tenant))
	reply := mesh.HistoryReply{Entries: []mesh.HistoryEntry{}}
	commits, size := 0, 0
	err := w.tell(ctx, from, a.Commits, func(t told) bool {
		e, shown := inScope(t.HistoryEntry, req.Scope)
		if shown {
			size += 6*(len(e.Path)+len(e.To)) + 40*len(e.Execs) + len(e.Cause) + len(e.Error) + 300
		}
		if t.Kind == mesh.HistoryCommit {
			commits++
		}
		if len(reply.Entries) == a.Limit || size > mesh.MaxMessage && len(reply.Entries) > 0 || commits > maxHistoryCommits {
			reply.More = true
			return false
		}
		if shown {
			reply.Entries = append(reply.Entries, e)
		}
		reply.Cursor = t.behind.String()
		return true
	})
	if !reply.More {
		reply.Cursor = ""
	}
	return &mesh.Reply{Args: reply}, err
}

// inScope is an entry as a scope sees it, if it does.
func inScope(e mesh.HistoryEntry, scope string) (mesh.HistoryEntry, bool) {
	if scope == "." {
		return e, true
	}
	if e.Path == "" {
		return e, false
	}
	c, ok := mesh.Change{Kind: e.Kind, Path: e.Path, To: e.To}.In(scope)
	e.Kind, e.Path, e.To = c.Kind, c.Path, c.To
	return e, ok
}

// tell yields what happened to the files behind a place of its history, until yield
// says no: changes that are in no commit, then each commit and what it brought.
// Without the changes, if only commits are wanted.
func (w *workspace) tell(ctx context.Context, from historyPlace, only bool, yield func(told) bool) error {
	head, lost := from.commit, false
	if head.IsZero() {
		var tail []mesh.HistoryEntry
		var err error
		if tail, head, lost, err = w.tail(ctx); err != nil {
			return err
		}
		if !only && !tellChanges(tail, from, objstore.Ref{}, yield) {
			return nil
		}
	}
	store, err := w.content(ctx)
	if err != nil {
		return err
	}
	last := from
	for c, err := range w.commits(ctx, head, lost) {
		if err != nil {
			return err
		}
		t := told{HistoryEntry: mesh.HistoryEntry{Kind: mesh.HistoryCommit, Commit: c.ref.Commit.String()}}
		if c.err != nil {
			t.Error = mesh.AsError(c.err).Text
			t.behind = historyPlace{number: cmp.Or(last.number, math.MaxUint64), told: last.told, commit: c.ref}
			if !from.isAt(c.ref) && !yield(t) {
				return nil
			}
			continue
		}
		t.Time = c.commit.Time
		if c.origin {
			t.Cause = "forked from workspace " + string(w.record.Origin.Workspace)
		} else {
			t.Number, t.Epoch, t.Cause, t.Changes = c.commit.Number, c.commit.Epoch, c.commit.Cause, c.commit.Changes
		}
		last = historyPlace{number: t.Number, commit: c.ref}
		t.behind = last
		var changes []mesh.HistoryEntry
		if !only && !c.origin {
			if changes, err = w.changesIn(ctx, store, c); passing(err) {
				return err
			}
			if err != nil {
				t.Error = mesh.AsError(err).Text
			}
		}
		if from.before(t.Number, 0) && !yield(t) || !tellChanges(changes, from, c.ref, yield) {
			return nil
		}
	}
	return nil
}

// isAt reports whether the commit, which has no place of its own because it cannot be
// read, was told last.
func (p historyPlace) isAt(ref objstore.Ref) bool { return p.commit == ref }

// before reports whether the change that is the n-th last of a record comes behind
// the place; the commit of a record is its 0th.
func (p historyPlace) before(number uint64, n int) bool {
	return p == historyPlace{} || number < p.number || number == p.number && n > p.told
}

// tellChanges yields changes, which are in the order in which they happened, from the
// last one on; false says that yield wants no more.
func tellChanges(changes []mesh.HistoryEntry, from historyPlace, in objstore.Ref, yield func(told) bool) bool {
	n := 0 // of the same record
	for i, e := range slices.Backward(changes) {
		if n++; i+1 < len(changes) && changes[i+1].Number != e.Number {
			n = 1
		}
		if from.before(e.Number, n) && !yield(told{e, historyPlace{number: e.Number, told: n, commit: in}}) {
			return false
		}
	}
	return true
}

// changesIn reads what a commit brought.
func (w *workspace) changesIn(ctx context.Context, store *objstore.Store, c storedCommit) ([]mesh.HistoryEntry, error) {
	if len(c.commit.History) == 0 {
		return nil, nil
	}
	r, err := store.Reader(ctx, append(slices.Clip(c.commit.Packs), c.ref.Pack)...)
	if err != nil {
		return nil, err
	}
	return r.History(ctx, c.commit)
}

// tail returns what changed since the last commit, and that one. lost says that it
// is not known which that is.
func (w *workspace) tail(ctx context.Context) (changes []mesh.HistoryEntry, head objstore.Ref, lost bool, err error) {
	if f := w.files; f != nil {
		m := f.moment()
		return m.history, m.parent, false, nil
	}
	p, err := w.readPast(ctx)
	if passing(err) {
		return nil, head, false, err
	}
	for _, r := range p.records {
		changes = append(changes, r.HistoryOf()...)
	}
	return changes, p.ref, p.ref.IsZero() && err != nil, nil
}
