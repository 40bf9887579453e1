package node

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// Bounds of exec logs.
const (
	// DefaultMaxLog is how many bytes of output of one exec are kept: a quarter of
	// it from the beginning, the rest, and up to a sixteenth more, from the end. What
	// was between is counted, and the command goes on. While it runs there is also
	// what was on its way.
	DefaultMaxLog = 256 << 20
	// DefaultLogFrames is how many frames of all execs may be on their way to the
	// streams at a time, 64 MiB; of one tenant a quarter.
	DefaultLogFrames = 1024
	// frameBytes is when a frame is full: larger ones gain nothing and delay
	// other traffic of the connection. Eight fit into one page of the log.
	frameBytes = 64<<10 - 256
	// flushAfter is how long output waits for company. It delays what is shown
	// live, never the exit: what waits at the end goes into the final frame.
	flushAfter = 5 * time.Millisecond
	// reapAfter is how long an acknowledgement may go unnoticed while the command is
	// silent.
	reapAfter = 50 * time.Millisecond
	// maxLogRead bounds how long the largest log is read to find its end: a minute is
	// 5 MiB/s.
	maxLogRead = time.Minute
	// ackTimeout is when a frame that is not acknowledged is published again. When the
	// stream's leader changes, acknowledgements get lost, and the output stands still
	// for that long; a disk that is slower than it gets frames twice.
	ackTimeout = 2 * time.Second
)

// logSpace is what the logs of one tenant may take of a node and its streams.
type logSpace interface {
	// take takes room for so many bytes, or reports that there is none.
	take(bytes int) bool
	// give gives some back.
	give(bytes int)
	// enter reports whether one more frame may be on its way; leave takes it back.
	enter() bool
	leave()
}

// execLog writes the frames of one exec. write may be called concurrently;
// finish or discard ends it, after the last write has returned.
type execLog struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string
	nonce   string
	space   logSpace
	most    uint64        // bytes of output to keep
	written atomic.Uint64 // bytes the command wrote

	mu      sync.Mutex
	pending []mesh.Chunk
	size    int // bytes in pending
	timer   *time.Timer
	reaper  *time.Timer
	number  uint64 // of the next frame
	offset  uint64 // bytes in frames before it
	first   uint64 // stream sequence of the claim
	last    uint64 // highest stream sequence known to be ours
	stored  uint64 // messages of ours that the log has, as far as is known
	missing uint64 // bytes of written that are not in the log
	silent  bool   // the stream did not answer for mesh.DefaultSettle
	full    bool   // the tenant has no room for more
	recount bool   // the log has messages that are not known to be ours
	unacked []unackedFrame
	tail    []tailFrame // stored frames behind the beginning that is kept
	tailing uint64      // bytes in tail
}

type unackedFrame struct {
	msg    *nats.Msg
	offset uint64
	size   uint64
	future jetstream.PubAckFuture
}

type tailFrame struct{ sequence, size uint64 }

func newExecLog(n *Node, stream jetstream.Stream, subject, nonce string, space logSpace) *execLog {
	return &execLog{
		js: n.js, stream: stream, subject: subject, nonce: nonce, space: space,
		most: uint64(n.cfg.MaxLog), number: 1, stored: 1, // the claim
	}
}

