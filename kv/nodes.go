package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// NodeRecord is a node's entry in the registry, renewed each second.
type NodeRecord struct {
	Node        mesh.Node       `json:"node"`
	Incarnation string          `json:"incarnation"` // fresh per process
	Version     string          `json:"version"`
	Wire        [2]int          `json:"wire"`   // oldest and newest wire version it speaks
	Format      [2]int          `json:"format"` // oldest and newest storage format it reads
	Started     time.Time       `json:"started"`
	Renewed     time.Time       `json:"renewed"` // by the node's own clock: for people; liveness is a change of the revision
	Workspaces  int             `json:"workspaces"`
	Sync        string          `json:"sync,omitempty"`
	Replicas    int             `json:"replicas"`
	Draining    bool            `json:"draining,omitempty"`
	Isolation   json.RawMessage `json:"isolation,omitempty"` // as the sandbox reports it
	Capture     string          `json:"capture,omitempty"`   // how it finds what commands change, see mesh.CaptureScan
	Net         string          `json:"net,omitempty"`       // the most network that its commands may have
	// Mirror is what the node knows not to be copied; nil: it copies nothing.
	Mirror *mesh.MirrorStatus `json:"mirror,omitempty"`

	// For placement. A node of an earlier version says nothing of it.
	Zone   string            `json:"zone,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Driver string            `json:"driver,omitempty"` // of its sandbox; "": it runs no commands
	Room   mesh.NodeRoom     `json:"room,omitzero"`
	Unfit  string            `json:"unfit,omitempty"` // why it takes no workspace now
}

// RenewEvery is how often a node renews its record.
const RenewEvery = time.Second

// Nodes is the registry.
type Nodes struct{ bucket }

// NodeEntry is a record with its revision; the revision grows at each renewal.
type NodeEntry struct {
	NodeRecord
	Revision uint64
}

// Get reads one record; revision 0 says that there is none.
func (n *Nodes) Get(ctx context.Context, node mesh.Node) (NodeEntry, error) {
	var e NodeEntry
	rev, err := n.get(ctx, string(node), &e.NodeRecord)
	e.Revision = rev
	return e, err
}

// List returns every record, sorted by node.
func (n *Nodes) List(ctx context.Context) ([]NodeEntry, error) {
	var all []NodeEntry
	err := n.each(ctx, ">", func(_ string, rev uint64, value []byte) error {
		e := NodeEntry{Revision: rev}
		if err := json.Unmarshal(value, &e.NodeRecord); err != nil {
			return fmt.Errorf("node record: %w", err)
		}
		all = append(all, e)
		return nil
	})
	slices.SortFunc(all, func(a, b NodeEntry) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return all, err
}

// Put writes the record if its revision is prev and returns the new one.
// CodeConflict says that another process writes under the same name.
func (n *Nodes) Put(ctx context.Context, r NodeRecord, prev uint64) (uint64, error) {
	rev, err := n.set(ctx, string(r.Node), r, prev)
	if !errors.Is(err, mesh.ErrRefused) {
		return rev, err
	}
	now, readErr := n.Get(ctx, r.Node)
	switch {
	case readErr != nil:
		return 0, readErr
	case now.Incarnation == r.Incarnation && now.Renewed.Equal(r.Renewed):
		return now.Revision, nil // ours, acknowledged too late
	case now.Incarnation == r.Incarnation:
		return n.Put(ctx, r, now.Revision) // an earlier write of ours, whose acknowledgement never came
	}
	return 0, mesh.Errorf(mesh.CodeConflict, "another process runs as node %s", r.Node)
}
