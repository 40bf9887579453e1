package node

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// Bounds of one exec's log.
const (
	// DefaultMaxLog is how many bytes of output are kept; the rest is counted
	// and the command goes on.
	DefaultMaxLog = 256 << 20
	// frameBytes is when a frame is full: larger ones gain nothing and delay
	// other traffic of the connection.
	frameBytes = 64 << 10
	// maxUnacked frames may be on their way: 4 MiB.
	maxUnacked = mesh.LogWindow
	// flushAfter is how long output waits for company. It delays what is shown
	// live, never the exit: what waits at the end goes into the final frame.
	flushAfter = 5 * time.Millisecond
)

// execLog writes the frames of one exec. write may be called concurrently;
// finish or discard ends it, after the last write has returned.
type execLog struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string
	nonce   string
	written atomic.Uint64 // bytes the command wrote

	mu      sync.Mutex
	pending []mesh.Chunk
	size    int // bytes in pending
	timer   *time.Timer
	number  uint64 // of the next frame
	offset  uint64 // bytes in frames before it
	last    uint64 // highest stream sequence known to be ours
	missing uint64 // of them not in the log
	silent  bool   // the stream did not answer for mesh.DefaultSettle
	unacked []unackedFrame
}

type unackedFrame struct {
	msg    *nats.Msg
	size   uint64
	future jetstream.PubAckFuture
}

func newExecLog(js jetstream.JetStream, stream jetstream.Stream, subject, nonce string) *execLog {
	return &execLog{js: js, stream: stream, subject: subject, nonce: nonce, number: 1}
}

// write adds output; cut is how many bytes after data the caller dropped. It
// blocks while maxUnacked frames are on their way, which slows the command down
// and bounds memory; it never blocks for ever, since an unanswered frame is
// given up after mesh.DefaultSettle.
func (l *execLog) write(stream byte, data []byte, cut int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written.Add(uint64(len(data) + cut))
	l.missing += uint64(cut)
	if room := DefaultMaxLog - int(l.offset) - l.size; len(data) > room {
		l.missing += uint64(len(data) - room)
		data = data[:room]
	}
	if len(data) == 0 {
		return
	}
	if n := len(l.pending); n > 0 && l.pending[n-1].Stream == stream {
		l.pending[n-1].Data = append(l.pending[n-1].Data, data...)
	} else {
		l.pending = append(l.pending, mesh.Chunk{Stream: stream, Data: append([]byte(nil), data...)})
	}
	l.size += len(data)
	switch {
	case l.size >= frameBytes:
		l.flush()
	case l.timer == nil:
		l.timer = time.AfterFunc(flushAfter, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.timer != nil { // not ended meanwhile
				l.flush()
			}
		})
	}
}

// flush publishes what is pending. Called with mu held.
func (l *execLog) flush() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if l.size == 0 {
		return
	}
	for len(l.unacked) >= maxUnacked {
		l.settleOldest()
	}
	f := mesh.Frame{Kind: mesh.FrameOutput, Number: l.number, Offset: l.offset, Chunks: l.pending}
	m := nats.NewMsg(l.subject)
	m.Data, _ = f.Encode() // no JSON in it: cannot fail
	future, err := l.js.PublishMsgAsync(m)
	if err != nil {
		future = nil // settled by publishing again
	}
	l.unacked = append(l.unacked, unackedFrame{m, uint64(l.size), future})
	l.number++
	l.offset += uint64(l.size)
	l.pending, l.size = nil, 0
}

// settleOldest waits for the acknowledgement of the oldest frame. One without
// an answer is published again: readers drop a number they have seen.
func (l *execLog) settleOldest() {
	u := l.unacked[0]
	l.unacked = l.unacked[1:]
	if u.future != nil {
		select {
		case ack := <-u.future.Ok():
			l.last = max(l.last, ack.Sequence)
			return
		case <-u.future.Err():
		}
	}
	patience := mesh.DefaultSettle
	if l.silent { // the stream left a frame unanswered for that long already
		patience = 100 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		m := nats.NewMsg(l.subject)
		m.Data = u.msg.Data
		try, cancelTry := context.WithTimeout(ctx, 2*time.Second)
		ack, err := l.js.PublishMsg(try, m)
		cancelTry()
		if err == nil {
			l.silent = false
			l.last = max(l.last, ack.Sequence)
			return
		}
		var api *jetstream.APIError
		if (errors.As(err, &api) && api.Code < 500) || ctx.Err() != nil {
			l.silent = ctx.Err() != nil
			l.missing += u.size // a full stream, or nobody to take it
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// discard ends the log without a final frame.
func (l *execLog) discard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopTimer()
	l.pending, l.size, l.unacked = nil, 0, nil
}

func (l *execLog) stopTimer() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// finish publishes the final frame, with the output that is still pending,
// after every other frame is acknowledged and expecting the last of them. An
// earlier final frame stands: then ours is not stored and the error is
// CodeConflict. CodeLost: unknown whether it is stored.
func (l *execLog) finish(final *mesh.Final) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopTimer()
	for len(l.unacked) > 0 {
		l.settleOldest()
	}
	final.Output, final.Missing, final.Nonce = l.written.Load(), l.missing, l.nonce
	f := mesh.Frame{Kind: mesh.FrameFinal, Number: l.number, Offset: l.offset, Final: final, Chunks: l.pending}
	m := nats.NewMsg(l.subject)
	var err error
	if m.Data, err = f.Encode(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), mesh.DefaultSettle)
	defer cancel()
	for {
		_, err := mesh.Publish(ctx, l.js, m, l.last)
		if !errors.Is(err, mesh.ErrRefused) {
			return err
		}
		end, err := lastFrame(ctx, l.stream, l.subject)
		switch {
		case err != nil && ctx.Err() != nil:
			return mesh.Errorf(mesh.CodeLost, "unknown outcome: the end of the exec log cannot be read")
		case err != nil:
			time.Sleep(20 * time.Millisecond)
		case end.frame != nil && end.frame.Final != nil && end.frame.Final.Nonce == l.nonce:
			return nil
		case end.frame != nil && end.frame.Final != nil:
			return mesh.Errorf(mesh.CodeConflict, "the exec had been ended by another owner")
		default:
			l.last = end.sequence // a frame of ours that was stored twice
		}
	}
}
