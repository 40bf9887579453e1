package node

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
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
)

// workspace is one tenure of a workspace on this node. Its run goroutine owns
// the life cycle; everything else only asks it to stop.
type workspace struct {
	node   *Node
	tenant mesh.Tenant
	name   mesh.Workspace
	log    *slog.Logger

	// Set by take before opened is closed, constant afterwards.
	record   kv.WorkspaceRecord
	streams  shard
	uid, gid int
	journal  *journal
	tree     *sandbox.Tree
	damage   *mesh.Error // why there is no tree although there should be one; nil otherwise
	sub      *nats.Subscription

	epoch     atomic.Uint64 // 0 until taken
	serving   atomic.Bool   // requests are answered
	releasing atomic.Bool   // the next change of the owner record is our own

	opened  chan struct{} // closed when opening has ended; openErr is set before
	openErr error
	stopped chan struct{} // closed by stop; verdict is set before
	verdict *mesh.Error
	stopOne sync.Once
	done    chan struct{} // closed when nothing of the tenure runs any more

	changes    context.Context // of changes of the tree; ends with the tenure
	endChanges context.CancelFunc

	gate    sync.RWMutex // an answer holds it for reading; closing takes it for writing
	closed  bool         // under gate
	once    sync.Mutex   // guards working, and the step from there to answers
	working map[string]*answer
	answers *lru.Cache[string, *answer]

	execMu    sync.Mutex
	execs     map[mesh.ExecID]*run
	endless   []mesh.ExecID // ended here, but their final frame could not be stored
	execDone  sync.WaitGroup
	downloads downloads
	disk      disk
}

// answer is what a request got, or will get once done is closed.
type answer struct {
	began time.Time
	done  chan struct{}
	reply *mesh.Reply
	err   error
}

func newWorkspace(n *Node, k key) *workspace {
	answers, _ := lru.New[string, *answer](DefaultAnswers) // fails for a size below 1 only
	changes, endChanges := context.WithCancel(context.Background())
	w := &workspace{
		changes: changes, endChanges: endChanges, working: map[string]*answer{},
		node: n, tenant: k.tenant, name: k.workspace,
		log:     n.log.With("tenant", string(k.tenant), "workspace", string(k.workspace)),
		opened:  make(chan struct{}),
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
		answers: answers,
		execs:   map[mesh.ExecID]*run{},
	}
	w.disk.workspace = w
	return w
}

func (w *workspace) logSubject(id mesh.ExecID) string {
	return mesh.ExecLogSubject(w.record.Shard, w.tenant, w.name, id)
}

// stop ends the tenure for a reason; the first one counts. CodeStale and
// CodeLost mean that this node is not the owner any more, or may not be.
func (w *workspace) stop(why *mesh.Error) {
	w.stopOne.Do(func() {
		w.verdict = why
		close(w.stopped)
	})
}

// run opens the workspace, serves it until stop, and takes it apart.
func (w *workspace) run(ctx context.Context, after mesh.Epoch) {
	defer close(w.done)
	defer w.forget()
	defer w.endChanges()
	opening, cancel := context.WithTimeout(ctx, 2*mesh.DefaultSettle)
	err := w.take(opening, after)
	cancel()
	if err != nil {
		w.closeTree()
		w.openErr = err
		close(w.opened)
		return
	}
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	var sequencer sync.WaitGroup
	sequencer.Go(func() {
		if err := w.journal.run(ctx); err != nil {
			w.stop(mesh.AsError(err))
		}
	})
	sequencer.Go(func() { w.disk.run(ctx) })
	epoch := mesh.Epoch(w.epoch.Load())
	w.sub, err = w.node.door.Subscribe(ctx, mesh.OwnerWildcard(w.tenant, w.name, epoch), "", w.answer)
	if err != nil {
		w.log.Warn("workspace not served", "err", err)
		why := mesh.Errorf(mesh.CodeUnavailable, "node %s cannot be reached through NATS now; try again", w.node.cfg.Name)
		w.openErr = why
		w.stop(why)
	} else {
		w.serving.Store(true)
		w.log.Info("workspace open", "epoch", uint64(epoch))
	}
	close(w.opened)

	<-w.stopped
	w.serving.Store(false)
	w.quiesce(w.verdict)
	cancel()
	sequencer.Wait()
	w.downloads.close()
	w.closeTree()
	if w.verdict.Code == mesh.CodeStale || w.verdict.Code == mesh.CodeLost {
		w.log.Warn("stepped down", "epoch", uint64(epoch), "err", w.verdict)
		return
	}
	w.release()
	w.log.Info("workspace closed", "epoch", uint64(epoch))
}

