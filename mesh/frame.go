package mesh

import (
	"encoding/binary"
	"encoding/json"
	"time"
)

// A Frame is one message of an exec's log: the claim (number 0), then output,
// then one final frame. As bytes:
//
//	format   1 byte, FrameFormat
//	kind     1 byte, 'c' claim, 'o' output, 'f' final
//	number   uvarint, 0 for the claim, then 1, 2, …
//	offset   uvarint, bytes of output (both streams) before this frame
//	meta     uvarint length, then JSON: Claim of a claim, Final of a final frame, empty otherwise
//	chunks   until the end: 1 byte stream (1 stdout, 2 stderr), uvarint length, bytes
//
// A final frame may carry the last output too, so that a short command is two
// messages. A reader drops a number it has seen and orders by number; the first
// final frame ends the log.
type Frame struct {
	Kind   byte
	Number uint64
	Offset uint64
	Claim  *Claim  // of kind FrameClaim
	Final  *Final  // of kind FrameFinal
	Chunks []Chunk // of kinds FrameOutput and FrameFinal
}

// FrameFormat is the format byte that this version writes.
const FrameFormat = 1

// Kinds of frames.
const (
	FrameClaim  = 'c'
	FrameOutput = 'o'
	FrameFinal  = 'f'
)

// Streams of a chunk.
const (
	Stdout = 1
	Stderr = 2
)

// Chunk is a piece of output.
type Chunk struct {
	Stream byte
	Data   []byte
}

// Claim says who runs what. Values of the environment never enter the log.
type Claim struct {
	Node      Node      `json:"node"`
	Epoch     Epoch     `json:"epoch"`
	Nonce     string    `json:"nonce"` // fresh per attempt to claim: tells the runner from the refused
	Hash      string    `json:"hash"`  // SHA-256 of command, directory, scope and names of the environment, hex
	Args      []Path    `json:"args"`
	Dir       Path      `json:"dir,omitempty"`
	Scope     Path      `json:"scope,omitempty"`
	Env       []Path    `json:"env,omitempty"` // names only
	Time      time.Time `json:"time"`
	TimeoutMS int64     `json:"timeout_ms,omitempty"`
	Terminal  bool      `json:"terminal,omitempty"` // its output is what a terminal shows
}

// Final says how an exec ended. Error is set when the mesh ended it (lost,
// canceled, internal …); then the other fields say nothing about the command.
type Final struct {
	Code       int    `json:"code"`            // exit status, 128+s for signal s, 124 after a timeout
	Limit      string `json:"limit,omitempty"` // the limit that was met: memory pids disk output timeout
	Output     uint64 `json:"output"`          // bytes of output, both streams, as the command wrote them
	Missing    uint64 `json:"missing"`         // how many of them the log does not hold
	DurationUS int64  `json:"duration_us"`     // from start to end of the process tree
	UserUS     int64  `json:"user_us"`         // processor time
	SystemUS   int64  `json:"system_us"`       //
	MaxRSS     int64  `json:"max_rss"`         // bytes
	Isolation  string `json:"isolation"`       // the driver it ran in, and how far that held it:
	Rung       string `json:"rung,omitempty"`  // by what the limits are: cgroup2, cgroup1 or rlimit
	Landlock   int    `json:"landlock,omitempty"`
	Warm       bool   `json:"warm,omitempty"`           // in a sandbox that is kept
	Nonce      string `json:"nonce,omitempty"`          // the runner's, from its claim
	Frames     uint64 `json:"frames,omitempty"`         // messages of the log before this one: among so many no other is final
	Files      int    `json:"files,omitempty"`          // names that were captured at its end: made, changed or gone
	Bytes      int64  `json:"captured_bytes,omitempty"` // their content
	Position   uint64 `json:"journal_seq,omitempty"`    // of the journal's last record with them; 0: nothing had changed
	CaptureUS  int64  `json:"capture_us,omitempty"`     // how long its end waited for that
	ErrorCode  Code   `json:"error,omitempty"`          // the mesh's verdict, if it is one
	ErrorText  string `json:"reason,omitempty"`         //

	Met []LimitMet `json:"met,omitempty"` // every limit that was met, Limit first
	// Net is what the command could reach: none, full, or allow: and hosts. Refused
	// are the first hosts, as HOST:PORT, that were refused to commands of its view
	// while it ran.
	Net     string   `json:"net,omitempty"`
	Refused []string `json:"refused,omitempty"`
}

