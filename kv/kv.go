// Package kv keeps what is small and shared by all nodes in JetStream: who owns
// which workspace, which nodes live, the records of workspaces and tenants, and
// the tenants' memories.
//
// Reads go to the stream's leader, so that a decision never rests on a
// replica's old answer. Writes that decide something are compare-and-set and
// are repeated until their answer is definite. Values are JSON; unknown fields
// are ignored. All types are safe for concurrent use and own no goroutines,
// except the watches, which end with their context, and Memory, which has Close.
package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// Store gives access to the buckets of a mesh.
type Store struct {
	Owners     *Owners
	Nodes      *Nodes
	Workspaces *Workspaces
	Tenants    *Tenants
	Snapshots  *Snapshots
	Garbage    *Garbage
}

// Open binds to the buckets, which mesh.EnsureStreams has made.
func Open(ctx context.Context, js jetstream.JetStream) (*Store, error) {
	var buckets [6]bucket
	for i, name := range []string{mesh.BucketOwners, mesh.BucketNodes, mesh.BucketWorkspaces, mesh.BucketTenants, mesh.BucketSnapshots, mesh.BucketGarbage} {
		kv, err := js.KeyValue(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", name, err)
		}
		stream, err := js.Stream(ctx, "KV_"+name)
		if err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", name, err)
		}
		buckets[i] = bucket{kv: kv, js: js, stream: stream}
	}
	return &Store{
		Owners:     &Owners{buckets[0]},
		Nodes:      &Nodes{buckets[1]},
		Workspaces: &Workspaces{buckets[2]},
		Tenants:    &Tenants{buckets[3]},
		Snapshots:  &Snapshots{buckets[4]},
		Garbage:    &Garbage{buckets[5]},
	}, nil
}

// Raw returns a record as it is stored, and its revision. A key that was removed has no
// value, and no revision either where nothing is left of it.
func (s *Store) Raw(ctx context.Context, bucket, key string) (value []byte, revision uint64, err error) {
	m, err := mesh.LastMessage(ctx, s.Tenants.js.Conn(), "KV_"+bucket, "$KV."+bucket+"."+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, unreachable("read "+bucket+"/"+key, err)
	}
	return m.Data, m.Sequence, nil
}

// bucket adds to a KV bucket the compare-and-set that settles and JSON values.
type bucket struct {
	kv     jetstream.KeyValue
	js     jetstream.JetStream
	stream jetstream.Stream // that holds it
}

// watch calls fn with every present value and then with every new one, one at a
// time, until ctx ends or the watch of what breaks; its error says why it ended.
func (b bucket) watch(ctx context.Context, what, keys string, fn func(key string, rev uint64, value []byte)) error {
	w, err := b.kv.Watch(ctx, keys)
	if err != nil {
		return unreachable("watch "+what, err)
	}
	defer w.Stop() //nolint:errcheck // ends with the connection anyway
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-w.Updates():
			if !open && ctx.Err() != nil {
				return ctx.Err()
			}
			if !open {
				return mesh.Errorf(mesh.CodeUnavailable, "the watch on %s ended", what)
			}
			if e != nil && e.Operation() == jetstream.KeyValuePut {
				fn(e.Key(), e.Revision(), e.Value())
			}
		}
	}
}

// get reads a key at the leader into v and returns its revision; 0 without an
// error says that the key does not exist.
func (b bucket) get(ctx context.Context, key string, v any) (uint64, error) {
	e, err := b.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, unreachable("read "+b.kv.Bucket()+"/"+key, err)
	}
	if err := json.Unmarshal(e.Value(), v); err != nil {
		return 0, fmt.Errorf("read %s/%s: %w", b.kv.Bucket(), key, err)
	}
	return e.Revision(), nil
}

// set writes a key if its revision is prev (0: it does not exist) and returns
// the new revision. A refused write is mesh.ErrRefused, an unanswered one
// CodeLost; after either, who wrote is found out by reading.
func (b bucket) set(ctx context.Context, key string, v any, prev uint64) (uint64, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	m := nats.NewMsg("$KV." + b.kv.Bucket() + "." + key)
	m.Data = raw
	return mesh.Publish(ctx, b.js, m, prev)
}

// each calls fn once for every key below a filter that is there all the time, in no order. The
// present values that a watch begins with lack keys that are written while it begins: those
// are read one by one.
func (b bucket) each(ctx context.Context, filter string, fn func(key string, rev uint64, value []byte) error) error {
	seen := map[string]bool{}
	err := b.present(ctx, filter, func(e jetstream.KeyValueEntry) error {
		again := seen[e.Key()]
		seen[e.Key()] = true
		if again || e.Operation() != jetstream.KeyValuePut {
			return nil
		}
		return fn(e.Key(), e.Revision(), e.Value())
	})
	if err != nil {
		return err
	}
	prefix := "$KV." + b.kv.Bucket() + "."
	now, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(prefix+filter))
	if err != nil {
		return unreachable("list "+b.kv.Bucket(), err)
	}
	for subject := range now.State.Subjects {
		key := strings.TrimPrefix(subject, prefix)
		if seen[key] {
			continue
		}
		e, err := b.kv.Get(ctx, key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			continue
		case err != nil:
			return unreachable("list "+b.kv.Bucket(), err)
		}
		if err := fn(key, e.Revision(), e.Value()); err != nil {
			return err
		}
	}
	return nil
}

// present calls fn for what a watch begins with.
func (b bucket) present(ctx context.Context, filter string, fn func(jetstream.KeyValueEntry) error) error {
	w, err := b.kv.Watch(ctx, filter)
	if err != nil {
		return unreachable("list "+b.kv.Bucket(), err)
	}
	defer w.Stop() //nolint:errcheck // ends with the connection anyway
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("list %s: %w", b.kv.Bucket(), ctx.Err())
		case e, open := <-w.Updates():
			if !open {
				return mesh.Errorf(mesh.CodeUnavailable, "list %s: the watch ended early", b.kv.Bucket())
			}
			if e == nil {
				return nil
			}
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}

// unreachable translates an error of a read: nothing was changed, so the caller
// may try again.
func unreachable(op string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", op, err)
	}
	return fmt.Errorf("%s: %w (%w)", op, mesh.Errorf(mesh.CodeUnavailable, "the mesh's records cannot be read now; try again"), err)
}
