package mesh

import "time"

// Requests and replies of the service for memory. A revision is the sequence of
// the change in the tenant's stream: it grows with every change of any key.

// MemoryGetRequest asks for one key (api mem get): CodeNotFound if it has no
// value. The value is the reply's content. Least, when given, is a revision of
// this key that the caller has seen, not longer ago than deletions are remembered
// (TombstoneTTL): an older answer of a server that is behind, or that it knows
// nothing of the key, is not taken.
type MemoryGetRequest struct {
	Namespace Namespace `json:"namespace,omitempty"`
	Key       string    `json:"key"`
	Least     uint64    `json:"least,omitempty"`
}

// MemoryEntry describes a key.
type MemoryEntry struct {
	Key      string    `json:"key"`
	Revision uint64    `json:"revision,omitempty"` // 0: Key is what several keys begin with
	Size     int64     `json:"size"`               // bytes of the value
	Modified time.Time `json:"modified,omitzero"`
	Expires  time.Time `json:"expires,omitzero"` // zero: never
	Deleted  bool      `json:"deleted,omitempty"`
}

// MemoryGetReply comes with the value as raw content. Head is the newest
// revision that the node knows of.
type MemoryGetReply struct {
	Entry MemoryEntry `json:"entry"`
	Head  uint64      `json:"head"`
}

// MemoryOp changes one key: a put of Size bytes, or a deletion.
type MemoryOp struct {
	Key    string  `json:"key"`
	Delete bool    `json:"delete,omitempty"`
	Size   int     `json:"size,omitempty"`
	TTLMS  int64   `json:"ttl_ms,omitempty"` // life of the value; 0: no end
	If     *uint64 `json:"if,omitempty"`     // the revision that the key must have now; 0: it must have no value
}

// MemoryCommitRequest changes up to MaxCommit keys, all or none (api mem
// commit). The content is the values one after the other.
//
// A key whose condition does not hold is CodeConflict, or CodeExists if it was to
// have no value, or CodeNotFound if it has none and was to be changed or deleted.
//
// After is the newest revision of any key that the caller had seen when it first
// sent this request: it was certainly not done up to then.
type MemoryCommitRequest struct {
	Namespace Namespace  `json:"namespace,omitempty"`
	Ops       []MemoryOp `json:"ops"`
	After     uint64     `json:"after,omitempty"`
}

// MemoryCommitReply says that all is done. The last op has the Revision, those
// before it have the numbers before.
//
// With Unsure nothing was done, because the node could not tell whether an
// earlier try of the same request was: the keys have changed twice and more since
// After. A caller whose earlier tries are all answered asks again with After =
// Head; any other does not know the outcome.
type MemoryCommitReply struct {
	Revision uint64 `json:"revision,omitempty"`
	Head     uint64 `json:"head"`
	Unsure   bool   `json:"unsure,omitempty"`
}

// MemoryListRequest asks for a page of the keys that begin with Prefix and are
// greater than After, at most Limit (0 is MaxList), sorted by their bytes (api
// mem list). With Level, keys that have a slash after the prefix are shown once,
// up to and with that slash.
type MemoryListRequest struct {
	Namespace Namespace `json:"namespace,omitempty"`
	Prefix    string    `json:"prefix,omitempty"`
	After     string    `json:"after,omitempty"`
	Limit     int       `json:"limit,omitempty"`
	Level     bool      `json:"level,omitempty"`
}

// MemoryListReply is one page; the next one comes after Next, unless that is "".
// A page shows every change that was acknowledged before it was asked for; it can
// be empty, with a next one.
type MemoryListReply struct {
	Entries []MemoryEntry `json:"entries"`
	Next    string        `json:"next,omitempty"`
	Head    uint64        `json:"head"`
}

// MemoryWatchRequest asks for the keys that begin with Prefix and have changed
// since Cursor (api mem watch), and waits for one at most WaitMS milliseconds
// (MaxMemoryWait). Without a cursor it asks for a first one.
type MemoryWatchRequest struct {
	Namespace Namespace `json:"namespace,omitempty"`
	Prefix    string    `json:"prefix,omitempty"`
	Cursor    string    `json:"cursor,omitempty"`
	Limit     int       `json:"limit,omitempty"`
	WaitMS    int64     `json:"wait_ms,omitempty"`
}

// MemoryWatchReply holds, in the order of their revisions, the newest state of
// each key that changed: states between are skipped. Resync says that the cursor
// is older than TombstoneTTL: keys may have gone unnoticed; all that remain are
// found by a listing.
type MemoryWatchReply struct {
	Entries []MemoryEntry `json:"entries"`
	Cursor  string        `json:"cursor"`
	Resync  bool          `json:"resync,omitempty"`
}
