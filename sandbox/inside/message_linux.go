package inside

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MaxMessage bounds one message: it fits into the buffer of a socket whose size
// nobody raised. A longer request travels as a memory file.
const MaxMessage = 64 << 10

// MaxReply bounds what the program says in one message.
const MaxReply = 256

// Kinds of requests.
const (
	KindRun    = "run"    // start a command; descriptors: its 0 to 2, the gate, then cgroup files to enter
	KindSignal = "signal" // to a command's process group
	KindStop   = "stop"   // SIGTERM to all processes of a command that are known here to be its own
	KindFeed   = "feed"   // the node is alive
	KindLarge  = "large"  // the request is in the memory file that is the first descriptor
)

// Kinds of replies.
const (
	KindHello   = "hello"   // the sandbox is up; descriptors: the scratch directories
	KindReady   = "ready"   // the command is forked as soon as a byte comes through the gate
	KindRefused = "refused" // nothing of the command ran; Errno says why
	KindEnded   = "ended"   // the command's first process has ended
)

// Stages of a start that can be refused.
const (
	StageSetup = iota // descriptors, cgroups, Landlock
	StageDir          // the working directory
	StageGate         // the gate was closed
	StageFork         // the fork itself
)

// Request is one message of the node. Strings hold no NUL.
type Request struct {
	Kind   string
	ID     uint64 // of the command, chosen by the node, never used twice
	Signal int    // of KindSignal

	// Of KindRun.
	Alone bool // no other command runs here: its end is the end of all processes
	// Whole: there are two cgroup files. The first moves the program with all of
	// its threads, which is done for the moment of the fork, the second takes it
	// back. Otherwise each moves the thread that forks, which ends soon after.
	Whole bool
	// Terminal: the first descriptor becomes the controlling terminal.
	Terminal bool
	Dir      string
	Argv     []string
	Env      []string
}

// Reply is one message of the program.
type Reply struct {
	Kind     string
	ID       uint64
	Stage    int // of KindRefused
	Errno    unix.Errno
	Landlock int // of KindHello: the version in use, 0 for none

	// Of KindEnded.
	Status       uint32 // as wait(2) has it
	User, System time.Duration
	MaxRSS       int64 // bytes
}

var errMessage = errors.New("malformed message")

// Encode returns the message: words separated by NUL.
func (r *Request) Encode() []byte {
	words := []string{r.Kind, strconv.FormatUint(r.ID, 10)}
	switch r.Kind {
	case KindSignal:
		words = append(words, strconv.Itoa(r.Signal))
	case KindRun:
		words = append(words, strconv.FormatBool(r.Alone), strconv.FormatBool(r.Whole), strconv.FormatBool(r.Terminal), r.Dir, strconv.Itoa(len(r.Argv)))
		words = append(append(words, r.Argv...), r.Env...)
	}
	return []byte(strings.Join(words, "\x00"))
}

// DecodeRequest is the inverse of Encode.
func DecodeRequest(b []byte) (*Request, error) {
	words := strings.Split(string(b), "\x00")
	if len(words) < 2 {
		return nil, errMessage
	}
	r := &Request{Kind: words[0]}
	var err error
	if r.ID, err = strconv.ParseUint(words[1], 10, 64); err != nil {
		return nil, errMessage
	}
	rest := words[2:]
	switch r.Kind {
	case KindFeed, KindLarge, KindStop:
	case KindSignal:
		if len(rest) != 1 {
			return nil, errMessage
		}
		r.Signal, err = strconv.Atoi(rest[0])
	case KindRun:
		err = r.decodeRun(rest)
	default:
		err = errMessage
	}
	if err != nil {
		return nil, errMessage
	}
	return r, nil
}

func (r *Request) decodeRun(words []string) error {
	if len(words) < 6 {
		return errMessage
	}
	alone, err1 := strconv.ParseBool(words[0])
	whole, err2 := strconv.ParseBool(words[1])
	terminal, err3 := strconv.ParseBool(words[2])
	argc, err4 := strconv.Atoi(words[4])
	rest := words[5:]
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || argc < 1 || argc > len(rest) {
		return errMessage
	}
	r.Alone, r.Whole, r.Terminal, r.Dir, r.Argv, r.Env = alone, whole, terminal, words[3], rest[:argc], rest[argc:]
	return nil
}

// Encode returns the message.
func (r *Reply) Encode() []byte {
	b := append([]byte(r.Kind), 0)
	for _, n := range []int64{
		int64(r.ID), int64(r.Stage), int64(r.Errno), int64(r.Landlock),
		int64(r.Status), int64(r.User), int64(r.System), r.MaxRSS,
	} {
		b = append(strconv.AppendInt(b, n, 10), 0)
	}
	return b
}

// DecodeReply is the inverse of Encode. Whatever the bytes, it returns numbers
// that are not negative, or an error.
func DecodeReply(b []byte) (*Reply, error) {
	words := strings.Split(string(b), "\x00")
	if len(b) > MaxReply || len(words) != 10 || words[9] != "" {
		return nil, errMessage
	}
	var n [8]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(words[i+1], 10, 64); err != nil || n[i] < 0 {
			return nil, errMessage
		}
	}
	switch words[0] {
	case KindHello, KindReady, KindRefused, KindEnded:
	default:
		return nil, errMessage
	}
	if n[4] > 0xffff || n[2] > 4095 {
		return nil, errMessage
	}
	return &Reply{
		Kind: words[0], ID: uint64(n[0]), Stage: int(n[1]), Errno: unix.Errno(n[2]), Landlock: int(n[3]),
		Status: uint32(n[4]), User: time.Duration(n[5]), System: time.Duration(n[6]), MaxRSS: n[7],
	}, nil
}
