package dirtree

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// SavedFormat is the format byte of saved ledgers. Behind it come a header that
// is the caller's, then the names in the order of a walk, as package gob has them,
// and at the end the SHA-256 of all that. A ledger is saved for the same program on
// the same machine: whoever cannot read one does without.
const SavedFormat = 1

// savedName is a name of a saved ledger.
type savedName struct {
	Path        string
	Entry       objstore.Entry
	Seen        Stat
	Provisional uint64
}

// Save writes a ledger, behind a header of the caller's.
func (s Snapshot) Save(w io.Writer, header any) error {
	sum := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	err := buffered.WriteByte(SavedFormat)
	enc := gob.NewEncoder(buffered)
	err = errors.Join(err, enc.Encode(header), enc.Encode(s.names))
	for it := range s.Items() {
		if err != nil {
			break
		}
		n := s.find(it.Path)
		err = enc.Encode(&savedName{Path: it.Path, Entry: it.Entry, Seen: n.seen, Provisional: n.provisional})
	}
	if err = errors.Join(err, buffered.Flush()); err == nil {
		_, err = w.Write(sum.Sum(nil))
	}
	if err != nil {
		return fmt.Errorf("save a ledger: %w", err)
	}
	return nil
}

// ReadSaved reads what Save has written, and into header what was given to it.
// CodeInternal says that it is not that.
func ReadSaved(r io.Reader, header any) (*Ledger, error) {
	in := &summed{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	l, err := readSaved(in, header)
	if err == nil {
		want, got := in.sum.Sum(nil), make([]byte, sha256.Size)
		if _, err = io.ReadFull(in.r, got); err == nil && !bytes.Equal(got, want) {
			err = errors.New("its sum is another one")
		}
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeInternal, "the saved ledger is damaged: %s", err)
	}
	return l, nil
}

func readSaved(in *summed, header any) (*Ledger, error) {
	format, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	if format != SavedFormat {
		return nil, fmt.Errorf("it has format %d", format)
	}
	dec := gob.NewDecoder(in)
	count := 0
	if err := errors.Join(dec.Decode(header), dec.Decode(&count)); err != nil {
		return nil, err
	}
	l := NewLedger()
	for range count + 1 {
		var n savedName
		if err := dec.Decode(&n); err != nil {
			return nil, err
		}
		n.Entry.ModTime = n.Entry.ModTime.UTC()
		l.put(n.Path, n.Entry)
		if l.tree.find(n.Path) == nil {
			return nil, fmt.Errorf("%.200q is a link to nothing", n.Path)
		}
		f := l.file(n.Path)
		f.seen, f.provisional = n.Seen, n.Provisional
		l.tree.provisional = max(l.tree.provisional, n.Provisional)
	}
	if l.tree.names != count {
		return nil, fmt.Errorf("it has %d names and not %d", l.tree.names, count)
	}
	return l, nil
}

// summed is read byte by byte where its reader asks for that, so that nothing is
// read that is not the ledger's.
type summed struct {
	r   *bufio.Reader
	sum hash.Hash
	one [1]byte
}

func (s *summed) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.one[0] = b
		s.sum.Write(s.one[:])
	}
	return b, err
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	return n, err
}
