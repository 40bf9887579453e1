package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// onBoth runs a test on one server and on a cluster of three.
func onBoth(t *testing.T, test func(t *testing.T, m *meshtest.Mesh, js jetstream.JetStream)) {
	for _, c := range []struct {
		name  string
		start func(t *testing.T) *meshtest.Mesh
	}{
		{"single", func(t *testing.T) *meshtest.Mesh { return meshtest.Server(t) }},
		{"cluster", func(t *testing.T) *meshtest.Mesh { return meshtest.Cluster(t, 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.start(t)
			js, err := jetstream.New(m.Streams(t))
			require.NoError(t, err)
			test(t, m, js)
		})
	}
}

// wrongs are settings that would break a promise quietly. What is compared is
// the same on a cluster, where each costs an election: some of them there.
func wrongs(s mesh.Storage) []wrong {
	all := []wrong{
		{mesh.JournalStream(0), "discard policy", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }},
		{mesh.JournalStream(0), "maximum age", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }},
		{mesh.JournalStream(0), "messages per subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }},
		{mesh.JournalStream(0), "maximum number of messages", func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 << 40 }},
		{mesh.JournalStream(0), "republish", func(c *jetstream.StreamConfig) { c.RePublish = nil }},
		{mesh.JournalStream(0), "republish", func(c *jetstream.StreamConfig) { c.RePublish.HeadersOnly = false }},
		{mesh.JournalStream(0), "subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"int.v1.journal.00.>"} }},
		{mesh.ExecLogStream(0), "storage", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }},
		{mesh.ExecLogStream(0), "retention", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }},
		{mesh.ExecLogStream(0), "maximum age", func(c *jetstream.StreamConfig) { c.MaxAge = 0 }},
		{mesh.ExecLogStream(0), "republish", func(c *jetstream.StreamConfig) {
			c.RePublish.Destination = "out.v1.{{wildcard(2)}}.{{wildcard(1)}}.{{wildcard(3)}}"
		}},
		{mesh.PackStream(0), "messages per subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 }},
		{mesh.PackStream(0), "discard policy per subject", func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject = false }},
		{mesh.ExecLogStream(1), "direct reads", func(c *jetstream.StreamConfig) { c.AllowDirect = true }},
		{"KV_" + mesh.BucketOwners, "messages per subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }},
		{"KV_" + mesh.BucketTenants, "direct reads", func(c *jetstream.StreamConfig) { c.AllowDirect = true }},
		{mesh.MemoryStream(0), "direct reads", func(c *jetstream.StreamConfig) { c.AllowDirect = true }},
		{mesh.MemoryStream(1), "life of markers", func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Minute }},
		{mesh.MemoryStream(2), "lives of messages", func(c *jetstream.StreamConfig) { c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = false, 0 }},
		{mesh.MemoryStream(15), "atomic publishing", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }},
	}
	if s.Replicas > 1 {
		return append(all[:3], wrong{mesh.JournalStream(0), "number of replicas", func(c *jetstream.StreamConfig) { c.Replicas = 1 }})
	}
	return all
}

type wrong struct {
	stream, setting string
	change          func(*jetstream.StreamConfig)
}

// TestStreams shares one mesh per kind: a cluster takes its time to start.
func TestStreams(t *testing.T) {
	onBoth(t, func(t *testing.T, m *meshtest.Mesh, js jetstream.JetStream) {
		s := mesh.Storage{Shards: 2, Replicas: m.Replicas()}
		t.Run("ensure", func(t *testing.T) { testEnsure(t, js, s) })
		t.Run("chain", func(t *testing.T) { testChain(t, js) })
		t.Run("race", func(t *testing.T) { testPublishRace(t, m) })
		t.Run("full stream", func(t *testing.T) { testFullStream(t, js, s) })
	})
}

func testEnsure(t *testing.T, js jetstream.JetStream, s mesh.Storage) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	errs := make(chan error, 3) // as nodes that start together
	for range cap(errs) {
		go func() { errs <- mesh.EnsureStreams(ctx, js, s) }()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.NoError(t, mesh.EnsureStreams(ctx, js, s), "streams that exist as wanted are fine")
	require.NoError(t, mesh.EnsureStreams(ctx, js, mesh.Storage{Shards: 1, Replicas: s.Replicas}))

	for _, name := range []string{mesh.PackStream(1), mesh.JournalStream(1)} {
		require.NoError(t, js.DeleteStream(ctx, name))
		require.NoError(t, createWrong(ctx, js, s, wrong{stream: name, change: func(c *jetstream.StreamConfig) { c.AllowDirect = false }}))
	}
	require.NoError(t, mesh.EnsureStreams(ctx, js, s), "as earlier versions made it")

	for _, w := range wrongs(s) {
		t.Run(w.stream+"/"+w.setting, func(t *testing.T) {
			if err := js.DeleteStream(ctx, w.stream); !errors.Is(err, jetstream.ErrStreamNotFound) {
				require.NoError(t, err)
			}
			require.NoError(t, createWrong(ctx, js, s, w))
			err := mesh.EnsureStreams(ctx, js, s)
			require.ErrorIs(t, err, &mesh.Error{Code: mesh.CodeConflict})
			require.Contains(t, err.Error(), "stream "+w.stream+" exists with another "+w.setting+";")
			require.NoError(t, js.DeleteStream(ctx, w.stream))
			require.NoError(t, mesh.EnsureStreams(ctx, js, s))
		})
	}
}

