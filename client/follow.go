package client

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

// Output is a piece of what a command wrote.
type Output struct {
	Stderr  bool   // of standard error
	Offset  uint64 // of Data among the bytes of both streams
	Missing uint64 // how many bytes before Data the log does not hold, or not any more
	Data    []byte // the receiver's
}

// follower reads one exec's log, live and from the store.
type follower struct {
	workspace *Workspace
	id        mesh.ExecID
	sub       *nats.Subscription
	live      chan *nats.Msg

	position uint64                 // offset of the next byte to deliver
	next     uint64                 // number of the next frame to deliver
	after    uint64                 // every frame up to this stream sequence was seen, from where we began
	highest  uint64                 // number of those frames
	ahead    map[uint64]*mesh.Frame // output frames not delivered yet, by number
	final    *mesh.Frame            // once it was seen; not in ahead, since only its place in the log counts
	sealed   bool                   // everything before the final frame was seen: what is missing does not exist
	behind   bool                   // frames were published before the subscription
	sought   bool                   // position was looked up in the store
	middle   bool                   // we began in the middle of the log, and have found nothing missing
	endOnly  bool                   // output is of no interest any more
}

// liveBuffer frames wait for a slow reader; what does not fit is read from the
// log later.
const liveBuffer = 256

func newFollower(w *Workspace, id mesh.ExecID) (*follower, error) {
	f := &follower{workspace: w, id: id, ahead: map[uint64]*mesh.Frame{}}
	if _, scope := w.client.Bound(); scope != "" && scope != "." {
		return f, nil // hears no frames: their subjects do not tell one path from another
	}
	f.live = make(chan *nats.Msg, liveBuffer)
	sub, err := w.client.conn.ChanSubscribe(mesh.OutSubject(w.client.claims.Tenant, w.name, id), f.live)
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeUnavailable, "follow exec %s: %s", id, err)
	}
	f.sub = sub
	return f, nil
}

func (f *follower) close() {
	if f.sub != nil {
		f.sub.Unsubscribe() //nolint:errcheck // gone with the connection otherwise
	}
}

// follow delivers output in order until the final frame. A log that stays quiet
// is read from the store: after a second, then less often, since the last
// message of a subject may be lost without a trace.
func (f *follower) follow(ctx context.Context, out func(Output) error) (*mesh.Final, error) {
	if f.sub == nil {
		return f.poll(ctx, out)
	}
	quiet := time.Second
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	if f.behind {
		timer.Reset(0)
	}
	for {
		gap := false
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case m := <-f.live:
			frame, err := mesh.DecodeFrame(m.Data)
			if err != nil {
				return nil, err
			}
			f.add(frame)
			f.advance(m, frame)
			quiet = time.Second
			gap = true // perhaps
		case <-timer.C:
			if err := f.read(ctx, 0, out); err != nil {
				return nil, err
			}
			f.behind = false
			quiet = min(5*time.Second, quiet*2)
		}
		final, err := f.deliver(out)
		if final != nil || err != nil {
			return final, err
		}
		if gap && (f.final != nil || len(f.ahead) > 0) { // the store has what is missing
			if err := f.read(ctx, 0, out); err != nil {
				return nil, err
			}
			if final, err := f.deliver(out); final != nil || err != nil {
				return final, err
			}
		}
		timer.Reset(quiet)
	}
}

