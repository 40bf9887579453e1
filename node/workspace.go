package node

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/sandbox"
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
	fenced   objstore.StoredRecord // the open record of this tenure
	ahead    []readRecord          // records before it that were read; until they are applied
	copied   *copying              // what was copied ahead of it, up to the record before it; nil: nothing that helps
	tree     *sandbox.Tree
	files    *fileState  // of the tree; nil where there is none
	damage   *mesh.Error // why there is no tree although there should be one; nil otherwise
	broken   bool        // the damage is one of the journal or of content
	home     mesh.Node   // has the files, which this one has not; "" otherwise
	sub      *nats.Subscription

	reading  sync.Mutex // held while settings are read
	settings atomic.Pointer[mesh.Settings]

	generation atomic.Uint64 // of the tenant; 0 until its record was read

	epoch     atomic.Uint64 // 0 until taken
	readable  atomic.Bool   // requests that read are answered
	serving   atomic.Bool   // all requests are
	releasing atomic.Bool   // the next change of the owner record is our own

	early   *viewAt       // answers reads until whole is closed; nil: nothing does
	whole   chan struct{} // closed when the files are there, or damage is set
	opened  chan struct{} // closed when requests are answered or opening has failed; openErr is set before
	openErr error
	stopped chan struct{} // closed by stop; verdict is set before
	verdict *mesh.Error
	stopOne sync.Once
	done    chan struct{} // closed when nothing of the tenure runs any more

	changes    context.Context // of changes of the tree; ends with the tenure
	endChanges context.CancelFunc
	tenure     context.Context    // of captures and checkpoints; ends after what the end of the tenure has to do
	endTenure  context.CancelFunc //
	endOpening context.CancelFunc // gives up what is being restored
	restoring  context.Context    //
	background sync.WaitGroup     // what tenure bounds

	gate    sync.RWMutex // an answer holds it for reading; closing takes it for writing
	closed  bool         // under gate
	locks   pathLocks    // of changes of the tree
	once    sync.Mutex   // guards working, and the step from there to answers
	working map[string]*answer
	answers *lru.Cache[string, *answer]

	began     time.Time
	used      atomic.Int64              // when it was last, in nanoseconds since 1970
	fate      atomic.Int32              // how it ends: undecided, or the first of removing and finishing
	heir      atomic.Pointer[mesh.Node] // who gets the workspace next; nil: whoever is asked for it
	execMu    sync.Mutex
	leaving   bool // no command begins any more
	execs     map[mesh.ExecID]*run
	endless   []mesh.ExecID // ended here, but their final frame could not be stored
	execDone  sync.WaitGroup
	downloads downloads
	found     foundCommits
	long      longWork
	disk      disk
}

func newWorkspace(n *Node, k key) *workspace {
	answers, _ := lru.New[string, *answer](DefaultAnswers) // fails for a size below 1 only
	changes, endChanges := context.WithCancel(context.Background())
	tenure, endTenure := context.WithCancel(context.Background())
	restoring, endOpening := context.WithCancel(tenure)
	w := &workspace{
		tenure: tenure, endTenure: endTenure, restoring: restoring, endOpening: endOpening,
		changes: changes, endChanges: endChanges, working: map[string]*answer{},
		node: n, tenant: k.tenant, name: k.workspace, began: time.Now(),
		log:     n.log.With("tenant", string(k.tenant), "workspace", string(k.workspace)),
		whole:   make(chan struct{}),
		opened:  make(chan struct{}),
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
		answers: answers,
		execs:   map[mesh.ExecID]*run{},
	}
	w.disk.workspace = w
	return w
}