func createWrong(ctx context.Context, js jetstream.JetStream, s mesh.Storage, w wrong) error {
	for _, c := range append(mesh.Streams(s), mesh.MemoryStreams(s)...) {
		if c.Name == w.stream {
			w.change(&c)
			_, err := js.CreateStream(ctx, c)
			return err
		}
	}
	return errors.New("no stream " + w.stream)
}

// TestStreamsKeepThePromises reads back what the server made of the settings.
func TestStreamsKeepThePromises(t *testing.T) {
	m := meshtest.Server(t)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	names := 0
	for info := range js.ListStreams(t.Context()).Info() {
		names++
		c := info.Config
		require.Equal(t, jetstream.FileStorage, c.Storage, c.Name)
		require.Equal(t, jetstream.DiscardNew, c.Discard, c.Name)
		require.Equal(t, c.Name == mesh.PackStream(0) || c.Name == mesh.JournalStream(0), c.AllowDirect, c.Name)
		require.False(t, c.MirrorDirect, c.Name)
		require.Negative(t, c.MaxMsgs, c.Name)
		require.Negative(t, c.MaxBytes, c.Name)
	}
	require.Equal(t, len(mesh.Streams(mesh.Storage{Shards: 1, Replicas: 1})), names)

	tenant := m.DialToken(t, m.Token(t, "acme"))
	frames, err := tenant.SubscribeSync("out.v1.acme.>")
	require.NoError(t, err)
	events, err := tenant.SubscribeSync("ev.v1.acme.>")
	require.NoError(t, err)
	require.NoError(t, tenant.Flush())
	for _, subject := range []string{
		mesh.ExecLogSubject(0, "other", "repo", exec1), mesh.JournalSubject(0, "other", "repo"),
		mesh.ExecLogSubject(0, "acme", "repo", exec1), mesh.JournalSubject(0, "acme", "repo"),
	} {
		msg := nats.NewMsg(subject)
		msg.Header.Set(mesh.HeaderKind, "open")
		msg.Data = []byte("body")
		_, err := mesh.Publish(t.Context(), js, msg, 0)
		require.NoError(t, err)
	}
	frame, err := frames.NextMsg(requestTime)
	require.NoError(t, err)
	require.Equal(t, mesh.OutSubject("acme", "repo", exec1), frame.Subject)
	require.Equal(t, "body", string(frame.Data))
	event, err := events.NextMsg(requestTime)
	require.NoError(t, err)
	require.Equal(t, mesh.EventSubject("acme", "repo"), event.Subject)
	require.Equal(t, "open", event.Header.Get(mesh.HeaderKind))
	require.Empty(t, event.Data, "the tenants' copy of the journal has no bodies")
}

func message(subject string, data string) *nats.Msg {
	return &nats.Msg{Subject: subject, Header: nats.Header{}, Data: []byte(data)}
}

func testChain(t *testing.T, js jetstream.JetStream) {
	subject := mesh.JournalSubject(0, "acme", "chain")
	first, err := mesh.Publish(t.Context(), js, message(subject, "1"), 0)
	require.NoError(t, err)
	for _, c := range []struct {
		name   string
		expect uint64
	}{
		{"that nothing is there", 0},
		{"an earlier sequence", first - 1},
		{"a later sequence", first + 1},
	} {
		if c.name == "an earlier sequence" && c.expect == 0 {
			continue
		}
		_, err = mesh.Publish(t.Context(), js, message(subject, "refused"), c.expect)
		require.ErrorIs(t, err, mesh.ErrRefused, c.name)
	}
	second, err := mesh.Publish(t.Context(), js, message(subject, "2"), first)
	require.NoError(t, err)
	require.Greater(t, second, first)
	_, err = mesh.Publish(t.Context(), js, message(subject, "refused"), first)
	require.ErrorIs(t, err, mesh.ErrRefused)
	require.Equal(t, []string{"1", "2"}, stored(t, js, subject))

	_, err = mesh.Publish(t.Context(), js, message(subject, string(make([]byte, mesh.MaxPayload+1))), second)
	require.Equal(t, mesh.CodeTooLarge, mesh.CodeOf(err))

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = mesh.Publish(ctx, js, message("int.v1.journal.77.acme.nobody", "x"), 0)
	require.Equal(t, mesh.CodeLost, mesh.CodeOf(err), "no stream answers: unknown")
}

