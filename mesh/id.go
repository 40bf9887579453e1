package mesh

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Ids are named types made by one parsing constructor each, so that a raw
// string never reaches a subject. The zero value of each is not a valid id.
type (
	// Tenant owns data and permissions.
	Tenant string
	// Workspace is one directory tree plus its processes, of one tenant.
	Workspace string
	// Node is a process that hosts workspaces.
	Node string
	// ExecID names one command run; a UUIDv7 made by the client.
	ExecID string
	// Snapshot names a commit of a workspace.
	Snapshot string
	// TokenID names one issued token; it is part of the token's inbox.
	TokenID string
)

// Epoch is the number of an ownership tenure of a workspace. It grows with each
// tenure and is part of the owner's address.
type Epoch uint64

// String returns the epoch as it stands in a subject.
func (e Epoch) String() string { return strconv.FormatUint(uint64(e), 10) }

// Principals that are not tenants. Their names cannot be parsed as a tenant,
// so their inboxes never collide with a tenant's.
const (
	PrincipalAdmin = "_admin" // the operator
	PrincipalNode  = "_node"  // nodes among themselves and towards JetStream
)

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

const nameRule = "use 1 to 40 of a-z, 0-9 and '-', starting and ending with a letter or digit"

func parseName[T ~string](kind, s string) (T, error) {
	if namePattern.MatchString(s) {
		return T(s), nil
	}
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return "", Errorf(CodeInvalid, "%s name %q: %s", kind, s, nameRule)
}

// CheckName checks what is called like an id and is none, as a kind of thing; the
// error has CodeInvalid.
func CheckName(kind, s string) error {
	_, err := parseName[string](kind, s)
	return err
}

// ParseTenant parses a tenant name; the error has CodeInvalid.
func ParseTenant(s string) (Tenant, error) { return parseName[Tenant]("tenant", s) }

// ParseWorkspace parses a workspace name; the error has CodeInvalid.
func ParseWorkspace(s string) (Workspace, error) { return parseName[Workspace]("workspace", s) }

// ParseSnapshot parses the name of a snapshot; the error has CodeInvalid.
func ParseSnapshot(s string) (Snapshot, error) { return parseName[Snapshot]("snapshot", s) }

// ParseNode parses a node name; the error has CodeInvalid.
func ParseNode(s string) (Node, error) { return parseName[Node]("node", s) }

// ParseEpoch parses an epoch as it stands in a subject; the error has CodeInvalid.
func ParseEpoch(s string) (Epoch, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, Errorf(CodeInvalid, "epoch %q is not a positive number", s)
	}
	return Epoch(n), nil
}

// NewExecID makes the id of a new exec.
func NewExecID() ExecID { return ExecID(uuid.Must(uuid.NewV7()).String()) }

// ParseExecID parses a UUIDv7 in its canonical form (lower case, with
// hyphens), so that one id has one spelling; the error has CodeInvalid.
func ParseExecID(s string) (ExecID, error) {
	u, err := uuid.Parse(s)
	if err != nil || u.Version() != 7 || u.Variant() != uuid.RFC4122 || u.String() != s {
		return "", Errorf(CodeInvalid, "exec id %.60q is not a UUIDv7 in canonical form (lower case, with hyphens)", s)
	}
	return ExecID(s), nil
}

// Time returns the moment, to the millisecond, that the id carries.
func (id ExecID) Time() time.Time {
	u, err := uuid.Parse(string(id))
	if err != nil {
		return time.Time{}
	}
	sec, nsec := u.Time().UnixTime()
	return time.Unix(sec, nsec)
}

var tokenPattern = regexp.MustCompile(`^[0-9a-f]{16}$`)

// NewTokenID makes the id of a new token: 16 random hex digits.
func NewTokenID() TokenID { return TokenID(randomHex(8)) }

// ParseTokenID parses a token id; the error has CodeInvalid.
func ParseTokenID(s string) (TokenID, error) {
	if !tokenPattern.MatchString(s) {
		return "", Errorf(CodeInvalid, "token id %.60q is not 16 hex digits", s)
	}
	return TokenID(s), nil
}

// NewID makes a random id (UUIDv4) for a request, a journal record, a take of
// ownership, a claim or a staged write.
func NewID() string { return uuid.NewString() }

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand crashes the program instead
	return hex.EncodeToString(b)
}
