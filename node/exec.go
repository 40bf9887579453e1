package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/egress"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/sandbox"
)

// maxIDAhead is how far a client's clock may be ahead of ours.
const maxIDAhead = 5 * time.Minute

// command is a checked exec request.
type command struct {
	mesh.ExecRequest
	scope string
	dir   string // clean, relative to the workspace
	net   egress.Policy
	stdin []byte
	hash  string
	tries string // Mesh-Id of the request and its repeats

	limits mesh.Limits // the tenant's, with all defaults
}

func (w *workspace) parseExec(req *mesh.Request) (*command, error) {
	c := &command{scope: req.Scope, stdin: req.Content(), tries: req.ID}
	if err := req.Args(&c.ExecRequest); err != nil {
		return nil, err
	}
	id, err := mesh.ParseExecID(string(c.ID))
	if err != nil {
		return nil, err
	}
	if age := time.Since(id.Time()); age > mesh.DefaultLogAge/2 || age < -maxIDAhead {
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec id %s is of %s: too far from now; make a fresh one", id, id.Time().UTC().Format(time.RFC3339))
	}
	if c.dir, err = mesh.ResolvePath(req.Scope, string(c.Dir)); err != nil {
		return nil, aboutDir(c.Dir, err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	c.Durability = cmp.Or(c.Durability, w.settings.Load().Durability)
	if c.net, err = w.policy(c.Net); err != nil {
		return nil, err
	}
	c.limits = w.node.limitsOf(w.tenant)
	if err := c.guard(); err != nil {
		return nil, err
	}
	if err := c.bound(); err != nil {
		return nil, err
	}
	c.hash = c.identity()
	return c, nil
}

// check refuses what no sandbox could run.
func (c *command) check() error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return mesh.Errorf(mesh.CodeInvalid, "exec: no command")
	}
	size := 0
	for _, a := range c.Args {
		size += len(a)
		if strings.IndexByte(string(a), 0) >= 0 {
			return mesh.Errorf(mesh.CodeInvalid, "exec: an argument holds a NUL byte")
		}
	}
	for _, e := range c.Env {
		size += len(e)
		name, _, _ := strings.Cut(string(e), "=")
		if !validEnvName(name) || strings.IndexByte(string(e), 0) >= 0 {
			return mesh.Errorf(mesh.CodeInvalid, "exec: environment %.60q is not NAME=value or NAME, with a NAME of letters, digits and '_'", name)
		}
	}
	if size > mesh.MaxArgs {
		return mesh.Errorf(mesh.CodeTooLarge, "exec: arguments and environment of %d bytes are larger than %d", size, mesh.MaxArgs)
	}
	switch {
	case c.TimeoutMS < 0 || c.MaxOutput < 0 || c.MemoryBytes < 0 || c.Pids < 0 || c.CPUMillis < 0:
		return mesh.Errorf(mesh.CodeInvalid, "exec: negative limit")
	}
	return mesh.About("exec", mesh.CheckDurability(c.Durability))
}

// guard refuses what would harm the caller itself, unless it is asked for by name
// and the tenant may.
func (c *command) guard() error {
	switch {
	case c.limits.Dangerous == mesh.DangerousAlways, c.limits.Dangerous == mesh.DangerousAsked && c.AllowDangerous:
		return nil
	}
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = string(a)
	}
	err := sandbox.Guard(args, path.Join(mesh.WorkspaceRoot, c.scope), path.Join(mesh.WorkspaceRoot, c.dir))
	if err != nil && c.AllowDangerous {
		return mesh.Errorf(mesh.CodeDenied, "exec: the command guard refuses this command, and the tenant may not allow it; change the command, or ask the operator")
	}
	return err
}