// stored returns the bodies of a subject, in order.
func stored(t *testing.T, js jetstream.JetStream, subject string) []string {
	t.Helper()
	stream, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	var all []string
	for next := uint64(1); ; {
		msg, err := stream.GetMsg(t.Context(), next, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return all
		}
		require.NoError(t, err)
		all, next = append(all, string(msg.Data)), msg.Sequence+1
	}
}

// testPublishRace lets publishers on different connections, and so servers,
// publish with one expectation, round after round.
func testPublishRace(t *testing.T, m *meshtest.Mesh) {
	const publishers, rounds = 4, 10
	subject := mesh.JournalSubject(0, "acme", "race")
	var all []jetstream.JetStream
	for i := range publishers {
		js, err := jetstream.New(m.Store(t, mesh.Node(fmt.Sprintf("p%d", i))))
		require.NoError(t, err)
		all = append(all, js)
	}
	var last uint64
	var winners []string
	for round := range rounds {
		sequences, errs := make([]uint64, publishers), make([]error, publishers)
		var wg sync.WaitGroup
		for i, js := range all {
			wg.Go(func() {
				sequences[i], errs[i] = mesh.Publish(t.Context(), js, message(subject, fmt.Sprintf("%d of %d", i, round)), last)
			})
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			if err == nil {
				won++
				winners = append(winners, fmt.Sprintf("%d of %d", i, round))
				last = sequences[i]
				continue
			}
			require.ErrorIs(t, err, mesh.ErrRefused)
		}
		require.Equal(t, 1, won, "round %d: %v", round, errs)
	}
	require.Equal(t, winners, stored(t, all[0], subject), "what was acknowledged is what is stored")
}

func testFullStream(t *testing.T, js jetstream.JetStream, s mesh.Storage) {
	small := mesh.Streams(s)[0]
	small.MaxBytes = 64 << 10
	_, err := js.UpdateStream(t.Context(), small)
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, s), "an operator may bound a stream")
	subject := mesh.JournalSubject(0, "acme", "full")
	body := string(bytes.Repeat([]byte("x"), 10<<10))
	var last uint64
	var count int
	for {
		next, err := mesh.Publish(t.Context(), js, message(subject, body), last)
		if err != nil {
			require.Equal(t, mesh.CodeQuota, mesh.CodeOf(err), "%v", err)
			break
		}
		last, count = next, count+1
		require.Less(t, count, 10, "the bound does not hold")
	}
	require.Len(t, stored(t, js, subject), count, "a full stream refuses and drops nothing")
}

// TestPublishThroughRestart kills the server under a writer: each publish gets
// a definite answer in the end, or one that reading decides, and the log holds
// each record once and in order.
func TestPublishThroughRestart(t *testing.T) {
	m := meshtest.Server(t)
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	subject := mesh.JournalSubject(0, "acme", "repo")

	started, done := make(chan struct{}), make(chan struct{})
	const restarts, records = 2, 400
	var want []string
	var writeErr error
	go func() {
		defer close(done)
		var last uint64
		for i := range records {
			if i == records/4 {
				close(started)
			}
			body := fmt.Sprint(i)
			next, err := mesh.Publish(context.WithoutCancel(t.Context()), js, message(subject, body), last)
			if errors.Is(err, mesh.ErrRefused) { // an earlier try of ours was stored
				next, err = last+1, nil
			}
			if err != nil {
				writeErr = err
				return
			}
			last, want = next, append(want, body)
		}
	}()
	<-started
	for range restarts {
		m.Stop(0)
		m.Restart(t, 0)
	}
	<-done
	require.NoError(t, writeErr)
	require.Len(t, want, records)
	require.Equal(t, want, stored(t, js, subject))
}

// TestPublishWaitsForTheServer: a publish that begins while no server runs
// settles once there is one.
func TestPublishWaitsForTheServer(t *testing.T) {
	m := meshtest.Server(t)
	nc := m.Streams(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 1}))
	subject := mesh.JournalSubject(0, "acme", "repo")
	m.Stop(0)
	require.Eventually(t, func() bool { return !nc.IsConnected() }, 5*time.Second, time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	_, err = mesh.Publish(ctx, js, message(subject, "given up"), 0)
	cancel()
	require.Equal(t, mesh.CodeLost, mesh.CodeOf(err), "%v", err)

	result := make(chan error, 1)
	go func() {
		_, err := mesh.Publish(context.WithoutCancel(t.Context()), js, message(subject, "kept"), 0)
		result <- err
	}()
	m.Restart(t, 0)
	require.NoError(t, <-result)
	require.Equal(t, []string{"kept"}, stored(t, js, subject))

	nc.Close()
	begin := time.Now()
	_, err = mesh.Publish(t.Context(), js, message(subject, "closed"), 1)
	require.Equal(t, mesh.CodeLost, mesh.CodeOf(err))
	require.Less(t, time.Since(begin), mesh.DefaultSettle/2, "a closed connection comes back never")
}