func (w *workspace) closeTree() {
	if w.tree == nil {
		return
	}
	if err := w.tree.Close(); err != nil {
		w.log.Debug("close the tree", "err", err)
	}
}

func (w *workspace) forget() {
	w.node.mu.Lock()
	defer w.node.mu.Unlock()
	delete(w.node.workspaces, key{w.tenant, w.name})
}

// quiesce stops answering, waits for the answers in the making, and ends every
// command with the verdict. Idempotent.
func (w *workspace) quiesce(verdict *mesh.Error) {
	w.serving.Store(false)
	if w.sub != nil {
		// What has arrived is answered stale: unanswered, a change would be unknown
		// to its caller although nothing was done.
		if err := w.sub.Drain(); err != nil {
			w.log.Debug("unsubscribe", "err", err)
		}
	}
	w.endChanges()
	w.abortAll(verdict) // first: a fenced owner's commands must not run on
	w.gate.Lock()
	w.closed = true
	w.gate.Unlock()
	w.abortAll(verdict) // those that an answer in the making had started
	w.execDone.Wait()
}

// commanded reports whether commands run.
func (w *workspace) commanded() bool {
	w.execMu.Lock()
	defer w.execMu.Unlock()
	return len(w.execs) > 0
}

// endAll ends every command because of a limit of the workspace, at once.
func (w *workspace) endAll(limit string) {
	w.execMu.Lock()
	defer w.execMu.Unlock()
	for _, x := range w.execs {
		x.end(limit, 0)
	}
}

func (w *workspace) abortAll(verdict *mesh.Error) {
	w.execMu.Lock()
	defer w.execMu.Unlock()
	for _, x := range w.execs {
		x.abort(verdict)
	}
}

// drain lets requests and commands finish, then gives the workspace up.
func (w *workspace) drain(grace time.Duration) {
	<-w.opened
	if w.openErr != nil {
		<-w.done
		return
	}
	end := time.After(grace)
	idle := make(chan struct{})
	go func() { // ends with the last command, at the latest when quiesce has killed it
		defer close(idle)
		w.gate.Lock()
		w.closed = true // what comes now is answered stale and goes to the next owner
		w.gate.Unlock()
		w.execDone.Wait()
	}()
	select {
	case <-idle:
	case <-end:
	case <-w.stopped:
	}
	w.stop(mesh.Errorf(mesh.CodeCanceled, "the node was stopped"))
	<-w.done
	<-idle
}

// answer serves the owner verbs.
func (w *workspace) answer(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	if !w.node.ready.Load() {
		return nil, mesh.Errorf(mesh.CodeBusy, "node %s is reconnecting", w.node.cfg.Name)
	}
	if !w.gate.TryRLock() {
		return nil, errNotOwner
	}
	defer w.gate.RUnlock()
	if w.closed {
		return nil, errNotOwner
	}
	v, known := verbs[req.Verb]
	switch {
	case !known:
		return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown verb %.40q of a workspace", req.Verb)
	case w.damage != nil && v.files:
		return nil, w.damage
	case v.changes:
		return w.onceOnly(ctx, req, v)
	}
	return w.do(ctx, req, v)
}

func (w *workspace) do(ctx context.Context, req *mesh.Request, v verb) (*mesh.Reply, error) {
	if v.grows {
		if err := w.disk.admit(ctx, int64(len(req.Content()))); err != nil {
			return nil, err
		}
	} else if v.changes {
		w.disk.worked.Store(true)
	}
	reply, err := v.do(w, ctx, req)
	return reply, w.checked(err)
}