func validEnvName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || (c|0x20 >= 'a' && c|0x20 <= 'z')
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// identity hashes what makes the command the same one: arguments, directory,
// scope and the names of its environment. Values and standard input stay out:
// they can be secrets short enough to be guessed from a hash.
func (c *command) identity() string {
	raw, _ := json.Marshal([]any{c.Args, c.dir, c.scope, c.envNames()})
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func (c *command) envNames() []mesh.Path {
	var names []mesh.Path
	for _, e := range c.Env {
		name, _, _ := strings.Cut(string(e), "=")
		names = append(names, mesh.Path(name))
	}
	return names
}

// exec claims an id and starts its command. Both the claim and the journal's
// exec record are acknowledged before the command starts: the claim makes the
// id unique, the record fences a stale owner out. Meanwhile the command is made
// ready. A repeat attaches.
func (w *workspace) exec(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	c, err := w.parseExec(req)
	if err != nil {
		return nil, err
	}
	x, reply, err := w.reserve(c)
	if x == nil {
		return reply, err
	}
	started := false
	defer func() {
		if !started {
			w.forgetRun(x)
		}
	}()
	if err := w.prepare(x); err != nil {
		return nil, err
	}
	if err := w.admitLog(); err != nil {
		return nil, err
	}
	x.hold()
	claim := x.newClaim()
	runner, err := w.claim(ctx, x, claim)
	if err != nil || !runner {
		x.held.drop()
	}
	if err != nil {
		return nil, err
	}
	if !runner {
		return w.attach(ctx, c)
	}
	started = true
	x.claim.Store(claim)
	go func() {
		defer w.forgetRun(x)
		x.run()
	}()
	runtime.Gosched() // the command first: to write the reply takes longer than to let it begin
	return &mesh.Reply{Args: mesh.ExecReply{}}, nil
}

// reserve enters a run for the id. nil: the id is in use here, and the reply
// or error says how it stands.
func (w *workspace) reserve(c *command) (*run, *mesh.Reply, error) {
	w.execMu.Lock()
	defer w.execMu.Unlock()
	if old, ok := w.execs[c.ID]; ok {
		if old.command.hash != c.hash {
			return nil, nil, errOtherCommand(c.ID)
		}
		select {
		case <-old.claimed:
			return nil, &mesh.Reply{Args: mesh.ExecReply{Attached: true, Own: c.tries != "" && old.command.tries == c.tries}}, nil
		default:
			return nil, nil, mesh.Errorf(mesh.CodeBusy, "exec %s is being claimed; try again", c.ID)
		}
	}
	if w.leaving {
		return nil, nil, errNotOwner
	}
	if !w.node.execs.Take(string(w.tenant)) {
		return nil, nil, mesh.Errorf(mesh.CodeBusy, "node %s is running as many commands as it may, at all or of one tenant; try again", w.node.cfg.Name)
	}
	x := newRun(w, c)
	w.execs[c.ID] = x
	w.execDone.Add(1)
	return x, nil, nil
}

func (w *workspace) forgetRun(x *run) {
	if x.root != nil {
		x.root.Close()
	}
	w.execMu.Lock()
	delete(w.execs, x.command.ID)
	w.use()
	w.execMu.Unlock()
	w.node.execs.Give(string(w.tenant))
	w.execDone.Done()
}

// runningExecs are the ids whose log may have no end yet.
func (w *workspace) runningExecs() []mesh.ExecID {
	w.execMu.Lock()
	defer w.execMu.Unlock()
	ids := slices.Clone(w.endless)
	for id := range w.execs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// prepare refuses what can be refused before the id is used up: no isolation,
// no such directory.
func (w *workspace) prepare(x *run) error {
	level := w.node.runner.Level()
	if level.Driver == "" {
		return mesh.Errorf(mesh.CodeUnsupported, "commands are refused: %s", level.Reason)
	}
	var err error
	if x.root, err = w.tree.View(x.command.scope).OpenRoot(true); err != nil {
		return mesh.About("the scope's directory", err)
	}
	if x.command.dir == x.command.scope {
		return nil
	}
	info, err := w.tree.View(x.command.scope).Stat(x.command.dir, true)
	if err == nil && info.Type != "dir" {
		err = mesh.Errorf(mesh.CodeInvalid, "it is a %s, not a directory", info.Type)
	}
	return aboutDir(x.command.Dir, err)
}

func aboutDir(dir mesh.Path, err error) error {
	return mesh.About(fmt.Sprintf("working directory %.200q", dir), err)
}

func errOtherCommand(id mesh.ExecID) error {
	return mesh.Errorf(mesh.CodeConflict, "exec id %s belongs to another command", id)
}

// claim publishes the claim and the journal's exec record at the same time and
// reports whether this node is the runner.
func (w *workspace) claim(ctx context.Context, x *run, claim *mesh.Claim) (bool, error) {
	recorded := make(chan error, 1)
	go func() {
		_, err := w.journal.append(ctx, []objstore.Op{{Kind: objstore.KindExec, Exec: x.command.ID}}, nil)
		recorded <- err
	}()
	runner, err := w.publishClaim(ctx, x, claim)
	if recordErr := <-recorded; err == nil && recordErr != nil {
		err = recordErr // claimed, but perhaps by a stale owner: the command does not start
	}
	switch mesh.CodeOf(err) {
	case "":
		return runner, nil
	case mesh.CodeStale, mesh.CodeLost:
		w.stop(mesh.AsError(err))
	default:
		if runner { // the claim stands and nobody will run it
			verdict := mesh.Errorf(mesh.CodeCanceled, "the command was not started: %s", mesh.AsError(err).Text)
			if err := endLog(context.WithoutCancel(ctx), w.node.js, w.streams.log, x.subject, mesh.Epoch(w.epoch.Load()), verdict); err != nil {
				w.log.Warn("claim without an end", "exec", string(x.command.ID), "err", err)
			}
		}
	}
	return false, err
}

func (x *run) newClaim() *mesh.Claim {
	c := x.command
	return &mesh.Claim{
		Node: x.workspace.node.cfg.Name, Epoch: mesh.Epoch(x.workspace.epoch.Load()), Nonce: x.nonce, Hash: c.hash,
		Args: c.Args, Dir: c.Dir, Scope: mesh.Path(c.scope), Env: c.envNames(),
		Time: time.Now().UTC(), TimeoutMS: c.TimeoutMS, Terminal: c.Terminal != nil,
	}
}

// publishClaim stores the first frame of the log. After a refusal the first
// frame tells whether the claim is ours: an earlier try may have stored it.
func (w *workspace) publishClaim(ctx context.Context, x *run, claim *mesh.Claim) (bool, error) {
	f := mesh.Frame{Kind: mesh.FrameClaim, Claim: claim}
	m := nats.NewMsg(x.subject)
	var err error
	if m.Data, err = f.Encode(); err != nil {
		return false, err
	}
	if len(m.Data) > mesh.MaxMessage-64 {
		return false, mesh.Errorf(mesh.CodeTooLarge, "exec: arguments are too large for one frame of the log")
	}
	seq, err := mesh.Publish(context.WithoutCancel(ctx), w.node.js, m, 0)
	if err == nil {
		x.log.claimed(seq)
		return true, nil
	}
	if !errors.Is(err, mesh.ErrRefused) {
		return false, err
	}
	first, err := w.readClaim(ctx, x.subject)
	if err != nil {
		return false, err
	}
	if first.frame.Claim != nil && first.frame.Claim.Nonce == x.nonce {
		x.log.claimed(first.sequence)
		return true, nil
	}
	return false, nil
}

// readClaim reads the first frame after a refused claim, for as long as a claim
// may take to settle, whatever the caller still waits for: only then is it
// unknown who runs the command.
func (w *workspace) readClaim(ctx context.Context, subject string) (storedFrame, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mesh.DefaultSettle)
	defer cancel()
	for {
		first, err := firstFrame(ctx, w.streams.log, subject)
		if err == nil && first.frame != nil {
			return first, nil
		}
		select {
		case <-ctx.Done():
			return storedFrame{}, mesh.Errorf(mesh.CodeLost, "unknown outcome: the claim cannot be read")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// attach answers for an id that was claimed before: the log has, or will have,
// its result. An unfinished log that nobody can be running gets lost.
func (w *workspace) attach(ctx context.Context, c *command) (*mesh.Reply, error) {
	subject := w.logSubject(c.ID)
	first, err := firstFrame(ctx, w.streams.log, subject)
	if err != nil {
		return nil, err
	}
	if first.frame == nil || (first.frame.Claim != nil && first.frame.Claim.Hash != c.hash) {
		return nil, errOtherCommand(c.ID)
	}
	if err := endLog(ctx, w.node.js, w.streams.log, subject, mesh.Epoch(w.epoch.Load()), errNodeGone); err != nil {
		return nil, err
	}
	return &mesh.Reply{Args: mesh.ExecReply{Attached: true}}, nil
}

// signal sends a signal to a running command. One that has ended is not_found.
func (w *workspace) signal(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.SignalRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if _, err := mesh.ParseExecID(string(a.ID)); err != nil {
		return nil, err
	}
	w.execMu.Lock()
	x := w.execs[a.ID]
	w.execMu.Unlock()
	if x == nil && (a.Signal == "KILL" || a.Signal == mesh.SignalCancel) {
		return nil, w.cancelUnclaimed(ctx, a.ID, req.Scope)
	}
	if x == nil || !mesh.Inside(req.Scope, x.command.scope) {
		return nil, mesh.Errorf(mesh.CodeNotFound, "no command runs under exec id %.60s", a.ID)
	}
	return nil, x.signal(a.Signal)
}

var errCanceled = mesh.Errorf(mesh.CodeCanceled, "the command was canceled before it started")

// cancelUnclaimed makes sure that an id whose request is still on its way never
// starts: the log gets its end before its claim. An id that has ended is
// CodeNotFound, and so is one of a command outside of the scope.
func (w *workspace) cancelUnclaimed(ctx context.Context, id mesh.ExecID, scope string) error {
	subject := w.logSubject(id)
	end, err := lastFrame(ctx, w.streams.log, subject)
	if err != nil {
		return err
	}
	seen := true
	if end.frame != nil {
		if seen, err = logInScope(ctx, w.streams.log, subject, scope); err != nil {
			return err
		}
	}
	if !seen || end.frame != nil && end.frame.Final != nil {
		return mesh.Errorf(mesh.CodeNotFound, "no command runs under exec id %s", id)
	}
	verdict := errCanceled
	if end.frame != nil {
		verdict = errNodeGone
	} else if err := w.admitLog(); err != nil {
		return err // anybody could fill the streams with ids that nobody runs
	}
	return endLog(ctx, w.node.js, w.streams.log, subject, mesh.Epoch(w.epoch.Load()), verdict)
}
