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

// follower reads one exec's log, live and from the store.
type follower struct {
	workspace *Workspace
	id        mesh.ExecID
	sub       *nats.Subscription
	live      chan *nats.Msg

	next   uint64                 // number of the next frame to deliver
	after  uint64                 // every frame up to this stream sequence was seen
	ahead  map[uint64]*mesh.Frame // output frames not delivered yet, by number
	final  *mesh.Frame            // once it was seen; not in ahead, since only its place in the log counts
	sealed bool                   // everything before the final frame was seen: what is missing does not exist
	behind bool                   // frames were published before the subscription
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
func (f *follower) follow(ctx context.Context, deliver func(mesh.Chunk) error) (*mesh.Final, error) {
	if f.sub == nil {
		return f.poll(ctx, deliver)
	}
	quiet := time.Second
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	if f.behind {
		timer.Reset(0)
	}
	for {
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
		case <-timer.C:
			if err := f.read(ctx, 0, deliver); err != nil {
				return nil, err
			}
			quiet = min(5*time.Second, quiet*2)
		}
		final, err := f.deliver(deliver)
		if final != nil || err != nil {
			return final, err
		}
		if f.final != nil || len(f.ahead) > 0 { // a gap: the store has what is missing
			if err := f.read(ctx, 0, deliver); err != nil {
				return nil, err
			}
			if final, err := f.deliver(deliver); final != nil || err != nil {
				return final, err
			}
		}
		timer.Reset(quiet)
	}
}

// poll is follow from the store alone.
func (f *follower) poll(ctx context.Context, deliver func(mesh.Chunk) error) (*mesh.Final, error) {
	for idle := 0; ; {
		before, asked := f.after, time.Now()
		if err := f.read(ctx, mesh.MaxLogWait, deliver); err != nil {
			return nil, err
		}
		final, err := f.deliver(deliver)
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
		f.after = max(f.after, seq)
		f.sealed = frame == f.final
	}
}

// add takes in one live frame; one that was seen before is dropped.
func (f *follower) add(frame *mesh.Frame) {
	switch {
	case frame.Kind == mesh.FrameFinal:
		if f.final == nil {
			f.final = frame
		}
	case frame.Number >= f.next:
		f.ahead[frame.Number] = frame
	}
}

// read reads the store from where it is known, page by page, and delivers what
// comes in order. The final frame that the store has first is the end. A node
// that has nothing new waits for it, at most for wait.
func (f *follower) read(ctx context.Context, wait time.Duration, out func(mesh.Chunk) error) error {
	for !f.sealed {
		var reply mesh.LogReply
		req := mesh.LogRequest{Workspace: f.workspace.name, ID: f.id, After: f.after, WaitMS: wait.Milliseconds()}
		k := call{verb: mesh.VerbLogRead, args: req}
		raw, err := f.workspace.client.apiContent(ctx, mesh.ServiceLog, k, f.workspace.scope, &reply)
		if err != nil {
			later := retrySafe(err) || mesh.CodeOf(err) == mesh.CodeDeadline
			if later && !f.workspace.client.conn.IsClosed() {
				return nil // the log is still there then
			}
			return err
		}
		frames, err := mesh.UnpackFrames(raw)
		if err != nil {
			return err
		}
		for _, stored := range frames {
			frame, err := mesh.DecodeFrame(stored.Data)
			if err != nil {
				return err
			}
			if frame.Kind == mesh.FrameFinal {
				f.final, f.sealed = frame, true
				break
			}
			f.add(frame)
		}
		f.after = max(f.after, reply.Last)
		if !reply.More {
			return nil
		}
		if err := f.emit(out); err != nil {
			return err
		}
	}
	return nil
}

// emit hands out the frames that are in order.
func (f *follower) emit(out func(mesh.Chunk) error) error {
	for frame := f.ahead[f.next]; frame != nil; frame = f.ahead[f.next] {
		delete(f.ahead, f.next)
		f.next++
		if err := chunks(frame, out); err != nil {
			return err
		}
	}
	return nil
}

func chunks(frame *mesh.Frame, out func(mesh.Chunk) error) error {
	for _, chunk := range frame.Chunks {
		if err := out(chunk); err != nil {
			return err
		}
	}
	return nil
}

// deliver hands out what is in order, and returns the end once it is reached.
// Numbers that are missing in a sealed log were never stored; the final frame
// counts their bytes.
func (f *follower) deliver(out func(mesh.Chunk) error) (*mesh.Final, error) {
	for {
		if err := f.emit(out); err != nil {
			return nil, err
		}
		if !f.sealed {
			return nil, nil
		}
		if len(f.ahead) == 0 {
			return f.final.Final, chunks(f.final, out)
		}
		f.next = slices.Min(slices.Collect(maps.Keys(f.ahead)))
	}
}
