package chaos

import (
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Kind is what a call does with a path.
type Kind string

// The kinds of calls.
const (
	Write  Kind = "write"  // Path holds Value
	Remove Kind = "remove" // Path is gone
	Rename Kind = "rename" // Path is gone and To holds Value
	Read   Kind = "read"   // Path held Value; "" is that there was nothing
)

// Outcome is what the caller knows of a call.
type Outcome string

// The outcomes of a call.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // certainly without effect
	Unknown Outcome = "unknown" // perhaps done, perhaps later, perhaps never
)

// Call is one call of one client. Times are since the beginning of the history.
type Call struct {
	Client     int
	Kind       Kind
	Path, To   string
	Value      string
	Start, End time.Duration
	Outcome    Outcome
	Err        error // why it is not done
}

// History is calls in the order of their ends. It is safe for concurrent use; the
// zero value begins with the first call.
type History struct {
	mu    sync.Mutex
	began time.Time
	calls []Call
	done  int
}

// Do makes a call and writes it down. What a reading call found is its value.
func (h *History) Do(c Call, call func() (found string, err error)) Outcome {
	h.mu.Lock()
	if h.began.IsZero() {
		h.began = time.Now()
	}
	h.mu.Unlock()
	c.Start = time.Since(h.began)
	found, err := call()
	c.End = time.Since(h.began)
	if c.Kind == Read {
		c.Value = found
	}
	c.Err, c.Outcome = err, outcomeOf(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, c)
	if c.Outcome == Done && c.Kind != Read {
		h.done++
	}
	return c.Outcome
}

// Changes is how many changes were acknowledged up to now.
func (h *History) Changes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done
}

// Calls is every call up to now.
func (h *History) Calls() []Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Call(nil), h.calls...)
}

// outcomeOf reads an error as its code is documented: only a definite refusal
// says that nothing was done.
func outcomeOf(err error) Outcome {
	switch mesh.CodeOf(err) {
	case "":
		return Done
	case mesh.CodeLost, mesh.CodeDeadline, mesh.CodeCanceled, mesh.CodeInternal:
		return Unknown
	}
	return Refused
}
