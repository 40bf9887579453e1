package mesh_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// Messages yields what reading one by one does, from everywhere, whoever else has
// messages between, and also while more are published.
func TestMessages(t *testing.T) {
	meshtest.Each(t, func(t *testing.T, m *meshtest.Mesh) {
		ctx := t.Context()
		conn := m.Streams(t)
		js, err := jetstream.New(conn)
		require.NoError(t, err)
		cfg := mesh.Streams(mesh.Storage{Shards: 1, Replicas: m.Replicas()})[1]
		stream, err := mesh.EnsureStream(ctx, js, cfg)
		require.NoError(t, err)
		subject := func(i int) string { return fmt.Sprintf("int.v1.out.00.acme.repo.%d", i) }
		publish := func(subject string, data []byte) {
			msg := nats.NewMsg(subject)
			msg.Data = data
			if len(data)%2 == 1 {
				msg.Header.Set("A", `with "data":"quotes"`)
			}
			_, err := js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(40)) // a stream that was just made has no leader yet
			require.NoError(t, err)
		}
		const last = 200
		for i := range last {
			to := 0 // has a stretch of the stream for itself
			if i < 40 {
				to = rand.IntN(3)
			}
			publish(subject(to), bytes.Repeat([]byte{byte(i), '"'}, i)[:max(0, 2*i-1)])
		}
		for i := range 4 { // the last one has none
			for _, from := range []uint64{1, 2, 17, 39, last, last + 1} {
				var want, got []*jetstream.RawStreamMsg
				for seq := from; ; seq++ {
					raw, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject(i)))
					if err != nil {
						require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
						break
					}
					want, seq = append(want, raw), raw.Sequence
				}
				for raw, err := range mesh.Messages(ctx, conn, cfg.Name, subject(i), from, last+10) {
					require.NoError(t, err)
					got = append(got, raw)
				}
				require.Equal(t, want, got, "subject %d from %d", i, from)
				if len(want) > 0 {
					raw, err := mesh.LastMessage(ctx, conn, cfg.Name, subject(i))
					require.NoError(t, err)
					require.Equal(t, want[len(want)-1], raw)
				}
			}
		}
		for raw, err := range mesh.Messages(ctx, conn, cfg.Name, subject(0), 1, 20) {
			require.NoError(t, err)
			require.LessOrEqual(t, raw.Sequence, uint64(20))
		}
		_, err = mesh.LastMessage(ctx, conn, cfg.Name, subject(3))
		require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
		for _, err := range mesh.Messages(ctx, conn, "NONE", subject(0), 1, 2) {
			require.Error(t, err)
		}

		var publishing sync.WaitGroup
		const more = 300
		for range 2 {
			publishing.Go(func() {
				for i := range more / 2 {
					publish(subject(5), fmt.Append(nil, i))
				}
			})
		}
		seen, at := 0, uint64(0)
		for seen < more {
			for raw, err := range mesh.Messages(ctx, conn, cfg.Name, subject(5), at+1, last+more) {
				require.NoError(t, err)
				require.Greater(t, raw.Sequence, at)
				seen, at = seen+1, raw.Sequence
			}
			require.Equal(t, seen, int(max(at, last)-last), "one was left out")
		}
		publishing.Wait()
	})
}

// Known yields up to a message that is known what Messages does: whatever replica answers,
// also directly after the last was stored, where no replica may answer, and beside others'.
func TestKnown(t *testing.T) {
	meshtest.Each(t, func(t *testing.T, m *meshtest.Mesh) {
		ctx := t.Context()
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		var readers []*nats.Conn // at each server
		for range 2 * len(m.Servers) {
			readers = append(readers, m.Streams(t))
		}
		subject := func(i int) string { return fmt.Sprintf("int.v1.journal.00.acme.w%d", i) }
		cfg := mesh.Streams(mesh.Storage{Shards: 1, Replicas: m.Replicas()})[0]
		for _, cfg.AllowDirect = range []bool{true, false} {
			_, err := mesh.EnsureStream(ctx, js, cfg)
			require.NoError(t, err)
			publish := func(i int, data []byte) uint64 {
				msg := nats.NewMsg(subject(i))
				if msg.Data = data; len(data)%2 == 1 {
					msg.Header.Set("A", "of its own")
				}
				ack, err := js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(40))
				require.NoError(t, err)
				return ack.Sequence
			}
			publish(0, []byte{0}) // there is a leader now
			var acks []jetstream.PubAckFuture
			for i := range 600 { // more than come at a time
				msg := nats.NewMsg(subject(i % 2))
				if msg.Data = bytes.Repeat([]byte{byte(i)}, i+1); i%3 == 0 {
					msg.Header.Set("A", "of its own")
				}
				ack, err := js.PublishMsgAsync(msg)
				require.NoError(t, err)
				acks = append(acks, ack)
			}
			last := [2]uint64{}
			for i, ack := range acks {
				select {
				case stored := <-ack.Ok():
					last[i%2] = stored.Sequence
				case err := <-ack.Err():
					require.NoError(t, err)
				}
			}
			large := publish(0, bytes.Repeat([]byte{1}, 300<<10))
			large = max(large, publish(0, bytes.Repeat([]byte{2}, 400<<10))) // more than come at a time, too
			for i, to := range []uint64{large, last[1]} {
				for _, from := range []uint64{1, 2, 301, to - 1, to, to + 1} {
					var want, got []*jetstream.RawStreamMsg
					for raw, err := range mesh.Messages(ctx, js.Conn(), cfg.Name, subject(i), from, to) {
						require.NoError(t, err)
						want = append(want, raw)
					}
					for raw, err := range mesh.AtLeader(readers[0], cfg.Name).Known(ctx, subject(i), from, to) {
						require.NoError(t, err)
						got = append(got, raw)
					}
					require.Len(t, got, len(want), "subject %d from %d to %d", i, from, to)
					for j := range want {
						require.Equal(t, want[j], got[j])
					}
				}
			}
			for i := range 40 {
				to := publish(2, []byte{byte(i)})
				n := 0
				for raw, err := range mesh.AtLeader(readers[i%len(readers)], cfg.Name).Known(ctx, subject(2), 1, to) {
					require.NoError(t, err)
					require.Equal(t, []byte{byte(n)}, raw.Data)
					n++
				}
				require.Equal(t, i+1, n, "what was acknowledged is not there")
			}
			require.NoError(t, mesh.AtLeader(js.Conn(), cfg.Name).Purge(ctx, subject(2), 0))
			at := mesh.AtLeader(js.Conn(), cfg.Name)
			end, err := at.Last(ctx, subject(2))
			require.NoError(t, err)
			require.Equal(t, []byte{39}, end.Data)
			require.NoError(t, at.Purge(ctx, subject(2), end.Sequence))
			first, err := at.Next(ctx, subject(2), 1)
			require.NoError(t, err)
			require.Equal(t, end, first)
			_, err = at.Next(ctx, subject(2), end.Sequence+1)
			require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
			require.NoError(t, js.DeleteStream(ctx, cfg.Name))
		}
	})
}
