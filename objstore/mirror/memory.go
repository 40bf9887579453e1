package mirror

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// MemoryHead is the copy of one memory of a tenant, as of one sequence of its stream.
type MemoryHead struct {
	Format   int              `json:"format"`
	Mesh     string           `json:"mesh"`
	Sequence uint64           `json:"sequence"`
	Time     time.Time        `json:"time"`
	Keys     int              `json:"keys"`
	Content  []objstore.Chunk `json:"content"` // MemoryEntry after MemoryEntry, each a line of JSON
	Packs    []objstore.ID    `json:"packs"`   // sorted; of the tenant's packs, where the content is
}

// MemoryEntry is what a key holds. Of several of one key the last one counts.
type MemoryEntry struct {
	Key      string    `json:"key"`
	Revision uint64    `json:"revision"`
	Modified time.Time `json:"modified"`
	Expires  time.Time `json:"expires,omitzero"`
	Deleted  bool      `json:"deleted,omitempty"`
	Value    []byte    `json:"value,omitempty"`
}

func memoryName(t mesh.Tenant, ns mesh.Namespace) string {
	return below(t) + "memory/" + string(ns) + ".json"
}

// MemoryHead reads the head of a memory; its Format is 0 where there is none.
func (m *Mirror) MemoryHead(ctx context.Context, t mesh.Tenant, ns mesh.Namespace) (h MemoryHead, err error) {
	_, err = getJSON(ctx, m.remote, memoryName(t, ns), &h)
	return h, err
}

// Memory copies a memory unless the copy is as of a sequence not before least: dump
// calls its argument for each entry, in their order, and returns the sequence that they
// are the state as of. Only chunks that the copy before has not are stored. It returns
// the head that is there then.
func (m *Mirror) Memory(ctx context.Context, t mesh.Tenant, ns mesh.Namespace, least uint64, dump func(context.Context, func(MemoryEntry) error) (uint64, error)) (MemoryHead, error) {
	var old MemoryHead
	version, err := getJSON(ctx, m.remote, memoryName(t, ns), &old)
	if err != nil || old.Mesh == m.mesh && old.Sequence >= least {
		return old, err
	}
	s, err := m.Store(t)
	if err != nil {
		return old, err
	}
	base, err := s.Reader(ctx, old.Packs...)
	if mesh.CodeOf(err) == mesh.CodeNotFound { // collected, since nothing of this mesh refers to it
		base, err = nil, nil
	}
	if err != nil {
		return old, err
	}
	h := MemoryHead{Format: Format, Mesh: m.mesh, Time: time.Now().UTC()}
	w := s.Writer(base)
	read, write := io.Pipe()
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	dumped := make(chan error, 1)
	go func() { // ends with the pipe, which is closed below
		out := json.NewEncoder(write)
		var err error
		h.Sequence, err = dump(reading, func(e MemoryEntry) error {
			if h.Keys++; e.Deleted {
				h.Keys--
			}
			return out.Encode(e)
		})
		dumped <- err
		write.CloseWithError(err)
	}()
	h.Content, err = w.Content(ctx, read)
	if err != nil { // the dump may wait for somebody to read
		cancel()
		read.CloseWithError(err)
	}
	if dumpErr := <-dumped; dumpErr != nil && err == nil {
		err = dumpErr
	}
	if err == nil {
		h.Packs, err = w.Flush(ctx)
	}
	if err != nil {
		return old, fmt.Errorf("copy memory %s: %w", ns, err)
	}
	m.Step("mirror memory stored")
	b, err := json.Marshal(h)
	if err != nil {
		return old, err
	}
	// In place of the head that it shares content with, and of no other: what only an
	// older one had may be collected.
	err = objstore.PutSmall(ctx, m.remote, memoryName(t, ns), b, version)
	if mesh.CodeOf(err) == mesh.CodeConflict {
		err = mesh.Errorf(mesh.CodeBusy, "memory %s is copied by others at the same time", ns)
	}
	if err != nil {
		return old, err
	}
	return h, nil
}

// Entries yields what a copied memory holds, checked by the names of its content.
func (m *Mirror) Entries(ctx context.Context, t mesh.Tenant, h MemoryHead) iter.Seq2[MemoryEntry, error] {
	return func(yield func(MemoryEntry, error) bool) {
		s, err := m.Store(t)
		var r *objstore.Reader
		if err == nil {
			r, err = s.Reader(ctx, h.Packs...)
		}
		if err != nil {
			yield(MemoryEntry{}, err)
			return
		}
		in := json.NewDecoder(bufio.NewReader(r.Open(ctx, &objstore.Entry{Type: objstore.TypeFile, Content: h.Content})))
		for {
			var e MemoryEntry
			err := in.Decode(&e)
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}