// How a workspace ends that this node still owns.
const (
	undecided = iota
	removing  // its journal ends with the deleted record, which nothing may follow
	finishing // what is not in a commit is put into one
)

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
	defer w.endTenure()
	defer w.endChanges()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.open(ctx, after); err != nil {
		w.closeTree()
		if w.early == nil {
			if w.openErr = err; mesh.CodeOf(err) == mesh.CodeDeadline {
				w.openErr = unavailable(err) // nothing was done for who asked
			}
			close(w.opened)
		}
		return
	}
	var sequencer sync.WaitGroup
	sequencer.Go(func() {
		if err := w.journal.run(ctx); err != nil {
			w.stop(mesh.AsError(err))
		}
	})
	sequencer.Go(func() { w.disk.run(ctx) })
	w.serve(ctx)
	if w.early == nil {
		close(w.opened)
	}

	<-w.stopped
	w.serving.Store(false)
	w.readable.Store(false)
	w.quiesce(w.verdict)
	owns := w.verdict.Code != mesh.CodeStale && w.verdict.Code != mesh.CodeLost
	if w.files != nil && owns && w.fate.CompareAndSwap(undecided, finishing) {
		w.files.finish()
	}
	w.endTenure()
	w.background.Wait()
	cancel()
	sequencer.Wait()
	w.downloads.close()
	w.closeTree()
	epoch := w.epoch.Load()
	if !owns {
		w.log.Warn("stepped down", "epoch", epoch, "err", w.verdict)
		return
	}
	w.release()
	if w.files != nil && w.files.whole {
		if err := w.files.save(); err != nil {
			w.log.Info("the local tree will not be used again", "err", err)
		}
	}
	w.log.Info("workspace closed", "epoch", epoch)
}

// open takes the workspace, fences out who had it before, and makes its files what
// the journal says, which takes as long as it takes.
func (w *workspace) open(ctx context.Context, after mesh.Epoch) error {
	taking, cancel := context.WithTimeout(ctx, 2*mesh.DefaultSettle)
	defer cancel()
	if err := w.take(taking, after); err != nil {
		return err
	}
	stopped := make(chan struct{})
	defer close(stopped)
	go func() { // ends with open
		select {
		case <-w.stopped:
			w.endOpening()
		case <-stopped:
		}
	}()
	err := w.restore(w.restoring)
	if err == nil {
		err = w.markServed(w.restoring)
	}
	if err != nil {
		if w.early != nil {
			w.stop(mesh.AsError(err))
			w.quiesce(w.verdict)
		}
		w.release()
	}
	return err
}

// readEarly lets reads of a fork come in before its tree is there, where that is what a
// commit says: they are answered from that one. Nobody else can change it, since the journal is
// fenced; all else waits until the tree is whole.
func (w *workspace) readEarly(ctx context.Context, p *past) {
	changed := slices.ContainsFunc(p.records, func(r *objstore.StoredRecord) bool {
		return slices.ContainsFunc(r.Ops, func(op objstore.Op) bool { return op.Changes() })
	})
	if w.record.Origin == nil || p.commit == nil || changed {
		return
	}
	view, err := w.node.view(ctx, &w.record, p.ref)
	if err == nil {
		err = w.subscribe(ctx)
	}
	if err != nil {
		w.log.Debug("nothing is read before all is restored", "err", err)
		return
	}
	w.early = view
	w.use()
	w.readable.Store(true)
	close(w.opened)
}

// subscribe lets requests come in; what they ask is answer's to say.
func (w *workspace) subscribe(ctx context.Context) (err error) {
	w.sub, err = w.node.door.Subscribe(context.WithoutCancel(ctx), mesh.OwnerWildcard(w.tenant, w.name, mesh.Epoch(w.epoch.Load())), "", w.answer)
	return err
}

// markServed notes, once in the workspace's life, that the journal says what the files
// are, before anything is acknowledged that only the journal has. The open record that
// says it is stored: a crash between the two leaves a journal that is not empty, and
// the next opener sets the mark.
func (w *workspace) markServed(ctx context.Context) error {
	if w.record.Served || w.files == nil || w.files.adopted {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*mesh.DefaultSettle)
	defer cancel()
	if err := w.node.kv.Workspaces.MarkServed(ctx, w.tenant, w.name, w.record.ID); err != nil {
		return err
	}
	w.record.Served = true
	return nil
}

