package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

// MemoryValue is what a key holds, and its value; a deletion has Deleted.
type MemoryValue struct {
	mesh.MemoryEntry
	Value []byte
}

// dumpTime bounds a dump of a memory that changes all the time.
const dumpTime = time.Minute

// Dump calls fn with everything that a memory holds, and with what was deleted lately,
// in the order of the changes, and returns the sequence of the stream that this is the
// state as of. Of several values of one key the last one counts. CodeBusy says that the
// memory changed for so long that there was no such moment.
func (m *Memory) Dump(ctx context.Context, t mesh.Tenant, ns mesh.Namespace, fn func(MemoryValue) error) (uint64, error) {
	s, err := m.shard(ctx, t)
	if err != nil {
		return 0, err
	}
	bound, cancel := context.WithTimeout(ctx, dumpTime)
	defer cancel()
	sequence, err := s.dump(bound, mesh.MemoryPrefix(t, ns)+">", fn)
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		err = mesh.Errorf(mesh.CodeBusy, "memory %s changes all the time; try again", ns)
	}
	return sequence, err
}

func (s *memoryShard) dump(ctx context.Context, filter string, fn func(MemoryValue) error) (uint64, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, unreachable("read the memory", err)
	}
	consumer, err := s.js.OrderedConsumer(ctx, info.Config.Name, jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
	if err != nil {
		return 0, unreachable("read the memory", err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		return info.State.LastSeq, nil
	}
	all, err := consumer.Messages(jetstream.PullMaxMessages(128), jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return 0, unreachable("read the memory", err)
	}
	defer all.Stop()
	for {
		msg, err := all.Next(jetstream.NextContext(ctx))
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			continue // the library makes the consumer anew
		}
		if err != nil {
			return 0, unreachable("read the memory", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return 0, fmt.Errorf("read the memory: %w", err)
		}
		seq := meta.Sequence.Stream
		if _, _, key, err := mesh.ParseMemorySubject(msg.Subject()); err == nil {
			data := msg.Data()
			h := headOf(msg.Headers(), seq, meta.Timestamp, len(data))
			v := MemoryValue{MemoryEntry: h.entry(key)}
			if h.live {
				if data[0] != memoryFormat {
					return 0, mesh.Errorf(mesh.CodeUnsupported, "a memory value has format %d; this node reads %d: update it", data[0], memoryFormat)
				}
				v.Value = data[1:]
			}
			if err := fn(v); err != nil {
				return 0, err
			}
		}
		if meta.NumPending == 0 { // nothing behind it: all is here, as it was at this moment
			return max(seq, info.State.LastSeq), nil
		}
	}
}
