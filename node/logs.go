package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

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
	case a.Offset > 0 && a.After == 0:
		return logFrom(ctx, stream, subject, a.Offset)
	}
	return logPage(ctx, stream, subject, a.After)
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

// logFrom is a page that begins with the frame that has a byte of output, or with
// the last one before it. Frames are stored in the order of their numbers but for
// those that had to be published again, which a reader finds missing then.
func logFrom(ctx context.Context, stream jetstream.Stream, subject string, offset uint64) (*mesh.Reply, error) {
	first, err := firstFrame(ctx, stream, subject)
	if err != nil {
		return nil, err
	}
	end, err := lastFrame(ctx, stream, subject)
	if err != nil {
		return nil, err
	}
	at := first
	for low, high := first.sequence, end.sequence; low < high; {
		f, err := decodeStored(stream.GetMsg(ctx, low+(high-low+1)/2, jetstream.WithGetMsgSubject(subject)))
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
		return logPage(ctx, stream, subject, 0)
	}
	reply, err := logPage(ctx, stream, subject, at.sequence-1)
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

// logPage reads frames from the leader until a message is full.
func logPage(ctx context.Context, stream jetstream.Stream, subject string, after uint64) (*mesh.Reply, error) {
	var frames []mesh.StoredFrame
	reply := mesh.LogReply{Last: after}
	size := 0
	for {
		raw, err := stream.GetMsg(ctx, reply.Last+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read an exec log: %w", unavailable(err))
		}
		size += len(raw.Data) + 32
		if size > mesh.MaxMessage && len(frames) > 0 {
			reply.More = true
			break
		}
		frames = append(frames, mesh.StoredFrame{Sequence: raw.Sequence, Data: raw.Data})
		reply.Last = raw.Sequence
	}
	return &mesh.Reply{Args: reply, Content: mesh.PackFrames(frames)}, nil
}
