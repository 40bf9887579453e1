package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Workspace is a handle on a workspace, or on a scope of one. It holds no
// state of the mesh, costs nothing, and may be used concurrently.
//
// Paths are slash-separated and relative to the scope; absolute ones are too,
// except that /workspace is the workspace root as commands see it. A path that
// leaves the scope is CodeDenied. A workspace that does not exist is created by
// its first write or command; a read of it is CodeNotFound.
type Workspace struct {
	client *Client
	name   mesh.Workspace
	scope  string
	env    []string // NAME=value, of the scopes, the outer ones first
	at     string   // where the commit is that it shows; "": what is there now
	err    error    // of a name or scope that cannot be

	consistent bool // readings are confirmed
}

// Consistent returns a view whose readings see every change that was acknowledged, to
// whomever, before they were asked for. Others may, for as long as a workspace changes
// hands, be answered by an owner who was frozen or cut off and does not know of its
// successor. Each costs a small record in the journal, which those at the same time
// share; the tenant's room counts (CodeQuota). Changes and commands need no such view,
// and memory's readings are always so.
func (w *Workspace) Consistent() *Workspace {
	c := *w
	c.consistent = true
	return &c
}

// Env is variables of the environment by name.
type Env map[string]string

// Name is the workspace's name.
func (w *Workspace) Name() string { return string(w.name) }

// Scope returns a view below path, whose commands have env besides what this
// view's have; a name in both has its new value, and Cmd.Env wins over both. It
// nests and never widens: a path that leaves this scope makes a handle whose
// every use is CodeDenied. The node enforces it for files, and the sandbox for
// commands, which see nothing of the workspace but the scope's directory.
func (w *Workspace) Scope(path string, env ...Env) *Workspace {
	s := *w
	scope, err := mesh.ParseScope(w.scope, path)
	if s.err == nil {
		s.err = err
	}
	s.scope = scope
	s.env = slices.Clone(w.env)
	for _, e := range env {
		for _, name := range slices.Sorted(maps.Keys(e)) {
			s.env = append(s.env, name+"="+e[name])
		}
	}
	return &s
}

// Info says where the workspace is open and in which tenure.
func (w *Workspace) Info(ctx context.Context) (mesh.InfoReply, error) {
	ctx, op := w.reads(ctx, "info")
	var info mesh.InfoReply
	_, err := w.request(ctx, call{verb: mesh.VerbInfo, args: struct{}{}, reads: true}, &info)
	return info, op.end(err)
}

// History yields what happened to the files, the newest first: what is in no commit
// yet, and then each commit and what changed since the one before it. Of a scope
// there are the changes and no commits. What happens meanwhile is not in it.
func (w *Workspace) History(ctx context.Context) iter.Seq2[mesh.HistoryEntry, error] {
	return w.history(ctx, mesh.HistoryRequest{})
}

// Commits is History of commits only.
func (w *Workspace) Commits(ctx context.Context) iter.Seq2[mesh.HistoryEntry, error] {
	return w.history(ctx, mesh.HistoryRequest{Commits: true})
}

func (w *Workspace) history(ctx context.Context, req mesh.HistoryRequest) iter.Seq2[mesh.HistoryEntry, error] {
	return func(yield func(mesh.HistoryEntry, error) bool) {
		ctx, op := w.reads(ctx, "history")
		req := req
		whole(op, pages(func() ([]mesh.HistoryEntry, bool, error) {
			page, err := w.HistoryPage(ctx, req)
			req.Cursor = page.Cursor
			return page.Entries, page.More, err
		}), yield)
	}
}

// HistoryPage asks for one page of History: for callers that hand on its Cursor. A
// page may be empty and not the last.
func (w *Workspace) HistoryPage(ctx context.Context, req mesh.HistoryRequest) (mesh.HistoryReply, error) {
	ctx, op := w.reads(ctx, "history")
	var page mesh.HistoryReply
	_, err := w.request(ctx, call{verb: mesh.VerbHistory, args: req, reads: true}, &page)
	return page, op.end(err)
}