// verb is what the owner of a workspace does for one request.
type verb struct {
	do      func(*workspace, context.Context, *mesh.Request) (*mesh.Reply, error)
	files   bool // needs the tree
	changes bool // changes it: done once for any number of repeats
	grows   bool // adds to it
}

// verbs are the owner verbs. exec, signal and stdin have rules of their own for
// repeats: an exec id starts once, whoever asks.
var verbs = map[string]verb{
	mesh.VerbStat:     {do: (*workspace).stat, files: true},
	mesh.VerbList:     {do: (*workspace).list, files: true},
	mesh.VerbRead:     {do: (*workspace).read, files: true},
	mesh.VerbReadlink: {do: (*workspace).readlink, files: true},
	mesh.VerbSearch:   {do: (*workspace).search, files: true},
	mesh.VerbGrep:     {do: (*workspace).grep, files: true},
	mesh.VerbDownload: {do: (*workspace).download, files: true},
	mesh.VerbWrite:    {do: (*workspace).write, files: true, changes: true, grows: true},
	mesh.VerbMkdir:    {do: (*workspace).mkdir, files: true, changes: true, grows: true},
	mesh.VerbRemove:   {do: (*workspace).remove, files: true, changes: true},
	mesh.VerbRename:   {do: (*workspace).rename, files: true, changes: true},
	mesh.VerbCopy:     {do: (*workspace).copy, files: true, changes: true, grows: true},
	mesh.VerbChmod:    {do: (*workspace).chmod, files: true, changes: true},
	mesh.VerbSymlink:  {do: (*workspace).symlink, files: true, changes: true, grows: true},
	mesh.VerbTouch:    {do: (*workspace).touch, files: true, changes: true},
	mesh.VerbUpload:   {do: (*workspace).upload, files: true, changes: true, grows: true},
	mesh.VerbExec:     {do: (*workspace).exec, files: true},
	mesh.VerbSignal:   {do: (*workspace).signal},
	mesh.VerbStdin:    {do: (*workspace).stdin},
	mesh.VerbPs:       {do: (*workspace).ps},
	mesh.VerbInfo:     {do: (*workspace).info},
}

var errNotOwner = mesh.Errorf(mesh.CodeStale, "this node no longer owns the workspace")

// onceOnly does a change once for any number of requests with the same Mesh-Id:
// repeats wait for the first and get its answer.
func (w *workspace) onceOnly(ctx context.Context, req *mesh.Request, v verb) (*mesh.Reply, error) {
	if req.ID == "" {
		return w.do(ctx, req, v)
	}
	// An id is known to who sent it only: another scope's gets no answer of it.
	key := req.Verb + "\x00" + req.Scope + "\x00" + req.ID
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
			w.answers.Add(key, a)
		}
		close(a.done)
	}()
	// The caller's try may end before the work does; its repeat gets the answer.
	ctx, cancel := context.WithTimeout(w.changes, maxChange)
	defer cancel()
	a.reply, a.err = w.do(ctx, req, v)
	return a.reply, a.err
}

// checked is the outcome of a verb, unless the files themselves are gone: then
// neither "not found" nor an empty directory is the truth about them.
func (w *workspace) checked(err error) error {
	if w.tree == nil || !w.tree.Gone() {
		return err
	}
	w.log.Error("the workspace's directory was removed on the host", "dir", w.dir())
	gone := errFilesGone(w.name, w.node.cfg.Name)
	w.stop(gone)
	return gone
}

func errFilesGone(w mesh.Workspace, n mesh.Node) *mesh.Error {
	return mesh.Errorf(mesh.CodeInternal, "the files of workspace %s were removed on node %s behind its back; "+
		"put its directory back and restart the node, or give them up with: wsmesh workspace rm %s", w, n, w)
}

func (w *workspace) info(context.Context, *mesh.Request) (*mesh.Reply, error) {
	w.execMu.Lock()
	running := len(w.execs)
	w.execMu.Unlock()
	return &mesh.Reply{Args: mesh.InfoReply{
		Workspace: w.name, Node: w.node.cfg.Name, Epoch: mesh.Epoch(w.epoch.Load()),
		JournalSeq: w.journal.last.Load(), Isolation: w.node.runner.Level().Driver, Execs: running,
	}}, nil
}
