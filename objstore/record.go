package objstore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
)

// Kinds of journal ops.
const (
	KindOpen    = "open"    // a tenure begins: older owners are fenced out from here on
	KindExec    = "exec"    // an exec was claimed
	KindMark    = "mark"    // the execs that run now: a reader of execs may begin here
	KindDeleted = "deleted" // the workspace was removed; always the last record of its life

	// What files are. These set state: applied to a tree that has it already they
	// change nothing, and so may be applied again.
	KindPut     = mesh.ChangePut    // Path is Entry now, in place of what was there; a directory that is there keeps its entries
	KindRemove  = mesh.ChangeRemove // Path and all below it is gone
	KindRename  = mesh.ChangeRename // Path is To now, with all below it, in place of what was at To
	KindAttr    = mesh.ChangeAttr   // Path has another Mode or ModTime, or both
	KindRefused = "refused"         // nothing changed: what a request was answered that asked for a change

	KindCheckpoint = "checkpoint" // Ref is a commit of everything up to Sequence
)

// MaxInline is the most bytes of a file that travel in a record. Longer content
// is in packs, which cost two publishes more and are small ones then.
const MaxInline = 256 << 10

// Record is one entry of a workspace's journal: a batch of ops and its place in
// the chain.
type Record struct {
	Epoch      mesh.Epoch `json:"epoch"`
	Number     uint64     `json:"number"`               // place in the chain, from 1
	Prev       uint64     `json:"prev"`                 // stream sequence of the previous record; 0: there is none
	Root       string     `json:"root"`                 // hash of the previous record; "" for the first
	Open       uint64     `json:"open,omitempty"`       // stream sequence of the tenure's open record, or last mark; 0 in such a record itself
	Checkpoint uint64     `json:"checkpoint,omitempty"` // stream sequence of the last checkpoint record before it; 0: there is none
	ID         string     `json:"id"`                   // fresh per attempt of the owner, the same in repeats of one publish
	Time       time.Time  `json:"time"`
	Ops        []Op       `json:"ops"`
	Answers    []Answer   `json:"-"` // what requests were answered because of it
}

// Op is one thing that happened. Which fields count depends on Kind. Paths are
// clean and relative to the workspace's root, and lead through no symbolic link.
type Op struct {
	Kind       string        `json:"kind"`
	Node       mesh.Node     `json:"node,omitempty"`       // open: who owns now
	Workspace  string        `json:"workspace,omitempty"`  // open, deleted: id of the workspace's record
	Unfinished []mesh.ExecID `json:"unfinished,omitempty"` // open, mark: execs before it that had no final frame
	Exec       mesh.ExecID   `json:"exec,omitempty"`       // exec

	Path    mesh.Path  `json:"path,omitempty"`
	To      mesh.Path  `json:"to,omitempty"`    // rename
	Entry   *Entry     `json:"-"`               // put: without a Name; of a directory without Content
	Data    []byte     `json:"-"`               // put: of a file whose Content is one chunk, that chunk; nil where it is in Packs
	Packs   []ID       `json:"packs,omitempty"` // put: where Content is, Data apart
	Mode    *uint32    `json:"mode,omitempty"`  // attr
	ModTime *time.Time `json:"mtime,omitempty"` // attr
	Code    mesh.Code  `json:"code,omitempty"`  // refused

	// Why a file changed, for people: the verb of the owner that was asked, or "exec"
	// and the commands at whose end the change was found.
	Verb  string        `json:"verb,omitempty"`
	Execs []mesh.ExecID `json:"execs,omitempty"`

	Ref      *Ref   `json:"ref,omitempty"`      // checkpoint
	Sequence uint64 `json:"sequence,omitempty"` // checkpoint: stream sequence of the last record that is in the commit
	Number   uint64 `json:"number,omitempty"`   // checkpoint: number of that record
}

// Changes reports whether the op says something of a file.
func (o *Op) Changes() bool {
	return o.Kind == KindPut || o.Kind == KindRemove || o.Kind == KindRename || o.Kind == KindAttr
}

// Size is about how many bytes the op takes in a record, and not less.
func (o *Op) Size() int {
	n := 256 + 2*(len(o.Path)+len(o.To)) + len(o.Data) + 40*(len(o.Unfinished)+len(o.Execs)) + 70*len(o.Packs)
	if e := o.Entry; e != nil {
		n += 64 + len(e.Target) + 20*len(e.Holes) + (len(ID{})+10)*len(e.Content)
		for _, x := range e.Xattrs {
			n += 10 + len(x.Name) + len(x.Value)
		}
	}
	return n
}

// PutFile returns the op that says that path is a file with this content, at
// most MaxInline bytes, which it keeps. The entry's other fields are as given.
func PutFile(path string, e Entry, data []byte) Op {
	e.Type, e.Content = TypeFile, nil
	if len(data) > 0 {
		e.Content = []Chunk{{ID: IDOf(data), Size: int64(len(data))}}
	}
	return Op{Kind: KindPut, Path: mesh.Path(path), Entry: &e, Data: data}
}

// StoredRecord is a record as it was read, with its place in the stream and its
// hash, which the next record's Root must equal.
type StoredRecord struct {
	Record
	Sequence uint64
	Hash     string
}

// LastCheckpoint returns the stream sequence of the last checkpoint record up to
// and including this one; 0: there is none.
func (s *StoredRecord) LastCheckpoint() uint64 {
	if s.Has(KindCheckpoint) {
		return s.Sequence
	}
	return s.Checkpoint
}

// Message encodes the record for its journal subject, and returns its hash. What
// watchers need stands in headers, since the tenants' copy of the journal has no
// bodies.
func (r *Record) Message(subject string) (*nats.Msg, string, error) {
	m := nats.NewMsg(subject)
	var err error
	if m.Data, err = r.encode(); err != nil {
		return nil, "", fmt.Errorf("encode record: %w", err)
	}
	var kinds, ids []string
	for _, op := range r.Ops {
		if !slices.Contains(kinds, op.Kind) {
			kinds = append(kinds, op.Kind)
		}
	}
	for _, a := range r.Answers {
		id, _, _ := strings.Cut(a.ID, ":")
		ids = append(ids, id)
	}
	paths, cut := mesh.FormatChanges(r.Changes())
	more := ""
	if cut {
		more = "1"
	}
	for name, value := range map[string]string{
		mesh.HeaderEpoch:  r.Epoch.String(),
		mesh.HeaderNumber: strconv.FormatUint(r.Number, 10),
		mesh.HeaderPrev:   strconv.FormatUint(r.Prev, 10),
		mesh.HeaderRoot:   r.Root,
		mesh.HeaderRecord: r.ID,
		mesh.HeaderIDs:    strings.Join(ids, ","),
		mesh.HeaderKind:   strings.Join(kinds, ","),
		mesh.HeaderPaths:  paths,
		mesh.HeaderMore:   more,
	} {
		if value != "" {
			m.Header.Set(name, value)
		}
	}
	return m, hashOf(m.Data), nil
}

// Changes says for watchers what changed.
func (r *Record) Changes() []mesh.Change {
	var all []mesh.Change
	for i := range r.Ops {
		if op := &r.Ops[i]; op.Changes() {
			all = append(all, mesh.Change{Kind: op.Kind, Path: op.Path, To: op.To, Time: r.Time})
		}
	}
	return all
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Has reports whether the record holds an op of this kind.
func (r *Record) Has(kind string) bool {
	return slices.ContainsFunc(r.Ops, func(op Op) bool { return op.Kind == kind })
}
