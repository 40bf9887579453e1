package objstore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
)

// Content is cut where its bytes say so (content-defined chunking), so that an
// insertion moves the cuts behind it along with the bytes and only the chunks
// around it are new. The method is FastCDC (W. Xia et al., USENIX ATC 2016) with
// its normalized chunking at level 2.
//
// It is our own because where content is cut decides what is stored again: the
// cuts must never differ between versions or between chunkers of one process.
const (
	// MaxWhole is the most bytes of a content that is one blob: small files gain
	// nothing from being cut.
	MaxWhole = 1 << 20

	minChunk  = 512 << 10
	meanChunk = 2 << 20
	maxChunk  = MaxBlob

	// A cut is where these bits of the hash are 0: 2^23 positions apart on
	// average before the mean, 2^19 after it. They are the hash's upper bits,
	// which depend on the most bytes before the cut.
	rareCut   = (1<<23 - 1) << (64 - 23)
	commonCut = (1<<19 - 1) << (64 - 19)
)

// gear gives each byte a random number, the same for ever.
var gear = func() (table [256]uint64) {
	for i := range table {
		sum := sha256.Sum256([]byte{byte(i)})
		table[i] = binary.BigEndian.Uint64(sum[:])
	}
	return table
}()

// cut returns the length of the first chunk of b, which holds maxChunk bytes or
// all that is left.
func cut(b []byte) int {
	b = b[:min(len(b), maxChunk)]
	var hash uint64
	i := min(len(b), minChunk)
	for _, c := range b[i:min(len(b), meanChunk)] {
		hash = hash<<1 + gear[c]
		i++
		if hash&rareCut == 0 {
			return i
		}
	}
	for _, c := range b[i:] {
		hash = hash<<1 + gear[c]
		i++
		if hash&commonCut == 0 {
			return i
		}
	}
	return i
}

// chunker cuts what it reads.
type chunker struct {
	r   io.Reader
	buf []byte // maxChunk bytes
	n   int    // of them are there
	eof bool
}

// next returns the next chunk, which the caller may keep, or io.EOF.
func (c *chunker) next() ([]byte, error) {
	for c.n < len(c.buf) && !c.eof {
		n, err := io.ReadFull(c.r, c.buf[c.n:])
		c.n += n
		c.eof = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !c.eof {
			return nil, err
		}
	}
	if c.n == 0 {
		return nil, io.EOF
	}
	n := cut(c.buf[:c.n])
	chunk := append(make([]byte, 0, n), c.buf[:n]...)
	c.n = copy(c.buf, c.buf[n:c.n])
	return chunk, nil
}