// Err returns the mesh's verdict as an error, or nil.
func (f *Final) Err() error {
	if f.ErrorCode == "" {
		return nil
	}
	return &Error{Code: f.ErrorCode, Text: f.ErrorText}
}

// Encode returns the frame as bytes.
func (f *Frame) Encode() ([]byte, error) {
	var meta []byte
	var err error
	switch {
	case f.Claim != nil:
		meta, err = json.Marshal(f.Claim)
	case f.Final != nil:
		meta, err = json.Marshal(f.Final)
	}
	if err != nil {
		return nil, err
	}
	size := 2 + 3*binary.MaxVarintLen64 + len(meta)
	for _, c := range f.Chunks {
		size += 1 + binary.MaxVarintLen64 + len(c.Data)
	}
	b := append(make([]byte, 0, size), FrameFormat, f.Kind)
	b = binary.AppendUvarint(b, f.Number)
	b = binary.AppendUvarint(b, f.Offset)
	b = binary.AppendUvarint(b, uint64(len(meta)))
	b = append(b, meta...)
	for _, c := range f.Chunks {
		b = append(b, c.Stream)
		b = binary.AppendUvarint(b, uint64(len(c.Data)))
		b = append(b, c.Data...)
	}
	return b, nil
}

// DecodeFrame is the inverse of Encode; chunks share b's memory. The error has
// CodeInternal: a frame that cannot be read is a defect or a newer format.
func DecodeFrame(b []byte) (*Frame, error) {
	broken := Errorf(CodeInternal, "broken frame of %d bytes", len(b))
	if len(b) < 2 {
		return nil, broken
	}
	if b[0] != FrameFormat {
		return nil, Errorf(CodeInternal, "frame format %d is newer than this program reads", b[0])
	}
	f := &Frame{Kind: b[1]}
	r := reader{b: b[2:]}
	f.Number, f.Offset = r.uvarint(), r.uvarint()
	meta := r.bytes(r.uvarint())
	for len(r.b) > 0 && !r.bad {
		c := Chunk{Stream: r.byte()}
		c.Data = r.bytes(r.uvarint())
		if c.Stream != Stdout && c.Stream != Stderr {
			r.bad = true
		}
		f.Chunks = append(f.Chunks, c)
	}
	if r.bad {
		return nil, broken
	}
	var err error
	switch f.Kind {
	case FrameClaim:
		err = json.Unmarshal(meta, &f.Claim)
	case FrameFinal:
		err = json.Unmarshal(meta, &f.Final)
	case FrameOutput:
	default:
		return nil, broken
	}
	if err != nil || (f.Kind == FrameClaim && f.Claim == nil) || (f.Kind == FrameFinal && f.Final == nil) {
		return nil, broken
	}
	return f, nil
}

// Size is the number of output bytes the frame carries.
func (f *Frame) Size() uint64 {
	var n uint64
	for _, c := range f.Chunks {
		n += uint64(len(c.Data))
	}
	return n
}

// StoredFrame is an encoded frame with its stream sequence.
type StoredFrame struct {
	Sequence uint64
	Data     []byte
}

// PackFrames encodes frames for a LogReply: uvarint sequence, uvarint length,
// bytes, one after the other.
func PackFrames(frames []StoredFrame) []byte {
	b := []byte{}
	for _, f := range frames {
		b = binary.AppendUvarint(b, f.Sequence)
		b = binary.AppendUvarint(b, uint64(len(f.Data)))
		b = append(b, f.Data...)
	}
	return b
}

// UnpackFrames is the inverse of PackFrames; the error has CodeInternal.
func UnpackFrames(b []byte) ([]StoredFrame, error) {
	var frames []StoredFrame
	r := reader{b: b}
	for len(r.b) > 0 {
		f := StoredFrame{Sequence: r.uvarint()}
		f.Data = r.bytes(r.uvarint())
		if r.bad {
			return nil, Errorf(CodeInternal, "broken pack of frames")
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// reader takes apart bytes; after the first mistake it is bad and returns zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}
