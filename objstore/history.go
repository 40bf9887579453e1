package objstore

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/wsmesh/wsmesh/mesh"
)

// HistoryOf describes the ops of a record that change files, in their order; without
// what is no news to people: that commands changed the time of a directory, and that
// a new workspace has a root.
func (r *Record) HistoryOf() (all []mesh.HistoryEntry) {
	for i := range r.Ops {
		op := &r.Ops[i]
		if !op.Changes() || op.Kind == KindAttr && op.Mode == nil && op.Verb == mesh.VerbExec || op.Kind == KindPut && op.Path == "." {
			continue
		}
		h := mesh.HistoryEntry{Number: r.Number, Time: r.Time, Kind: op.Kind, Path: op.Path, To: op.To, Verb: op.Verb, Execs: op.Execs}
		if op.Entry != nil {
			h.Type, h.Size = op.Entry.Type.String(), op.Entry.Size
		}
		all = append(all, h)
	}
	return all
}

// History stores descriptions of changes, for a Commit: JSON whose unknown fields
// are ignored.
func (w *Writer) History(ctx context.Context, entries []mesh.HistoryEntry) ([]Chunk, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(entries)
	if err != nil {
		return nil, err
	}
	return w.Content(ctx, bytes.NewReader(b))
}

// History reads what Writer.History has stored. CodeInternal: it is damaged.
func (r *Reader) History(ctx context.Context, c *Commit) ([]mesh.HistoryEntry, error) {
	if len(c.History) == 0 {
		return nil, nil
	}
	b, err := io.ReadAll(r.Open(ctx, &Entry{Content: c.History}))
	if err != nil {
		return nil, err
	}
	var all []mesh.HistoryEntry
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, mesh.Errorf(mesh.CodeInternal, "the history of a commit is damaged: %s", err)
	}
	return all, nil
}
