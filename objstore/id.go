package objstore

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/wsmesh/wsmesh/mesh"
)

// ID names a blob or a pack: the SHA-256 of its bytes. So whoever has the name
// can check the bytes, and equal bytes have one name. The zero ID names nothing.
type ID [sha256.Size]byte

// IDOf returns the name of these bytes.
func IDOf(b []byte) ID { return sha256.Sum256(b) }

// ParseID parses 64 lower-case hex digits; the error has CodeInvalid.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) == hex.EncodedLen(len(id)) {
		if _, err := hex.Decode(id[:], []byte(s)); err == nil && id.String() == s {
			return id, nil
		}
	}
	return ID{}, mesh.Errorf(mesh.CodeInvalid, "%.80q is not the name of content (64 hex digits, lower case)", s)
}

// String returns 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// short is enough for an error's text.
func (id ID) short() string { return hex.EncodeToString(id[:8]) }

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the error has CodeInvalid.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}
