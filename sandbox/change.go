package sandbox

import (
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// ChangeKind is what a Change does.
type ChangeKind int

// The kinds of changes.
const (
	ChangePut    ChangeKind = iota + 1 // Path is made, or replaced
	ChangeRemove                       // Path goes, with all below it
	ChangeRename                       // Path becomes To, with all below it
	ChangeAttr                         // Path gets another Mode or ModTime
	ChangeNone                         // nothing is to be done: it is so already
)

// Change is one step that a method of View is about to take: it was found
// possible, its content is complete in the stage, and the workspace is as before.
// Paths are relative to the workspace's root and lead through no symbolic link.
type Change struct {
	Kind    ChangeKind
	Path    string
	To      string   // of a rename
	Missing []string // directories above Path, or To, that are made with it (0755); the outermost first

	Info   Info           // of a put: what will stand there; its Target is a symbolic link's text
	Temp   string         // of a put: its name in the stage; "" for a directory that is empty
	Data   []byte         // of a put: the content, where it is at hand
	LinkTo string         // of a put: it is another name of the file at this path
	Copied mesh.CopyReply // of a put that is a copy

	Mode    *uint32    // of ChangeAttr
	ModTime *time.Time // likewise
}

// Gate is asked before each Change and decides whether it happens. What it returns
// is called when the change was made, or failed, with the error; its result is the
// method's. While a Gate works nothing but the tenant's own commands keeps the
// workspace as the Change says.
type Gate func(Change) (done func(error) error, err error)

// Gated returns the same view, whose changes pass through the gate. Without one
// they are made at once.
func (v *View) Gated(g Gate) *View {
	gated := *v
	gated.gate = g
	return &gated
}
