package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Bounds of one record: group commit, not a pile-up.
const (
	maxBatch  = 256             // of what waits to be stored
	maxRecord = mesh.MaxMessage // bytes
)

// journal appends to the chain of one workspace in one tenure. Its sequencer
// goroutine (run) owns the end of the chain and has one publish in flight.
type journal struct {
	js      jetstream.JetStream
	stream  mesh.Leader
	subject string
	epoch   mesh.Epoch
	queue   chan *appended
	closed  chan struct{} // closed when the sequencer has ended; err is set before
	err     error

	running   func() []mesh.ExecID         // execs that have no final frame, for marks
	stored    func(*objstore.StoredRecord) // hears of each record of the tenure but the open one, in order; nil for nobody
	sinceMark int                          // ops since the record that Open names; owned by the sequencer
	carried   *appended                    // it did not fit into the last record; owned by the sequencer

	end  objstore.StoredRecord // last record of the chain; owned by the sequencer
	last atomic.Uint64         // its sequence, for info
}

// appended is what goes into one record of the chain, maybe beside others.
type appended struct {
	ops    []objstore.Op
	answer *objstore.Answer // of the request behind it; nil for none
	done   chan error
	seq    uint64 // of the record; set before done
}

func (a *appended) size() int {
	n := 0
	for i := range a.ops {
		n += a.ops[i].Size()
	}
	if a.answer != nil {
		n += len(a.answer.ID) + len(a.answer.Body) + 64
	}
	return n
}

// lastRecord reads the last record of a journal at the leader; nil if the
// workspace never had one. One that cannot be read is known by its headers alone and
// has no ID: a later record can follow it, and the files cannot be restored.
func lastRecord(ctx context.Context, stream mesh.Leader, subject string) (*objstore.StoredRecord, error) {
	raw, err := stream.Last(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the end of the journal: %w", unavailable(err))
	}
	r, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
	if err == nil && r.ID != "" {
		return r, nil
	}
	epoch, _ := mesh.ParseEpoch(raw.Header.Get(mesh.HeaderEpoch)) // 0: not known, and the owners' record decides alone
	number, err := strconv.ParseUint(raw.Header.Get(mesh.HeaderNumber), 10, 64)
	if err != nil {
		number = raw.Sequence // which is not lower
	}
	sum := sha256.Sum256(raw.Data)
	r = &objstore.StoredRecord{Sequence: raw.Sequence, Hash: hex.EncodeToString(sum[:])}
	r.Epoch, r.Number = epoch, number
	return r, nil
}

// openJournal fences: it appends the open record of this tenure after prev.
// CodeStale says that a later owner was here first.
func openJournal(ctx context.Context, js jetstream.JetStream, stream mesh.Leader, subject string, epoch mesh.Epoch, prev *objstore.StoredRecord, ops ...objstore.Op) (*journal, error) {
	j := &journal{
		js: js, stream: stream, subject: subject, epoch: epoch,
		queue: make(chan *appended, maxBatch), closed: make(chan struct{}),
	}
	if prev != nil {
		if prev.Epoch >= epoch {
			return nil, mesh.Errorf(mesh.CodeStale, "the journal is already at epoch %d", prev.Epoch)
		}
		j.end = *prev
		if removedID(prev) != "" {
			j.end.Checkpoint = 0 // of an earlier workspace of this name
		}
	}
	if err := j.store(ctx, ops, nil); err != nil {
		return nil, fmt.Errorf("open the journal at epoch %d: %w", epoch, err)
	}
	j.end.Open = j.end.Sequence
	return j, nil
}

// append adds ops to the chain, in one record, and returns its sequence when it is
// stored. CodeStale: the tenure is over and nothing was stored. CodeLost: unknown.
// CodeQuota: the journal is full and nothing was stored. CodeTooLarge: over
// maxRecord.
func (j *journal) append(ctx context.Context, ops []objstore.Op, answer *objstore.Answer) (uint64, error) {
	a := &appended{ops: ops, answer: answer, done: make(chan error, 1)}
	if n := a.size(); n > maxRecord {
		return 0, mesh.Errorf(mesh.CodeTooLarge, "a change of %d bytes is larger than a record of the journal", n)
	}
	select {
	case j.queue <- a:
	case <-j.closed:
		return 0, j.err
	case <-ctx.Done():
		return 0, ctx.Err() // it never reached the sequencer
	}
	select {
	case err := <-a.done:
		return a.seq, err
	case <-j.closed:
		select { // the sequencer may have answered as its last act
		case err := <-a.done:
			return a.seq, err
		default:
			return 0, j.err
		}
	}
}

// run is the sequencer. It ends with ctx, or with the error that ends the
// tenure: after that nothing is ever published again.
func (j *journal) run(ctx context.Context) (err error) {
	defer func() {
		j.err = mesh.Errorf(mesh.CodeStale, "this node no longer owns the workspace")
		close(j.closed)
	}()
	for {
		batch := j.gather(ctx)
		if len(batch) == 0 {
			return nil
		}
		var ops []objstore.Op
		var answers []objstore.Answer
		for _, a := range batch {
			ops = append(ops, a.ops...)
			if a.answer != nil {
				answers = append(answers, *a.answer)
			}
		}
		err := j.store(ctx, ops, answers)
		for _, a := range batch {
			a.seq = j.end.Sequence
			a.done <- err
		}
		if err == nil {
			err = j.mark(ctx, len(ops))
		}
		if err != nil && mesh.CodeOf(err) != mesh.CodeQuota {
			return err
		}
	}
}