// serve lets requests come in.
func (w *workspace) serve(ctx context.Context) {
	var err error
	if w.sub == nil {
		err = w.subscribe(ctx)
	}
	if err != nil {
		w.log.Warn("workspace not served", "err", err)
		why := mesh.Errorf(mesh.CodeUnavailable, "node %s cannot be reached through NATS now; try again", w.node.cfg.Name)
		w.openErr = why
		w.stop(why)
		return
	}
	if w.files != nil {
		w.files.begin()
	}
	w.use()
	close(w.whole)
	w.readable.Store(true)
	w.serving.Store(true)
	w.log.Info("workspace open", "epoch", w.epoch.Load(), "dur", time.Since(w.began))
}

func (w *workspace) closeTree() {
	w.files.close()
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
	w.readable.Store(false)
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

// drain gives the workspace up once its commands have ended, or the grace has. Until
// then everything but a new command is answered as ever; that one waits, at its caller,
// for the next owner. What is being answered in the end is done to its end.
func (w *workspace) drain(grace time.Duration, why *mesh.Error) {
	w.endOpening()
	<-w.opened
	if w.openErr != nil {
		<-w.done
		return
	}
	end := time.After(grace)
	idle := make(chan struct{})
	go func() { // ends with the last command and answer, at the latest when quiesce has ended them
		defer close(idle)
		w.execMu.Lock()
		w.leaving = true
		w.execMu.Unlock()
		w.execDone.Wait()
		w.gate.Lock()
		w.closed = true
		w.gate.Unlock()
	}()
	select {
	case <-idle:
	case <-end:
	case <-w.stopped:
	}
	w.stop(why)
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
	if w.closed || w.ends() {
		return nil, errNotOwner
	}
	w.use()
	defer w.use() // it may have taken long
	v, known := verbs[req.Verb]
	if !known {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "unknown verb %.40q of a workspace", req.Verb)
	}
	select {
	case <-w.whole:
	default:
		if v.early != nil && !req.Consistent() {
			return v.early(w.early, ctx, req)
		}
		if err := w.awaitWhole(ctx); err != nil {
			return nil, err
		}
	}
	switch {
	case w.damage != nil && v.files:
		return nil, w.damage
	case v.change != nil:
		return w.onceOnly(ctx, req, v)
	case req.Consistent():
		if _, err := w.journal.append(ctx, nil, nil); err != nil {
			return nil, w.certain(err)
		}
	}
	return w.do(ctx, req, v)
}

// certain is why a reading could not be confirmed: it changed nothing, so nothing of it
// is unknown.
func (w *workspace) certain(err error) error {
	if mesh.CodeOf(err) == mesh.CodeLost {
		return errNotOwner
	}
	return err
}

// awaitWhole waits until the tree is there; CodeBusy where that takes longer than a
// request may wait.
func (w *workspace) awaitWhole(ctx context.Context) error {
	timer := time.NewTimer(longPoll)
	defer timer.Stop()
	select {
	case <-w.whole:
		return nil
	case <-w.stopped:
		return errNotOwner
	case <-ctx.Done():
	case <-timer.C:
	}
	return mesh.Errorf(mesh.CodeBusy, "the files of workspace %s are being restored on node %s; they can be read till then", w.name, w.node.cfg.Name)
}

func (w *workspace) do(ctx context.Context, req *mesh.Request, v verb) (*mesh.Reply, error) {
	reply, err := v.do(w, ctx, req)
	return reply, w.checked(err)
}

// verb is what the owner of a workspace does for one request.
type verb struct {
	do     func(*workspace, context.Context, *mesh.Request) (*mesh.Reply, error)
	change func(*task) (*mesh.Reply, error)                                   // instead of do: changes the tree, and is done once for any number of repeats
	files  bool                                                               // needs the tree
	grows  bool                                                               // adds to it
	early  func(*viewAt, context.Context, *mesh.Request) (*mesh.Reply, error) // answers while the tree is being restored; nil: it waits
}

