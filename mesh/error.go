package mesh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/nats-io/nats.go"
)

// Code is one of the closed set of error codes that cross the wire. Programs
// decide on codes, never on texts.
type Code string

// The closed set of codes. A reader that meets another code treats it as
// CodeInternal.
const (
	CodeInvalid     Code = "invalid"     // the request itself is wrong; it will never succeed as it is
	CodeNotFound    Code = "not_found"   // the named thing does not exist
	CodeExists      Code = "exists"      // the named thing exists already
	CodeDenied      Code = "denied"      // the caller may not do this, or the path leaves the scope
	CodeStale       Code = "stale"       // the addressed owner is no longer the owner; nothing was done
	CodeConflict    Code = "conflict"    // a precondition (revision, command under an id) does not hold
	CodeBusy        Code = "busy"        // at a bound right now; nothing was done
	CodeQuota       Code = "quota"       // a limit of the tenant or of the mesh is reached; nothing was done
	CodeTooLarge    Code = "too_large"   // the message or value is over its limit
	CodeUnsupported Code = "unsupported" // known, but not possible here
	CodeUnavailable Code = "unavailable" // no node answered; nothing was done
	CodeLost        Code = "lost"        // the outcome is unknown
	CodeDeadline    Code = "deadline"    // the time the caller gave is over; the outcome may be unknown
	CodeCanceled    Code = "canceled"    // the caller gave up
	CodeInternal    Code = "internal"    // a defect or a failure of the host
)

// Codes is every code, in the order of the wire specification.
var Codes = []Code{
	CodeInvalid, CodeNotFound, CodeExists, CodeDenied, CodeStale, CodeConflict,
	CodeBusy, CodeQuota, CodeTooLarge, CodeUnsupported, CodeUnavailable, CodeLost,
	CodeDeadline, CodeCanceled, CodeInternal,
}

// Error is the one error type that crosses packages and the wire. Its text is
// for people: it says what failed, why, and what to do next, and never carries
// a host path or another tenant's name.
type Error struct {
	Code     Code
	Text     string
	Revision string // of a conflict of revisions: the one that is there; "" where nothing is
}

// Errorf makes an *Error with a code and a formatted text.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Error returns "CODE: text".
func (e *Error) Error() string { return string(e.Code) + ": " + e.Text }

// Is makes errors.Is work across the wire with the standard library's
// sentinels and with another *Error of the same code and no text.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Code == CodeNotFound
	case fs.ErrExist:
		return e.Code == CodeExists
	case fs.ErrPermission:
		return e.Code == CodeDenied
	case fs.ErrInvalid:
		return e.Code == CodeInvalid
	case errors.ErrUnsupported:
		return e.Code == CodeUnsupported
	case context.DeadlineExceeded:
		return e.Code == CodeDeadline
	case context.Canceled:
		return e.Code == CodeCanceled
	}
	t, ok := target.(*Error)
	return ok && t.Text == "" && t.Code == e.Code
}

// RetrySafe reports whether the request certainly had no effect and the same
// request may succeed a moment later: stale, busy and unavailable. Every other
// code is either a definite refusal, which a repeat would not change, or an
// unknown outcome, which only a repeat with the same Mesh-Id can settle.
func (e *Error) RetrySafe() bool {
	return e.Code == CodeStale || e.Code == CodeBusy || e.Code == CodeUnavailable
}

// CodeOf returns the code that err carries. Standard library errors that have
// a counterpart are mapped; nil is the empty code, anything else CodeInternal.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return CodeDeadline
	case errors.Is(err, context.Canceled):
		return CodeCanceled
	case errors.Is(err, fs.ErrNotExist):
		return CodeNotFound
	case errors.Is(err, fs.ErrExist):
		return CodeExists
	case errors.Is(err, fs.ErrPermission):
		return CodeDenied
	case errors.Is(err, nats.ErrMaxPayload):
		return CodeTooLarge
	case errors.Is(err, nats.ErrNoResponders):
		return CodeUnavailable
	}
	return CodeInternal
}

// AsError returns err as an *Error. An error that carries no code becomes one
// with CodeOf(err) and its own text, so only call it on errors whose text may
// be shown.
func AsError(err error) *Error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeOf(err), Text: err.Error()}
}

// About says before the text of err what it is about; the code stays, and nil is
// nil. Unlike a wrapping error it crosses the wire.
func About(what string, err error) error {
	e, ok := unwrapError(err)
	switch {
	case err == nil:
		return nil
	case !ok:
		return fmt.Errorf("%s: %w", what, err)
	}
	return &Error{Code: e.Code, Text: what + ": " + e.Text, Revision: e.Revision}
}

func unwrapError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// SetError writes e into the headers of a reply.
func SetError(h nats.Header, e *Error) {
	h.Set(HeaderErrorCode, string(e.Code))
	h.Set(HeaderError, headerText(e.Text))
	if e.Revision != "" {
		h.Set(HeaderRevision, headerText(e.Revision))
	}
}

// ErrorIn returns the error that a reply's headers carry, or nil. A code
// outside the closed set is read as CodeInternal.
func ErrorIn(h nats.Header) *Error {
	code := Code(h.Get(HeaderErrorCode))
	if code == "" {
		return nil
	}
	for _, known := range Codes {
		if code == known {
			return &Error{Code: code, Text: h.Get(HeaderError), Revision: h.Get(HeaderRevision)}
		}
	}
	return &Error{Code: CodeInternal, Text: string(code) + ": " + h.Get(HeaderError)}
}

// headerText makes a text fit for one header line: control characters become
// spaces, since a line break would end the header.
func headerText(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < 0x20 || c == 0x7f {
			b[i] = ' '
		}
	}
	return string(b)
}
