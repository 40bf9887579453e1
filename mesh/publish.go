package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// DefaultSettle is how long one publish is repeated until its answer is
// definite: elections of a stream leader take 4 to 9 seconds.
const DefaultSettle = 15 * time.Second

// publishTry bounds one try of a publish.
const publishTry = 2 * time.Second

// ErrRefused says that the subject's last sequence was not the expected one.
// When the error is ErrUnanswered too, an earlier try got no answer and the
// stored message may be our own: the caller reads and compares.
var (
	ErrRefused    = errors.New("not the last sequence of the subject")
	ErrUnanswered = errors.New("after a try without an answer")
)

// Publish stores m if the last sequence of its subject is expect, and returns
// the message's sequence. It repeats the same publish with the same expectation
// until the answer is definite: stored, ErrRefused, or another refusal
// (CodeQuota when the stream is full). After DefaultSettle, or when ctx ends,
// the error has CodeLost: whether m is stored is unknown.
//
// It is the one place that tells the server's two refusals apart: "another
// publish on this subject is in process" also comes spuriously and is repeated
// at once; "wrong last sequence" is a verdict.
func Publish(ctx context.Context, js jetstream.JetStream, m *nats.Msg, expect uint64) (uint64, error) {
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(expect), jetstream.WithRetryAttempts(0)}
	return settle(ctx, m.Subject, func(try context.Context) (uint64, error) {
		ack, err := js.PublishMsg(try, m, opts...)
		if err != nil {
			return 0, err
		}
		if ack.Duplicate {
			return 0, Errorf(CodeInternal, "acknowledged as a duplicate")
		}
		return ack.Sequence, nil
	})
}

// settle is the rule of Publish for one try that stores something.
func settle(ctx context.Context, subject string, publish func(try context.Context) (uint64, error)) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultSettle)
	defer cancel()
	unanswered := false // a try got no answer: only ErrRefused tells more than the tries before
	for {
		try, cancelTry := context.WithTimeout(ctx, publishTry)
		seq, err := publish(try)
		cancelTry()
		if err == nil {
			return seq, nil
		}
		wait, verdict := judge(err)
		var api *jetstream.APIError
		if unanswered && CodeOf(verdict) == CodeQuota {
			// The server looks at its limits first: an earlier try may be stored.
			wait, verdict = 50*time.Millisecond, nil
		}
		if unanswered && errors.Is(verdict, ErrRefused) {
			verdict = fmt.Errorf("%w %w", verdict, ErrUnanswered)
		}
		unanswered = unanswered || !errors.As(err, &api)
		if verdict != nil {
			return 0, fmt.Errorf("publish on %s: %w", subject, verdict)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("publish on %s: %w (last: %w)", subject, Errorf(CodeLost, "unknown outcome: the stream did not answer in time"), err)
		case <-time.After(wait):
		}
	}
}

// judge returns the verdict of a refused publish, or how long to wait before
// the same publish again.
func judge(err error) (wait time.Duration, verdict error) {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		if e, ok := unwrapError(err); ok {
			return 0, e
		}
		if errors.Is(err, nats.ErrMaxPayload) {
			return 0, Errorf(CodeTooLarge, "message is larger than the server takes")
		}
		if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
			return 0, Errorf(CodeLost, "unknown outcome: the connection to NATS was closed")
		}
		return 50 * time.Millisecond, nil
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence:
		return 0, ErrRefused
	case jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return time.Millisecond + rand.N(4*time.Millisecond), nil
	case 10176, 10210: // a part of a batch got lost, or too many are under way
		return 10*time.Millisecond + rand.N(20*time.Millisecond), nil
	case 10077, 10122, 10047, 10002, 10028, 10023: // message limits, storage, resources, account limits
		return 0, Errorf(CodeQuota, "the stream is full: %s", api.Description)
	}
	if api.Code >= 500 {
		return 50 * time.Millisecond, nil
	}
	return 0, Errorf(CodeInternal, "refused: %s", api.Description)
}

// PublishAll stores all of msgs or none of them, each expecting the last
// sequence of its subject in expect, and returns the sequence of the last one;
// theirs are consecutive. All go to one stream that allows atomic publishing; no
// two have the same subject. It settles as Publish does.
func PublishAll(ctx context.Context, conn *nats.Conn, msgs []*nats.Msg, expect []uint64) (uint64, error) {
	for i, m := range msgs {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expect[i], 10))
	}
	return settle(ctx, msgs[0].Subject+" and others", func(try context.Context) (uint64, error) {
		return publishBatch(try, conn, msgs)
	})
}

// publishBatch is one try, with a batch id of its own: the server forgets a
// batch whose end does not come.
func publishBatch(ctx context.Context, conn *nats.Conn, msgs []*nats.Msg) (uint64, error) {
	id, last := NewID(), len(msgs)-1
	for i, m := range msgs {
		m.Header.Set(headerBatch, id)
		m.Header.Set(headerBatchNumber, strconv.Itoa(i+1))
		if i < last {
			if err := conn.PublishMsg(m); err != nil {
				return 0, err
			}
		}
	}
	msgs[last].Header.Set(headerBatchCommit, "1")
	reply, err := conn.RequestMsgWithContext(ctx, msgs[last])
	if err != nil {
		return 0, err
	}
	var ack struct {
		Sequence uint64              `json:"seq"`
		Count    int                 `json:"count"`
		Error    *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	if ack.Count != len(msgs) {
		return 0, Errorf(CodeInternal, "%d of %d messages were acknowledged", ack.Count, len(msgs))
	}
	return ack.Sequence, nil
}

// Headers of an atomic batch.
const (
	headerBatch       = "Nats-Batch-Id"
	headerBatchNumber = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)
