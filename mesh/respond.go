package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
)

// Bounds of a Responder.
const (
	// DefaultMaxInFlight requests are answered at a time; more get busy. Sized so
	// that requests of half a MiB stay below 512 MiB of memory.
	DefaultMaxInFlight = 1024
	// DefaultRequestTime bounds a request that names no deadline.
	DefaultRequestTime = 30 * time.Second
)

// Request is one request whose reply subject has been checked.
type Request struct {
	Subject   string
	Verb      string
	Principal string // who published it, as the subject says: a tenant, PrincipalAdmin or PrincipalNode
	Bound     *Bound // what the caller's token is bound to, as the subject says; nil: the whole tenant
	ID        string // Mesh-Id; "" when the caller sent none
	Scope     string // clean, relative to the workspace root; "." is all of it; never outside of Bound
	msg       *nats.Msg
}

// Consistent reports whether a reading wants to be answered by who owns the workspace
// for certain.
func (r *Request) Consistent() bool { return r.msg.Header.Get(HeaderConsistent) == "1" }

// Args decodes the JSON arguments into v; the error has CodeInvalid. Unknown
// fields are ignored. An empty body is an empty object.
func (r *Request) Args(v any) error {
	raw := []byte(r.msg.Header.Get(HeaderArgs))
	if len(raw) == 0 {
		raw = r.msg.Data
	}
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return Errorf(CodeInvalid, "%s: malformed JSON arguments: %s", r.Verb, err)
	}
	return nil
}

// Content returns the raw body of a request whose arguments are in Mesh-Args,
// and nil otherwise. It stays valid after the answer.
func (r *Request) Content() []byte {
	if r.msg.Header.Get(HeaderArgs) == "" {
		return nil
	}
	return r.msg.Data
}

// Reply is what a request is answered with: JSON alone, or JSON in a header and
// raw content in the body.
type Reply struct {
	Args    any
	Content []byte // nil: JSON body
}

// Answer works on one request; several run concurrently. A *Error is sent as it
// is, any other error as CodeInternal without its text, which is logged.
type Answer func(ctx context.Context, req *Request) (*Reply, error)

// Responder answers requests. It is the only place in the mesh that publishes
// to a reply subject, because that subject is the caller's data and the broker
// does not check it: a request whose reply does not lie below the inbox of the
// principal that its own subject names is dropped and counted.
type Responder struct {
	conn    *nats.Conn
	node    Node
	log     *slog.Logger
	slots   *Slots
	closing sync.Mutex // guards ended, and the step from there into flight
	ended   bool
	flight  sync.WaitGroup
	dropped atomic.Uint64
	busy    atomic.Uint64
}

// ResponderStats counts what a Responder did not answer as asked.
type ResponderStats struct {
	Dropped uint64 `json:"dropped"` // reply subject not below the caller's inbox, or a malformed subject
	Busy    uint64 `json:"busy"`    // refused because DefaultMaxInFlight were being answered
}

// NewResponder makes a responder on a connection it does not own. node stands
// in every reply; log may be nil.
func NewResponder(conn *nats.Conn, node Node, log *slog.Logger) *Responder {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Responder{conn: conn, node: node, log: log, slots: NewSlots(DefaultMaxInFlight)}
}

// Stats returns the counters.
func (r *Responder) Stats() ResponderStats {
	return ResponderStats{Dropped: r.dropped.Load(), Busy: r.busy.Load()}
}

// Subscribe answers requests on subject, in a queue group unless queue is "".
// ctx is the parent of the requests' contexts. The subscription is known to the
// server when Subscribe returns.
func (r *Responder) Subscribe(ctx context.Context, subject, queue string, answer Answer) (*nats.Subscription, error) {
	receive := func(m *nats.Msg) { r.receive(ctx, m, answer) }
	var sub *nats.Subscription
	var err error
	if queue == "" {
		sub, err = r.conn.Subscribe(subject, receive)
	} else {
		sub, err = r.conn.QueueSubscribe(subject, queue, receive)
	}
	if err == nil {
		if err = r.conn.FlushTimeout(5 * time.Second); err != nil {
			sub.Unsubscribe() //nolint:errcheck // nobody will hold it
		}
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", subject, err)
	}
	return sub, nil
}

// Wait ends the responder: what arrives from now on is refused as unavailable.
// It returns when no answer is being worked on.
func (r *Responder) Wait() {
	r.closing.Lock()
	r.ended = true
	r.closing.Unlock()
	r.flight.Wait()
}

// enter counts a request that is being worked on; false after Wait was called.
func (r *Responder) enter() bool {
	r.closing.Lock()
	defer r.closing.Unlock()
	if !r.ended {
		r.flight.Add(1)
	}
	return !r.ended
}

// replyAllowed is the reply check. Who asks on a bound token's subject is
// answered in that token's inbox only. A subject that the broker would refuse to
// take is nobody's inbox: each refusal would be an error of our connection.
func replyAllowed(principal string, bound *Bound, reply string) bool {
	inbox := "_INBOX." + principal + "."
	if bound != nil {
		inbox += string(bound.Token) + "."
	}
	below, ok := strings.CutPrefix(reply, inbox)
	return principal != "" && ok && isLiteral(below)
}

// isLiteral says that a subject has no empty tokens and no wildcards.
func isLiteral(subject string) bool {
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" || token == "*" || token == ">" {
			return false
		}
	}
	return true
}