// verbs are the owner verbs. exec, signal and stdin have rules of their own for
// repeats: an exec id starts once, whoever asks.
var verbs = map[string]verb{
	mesh.VerbStat:     {do: (*workspace).stat, files: true, early: early((*viewAt).stat)},
	mesh.VerbList:     {do: (*workspace).list, files: true, early: early((*viewAt).list)},
	mesh.VerbRead:     {do: (*workspace).read, files: true, early: early((*viewAt).read)},
	mesh.VerbReadlink: {do: (*workspace).readlink, files: true, early: early((*viewAt).readlink)},
	mesh.VerbSearch:   {do: (*workspace).search, files: true},
	mesh.VerbGrep:     {do: (*workspace).grep, files: true},
	mesh.VerbDownload: {do: (*workspace).download, files: true},
	mesh.VerbWrite:    {change: (*task).write, files: true, grows: true},
	mesh.VerbEdit:     {change: (*task).edit, files: true},
	mesh.VerbMkdir:    {change: (*task).mkdir, files: true, grows: true},
	mesh.VerbRemove:   {change: (*task).remove, files: true},
	mesh.VerbRename:   {change: (*task).rename, files: true},
	mesh.VerbCopy:     {change: (*task).copy, files: true, grows: true},
	mesh.VerbChmod:    {change: (*task).chmod, files: true},
	mesh.VerbSymlink:  {change: (*task).symlink, files: true, grows: true},
	mesh.VerbTouch:    {change: (*task).touch, files: true},
	mesh.VerbUpload:   {change: (*task).upload, files: true, grows: true},
	mesh.VerbExec:     {do: (*workspace).exec, files: true},
	mesh.VerbSignal:   {do: (*workspace).signal},
	mesh.VerbStdin:    {do: (*workspace).stdin},
	mesh.VerbResize:   {do: (*workspace).resize},
	mesh.VerbPs:       {do: (*workspace).ps},
	mesh.VerbInfo:     {do: (*workspace).info},
	mesh.VerbHistory:  {do: (*workspace).history},
	mesh.VerbVerify:   {do: (*workspace).verify},
	mesh.VerbRecover:  {do: (*workspace).recoverWorkspace},
	mesh.VerbCommit:   {do: (*workspace).commit, files: true},
	mesh.VerbRestore:  {do: (*workspace).putBack, files: true},
	mesh.VerbSnapshot: {change: (*task).snapshot, files: true},
}

var errNotOwner = mesh.Errorf(mesh.CodeStale, "this node no longer owns the workspace")

// checked is the outcome of a verb, unless the files themselves are gone: then
// neither "not found" nor an empty directory is the truth about them.
func (w *workspace) checked(err error) error {
	if w.tree == nil || !w.tree.Gone() {
		return err
	}
	w.log.Error("the workspace's directory was removed on the host", "dir", w.dir())
	gone := errFilesGone(w.name, w.node.cfg.Name)
	if w.record.Dir == "" {
		gone = mesh.Errorf(mesh.CodeUnavailable, "the files of workspace %s were removed on node %s behind its back; they are being restored, try again", w.name, w.node.cfg.Name)
	}
	w.stop(gone)
	return gone
}

// ends says that stop was called: what is asked now is for the next tenure, which may
// have what this one has not.
func (w *workspace) ends() bool {
	select {
	case <-w.stopped:
		return true
	default:
		return false
	}
}

// damaged says that the tenure ends because there are no files.
func (w *workspace) damaged() bool {
	return w.ends() && (w.tree == nil || w.tree.Gone())
}

func errFilesGone(w mesh.Workspace, n mesh.Node) *mesh.Error {
	return mesh.Errorf(mesh.CodeInternal, "the files of workspace %s were removed on node %s behind its back; "+
		"put its directory back and restart the node, or give them up with: wsmesh workspace rm %s", w, n, w)
}

func (w *workspace) info(context.Context, *mesh.Request) (*mesh.Reply, error) {
	w.execMu.Lock()
	running := len(w.execs)
	w.execMu.Unlock()
	p, err := w.policy("")
	if err != nil {
		return nil, err
	}
	info := mesh.InfoReply{
		Workspace: w.name, Node: w.node.cfg.Name, Epoch: mesh.Epoch(w.epoch.Load()),
		Origin: originOf(&w.record), JournalSeq: w.journal.last.Load(), Isolation: w.node.runner.Level().Driver, Execs: running, Net: p.String(), Settings: *w.settings.Load(),
	}
	if w.files != nil {
		w.files.describe(&info)
	}
	return &mesh.Reply{Args: info}, nil
}