// Verify reads everything that the workspace is made of from the store and checks it
// by its name, and compares the files on its node with it. It takes as long as the
// content is large; progress, unless it is nil, is called meanwhile. What is broken is
// in the reply and no error. CodeBusy: another verification goes on.
func (w *Workspace) Verify(ctx context.Context, progress func(mesh.VerifyReply)) (reply mesh.VerifyReply, err error) {
	ctx, op := w.reads(ctx, "verify")
	for id := mesh.NewID(); err == nil && !reply.Done; {
		reply = mesh.VerifyReply{}
		_, err = w.request(ctx, call{verb: mesh.VerbVerify, args: struct{}{}, id: id, reads: true}, &reply)
		if err == nil && progress != nil {
			progress(reply)
		}
	}
	return reply, op.end(err)
}

// Recover opens a workspace whose files cannot be restored: as it was at a commit, by
// its name in History, or, if from is "", at the newest that is whole and as much of
// what followed as is. The reply says what is lost. CodeConflict: the workspace can be
// opened, or the commit is not whole; CodeNotFound: there is no such commit, or none
// that is whole.
func (w *Workspace) Recover(ctx context.Context, from string, progress func(mesh.RecoverReply)) (reply mesh.RecoverReply, err error) {
	ctx, op := w.changes(ctx, "recover")
	for id := mesh.NewID(); err == nil && !reply.Done; {
		reply = mesh.RecoverReply{}
		_, err = w.request(ctx, call{verb: mesh.VerbRecover, args: mesh.RecoverRequest{From: from}, id: id}, &reply)
		if err == nil && progress != nil {
			progress(reply)
		}
	}
	return reply, op.end(err)
}

// Stat describes a name, following a final symbolic link.
func (w *Workspace) Stat(ctx context.Context, path string) (mesh.FileInfo, error) {
	return w.stat(ctx, path, true)
}

// Lstat describes a name itself.
func (w *Workspace) Lstat(ctx context.Context, path string) (mesh.FileInfo, error) {
	return w.stat(ctx, path, false)
}

func (w *Workspace) stat(ctx context.Context, path string, follow bool) (mesh.FileInfo, error) {
	ctx, op := w.reads(ctx, "stat", path)
	var info mesh.FileInfo
	_, err := w.request(ctx, call{verb: mesh.VerbStat, args: mesh.StatRequest{Path: mesh.Path(path), Follow: follow}, reads: true}, &info)
	return info, op.end(err)
}

// pathError gives an error the shape that the standard library's have.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: cmp.Or(path, "."), Err: err}
}

// linkError is pathError for what has two names.
func linkError(op, from, to string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: cmp.Or(from, "."), New: cmp.Or(to, "."), Err: err}
}

// ReadDir yields a directory's entries, sorted by the bytes of their names; each
// entry's Path is the bare name. It reads page by page, so a directory that
// changes meanwhile may show some changes and not others.
func (w *Workspace) ReadDir(ctx context.Context, path string) iter.Seq2[mesh.FileInfo, error] {
	return func(yield func(mesh.FileInfo, error) bool) {
		ctx, op := w.reads(ctx, "list", path)
		req := mesh.ListRequest{Path: mesh.Path(path)}
		whole(op, pages(func() ([]mesh.FileInfo, bool, error) {
			page, err := w.ReadDirPage(ctx, req)
			if page.More {
				req.After = page.Entries[len(page.Entries)-1].Path
			}
			return page.Entries, page.More, err
		}), yield)
	}
}

// ReadDirPage asks for one page of a directory: for callers that hand on where it
// ended, the Path of its last entry, as After of the next.
func (w *Workspace) ReadDirPage(ctx context.Context, req mesh.ListRequest) (mesh.ListReply, error) {
	ctx, op := w.reads(ctx, "list", string(req.Path))
	var page mesh.ListReply
	_, err := w.request(ctx, call{verb: mesh.VerbList, args: req, reads: true}, &page)
	page.More = page.More && len(page.Entries) > 0
	return page, op.end(err)
}