func (r *Responder) receive(ctx context.Context, m *nats.Msg, answer Answer) {
	principal := Principal(m.Subject)
	bound, err := boundOf(m.Subject)
	if err != nil || !replyAllowed(principal, bound, m.Reply) {
		// The first, second, fourth … is logged: a tenant who sends nothing else
		// would fill the operator's disk.
		if n := r.dropped.Add(1); n&(n-1) == 0 {
			r.log.Warn("request with a foreign reply subject dropped", "subject", m.Subject, "dropped", n)
		}
		return
	}
	if !r.slots.Take(principal) {
		r.busy.Add(1)
		r.send(m, nil, Errorf(CodeBusy, "node %s is answering as many requests as it may, at all or of one tenant; try again", r.node))
		return
	}
	if !r.enter() {
		r.slots.Give(principal)
		r.send(m, nil, Errorf(CodeUnavailable, "node %s is stopping", r.node))
		return
	}
	go func() {
		defer func() { r.slots.Give(principal); r.flight.Done() }()
		reply, err := r.answer(ctx, m, &Request{Subject: m.Subject, Verb: Verb(m.Subject), Principal: principal, Bound: bound, msg: m}, answer)
		r.send(m, reply, err)
	}()
}

func (r *Responder) answer(ctx context.Context, m *nats.Msg, req *Request, answer Answer) (reply *Reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("panic in a request", "subject", m.Subject, "panic", p, "stack", string(debug.Stack()))
			reply, err = nil, Errorf(CodeInternal, "%s failed on node %s; its log has the details", Verb(m.Subject), r.node)
		}
	}()
	if len(m.Data) > MaxMessage {
		return nil, Errorf(CodeTooLarge, "message of %d bytes is larger than %d; move larger content in parts", len(m.Data), MaxMessage)
	}
	if id := m.Header.Get(HeaderID); id != "" {
		if u, err := uuid.Parse(id); err != nil || u.String() != id {
			return nil, Errorf(CodeInvalid, "%s %.40q is not a UUID in canonical form", HeaderID, id)
		}
	}
	req.ID = m.Header.Get(HeaderID)
	scope, err := UnescapePath(m.Header.Get(HeaderScope))
	if err == nil {
		scope, err = ParseScope("", scope)
	}
	if err == nil {
		req.Scope, err = req.Bound.within(scope)
	}
	if err != nil {
		return nil, err
	}
	limit := DefaultRequestTime
	if s := m.Header.Get(HeaderDeadline); s != "" {
		ms, err := strconv.ParseUint(s, 10, 31)
		if err != nil || ms == 0 {
			return nil, Errorf(CodeInvalid, "%s %.40q is not a positive number of milliseconds", HeaderDeadline, s)
		}
		limit = min(limit, time.Duration(ms)*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return answer(ctx, req)
}

func (r *Responder) send(m *nats.Msg, reply *Reply, err error) {
	out := nats.NewMsg(m.Reply)
	out.Header.Set(HeaderNode, string(r.node))
	if err == nil && reply != nil {
		err = reply.encode(out)
	}
	if err != nil {
		out.Data = nil
		SetError(out.Header, r.public(m.Subject, err))
	}
	if err := r.conn.PublishMsg(out); err != nil {
		r.log.Debug("reply not sent", "subject", m.Subject, "err", err)
	}
}

// public is the error as the caller may see it: foreign errors can carry host
// paths, so only their code crosses the wire.
func (r *Responder) public(subject string, err error) *Error {
	if e, ok := unwrapError(err); ok {
		return e
	}
	code := CodeOf(err)
	if code != CodeDeadline && code != CodeCanceled {
		r.log.Error("request failed", "subject", subject, "err", err)
	}
	return Errorf(code, "%s failed on node %s; its log has the details", Verb(subject), r.node)
}

func (p *Reply) encode(out *nats.Msg) error {
	if p.Args == nil && p.Content == nil {
		return nil
	}
	args, err := json.Marshal(p.Args)
	if err != nil {
		return err
	}
	if p.Content == nil {
		out.Data = args
	} else {
		out.Header.Set(HeaderArgs, string(args))
		out.Data = p.Content
	}
	if len(out.Data) > MaxMessage {
		return Errorf(CodeTooLarge, "reply of %d bytes is larger than %d", len(out.Data), MaxMessage)
	}
	return nil
}

// NewRequest encodes a request: args as the JSON body, or in Mesh-Args when
// content is not nil. id is the idempotency key ("" for none), scope a clean
// path ("." or "" for the whole workspace).
func NewRequest(subject, id, scope string, args any, content []byte) (*nats.Msg, error) {
	m := nats.NewMsg(subject)
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, Errorf(CodeInvalid, "encode the arguments of %s: %s", Verb(subject), err)
	}
	if content == nil {
		m.Data = raw
	} else {
		m.Header.Set(HeaderArgs, string(raw))
		m.Data = content
	}
	if id != "" {
		m.Header.Set(HeaderID, id)
	}
	if scope != "" && scope != "." {
		m.Header.Set(HeaderScope, EscapePath(scope))
	}
	if len(m.Data) > MaxMessage {
		return nil, Errorf(CodeTooLarge, "message of %d bytes is larger than %d", len(m.Data), MaxMessage)
	}
	if size := len(raw) + len(content); size > MaxPayload-headerRoom {
		return nil, Errorf(CodeTooLarge, "message of %d bytes with its arguments is larger than %d", size, MaxPayload-headerRoom)
	}
	return m, nil
}

// DecodeReply reads a reply: the error it carries, or its arguments into v (nil
// to ignore them) and its raw content.
func DecodeReply(m *nats.Msg, v any) ([]byte, error) {
	if e := ErrorIn(m.Header); e != nil {
		return nil, e
	}
	raw, content := m.Data, []byte(nil)
	if args := m.Header.Get(HeaderArgs); args != "" {
		raw, content = []byte(args), m.Data
	}
	if v == nil || len(raw) == 0 {
		return content, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, Errorf(CodeInternal, "malformed reply on %s: %s", m.Subject, err)
	}
	return content, nil
}
