package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/treefs"
)

// What a node keeps of what workspaces were: views, each with the indexes of a commit's
// packs, and how commits follow one another.
const (
	maxViews = 16
	maxChain = 8192
)

// viewKey names a view of a workspace, by the id of its record, to which the commit
// belongs.
type viewKey struct {
	workspace string
	ref       objstore.Ref
}

// viewAt is what a workspace was at a commit.
type viewAt struct {
	*treefs.View
	commit *objstore.Commit
}

// commitLink is what the way from commit to commit needs of one.
type commitLink struct {
	workspace string
	parent    objstore.Ref
	made      time.Time
}

func (n *Node) makeViews() (err error) {
	if n.views, err = lru.New[viewKey, *viewAt](maxViews); err != nil {
		return err
	}
	if n.links, err = lru.New[objstore.Ref, commitLink](maxChain); err != nil {
		return err
	}
	n.trees, err = treefs.NewCache()
	return err
}

// view returns what a workspace was at a commit, which must be its own, the one that it
// was forked from, or one that a snapshot of it names: a fork without changes has none of
// its own, and those of a workspace that was restored from the mirror were another
// mesh's.
func (n *Node) view(ctx context.Context, r *kv.WorkspaceRecord, ref objstore.Ref) (*viewAt, error) {
	key := viewKey{r.ID, ref}
	if v, ok := n.views.Get(key); ok {
		return v, nil
	}
	store, err := n.content(ctx, r.Tenant, r.PackShard())
	if err != nil {
		return nil, err
	}
	reader, c, err := store.CommitReader(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !owns(r, ref, c.Workspace) {
		snapshots, err := n.kv.Snapshots.List(ctx, r.Tenant, r.Name, r.ID)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(snapshots, func(s kv.SnapshotRecord) bool { return s.Commit == ref.String() }) {
			return nil, errNoCommit(r, ref.Commit.String())
		}
	}
	v := &viewAt{treefs.New(n.trees, reader, c.Root), c}
	n.views.Add(key, v)
	return v, nil
}

// owns reports whether a commit, of the workspace with that id, is one's own, or the one
// that it was forked from.
func owns(r *kv.WorkspaceRecord, ref objstore.Ref, id string) bool {
	return id == r.ID || r.Origin != nil && r.Origin.Commit == ref.String()
}

func errNoCommit(r *kv.WorkspaceRecord, name string) error {
	return mesh.Errorf(mesh.CodeNotFound, "workspace %s has no commit %.80s; see which it has with: wsmesh history --commits -w %s", r.Name, name, r.Name)
}

// find returns the commit that a snapshot's name, a commit, a time, or where a commit is
// (SnapshotEntry.At) means.
func (n *Node) find(ctx context.Context, r *kv.WorkspaceRecord, at string) (e mesh.SnapshotEntry, ref objstore.Ref, err error) {
	var made time.Time
	if name, badName := mesh.ParseSnapshot(at); badName == nil {
		snapshot, err := n.kv.Snapshots.Get(ctx, r.Tenant, r.Name, r.ID, name)
		if err != nil {
			return e, ref, err
		}
		if e, err = snapshotEntry(snapshot); err == nil {
			ref, err = objstore.ParseRef(snapshot.Commit)
		}
		e.At = ref.String()
		return e, ref, err
	}
	if ref, err = objstore.ParseRef(at); err == nil {
		var v *viewAt
		if v, err = n.view(ctx, r, ref); err == nil {
			made = v.commit.Time
		}
	} else if id, badID := objstore.ParseID(at); badID == nil {
		ref, made, err = n.findCommit(ctx, r, id)
	} else if until, badTime := time.Parse(time.RFC3339Nano, at); badTime == nil {
		ref, made, err = n.commitAt(ctx, r, until)
	} else {
		err = mesh.Errorf(mesh.CodeInvalid, "%.80q is neither the name of a snapshot, nor a commit (64 hex digits), nor a time (like 2006-01-02T15:04:05Z)", at)
	}
	return mesh.SnapshotEntry{Commit: ref.Commit.String(), Created: made, At: ref.String()}, ref, err
}

func (n *Node) findCommit(ctx context.Context, r *kv.WorkspaceRecord, id objstore.ID) (found objstore.Ref, made time.Time, err error) {
	all, err := n.kv.Snapshots.List(ctx, r.Tenant, r.Name, r.ID)
	if err != nil {
		return found, made, err
	}
	for _, s := range all {
		if ref, err := objstore.ParseRef(s.Commit); err == nil && ref.Commit == id {
			v, err := n.view(ctx, r, ref)
			if err != nil {
				return ref, made, err
			}
			return ref, v.commit.Time, nil
		}
	}
	err = n.chain(ctx, r, func(ref objstore.Ref, c commitLink) bool {
		if ref.Commit == id {
			found, made = ref, c.made
		}
		return found.IsZero()
	})
	if err == nil && found.IsZero() {
		err = errNoCommit(r, id.String())
	}
	return found, made, err
}

func (n *Node) commitAt(ctx context.Context, r *kv.WorkspaceRecord, until time.Time) (found objstore.Ref, made time.Time, err error) {
	err = n.chain(ctx, r, func(ref objstore.Ref, c commitLink) bool {
		if !c.made.After(until) {
			found, made = ref, c.made
		}
		return found.IsZero()
	})
	if err == nil && found.IsZero() {
		err = mesh.Errorf(mesh.CodeNotFound, "workspace %s has no commit that was made before %s; see which it has with: wsmesh history --commits -w %s", r.Name, until.Format(time.RFC3339), r.Name)
	}
	return found, made, err
}

// chain yields the commits of a workspace, the newest first, from parent to parent, until
// yield says no. It ends where one was collected.
func (n *Node) chain(ctx context.Context, r *kv.WorkspaceRecord, yield func(objstore.Ref, commitLink) bool) error {
	ref, err := n.headOf(ctx, r)
	if err != nil {
		return err
	}
	store, err := n.content(ctx, r.Tenant, r.PackShard())
	if err != nil {
		return err
	}
	for !ref.IsZero() {
		link, ok := n.links.Get(ref)
		if !ok {
			c, err := store.Commit(ctx, ref)
			if passing(err) {
				return err
			}
			if err != nil {
				return nil //nolint:nilerr // it was collected, or it is damaged: history says which
			}
			link = commitLink{workspace: c.Workspace, parent: c.Parent, made: c.Time}
			n.links.Add(ref, link)
		}
		if !owns(r, ref, link.workspace) || !yield(ref, link) || link.workspace != r.ID {
			return nil
		}
		ref = link.parent
	}
	return nil
}

// headOf returns the last commit of a workspace, as its journal says; zero: there is none.
func (n *Node) headOf(ctx context.Context, r *kv.WorkspaceRecord) (objstore.Ref, error) {
	if r.Shard >= len(n.shards) {
		return objstore.Ref{}, mesh.Errorf(mesh.CodeInternal, "workspace %s lives in shard %d; this node knows %d", r.Name, r.Shard, len(n.shards))
	}
	stream, subject := n.shards[r.Shard].journal, mesh.JournalSubject(r.Shard, r.Tenant, r.Name)
	for range 5 {
		last, err := lastRecord(ctx, stream, subject)
		if err != nil {
			return objstore.Ref{}, err
		}
		if last == nil || removedID(last) != "" || last.LastCheckpoint() == 0 {
			if r.Origin != nil {
				return objstore.ParseRef(r.Origin.Commit)
			}
			return objstore.Ref{}, nil
		}
		c, err := checkpointRecord(ctx, objstore.AtLeader(stream), subject, last.LastCheckpoint())
		if err == nil {
			return c.checkpointRef(), nil
		}
		if !errors.Is(err, objstore.ErrGap) { // else a newer one has taken it away
			return objstore.Ref{}, err
		}
	}
	return objstore.Ref{}, mesh.Errorf(mesh.CodeBusy, "workspace %s commits faster than it is read; try again", r.Name)
}

// checkpointed is a record of a journal with a checkpoint.
type checkpointed struct{ *objstore.StoredRecord }

func (c checkpointed) checkpointRef() objstore.Ref {
	for i := range c.Ops {
		if op := &c.Ops[i]; op.Kind == objstore.KindCheckpoint && op.Ref != nil {
			return *op.Ref
		}
	}
	return objstore.Ref{}
}

// checkpointRecord reads the record of a checkpoint; ErrGap says that it is not there.
func checkpointRecord(ctx context.Context, journal objstore.Records, subject string, sequence uint64) (c checkpointed, err error) {
	c.StoredRecord, err = journal.Next(ctx, subject, sequence)
	if err == nil && c.Sequence != sequence {
		err = fmt.Errorf("%w: checkpoint %d is not there", objstore.ErrGap, sequence)
	}
	return c, err
}

// early answers a request of an owner that is restoring the files.
func early[R any](read func(*viewAt, context.Context, string, *R) (*mesh.Reply, error)) func(*viewAt, context.Context, *mesh.Request) (*mesh.Reply, error) {
	return func(v *viewAt, ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
		var a R
		if err := req.Args(&a); err != nil {
			return nil, err
		}
		return read(v, ctx, req.Scope, &a)
	}
}

// readAt answers a request for files as they were.
func readAt[R any](ctx context.Context, n *Node, t mesh.Tenant, req *mesh.Request, read func(*viewAt, context.Context, string, *R) (*mesh.Reply, error)) (*mesh.Reply, error) {
	var a mesh.ReadAtRequest[R]
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	r, err := n.recordOf(ctx, t, req, a.Workspace)
	if err != nil {
		return nil, err
	}
	_, ref, err := n.find(ctx, &r, a.At)
	if err != nil {
		return nil, err
	}
	v, err := n.view(ctx, &r, ref)
	if err != nil {
		return nil, err
	}
	return read(v, ctx, req.Scope, &a.Request)
}

func (v *viewAt) stat(ctx context.Context, scope string, a *mesh.StatRequest) (*mesh.Reply, error) {
	p, err := mesh.ResolvePath(scope, string(a.Path))
	if err != nil {
		return nil, err
	}
	info, err := v.Stat(ctx, scope, p, a.Follow)
	return &mesh.Reply{Args: info}, err
}

func (v *viewAt) list(ctx context.Context, scope string, a *mesh.ListRequest) (*mesh.Reply, error) {
	p, err := mesh.ResolvePath(scope, string(a.Path))
	if err != nil {
		return nil, err
	}
	if a.Limit <= 0 || a.Limit > mesh.MaxList {
		a.Limit = mesh.MaxList
	}
	page, err := v.List(ctx, scope, p, string(a.After), a.Limit)
	if err != nil {
		return nil, err
	}
	return &mesh.Reply{Args: fitPage(page)}, nil
}

func (v *viewAt) read(ctx context.Context, scope string, a *mesh.ReadRequest) (*mesh.Reply, error) {
	p, err := mesh.ResolvePath(scope, string(a.Path))
	if err != nil {
		return nil, err
	}
	if a.Length <= 0 || a.Length > mesh.MaxMessage {
		a.Length = mesh.MaxMessage
	}
	content, info, err := v.ReadAt(ctx, scope, p, a.Offset, a.Length, a.Revision)
	return &mesh.Reply{Args: mesh.ReadReply{File: info}, Content: content}, err
}

func (v *viewAt) readlink(ctx context.Context, scope string, a *mesh.ReadlinkRequest) (*mesh.Reply, error) {
	p, err := mesh.ResolvePath(scope, string(a.Path))
	if err != nil {
		return nil, err
	}
	target, err := v.Readlink(ctx, scope, p)
	return &mesh.Reply{Args: mesh.ReadlinkReply{Target: mesh.Path(target)}}, err
}
