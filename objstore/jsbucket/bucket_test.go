package jsbucket_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/buckettest"
	"github.com/wsmesh/wsmesh/objstore/jsbucket"
)

const tenant = mesh.Tenant("acme")

func connect(t *testing.T, m *meshtest.Mesh) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	return js
}

func open(t *testing.T, js jetstream.JetStream, tenant mesh.Tenant) *jsbucket.Bucket {
	t.Helper()
	b, err := jsbucket.Open(t.Context(), js, 0, tenant)
	require.NoError(t, err)
	return b
}

func start(t *testing.T, servers int) (*meshtest.Mesh, jetstream.JetStream) {
	t.Helper()
	var m *meshtest.Mesh
	if servers == 1 {
		m = meshtest.Server(t)
	} else {
		m = meshtest.Cluster(t, servers)
	}
	js := connect(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, mesh.EnsureStreams(ctx, js, mesh.Storage{Shards: 1, Replicas: m.Replicas()}))
	return m, js
}

// TestBucket shares one mesh per kind: a cluster takes its time to start.
func TestBucket(t *testing.T) {
	for name, servers := range map[string]int{"single": 1, "cluster": 3} {
		t.Run(name, func(t *testing.T) {
			m, js := start(t, servers)
			t.Run("suite", func(t *testing.T) {
				buckettest.Run(t, func(t *testing.T) objstore.Bucket { return open(t, connect(t, m), tenant) })
			})
			t.Run("incomplete", func(t *testing.T) { testIncomplete(t, js) })
			t.Run("parts", func(t *testing.T) { testOnlyThePartsNeeded(t, js) })
			t.Run("replicas", func(t *testing.T) { testReplicas(t, js) })
			t.Run("tenants", func(t *testing.T) { testTenants(t, js) })
			t.Run("damaged", func(t *testing.T) { testDamaged(t, js) })
			t.Run("corrupted", func(t *testing.T) { testCorrupted(t, js) })
			t.Run("lost answers", func(t *testing.T) { testLostAnswers(t, js) })
			t.Run("full", func(t *testing.T) { testFull(t, js, m.Replicas()) })
		})
	}
}

func requireMissing(t *testing.T, b objstore.Bucket, id objstore.ID) {
	t.Helper()
	_, err := b.Get(t.Context(), id, 0, 1)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
	for listed, err := range b.List(t.Context()) {
		require.NoError(t, err)
		require.NotEqual(t, id, listed)
	}
}

func requireObject(t *testing.T, b objstore.Bucket, id objstore.ID, n int) {
	t.Helper()
	got, err := b.Get(t.Context(), id, 0, n)
	require.NoError(t, err)
	require.Equal(t, id, objstore.IDOf(got))
}

// testIncomplete: a pack whose writer died before its last part does not exist,
// and can be stored again.
func testIncomplete(t *testing.T, js jetstream.JetStream) {
	b := open(t, js, "incomplete")
	id, data := buckettest.Object(1, 4*mesh.MaxMessage)
	for _, i := range []int{0, 2} {
		m := nats.NewMsg(mesh.PackSubject(0, "incomplete", id, i))
		m.Data = data[i*mesh.MaxMessage : (i+1)*mesh.MaxMessage]
		_, err := mesh.Publish(t.Context(), js, m, 0)
		require.NoError(t, err)
	}
	requireMissing(t, b, id)
	require.NoError(t, b.Put(t.Context(), id, data))
	requireObject(t, b, id, len(data))
}

// testOnlyThePartsNeeded takes a part away: reads that do not need it work.
func testOnlyThePartsNeeded(t *testing.T, js jetstream.JetStream) {
	b := open(t, js, "parts")
	id, data := buckettest.Object(2, 4*mesh.MaxMessage)
	require.NoError(t, b.Put(t.Context(), id, data))
	stream, err := js.Stream(t.Context(), mesh.PackStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject(mesh.PackSubject(0, "parts", id, 1))))
	for _, c := range []struct {
		name      string
		offset, n int
		missing   bool
	}{
		{"before it", 0, mesh.MaxMessage, false},
		{"after it", 2 * mesh.MaxMessage, 2 * mesh.MaxMessage, false},
		{"the end", -mesh.MaxMessage, mesh.MaxMessage, false},
		{"its first byte", mesh.MaxMessage - 1, 2, true},
		{"its last byte", 2*mesh.MaxMessage - 1, 1, true},
	} {
		if c.missing {
			requireCode(t, mesh.CodeNotFound, func() error {
				_, err := b.Get(t.Context(), id, int64(c.offset), c.n)
				return err
			})
			continue
		}
		got, err := b.Get(t.Context(), id, int64(c.offset), c.n)
		require.NoError(t, err, c.name)
		require.Len(t, got, c.n, c.name)
	}
}

