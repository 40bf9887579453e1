package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// inFlight is how many parts of one transfer are on their way at a time: with
// 512 KiB each, 2 MiB. A round trip is then hidden and memory stays constant.
const inFlight = 4

// Get copies a file of any size to out, in constant memory. When the file is
// replaced meanwhile the error is CodeConflict: what was written is no version
// of it.
func (w *Workspace) Get(ctx context.Context, path string, out io.Writer) error {
	ctx, op := w.reads(ctx, "read", path)
	return op.end(w.ranges(ctx, path, func(b []byte) error {
		_, err := out.Write(b)
		return err
	}))
}

// ReadRange reads a part of a file, at most mesh.MaxMessage bytes, and describes
// the file. CodeConflict: req.Revision is given and the file is another one by
// now.
func (w *Workspace) ReadRange(ctx context.Context, req mesh.ReadRequest) ([]byte, mesh.FileInfo, error) {
	ctx, op := w.reads(ctx, "read", string(req.Path))
	b, info, err := w.readRange(ctx, req)
	return b, info, op.end(err)
}

func (w *Workspace) readRange(ctx context.Context, req mesh.ReadRequest) ([]byte, mesh.FileInfo, error) {
	var reply mesh.ReadReply
	b, err := w.request(ctx, call{verb: mesh.VerbRead, args: req, reads: true}, &reply)
	if err == nil && int64(len(b)) != reach(reply.File, req.Offset, req.Length) {
		err = mesh.Errorf(mesh.CodeConflict, "the file became shorter while it was being read; start over")
	}
	return b, reply.File, err
}

// reach is how many bytes a read of length bytes at offset gets of a file; 0 is
// as many as a message holds.
func reach(file mesh.FileInfo, offset int64, length int) int64 {
	if length == 0 {
		length = mesh.MaxMessage
	}
	return max(0, min(int64(length), mesh.MaxMessage, file.Size-offset))
}

// ranges reads a file in order, several ranges in flight, all of one revision.
func (w *Workspace) ranges(ctx context.Context, path string, each func([]byte) error) error {
	first, info, err := w.readRange(ctx, mesh.ReadRequest{Path: mesh.Path(path)})
	if err != nil {
		return err
	}
	if err := each(first); err != nil {
		return err
	}
	req := mesh.ReadRequest{Path: mesh.Path(path), Revision: info.Revision, Offset: int64(len(first))}
	return w.rest(ctx, req, info.Size, each)
}

// rest reads from req.Offset to the end of a file of size bytes and of the
// revision that req names.
func (w *Workspace) rest(ctx context.Context, req mesh.ReadRequest, size int64, each func([]byte) error) error {
	if req.Offset >= size {
		return nil
	}
	return window(ctx, 0, func(ctx context.Context, n int) ([]byte, bool, error) {
		r := req
		r.Offset += int64(n) * mesh.MaxMessage
		if r.Offset >= size {
			return nil, true, nil
		}
		b, _, err := w.readRange(ctx, r)
		return b, r.Offset+int64(len(b)) >= size, err
	}, each)
}

// window fetches the parts from first on, with inFlight of them on their way,
// and hands them to each in order until the last one. Parts behind the last are
// asked for as well.
func window(ctx context.Context, first int, fetch func(ctx context.Context, n int) (b []byte, last bool, err error), each func([]byte) error) error {
	type part struct {
		b    []byte
		last bool
		err  error
	}
	var fetching sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); fetching.Wait() }()
	var queue []chan part
	for next := first; ; {
		for ; len(queue) < inFlight; next++ {
			n, c := next, make(chan part, 1)
			queue = append(queue, c)
			fetching.Go(func() {
				var p part
				p.b, p.last, p.err = fetch(ctx, n)
				c <- p
			})
		}
		p := <-queue[0]
		queue = queue[1:]
		if p.err != nil {
			return p.err
		}
		if err := each(p.b); err != nil {
			return err
		}
		if p.last {
			return nil
		}
	}
}

// Put writes a file of any size from in, in constant memory: the content is
// staged on the node and put in place when it is complete, and until then the old
// file stays. Parents are made; perm is as WriteFile has it. CodeConflict: the
// workspace got another owner meanwhile, which knows nothing of what was staged;
// nothing was changed, start over with in from its beginning.
func (w *Workspace) Put(ctx context.Context, path string, in io.Reader, perm fs.FileMode, opts ...FileOption) error {
	ctx, op := w.changes(ctx, "write", path)
	req, err := writeRequest(path, perm, opts)
	if err == nil {
		_, err = w.put(ctx, req, in)
	}
	return op.end(err)
}

