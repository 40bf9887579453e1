package mesh

import (
	"encoding/json"
	"time"
)

// Requests and replies of the verbs for files.

// FileInfo describes one name of a tree.
type FileInfo struct {
	Path     Path      `json:"path"`               // relative to the scope; in a listing the bare name
	Type     string    `json:"type"`               // file dir symlink fifo socket device
	Size     int64     `json:"size"`               // bytes
	Mode     uint32    `json:"mode"`               // permission bits with setuid, setgid and sticky (as chmod has them)
	ModTime  time.Time `json:"mtime"`              // nanoseconds; between the years 0 and 9999
	Target   Path      `json:"target,omitempty"`   // of a symlink
	Revision string    `json:"revision,omitempty"` // changes whenever the content may have changed
}

// MarshalJSON implements json.Marshaler. Some file systems take any 64 bits for a time; what
// JSON has no text for is the first or last time that it has one for.
func (f FileInfo) MarshalJSON() ([]byte, error) {
	type plain FileInfo
	switch year := f.ModTime.UTC().Year(); {
	case year < 0:
		f.ModTime = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case year > 9999:
		f.ModTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	default:
		f.ModTime = f.ModTime.UTC()
	}
	return json.Marshal(plain(f))
}

// StatRequest asks for one name. Follow resolves a final symlink.
type StatRequest struct {
	Path   Path `json:"path"`
	Follow bool `json:"follow,omitempty"`
}

// ListRequest asks for a page of a directory: names greater than After, at most
// Limit of them (0 is MaxList).
type ListRequest struct {
	Path  Path `json:"path"`
	After Path `json:"after,omitempty"`
	Limit int  `json:"limit,omitempty"`
}

// MaxList is the most entries of one page.
const MaxList = 1000

// ListReply is one page, sorted by the bytes of the names.
type ListReply struct {
	Entries []FileInfo `json:"entries"`
	More    bool       `json:"more"`
}

// ReadRequest asks for Length bytes (0 is MaxMessage) of a file from Offset on.
// Revision, when given, must still be the file's, else CodeConflict: so the
// ranges of one file belong together.
type ReadRequest struct {
	Path     Path   `json:"path"`
	Offset   int64  `json:"offset,omitempty"`
	Length   int    `json:"length,omitempty"`
	Revision string `json:"revision,omitempty"`
}

// ReadReply comes with the bytes as raw content.
type ReadReply struct {
	File FileInfo `json:"file"`
}

// WriteRequest writes a file. Without Stage the content is the whole new file.
// With Stage (a UUID) content is a part of a staged file at Offset; the request
// with Commit, without content, puts the Size staged bytes at Path. Old content
// stays until the new is complete. With Drop the staged file is forgotten. Mode 0 keeps the mode of an existing file,
// or is 0644.
type WriteRequest struct {
	Path       Path   `json:"path"`
	Mode       uint32 `json:"mode,omitempty"`
	CreateOnly bool   `json:"create_only,omitempty"`
	IfMatch    string `json:"if_match,omitempty"` // the revision that the file must have, else CodeConflict with the one it has
	Stage      string `json:"stage,omitempty"`
	Offset     int64  `json:"offset,omitempty"`
	Commit     bool   `json:"commit,omitempty"`
	Drop       bool   `json:"drop,omitempty"` // forget Stage: nothing is written
	Size       int64  `json:"size,omitempty"`
}

// WriteReply describes the file as written; empty for a staged part.
type WriteReply struct {
	File FileInfo `json:"file"`
}

