package sandbox

import (
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Bounds of a Tree.
const (
	// DefaultMaxStages is how many staged writes a Tree keeps: each holds its bytes
	// on disk.
	DefaultMaxStages = 64
	// DefaultStageIdle is how long a staged write may rest before it is
	// dropped: long enough for a client to find another node and go on.
	DefaultStageIdle = 10 * time.Minute
	// DefaultSearchEntries is how many names one page of Search or Grep looks at, about
	// half a second's work on a busy host.
	DefaultSearchEntries = 200_000
	// DefaultGrepBytes is how many bytes of files one page of Grep reads: some more
	// than a large repository's sources, read in less than DefaultSearchTime with a
	// common pattern.
	DefaultGrepBytes = 64 << 20
	// DefaultSearchTime is after what time a page of Search or Grep ends, whatever it
	// has found: well within the time a request has. One directory is read to
	// its end nevertheless, and one line matched.
	DefaultSearchTime = 2 * time.Second
	// DefaultTarEntries and DefaultTarBytes bound one extraction.
	DefaultTarEntries = 1_000_000
	DefaultTarBytes   = 16 << 30
)

// The values of Info.Type.
const (
	TypeFile    = "file"
	TypeDir     = "dir"
	TypeSymlink = "symlink"
	TypeFifo    = "fifo"
	TypeSocket  = "socket"
	TypeDevice  = "device"
)

// TreeConfig says where a workspace's directory is. Dir and Stage are required.
type TreeConfig struct {
	// Dir is the workspace directory. It is made with mode 0700 and owned by
	// UID and GID if it is missing; one that exists keeps owner and mode.
	Dir string
	// Host says that Dir is the Path of a HostDir: it must exist, without a
	// symbolic link on its way.
	Host bool
	// Stage holds content on its way into Dir and what was removed from it, so
	// it is in the same mount and neither contains the other. No tenant may
	// reach it. It is made with mode 0700, belongs to one open Tree at a time,
	// and EVERYTHING in it is removed by OpenTree.
	Stage string
	// UID and GID own what the Tree creates. Ignored when the process is not
	// root.
	UID, GID int
	// StageIdle is how long a staged write may rest; zero means
	// DefaultStageIdle.
	StageIdle time.Duration
}

// Info describes one file, directory or other entry, as the wire has it. Its
// Revision changes whenever inode, size, mtime or ctime do, which is as far as
// the host can tell cheaply that a content is still the same; it means nothing
// on another node.
type Info = mesh.FileInfo

// Usage is what a tree takes on disk.
type Usage struct {
	Bytes int64 // allocated, as du counts
	Files int64 // everything that has a name; a file with several once
}

// WriteOptions says how a file is put in place.
type WriteOptions struct {
	// Mode holds permission bits (0777, the rest is dropped); zero keeps the
	// mode of the file that is replaced, or means 0644.
	Mode uint32
	// CreateOnly refuses with CodeExists whatever stands at the path, a
	// dangling symbolic link included.
	CreateOnly bool
	// IfMatch, when not empty, refuses with CodeConflict when the file has another
	// revision, or is not there; the error says which one it has.
	IfMatch string
}

// CopyOptions says what Copy may do.
type CopyOptions struct {
	// Recursive allows a directory.
	Recursive bool
	// NoReplace refuses with CodeExists whatever stands at the new name; a
	// directory is never replaced.
	NoReplace bool
	// Limits bound the copy, holes included; the lower ones of these and of the Tree
	// hold.
	Limits TarLimits
}

// TarLimits bounds one extraction; zero values mean DefaultTarEntries and
// DefaultTarBytes. Bytes count the files' sizes as they will be on disk, so a
// sparse entry counts with its holes.
type TarLimits struct {
	Entries int64
	Bytes   int64
}

// TarCount is what an extraction has put in place, also when it failed midway.
type TarCount struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
}
