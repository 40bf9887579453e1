package objstore

import (
	"encoding/binary"
	"math"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// CommitFormat is the format byte of commits that this version writes. Format 1
// had no history; it is still read.
const CommitFormat = 2

const plainCommitFormat = 1

// Ref is where a commit is: what a checkpoint record, a snapshot or the head of
// a mirror names. The zero Ref names none.
type Ref struct {
	Pack   ID `json:"pack"`   // the pack that holds it
	Commit ID `json:"commit"` // the commit itself, a blob
}

// IsZero reports whether r names no commit.
func (r Ref) IsZero() bool { return r == Ref{} }

// String is the pack and the commit with a dot between.
func (r Ref) String() string { return r.Pack.String() + "." + r.Commit.String() }

// ParseRef is the inverse of String; the error has CodeInvalid.
func ParseRef(s string) (r Ref, err error) {
	pack, commit, _ := strings.Cut(s, ".")
	if r.Pack, err = ParseID(pack); err == nil {
		r.Commit, err = ParseID(commit)
	}
	if err != nil {
		return Ref{}, mesh.Errorf(mesh.CodeInvalid, "%.150q is not where a commit is", s)
	}
	return r, nil
}

// Commit is the state of a workspace after one journal record: with the records
// that follow it, all that the next owner needs. The pack it lies in and Packs
// hold everything that Root reaches.
type Commit struct {
	Workspace string     // id of the workspace's record
	Epoch     mesh.Epoch // of the owner that made it
	Sequence  uint64     // stream sequence of the last journal record that is in it
	Number    uint64     // that record's number in the chain
	Record    ID         // that record's hash: the next one names it as its predecessor
	Parent    Ref        // the commit before it, possibly collected since
	Time      time.Time
	Cause     string // why it was made, in a word; at most MaxCause bytes
	Root      Entry  // the workspace's directory, without a name
	Packs     []ID   // sorted

	Unfinished []mesh.ExecID // execs without a final frame
	Answers    []Answer      // to what may still be asked again

	// What changed since the commit before it, for people: how much, and the newest of
	// it, whose records are purged. See Writer.History.
	Changes uint64
	History []Chunk
}

// MaxCause and MaxAnswer bound parts of a commit, in bytes.
const (
	MaxCause  = 1 << 10
	MaxAnswer = 64 << 10
)

// Answer is what the request with an idempotency key was told.
type Answer struct {
	ID   string // Mesh-Id, and behind a colon what else tells requests apart
	Time time.Time
	Code mesh.Code // "" for success
	Body string    // bytes that the owner wrote and reads
}

// Encode returns the one encoding of a commit.
func (c *Commit) Encode() []byte {
	b := appendBytes([]byte{CommitFormat}, c.Workspace)
	for _, n := range []uint64{uint64(c.Epoch), c.Sequence, c.Number} {
		b = binary.AppendUvarint(b, n)
	}
	for _, id := range []ID{c.Record, c.Parent.Pack, c.Parent.Commit} {
		b = append(b, id[:]...)
	}
	b = appendBytes(appendTime(b, c.Time), c.Cause)
	b = appendEntry(b, &c.Root)
	b = binary.AppendUvarint(b, uint64(len(c.Packs)))
	for _, id := range c.Packs {
		b = append(b, id[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Unfinished)))
	for _, id := range c.Unfinished {
		b = appendBytes(b, id)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Answers)))
	for _, a := range c.Answers {
		b = appendAnswer(b, a)
	}
	return appendChunks(binary.AppendUvarint(b, c.Changes), c.History)
}

// DecodeCommit reads an encoded commit; the error has CodeInternal.
func DecodeCommit(b []byte) (*Commit, error) {
	format := byte(CommitFormat)
	if len(b) > 0 && b[0] == plainCommitFormat {
		format = plainCommitFormat
	}
	d := newDecoder("commit", b, format)
	c := &Commit{
		Workspace: d.string(mesh.MaxNameBytes), Epoch: mesh.Epoch(d.number(math.MaxUint64)),
		Sequence: d.uvarint(), Number: d.uvarint(), Record: d.id(), Parent: Ref{Pack: d.id(), Commit: d.id()},
		Time: d.time(), Cause: d.string(MaxCause), Root: d.entry(),
	}
	if c.Root.Type != TypeDir || c.Root.Name != "" {
		d.fail("its root is no directory")
	}
	for i, n := 0, d.count(len(ID{})); i < n && d.err == nil; i++ {
		id := d.id()
		if i > 0 && string(id[:]) <= string(c.Packs[i-1][:]) {
			d.fail("its packs are not sorted")
		}
		c.Packs = append(c.Packs, id)
	}
	for i, n := 0, d.count(1); i < n && d.err == nil; i++ {
		id, err := mesh.ParseExecID(d.string(mesh.MaxNameBytes))
		if err != nil {
			d.fail("%s", err)
		}
		c.Unfinished = append(c.Unfinished, id)
	}
	for i, n := 0, d.count(5); i < n && d.err == nil; i++ {
		c.Answers = append(c.Answers, d.answer())
	}
	if format == CommitFormat {
		c.Changes = d.uvarint()
		c.History = d.chunkList("the history")
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return c, nil
}
