package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Bounds of the answers kept for repeats of a request.
const (
	// DefaultAnswerAge is how long an answer is kept: longer than any client
	// goes on repeating one request.
	DefaultAnswerAge = 10 * time.Minute
	// maxChange bounds one change of the tree: an upload of many files.
	maxChange = 10 * time.Minute
	// DefaultAnswers is how many answers one workspace keeps.
	DefaultAnswers = 8192
	// maxAnswerText bounds the text of a refusal in the journal.
	maxAnswerText = 4 << 10
)

// answer is what a request got, or will get once done is closed.
type answer struct {
	began time.Time
	done  chan struct{}
	reply *mesh.Reply
	err   error
}

// answerKey names a request in the journal: its Mesh-Id, and what else tells it
// apart. An id is known to who sent it only: another scope's gets no answer of it.
func answerKey(req *mesh.Request) string {
	if req.ID == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(req.Verb + "\x00" + req.Scope))
	return req.ID + ":" + hex.EncodeToString(sum[:8])
}

// onceOnly does a change once for any number of requests with the same Mesh-Id:
// repeats wait for the first and get its answer.
func (w *workspace) onceOnly(ctx context.Context, req *mesh.Request, v verb) (*mesh.Reply, error) {
	key := answerKey(req)
	if key == "" {
		return w.change(ctx, req, v, key)
	}
	w.once.Lock()
	a, repeat := w.working[key]
	if !repeat {
		a, repeat = w.answers.Get(key)
		repeat = repeat && time.Since(a.began) < DefaultAnswerAge
	}
	if !repeat {
		a = &answer{began: time.Now(), done: make(chan struct{})}
		w.working[key] = a
	}
	w.once.Unlock()
	if repeat {
		select {
		case <-a.done:
			return a.reply, a.err
		case <-ctx.Done():
			return nil, mesh.Errorf(mesh.CodeBusy, "the first request with this id is still being worked on")
		}
	}
	a.err = mesh.Errorf(mesh.CodeInternal, "%s failed on node %s; its log has the details", req.Verb, w.node.cfg.Name) // stands after a panic
	defer func() {
		w.once.Lock()
		defer w.once.Unlock()
		delete(w.working, key)
		if a.err == nil || !mesh.AsError(a.err).RetrySafe() { // else nothing was done: a repeat shall try
			w.answers.Add(key, a.kept())
		}
		close(a.done)
	}()
	a.reply, a.err = w.change(ctx, req, v, key)
	return a.reply, a.err
}

// kept is an answer as a later repeat gets it: without content, since what is kept
// for all requests is held in memory.
func (a *answer) kept() *answer {
	if a.reply == nil || a.reply.Content == nil {
		return a
	}
	return &answer{began: a.began, done: a.done, reply: &mesh.Reply{Args: a.reply.Args}}
}

// change does a change and has its outcome in the journal. The caller's try may end
// before the work does; its repeat gets the answer.
func (w *workspace) change(ctx context.Context, req *mesh.Request, v verb, key string) (*mesh.Reply, error) {
	if key != "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(w.changes, maxChange)
		defer cancel()
	}
	if v.grows {
		if err := w.disk.admit(ctx, int64(len(req.Content())), 0); err != nil {
			return nil, err
		}
	} else {
		w.disk.worked.Store(true)
	}
	t := &task{workspace: w, ctx: ctx, req: req, key: key}
	reply, err := v.change(t)
	if err = w.checked(err); w.damaged() {
		return nil, err
	}
	return t.finish(reply, err)
}

// answerBody is what a refusal was, in the journal.
type answerBody struct {
	Text     string `json:"text"`
	Revision string `json:"revision,omitempty"`
}

// answerOf is the journal's form of what the request is answered: args, or e.
func (t *task) answerOf(args any, e *mesh.Error) (*objstore.Answer, error) {
	a := &objstore.Answer{ID: t.key, Time: time.Now().UTC()}
	if e != nil {
		a.Code = e.Code
		args = answerBody{Text: e.Text[:min(len(e.Text), maxAnswerText)], Revision: e.Revision}
	}
	if args == nil {
		return a, nil
	}
	body, err := json.Marshal(args)
	if err != nil || len(body) > objstore.MaxAnswer {
		return nil, fmt.Errorf("encode the answer of %s: %d bytes: %w", t.req.Verb, len(body), err)
	}
	a.Body = string(body)
	return a, nil
}

// remember keeps an answer that an earlier owner has given, unless a later one is
// known. The answers of a journal come in any order.
func (w *workspace) remember(a objstore.Answer) {
	if time.Since(a.Time) >= DefaultAnswerAge {
		return
	}
	w.once.Lock()
	defer w.once.Unlock()
	if known, ok := w.answers.Peek(a.ID); ok && !known.began.Before(a.Time) {
		return
	}
	given := &answer{began: a.Time, done: make(chan struct{})}
	close(given.done)
	if a.Code != "" {
		var body answerBody
		if err := json.Unmarshal([]byte(a.Body), &body); err != nil {
			body.Text = "the request was refused"
		}
		given.err = &mesh.Error{Code: a.Code, Text: body.Text, Revision: body.Revision}
	} else if a.Body != "" {
		given.reply = &mesh.Reply{Args: json.RawMessage(a.Body)}
	}
	w.answers.Add(a.ID, given)
}
