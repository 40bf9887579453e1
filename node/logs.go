package node

import (
	"context"
	"errors"
	"fmt"
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
	unknown := mesh.Errorf(mesh.CodeNotFound, "exec %s is not known in workspace %s, or its log has expired", id, w)
	seen, err := logInScope(ctx, stream, subject, req.Scope)
	if err != nil {
		return nil, err
	}
	if !seen {
		return nil, unknown
	}
	end, err := n.awaitFrame(ctx, stream, subject, &a)
	if err != nil {
		return nil, err
	}
	if end.frame == nil {
		return nil, unknown
	}
	if end.frame.Final == nil && end.sequence <= a.After {
		route, err := n.router.Place(ctx, t, w)
		if err == nil {
			err = n.router.Settle(ctx, t, w, route, id)
		}
		if err != nil {
			return nil, err
		}
	}
	return logPage(ctx, stream, subject, a.After)
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

// awaitFrame returns the last frame of a log; where the caller would wait for
// one that it has not seen, at the latest when that time is over.
func (n *Node) awaitFrame(ctx context.Context, stream jetstream.Stream, subject string, a *mesh.LogRequest) (storedFrame, error) {
	wait := min(time.Duration(max(0, a.WaitMS))*time.Millisecond, mesh.MaxLogWait)
	until := time.Now().Add(wait)
	for pause := time.Millisecond; ; pause = min(2*pause, 32*time.Millisecond) {
		end, err := lastFrame(ctx, stream, subject)
		if err != nil || end.frame == nil || end.frame.Final != nil || end.sequence > a.After || time.Now().Add(pause).After(until) {
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
