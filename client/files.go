package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// inFlight is how many parts of one transfer are on their way at a time: with
// 512 KiB each, 2 MiB. A round trip is then hidden and memory stays constant.
const inFlight = 4

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
	err    error // of a scope that cannot be
}

// Name is the workspace's name.
func (w *Workspace) Name() string { return string(w.name) }

// Scope returns a view below path. It nests and never widens: a path that
// leaves this scope makes a handle whose every use is CodeDenied.
func (w *Workspace) Scope(path string) *Workspace {
	s := *w
	scope, err := mesh.ParseScope(w.scope, path)
	if s.err == nil {
		s.err = err
	}
	s.scope = scope
	return &s
}

// Info says where the workspace is open and in which tenure.
func (w *Workspace) Info(ctx context.Context) (mesh.InfoReply, error) {
	var info mesh.InfoReply
	_, err := w.request(ctx, call{verb: mesh.VerbInfo, args: struct{}{}, reads: true}, &info)
	return info, err
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
	var info mesh.FileInfo
	_, err := w.request(ctx, call{verb: mesh.VerbStat, args: mesh.StatRequest{Path: mesh.Path(path), Follow: follow}, reads: true}, &info)
	return info, pathError("stat", path, err)
}

// pathError gives an error the shape that the standard library's have.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// ReadDir yields a directory's entries, sorted by the bytes of their names; each
// entry's Path is the bare name. It reads page by page, so a directory that
// changes meanwhile may show some changes and not others.
func (w *Workspace) ReadDir(ctx context.Context, path string) iter.Seq2[mesh.FileInfo, error] {
	return func(yield func(mesh.FileInfo, error) bool) {
		req := mesh.ListRequest{Path: mesh.Path(path)}
		for {
			var page mesh.ListReply
			if _, err := w.request(ctx, call{verb: mesh.VerbList, args: req, reads: true}, &page); err != nil {
				yield(mesh.FileInfo{}, pathError("list", path, err))
				return
			}
			for _, e := range page.Entries {
				if !yield(e, nil) {
					return
				}
				req.After = e.Path
			}
			if !page.More || len(page.Entries) == 0 {
				return
			}
		}
	}
}

// ReadFile reads a whole file into memory; Get streams.
func (w *Workspace) ReadFile(ctx context.Context, path string) ([]byte, error) {
	var all []byte
	err := w.ranges(ctx, path, func(b []byte) error {
		if all == nil {
			all = b // the first range is the whole of most files
		} else {
			all = append(all, b...)
		}
		return nil
	})
	return all, pathError("read", path, err)
}

// Get copies a file of any size to out, in constant memory. When the file is
// replaced meanwhile the error is CodeConflict: what was written is no version
// of it.
func (w *Workspace) Get(ctx context.Context, path string, out io.Writer) error {
	return pathError("read", path, w.ranges(ctx, path, func(b []byte) error {
		_, err := out.Write(b)
		return err
	}))
}

func (w *Workspace) readRange(ctx context.Context, req mesh.ReadRequest) ([]byte, mesh.FileInfo, error) {
	var reply mesh.ReadReply
	b, err := w.request(ctx, call{verb: mesh.VerbRead, args: req, reads: true}, &reply)
	return b, reply.File, err
}

// ranges reads a file in order, several ranges in flight, all of one revision.
func (w *Workspace) ranges(ctx context.Context, path string, each func([]byte) error) error {
	req := mesh.ReadRequest{Path: mesh.Path(path)}
	first, info, err := w.readRange(ctx, req)
	if err != nil {
		return err
	}
	if err := each(first); err != nil {
		return err
	}
	req.Revision = info.Revision
	return window(ctx, int64(len(first)), info.Size, func(ctx context.Context, offset int64) ([]byte, error) {
		r := req
		r.Offset = offset
		b, _, err := w.readRange(ctx, r)
		if err == nil && int64(len(b)) != min(mesh.MaxMessage, info.Size-offset) {
			err = mesh.Errorf(mesh.CodeConflict, "the file became shorter while it was being read; start over")
		}
		return b, err
	}, each)
}

