package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"

	"github.com/wsmesh/wsmesh/mesh"
)

// Exec is a command that was started before, here or elsewhere. Nothing of it is
// in this process: it goes on, or is over, whatever becomes of the Exec. It is for
// one goroutine at a time, except Signal. Close it.
type Exec struct {
	workspace *Workspace
	id        mesh.ExecID
	follower  *follower
	final     *mesh.Final
}

// AttachOption says where to begin.
type AttachOption func(*follower)

// FromOffset begins with byte n of the output, counted over both streams.
func FromOffset(n uint64) AttachOption { return func(f *follower) { f.position = n } }

// Attach finds an exec by its id; CodeNotFound when the workspace has none with it
// that this scope sees, or its log has expired. The command's owner may be gone:
// its log is still there, and has an end (CodeLost) where nobody runs it any more.
func (w *Workspace) Attach(ctx context.Context, id string, opts ...AttachOption) (*Exec, error) {
	ctx, op := w.reads(ctx, "attach")
	op.add(execAttr(id))
	x, err := w.attach(ctx, id, opts)
	return x, op.end(err)
}

func (w *Workspace) attach(ctx context.Context, id string, opts []AttachOption) (*Exec, error) {
	exec, err := mesh.ParseExecID(id)
	if err == nil {
		err = w.err
	}
	if err != nil {
		return nil, err
	}
	f, err := newFollower(w, exec)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o(f)
	}
	f.behind = true
	if _, err := f.page(ctx, 0); err != nil {
		f.close()
		return nil, err
	}
	return &Exec{workspace: w, id: exec, follower: f}, nil
}

// ID is the exec's id.
func (x *Exec) ID() string { return string(x.id) }

// Close ends following. The command goes on.
func (x *Exec) Close() { x.follower.close() }

// errEnough ends a follower whose reader has had enough.
var errEnough = errors.New("the reader stopped")

// Output yields what the command writes, from where the last reader stopped, until
// its end. A piece says how many bytes before it are missing: they were more than
// a log holds. An error is the last that is yielded; how the command ended is not
// one, see Final.
func (x *Exec) Output(ctx context.Context) iter.Seq2[Output, error] {
	return func(yield func(Output, error) bool) {
		err := x.follow(ctx, func(o Output) error {
			if !yield(o, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Output{}, err)
		}
	}
}

// Stored yields what has been written up to now, and does not wait for more.
func (x *Exec) Stored(ctx context.Context) iter.Seq2[Output, error] {
	return func(yield func(Output, error) bool) {
		f := x.follower
		out := func(o Output) error {
			if !yield(o, nil) {
				return errEnough
			}
			return nil
		}
		err := f.all(ctx, out)
		if err == nil && f.sealed {
			x.final, err = f.deliver(out)
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Output{}, err)
		}
	}
}

// Copy writes what the command writes to two writers, of which each may be nil,
// until its end, and returns as Wait does.
func (x *Exec) Copy(ctx context.Context, stdout, stderr io.Writer) error {
	err := x.follow(ctx, func(o Output) error {
		to := stdout
		if o.Stderr {
			to = stderr
		}
		if to == nil {
			return nil
		}
		_, err := to.Write(o.Data)
		return err
	})
	if err != nil {
		return err
	}
	return ended(x.final)
}

// Wait waits for the end of the command; output that was not read by then is not
// read any more. The errors are those of Cmd.Wait. When ctx ends first the
// command goes on, and one may wait again: this is how long one waits, and
// Cmd.Timeout is how long the command may live.
func (x *Exec) Wait(ctx context.Context) error {
	x.follower.wantEnd()
	if err := x.follow(ctx, func(Output) error { return nil }); err != nil {
		return err
	}
	return ended(x.final)
}

func (x *Exec) follow(ctx context.Context, out func(Output) error) error {
	if x.final != nil {
		return nil
	}
	final, err := x.follower.follow(ctx, out)
	if err == nil {
		x.final = final
	}
	if err != nil && ctx.Err() != nil {
		return mesh.AsError(context.Cause(ctx))
	}
	return err
}

// ended is the error of a command that ended so.
func ended(final *mesh.Final) error {
	if err := final.Err(); err != nil {
		return err
	}
	if final.Code != 0 {
		return &ExitError{Code: final.Code, Limit: final.Limit, Final: *final}
	}
	return nil
}

