package objstore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

// RecordFormat is the format byte that this version writes.
const RecordFormat = 1

// Kinds of journal ops.
const (
	KindOpen    = "open"    // a tenure begins: older owners are fenced out from here on
	KindExec    = "exec"    // an exec was claimed
	KindMark    = "mark"    // the execs that run now: a reader of execs may begin here
	KindDeleted = "deleted" // the workspace was removed; always the last record of its life
)

// Record is one entry of a workspace's journal: a batch of ops and its place in
// the chain.
type Record struct {
	Epoch  mesh.Epoch `json:"epoch"`
	Number uint64     `json:"number"`         // place in the chain, from 1
	Prev   uint64     `json:"prev"`           // stream sequence of the previous record; 0: there is none
	Root   string     `json:"root"`           // hash of the previous record; "" for the first
	Open   uint64     `json:"open,omitempty"` // stream sequence of the tenure's open record, or last mark; 0 in such a record itself
	ID     string     `json:"id"`             // fresh per attempt of the owner, the same in repeats of one publish
	IDs    []string   `json:"ids,omitempty"`  // idempotency keys it answers
	Time   time.Time  `json:"time"`
	Ops    []Op       `json:"ops"`
}

// Op is one thing that happened. Which fields count depends on Kind.
type Op struct {
	Kind       string        `json:"kind"`
	Node       mesh.Node     `json:"node,omitempty"`       // open: who owns now
	Workspace  string        `json:"workspace,omitempty"`  // open, deleted: id of the workspace's record
	Unfinished []mesh.ExecID `json:"unfinished,omitempty"` // open, mark: execs before it that had no final frame
	Exec       mesh.ExecID   `json:"exec,omitempty"`       // exec
}

// StoredRecord is a record as it was read, with its place in the stream and its
// hash, which the next record's Root must equal.
type StoredRecord struct {
	Record
	Sequence uint64
	Hash     string
}

// Message encodes the record for its journal subject. What watchers need stands
// in headers, since the tenants' copy of the journal has no bodies.
func (r *Record) Message(subject string) (*nats.Msg, string, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, "", fmt.Errorf("encode record: %w", err)
	}
	m := nats.NewMsg(subject)
	m.Data = append([]byte{RecordFormat}, body...)
	var kinds []string
	for _, op := range r.Ops {
		if !slices.Contains(kinds, op.Kind) {
			kinds = append(kinds, op.Kind)
		}
	}
	for name, value := range map[string]string{
		mesh.HeaderEpoch:  r.Epoch.String(),
		mesh.HeaderNumber: strconv.FormatUint(r.Number, 10),
		mesh.HeaderPrev:   strconv.FormatUint(r.Prev, 10),
		mesh.HeaderRoot:   r.Root,
		mesh.HeaderRecord: r.ID,
		mesh.HeaderIDs:    strings.Join(r.IDs, ","),
		mesh.HeaderKind:   strings.Join(kinds, ","),
	} {
		if value != "" {
			m.Header.Set(name, value)
		}
	}
	return m, hashOf(m.Data), nil
}

// DecodeRecord reads a stored record. CodeInternal says that its bytes are not
// a record this version can read.
func DecodeRecord(sequence uint64, data []byte) (*StoredRecord, error) {
	if len(data) == 0 {
		return nil, mesh.Errorf(mesh.CodeInternal, "journal record %d is empty", sequence)
	}
	if data[0] != RecordFormat {
		return nil, mesh.Errorf(mesh.CodeInternal, "journal record %d has format %d, newer than this program reads", sequence, data[0])
	}
	s := &StoredRecord{Sequence: sequence, Hash: hashOf(data)}
	if err := json.Unmarshal(data[1:], &s.Record); err != nil {
		return nil, mesh.Errorf(mesh.CodeInternal, "journal record %d: %s", sequence, err)
	}
	return s, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Has reports whether the record holds an op of this kind.
func (r *Record) Has(kind string) bool {
	return slices.ContainsFunc(r.Ops, func(op Op) bool { return op.Kind == kind })
}