// write adds output; cut is how many bytes after data the caller dropped. It
// blocks while mesh.LogWindow frames are on their way, which slows the command down
// and bounds memory; it never blocks for ever, since an unanswered frame is
// given up after mesh.DefaultSettle.
func (l *execLog) write(stream byte, data []byte, cut int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written.Add(uint64(len(data) + cut))
	l.missing += uint64(cut)
	if len(data) == 0 {
		return
	}
	if len(data) >= frameBytes && l.size == 0 { // it is a frame as it is
		l.pending, l.size = []mesh.Chunk{{Stream: stream, Data: data}}, len(data)
		l.flush()
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
	for len(l.unacked) >= mesh.LogWindow {
		l.settleOldest()
	}
	l.trim()
	f := mesh.Frame{Kind: mesh.FrameOutput, Number: l.number, Offset: l.offset, Chunks: l.pending}
	m := nats.NewMsg(l.subject)
	m.Data, _ = f.Encode() // no JSON in it: cannot fail
	size := l.size
	l.offset += uint64(size)
	l.pending, l.size = nil, 0
	if !l.space.take(len(m.Data)) {
		l.full = true
		l.missing += uint64(size)
		return
	}
	l.number++
	l.enter()
	future, err := l.js.PublishMsgAsync(m)
	if err != nil {
		future = nil // settled by publishing again
	}
	l.unacked = append(l.unacked, unackedFrame{m, f.Offset, uint64(size), future})
	if l.reaper == nil {
		l.reaper = time.AfterFunc(reapAfter, l.reap)
	}
}

// enter waits until the tenant may have one more frame on its way. Those of ours
// are settled meanwhile, and others reap theirs.
func (l *execLog) enter() {
	for !l.space.enter() {
		if len(l.unacked) > 0 {
			l.settleOldest()
		} else {
			time.Sleep(reapAfter / 10)
		}
	}
}

// reap settles what is answered, so that a silent command keeps nobody waiting, and
// a frame that failed is stored.
func (l *execLog) reap() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reaper == nil { // ended meanwhile
		return
	}
	for len(l.unacked) > 0 {
		if f := l.unacked[0].future; f != nil {
			select {
			case ack := <-f.Ok():
				l.settled(ack.Sequence)
				continue
			case <-f.Err():
				l.unacked[0].future = nil
			default:
				l.reaper.Reset(reapAfter)
				return
			}
		}
		l.settleOldest()
	}
	l.reaper = nil
}

// settled takes note of the sequence of the oldest frame, 0 if it is given up.
func (l *execLog) settled(seq uint64) {
	u := l.unacked[0]
	l.unacked = l.unacked[1:]
	l.space.leave()
	if seq == 0 {
		l.space.give(len(u.msg.Data))
		l.missing += u.size
		return
	}
	l.last = max(l.last, seq)
	l.stored++
	if u.offset >= l.most/4 {
		l.tail = append(l.tail, tailFrame{seq, u.size})
		l.tailing += u.size
	}
}

