package node

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Bounds of one command's standard input.
const (
	// maxStdinWaiting requests wait for it at a time; more are answered at once.
	maxStdinWaiting = 4
	// maxStdinAnswers are kept for repeats: a client has a handful of parts under
	// way, and repeats one until it is answered.
	maxStdinAnswers = 64
	// stdinWrite is how much is handed to the command at a time: what a pipe holds.
	stdinWrite = 64 << 10
)

var (
	errStdinOver   = mesh.Errorf(mesh.CodeNotFound, "the command has ended")
	errStdinClosed = mesh.Errorf(mesh.CodeNotFound, "the command has closed its standard input")
)

// stdin is the standard input of one command: what was taken from requests and
// waits for the command to read it. Requests write, one goroutine hands it over.
type stdin struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, at every change
	pending []byte        // taken, and not yet read by the command
	next    uint64        // end of what was taken
	eof     bool          // it ends there
	over    *mesh.Error   // why nothing is taken any more
	waiting int
	answers []stdinAnswer // the last ones, for repeats
}

type stdinAnswer struct {
	id    string
	reply mesh.StdinReply
}

// newStdin begins with content; unless it stays open that is all.
func newStdin(content []byte, open bool) *stdin {
	return &stdin{changed: make(chan struct{}), pending: content, next: uint64(len(content)), eof: !open}
}

// change tells all who wait. mu is held.
func (s *stdin) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stdin) room() uint64 { return uint64(max(0, mesh.DefaultStdinBuffer-len(s.pending))) }

func (s *stdin) state() mesh.StdinReply {
	return mesh.StdinReply{Next: s.next, Read: s.next - uint64(len(s.pending)), Room: s.room(), EOF: s.eof}
}

// stop takes nothing more, for a reason; the first one counts.
func (s *stdin) stop(why *mesh.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over, s.pending = why, nil
		s.change()
	}
}

// feed hands the stream to the command until it ends or the command takes no more
// of it; then end is called, once.
func (s *stdin) feed(to io.Writer, end func()) {
	defer end()
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.eof && s.over == nil {
			changed := s.changed
			s.mu.Unlock()
			<-changed
			s.mu.Lock()
		}
		part := s.pending[:min(len(s.pending), stdinWrite)]
		over := s.over != nil
		s.mu.Unlock()
		if over || len(part) == 0 {
			return
		}
		n, err := to.Write(part) // nobody else changes these bytes
		if err != nil {
			s.stop(errStdinClosed)
			return
		}
		s.mu.Lock()
		if s.over == nil {
			if s.pending = s.pending[n:]; len(s.pending) == 0 {
				s.pending = nil // or its memory would stay
			}
			s.change()
		}
		s.mu.Unlock()
	}
}

// write does one request, whose id is that of all its repeats.
func (s *stdin) write(ctx context.Context, id string, a *mesh.StdinRequest, content []byte) (*mesh.StdinReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asks := len(content) == 0 && !a.EOF
	s.wait(ctx, asks, a)
	for i := range s.answers {
		if id != "" && s.answers[i].id == id {
			reply := s.answers[i].reply
			return &reply, nil
		}
	}
	end := a.Offset + uint64(len(content))
	switch {
	case s.over != nil:
		return nil, s.over
	case asks || a.Offset > s.next:
		reply := s.state()
		return &reply, nil
	case a.Offset < s.next:
		return nil, mesh.Errorf(mesh.CodeConflict, "standard input was written up to %d by others; go on from there", s.next)
	case s.eof && end == s.next: // ends it once more
		reply := s.state()
		return &reply, nil
	case s.eof:
		return nil, mesh.Errorf(mesh.CodeConflict, "standard input was ended at %d", s.next)
	}
	n := min(uint64(len(content)), s.room())
	s.pending = append(s.pending, content[:n]...)
	s.next += n
	s.eof = a.EOF && s.next == end
	s.change()
	reply := s.state()
	if n > 0 || s.eof {
		s.keep(stdinAnswer{id, reply})
	}
	return &reply, nil
}

// wait returns when a request can be decided, its time is over, or too many wait
// already. mu is held, but not while it waits.
func (s *stdin) wait(ctx context.Context, asks bool, a *mesh.StdinRequest) {
	limit := mesh.MaxStdinWait
	ready := func() bool { return s.next >= a.Offset || a.Offset > s.next+mesh.DefaultStdinBuffer }
	if asks {
		limit = min(limit, time.Duration(max(0, a.WaitMS))*time.Millisecond)
		ready = func() bool { return s.next+s.room() >= a.Offset || s.eof }
	}
	if s.over != nil || ready() || limit == 0 || s.waiting >= maxStdinWaiting {
		return
	}
	s.waiting++
	defer func() { s.waiting-- }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for late := false; !late && s.over == nil && !ready(); {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			late = true
		}
		s.mu.Lock()
	}
}

// keep remembers an answer and forgets the oldest. mu is held.
func (s *stdin) keep(a stdinAnswer) {
	if a.id == "" {
		return
	}
	if len(s.answers) == maxStdinAnswers {
		s.answers = append(s.answers[:0], s.answers[1:]...)
	}
	s.answers = append(s.answers, a)
}

// stdin adds to the standard input of a running command.
func (w *workspace) stdin(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.StdinRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	x, err := w.running(a.ID, req.Scope)
	if err != nil {
		return nil, err
	}
	if x.stdin == nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec %s was started without a standard input; start it with one that stays open: exec -i, or process_start with interactive=true", a.ID)
	}
	reply, err := x.stdin.write(ctx, req.ID, &a, req.Content())
	if err != nil {
		return nil, err
	}
	return &mesh.Reply{Args: reply}, nil
}

// running is the exec of an id that the scope sees; CodeNotFound when there is
// none, or none any more.
func (w *workspace) running(id mesh.ExecID, scope string) (*run, error) {
	if _, err := mesh.ParseExecID(string(id)); err != nil {
		return nil, err
	}
	w.execMu.Lock()
	x := w.execs[id]
	w.execMu.Unlock()
	if x == nil || !mesh.Inside(scope, x.command.scope) {
		return nil, mesh.Errorf(mesh.CodeNotFound, "no command runs under exec id %s", id)
	}
	select {
	case <-x.claimed:
		return x, nil
	default:
		return nil, mesh.Errorf(mesh.CodeBusy, "exec %s is being claimed; try again", id)
	}
}