// EditRequest changes pieces of a regular file, in one step with looking at it: by
// Edits, one after the other, each in what the one before has made, or by Diff. If
// one of them does not fit, none is made. In a file whose lines all end with CRLF the
// lines of the request do so too, whatever they end with; a byte order mark, the mode
// and everything that is not replaced stay. The file, before and after, has at most
// MaxEdit bytes, else CodeTooLarge. A file with a NUL byte in its first 8 KiB is
// CodeUnsupported.
type EditRequest struct {
	Path  Path   `json:"path"`
	Edits []Edit `json:"edits,omitempty"` // at most MaxEdits
	// Diff is a unified diff of this file, instead of Edits. The lines of a hunk must
	// stand in the file where its header says, as they are; names are not looked at.
	// Else CodeConflict, which says which hunk does not fit, and where it would.
	Diff    Text   `json:"diff,omitempty"`
	DryRun  bool   `json:"dry_run,omitempty"`  // say what would change, and change nothing
	IfMatch string `json:"if_match,omitempty"` // as in WriteRequest
}

// Edit puts the text New where Old stands in a file. Old that is not there, or empty,
// is CodeInvalid, and what is there more than once is CodeConflict unless ReplaceAll;
// both name lines. Texts are bytes, and New is taken literally.
type Edit struct {
	Old        Text `json:"old"`
	New        Text `json:"new"`
	ReplaceAll bool `json:"replace_all,omitempty"`
}

// Bounds of an edit: bytes of the file, and edits in one request.
const (
	MaxEdit  = 10 << 20
	MaxEdits = 256
)

// EditReply comes with the unified diff of what was changed, or would be, as raw
// content: whole lines of it, at most MaxMessage bytes. An answer to a repeat whose
// first answer was given, but got lost, comes without it.
type EditReply struct {
	File      FileInfo `json:"file"`       // as it is now
	Replaced  int      `json:"replaced"`   // texts, or hunks
	Added     int      `json:"added"`      // lines, as the diff shows it
	Removed   int      `json:"removed"`    // likewise
	DiffBytes int      `json:"diff_bytes"` // of the whole diff; 0: nothing changes
}

// MkdirRequest makes a directory. Parents makes missing parents, and an
// existing directory is then no error. Mode 0 is 0755.
type MkdirRequest struct {
	Path    Path   `json:"path"`
	Mode    uint32 `json:"mode,omitempty"`
	Parents bool   `json:"parents,omitempty"`
}

// RemoveRequest removes a name; a directory that is not empty needs Recursive.
type RemoveRequest struct {
	Path      Path   `json:"path"`
	Recursive bool   `json:"recursive,omitempty"`
	IfMatch   string `json:"if_match,omitempty"` // as in WriteRequest
}

// RenameRequest moves a name; parents of To are made.
type RenameRequest struct {
	From      Path   `json:"from"`
	To        Path   `json:"to"`
	NoReplace bool   `json:"no_replace,omitempty"` // an existing To is CodeExists
	IfMatch   string `json:"if_match,omitempty"`   // of From, as in WriteRequest
}

// CopyRequest copies a file to the name To, which appears whole; parents of To
// are made. From is followed when it is a symbolic link. A directory needs
// Recursive and a To that does not exist; links in it stay links.
type CopyRequest struct {
	From      Path `json:"from"`
	To        Path `json:"to"`
	Recursive bool `json:"recursive,omitempty"`
	NoReplace bool `json:"no_replace,omitempty"` // an existing To is CodeExists
}

// CopyReply counts what was copied.
type CopyReply struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// ChmodRequest sets permission bits (01777) of what Path leads to; setuid and
// setgid are CodeDenied.
type ChmodRequest struct {
	Path Path   `json:"path"`
	Mode uint32 `json:"mode"`
}

// SymlinkRequest makes the symbolic link Path with the text Target, which need
// not lead anywhere: what leads out of the scope is refused when it is followed.
// Parents of Path are made; an existing Path is CodeExists.
type SymlinkRequest struct {
	Target Path `json:"target"`
	Path   Path `json:"path"`
}

// ReadlinkRequest asks for the text of a symbolic link.
type ReadlinkRequest struct {
	Path Path `json:"path"`
}

// ReadlinkReply is that text.
type ReadlinkReply struct {
	Target Path `json:"target"`
}