// settleOldest waits for the acknowledgement of the oldest frame. One without
// an answer is published again: readers drop a number they have seen.
func (l *execLog) settleOldest() {
	u := l.unacked[0]
	if u.future != nil {
		select {
		case ack := <-u.future.Ok():
			l.settled(ack.Sequence)
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
		try, cancelTry := context.WithTimeout(ctx, ackTimeout)
		ack, err := l.js.PublishMsg(try, m)
		cancelTry()
		if err == nil {
			l.silent = false
			l.settled(ack.Sequence)
			return
		}
		var api *jetstream.APIError
		if (errors.As(err, &api) && api.Code < 500) || ctx.Err() != nil {
			l.silent = ctx.Err() != nil
			l.settled(0) // a full stream, or nobody to take it
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// trim deletes the oldest frames of the end that is kept once it is too long by a
// twelfth: many at a time, each by its sequence. Nothing else of the log is ever
// deleted, so the claim and the beginning stand. What cannot be deleted now is left
// for the next time.
func (l *execLog) trim() {
	most := l.most - l.most/4
	if l.tailing <= most+most/12 {
		return
	}
	n, bytes := 0, uint64(0)
	for l.tailing-bytes >= most+l.tail[n].size {
		bytes += l.tail[n].size
		n++
	}
	ctx, cancel := context.WithTimeout(context.Background(), mesh.DefaultSettle)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxLogReads)
	for _, f := range l.tail[:n] {
		g.Go(func() error { return deleteFrame(ctx, l.stream, f.sequence) })
	}
	if g.Wait() != nil {
		return
	}
	l.missing += bytes
	l.stored -= uint64(n)
	l.tailing -= bytes
	l.tail = append([]tailFrame(nil), l.tail[n:]...)
	l.space.give(int(bytes))
}

// deleteFrame deletes one message until that is certain, or ctx ends.
func deleteFrame(ctx context.Context, stream jetstream.Stream, seq uint64) error {
	for {
		err := stream.DeleteMsg(ctx, seq)
		var api *jetstream.APIError
		if err == nil || errors.As(err, &api) && api.Code < 500 {
			return nil // deleted, or it was: a try before had no answer
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// discard ends the log without a final frame.
func (l *execLog) discard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopTimers()
	l.pending, l.size = nil, 0
	for ; len(l.unacked) > 0; l.unacked = l.unacked[1:] {
		l.space.leave()
	}
}

func (l *execLog) stopTimers() {
	for _, t := range []**time.Timer{&l.timer, &l.reaper} {
		if *t != nil {
			(*t).Stop()
			*t = nil
		}
	}
}

// finish publishes the final frame, with the output that is still pending,
// after every other frame is acknowledged and expecting the last of them. It looks
// first whether another owner has ended the log in between: then, and when an
// earlier final frame stands for another reason, ours is not stored and the error is
// CodeConflict. So what is stored is the end for everybody. CodeLost: unknown
// whether it is stored.
func (l *execLog) finish(final *mesh.Final) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopTimers()
	for len(l.unacked) > 0 {
		l.settleOldest()
	}
	l.trim()
	final.Output, final.Missing, final.Nonce = l.written.Load(), l.missing, l.nonce
	if l.full && final.Limit == "" {
		final.Limit = "log"
	}
	for began := time.Now(); ; {
		err := l.countFrames(final)
		if err == nil {
			err = l.publishFinal(final)
		}
		if !errors.Is(err, mesh.ErrRefused) && mesh.CodeOf(err) != mesh.CodeUnavailable {
			return err
		}
		if time.Since(began) > maxLogRead+mesh.DefaultSettle {
			return mesh.Errorf(mesh.CodeLost, "unknown outcome: the end of the exec log cannot be read")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var errEndedElsewhere = mesh.Errorf(mesh.CodeConflict, "the exec had been ended by another owner")

// claimed notes where the log begins.
func (l *execLog) claimed(seq uint64) { l.first, l.last = seq, seq }

// countFrames makes sure that no other final frame is among ours. Where ours follow
// one another in the stream, there is no place for one: the expectation of the final
// frame is enough. Else a log with as many messages as are ours has none of others.
// After that it is read, at most for maxLogRead: that a leader was busy or changed, and
// a frame is there twice, is no reason to give the workspace up.
func (l *execLog) countFrames(final *mesh.Final) error {
	final.Frames = l.stored
	if l.last-l.first+1 == l.stored && !l.recount {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), mesh.DefaultSettle)
	defer cancel()
	count, err := mesh.LogCount(ctx, l.js.Conn(), l.stream.CachedInfo().Config.Name, l.subject)
	if err != nil {
		return unavailable(err)
	}
	if count == l.stored {
		return nil
	}
	reading, stop := context.WithTimeout(context.Background(), maxLogRead)
	defer stop()
	first, end, err := finalFrame(reading, l.js, l.stream, l.subject)
	if err != nil {
		return err
	}
	if first.frame != nil {
		if first.frame.Final.Nonce == l.nonce {
			return nil // publishFinal finds that it is stored
		}
		return errEndedElsewhere
	}
	l.last, l.stored, final.Frames = end.sequence, count, count // a frame of ours was stored twice, or was given up and stored
	return nil
}

// publishFinal publishes the final frame; mesh.ErrRefused: other frames came.
func (l *execLog) publishFinal(final *mesh.Final) error {
	ctx, cancel := context.WithTimeout(context.Background(), mesh.DefaultSettle)
	defer cancel()
	f := mesh.Frame{Kind: mesh.FrameFinal, Number: l.number, Offset: l.offset, Final: final, Chunks: l.pending}
	m := nats.NewMsg(l.subject)
	var err error
	if m.Data, err = f.Encode(); err != nil {
		return err
	}
	_, err = mesh.Publish(ctx, l.js, m, l.last)
	if !errors.Is(err, mesh.ErrRefused) {
		return err
	}
	end, readErr := lastFrame(ctx, l.stream, l.subject)
	switch {
	case readErr != nil:
		return readErr
	case end.frame == nil || end.frame.Final == nil:
		l.last = max(l.last, end.sequence)
		l.recount = true
		return err
	case end.frame.Final.Nonce == l.nonce:
		return nil
	}
	return errEndedElsewhere
}
