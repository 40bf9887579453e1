package meshtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServer(t *testing.T) {
	m := meshtest.Server(t)
	require.Equal(t, 1, m.Replicas())
	require.Equal(t, []string{m.URL()}, m.URLs())

	door := m.Door(t, "n1")
	_, err := door.Subscribe(mesh.OwnerWildcard("acme", "repo", 1), func(msg *nats.Msg) {
		_ = msg.Respond([]byte("stat of " + msg.Subject))
	})
	require.NoError(t, err)
	require.NoError(t, door.Flush())

	tenant := m.DialToken(t, m.Token(t, "acme"))
	subject := mesh.OwnerSubject("acme", "repo", 1, mesh.VerbStat)
	reply, err := tenant.Request(subject, nil, 2*time.Second)
	require.NoError(t, err)
	require.Equal(t, "stat of "+subject, string(reply.Data))

	before := m.Servers[0].URL()
	m.Stop(0)
	require.False(t, m.Servers[0].Running())
	m.Restart(t, 0)
	require.Equal(t, before, m.Servers[0].URL())
	require.Eventually(t, func() bool {
		_, err := tenant.Request(subject, nil, time.Second)
		return err == nil
	}, 5*time.Second, 10*time.Millisecond, "the same connections work again")
}

func TestClusterSurvivesItsLeader(t *testing.T) {
	begin := time.Now()
	m := meshtest.Cluster(t, 3)
	t.Logf("cluster of 3 ready in %v", time.Since(begin))
	require.Equal(t, 3, m.Replicas())

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	name := mesh.JournalStream(0)
	require.NoError(t, mesh.EnsureStreams(ctx, js, mesh.Storage{Shards: 1, Replicas: 3})) // a young cluster may leave one request unanswered
	subject := mesh.JournalSubject(0, "acme", "repo")
	_, err = js.Publish(ctx, subject, []byte("one"), jetstream.WithRetryAttempts(0))
	require.NoError(t, err)

	leader := leaderOf(t, m, js, name)
	m.Stop(leader)
	begin = time.Now()
	publishUntilAcked(t, js, subject)
	t.Logf("a publish succeeded %v after the leader was killed", time.Since(begin))

	m.Restart(t, leader)
	require.Eventually(t, func() bool {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return false
		}
		current := 0
		for _, r := range stream.CachedInfo().Cluster.Replicas {
			if r.Current && !r.Offline {
				current++
			}
		}
		return current == 2
	}, 15*time.Second, 50*time.Millisecond, "the restarted server did not catch up")
}

func leaderOf(t *testing.T, m *meshtest.Mesh, js jetstream.JetStream, name string) int {
	stream, err := js.Stream(t.Context(), name)
	require.NoError(t, err)
	for i, s := range m.Servers {
		if s.Name() == stream.CachedInfo().Cluster.Leader {
			return i
		}
	}
	require.Fail(t, "no server leads the stream")
	return -1
}

func publishUntilAcked(t *testing.T, js jetstream.JetStream, subject string) {
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := js.Publish(ctx, subject, []byte("two"))
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
}