// TouchRequest sets the modification time of what Path leads to, by default to
// the node's now, and leaves the content alone. A file that does not exist is
// made, empty and with its parents, unless NoCreate.
type TouchRequest struct {
	Path     Path       `json:"path"`
	ModTime  *time.Time `json:"mtime,omitempty"`
	NoCreate bool       `json:"no_create,omitempty"`
}

// Selection names files below a directory by globs: * and ? within a name,
// [abc], {a,b}, and ** across directories. A glob with a slash is matched with
// the path relative to the directory, one without with the last name.
type Selection struct {
	Globs   []Path `json:"globs,omitempty"`   // at least one must match; none: all do
	Exclude []Path `json:"exclude,omitempty"` // what matches is left out, a directory with all below it
}

// MaxGlobs and MaxPattern bound a Selection and a pattern: globs in all, and
// bytes of one glob or pattern.
const (
	MaxGlobs   = 64
	MaxPattern = 4 << 10
)

// SearchRequest asks for a page of the names below Path that a selection names,
// in the order of their paths, component by component, by bytes; symbolic links
// are named and not followed. Cursor is the Next of the page before.
type SearchRequest struct {
	Path Path `json:"path"`
	Selection
	Type   string `json:"type,omitempty"` // only this type (FileInfo.Type); "" is any
	Cursor Path   `json:"cursor,omitempty"`
	Limit  int    `json:"limit,omitempty"` // entries of a page; 0 is MaxList
}

// SearchReply is a page. A page can be empty and not the last: each request does
// a bounded amount of work.
type SearchReply struct {
	Entries []FileInfo `json:"entries"`        // their paths are relative to the scope
	Next    Path       `json:"next,omitempty"` // go on with this Cursor; "" is the end
}

// GrepRequest asks for the lines of files that match an RE2 pattern: of the file
// at Path, or of the regular files below the directory there that a selection
// names. Files with a NUL byte in their first 8 KiB are binary and are skipped.
// Symbolic links are not followed, except Path itself.
type GrepRequest struct {
	Path    Path   `json:"path"`
	Pattern string `json:"pattern"` // RE2, matched with each line without its end
	Selection
	IgnoreCase bool        `json:"ignore_case,omitempty"`
	Literal    bool        `json:"literal,omitempty"` // Pattern is a text and no expression
	Mode       string      `json:"mode,omitempty"`    // one of the Grep… constants; "" is GrepLines
	Before     int         `json:"before,omitempty"`  // lines of context, at most MaxContext
	After      int         `json:"after,omitempty"`
	PerFile    int         `json:"per_file,omitempty"` // matching lines of one file; 0: all
	Cursor     *GrepCursor `json:"cursor,omitempty"`   // Next of the page before
	Limit      int         `json:"limit,omitempty"`    // matches of a page; 0 is MaxMatches
}

// What a GrepRequest asks for.
const (
	GrepLines  = "lines"  // every matching line
	GrepFiles  = "files"  // the files with a match
	GrepCounts = "counts" // the files with a match and how many lines of each match
)

// Bounds of grep.
const (
	MaxMatches = 1000
	// MaxContext is the most lines before or after a match.
	MaxContext = 50
	// MaxMatchText and MaxContextText cut the text of long lines, in bytes.
	MaxMatchText   = 2000
	MaxContextText = 400
)

// Text is bytes that mostly are text; in JSON it is as Path has it.
type Text = Path

// GrepMatch is one matching line, or one file (GrepFiles, GrepCounts: then only
// Path and Count are set).
type GrepMatch struct {
	Path   Path   `json:"path"`             // relative to the scope
	Line   int64  `json:"line,omitempty"`   // from 1
	Column int    `json:"column,omitempty"` // of the match's first byte in the line, from 1
	Text   Text   `json:"text,omitempty"`   // the line, without its end
	Cut    bool   `json:"cut,omitempty"`    // Text is a part of a longer line, around the match
	Before []Text `json:"before,omitempty"` // the lines before it
	After  []Text `json:"after,omitempty"`
	Count  int64  `json:"count,omitempty"` // matching lines of the file
}

