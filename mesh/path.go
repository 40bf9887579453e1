package mesh

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode/utf8"
)

// Bounds of a path, as the host's file system has them.
const (
	MaxPathBytes = 4095
	MaxNameBytes = 255
)

// WorkspaceRoot is where the sandbox sees the workspace; an absolute path below
// it counts from the workspace root, whatever the scope.
const WorkspaceRoot = "/workspace"

// Path is a path in a message. Names are bytes: a path that is valid UTF-8 is a
// JSON string, any other is {"b64":"…"}, so that no name is altered on the way.
type Path string

// MarshalJSON implements json.Marshaler.
func (p Path) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(p)) {
		return json.Marshal(string(p))
	}
	return json.Marshal(rawPath{B64: base64.StdEncoding.EncodeToString([]byte(p))})
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *Path) UnmarshalJSON(b []byte) error {
	var s string
	if len(b) > 0 && b[0] == '{' {
		var raw rawPath
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		name, err := base64.StdEncoding.DecodeString(raw.B64)
		if err != nil {
			return fmt.Errorf("path b64: %w", err)
		}
		*p = Path(name)
		return nil
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*p = Path(s)
	return nil
}

type rawPath struct {
	B64 string `json:"b64"`
}

// ResolvePath turns a path of a request into a clean path relative to the
// workspace root ("." is the root itself), without looking at the file system:
//
//   - a relative path counts from the scope, and so does an absolute one;
//   - /workspace and what is below it counts from the workspace root;
//   - "" is the scope's root;
//   - leaving the scope is CodeDenied, a NUL byte or an over-long name or path
//     is CodeInvalid; the error says why and does not repeat the path.
//
// scope is a result of ParseScope.
func ResolvePath(scope, p string) (string, error) {
	if err := checkPathBytes(p); err != nil {
		return "", err
	}
	base, rest := scope, p
	if p == WorkspaceRoot || strings.HasPrefix(p, WorkspaceRoot+"/") {
		base, rest = ".", p[len(WorkspaceRoot):]
	}
	rel := path.Clean("./" + strings.TrimLeft(rest, "/"))
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return "", errLeaves()
	}
	full := path.Join(base, rel)
	if !Inside(scope, full) {
		return "", errLeaves()
	}
	return full, nil
}

// ParseScope turns the scope of a request into a clean path relative to the
// workspace root; "." is the whole workspace. Nested scopes are joined by the
// caller, each below the one before: ParseScope(outer, inner).
func ParseScope(outer, s string) (string, error) {
	if outer == "" {
		outer = "."
	}
	scope, err := ResolvePath(outer, s)
	if err != nil {
		return "", About(fmt.Sprintf("scope %.200q", s), err)
	}
	return scope, nil
}

func errLeaves() error { return Errorf(CodeDenied, "the path leaves the scope") }

func checkPathBytes(p string) error {
	if strings.IndexByte(p, 0) >= 0 {
		return Errorf(CodeInvalid, "the path holds a NUL byte")
	}
	if len(p) > MaxPathBytes {
		return Errorf(CodeInvalid, "the path has %d bytes, more than %d", len(p), MaxPathBytes)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > MaxNameBytes {
			return Errorf(CodeInvalid, "a name in the path has %d bytes, more than %d", len(name), MaxNameBytes)
		}
	}
	return nil
}

// EscapePath percent-encodes a path for a header; UnescapePath reverses it.
// Slashes stay readable.
func EscapePath(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return strings.Join(parts, "/")
}

// UnescapePath is the inverse of EscapePath; the error has CodeInvalid.
func UnescapePath(s string) (string, error) {
	p, err := url.PathUnescape(s)
	if err != nil {
		return "", Errorf(CodeInvalid, "percent-encoded path %.200q: bad escape", s)
	}
	return p, nil
}
