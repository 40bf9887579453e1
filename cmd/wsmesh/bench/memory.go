package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// listed is how many of the keys one mem_list shows.
const listed = 100

// memoryKey is the i-th key; those of one listing have the part before the slash
// in common.
func memoryKey(i int) string { return fmt.Sprintf("%02d/%04d", i%files/listed, i%files) }

// kvStream is the floor of memory: a stream with the settings of a memory's, used
// without the mesh, at its leader.
type kvStream struct {
	js       jetstream.JetStream
	legacy   nats.JetStreamContext // KV lists with it
	stream   jetstream.Stream
	subjects string
}

func newKVStream(ctx context.Context, conn *nats.Conn, replicas int) (*kvStream, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	legacy, err := conn.JetStream()
	if err != nil {
		return nil, err
	}
	k := &kvStream{js: js, legacy: legacy, subjects: "bench." + mesh.NewID() + "."}
	cfg := mesh.MemoryStreams(mesh.Storage{Replicas: replicas})[0]
	cfg.Subjects = []string{k.subjects + ">"}
	name, err := createStream(ctx, js, cfg)
	if err == nil {
		k.stream, err = js.Stream(ctx, name)
	}
	return k, err
}

func (k *kvStream) subject(key string) string { return k.subjects + strings.ReplaceAll(key, "/", ".") }

func (k *kvStream) put(ctx context.Context, key string, value []byte) error {
	_, err := k.js.Publish(ctx, k.subject(key), value)
	return err
}

func (k *kvStream) get(ctx context.Context, key string) ([]byte, error) {
	m, err := k.stream.GetLastMsgForSubject(ctx, k.subject(key))
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

// list counts the keys below a prefix, in the way a KV bucket lists its own.
func (k *kvStream) list(ctx context.Context, prefix string) (n int, err error) {
	sub, err := k.legacy.SubscribeSync(k.subject(prefix)+">", nats.BindStream(k.stream.CachedInfo().Config.Name),
		nats.OrderedConsumer(), nats.DeliverLastPerSubject(), nats.HeadersOnly())
	if err != nil {
		return 0, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // gone with the connection otherwise
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return n, err
		}
		n++
		meta, err := m.Metadata()
		if err != nil || meta.NumPending == 0 {
			return n, err
		}
	}
}

// memoryPair fills a memory of its own and a stream like it with the same keys and
// values, and does the same to both.
func memoryPair(ctx context.Context, cfg Config, replicas int) (*pair, error) {
	mem, value := cfg.Client.Memory("bench-"+mesh.NewID()[:8]), random()
	floor, err := newKVStream(ctx, cfg.Floor, replicas)
	if err != nil {
		return nil, err
	}
	p := &pair{floorName: "stream", close: func() {
		dropStream(ctx, floor.js, floor.stream.CachedInfo().Config.Name)
		mem.DeleteAll(context.WithoutCancel(ctx), "") //nolint:errcheck // the result stands
	}}
	for i := range files {
		if _, err = mem.Put(ctx, memoryKey(i), value); err == nil {
			err = floor.put(ctx, memoryKey(i), value)
		}
		if err != nil {
			p.close()
			return nil, err
		}
	}
	switch cfg.Name {
	case "mem_get":
		p.ours = func(ctx context.Context, i int) error {
			e, err := mem.Get(ctx, memoryKey(i))
			return same(e.Value, value, err)
		}
		p.floor = func(ctx context.Context, i int) error {
			got, err := floor.get(ctx, memoryKey(i))
			return same(got, value, err)
		}
	case "mem_put":
		p.ours = func(ctx context.Context, i int) error {
			_, err := mem.Put(ctx, memoryKey(i), value)
			return err
		}
		p.floor = func(ctx context.Context, i int) error { return floor.put(ctx, memoryKey(i), value) }
	default:
		p.ours = func(ctx context.Context, i int) error {
			page, err := mem.ListPage(ctx, client.MemoryList{Prefix: memoryKey(i * listed)[:3]})
			return all(len(page.Entries), err)
		}
		p.floor = func(ctx context.Context, i int) error {
			n, err := floor.list(ctx, memoryKey(i * listed)[:3])
			return all(n, err)
		}
	}
	return p, nil
}

func all(n int, err error) error {
	if err == nil && n != listed {
		return mesh.Errorf(mesh.CodeInternal, "bench: %d keys were listed instead of %d", n, listed)
	}
	return err
}