// requireCode does something until all replicas have what was changed behind the back
// of a bucket.
func requireCode(t *testing.T, code mesh.Code, do func() error) {
	t.Helper()
	require.Eventually(t, func() bool { return mesh.CodeOf(do()) == code }, 10*time.Second, 10*time.Millisecond)
}

// replica is a JetStream whose direct reads an oldReplica answers.
type replica struct {
	jetstream.JetStream
	old *oldReplica
}

func (r *replica) Stream(ctx context.Context, name string) (s jetstream.Stream, err error) {
	r.old.Stream, err = r.JetStream.Stream(ctx, name)
	return r.old, err
}

// oldReplica answers as a replica does that has heard of nothing new: with what it has
// answered once, or with nothing.
type oldReplica struct {
	jetstream.Stream
	has sync.Map
	new bool // it has what is new
}

func (o *oldReplica) GetLastMsgForSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	if m, ok := o.has.Load(subject); ok {
		return m.(*jetstream.RawStreamMsg), nil
	}
	if !o.new {
		return nil, jetstream.ErrMsgNotFound
	}
	m, err := o.Stream.GetLastMsgForSubject(ctx, subject)
	if err == nil {
		o.has.Store(subject, m)
	}
	return m, err
}

// testReplicas: a part that a replica has not is read from the leader, and what a
// replica has still of a pack that is deleted does not bring it back.
func testReplicas(t *testing.T, js jetstream.JetStream) {
	o := &oldReplica{}
	b := open(t, &replica{js, o}, "replicas")
	id, data := buckettest.Object(11, 3*mesh.MaxMessage+1)
	require.NoError(t, b.Put(t.Context(), id, data))
	requireObject(t, b, id, len(data))
	o.new = true
	requireObject(t, b, id, len(data))
	require.NoError(t, open(t, js, "replicas").Delete(t.Context(), id))
	for _, c := range []struct{ offset, n int }{{-1, 1}, {0, len(data)}} { // b knows how it was cut
		_, err := b.Get(t.Context(), id, int64(c.offset), c.n)
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
	}
	requireMissing(t, b, id)
}

func testTenants(t *testing.T, js jetstream.JetStream) {
	a, b := open(t, js, "one"), open(t, js, "two")
	id, data := buckettest.Object(3, 10)
	require.NoError(t, a.Put(t.Context(), id, data))
	requireMissing(t, b, id)
	require.NoError(t, b.Put(t.Context(), id, data))
	require.NoError(t, a.Delete(t.Context(), id))
	requireObject(t, b, id, len(data))
}

// testDamaged: an end that does not say what it must is an error, whatever it
// says instead.
func testDamaged(t *testing.T, js jetstream.JetStream) {
	b := open(t, js, "damaged")
	for i, c := range []struct{ parts, bytes string }{
		{"", ""}, {"1", ""}, {"", "10"}, {"0", "10"}, {"-1", "10"}, {"1", "0"}, {"1", "2"}, {"1000000000", "524288"}, {"2", "99999999999"}, {"x", "y"},
	} {
		id, _ := buckettest.Object(uint64(800+i), 10)
		m := nats.NewMsg(mesh.PackEndSubject(0, "damaged", id))
		m.Header.Set(mesh.HeaderParts, c.parts)
		m.Header.Set(mesh.HeaderPartBytes, c.bytes)
		m.Data = []byte("abc")
		_, err := mesh.Publish(t.Context(), js, m, 0)
		require.NoError(t, err)
		_, err = b.Get(t.Context(), id, 0, 10)
		require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%+v: %v", c, err)
	}
}

// testCorrupted exchanges one part of a stored pack for other bytes of the same
// length: what a store reads of it is an error that names the pack.
func testCorrupted(t *testing.T, js jetstream.JetStream) {
	const tenant = "corrupted"
	newStore := func() *objstore.Store {
		s, err := objstore.New(open(t, js, tenant), objstore.Config{})
		require.NoError(t, err)
		return s
	}
	w := newStore().Writer(nil)
	_, data := buckettest.Object(10, 3*mesh.MaxMessage)
	c, err := w.Blob(t.Context(), data)
	require.NoError(t, err)
	packs, err := w.Flush(t.Context())
	require.NoError(t, err)
	read := func() error {
		r, err := newStore().Reader(t.Context(), packs...)
		require.NoError(t, err)
		got, err := r.Blob(t.Context(), c.ID)
		if err == nil {
			require.Equal(t, c.ID, objstore.IDOf(got))
		}
		return err
	}
	check := func() error { return newStore().CheckStored(t.Context(), packs[0]) }
	require.NoError(t, read())
	require.NoError(t, check())
	stream, err := js.Stream(t.Context(), mesh.PackStream(0))
	require.NoError(t, err)
	subject := mesh.PackSubject(0, tenant, packs[0], 1)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject)))
	requireCode(t, mesh.CodeNotFound, read)
	requireCode(t, mesh.CodeNotFound, check)
	m := nats.NewMsg(subject)
	m.Data = make([]byte, mesh.MaxMessage)
	_, err = mesh.Publish(t.Context(), js, m, 0)
	require.NoError(t, err)
	requireCode(t, mesh.CodeInternal, read)
	requireCode(t, mesh.CodeInternal, check)
	require.ErrorContains(t, read(), packs[0].String())
}