// ReadFile reads a whole file into memory, from its beginning again where it is another
// one before its end; Get streams.
func (w *Workspace) ReadFile(ctx context.Context, path string) ([]byte, error) {
	all, _, err := w.ReadFileInfo(ctx, path)
	return all, err
}

// ReadFileInfo is ReadFile that also describes the file; IfMatch of its Revision
// makes a change of what was read only.
func (w *Workspace) ReadFileInfo(ctx context.Context, path string) ([]byte, mesh.FileInfo, error) {
	ctx, op := w.reads(ctx, "read", path)
	for try := 1; ; try++ {
		all, info, err := w.readWhole(ctx, path)
		if mesh.CodeOf(err) != mesh.CodeConflict || try == maxReads {
			return all, info, op.end(err)
		}
	}
}

// maxReads is how often a file is read from its beginning that is another one before
// its end: replaced, or of a workspace that has moved.
const maxReads = 5

func (w *Workspace) readWhole(ctx context.Context, path string) ([]byte, mesh.FileInfo, error) {
	req := mesh.ReadRequest{Path: mesh.Path(path)}
	all, info, err := w.readRange(ctx, req)
	if size := int64(len(all)); err == nil && size < info.Size { // few files are
		all = append(make([]byte, 0, info.Size), all...)
		req.Offset, req.Revision = size, info.Revision
		err = w.rest(ctx, req, info.Size, func(b []byte) error {
			all = append(all, b...)
			return nil
		})
	}
	return all, info, err
}

// FileOption says under what condition a file is changed. The condition is looked
// at on the owner, in one step with the change.
type FileOption func(*fileOptions)

type fileOptions struct {
	ifMatch    string
	createOnly bool
	err        error
}

// IfMatch makes a change only if the file has this revision, which Stat and the
// reads give. Else it is CodeConflict, and the error's Revision is the one that the
// file has, "" where it is gone. A revision is of one content on one node: after the
// workspace has moved every revision is another one. Which of two changes of a command
// within a few milliseconds it means is not told: the host's clock is not finer.
func IfMatch(revision string) FileOption {
	return func(o *fileOptions) {
		if o.ifMatch = revision; revision == "" {
			o.err = mesh.Errorf(mesh.CodeInvalid, "an empty revision matches nothing")
		}
	}
}

// CreateOnly makes a change only if nothing is there: else CodeExists.
func CreateOnly() FileOption { return func(o *fileOptions) { o.createOnly = true } }