// Final is how the command ended, nil before that is known.
func (x *Exec) Final() *mesh.Final { return x.final }

// Signal is Workspace.Signal of this exec.
func (x *Exec) Signal(ctx context.Context, name string) error {
	return x.workspace.Signal(ctx, string(x.id), name)
}

// Signal sends a signal, one of mesh.SignalNames, to the command with an id, whoever
// started it. KILL ends everything the command started, and makes sure
// that an exec whose request is still on its way never starts. CodeNotFound: it has
// ended.
func (w *Workspace) Signal(ctx context.Context, id, name string) error {
	ctx, op := w.changes(ctx, "signal")
	op.add(execAttr(id), slog.String("signal", name))
	exec, err := mesh.ParseExecID(id)
	if err == nil {
		err = w.signal(ctx, exec, name)
	}
	return op.end(err)
}

// Exec describes one exec; CodeNotFound as Attach has it.
func (w *Workspace) Exec(ctx context.Context, id string) (mesh.ExecEntry, error) {
	ctx, op := w.reads(ctx, "ps")
	op.add(execAttr(id))
	exec, err := mesh.ParseExecID(id)
	var page mesh.LogListReply
	if err == nil {
		page, err = w.execPage(ctx, mesh.LogListRequest{ID: exec})
	}
	if err == nil && len(page.Execs) != 1 {
		err = mesh.Errorf(mesh.CodeInternal, "a node describes %d execs for one id", len(page.Execs))
	}
	if op.end(err) != nil {
		return mesh.ExecEntry{}, err
	}
	return page.Execs[0], nil
}

// Running is the commands that run in this scope now, the oldest first.
func (w *Workspace) Running(ctx context.Context) ([]mesh.ExecEntry, error) {
	ctx, op := w.reads(ctx, "ps")
	var reply mesh.PsReply
	_, err := w.request(ctx, call{verb: mesh.VerbPs, args: mesh.PsRequest{}, reads: true}, &reply)
	return reply.Execs, op.end(err)
}

// Execs yields the execs of this scope whose logs are kept, those that run and
// those that have ended, the newest first.
func (w *Workspace) Execs(ctx context.Context) iter.Seq2[mesh.ExecEntry, error] {
	return func(yield func(mesh.ExecEntry, error) bool) {
		ctx, op := w.reads(ctx, "ps")
		req := mesh.LogListRequest{}
		whole(op, pages(func() ([]mesh.ExecEntry, bool, error) {
			page, err := w.execPage(ctx, req)
			req.Before, req.Cursor = page.Before, page.Cursor
			return page.Execs, page.Before != "", err
		}), yield)
	}
}

func (w *Workspace) execPage(ctx context.Context, req mesh.LogListRequest) (page mesh.LogListReply, err error) {
	if w.err != nil {
		return page, w.err
	}
	req.Workspace = w.name
	_, err = w.client.apiContent(ctx, mesh.ServiceLog, call{verb: mesh.VerbLogList, args: req}, w.scope, &page)
	return page, err
}

// WaitAny waits until one of several execs has ended, and says which and how. An
// id that is not known is an error.
func (w *Workspace) WaitAny(ctx context.Context, ids ...string) (id string, final *mesh.Final, err error) {
	ctx, op := w.reads(ctx, "wait")
	op.add(slog.Any("execs", ids))
	id, final, err = w.waitAny(ctx, ids)
	return id, final, op.end(err)
}

func (w *Workspace) waitAny(ctx context.Context, ids []string) (id string, final *mesh.Final, err error) {
	ctx, cancel := context.WithCancel(ctx)
	type end struct {
		id    string
		final *mesh.Final
		err   error
	}
	ends := make(chan end, len(ids))
	wait := func(id string) end {
		x, err := w.Attach(ctx, id, func(f *follower) { f.wantEnd() })
		if err != nil {
			return end{id, nil, err}
		}
		defer x.Close()
		err = x.follow(ctx, func(Output) error { return nil })
		return end{id, x.final, err}
	}
	for _, id := range ids {
		go func() { ends <- wait(id) }()
	}
	left := len(ids)
	defer func() {
		cancel()
		for ; left > 0; left-- {
			<-ends
		}
	}()
	if left == 0 {
		return "", nil, mesh.Errorf(mesh.CodeInvalid, "there is nothing to wait for")
	}
	first := <-ends
	left--
	return first.id, first.final, first.err
}
