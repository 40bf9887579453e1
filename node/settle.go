package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// readEnd reads the end of the journal, up to last, and returns the execs that it names.
// The open record of the last tenure carries what earlier ones left, so only that
// tenure's records count. It keeps in ahead what it has read: the records since the last
// checkpoint, which the files need.
func (w *workspace) readEnd(ctx context.Context, last *objstore.StoredRecord, subject string) (execs []mesh.ExecID, err error) {
	from := last.Open
	if from == 0 {
		from = last.Sequence
	}
	first := from
	if c := last.LastCheckpoint(); c != 0 {
		first = min(first, c)
	}
	if w.ahead, err = readJournal(ctx, w.streams.journal, subject, first, last.Sequence); err != nil {
		return nil, err
	}
	begin := slices.IndexFunc(w.ahead, func(r readRecord) bool { return r.sequence >= from })
	return execsIn(w.ahead[begin:]), nil
}

// withoutEnd returns those of some execs whose log has no final frame.
func (w *workspace) withoutEnd(ctx context.Context, ids []mesh.ExecID) (open []mesh.ExecID, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, id := range ids {
		if time.Since(id.Time()) > mesh.DefaultLogAge {
			continue // its log is gone
		}
		g.Go(func() error {
			end, err := lastFrame(ctx, w.streams.log, w.logSubject(id))
			if err != nil {
				return err
			}
			if end.frame == nil || end.frame.Final == nil {
				mu.Lock()
				defer mu.Unlock()
				open = append(open, id)
			}
			return nil
		})
	}
	err = g.Wait()
	slices.Sort(open)
	return open, err
}

// readJournal reads the records of one journal from the first one at or after a sequence
// to that at to, which is there.
func readJournal(ctx context.Context, stream mesh.Leader, subject string, first, to uint64) (read []readRecord, err error) {
	for raw, err := range stream.Known(ctx, subject, max(first, 1), to) {
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", unavailable(err))
		}
		r, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
		read = append(read, readRecord{raw.Sequence, r, err})
	}
	if len(read) == 0 || read[len(read)-1].sequence != to {
		return nil, fmt.Errorf("read the journal: %w", unavailable(jetstream.ErrMsgNotFound))
	}
	return read, nil
}

