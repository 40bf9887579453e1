package objstore

import (
	"encoding/binary"
	"math"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// TreeFormat is the format byte of trees that this version writes.
const TreeFormat = 1

// Type is what kind of file an entry is.
type Type byte

// The types of entries. Sockets and devices have no content and are not kept.
const (
	TypeFile    Type = iota + 1
	TypeDir          // its content is the encoded tree
	TypeSymlink      // Target is its text
	TypeFIFO
	TypeLink // another name of the file at the path Target, see Entry
)

// String returns the word for a type.
func (t Type) String() string {
	if t < TypeFile || t > TypeLink {
		return "unknown"
	}
	return [...]string{"file", "dir", "symlink", "fifo", "link"}[t-TypeFile]
}

// Bounds of an entry.
const (
	ModeMask     = 0o7777 // permission bits with setuid, setgid and sticky, as chmod has them
	MaxXattrName = 255    // as Linux has it
	MaxXattr     = 64 << 10
)

// Tree is the entries of one directory, sorted by the bytes of their names.
type Tree []Entry

// Entry is one name of a tree with every attribute that is kept.
//
// Of a file with several names (hard links), the first one in the order of Walk
// is the TypeFile entry; each other is a TypeLink with the path of the first,
// from the root of the tree, as its Target, and nothing else.
type Entry struct {
	Name    string // bytes; "" for the root of a tree
	Type    Type
	Mode    uint32
	ModTime time.Time
	Xattrs  []Xattr // sorted by name
	Size    int64   // of a file: its bytes, holes included
	Holes   []Extent
	Content []Chunk // of a file: its data without the holes; of a directory: its encoded tree
	Target  string
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value string // bytes
}

// Extent is a range of a file in bytes.
type Extent struct {
	Offset, Length int64
}

// Chunk is one blob of a longer content.
type Chunk struct {
	ID   ID
	Size int64 // bytes, at least 1
}

// DataSize is the number of bytes of a file without its holes.
func (e *Entry) DataSize() int64 {
	n := e.Size
	for _, h := range e.Holes {
		n -= h.Length
	}
	return n
}

// Data returns the ranges of a file that are no holes, in order.
func (e *Entry) Data() []Extent {
	var all []Extent
	var at int64
	for _, h := range append(e.Holes[:len(e.Holes):len(e.Holes)], Extent{Offset: e.Size}) {
		if h.Offset > at {
			all = append(all, Extent{at, h.Offset - at})
		}
		at = h.Offset + h.Length
	}
	return all
}

// Encode returns the one encoding of a tree. It does not check the tree:
// DecodeTree refuses what is wrong.
func (t Tree) Encode() []byte {
	b := binary.AppendUvarint([]byte{TreeFormat}, uint64(len(t)))
	for i := range t {
		b = appendEntry(b, &t[i])
	}
	return b
}

// DecodeTree reads an encoded tree; the error has CodeInternal.
func DecodeTree(b []byte) (Tree, error) {
	d := newDecoder("tree", b, TreeFormat)
	n := d.count(4)
	var t Tree
	for i := 0; i < n && d.err == nil; i++ {
		e := d.entry()
		if !validName(e.Name) {
			d.fail("a name is %.60q", e.Name)
		}
		if i > 0 && e.Name <= t[i-1].Name {
			d.fail("its names are not sorted")
		}
		t = append(t, e)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return t, nil
}

func validName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

func appendEntry(b []byte, e *Entry) []byte {
	b = append(appendBytes(b, e.Name), byte(e.Type))
	if e.Type == TypeLink {
		return appendBytes(b, e.Target)
	}
	b = appendTime(binary.AppendUvarint(b, uint64(e.Mode)), e.ModTime)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendBytes(appendBytes(b, x.Name), x.Value)
	}
	switch e.Type {
	case TypeSymlink:
		b = appendBytes(b, e.Target)
	case TypeFile:
		b = binary.AppendUvarint(b, uint64(e.Size))
		b = binary.AppendUvarint(b, uint64(len(e.Holes)))
		var at int64
		for _, h := range e.Holes {
			b = binary.AppendUvarint(b, uint64(h.Offset-at))
			b = binary.AppendUvarint(b, uint64(h.Length))
			at = h.Offset + h.Length
		}
		b = appendChunks(b, e.Content)
	case TypeDir:
		b = appendChunks(b, e.Content)
	}
	return b
}

func appendChunks(b []byte, chunks []Chunk) []byte {
	b = binary.AppendUvarint(b, uint64(len(chunks)))
	for _, c := range chunks {
		b = binary.AppendUvarint(append(b, c.ID[:]...), uint64(c.Size))
	}
	return b
}

func (d *decoder) entry() (e Entry) {
	e.Name = d.string(mesh.MaxNameBytes)
	if t := d.take(1); t != nil {
		e.Type = Type(t[0])
	}
	if e.Type == TypeLink {
		e.Target = d.target()
		return e
	}
	e.Mode, e.ModTime = uint32(d.number(ModeMask)), d.time()
	for i, n := 0, d.count(2); i < n && d.err == nil; i++ {
		x := Xattr{d.string(MaxXattrName), d.string(MaxXattr)}
		if x.Name == "" || strings.Contains(x.Name, "\x00") || i > 0 && x.Name <= e.Xattrs[i-1].Name {
			d.fail("the attributes of %.60q are not sorted names", e.Name)
		}
		e.Xattrs = append(e.Xattrs, x)
	}
	switch e.Type {
	case TypeSymlink:
		e.Target = d.target()
	case TypeFile:
		e.Size = int64(d.number(math.MaxInt64))
		e.Holes = d.holes(e.Size)
		d.chunks(&e, e.DataSize())
	case TypeDir:
		d.chunks(&e, -1)
	case TypeFIFO:
	default:
		d.fail("%.60q has the unknown type %d", e.Name, e.Type)
	}
	return e
}

// target reads the text of a link.
func (d *decoder) target() string {
	s := d.string(mesh.MaxPathBytes)
	if s == "" || strings.Contains(s, "\x00") {
		d.fail("a link leads nowhere")
	}
	return s
}

// holes reads ranges in order that neither touch nor reach over the end.
func (d *decoder) holes(size int64) (holes []Extent) {
	var at int64
	for i, n := 0, d.count(2); i < n && d.err == nil; i++ {
		gap := int64(d.number(uint64(size - at)))
		length := int64(d.number(uint64(size - at - gap)))
		if length == 0 || gap == 0 && i > 0 {
			d.fail("a hole is empty or touches another")
		}
		holes = append(holes, Extent{at + gap, length})
		at += gap + length
	}
	return holes
}

// chunkList reads the chunks of a content.
func (d *decoder) chunkList(of string) (all []Chunk) {
	for i, n := 0, d.count(33); i < n && d.err == nil; i++ {
		c := Chunk{d.id(), int64(d.number(MaxBlob))}
		if c.Size == 0 {
			d.fail("a chunk of %.60q is empty", of)
		}
		all = append(all, c)
	}
	return all
}

// chunks reads the content of an entry, of want bytes; -1 is any but none.
func (d *decoder) chunks(e *Entry, want int64) {
	var sum int64
	e.Content = d.chunkList(e.Name)
	for _, c := range e.Content {
		sum += c.Size
	}
	if d.err == nil && (want >= 0 && sum != want || want < 0 && sum == 0 && !d.bare) {
		d.fail("the content of %.60q has %d bytes and not its size", e.Name, sum)
	}
}
