package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// stdinParts travel at a time, of stdinPart bytes: together what a node holds
	// for one command.
	stdinParts = 4
	stdinPart  = mesh.DefaultStdinBuffer / stdinParts
)

// WriteStdin adds p to the end of the standard input of a running command, which
// was started with StdinPipe or a streaming Stdin; who started it does not matter.
// Writes of several callers do not mix: each takes its place as a whole, in parts of
// 256 KiB. It returns how many bytes the node has taken, which a command that does
// not read bounds: then CodeDeadline comes when the context, or Config.Wait, ends.
// CodeNotFound: the command has ended or has closed its standard input.
// CodeConflict: it was ended by CloseStdin.
func (w *Workspace) WriteStdin(ctx context.Context, id string, p []byte) (n int, err error) {
	ctx, op := w.changes(ctx, "stdin")
	defer func() {
		op.add(execAttr(id), slog.Int("bytes", n))
		op.record(err)
	}()
	ctx, cancel := bounded(ctx, w.client.cfg.Wait)
	defer cancel()
	for n < len(p) {
		taken, err := w.appendStdin(ctx, id, p[n:min(len(p), n+stdinPart)], false)
		n += taken
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// CloseStdin ends the standard input of a running command after all that was
// written. It may be called again.
func (w *Workspace) CloseStdin(ctx context.Context, id string) error {
	ctx, op := w.changes(ctx, "stdin")
	op.add(execAttr(id), slog.Bool("eof", true))
	ctx, cancel := bounded(ctx, w.client.cfg.Wait)
	defer cancel()
	_, err := w.appendStdin(ctx, id, nil, true)
	return op.end(err)
}

// appendStdin writes at the end, wherever that is by then.
func (w *Workspace) appendStdin(ctx context.Context, id string, p []byte, eof bool) (int, error) {
	s, err := newStdinStream(ctx, w, id)
	if err != nil {
		return 0, err
	}
	defer s.cancel()
	for try := 1; ; try++ {
		reply, err := s.ask(0)
		if err != nil || eof && reply.EOF {
			return 0, err
		}
		if err := s.await(reply.Next + uint64(len(p))); err != nil {
			return 0, err
		}
		n, err := s.part(reply.Next, p, eof)
		if n > 0 || mesh.CodeOf(err) != mesh.CodeConflict || reply.EOF {
			return n, err
		}
		pause(ctx, try) // somebody else was faster
	}
}

// stdinStream writes the standard input of one command, from one place.
type stdinStream struct {
	workspace *Workspace
	id        mesh.ExecID
	ctx       context.Context // ends with the command, as far as the client knows
	cancel    context.CancelFunc

	mu      sync.Mutex
	next    uint64 // where the next part begins
	limit   uint64 // the node would take everything before it
	err     error  // why it is over
	reading bool   // copy is in a Read, which nothing can end
}

func newStdinStream(ctx context.Context, w *Workspace, id string) (*stdinStream, error) {
	parsed, err := mesh.ParseExecID(id)
	if err != nil {
		return nil, err
	}
	s := &stdinStream{workspace: w, id: parsed, limit: mesh.DefaultStdinBuffer}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s, nil
}

// copy writes all of r and then the end, with several parts under way, and returns
// the error of r. A command that takes no more of it is no error.
func (s *stdinStream) copy(r io.Reader) error {
	var flight sync.WaitGroup
	defer flight.Wait()
	buffers := make(chan []byte, stdinParts)
	for range stdinParts {
		buffers <- nil
	}
	for {
		buf := <-buffers
		if buf == nil {
			buf = make([]byte, stdinPart)
		}
		n, err := s.read(r, buf)
		eof := err != nil
		offset := s.reserve(n)
		if s.await(offset+uint64(n)) != nil {
			return s.failure()
		}
		flight.Go(func() {
			_, err := s.part(offset, buf[:n], eof)
			s.fail(err)
			buffers <- buf
		})
		if eof && err != io.EOF {
			return err
		}
		if eof {
			flight.Wait()
			return s.failure()
		}
	}
}

// read reads some bytes, unless the stream is over.
func (s *stdinStream) read(r io.Reader, buf []byte) (n int, err error) {
	for n == 0 && err == nil {
		s.mu.Lock()
		s.reading = s.ctx.Err() == nil
		s.mu.Unlock()
		if !s.reading {
			return 0, nil // await says why
		}
		n, err = r.Read(buf)
		s.mu.Lock()
		s.reading = false
		s.mu.Unlock()
	}
	return n, err
}

// reserve is the place of the next n bytes.
func (s *stdinStream) reserve(n int) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	offset := s.next
	s.next += uint64(n)
	return offset
}

func (s *stdinStream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// failure is why the stream is over, if that is worth a word: not the end of the
// command, nor our own.
func (s *stdinStream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mesh.CodeOf(s.err) == mesh.CodeNotFound || s.ctx.Err() != nil {
		return nil
	}
	return s.err
}

// await returns when the node would take everything before end, or the stream is
// over.
func (s *stdinStream) await(end uint64) error {
	for try := 1; ; try++ {
		s.mu.Lock()
		err, room := cmp.Or(s.err, s.ctx.Err()), s.limit >= end
		s.mu.Unlock()
		if err != nil || room {
			return err
		}
		asked := time.Now()
		if _, err := s.ask(end); err != nil {
			s.fail(err)
			return err
		}
		if time.Since(asked) < mesh.MaxStdinWait/2 {
			pause(s.ctx, try) // the node has many who wait
		}
	}
}

// heard takes note of what the node has room for.
func (s *stdinStream) heard(reply *mesh.StdinReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = max(s.limit, reply.Next+reply.Room)
}

// ask asks how the stream stands, and waits a moment for room up to end.
func (s *stdinStream) ask(end uint64) (*mesh.StdinReply, error) {
	req := mesh.StdinRequest{ID: s.id, Offset: end}
	if end > 0 {
		req.WaitMS = mesh.MaxStdinWait.Milliseconds()
	}
	return s.request(call{verb: mesh.VerbStdin, args: req, reads: true})
}

// part writes p at its place, to the last byte. It returns how much of it the node
// has taken.
func (s *stdinStream) part(offset uint64, p []byte, eof bool) (n int, err error) {
	for {
		at := offset + uint64(n)
		req := mesh.StdinRequest{ID: s.id, Offset: at, EOF: eof}
		k := call{verb: mesh.VerbStdin, args: req, id: mesh.NewID()}
		if n < len(p) {
			k.content = p[n:]
		}
		reply, err := s.request(k)
		if err != nil {
			return n, err
		}
		if reply.Next >= at {
			n = int(min(uint64(len(p)), reply.Next-offset))
		}
		if n == len(p) && (!eof || reply.EOF) {
			return n, nil
		}
		// What was before it is missing, or there is less room than there was.
		if err := s.await(offset + uint64(len(p))); err != nil {
			return n, err
		}
	}
}

// request does one request with all its repeats, over outages of any length: a
// part has its place, and can be sent again.
func (s *stdinStream) request(k call) (*mesh.StdinReply, error) {
	for try := 1; ; try++ {
		var reply mesh.StdinReply
		_, err := s.workspace.request(s.ctx, k, &reply)
		if err == nil {
			s.heard(&reply)
			return &reply, nil
		}
		later := retrySafe(err) || mesh.CodeOf(err) == mesh.CodeDeadline || mesh.CodeOf(err) == mesh.CodeLost
		if !later || s.ctx.Err() != nil || s.workspace.client.over() {
			return nil, err
		}
		pause(s.ctx, try)
	}
}

// StdinPipe returns a pipe to the command's standard input; it is called before
// Start. A Write returns when the node has taken it all, which a command that does
// not read bounds, and fails with io.ErrClosedPipe once the command takes no more.
// Close ends the standard input. Without Close it stays open, for WriteStdin too,
// until the command ends.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	switch {
	case c.follower != nil || c.err != nil:
		return nil, mesh.Errorf(mesh.CodeInvalid, "StdinPipe: already started")
	case c.Stdin != nil || c.pipe != nil:
		return nil, mesh.Errorf(mesh.CodeInvalid, "StdinPipe: Stdin is set")
	}
	c.pipe = &stdinPipe{}
	return c.pipe, nil
}