// execsIn returns the execs that records name.
func execsIn(records []readRecord) []mesh.ExecID {
	var ids []mesh.ExecID
	for _, r := range records {
		if r.err != nil {
			continue // its execs are settled when somebody asks for them
		}
		for _, op := range r.record.Ops {
			ids = append(ids, op.Unfinished...)
			if op.Kind == objstore.KindExec {
				ids = append(ids, op.Exec)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// readRecord is a record that was read, or why it cannot be decoded.
type readRecord struct {
	sequence uint64
	record   *objstore.StoredRecord
	err      error
}

// readAhead is a journal whose end has been read already.
type readAhead struct {
	objstore.Records
	read []readRecord // in their order, and all that are between
}

// Next is that of the journal, without asking it for what has been read.
func (t readAhead) Next(ctx context.Context, subject string, seq uint64) (*objstore.StoredRecord, error) {
	i, found := slices.BinarySearchFunc(t.read, seq, func(r readRecord, seq uint64) int { return cmp.Compare(r.sequence, seq) })
	if found || i > 0 && i < len(t.read) {
		return t.read[i].record, t.read[i].err
	}
	return t.Records.Next(ctx, subject, seq)
}

// storedFrame is a frame as it was read; frame is nil where the log is empty.
type storedFrame struct {
	frame    *mesh.Frame
	sequence uint64
}

// lastFrame reads the last frame of a log at the leader.
func lastFrame(ctx context.Context, stream jetstream.Stream, subject string) (storedFrame, error) {
	raw, err := stream.GetLastMsgForSubject(ctx, subject)
	return decodeStored(raw, err)
}

// firstFrame reads the claim of a log at the leader.
func firstFrame(ctx context.Context, stream jetstream.Stream, subject string) (storedFrame, error) {
	raw, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject))
	return decodeStored(raw, err)
}

func decodeStored(raw *jetstream.RawStreamMsg, err error) (storedFrame, error) {
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return storedFrame{}, nil
	}
	if err != nil {
		return storedFrame{}, fmt.Errorf("read an exec log: %w", unavailable(err))
	}
	f, err := mesh.DecodeFrame(raw.Data)
	return storedFrame{f, raw.Sequence}, err
}

// endLog appends a final frame with the mesh's verdict to a log that has none.
// It repeats with the new last sequence until a final frame is there, ours or
// another's. A claim of an epoch above epoch is left alone.
func endLog(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, subject string, epoch mesh.Epoch, verdict *mesh.Error) error {
	ctx, cancel := context.WithTimeout(ctx, mesh.DefaultSettle)
	defer cancel()
	first, err := firstFrame(ctx, stream, subject)
	if err != nil {
		return err
	}
	if first.frame != nil && first.frame.Claim != nil && first.frame.Claim.Epoch > epoch {
		return nil
	}
	for {
		final, end, err := finalFrame(ctx, js, stream, subject)
		if err != nil || final.frame != nil {
			return err
		}
		f := mesh.Frame{Kind: mesh.FrameFinal, Final: &mesh.Final{ErrorCode: verdict.Code, ErrorText: verdict.Text}}
		if end.frame != nil {
			f.Number, f.Offset = end.frame.Number+1, end.frame.Offset+end.frame.Size()
			f.Final.Output = f.Offset
		}
		m := nats.NewMsg(subject)
		if m.Data, err = f.Encode(); err != nil {
			return err
		}
		_, err = mesh.Publish(ctx, js, m, end.sequence)
		if !errors.Is(err, mesh.ErrRefused) {
			return err
		}
	}
}

// finalFrame returns the frame that ended a log, its first final one, and the last
// frame. Behind the end there may be more: what a stale owner had on its way. So
// that the frames between need not be read, it counts them: a log that has a
// message for each number up to the last, and no more, has none twice and no
// second end.
func finalFrame(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, subject string) (final, end storedFrame, err error) {
	if end, err = lastFrame(ctx, stream, subject); err != nil || end.frame == nil {
		return final, end, err
	}
	count, err := mesh.LogCount(ctx, js.Conn(), stream.CachedInfo().Config.Name, subject)
	if err != nil {
		return final, end, fmt.Errorf("count the frames of an exec log: %w", unavailable(err))
	}
	switch last := end.frame; {
	case last.Final != nil && (count <= 2 || count == last.Final.Frames+1):
		return end, end, nil
	case last.Final == nil && count == last.Number+1:
		return final, end, nil
	}
	for raw, err := range mesh.Messages(ctx, js.Conn(), stream.CachedInfo().Config.Name, subject, 1, end.sequence) {
		f, err := decodeStored(raw, err)
		if err != nil || f.frame.Final != nil {
			return f, end, err
		}
	}
	return final, end, nil
}

// errNodeGone is the verdict on an exec whose owner died under it. The final
// frame's Output is the last offset.
var errNodeGone = mesh.Errorf(mesh.CodeLost, "outcome unknown: the node stopped while the command ran; it was not started again, and what it changed and was not captured by then is gone")

// settle ends the log of an exec that has no end and that nobody runs here.
func (n *Node) settle(ctx context.Context, req mesh.NodeSettleRequest) (*mesh.Reply, error) {
	n.mu.Lock()
	w := n.workspaces[key{req.Tenant, req.Workspace}]
	n.mu.Unlock()
	if w == nil || mesh.Epoch(w.epoch.Load()) != req.Epoch || !w.readable.Load() {
		return nil, mesh.Errorf(mesh.CodeStale, "node %s does not host workspace %s", n.cfg.Name, req.Workspace)
	}
	w.execMu.Lock()
	_, running := w.execs[req.ID]
	w.execMu.Unlock()
	if running {
		return &mesh.Reply{Args: mesh.NodeSettleReply{Running: true}}, nil
	}
	return &mesh.Reply{Args: mesh.NodeSettleReply{}}, endLog(ctx, n.js, w.streams.log, w.logSubject(req.ID), req.Epoch, errNodeGone)
}
