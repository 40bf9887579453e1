package node

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// storedCommit is one commit of a workspace; err says why it cannot be read.
type storedCommit struct {
	ref    objstore.Ref
	commit *objstore.Commit
	err    error
	origin bool // it is the one that the workspace was forked from: the last one, whose past is another's
}

// commitName is the name of a commit in a record.
func commitName(text string) string {
	_, name, _ := strings.Cut(text, ".")
	return name
}

// commits yields the workspace's commits, the newest first: from head on each one's
// parent. Where that way ends at one that cannot be read, or lost says that head is
// not known, it goes on with the newest older one that is among all packs of the
// tenant. It ends with the first error.
func (w *workspace) commits(ctx context.Context, head objstore.Ref, lost bool) iter.Seq2[storedCommit, error] {
	return func(yield func(storedCommit, error) bool) {
		store, err := w.content(ctx)
		if err != nil {
			yield(storedCommit{}, err)
			return
		}
		below := ^uint64(0)
		for !head.IsZero() || lost {
			if head.IsZero() {
				found, err := w.found.commits(ctx, store, w.record.ID)
				if err != nil {
					yield(storedCommit{}, err)
					return
				}
				i := slices.IndexFunc(found, func(c objstore.FoundCommit) bool { return c.Number < below })
				if i < 0 {
					return
				}
				head = found[i].Ref
			}
			c := storedCommit{ref: head}
			if c.commit, c.err = store.Commit(ctx, head); passing(c.err) {
				yield(c, c.err)
				return
			}
			c.origin = c.err == nil && c.commit.Workspace != w.record.ID && owns(&w.record, head, c.commit.Workspace)
			if c.err == nil && !c.origin && c.commit.Workspace != w.record.ID {
				c.commit, c.err = nil, mesh.Errorf(mesh.CodeInternal, "commit %s is of another workspace", head.Commit)
			}
			if !yield(c, nil) || c.origin {
				return
			}
			head, lost = objstore.Ref{}, c.err != nil
			if c.err == nil {
				head, below = c.commit.Parent, c.commit.Number
			}
		}
	}
}

// passing reports whether an error says nothing of what is stored: asking again
// may help.
func passing(err error) bool {
	switch mesh.CodeOf(err) {
	case mesh.CodeUnavailable, mesh.CodeDeadline, mesh.CodeCanceled, mesh.CodeStale, mesh.CodeLost, mesh.CodeQuota, mesh.CodeBusy:
		return err != nil
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// foundCommits remembers which commits of a workspace are among the packs of its
// tenant: all of these are read for that. The zero value works.
type foundCommits struct {
	mu   sync.Mutex
	done bool
	all  []objstore.FoundCommit // the newest first
}

func (f *foundCommits) commits(ctx context.Context, store *objstore.Store, workspace string) ([]objstore.FoundCommit, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return f.all, nil
	}
	all, err := store.FindCommits(ctx, workspace)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b objstore.FoundCommit) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Number, a.Number))
	})
	f.all, f.done = all, true
	return all, nil
}