func (w *Workspace) put(ctx context.Context, req mesh.WriteRequest, in io.Reader) (mesh.FileInfo, error) {
	var reply mesh.WriteReply
	s, err := w.stage(ctx, in)
	if err != nil {
		return mesh.FileInfo{}, err
	}
	req.Stage, req.Commit, req.Size = s.id, true, s.size
	_, err = w.request(ctx, call{verb: mesh.VerbWrite, args: req, create: true, long: true, tenure: &s.tenure}, &reply)
	if err != nil {
		w.dropStage(ctx, s) // a refusal leaves it
	}
	return reply.File, err
}

// staged is content that has arrived on a node.
type staged struct {
	id     string
	size   int64
	tenure tenure // whose owner has it
}

// stage sends content to the node in parts, several in flight.
func (w *Workspace) stage(ctx context.Context, in io.Reader) (*staged, error) {
	s := &staged{id: mesh.NewID()}
	parts, cancel := context.WithCancel(ctx)
	defer cancel()
	g, parts := errgroup.WithContext(parts)
	g.SetLimit(inFlight)
	for last := false; !last && parts.Err() == nil; {
		buf := make([]byte, mesh.MaxMessage)
		n, err := io.ReadFull(in, buf)
		last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			cancel()
			g.Wait() //nolint:errcheck // in has failed first
			w.dropStage(ctx, s)
			return nil, err
		}
		if n == 0 && s.size > 0 {
			break
		}
		k := call{verb: mesh.VerbWrite, args: mesh.WriteRequest{Stage: s.id, Offset: s.size}, content: buf[:n], create: true, tenure: &s.tenure}
		k.reads = true // of a stage nobody sees anything before it is complete
		g.Go(func() error {
			_, err := w.request(parts, k, nil)
			return err
		})
		s.size += int64(n)
	}
	err := g.Wait()
	if ctx.Err() != nil { // in may not have been read to its end
		err = mesh.AsError(context.Cause(ctx))
	}
	if err != nil {
		w.dropStage(ctx, s)
	}
	return s, err
}

// dropTime bounds the courtesy of a drop.
const dropTime = 2 * time.Second

// drop gives up what the node keeps for a transfer, whose place others can have
// then. Without it the node drops what rests.
func (w *Workspace) drop(ctx context.Context, k call) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTime)
	defer cancel()
	k.reads = true         // of what nobody else sees
	w.request(ctx, k, nil) //nolint:errcheck // the node does it in time
}

func (w *Workspace) dropStage(ctx context.Context, s *staged) {
	w.drop(ctx, call{verb: mesh.VerbWrite, args: mesh.WriteRequest{Stage: s.id, Drop: true}, tenure: &s.tenure})
}

// PutDir unpacks a tar stream below path. It is staged whole first: a stream
// that breaks off changes nothing. CodeConflict as for Put.
func (w *Workspace) PutDir(ctx context.Context, path string, in io.Reader) error {
	ctx, op := w.changes(ctx, "upload", path)
	s, err := w.stage(ctx, in)
	if err == nil {
		req := mesh.UploadRequest{Path: mesh.Path(path), Stage: s.id, Size: s.size}
		_, err = w.request(ctx, call{verb: mesh.VerbUpload, args: req, create: true, long: true, tenure: &s.tenure}, nil)
	}
	return op.end(err)
}

// GetDir copies a directory to out as a tar stream, in constant memory. What
// changes meanwhile may be in it as it was before or after. The node gives the
// stream up when it is not asked for a part for 30 s: CodeConflict, start over.
func (w *Workspace) GetDir(ctx context.Context, path string, out io.Writer) error {
	if w.at != "" {
		return w.getDirAt(ctx, path, out)
	}
	ctx, op := w.reads(ctx, "download", path)
	stream := mesh.NewID()
	fetch := func(ctx context.Context, n int) ([]byte, bool, error) {
		var reply mesh.DownloadReply
		req := mesh.DownloadRequest{Path: mesh.Path(path), Stream: stream, Number: n}
		b, err := w.request(ctx, call{verb: mesh.VerbDownload, args: req, reads: true}, &reply)
		return b, reply.Last, err
	}
	each := func(b []byte) error {
		_, err := out.Write(b)
		return err
	}
	// The first part starts the stream: the others are known to it then only.
	b, last, err := fetch(ctx, 0)
	if err == nil || ctx.Err() != nil { // it is open, or may be
		req := mesh.DownloadRequest{Path: mesh.Path(path), Stream: stream, Drop: true}
		defer w.drop(ctx, call{verb: mesh.VerbDownload, args: req})
	}
	if err == nil {
		err = each(b)
	}
	if err == nil && !last {
		err = window(ctx, 1, fetch, each)
	}
	return op.end(err)
}
