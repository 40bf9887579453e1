package client

import (
	"archive/tar"
	"context"
	"io"
	"iter"
	"path"

	"github.com/wsmesh/wsmesh/mesh"
)

// At returns what the workspace was: by the name of a snapshot, by a commit of History,
// or by a time (RFC 3339), as the newest commit was that is not newer. Stat, Lstat,
// ReadDir, ReadFile, Readlink, Get, GetDir and FS of what it returns show the files as they were
// then, from the store, whether the workspace is open or not, and always the same ones;
// Scope narrows it. Everything else of it is CodeUnsupported. CodeNotFound: there is no
// such snapshot, or no commit that can be read.
func (w *Workspace) At(ctx context.Context, at string) (*Workspace, error) {
	ctx, op := w.reads(ctx, "snapshot find")
	e, err := w.find(ctx, at)
	if err != nil {
		return nil, op.end(err)
	}
	past := *w
	past.at = e.At
	return &past, op.end(nil)
}

func (w *Workspace) find(ctx context.Context, at string) (e mesh.SnapshotEntry, err error) {
	return e, w.snapshots(ctx, mesh.VerbSnapshotFind, mesh.AtRequest{Workspace: w.name, At: at}, &e)
}

// snapshots does a request that any node answers.
func (w *Workspace) snapshots(ctx context.Context, verb string, args, out any) error {
	if w.err != nil {
		return w.err
	}
	_, err := w.client.apiContent(ctx, mesh.ServiceSnapshot, call{verb: verb, args: args}, w.scope, out)
	return err
}

// requestAt is request of what the workspace was.
func (w *Workspace) requestAt(ctx context.Context, k call, out any) ([]byte, error) {
	switch k.verb {
	case mesh.VerbStat, mesh.VerbList, mesh.VerbRead, mesh.VerbReadlink:
	default:
		return nil, mesh.Errorf(mesh.CodeUnsupported, "what a workspace was can be listed and read, and nothing else; restore it, or fork it, to work with it")
	}
	args := mesh.ReadAtRequest[any]{AtRequest: mesh.AtRequest{Workspace: w.name, At: w.at}, Request: k.args}
	return w.client.apiContent(ctx, mesh.ServiceSnapshot, call{verb: mesh.AtVerb(k.verb), args: args}, w.scope, out)
}

// getDirAt is GetDir of what the workspace was.
func (w *Workspace) getDirAt(ctx context.Context, dir string, out io.Writer) error {
	ctx, op := w.reads(ctx, "download", dir)
	info, err := w.Stat(ctx, dir)
	if err == nil && info.Type != "dir" {
		err = mesh.Errorf(mesh.CodeInvalid, "it is a %s, not a directory", info.Type)
	}
	tw := tar.NewWriter(out)
	if err == nil {
		err = w.packAt(ctx, tw, dir, "")
	}
	if err == nil {
		err = tw.Close()
	}
	return op.end(err)
}