// GrepCursor is where a grep goes on. Clients hand it back as it is.
type GrepCursor struct {
	Path   Path  `json:"path"`             // of the file, relative to the scope
	Offset int64 `json:"offset,omitempty"` // of a line's first byte in it; -1: behind the file
	Line   int64 `json:"line,omitempty"`   // the number of that line
	Done   int64 `json:"done,omitempty"`   // matches up to this line were given
	Count  int64 `json:"count,omitempty"`  // how many those were
}

// GrepReply is a page. A page can be empty and not the last: each request reads
// a bounded number of bytes.
type GrepReply struct {
	Matches []GrepMatch `json:"matches"`
	Files   int64       `json:"files"`          // regular files that this page has read to their end
	Skipped int64       `json:"skipped"`        // of those, binary ones and ones that could not be read
	Next    *GrepCursor `json:"next,omitempty"` // nil is the end
}

// UploadRequest unpacks a staged tar stream of Size bytes below Path.
type UploadRequest struct {
	Path  Path   `json:"path"`
	Stage string `json:"stage"`
	Size  int64  `json:"size"`
}

// UploadReply counts what was unpacked.
type UploadReply struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// DownloadRequest asks for part Number (from 0) of the tar stream of a
// directory. The request for part 0 of a Stream (a UUID) starts it; parts may be
// asked for ahead of time and, among the last DownloadWindow, again. Drop ends the
// stream, whole or not, which has its place on the node until then; one that is not
// known is fine.
type DownloadRequest struct {
	Path   Path   `json:"path"`
	Stream string `json:"stream"`
	Number int    `json:"number"`
	Drop   bool   `json:"drop,omitempty"`
}

// DownloadWindow is how many parts of a download may be asked for at once.
const DownloadWindow = 8

// DownloadReply comes with the part as raw content. Last ends the stream; a
// stream that ends without it is not whole.
type DownloadReply struct {
	Last bool `json:"last"`
}

// HistoryRequest asks for a page of what changed in a workspace, the newest first:
// what comes behind Cursor, which a reply has given; "" is the newest of all.
type HistoryRequest struct {
	Cursor  string `json:"cursor,omitempty"`
	Commits bool   `json:"commits,omitempty"` // nothing but commits
	Limit   int    `json:"limit,omitempty"`   // at most MaxList, which 0 is
}

// HistoryReply is one page. A page may be empty and not the last.
type HistoryReply struct {
	Entries []HistoryEntry `json:"entries"`
	More    bool           `json:"more"`
	Cursor  string         `json:"cursor,omitempty"` // of the next page
}

// HistoryEntry is one thing that happened to the files of a workspace. Paths are
// relative to the scope of the request; of a rename that leads out of it or into it
// there is the remove or the put.
type HistoryEntry struct {
	Number uint64    `json:"number"` // of the journal's record
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"` // put remove rename attr, or HistoryCommit

	Path  Path     `json:"path,omitempty"`
	To    Path     `json:"to,omitempty"`    // rename
	Type  string   `json:"type,omitempty"`  // put: file dir symlink fifo link
	Size  int64    `json:"size,omitempty"`  // put: bytes of a file
	Verb  string   `json:"verb,omitempty"`  // the owner's verb that did it; exec where a command did; empty where nobody noted it
	Execs []ExecID `json:"execs,omitempty"` // the commands at whose end it was found: one of them did it, or one that runs on

	// Of HistoryCommit, which only the whole workspace shows: everything up to record
	// Number is in it.
	Commit  string `json:"commit,omitempty"`
	Epoch   Epoch  `json:"epoch,omitempty"`   // of the owner that made it
	Cause   string `json:"cause,omitempty"`   // why it was made
	Changes uint64 `json:"changes,omitempty"` // since the commit before it; those that are not listed were too many
	Error   string `json:"error,omitempty"`   // it cannot be read, or what changed before it cannot
}

// HistoryCommit is the Kind of a HistoryEntry that is a commit.
const HistoryCommit = "commit"
