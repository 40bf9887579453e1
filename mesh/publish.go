package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
// After an earlier try without an answer the stored message may be our own:
// the caller reads and compares.
var ErrRefused = errors.New("not the last sequence of the subject")

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
	ctx, cancel := context.WithTimeout(ctx, DefaultSettle)
	defer cancel()
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(expect), jetstream.WithRetryAttempts(0)}
	unanswered := false // a try got no answer: only ErrRefused tells more than the tries before
	for {
		try, cancelTry := context.WithTimeout(ctx, publishTry)
		ack, err := js.PublishMsg(try, m, opts...)
		cancelTry()
		if err == nil && ack.Duplicate {
			return 0, Errorf(CodeInternal, "publish on %s: acknowledged as a duplicate", m.Subject)
		}
		if err == nil {
			return ack.Sequence, nil
		}
		wait, verdict := judge(err)
		var api *jetstream.APIError
		if unanswered && CodeOf(verdict) == CodeQuota {
			// The server looks at its limits first: an earlier try may be stored.
			wait, verdict = 50*time.Millisecond, nil
		}
		unanswered = unanswered || !errors.As(err, &api)
		if verdict != nil {
			return 0, fmt.Errorf("publish on %s: %w", m.Subject, verdict)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("publish on %s: %w (last: %w)", m.Subject, Errorf(CodeLost, "unknown outcome: the stream did not answer in time"), err)
		case <-time.After(wait):
		}
	}
}

// judge returns the verdict of a refused publish, or how long to wait before
// the same publish again.
func judge(err error) (wait time.Duration, verdict error) {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
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
	case 10077, 10122, 10047, 10002, 10028, 10023: // message limits, storage, resources, account limits
		return 0, Errorf(CodeQuota, "the stream is full: %s", api.Description)
	}
	if api.Code >= 500 {
		return 50 * time.Millisecond, nil
	}
	return 0, Errorf(CodeInternal, "refused: %s", api.Description)
}
