package mesh

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// Namespace names one memory of a tenant.
type Namespace string

// DefaultNamespace is the memory of whoever names none.
const DefaultNamespace Namespace = "main"

// ParseNamespace parses the name of a memory, "" being DefaultNamespace; the
// error has CodeInvalid.
func ParseNamespace(s string) (Namespace, error) {
	if s == "" {
		return DefaultNamespace, nil
	}
	return parseName[Namespace]("memory", s)
}

// Bounds of what a memory holds.
const (
	MaxKeyBytes   = 512        // of a key
	MaxValueBytes = MaxMessage // of a value
	MaxCommit     = 1000       // keys of one commit, whose values and keys together fit one message
	// MinTTL is the shortest life of a value: the server counts in seconds.
	MinTTL = time.Second
	// MaxTTL is the longest, ten years: a time that fits every field it crosses.
	MaxTTL = 10 * 365 * 24 * time.Hour
	// TombstoneTTL is how long a key that was deleted, or whose value expired,
	// is remembered as gone: a watch that was away for less misses no deletion.
	TombstoneTTL = time.Hour
	// MaxMemoryWait is the longest wait of one MemoryWatchRequest.
	MaxMemoryWait = MaxLogWait
)

// CheckKey says what is wrong with a key, with CodeInvalid: it is 1 to
// MaxKeyBytes bytes of UTF-8, and nothing else is asked of it.
func CheckKey(key string) error {
	switch {
	case key == "":
		return Errorf(CodeInvalid, "a memory key cannot be empty")
	case len(key) > MaxKeyBytes:
		return Errorf(CodeInvalid, "memory key %.40q… has %d bytes; at most %d are possible", key, len(key), MaxKeyBytes)
	case !utf8.ValidString(key):
		return Errorf(CodeInvalid, "memory key %.40q is not UTF-8", key)
	}
	return nil
}

// MemoryShards is the number of memory streams, for ever: a tenant's stream is
// computed from its name.
const MemoryShards = 16

// MemoryShard is where all memories of a tenant live: one commit can span them.
func MemoryShard(t Tenant) int {
	h := fnv.New32a()
	h.Write([]byte(t)) //nolint:errcheck // never fails
	return int(h.Sum32() % MemoryShards)
}

// MemoryStream names the memory stream of a shard.
func MemoryStream(shard int) string { return fmt.Sprintf("MEM_%02d", shard) }

// MemorySubject is where a key's value is kept. Each part of the key between
// slashes is one token, percent-encoded; an empty part is "~".
func MemorySubject(t Tenant, ns Namespace, key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = escapeKeyPart(p)
	}
	return MemoryPrefix(t, ns) + strings.Join(parts, ".")
}

// MemoryWildcard is every subject of every memory.
const MemoryWildcard = "int.v1.mem.>"

// MemoriesWildcard names every key of all memories of a tenant.
func MemoriesWildcard(t Tenant) string {
	return fmt.Sprintf("int.v1.mem.%02d.%s.>", MemoryShard(t), t)
}

// MemoryPrefix begins the subjects of one memory, with a final dot.
func MemoryPrefix(t Tenant, ns Namespace) string {
	return fmt.Sprintf("int.v1.mem.%02d.%s.%s.", MemoryShard(t), t, ns)
}

// ParseMemorySubject is the inverse of MemorySubject; the error has CodeInvalid.
func ParseMemorySubject(subject string) (t Tenant, ns Namespace, key string, err error) {
	p := strings.Split(subject, ".")
	if len(p) < 7 || p[0] != "int" || p[1] != "v1" || p[2] != "mem" {
		return "", "", "", Errorf(CodeInvalid, "subject %.80q is not one of a memory", subject)
	}
	if t, err = ParseTenant(p[4]); err == nil {
		ns, err = ParseNamespace(p[5])
	}
	parts := p[6:]
	for i := range parts {
		if parts[i] == emptyKeyPart {
			parts[i] = ""
		} else if err == nil {
			parts[i], err = UnescapePath(parts[i])
		}
	}
	key = strings.Join(parts, "/")
	if err == nil && MemorySubject(t, ns, key) != subject {
		err = Errorf(CodeInvalid, "subject %.80q is not the spelling of a memory key", subject)
	}
	if err != nil {
		return "", "", "", err
	}
	return t, ns, key, nil
}

const emptyKeyPart = "~"

func escapeKeyPart(p string) string {
	switch p {
	case "":
		return emptyKeyPart
	case emptyKeyPart:
		return "%7E"
	}
	return strings.ReplaceAll(url.PathEscape(p), ".", "%2E")
}
