package mesh

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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
}

func readMessage(ctx context.Context, conn *nats.Conn, stream string, req messageRequest) (*jetstream.RawStreamMsg, error) {
	ask, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	m, err := conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, ask)
	if err != nil {
		return nil, err
	}
	return decodeMessage(m.Data)
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