// lossy loses the answers of the next publishes: they are stored, and the writer
// does not learn it.
type lossy struct {
	jetstream.JetStream
	lose atomic.Int64
}

func (l *lossy) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := l.JetStream.PublishMsg(ctx, m, opts...)
	if l.lose.Add(-1) >= 0 {
		return nil, nats.ErrTimeout
	}
	return ack, err
}

func testLostAnswers(t *testing.T, js jetstream.JetStream) {
	l := &lossy{JetStream: js}
	b := open(t, l, "lossy")
	id, data := buckettest.Object(4, 4*mesh.MaxMessage)
	l.lose.Store(6)
	require.NoError(t, b.Put(t.Context(), id, data))
	requireObject(t, b, id, len(data))

	l.lose.Store(1 << 40)
	id, data = buckettest.Object(5, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(b.Put(ctx, id, data)), "stored or not: nothing refers to it")
	l.lose.Store(0)
	require.NoError(t, b.Put(t.Context(), id, data), "storing it again settles it")
}

// testFull: a stream without room refuses a pack; nothing of it is seen, and once
// there is room it can be stored.
func testFull(t *testing.T, js jetstream.JetStream, replicas int) {
	b := open(t, js, "full")
	stream, err := js.Stream(t.Context(), mesh.PackStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context()))
	bound := func(max int64) {
		for _, c := range mesh.Streams(mesh.Storage{Shards: 1, Replicas: replicas}) {
			if c.Name == mesh.PackStream(0) {
				c.MaxBytes = max
				_, err := js.UpdateStream(t.Context(), c)
				require.NoError(t, err)
			}
		}
	}
	bound(3 << 20)
	first, data := buckettest.Object(6, 2<<20)
	require.NoError(t, b.Put(t.Context(), first, data))
	second, more := buckettest.Object(7, 2<<20)
	err = b.Put(t.Context(), second, more)
	require.Equal(t, mesh.CodeQuota, mesh.CodeOf(err), "%v", err)
	requireMissing(t, b, second)
	requireObject(t, b, first, len(data))
	bound(-1)
	require.NoError(t, b.Put(t.Context(), second, more))
	requireObject(t, b, second, len(more))
}

// TestLeaderKill kills the stream's leader under a writer and a reader: what was
// acknowledged is there, at once and at the end.
func TestLeaderKill(t *testing.T) {
	m, js := start(t, 3)
	b := open(t, js, tenant)
	const packs, size = 12, 3*mesh.MaxMessage + 5
	kill := make(chan struct{})
	failed := make(chan error, 1)
	go func() { failed <- putAll(t.Context(), b, packs, size, func() { close(kill) }) }()
	<-kill
	stream, err := js.Stream(t.Context(), mesh.PackStream(0))
	require.NoError(t, err)
	leader := -1
	for i, s := range m.Servers {
		if s.Name() == stream.CachedInfo().Cluster.Leader {
			leader = i
		}
	}
	require.NotEqual(t, -1, leader)
	m.Stop(leader)
	require.NoError(t, <-failed)
	m.Restart(t, leader)
	other := open(t, connect(t, m), tenant)
	listed := 0
	for id, err := range other.List(t.Context()) {
		require.NoError(t, err)
		requireObject(t, other, id, size)
		listed++
	}
	require.Equal(t, packs, listed)
}

// putAll puts packs and reads each one back; a third of the way it calls kill.
func putAll(ctx context.Context, b *jsbucket.Bucket, packs, size int, kill func()) error {
	for i := range packs {
		if i == packs/3 {
			kill()
		}
		id, data := buckettest.Object(uint64(900+i), size)
		if err := b.Put(ctx, id, data); err != nil {
			return fmt.Errorf("pack %d: %w", i, err)
		}
		got, err := b.Get(ctx, id, 0, size)
		if err != nil {
			return fmt.Errorf("pack %d: %w", i, err)
		}
		if objstore.IDOf(got) != id {
			return errors.New("other bytes came back")
		}
	}
	return nil
}
