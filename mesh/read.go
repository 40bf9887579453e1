package mesh

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Leader is a stream as its leader has it. Any replica may answer a direct read, as
// jetstream.Stream does it where the stream allows it, and what that has not yet would be
// taken for what is not there.
type Leader struct {
	conn   *nats.Conn
	stream string
}

// AtLeader returns a stream for reading at its leader.
func AtLeader(conn *nats.Conn, stream string) Leader { return Leader{conn, stream} }

// Last reads the last message of a subject; jetstream.ErrMsgNotFound: it has none.
func (l Leader) Last(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return LastMessage(ctx, l.conn, l.stream, subject)
}

// Next reads the first message of a subject at or after a sequence;
// jetstream.ErrMsgNotFound: there is none.
func (l Leader) Next(ctx context.Context, subject string, from uint64) (*jetstream.RawStreamMsg, error) {
	return readMessage(ctx, l.conn, l.stream, messageRequest{Sequence: from, NextFor: subject})
}

// Messages is the function of that name.
func (l Leader) Messages(ctx context.Context, subject string, from, last uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return Messages(ctx, l.conn, l.stream, subject, from, last)
}

// Purge removes the messages of a subject that come before a sequence; never all of them.
func (l Leader) Purge(ctx context.Context, subject string, before uint64) error {
	if before == 0 { // that means all of them
		return nil
	}
	ask, err := json.Marshal(struct {
		Subject string `json:"filter"`
		Before  uint64 `json:"seq"`
	}{subject, before})
	if err != nil {
		return err
	}
	m, err := askLeader(ctx, l.conn, "$JS.API.STREAM.PURGE."+l.stream, ask)
	if err != nil {
		return err
	}
	var reply struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return reply.Error
	}
	return nil
}

// Known is Messages up to one that is known to be there: what comes before it has come to
// every replica before, so they come from any, as bytes and many at a time, and only what
// that has not comes from the leader. Such a replica may have some that the leader has
// removed already.
func (l Leader) Known(ctx context.Context, subject string, from, last uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		for more := true; more && from <= last; {
			more = false
			for m := range l.batch(ctx, subject, from) {
				if m.Sequence > last || !yield(m, nil) {
					return
				}
				from, more = m.Sequence+1, true
			}
		}
		for m, err := range l.Messages(ctx, subject, from, last) {
			if !yield(m, err) {
				return
			}
		}
	}
}

// batch asks any replica for messages of a subject, and yields those that have come one
// after the other without one left out between them.
func (l Leader) batch(ctx context.Context, subject string, from uint64) iter.Seq[*jetstream.RawStreamMsg] {
	return func(yield func(*jetstream.RawStreamMsg) bool) {
		ask, err := json.Marshal(messageRequest{Sequence: from, NextFor: subject, Batch: knownAtOnce, MaxBytes: messageBytes})
		if err != nil {
			return
		}
		inbox := l.conn.NewInbox()
		sub, err := l.conn.SubscribeSync(inbox)
		if err != nil {
			return
		}
		defer sub.Unsubscribe() //nolint:errcheck // fails where the connection is closed, and nothing comes then
		if l.conn.PublishRequest("$JS.API.DIRECT.GET."+l.stream, inbox, ask) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, batchTime)
		defer cancel()
		for left := uint64(0); ; {
			m, err := sub.NextMsgWithContext(ctx)
			if err != nil || m.Header.Get("Status") != "" { // the end, or no responders: a stream of an earlier version allows none
				return
			}
			raw, behind, err := directMessage(m)
			if err != nil || left != 0 && behind != left-1 || !yield(raw) || behind == 0 {
				return
			}
			left = behind
		}
	}
}

// directMessage decodes the answer to a direct read of many; behind is how many follow it
// where it comes from.
func directMessage(m *nats.Msg) (raw *jetstream.RawStreamMsg, behind uint64, err error) {
	sequence, err1 := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	behind, err2 := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
	stored, err3 := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	raw = &jetstream.RawStreamMsg{Subject: m.Header.Get(jetstream.SubjectHeader), Sequence: sequence, Data: m.Data, Time: stored}
	for _, own := range []string{jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer, "Nats-Num-Pending", "Nats-Last-Sequence"} {
		m.Header.Del(own)
	}
	if len(m.Header) > 0 {
		raw.Header = m.Header
	}
	return raw, behind, errors.Join(err1, err2, err3)
}

// LastMessage reads the last message of a subject at the stream's leader. Errors are
// those of jetstream.Stream.GetMsg; jetstream.ErrMsgNotFound: it has none.
func LastMessage(ctx context.Context, conn *nats.Conn, stream, subject string) (*jetstream.RawStreamMsg, error) {
	return readMessage(ctx, conn, stream, messageRequest{LastFor: subject})
}

