package objstore

import (
	"encoding/binary"
	"encoding/json"

	"github.com/wsmesh/wsmesh/mesh"
)

// RecordFormat is the format byte of records that this version writes. After it
// come the length of the head as a varint, the head, which is JSON, and the tail:
// for each op its entry and its data, then the answers, as they are and not as
// text. The head says how long each is.
//
// Format 1 was JSON alone and knew neither files nor answers; it is still read.
const RecordFormat = 2

const jsonRecordFormat = 1

// recordHead is the JSON of a record; its Ops stand for those of the record.
type recordHead struct {
	*Record
	Ops     []opHead `json:"ops"`
	Answers int      `json:"answers,omitempty"` // their number
}

// opHead is the JSON of an op, and how many bytes of the tail are its.
type opHead struct {
	*Op
	Entry int `json:"entry,omitempty"`
	Data  int `json:"data,omitempty"`
}

func (r *Record) encode() ([]byte, error) {
	head := recordHead{Record: r, Ops: make([]opHead, len(r.Ops)), Answers: len(r.Answers)}
	var tail []byte
	for i := range r.Ops {
		op := &r.Ops[i]
		before := len(tail)
		if op.Entry != nil {
			tail = appendEntry(tail, op.Entry)
		}
		head.Ops[i] = opHead{Op: op, Entry: len(tail) - before, Data: len(op.Data)}
		tail = append(tail, op.Data...)
	}
	for _, a := range r.Answers {
		tail = appendAnswer(tail, a)
	}
	text, err := json.Marshal(&head)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 1+binary.MaxVarintLen64+len(text)+len(tail))
	b = appendBytes(append(b, RecordFormat), text)
	return append(b, tail...), nil
}

// DecodeRecord reads a stored record. CodeInternal says that its bytes are not
// a record this version can read. The record keeps data.
func DecodeRecord(sequence uint64, data []byte) (*StoredRecord, error) {
	s := &StoredRecord{Sequence: sequence, Hash: hashOf(data)}
	var err error
	switch {
	case len(data) == 0:
		err = mesh.Errorf(mesh.CodeInternal, "it is empty")
	case data[0] == jsonRecordFormat:
		err = json.Unmarshal(data[1:], &s.Record)
	case data[0] == RecordFormat:
		err = s.decode(data)
	default:
		err = mesh.Errorf(mesh.CodeInternal, "it has format %d, which this program does not read", data[0])
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeInternal, "journal record %d: %s", sequence, err)
	}
	return s, nil
}

func (r *Record) decode(b []byte) error {
	d := newDecoder("record", b, RecordFormat)
	text := d.bytes(len(b))
	if d.err != nil {
		return d.err
	}
	head := recordHead{Record: r}
	if err := json.Unmarshal(text, &head); err != nil {
		return err
	}
	for _, h := range head.Ops {
		op := Op{}
		if h.Op != nil {
			op = *h.Op
		}
		if h.Entry > 0 {
			op.Entry = d.opEntry(h.Entry)
		}
		if h.Data > 0 {
			op.Data = d.take(h.Data)
		}
		if d.err == nil {
			op.check(d)
		}
		r.Ops = append(r.Ops, op)
	}
	for range min(head.Answers, len(b)) {
		r.Answers = append(r.Answers, d.answer())
	}
	return d.end()
}

// opEntry reads an entry of n bytes.
func (d *decoder) opEntry(n int) *Entry {
	one := &decoder{what: d.what, rest: d.take(n), err: d.err, bare: true}
	e := one.entry()
	if d.err = one.end(); d.err != nil {
		d.rest = nil
	}
	return &e
}

// check refuses what must not be applied to a tree. Kinds of a later version are
// for who applies them to refuse.
func (o *Op) check(d *decoder) {
	if o.Path != "" && !isClean(o.Path) || o.To != "" && !isClean(o.To) {
		d.fail("a path is %.200q", o.Path)
	}
	if o.Changes() && o.Path == "" || o.Kind == KindRename && o.To == "" || o.Kind == KindPut && o.Entry == nil {
		d.fail("a %s says too little", o.Kind)
	}
	if o.Data == nil || o.Entry == nil {
		return
	}
	if c := o.Entry.Content; len(c) != 1 || c[0] != (Chunk{IDOf(o.Data), int64(len(o.Data))}) {
		d.fail("the content of %.200q is not what its name says", o.Path)
	}
}

func isClean(p mesh.Path) bool {
	clean, err := mesh.ResolvePath(".", string(p))
	return err == nil && clean == string(p)
}

func appendAnswer(b []byte, a Answer) []byte {
	b = appendTime(appendBytes(b, a.ID), a.Time)
	return appendBytes(appendBytes(b, a.Code), a.Body)
}

func (d *decoder) answer() Answer {
	return Answer{ID: d.string(mesh.MaxNameBytes), Time: d.time(), Code: mesh.Code(d.string(mesh.MaxNameBytes)), Body: d.string(MaxAnswer)}
}