type stdinPipe struct {
	mu     sync.Mutex
	stream *stdinStream // nil before the start
	closed bool
}

func (p *stdinPipe) Write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return 0, io.ErrClosedPipe
	case p.stream == nil:
		return 0, mesh.Errorf(mesh.CodeInvalid, "standard input: the command is not started")
	}
	for n < len(b) {
		part := b[n:min(len(b), n+stdinPart)]
		offset := p.stream.reserve(len(part))
		err := p.stream.await(offset + uint64(len(part)))
		taken := 0
		if err == nil {
			taken, err = p.stream.part(offset, part, false)
		}
		n += taken
		if err != nil {
			p.stream.fail(err)
			return n, errors.Join(io.ErrClosedPipe, err)
		}
	}
	return n, nil
}

func (p *stdinPipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.stream == nil {
		p.closed = true
		return nil
	}
	p.closed = true
	_, err := p.stream.part(p.stream.reserve(0), nil, true)
	p.stream.fail(err)
	return p.stream.failure()
}

// sizedReader is one that knows how much is left: of package bytes or strings.
type sizedReader interface {
	io.Reader
	Len() int
}

// inlineStdin is a standard input that fits into the request for the command, and
// whether there is more to come.
func (c *Cmd) inlineStdin() (content []byte, open bool, err error) {
	if c.Stdin == nil {
		return nil, c.pipe != nil, nil
	}
	if r, ok := c.Stdin.(sizedReader); ok && r.Len() <= mesh.MaxMessage {
		content, err = io.ReadAll(r)
		return content, false, err
	}
	return nil, true, nil
}

// streamStdin begins to pass standard input on. One that an earlier client has
// begun is that one's.
func (c *Cmd) streamStdin(reply *mesh.ExecReply) error {
	s, err := newStdinStream(c.ctx, c.workspace, c.ID)
	if err != nil {
		return err
	}
	if reply.Attached && !reply.Own {
		s.fail(mesh.Errorf(mesh.CodeConflict, "exec %s was started by others, who write its standard input; WriteStdin adds to it", c.ID))
	}
	c.stdin = s
	if c.pipe != nil {
		c.pipe.mu.Lock()
		c.pipe.stream = s
		c.pipe.mu.Unlock()
		return nil
	}
	c.fed = make(chan error, 1)
	if s.err != nil {
		c.fed <- nil
	} else {
		go func() { c.fed <- s.copy(c.Stdin) }() // ends with the command, or with a Read of Stdin that comes back later
	}
	return nil
}

// endStdin ends the passing on and returns what failed in it.
func (c *Cmd) endStdin() error {
	if c.stdin == nil {
		return nil
	}
	c.stdin.cancel()
	c.stdin.mu.Lock()
	late := c.pipe != nil || c.stdin.reading
	c.stdin.mu.Unlock()
	if late {
		return nil
	}
	return <-c.fed
}
