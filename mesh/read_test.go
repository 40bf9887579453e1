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
