package objstore

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/wsmesh/wsmesh/mesh"
)

// A pack is blobs back to back, compressed where that makes them shorter, and
// behind them its index:
//
//	1 byte    PackFormat
//	…         the stored blobs
//	…         the index: 1 byte PackFormat, 16 random bytes, the number of blobs, and of
//	          each, in their order, its name, its stored bytes and its bytes
//	4 bytes   length of the index
//	32 bytes  SHA-256 of the index
//
// So the end of a pack says what is in it. The pack's name is the SHA-256 of all
// of its bytes. A blob with as many stored bytes as bytes is not compressed.
//
// The random bytes make each pack another one, whatever is in it: a name that is about
// to be collected is never stored again.

// PackFormat is the format byte of packs that this version writes. Format 1 had no
// random bytes; it is still read.
const PackFormat = 2

const plainPackFormat = 1

// Bounds of a pack.
const (
	// MaxBlob is the most bytes of one blob: the largest chunk of a file.
	MaxBlob = 8 << 20
	// PackBytes is how many stored bytes make a pack full, MaxPackBytes the most
	// it holds: each pack costs a few requests, and a reader of one file wants
	// none to be large.
	PackBytes    = 4 << 20
	MaxPackBytes = 8 << 20
	// MaxPackBlobs bounds the index of a pack to some 300 KiB.
	MaxPackBlobs = 8 << 10

	packFooter = 4 + sha256.Size
	maxPack    = 1 + MaxPackBytes + maxIndex + packFooter
	maxIndex   = 1 + nonceSize + 2 + MaxPackBlobs*(sha256.Size+4+4)
	nonceSize  = 16
)

// packedBlob is where a pack has a blob.
type packedBlob struct {
	id     ID
	offset int64
	stored int // bytes in the pack
	size   int // bytes of the blob
}

// packBuilder makes one pack.
type packBuilder struct {
	data  []byte // begins with PackFormat
	nonce [nonceSize]byte
	blobs []packedBlob
}

// fits reports whether a blob of stored bytes still goes into the pack.
func (p *packBuilder) fits(stored int) bool {
	return len(p.blobs) == 0 || len(p.blobs) < MaxPackBlobs && len(p.data)-1+stored <= MaxPackBytes
}

// full reports whether the pack has the size that packs should have.
func (p *packBuilder) full() bool {
	return len(p.data) > PackBytes || len(p.blobs) == MaxPackBlobs
}

func (p *packBuilder) add(id ID, stored []byte, size int) {
	p.blobs = append(p.blobs, packedBlob{id, int64(len(p.data)), len(stored), size})
	p.data = append(p.data, stored...)
}

// finish returns the pack and its name.
func (p *packBuilder) finish() (ID, []byte) {
	at := len(p.data)
	b := append(append(p.data, PackFormat), p.nonce[:]...)
	b = binary.AppendUvarint(b, uint64(len(p.blobs)))
	for _, blob := range p.blobs {
		b = append(b, blob.id[:]...)
		b = binary.AppendUvarint(b, uint64(blob.stored))
		b = binary.AppendUvarint(b, uint64(blob.size))
	}
	index := b[at:]
	sum := sha256.Sum256(index)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(index))), sum[:]...)
	return IDOf(b), b
}

// decodePackEnd reads the index from the last bytes of a pack. When they are too
// few it returns no blobs and how many are needed.
func decodePackEnd(b []byte) (blobs []packedBlob, need int, err error) {
	d := &decoder{what: "the index of the pack"}
	if len(b) < packFooter {
		d.fail("it is cut short")
		return nil, 0, d.err
	}
	footer := b[len(b)-packFooter:]
	length := binary.BigEndian.Uint32(footer)
	if length > maxIndex {
		d.fail("it claims %d bytes", length)
		return nil, 0, d.err
	}
	need = int(length) + packFooter
	if need > len(b) {
		return nil, need, nil
	}
	index := b[len(b)-need : len(b)-packFooter]
	if sum := sha256.Sum256(index); string(sum[:]) != string(footer[4:]) {
		d.fail("its bytes are not those that were stored")
		return nil, 0, d.err
	}
	blobs, err = decodePackIndex(index)
	return blobs, need, err
}

func decodePackIndex(index []byte) ([]packedBlob, error) {
	d := &decoder{what: "the index of the pack"}
	switch {
	case len(index) > 0 && index[0] == plainPackFormat:
		d.rest = index[1:]
	case len(index) > nonceSize && index[0] == PackFormat:
		d.rest = index[1+nonceSize:]
	default:
		d = newDecoder(d.what, index, PackFormat)
		d.fail("it is cut short")
	}
	n := d.count(sha256.Size + 2)
	if n == 0 || n > MaxPackBlobs {
		d.fail("it lists %d blobs", n)
	}
	var blobs []packedBlob
	seen := make(map[ID]bool, min(n, MaxPackBlobs))
	at := int64(1)
	for i := 0; i < n && d.err == nil; i++ {
		blob := packedBlob{id: d.id(), offset: at, stored: int(d.number(MaxBlob)), size: int(d.number(MaxBlob))}
		if seen[blob.id] || blob.stored == 0 || blob.stored > blob.size {
			d.fail("blob %s stands in it twice or with a wrong size", blob.id.short())
		}
		seen[blob.id] = true
		blobs, at = append(blobs, blob), at+int64(blob.stored)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return blobs, nil
}

// CheckPack checks all of a pack against its name and each blob in it against
// its own. The error has CodeInternal and says which is damaged.
func (s *Store) CheckPack(id ID, pack []byte) error {
	if IDOf(pack) != id {
		return mesh.Errorf(mesh.CodeInternal, "pack %s is damaged: its bytes are not those that were stored", id)
	}
	blobs, need, err := decodePackEnd(pack)
	if err == nil && (len(blobs) == 0 || pack[0] != pack[len(pack)-need] || blobs[len(blobs)-1].end() != int64(len(pack)-need)) {
		err = mesh.Errorf(mesh.CodeInternal, "its index does not fit its blobs")
	}
	for i := 0; i < len(blobs) && err == nil; i++ {
		_, err = s.unpack(blobs[i], pack[blobs[i].offset:blobs[i].end()])
	}
	if err != nil {
		return inPack(id, err)
	}
	return nil
}

func (b packedBlob) end() int64 { return b.offset + int64(b.stored) }
