package mesh

import "time"

// Requests and replies of snapshots, and of what a workspace was.
//
// What a workspace was is named by a snapshot's name, by a commit (64 hex digits), or by
// a time (RFC 3339), which is that of the newest commit that is not newer. SnapshotFind
// tells which commit that is, and where; requests with that are answered by any node
// without looking for it again.

// MaxSnapshotText is the longest message of a snapshot, in bytes.
const MaxSnapshotText = 1 << 10

// CommitReply is the answer to the owner's commit: everything that was acknowledged, and
// written by commands, before the request is in it.
type CommitReply struct {
	Commit string    `json:"commit"`
	Time   time.Time `json:"time"` // when it was made
}

// SnapshotRequest names the present state of a workspace (owner snapshot): CodeExists
// where it has a snapshot of that name.
type SnapshotRequest struct {
	Name    Snapshot `json:"name"`
	Message string   `json:"message,omitempty"` // at most MaxSnapshotText bytes
}

// SnapshotEntry is a snapshot, or without Name a commit.
type SnapshotEntry struct {
	Name    Snapshot  `json:"name,omitempty"`
	Commit  string    `json:"commit"`
	Created time.Time `json:"created"`
	Message string    `json:"message,omitempty"`
	At      string    `json:"at,omitempty"` // of SnapshotFind: where it is
}

// RestoreRequest makes a workspace, or some of its paths, what it was (owner restore). As
// VerifyReply, it is sent again with the same Mesh-Id until one is Done.
type RestoreRequest struct {
	At    string `json:"at"`
	Paths []Path `json:"paths,omitempty"` // names, with all below them; none: everything
}

// RestoreReply says how far a restore is, or what it has done.
type RestoreReply struct {
	Done    bool     `json:"done"`
	Changed int64    `json:"changed"`          // names that were made, replaced, changed or removed
	Commit  string   `json:"commit,omitempty"` // what the files are as of
	Before  Snapshot `json:"before,omitempty"` // has what they were before
}

// ForkRequest asks for a new workspace that begins with what From was at At (api workspace
// fork): CodeExists where there is one of that name.
type ForkRequest struct {
	From      Workspace `json:"from"`
	At        string    `json:"at"`
	Workspace Workspace `json:"workspace"`
}

// Origin is what a fork was made of.
type Origin struct {
	Workspace Workspace `json:"workspace"`
	Commit    string    `json:"commit"`
	Time      time.Time `json:"time"` // of the fork
}

// SnapshotListRequest asks for a page of a workspace's snapshots, in the order in which
// they were made: those behind After.
type SnapshotListRequest struct {
	Workspace Workspace `json:"workspace"`
	After     Snapshot  `json:"after,omitempty"`
	Limit     int       `json:"limit,omitempty"` // 0 is MaxList
}

// SnapshotListReply is one page.
type SnapshotListReply struct {
	Snapshots []SnapshotEntry `json:"snapshots"`
	More      bool            `json:"more"`
}

// AtRequest names what a workspace was (api snapshot find, rm: At is the snapshot).
type AtRequest struct {
	Workspace Workspace `json:"workspace"`
	At        string    `json:"at"`
}

// ReadAtRequest asks for files as they were (AtVerb of the owner's stat list read
// readlink): Request is what the owner's verb takes, and the answer is the same.
type ReadAtRequest[R any] struct {
	AtRequest
	Request R `json:"request"`
}

// DiffRequest asks for a page of what is another in To than in From, below Path.
type DiffRequest struct {
	Workspace Workspace `json:"workspace"`
	From      string    `json:"from"`
	To        string    `json:"to"`
	Path      Path      `json:"path,omitempty"` // leads through no link
	Text      bool      `json:"text,omitempty"` // with unified diffs of text files
	Cursor    Path      `json:"cursor,omitempty"`
	Limit     int       `json:"limit,omitempty"` // 0 is MaxList
}

// DiffReply is a page, in the order of paths, component by component. It can be empty
// and not the last.
type DiffReply struct {
	Entries []DiffEntry `json:"entries"`
	Next    Path        `json:"next,omitempty"` // go on with this Cursor; "" is the end
}

// Kinds of differences.
const (
	DiffAdded   = "added"
	DiffRemoved = "removed"
	DiffChanged = "changed" // in its content or target
	DiffType    = "type"    // it is of another type
	DiffMode    = "mode"    // in its mode or extended attributes alone
)

// Bounds of unified diffs: of a file, and of one diff, which is cut after a whole line.
const (
	MaxDiffFile = 1 << 20
	MaxDiffText = 64 << 10
)

// DiffEntry is one name. Times alone make no difference. Fields of what there was, or is,
// are zero where there is none.
type DiffEntry struct {
	Path    Path   `json:"path"` // relative to the scope
	Kind    string `json:"kind"`
	OldType string `json:"old_type,omitempty"` // file dir symlink fifo
	Type    string `json:"type,omitempty"`
	OldSize int64  `json:"old_size"`
	Size    int64  `json:"size"`
	OldMode uint32 `json:"old_mode,omitempty"`
	Mode    uint32 `json:"mode,omitempty"`

	Diff   Text `json:"diff,omitempty"`   // of text files
	Cut    bool `json:"cut,omitempty"`    // Diff is its beginning, or left out: a file has more than MaxDiffFile bytes
	Binary bool `json:"binary,omitempty"` // no text file: it has a NUL byte in its first 8 KiB
}