// gather waits for something to store and takes as much as fits into one record;
// nothing once ctx has ended.
func (j *journal) gather(ctx context.Context) (batch []*appended) {
	first := j.carried
	j.carried = nil
	if first == nil {
		select {
		case <-ctx.Done():
			return nil
		case first = <-j.queue:
		}
	}
	batch = append(batch, first)
	for size := first.size(); len(batch) < maxBatch; {
		select {
		case a := <-j.queue:
			if size += a.size(); size > maxRecord {
				j.carried = a
				return batch
			}
			batch = append(batch, a)
		default:
			return batch
		}
	}
	return batch
}

// markEvery bounds what the next opener has to read: after so many ops a record
// names the execs that run, and reading begins there.
const markEvery = 1000

func (j *journal) mark(ctx context.Context, ops int) error {
	j.sinceMark += ops
	if j.sinceMark < markEvery || j.running == nil {
		return nil
	}
	if err := j.store(ctx, []objstore.Op{{Kind: objstore.KindMark, Unfinished: j.running()}}, nil); err != nil {
		return err
	}
	j.end.Open, j.sinceMark = j.end.Sequence, 0
	return nil
}

// store publishes one record until its fate is known and moves the end of the
// chain. Errors: CodeStale (a higher epoch follows: not stored), CodeQuota (not
// stored), CodeLost (unknown).
func (j *journal) store(ctx context.Context, ops []objstore.Op, answers []objstore.Answer) error {
	r := objstore.Record{
		Epoch: j.epoch, Number: j.end.Number + 1, Prev: j.end.Sequence, Root: j.end.Hash,
		Open: j.end.Open, Checkpoint: j.end.LastCheckpoint(), ID: mesh.NewID(), Time: time.Now().UTC(),
		Ops: ops, Answers: answers,
	}
	if r.Has(objstore.KindOpen) || r.Has(objstore.KindMark) {
		r.Open = 0
	}
	for i := range ops {
		if ops[i].Kind == objstore.KindCheckpoint && j.running != nil { // a mark too: those before it will be purged
			ops[i].Unfinished, r.Open = j.running(), 0
		}
	}
	m, hash, err := r.Message(j.subject)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mesh.DefaultSettle)
	defer cancel()
	for unanswered := false; ; {
		seq, err := mesh.Publish(ctx, j.js, m, r.Prev)
		unanswered = unanswered || errors.Is(err, mesh.ErrUnanswered)
		if errors.Is(err, mesh.ErrRefused) {
			seq, err = j.settle(ctx, r.ID, r.Prev)
			if seq == 0 && err == nil {
				continue // nothing follows: the refusal came from a leader that is behind
			}
		}
		if unanswered && mesh.CodeOf(err) == mesh.CodeQuota {
			err = mesh.Errorf(mesh.CodeLost, "unknown outcome: %v", err) // an earlier try may be stored
		}
		if err != nil {
			return err
		}
		j.end = objstore.StoredRecord{Record: r, Sequence: seq, Hash: hash}
		if r.Has(objstore.KindCheckpoint) {
			j.end.Open, j.sinceMark = seq, 0
		}
		if j.stored != nil {
			j.stored(&j.end)
		}
		j.last.Store(seq)
		return nil
	}
}

// errOvertaken says that a record of an older owner, which was on its way, is
// stored where ours should have been: ours is not. Only an opener can meet it.
var errOvertaken = mesh.Errorf(mesh.CodeConflict, "an older owner's last record came first")

// settle finds out after a refusal whether our record is stored: the first
// record that names our predecessor decides. 0 without an error: nothing
// follows yet, or the leader cannot be read: publish again.
func (j *journal) settle(ctx context.Context, id string, prev uint64) (uint64, error) {
	raw, err := j.stream.Next(ctx, j.subject, prev+1)
	if err != nil {
		select {
		case <-ctx.Done():
			return 0, mesh.Errorf(mesh.CodeLost, "unknown outcome: the journal cannot be read")
		case <-time.After(5 * time.Millisecond):
			return 0, nil
		}
	}
	next, err := objstore.DecodeRecord(raw.Sequence, raw.Data)
	switch {
	case err != nil:
		return 0, err
	case next.ID == id:
		return next.Sequence, nil
	case next.Prev == prev && next.Epoch > j.epoch:
		return 0, mesh.Errorf(mesh.CodeStale, "the workspace has a new owner")
	case next.Prev == prev && next.Epoch < j.epoch:
		return 0, errOvertaken
	}
	return 0, mesh.Errorf(mesh.CodeLost, "unknown outcome: the journal went on without this node")
}

// unavailable marks an error of a read: the request had no effect.
func unavailable(err error) error {
	if errors.Is(err, context.Canceled) || mesh.CodeOf(err) == mesh.CodeUnavailable {
		return err
	}
	return fmt.Errorf("%w (%w)", mesh.Errorf(mesh.CodeUnavailable, "the mesh's streams cannot be read now; try again"), err)
}