// What Messages asks for at a time: so many messages at first, which of the largest
// frames of output are 512 KiB, and more of small ones, as many as are that together.
const (
	messagesAtFirst = 8
	messagesAtOnce  = 64
	messageBytes    = 512 << 10
	// knownAtOnce is how many messages Known asks for at a time, and batchTime how long it
	// waits for them before it asks the leader.
	knownAtOnce = 256
	batchTime   = 2 * time.Second
)

// Messages yields the messages of one subject between two sequences, both included,
// in their order, as the stream's leader has them; less where it has no more. It asks
// for several at a time: of the sequences that follow, most are of the subject where
// it has the stream for itself, and where it has not, fewer are asked for. The first
// error ends it.
//
// Nothing is left out between two that are yielded: who found a message saw all that
// are before it, and where one found none, what was found behind that is not used.
func Messages(ctx context.Context, conn *nats.Conn, stream, subject string, from, last uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		for n := messagesAtFirst; from <= last; {
			n = int(min(uint64(n), last-from+1))
			batch, err := readBatch(ctx, conn, stream, subject, from, n)
			found, size := 0, 1
			for _, m := range batch {
				if m.Sequence < from {
					continue // as the one before
				}
				if m.Sequence > last {
					return
				}
				if !yield(m, nil) {
					return
				}
				from, found, size = m.Sequence+1, found+1, size+len(m.Data)
			}
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if found == n {
				n = min(2*n, messagesAtOnce, max(messagesAtFirst, found*messageBytes/size))
			} else {
				n = found
			}
		}
	}
}

// readBatch reads the first message of a subject at each of n sequences, up to the
// first error.
func readBatch(ctx context.Context, conn *nats.Conn, stream, subject string, from uint64, n int) ([]*jetstream.RawStreamMsg, error) {
	batch, errs := make([]*jetstream.RawStreamMsg, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			batch[i], errs[i] = readMessage(ctx, conn, stream, messageRequest{Sequence: from + uint64(i), NextFor: subject})
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			return batch[:i], err
		}
	}
	return batch, nil
}

type messageRequest struct {
	Sequence uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

func readMessage(ctx context.Context, conn *nats.Conn, stream string, req messageRequest) (*jetstream.RawStreamMsg, error) {
	ask, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	m, err := askLeader(ctx, conn, "$JS.API.STREAM.MSG.GET."+stream, ask)
	if err != nil {
		return nil, err
	}
	return decodeMessage(m.Data)
}

// A request is lost where the stream's leader changes: no server answers it. So it is sent
// again after leaderTry, leaderTries times in all.
const (
	leaderTry   = 2 * time.Second
	leaderTries = 3
)

// askLeader sends a request that may be repeated to a stream's leader.
func askLeader(ctx context.Context, conn *nats.Conn, subject string, ask []byte) (m *nats.Msg, err error) {
	for range leaderTries {
		try, cancel := context.WithTimeout(ctx, leaderTry)
		m, err = conn.RequestWithContext(try, subject, ask)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	return m, err
}

// decodeMessage decodes the leader's answer. The content is taken out first: it is
// most of it, and a decoder of JSON looks at each byte several times.
func decodeMessage(raw []byte) (*jetstream.RawStreamMsg, error) {
	const field = `"data":"` // in no other place: a string of JSON has no bare quote
	var content []byte
	if at := bytes.Index(raw, []byte(field)); at >= 0 {
		at += len(field)
		end := bytes.IndexByte(raw[at:], '"')
		if end < 0 {
			return nil, fmt.Errorf("a stored message without its end")
		}
		var err error
		if content, err = base64.StdEncoding.AppendDecode(nil, raw[at:at+end]); err != nil {
			return nil, err
		}
		raw = append(bytes.Clone(raw[:at]), raw[at+end:]...)
	}
	var reply struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		return nil, err
	}
	switch {
	case reply.Error != nil && reply.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, jetstream.ErrMsgNotFound
	case reply.Error != nil:
		return nil, reply.Error
	case reply.Message == nil:
		return nil, jetstream.ErrInvalidJetStreamResponse
	}
	m := &jetstream.RawStreamMsg{Subject: reply.Message.Subject, Sequence: reply.Message.Sequence, Data: content, Time: reply.Message.Time}
	if len(reply.Message.Header) > 0 {
		var err error
		if m.Header, err = nats.DecodeHeadersMsg(reply.Message.Header); err != nil {
			return nil, err
		}
	}
	return m, nil
}
