package node

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// ends are our side of a command's standard files: pipes, or a terminal.
type ends struct {
	stdin    *os.File // nil without input
	stdout   *os.File
	stderr   *os.File
	terminal *sandbox.Terminal // then there are no pipes
}

func (e *ends) close() {
	closeFiles(e.stdin, e.stdout, e.stderr)
	if e.terminal != nil {
		e.terminal.Close() //nolint:errcheck // its command has ended
	}
}

// pipes makes pipes and returns the command's ends.
func (e *ends) pipes(input bool) (theirs [3]*os.File, err error) {
	if input {
		if theirs[0], e.stdin, err = os.Pipe(); err != nil {
			return theirs, err
		}
	}
	if e.stdout, theirs[1], err = os.Pipe(); err != nil {
		return theirs, err
	}
	widen(e.stdout)
	e.stderr, theirs[2], err = os.Pipe()
	return theirs, err
}

// pipeBytes is what a pipe of a command's output holds, so that the command goes on
// while we do something else: on a busy machine each change from one to the other
// takes milliseconds. What it does not hold takes no memory.
const pipeBytes = 256 << 10

// flow moves input and output while the command runs. The function that it returns
// is called when the command has ended, and returns when all output is in the log.
func (x *run) flow(e *ends) (over func()) {
	var input, output sync.WaitGroup
	var total atomic.Int64
	if t := e.terminal; t != nil {
		output.Go(func() { x.pump(t, mesh.Stdout, &total) })
		if x.stdin != nil {
			input.Go(func() { x.stdin.feed(t, func() { t.EndInput() }) }) //nolint:errcheck // a terminal that is gone needs no end
		}
	} else {
		output.Go(func() { x.pump(e.stdout, mesh.Stdout, &total) })
		output.Go(func() { x.pump(e.stderr, mesh.Stderr, &total) })
		if x.stdin != nil {
			input.Go(func() { x.stdin.feed(e.stdin, func() { e.stdin.Close() }) })
		}
	}
	return func() {
		late := time.Now().Add(afterExit)
		if e.terminal != nil {
			e.terminal.Hangup(late)
		} else {
			e.stdout.SetDeadline(late) //nolint:errcheck // a file without deadlines reaches its end
			e.stderr.SetDeadline(late) //nolint:errcheck // likewise
		}
		output.Wait()
		if x.stdin != nil {
			x.stdin.stop(errStdinOver)
			closeFiles(e.stdin)
		}
		input.Wait()
	}
}

// resize gives the terminal of a running command another size.
func (w *workspace) resize(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.ResizeRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	x, err := w.running(a.ID, req.Scope)
	switch {
	case err != nil:
		return nil, err
	case x.command.Terminal == nil:
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec %s has no terminal; start it with one (exec -t)", a.ID)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.ended:
		return nil, errStdinOver
	case x.process == nil:
		return nil, mesh.Errorf(mesh.CodeBusy, "exec %s is not running yet; try again", a.ID)
	}
	return nil, x.held.terminal.Resize(sandbox.Winsize(a.TerminalSize))
}