func fileOptionsOf(opts []FileOption) (o fileOptions) {
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// WriteFile writes a file whole: readers see the old content or the new, never
// a part. Parents are made. perm 0 keeps the mode of an existing file, or is
// 0644.
func (w *Workspace) WriteFile(ctx context.Context, path string, data []byte, perm fs.FileMode, opts ...FileOption) error {
	_, err := w.WriteFileInfo(ctx, path, data, perm, opts...)
	return err
}

// WriteFileInfo is WriteFile that describes the file as it was written. Its
// Revision is "" when somebody has changed it since.
func (w *Workspace) WriteFileInfo(ctx context.Context, path string, data []byte, perm fs.FileMode, opts ...FileOption) (mesh.FileInfo, error) {
	ctx, op := w.changes(ctx, "write", path)
	req, err := writeRequest(path, perm, opts)
	var info mesh.FileInfo
	if err == nil {
		info, err = w.write(ctx, req, data)
	}
	return info, op.end(err)
}

func writeRequest(path string, perm fs.FileMode, opts []FileOption) (mesh.WriteRequest, error) {
	o := fileOptionsOf(opts)
	return mesh.WriteRequest{Path: mesh.Path(path), Mode: uint32(perm.Perm()), CreateOnly: o.createOnly, IfMatch: o.ifMatch}, o.err
}

// CreateFile is WriteFile of a file that does not exist; CodeExists if it does.
func (w *Workspace) CreateFile(ctx context.Context, path string, data []byte, perm fs.FileMode) error {
	return w.WriteFile(ctx, path, data, perm, CreateOnly())
}

func (w *Workspace) write(ctx context.Context, req mesh.WriteRequest, data []byte) (mesh.FileInfo, error) {
	if len(data) > mesh.MaxMessage {
		return w.writeLarge(ctx, req, data)
	}
	if data == nil {
		data = []byte{}
	}
	var reply mesh.WriteReply
	_, err := w.request(ctx, call{verb: mesh.VerbWrite, args: req, content: data, create: true}, &reply)
	return reply.File, err
}

// writeLarge is Put, begun again when the workspace moved under it: the content
// is at hand.
func (w *Workspace) writeLarge(ctx context.Context, req mesh.WriteRequest, data []byte) (mesh.FileInfo, error) {
	const most = 5 // a workspace that moves more often is in trouble
	for n := 1; ; n++ {
		info, err := w.put(ctx, req, bytes.NewReader(data))
		if !errors.Is(err, errMoved) || n == most {
			return info, err
		}
	}
}

// EditRequest says what an Edit changes: by Edits, one after the other, each in what
// the one before has made, or by Diff, a unified diff of the file.
type EditRequest struct {
	Edits  []mesh.Edit // at most mesh.MaxEdits
	Diff   string      // each hunk fits where it says, to the byte
	DryRun bool        // say what would change, and change nothing
}

// Edited is what an Edit did, or would do.
type Edited struct {
	mesh.EditReply
	// Diff is the unified diff of the change: whole lines, the first of DiffBytes. ""
	// if nothing changes, and where the first answer was lost and a repeat has not got it.
	Diff string
}

// Edit changes pieces of a regular file, in one step with looking at it: two that edit
// one file at a time both find what the other has written. If one edit does not fit,
// none is made: CodeInvalid for a text that is not there and for a diff that is none,
// CodeConflict for a text that is there more than once, for a hunk that does not fit,
// and as IfMatch says. Line ends of a file that has CRLF, byte order mark and mode are
// kept, and bytes that are not UTF-8. CodeTooLarge: the file has, or would have, more
// than mesh.MaxEdit bytes, or the request more than mesh.MaxMessage. CodeUnsupported:
// it is a binary file.
func (w *Workspace) Edit(ctx context.Context, path string, edit EditRequest, opts ...FileOption) (Edited, error) {
	ctx, op := w.changes(ctx, "edit", path)
	o := fileOptionsOf(opts)
	var done Edited
	err := o.err
	if err == nil {
		req := mesh.EditRequest{
			Path: mesh.Path(path), Edits: edit.Edits, Diff: mesh.Text(edit.Diff), DryRun: edit.DryRun, IfMatch: o.ifMatch,
		}
		var diff []byte
		diff, err = w.request(ctx, call{verb: mesh.VerbEdit, args: req, reads: edit.DryRun}, &done.EditReply)
		done.Diff = string(diff)
	}
	return done, op.end(err)
}

// Mkdir makes a directory; CodeExists, and CodeNotFound when the parent is
// missing.
func (w *Workspace) Mkdir(ctx context.Context, path string, perm fs.FileMode) error {
	return w.mkdir(ctx, path, perm, false)
}

// MkdirAll makes a directory and its parents; one that exists is fine.
func (w *Workspace) MkdirAll(ctx context.Context, path string, perm fs.FileMode) error {
	return w.mkdir(ctx, path, perm, true)
}

func (w *Workspace) mkdir(ctx context.Context, path string, perm fs.FileMode, parents bool) error {
	ctx, op := w.changes(ctx, "mkdir", path)
	req := mesh.MkdirRequest{Path: mesh.Path(path), Mode: uint32(perm.Perm()), Parents: parents}
	_, err := w.request(ctx, call{verb: mesh.VerbMkdir, args: req, create: true}, nil)
	return op.end(err)
}

// Remove removes a file, a link or an empty directory.
func (w *Workspace) Remove(ctx context.Context, path string, opts ...FileOption) error {
	ctx, op := w.changes(ctx, "remove", path)
	o := fileOptionsOf(opts)
	err := o.err
	if err == nil {
		_, err = w.request(ctx, call{verb: mesh.VerbRemove, args: mesh.RemoveRequest{Path: mesh.Path(path), IfMatch: o.ifMatch}}, nil)
	}
	return op.end(err)
}

// RemoveAll removes a name and everything below it; one that does not exist is
// fine. The scope's root itself is CodeDenied.
func (w *Workspace) RemoveAll(ctx context.Context, path string) error {
	ctx, op := w.changes(ctx, "remove", path)
	_, err := w.request(ctx, call{verb: mesh.VerbRemove, args: mesh.RemoveRequest{Path: mesh.Path(path), Recursive: true}, long: true}, nil)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return op.end(err)
}

// Rename moves a name, replacing a file at the new one; its parents are made.
// IfMatch is about what is moved, CreateOnly about the new name.
func (w *Workspace) Rename(ctx context.Context, from, to string, opts ...FileOption) error {
	ctx, op := w.changes(ctx, "rename", from, to)
	o := fileOptionsOf(opts)
	err := o.err
	if err == nil {
		req := mesh.RenameRequest{From: mesh.Path(from), To: mesh.Path(to), NoReplace: o.createOnly, IfMatch: o.ifMatch}
		_, err = w.request(ctx, call{verb: mesh.VerbRename, args: req}, nil)
	}
	return op.end(err)
}

// RenameNew is Rename to a name that does not exist; CodeExists if it does.
func (w *Workspace) RenameNew(ctx context.Context, from, to string) error {
	return w.Rename(ctx, from, to, CreateOnly())
}

// Copy copies a file, or a directory with all that is below it, to a name that
// appears whole. A link at from is followed, links in a directory stay links; a
// file at to is replaced, a directory at to is CodeExists.
func (w *Workspace) Copy(ctx context.Context, from, to string) error {
	ctx, op := w.changes(ctx, "copy", from, to)
	req := mesh.CopyRequest{From: mesh.Path(from), To: mesh.Path(to), Recursive: true}
	_, err := w.request(ctx, call{verb: mesh.VerbCopy, args: req, long: true, parts: true}, nil)
	return op.end(err)
}

// Chmod sets the permission bits of what path leads to, and the sticky bit;
// setuid and setgid are CodeDenied.
func (w *Workspace) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	ctx, op := w.changes(ctx, "chmod", path)
	bits := uint32(mode.Perm())
	for _, b := range specialBits {
		if mode&b.flag != 0 {
			bits |= b.bit
		}
	}
	_, err := w.request(ctx, call{verb: mesh.VerbChmod, args: mesh.ChmodRequest{Path: mesh.Path(path), Mode: bits}}, nil)
	return op.end(err)
}