// packAt packs what is in a directory, which is called below in the archive.
func (w *Workspace) packAt(ctx context.Context, tw *tar.Writer, dir, below string) error {
	for e, err := range w.ReadDir(ctx, dir) {
		if err != nil {
			return err
		}
		from, name := path.Join(dir, string(e.Path)), path.Join(below, string(e.Path))
		h := &tar.Header{Name: name, Mode: int64(e.Mode), ModTime: e.ModTime, Format: tar.FormatPAX}
		switch e.Type {
		case "file":
			h.Typeflag, h.Size = tar.TypeReg, e.Size
		case "dir":
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case "symlink":
			h.Typeflag, h.Linkname = tar.TypeSymlink, string(e.Target)
		case "fifo":
			h.Typeflag = tar.TypeFifo
		default:
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		switch e.Type {
		case "file":
			err = w.Get(ctx, from, tw)
		case "dir":
			err = w.packAt(ctx, tw, from, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Commit makes a commit of what the files are now, with all that commands have written up
// to then, also of those that run, and returns its name. Where nothing has changed since
// the last commit that is it.
func (w *Workspace) Commit(ctx context.Context) (string, error) {
	ctx, op := w.changes(ctx, "commit")
	commit, err := w.commit(ctx)
	return commit, op.end(err)
}

func (w *Workspace) commit(ctx context.Context) (string, error) {
	var reply mesh.CommitReply
	_, err := w.request(ctx, call{verb: mesh.VerbCommit, args: struct{}{}, reads: true, long: true}, &reply)
	return reply.Commit, err
}

// CreateSnapshot names what the files are now, as of Commit, while commands run; message
// is for people and may be "". CodeExists: the workspace has a snapshot of that name.
// CodeUnsupported: it is a directory of its node's machine. A scope cannot (CodeDenied).
func (w *Workspace) CreateSnapshot(ctx context.Context, name, message string) (mesh.SnapshotEntry, error) {
	ctx, op := w.changes(ctx, "snapshot create")
	var e mesh.SnapshotEntry
	req := mesh.SnapshotRequest{Name: mesh.Snapshot(name), Message: message}
	_, err := w.request(ctx, call{verb: mesh.VerbSnapshot, args: req, long: true}, &e)
	return e, op.end(err)
}

// Snapshots yields the workspace's snapshots, the oldest first.
func (w *Workspace) Snapshots(ctx context.Context) iter.Seq2[mesh.SnapshotEntry, error] {
	return func(yield func(mesh.SnapshotEntry, error) bool) {
		ctx, op := w.reads(ctx, "snapshot list")
		req := mesh.SnapshotListRequest{Workspace: w.name}
		whole(op, pages(func() ([]mesh.SnapshotEntry, bool, error) {
			var page mesh.SnapshotListReply
			err := w.snapshots(ctx, mesh.VerbSnapshotList, req, &page)
			if n := len(page.Snapshots); n > 0 {
				req.After = page.Snapshots[n-1].Name
			}
			return page.Snapshots, page.More, err
		}), yield)
	}
}

// RemoveSnapshot removes a snapshot; what only it refers to is collected later. A scope
// cannot (CodeDenied).
func (w *Workspace) RemoveSnapshot(ctx context.Context, name string) error {
	ctx, op := w.changes(ctx, "snapshot remove")
	return op.end(w.snapshots(ctx, mesh.VerbSnapshotRemove, mesh.AtRequest{Workspace: w.name, At: name}, nil))
}

// Restore makes the files at paths, or without any all files, with all that is below them,
// what they were, named as At takes it: content, and every attribute that a commit keeps.
// What is not there any more is made, what was not is removed, and what is the same is
// left alone. Before that the present is made a snapshot, which the reply names. It is
// applied as changes of files, while others change files and commands run; what they
// change meanwhile stays as they change it, or is restored. progress, unless it is nil, is
// called now and then. CodeNotFound: there is no such snapshot or commit, or a path is
// neither in it nor in the workspace. A scope cannot (CodeDenied).
func (w *Workspace) Restore(ctx context.Context, at string, paths []string, progress func(mesh.RestoreReply)) (reply mesh.RestoreReply, err error) {
	ctx, op := w.changes(ctx, "snapshot restore")
	req := mesh.RestoreRequest{At: at}
	for _, p := range paths {
		req.Paths = append(req.Paths, mesh.Path(p))
	}
	for id := mesh.NewID(); err == nil && !reply.Done; {
		reply = mesh.RestoreReply{}
		_, err = w.request(ctx, call{verb: mesh.VerbRestore, args: req, id: id}, &reply)
		if err == nil && progress != nil {
			progress(reply)
		}
	}
	return reply, op.end(err)
}

// DiffOptions say what Diff looks at.
type DiffOptions struct {
	Path string // only this name and what is below it; it leads through no link
	Text bool   // with unified diffs of text files
}

// Diff yields the names that are another in to than in from, below the scope, in the
// order of paths. Each is named as At takes it; "" is the present, which is committed for
// that. Times alone make no difference. It costs as much as differs.
func (w *Workspace) Diff(ctx context.Context, from, to string, opts DiffOptions) iter.Seq2[mesh.DiffEntry, error] {
	return func(yield func(mesh.DiffEntry, error) bool) {
		ctx, op := w.reads(ctx, "snapshot diff")
		var req mesh.DiffRequest
		whole(op, pages(func() ([]mesh.DiffEntry, bool, error) {
			var err error
			if req.Workspace == "" {
				req, err = w.diffRequest(ctx, from, to, opts)
			}
			var page mesh.DiffReply
			if err == nil {
				page, err = w.DiffPage(ctx, req)
			}
			req.Cursor = page.Next
			return page.Entries, page.Next != "", err
		}), yield)
	}
}

// diffRequest names both sides so that all pages are of the same commits.
func (w *Workspace) diffRequest(ctx context.Context, from, to string, opts DiffOptions) (mesh.DiffRequest, error) {
	req := mesh.DiffRequest{Workspace: w.name, Path: mesh.Path(opts.Path), Text: opts.Text}
	for _, side := range []struct {
		at string
		to *string
	}{{from, &req.From}, {to, &req.To}} {
		var err error
		if side.at == "" {
			if side.at, err = w.commit(ctx); err != nil {
				return req, err
			}
		}
		e, err := w.find(ctx, side.at)
		if err != nil {
			return req, err
		}
		*side.to = e.At
	}
	return req, nil
}

// DiffPage asks for one page of differences; From and To are named as At takes it, the
// Workspace is this one.
func (w *Workspace) DiffPage(ctx context.Context, req mesh.DiffRequest) (mesh.DiffReply, error) {
	ctx, op := w.reads(ctx, "snapshot diff", string(req.Path))
	req.Workspace = w.name
	var page mesh.DiffReply
	err := w.snapshots(ctx, mesh.VerbSnapshotDiff, req, &page)
	return page, op.end(err)
}

// Fork makes the workspace to of what the workspace from was, named as At takes it; "" is
// its present, which is committed for that. Nothing is copied: the fork can be read at
// once, a first command or change waits until its files are on its node, and from then on
// the two know nothing of each other. It begins without commands, logs and snapshots.
// CodeExists, CodeQuota; CodeNotFound: there is no such workspace, snapshot or commit.
func (c *Client) Fork(ctx context.Context, from, at, to string) (origin mesh.Origin, err error) {
	w := c.Workspace(from)
	ctx, op := w.changes(ctx, "workspace fork")
	if err = w.err; err == nil && at == "" {
		at, err = w.commit(ctx)
	}
	if err == nil {
		req := mesh.ForkRequest{From: w.name, At: at, Workspace: mesh.Workspace(to)}
		err = c.api(ctx, mesh.ServiceWorkspace, mesh.VerbWorkspaceFork, req, &origin)
	}
	return origin, op.end(err)
}
