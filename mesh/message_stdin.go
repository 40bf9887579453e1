package mesh

import "time"

const (
	// DefaultStdinBuffer is how much of one command's standard input a node holds
	// until the command reads it: enough to keep a fast reader busy over a slow
	// link, and what one that never reads costs.
	DefaultStdinBuffer = 1 << 20
	// MaxStdinWait is the longest wait of one StdinRequest: shorter than the time
	// after which a client takes an unanswered request for lost.
	MaxStdinWait = time.Second
)

// StdinRequest adds its content to the standard input of a command that was
// started with ExecRequest.OpenStdin. The content belongs at Offset of the stream,
// which starts with the content of the ExecRequest.
//
// What is taken is taken once: a repeat with the same Mesh-Id gets the answer of
// the first, and any other content for a place that is taken is CodeConflict.
// Content for a place ahead of the stream's end waits a moment for what is before
// it. CodeNotFound: the command has ended, or has closed its standard input.
//
// Without content and EOF the request only asks how the stream stands, and waits
// up to WaitMS (at most MaxStdinWait) until the node would take all before Offset.
type StdinRequest struct {
	ID     ExecID `json:"id"`
	Offset uint64 `json:"offset,omitempty"`
	EOF    bool   `json:"eof,omitempty"` // the stream ends with this content
	WaitMS int64  `json:"wait_ms,omitempty"`
}

// TerminalSize is the size of a terminal in characters; 0 is unknown.
type TerminalSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ResizeRequest gives the terminal of a running command another size. CodeNotFound:
// the command has ended. CodeInvalid: it has no terminal.
type ResizeRequest struct {
	ID ExecID `json:"id"`
	TerminalSize
}

// StdinReply says how the stream stands. A request whose content lies beyond Next
// has been taken in part, or not at all: the rest is sent again, once there is room.
type StdinReply struct {
	Next uint64 `json:"next"` // end of what the node has taken
	Read uint64 `json:"read"` // end of what the command has taken from the node
	Room uint64 `json:"room"` // how much more the node takes now
	EOF  bool   `json:"eof"`  // the stream ends at Next
}
