package objstore

import (
	"encoding/binary"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// What trees, commits and the indexes of packs are made of: a format byte, then
// numbers as varints and bytes behind their length. Every value has one
// spelling, so equal content has equal names; a decoder refuses all others, and
// takes no memory that its input does not account for.

func appendBytes[T ~string | ~[]byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendTime(b []byte, t time.Time) []byte {
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

// decoder reads one encoded thing. After the first failure it returns zeros and
// keeps the failure.
type decoder struct {
	what string // for the error's text
	rest []byte
	err  error
	bare bool // a directory may stand without its content
}

func newDecoder(what string, b []byte, format byte) *decoder {
	d := &decoder{what: what, rest: b}
	switch {
	case len(b) == 0:
		d.fail("it is empty")
	case b[0] != format:
		d.fail("it has format %d, which this program does not read", b[0])
	default:
		d.rest = b[1:]
	}
	return d
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = mesh.Errorf(mesh.CodeInternal, "%s is damaged: "+format, append([]any{d.what}, args...)...)
	}
	d.rest = nil
}

// end is the last call: nothing may be left.
func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail("%d bytes are left over", len(d.rest))
	}
	return d.err
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n > len(d.rest) {
		d.fail("it is cut short")
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || n > 1 && d.rest[n-1] == 0 {
		d.fail("a number in it is cut short or has a second spelling")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// number reads a uvarint that is at most limit.
func (d *decoder) number(limit uint64) uint64 {
	v := d.uvarint()
	if v > limit {
		d.fail("a number in it is over %d", limit)
		return 0
	}
	return v
}

// count reads the number of elements that follow, each of at least size bytes.
func (d *decoder) count(size int) int { return int(d.number(uint64(len(d.rest) / size))) }

func (d *decoder) bytes(limit int) []byte {
	n := d.number(uint64(limit))
	return d.take(int(n))
}

func (d *decoder) string(limit int) string { return string(d.bytes(limit)) }

func (d *decoder) id() (id ID) {
	copy(id[:], d.take(len(id)))
	return id
}

func (d *decoder) time() time.Time {
	u := d.uvarint()
	seconds := int64(u >> 1)
	if u&1 != 0 {
		seconds = ^seconds
	}
	return time.Unix(seconds, int64(d.number(uint64(time.Second-1)))).UTC()
}
