package mesh

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Kinds of Change: what a path is afterwards.
const (
	ChangePut    = "put"    // there, with new content or attributes, in place of what was there; a directory that was there keeps its entries
	ChangeRemove = "remove" // gone, with all below it
	ChangeRename = "rename" // at To now, with all below it, in place of what was at To
	ChangeAttr   = "attr"   // with another mode or time
)

// Change is one change of a workspace's files.
type Change struct {
	Kind string    `json:"kind"`
	Path Path      `json:"path"`
	To   Path      `json:"to,omitempty"` // rename
	Time time.Time `json:"time"`         // when it was recorded
}

// In returns the change as a scope sees it, with paths below the scope, and whether
// it does. What is renamed out of a scope is gone there, and what is renamed into it
// was put there.
func (c Change) In(scope string) (Change, bool) {
	if scope == "." {
		return c, true
	}
	from, to := Inside(scope, string(c.Path)), c.To != "" && Inside(scope, string(c.To))
	switch {
	case from && to:
		c.Path, c.To = Below(scope, c.Path), Below(scope, c.To)
	case from && c.To != "":
		c.Kind, c.Path, c.To = ChangeRemove, Below(scope, c.Path), ""
	case from:
		c.Path = Below(scope, c.Path)
	case to:
		c.Kind, c.Path, c.To = ChangePut, Below(scope, c.To), ""
	case Inside(string(c.Path), scope) && (c.Kind == ChangeRemove || c.Kind == ChangeRename):
		c.Kind, c.Path, c.To = ChangeRemove, ".", "" // the scope itself went with what is above it
		return c, true
	case c.To != "" && Inside(string(c.To), scope):
		c.Kind, c.Path, c.To = ChangePut, ".", ""
		return c, true
	}
	return c, from || to
}

// maxPathsHeader bounds the header that names changed paths.
const maxPathsHeader = 16 << 10

// FormatChanges is what a journal record says of its changes in HeaderPaths:
// kind:path, or rename:path:to, separated by commas. more: not all of them fit.
func FormatChanges(changes []Change) (paths string, more bool) {
	var b strings.Builder
	for _, c := range changes {
		s := c.Kind + ":" + escapeName(c.Path)
		if c.Kind == ChangeRename {
			s += ":" + escapeName(c.To)
		}
		if b.Len()+1+len(s) > maxPathsHeader {
			return b.String(), true
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(s)
	}
	return b.String(), false
}

// escapeName leaves neither colons nor commas.
func escapeName(p Path) string { return strings.ReplaceAll(EscapePath(string(p)), ":", "%3A") }

// ChangesIn are the changes that a record's headers name. whole: these are all.
func ChangesIn(h nats.Header, at time.Time) (changes []Change, whole bool, err error) {
	paths := h.Get(HeaderPaths)
	if paths == "" {
		return nil, h.Get(HeaderMore) == "", nil
	}
	for s := range strings.SplitSeq(paths, ",") {
		part := strings.Split(s, ":")
		c := Change{Kind: part[0], Time: at}
		want := 2
		if c.Kind == ChangeRename {
			want = 3
		}
		if len(part) != want {
			return nil, false, Errorf(CodeInvalid, "malformed change %.80q", s)
		}
		for i, to := range []*Path{&c.Path, &c.To}[:want-1] {
			p, err := UnescapePath(part[i+1])
			if err != nil {
				return nil, false, err
			}
			*to = Path(p)
		}
		changes = append(changes, c)
	}
	return changes, h.Get(HeaderMore) == "", nil
}

// ChangesRequest asks any node what changed in a workspace after a cursor.
type ChangesRequest struct {
	Workspace Workspace `json:"workspace"`
	Cursor    string    `json:"cursor,omitempty"`  // "": where the workspace is now
	WaitMS    int64     `json:"wait_ms,omitempty"` // for the first change, at most MaxLogWait
}

// ToldChange is a change and the place behind it.
type ToldChange struct {
	Change
	After uint64 `json:"after"` // stream sequence of the record before its own
	Told  int    `json:"told"`  // its number in its record, from 1
}

// ChangesReply is a page of them, in their order.
type ChangesReply struct {
	Changes []ToldChange `json:"changes"`
	Cursor  string       `json:"cursor"` // of the next request
	More    bool         `json:"more,omitempty"`
	// Resync says that what followed the cursor is not in the journal any more, or
	// that it is of another workspace: the next cursor is where this one is now.
	Resync bool `json:"resync,omitempty"`
}

// ChangeCursor is a place among the changes of a workspace.
type ChangeCursor struct {
	Workspace string // id of its record: a name may be used again
	Sequence  uint64 // of the last record in the journal's stream that was told as a whole; 0: none was
	Told      int    // how many changes of the next one were told
}

func (c ChangeCursor) String() string {
	return fmt.Sprintf("%d.%d.%s", c.Sequence, c.Told, c.Workspace)
}

// ParseChangeCursor is the inverse of String; the error has CodeInvalid.
func ParseChangeCursor(s string) (c ChangeCursor, err error) {
	if _, err := fmt.Sscanf(s, "%d.%d.%s", &c.Sequence, &c.Told, &c.Workspace); err != nil || c.Told < 0 || c.String() != s {
		return c, Errorf(CodeInvalid, "%.80q is no cursor of a watch; begin without one", s)
	}
	return c, nil
}
