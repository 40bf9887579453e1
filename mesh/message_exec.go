package mesh

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// LogWindow is how many frames of one exec may be on their way to the log at a
// time: the frame of a number is published only when that of LogWindow numbers
// before is stored or given up. So a reader that has every message of a log up to
// a frame knows that what it misses so far before it will never come.
const LogWindow = 64

// LogRequest asks for frames of one exec with stream sequences greater than
// After (api log read). With WaitMS the answer to a log that has none yet and no
// end comes once there are some, at the latest after so many milliseconds
// (at most MaxLogWait).
type LogRequest struct {
	Workspace Workspace `json:"workspace"`
	ID        ExecID    `json:"id"`
	After     uint64    `json:"after,omitempty"`
	WaitMS    int64     `json:"wait_ms,omitempty"`
	Offset    uint64    `json:"offset,omitempty"` // with After 0: begin at the frame that has this byte of output
	EndOnly   bool      `json:"end_only,omitempty"`
}

// MaxLogWait is the longest wait of one LogRequest: shorter than the time after
// which a client takes an unanswered request for lost.
const MaxLogWait = 200 * time.Millisecond

// LogReply comes with the frames as raw content, packed by PackFrames. Last is
// the stream sequence of the last of them; More says that there are others. The
// answer to EndOnly has the final frame that ended the log, or none.
type LogReply struct {
	Last   uint64 `json:"last"`
	More   bool   `json:"more"`
	Number uint64 `json:"number,omitempty"` // of the frame that Offset asked for
}

// PsRequest asks the owner for the commands that run (owner verb ps).
type PsRequest struct{}

// PsReply is every command that runs in the scope, the oldest first.
type PsReply struct {
	Execs []ExecEntry `json:"execs"`
}

// LogListRequest asks for the execs of a workspace whose logs are kept, the
// newest first (api log list). With ID it is that one, or CodeNotFound.
type LogListRequest struct {
	Workspace Workspace `json:"workspace"`
	ID        ExecID    `json:"id,omitempty"`
	Before    ExecID    `json:"before,omitempty"` // older than this one
	Limit     int       `json:"limit,omitempty"`  // 0 is MaxExecPage
	Cursor    int       `json:"cursor,omitempty"` // of the page before: where to look first
}

// LogListReply is one page. A page may be empty although there are more.
type LogListReply struct {
	Execs  []ExecEntry `json:"execs"`
	Before ExecID      `json:"before,omitempty"` // of the next page, "" when there is none
	Cursor int         `json:"cursor,omitempty"` // of the next page
}

const (
	// MaxExecPage is the most execs of one page of a listing.
	MaxExecPage = 100
	// MaxListedArgs is how many bytes of an exec's arguments a listing shows.
	MaxListedArgs = 2048
)

// ExecEntry describes one exec.
type ExecEntry struct {
	ID        ExecID    `json:"id"`
	Node      Node      `json:"node,omitempty"` // that ran it; empty where it never started
	Args      []Path    `json:"args"`
	Cut       bool      `json:"cut,omitempty"`   // there are more arguments than MaxListedArgs bytes
	Scope     Path      `json:"scope,omitempty"` // relative to that of the request
	Dir       Path      `json:"dir,omitempty"`   // relative to Scope
	Started   time.Time `json:"started"`
	TimeoutMS int64     `json:"timeout_ms,omitempty"`
	Output    uint64    `json:"output"` // bytes so far, both streams
	Running   bool      `json:"running"`
	Final     *Final    `json:"final,omitempty"` // how it ended
}

// NewExecEntry describes a claim to who sees the workspace from scope.
func NewExecEntry(id ExecID, c *Claim, scope string) ExecEntry {
	e := ExecEntry{ID: id, Node: c.Node, Dir: c.Dir, Started: c.Time, TimeoutMS: c.TimeoutMS}
	if s := string(c.Scope); s != scope {
		e.Scope = Path(strings.TrimPrefix(s, scope+"/"))
	}
	room := MaxListedArgs
	for _, a := range c.Args {
		if len(a) > room {
			e.Args, e.Cut = append(e.Args, a[:room]), true
			break
		}
		e.Args, room = append(e.Args, a), room-len(a)
	}
	return e
}

// LogCounts returns how many messages each log of a workspace has, by id in their
// order, from the log number from on; total is how many logs there are.
func LogCounts(ctx context.Context, conn *nats.Conn, shard int, t Tenant, w Workspace, from int) (ids []ExecID, counts map[ExecID]uint64, total int, err error) {
	subjects, total, err := subjectCounts(ctx, conn, ExecLogStream(shard), ExecLogSubject(shard, t, w, "*"), from)
	if err != nil {
		return nil, nil, 0, err
	}
	counts = make(map[ExecID]uint64, len(subjects))
	for subject, n := range subjects {
		id, err := ParseExecID(subject[strings.LastIndexByte(subject, '.')+1:])
		if err == nil {
			ids, counts[id] = append(ids, id), n
		}
	}
	slices.Sort(ids)
	return ids, counts, total, nil
}

// LogCount is the number of messages of one log.
func LogCount(ctx context.Context, conn *nats.Conn, stream, subject string) (uint64, error) {
	subjects, _, err := subjectCounts(ctx, conn, stream, subject, 0)
	return subjects[subject], err
}

// subjectCounts asks a stream's leader for the messages of each subject, in their
// order from one on: the client library has the first of them only, or all.
func subjectCounts(ctx context.Context, conn *nats.Conn, stream, filter string, from int) (map[string]uint64, int, error) {
	ask, err := json.Marshal(map[string]any{"subjects_filter": filter, "offset": from})
	if err != nil {
		return nil, 0, err
	}
	m, err := conn.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, ask)
	if err != nil {
		return nil, 0, err
	}
	var info struct {
		Error *jetstream.APIError   `json:"error"`
		Total int                   `json:"total"`
		State jetstream.StreamState `json:"state"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return nil, 0, err
	}
	if info.Error != nil {
		return nil, 0, info.Error
	}
	return info.State.Subjects, info.Total, nil
}
