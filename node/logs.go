package node

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// readLog returns frames of one exec. Reading a log without an end makes sure
// that the workspace has an owner, who ends what nobody runs.
func (n *Node) readLog(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.LogRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	w, err := reachable(req, a.Workspace)
	if err != nil {
		return nil, err
	}
	id, err := mesh.ParseExecID(string(a.ID))
	if err != nil {
		return nil, err
	}
	record, err := n.kv.Workspaces.Get(ctx, t, w)
	if err != nil {
		return nil, err
	}
	stream, subject := n.shards[record.Shard].log, mesh.ExecLogSubject(record.Shard, t, w, id)
	seen, err := logInScope(ctx, stream, subject, req.Scope)
	if err != nil {
		return nil, err
	}
	if !seen {
		return nil, unknownExec(id, w)
	}
	after := a.After
	if a.EndOnly {
		after = math.MaxUint64
	}
	end, err := n.awaitFrame(ctx, stream, subject, after, time.Duration(a.WaitMS)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	if end.frame == nil {
		return nil, unknownExec(id, w)
	}
	running := false
	if end.frame.Final == nil && end.sequence <= after {
		if running, err = n.settleLog(ctx, &record, id); err != nil {
			return nil, err
		}
	}
	switch {
	case a.EndOnly && running:
		return &mesh.Reply{Args: mesh.LogReply{}}, nil
	case a.EndOnly:
		return logEnd(ctx, n.js, stream, subject)
	}
	if end.frame.Final == nil && end.sequence <= after && !running { // it has been ended
		if end, err = lastFrame(ctx, stream, subject); err != nil {
			return nil, err
		}
	}
	p := logPager{conn: n.js.Conn(), stream: stream, subject: subject, end: end.sequence}
	if a.Offset > 0 && a.After == 0 {
		return p.from(ctx, a.Offset)
	}
	return p.page(ctx, a.After)
}

func unknownExec(id mesh.ExecID, w mesh.Workspace) *mesh.Error {
	return mesh.Errorf(mesh.CodeNotFound, "exec %s is not known in workspace %s, or its log has expired; see which are with: wsmesh ps --all -w %s", id, w, w)
}

// logEnd answers with the frame that ended a log, or with none.
func logEnd(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, subject string) (*mesh.Reply, error) {
	final, _, err := finalFrame(ctx, js, stream, subject)
	if err != nil || final.frame == nil {
		return &mesh.Reply{Args: mesh.LogReply{}}, err
	}
	data, err := final.frame.Encode()
	reply := mesh.LogReply{Last: final.sequence}
	return &mesh.Reply{Args: reply, Content: mesh.PackFrames([]mesh.StoredFrame{{Sequence: final.sequence, Data: data}})}, err
}

// logPager reads pages of one log at the leader, up to what is its end by now.
type logPager struct {
	conn    *nats.Conn
	stream  jetstream.Stream
	subject string
	end     uint64 // sequence of the last frame
}

// from is a page that begins with the frame that has a byte of output, or with
// the last one before it. Frames are stored in the order of their numbers but for
// those that had to be published again, which a reader finds missing then.
func (p *logPager) from(ctx context.Context, offset uint64) (*mesh.Reply, error) {
	first, err := firstFrame(ctx, p.stream, p.subject)
	if err != nil {
		return nil, err
	}
	at := first
	for low, high := first.sequence, p.end; low < high; {
		f, err := decodeStored(p.stream.GetMsg(ctx, low+(high-low+1)/2, jetstream.WithGetMsgSubject(p.subject)))
		if err != nil {
			return nil, err
		}
		if f.frame != nil && f.frame.Offset <= offset {
			at, low = f, f.sequence
		} else {
			high = low + (high-low+1)/2 - 1
		}
	}
	if at.frame == nil {
		return p.page(ctx, 0)
	}
	reply, err := p.page(ctx, at.sequence-1)
	if err != nil {
		return nil, err
	}
	args := reply.Args.(mesh.LogReply)
	args.Number = at.frame.Number
	reply.Args = args
	return reply, nil
}

// logInScope reports whether a scope sees a log: that of its own commands and of
// those in scopes below. A log that begins with its end was ended before its
// command started and says nothing of any scope. One whose claim has expired
// before the rest is nobody's: whose output it holds is not known any more.
func logInScope(ctx context.Context, stream jetstream.Stream, subject, scope string) (bool, error) {
	if scope == "." {
		return true, nil
	}
	first, err := firstFrame(ctx, stream, subject)
	if err != nil || first.frame == nil {
		return false, err
	}
	if first.frame.Claim == nil {
		return first.frame.Number == 0, nil
	}
	return mesh.Inside(scope, string(first.frame.Claim.Scope)), nil
}

// awaitFrame returns the last frame of a log; where it comes after none that the
// caller has not seen, it waits for one, at the latest until that time is over.
func (n *Node) awaitFrame(ctx context.Context, stream jetstream.Stream, subject string, after uint64, wait time.Duration) (storedFrame, error) {
	until := time.Now().Add(min(max(0, wait), mesh.MaxLogWait))
	for pause := time.Millisecond; ; pause = min(2*pause, 32*time.Millisecond) {
		end, err := lastFrame(ctx, stream, subject)
		if err != nil || end.frame == nil || end.frame.Final != nil || end.sequence > after || time.Now().Add(pause).After(until) {
			return end, err
		}
		select {
		case <-ctx.Done():
			return end, nil
		case <-time.After(pause):
		}
	}
}

// page reads frames until a message is full.
func (p *logPager) page(ctx context.Context, after uint64) (*mesh.Reply, error) {
	var frames []mesh.StoredFrame
	reply := mesh.LogReply{Last: after}
	size := 0
	for raw, err := range mesh.Messages(ctx, p.conn, p.stream.CachedInfo().Config.Name, p.subject, after+1, p.end) {
		if err != nil {
			return nil, fmt.Errorf("read an exec log: %w", unavailable(err))
		}
		size += len(raw.Data) + 32
		if size > mesh.MaxMessage && len(frames) > 0 {
			break
		}
		frames = append(frames, mesh.StoredFrame{Sequence: raw.Sequence, Data: raw.Data})
		reply.Last = raw.Sequence
		if size > mesh.MaxMessage-frameBytes {
			break // what is next may be large too
		}
	}
	reply.More = len(frames) > 0 && reply.Last < p.end
	return &mesh.Reply{Args: reply, Content: mesh.PackFrames(frames)}, nil
}