// Symlink makes the symbolic link path with the text target, which need not lead
// anywhere; what leads out of the scope is CodeDenied when it is followed. Parents
// of path are made.
func (w *Workspace) Symlink(ctx context.Context, target, path string) error {
	ctx, op := w.changes(ctx, "symlink", target, path)
	req := mesh.SymlinkRequest{Target: mesh.Path(target), Path: mesh.Path(path)}
	_, err := w.request(ctx, call{verb: mesh.VerbSymlink, args: req, create: true}, nil)
	return op.end(err)
}

// Readlink returns the text of a symbolic link.
func (w *Workspace) Readlink(ctx context.Context, path string) (string, error) {
	ctx, op := w.reads(ctx, "readlink", path)
	var reply mesh.ReadlinkReply
	_, err := w.request(ctx, call{verb: mesh.VerbReadlink, args: mesh.ReadlinkRequest{Path: mesh.Path(path)}, reads: true}, &reply)
	return string(reply.Target), op.end(err)
}

// Touch sets the modification time of what path leads to, the zero time is now,
// and keeps its content. A file that does not exist is made, empty.
func (w *Workspace) Touch(ctx context.Context, path string, at time.Time) error {
	ctx, op := w.changes(ctx, "touch", path)
	req := mesh.TouchRequest{Path: mesh.Path(path)}
	if !at.IsZero() {
		req.ModTime = &at
	}
	_, err := w.request(ctx, call{verb: mesh.VerbTouch, args: req, create: true}, nil)
	return op.end(err)
}