// poll is follow from the store alone.
func (f *follower) poll(ctx context.Context, out func(Output) error) (*mesh.Final, error) {
	for idle := 0; ; {
		before, asked := f.after, time.Now()
		if err := f.read(ctx, mesh.MaxLogWait, out); err != nil {
			return nil, err
		}
		final, err := f.deliver(out)
		if final != nil || err != nil {
			return final, err
		}
		switch {
		case f.after > before:
			idle = 0
		case time.Since(asked) < mesh.MaxLogWait/2: // the node did not wait: it cannot answer now
			idle++
			pause(ctx, idle)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// advance notes how far the log has been seen without a gap. A final frame
// counts only then: an earlier one may have been missed.
func (f *follower) advance(m *nats.Msg, frame *mesh.Frame) {
	seq, _ := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	last, _ := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64)
	if frame.Kind == mesh.FrameClaim || (f.after != 0 && last == f.after) {
		f.saw(seq, frame)
		f.sealed = f.sealed || frame == f.final
	}
}

func (f *follower) saw(seq uint64, frame *mesh.Frame) {
	f.after = max(f.after, seq)
	if frame.Kind == mesh.FrameOutput {
		f.highest = max(f.highest, frame.Number)
	}
}

// add takes in one frame; one that was seen before is dropped.
func (f *follower) add(frame *mesh.Frame) {
	switch {
	case frame.Kind == mesh.FrameFinal:
		if f.final == nil {
			f.final = frame
		}
	case frame.Number >= f.next && !f.endOnly:
		f.ahead[frame.Number] = frame
	}
}

// read reads the store from where it is known, page by page, and delivers what
// comes in order. A node that has nothing new waits for it, at most for wait. A
// mesh that cannot answer now is asked again later.
func (f *follower) read(ctx context.Context, wait time.Duration, out func(Output) error) error {
	for !f.sealed {
		more, err := f.page(ctx, wait)
		if err != nil {
			later := retrySafe(err) || mesh.CodeOf(err) == mesh.CodeDeadline
			if later && !f.workspace.client.conn.IsClosed() {
				return nil // the log is still there then
			}
			return err
		}
		again, err := f.emit(out)
		if err != nil || !more && !again {
			return err
		}
	}
	return nil
}

// all reads and delivers everything that is stored now.
func (f *follower) all(ctx context.Context, out func(Output) error) error {
	for {
		again, err := f.emit(out)
		if err != nil || f.sealed && !again {
			return err
		}
		more, err := f.page(ctx, 0)
		if err != nil {
			return err
		}
		again, err = f.emit(out)
		if err != nil || !more && !again {
			return err
		}
	}
}

// wantEnd gives up on output.
func (f *follower) wantEnd() {
	f.endOnly = true
	clear(f.ahead)
}

// page reads one page. The final frame that the store has first is the end.
func (f *follower) page(ctx context.Context, wait time.Duration) (more bool, err error) {
	req := mesh.LogRequest{Workspace: f.workspace.name, ID: f.id, After: f.after, WaitMS: wait.Milliseconds(), EndOnly: f.endOnly}
	begins := f.position > 0 && !f.sought && !f.endOnly
	if begins {
		req.Offset = f.position
	}
	var reply mesh.LogReply
	raw, err := f.workspace.client.apiContent(ctx, mesh.ServiceLog, call{verb: mesh.VerbLogRead, args: req}, f.workspace.scope, &reply)
	if err != nil {
		return false, err
	}
	frames, err := mesh.UnpackFrames(raw)
	if err != nil {
		return false, err
	}
	if begins && len(frames) > 0 {
		f.sought, f.middle, f.next = true, true, max(f.next, reply.Number)
	}
	for _, stored := range frames {
		frame, err := mesh.DecodeFrame(stored.Data)
		if err != nil {
			return false, err
		}
		if frame.Kind == mesh.FrameFinal {
			f.final, f.sealed = frame, true
			return false, nil
		}
		f.add(frame)
		f.saw(stored.Sequence, frame)
	}
	f.after = max(f.after, reply.Last)
	return reply.More, nil
}

// emit hands out the frames that are in order. A number that is missing in a
// sealed log, or mesh.LogWindow behind what was seen, does not exist. again: who
// began in the middle cannot tell it from one that was stored late, and so before
// the frame that we began with; the log is to be read from its beginning.
func (f *follower) emit(out func(Output) error) (again bool, err error) {
	for {
		frame := f.ahead[f.next]
		switch {
		case frame != nil:
			if err := f.hand(frame, out); err != nil {
				return false, err
			}
			delete(f.ahead, f.next)
			f.next++
		case len(f.ahead) == 0 || !f.sealed && f.next+mesh.LogWindow > f.highest:
			return false, nil
		case f.middle:
			f.middle, f.sealed, f.after, f.final = false, false, 0, nil
			return true, nil
		default:
			f.next = slices.Min(slices.Collect(maps.Keys(f.ahead)))
		}
	}
}

// hand hands out what a frame has from the position on.
func (f *follower) hand(frame *mesh.Frame, out func(Output) error) error {
	at := frame.Offset
	for _, c := range frame.Chunks {
		data, end := c.Data, at+uint64(len(c.Data))
		if end > f.position {
			o := Output{Stderr: c.Stream == mesh.Stderr, Offset: max(at, f.position), Data: data}
			o.Missing = o.Offset - f.position
			o.Data = data[o.Offset-at:]
			f.position = end
			if err := out(o); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// deliver hands out what is in order, and returns the end once it is reached.
// What is missing before it, the final frame counts.
func (f *follower) deliver(out func(Output) error) (*mesh.Final, error) {
	if _, err := f.emit(out); err != nil {
		return nil, err
	}
	if !f.sealed || len(f.ahead) > 0 {
		return nil, nil
	}
	return f.final.Final, f.hand(f.final, out)
}