// window fetches the parts of [from, size) with inFlight of them on their way
// and hands them to each in order.
func window(ctx context.Context, from, size int64, fetch func(context.Context, int64) ([]byte, error), each func([]byte) error) error {
	type part struct {
		b   []byte
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var queue []chan part
	for next := from; next < size || len(queue) > 0; {
		for ; next < size && len(queue) < inFlight; next += mesh.MaxMessage {
			offset, c := next, make(chan part, 1)
			queue = append(queue, c)
			go func() {
				b, err := fetch(ctx, offset)
				c <- part{b, err}
			}()
		}
		p := <-queue[0]
		queue = queue[1:]
		if p.err != nil {
			return p.err
		}
		if err := each(p.b); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile writes a file whole: readers see the old content or the new, never
// a part. Parents are made. perm 0 keeps the mode of an existing file, or is
// 0644.
func (w *Workspace) WriteFile(ctx context.Context, path string, data []byte, perm fs.FileMode) error {
	if len(data) > mesh.MaxMessage {
		return w.Put(ctx, path, bytes.NewReader(data), perm)
	}
	req := mesh.WriteRequest{Path: mesh.Path(path), Mode: uint32(perm.Perm())}
	if data == nil {
		data = []byte{}
	}
	_, err := w.request(ctx, call{verb: mesh.VerbWrite, args: req, content: data, create: true}, nil)
	return pathError("write", path, err)
}

// Put writes a file of any size from in, in constant memory: the content is
// staged on the node and put in place when it is complete.
func (w *Workspace) Put(ctx context.Context, path string, in io.Reader, perm fs.FileMode) error {
	stage, size, err := w.stage(ctx, in)
	if err == nil {
		req := mesh.WriteRequest{Path: mesh.Path(path), Mode: uint32(perm.Perm()), Stage: stage, Commit: true, Size: size}
		_, err = w.request(ctx, call{verb: mesh.VerbWrite, args: req, create: true, long: true}, nil)
	}
	return pathError("write", path, err)
}

// stage sends content to the node in parts, several in flight.
func (w *Workspace) stage(ctx context.Context, in io.Reader) (id string, size int64, err error) {
	id = mesh.NewID()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	for last := false; !last && gctx.Err() == nil; {
		buf := make([]byte, mesh.MaxMessage)
		n, err := io.ReadFull(in, buf)
		last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return id, size, errors.Join(err, g.Wait())
		}
		if n == 0 && size > 0 {
			break
		}
		req := mesh.WriteRequest{Stage: id, Offset: size}
		g.Go(func() error {
			_, err := w.request(gctx, call{verb: mesh.VerbWrite, args: req, content: buf[:n], create: true}, nil)
			return err
		})
		size += int64(n)
	}
	return id, size, g.Wait()
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
	req := mesh.MkdirRequest{Path: mesh.Path(path), Mode: uint32(perm.Perm()), Parents: parents}
	_, err := w.request(ctx, call{verb: mesh.VerbMkdir, args: req, create: true}, nil)
	return pathError("mkdir", path, err)
}

// Remove removes a file, a link or an empty directory.
func (w *Workspace) Remove(ctx context.Context, path string) error {
	_, err := w.request(ctx, call{verb: mesh.VerbRemove, args: mesh.RemoveRequest{Path: mesh.Path(path)}}, nil)
	return pathError("remove", path, err)
}

// RemoveAll removes a name and everything below it; one that does not exist is
// fine. The scope's root itself is CodeDenied.
func (w *Workspace) RemoveAll(ctx context.Context, path string) error {
	_, err := w.request(ctx, call{verb: mesh.VerbRemove, args: mesh.RemoveRequest{Path: mesh.Path(path), Recursive: true}, long: true}, nil)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return pathError("remove", path, err)
}

// Rename moves a name, replacing a file at the new one; its parents are made.
func (w *Workspace) Rename(ctx context.Context, from, to string) error {
	_, err := w.request(ctx, call{verb: mesh.VerbRename, args: mesh.RenameRequest{From: mesh.Path(from), To: mesh.Path(to)}}, nil)
	return pathError("rename", from, err)
}

// PutDir unpacks a tar stream below path. It is staged whole first: a stream
// that breaks off changes nothing.
func (w *Workspace) PutDir(ctx context.Context, path string, in io.Reader) error {
	stage, size, err := w.stage(ctx, in)
	if err == nil {
		req := mesh.UploadRequest{Path: mesh.Path(path), Stage: stage, Size: size}
		_, err = w.request(ctx, call{verb: mesh.VerbUpload, args: req, create: true, long: true}, nil)
	}
	return pathError("upload", path, err)
}

// GetDir copies a directory to out as a tar stream, in constant memory.
func (w *Workspace) GetDir(ctx context.Context, path string, out io.Writer) error {
	stream := mesh.NewID()
	for n := 0; ; n++ {
		var reply mesh.DownloadReply
		req := mesh.DownloadRequest{Path: mesh.Path(path), Stream: stream, Number: n}
		b, err := w.request(ctx, call{verb: mesh.VerbDownload, args: req, reads: true}, &reply)
		if err == nil {
			_, err = out.Write(b)
		}
		if err != nil || reply.Last {
			return pathError("download", path, err)
		}
	}
}
