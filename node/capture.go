package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

// Bounds of a capture.
const (
	// captureInline is how many bytes of content one capture puts into records;
	// more goes into packs.
	captureInline = 256 << 10
	// capturePasses is how often a capture looks again for what an operation
	// changed under it: once more, while none may, where one has renamed something
	// the last time. What is left after that is the next one's.
	capturePasses = 3
	// maxCaptureExecs bounds the commands that history names for one capture.
	maxCaptureExecs = 4
	// maxCaptureOp is how large what a record says of one file may be: with the names of
	// the packs that it is in, it fits.
	maxCaptureOp = maxRecord / 3 * 2
)

// beginning is when processes began: what could not be seen to change since is read
// again. The zero value is the begin of the tenure.
type beginning struct {
	captures uint64           // how many had begun
	tick     dirtree.Timespec // of the kernel's clock
}

// never is the beginning of no process.
var never = beginning{captures: math.MaxUint64}

func (b *beginning) include(other beginning) {
	b.captures = min(b.captures, other.captures)
	if t := other.tick; b.tick == (dirtree.Timespec{}) || t != (dirtree.Timespec{}) && (t.Sec < b.tick.Sec || t.Sec == b.tick.Sec && t.Nsec < b.tick.Nsec) {
		b.tick = t
	}
}

// enter notes that a process begins which may write; leave that it is gone.
func (f *fileState) enter() beginning {
	f.begun.Add(1)
	f.live.Add(1)
	return beginning{f.captures.number.Load(), dirtree.Tick()}
}

func (f *fileState) leave() { f.live.Add(-1) }

// capture puts what the command has changed into the journal, before its final
// frame tells that it has ended. Where that fails, the frame tells this instead:
// who reads an exit status can rely on the files.
func (x *run) capture(final *mesh.Final) {
	f := x.workspace.files
	switch x.command.Durability {
	case mesh.DurabilityNone:
		f.captures.owe(x.since)
		return
	case mesh.DurabilityAsync:
		x.workspace.background.Go(func() {
			found, err := f.capture(x.workspace.tenure, x.since, x.command.ID)
			if err = errors.Join(err, x.unkept(&found)); err != nil {
				x.workspace.log.Warn("files not captured", "exec", string(x.command.ID), "err", err)
			}
		})
		return
	}
	began := time.Now()
	found, err := f.capture(x.workspace.tenure, x.since, x.command.ID)
	final.CaptureUS = time.Since(began).Microseconds()
	final.Files, final.Bytes, final.Position = found.files, found.bytes, found.sequence
	if err == nil {
		err = x.unkept(&found)
	}
	if err == nil {
		return
	}
	x.workspace.log.Warn("files not captured", "exec", string(x.command.ID), "err", err)
	if final.ErrorCode == "" {
		final.ErrorCode = mesh.CodeOf(err)
		final.ErrorText = fmt.Sprintf("the command ended with status %d, but what it changed is not stored: %s", final.Code, mesh.AsError(err).Text)
	}
}

// unkept is the error of the first name that is not stored and that the command may have
// changed. What others leave that cannot be stored fails no command: they could not
// even see it.
func (x *run) unkept(found *captured) error {
	for i := range found.unkept {
		u := &found.unkept[i]
		if mesh.Inside(x.command.scope, u.Path) && u.Since(x.since.tick) {
			return mesh.About(fmt.Sprintf("%.200q", mesh.Below(x.command.scope, mesh.Path(u.Path))), u.Why)
		}
	}
	return nil
}

const (
	// DefaultMeanwhile is how often what a command changes is captured while it runs, so
	// that a command that is lost loses little.
	DefaultMeanwhile = 30 * time.Second
	// DefaultQuiet is how long a file is left alone then, since it was written to.
	DefaultQuiet = time.Second
	// meanwhileShare is how much longer than a capture it is at least to the next one.
	meanwhileShare = 20
)

// captureMeanwhile captures from time to time what the command changes, until stop is
// closed. What is found is provisional, and read again at the end. A failure is told by
// the capture there.
func (x *run) captureMeanwhile(stop <-chan struct{}) {
	f, every := x.workspace.files, x.workspace.node.cfg.Meanwhile
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		began := time.Now()
		if _, err := f.captureWith(x.workspace.tenure, never, DefaultQuiet, x.command.ID); err != nil {
			x.workspace.log.Debug("files not captured", "exec", string(x.command.ID), "err", err)
		}
		timer.Reset(max(every, meanwhileShare*time.Since(began)))
	}
}

// captured says what a capture found.
type captured struct {
	files    int
	bytes    int64
	sequence uint64 // of the last record that has it; 0: nothing had changed
	unkept   []dirtree.Unkept
}

// captures are the scans of one workspace. One serves all who asked before it
// began. The zero value works.
type captures struct {
	mu      sync.Mutex
	running bool
	next    *captureRound // asked for and not begun
	owed    *beginning    // of processes whose changes no capture has taken; nil: of none
	number  atomic.Uint64 // of the last that began
}

// owe has the next capture read what processes may have changed that began then.
func (c *captures) owe(since beginning) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owed != nil {
		since.include(*c.owed)
	}
	c.owed = &since
}

type captureRound struct {
	since beginning
	quiet time.Duration // see dirtree.Scan
	execs []mesh.ExecID // that have ended and asked for it
	done  chan struct{}
	found captured
	err   error
}

// capture puts into the journal what commands have changed up to now, and returns
// when that is stored. since is when the caller's commands, execs, began.
func (f *fileState) capture(ctx context.Context, since beginning, execs ...mesh.ExecID) (captured, error) {
	return f.captureWith(ctx, since, 0, execs...)
}

// captureWith is capture that may leave out what has changed less than quiet ago.
func (f *fileState) captureWith(ctx context.Context, since beginning, quiet time.Duration, execs ...mesh.ExecID) (captured, error) {
	c := &f.captures
	c.mu.Lock()
	if c.next == nil {
		c.next = &captureRound{since: since, quiet: quiet, done: make(chan struct{})}
	}
	r := c.next
	r.since.include(since)
	r.quiet = min(r.quiet, quiet)
	if len(r.execs) < maxCaptureExecs {
		r.execs = append(r.execs, execs...)
	}
	if !c.running {
		c.running = true
		f.w.background.Go(f.captureAll)
	}
	c.mu.Unlock()
	select {
	case <-r.done:
		return r.found, r.err
	case <-ctx.Done():
		return captured{}, ctx.Err()
	}
}

// captureAll does the captures that are asked for, one after the other.
func (f *fileState) captureAll() {
	c := &f.captures
	for {
		c.mu.Lock()
		r := c.next
		c.next = nil
		if r == nil {
			c.running = false
			c.mu.Unlock()
			return
		}
		if c.owed != nil {
			r.since.include(*c.owed)
			c.owed = nil
		}
		c.number.Add(1)
		c.mu.Unlock()
		if r.found, r.err = f.captureOnce(f.w.tenure, r); r.err != nil {
			c.owe(r.since)
		}
		close(r.done)
	}
}

func (f *fileState) captureOnce(ctx context.Context, r *captureRound) (sum captured, err error) {
	if f.w.record.Dir != "" {
		return sum, nil // what others have put there is theirs: it must not be read with the node's rights
	}
	if err := f.room(); err != nil {
		return sum, err
	}
	begun := f.begun.Load()
	quiet := f.live.Load() == 0 // before the first look
	moved := false
	for i := range capturePasses + 1 {
		p := &pass{fileState: f, round: r, sum: &sum}
		if i == capturePasses {
			if !moved {
				break
			}
			unlock, err := f.w.locks.lock(ctx, ".") // requests that rename could hide a file from any number of passes
			if err != nil {
				return sum, err
			}
			defer unlock()
			p.locked = true
		}
		again, err := p.run(ctx)
		if err != nil {
			return sum, err
		}
		moved = p.moved
		if !again {
			if quiet {
				f.settled.Store(begun)
			}
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.captured = time.Now()
	return sum, nil
}

// pass is one scan and the records of what it found.
type pass struct {
	*fileState
	round  *captureRound
	sum    *captured
	locked bool // no request changes anything meanwhile
	moved  bool // requests have renamed something meanwhile
}

// run says again where something was changed before it could be admitted, where names
// may have been moved past the scan, and where something was left although no command
// runs.
func (f *pass) run(ctx context.Context) (again bool, err error) {
	r := f.round
	begun, number := f.begun.Load(), f.captures.number.Load() // what this capture has read itself is not read again
	live, renamed, tick := f.live.Load(), f.renamed.Load(), dirtree.Tick()
	store := &captureContent{f: f.fileState}
	dirty := f.watch.Take()
	left := true
	defer func() {
		if left {
			f.watch.Return(dirty)
		}
	}()
	scan := dirtree.Scan{Skip: f.isEphemeral, Since: r.since.captures, Until: number, Tick: r.since.tick, Quiet: r.quiet, MaxOp: maxCaptureOp, Dirty: dirty, Content: store.put, Workers: objstore.DefaultWorkers()}
	tree := f.ledger.Snapshot()
	found, err := f.dir.Changes(ctx, &scan, tree)
	if err != nil {
		return false, err
	}
	busy := live > 0 || f.begun.Load() != begun
	again = busy && (found.Moved || f.watch.Moved())
	changes := found.Changes
	if n := tree.Len() + len(changes); n > DefaultMaxFiles && n-removals(changes) > DefaultMaxFiles {
		return false, mesh.Errorf(mesh.CodeQuota, "the workspace has more than %d files, which is how many are kept; remove some", DefaultMaxFiles)
	}
	var packs []objstore.ID
	if len(changes) > 0 {
		if packs, err = store.flush(ctx); err != nil {
			return false, err
		}
	}
	if !busy && f.begun.Load() == begun {
		number = 0 // nobody could write while it was read
	}
	for i := range changes {
		changes[i].Op.Verb, changes[i].Op.Execs = mesh.VerbExec, r.execs
	}
	for len(changes) > 0 {
		n := fitting(changes, len(packs))
		changed, err := f.admit(ctx, changes[:n], packs, number)
		if err != nil {
			return false, err
		}
		again = again || changed
		changes = changes[n:]
	}
	f.moved = f.renames.Load() != renamed
	again = again || f.moved
	f.sum.unkept = append(f.sum.unkept, found.Unkept...)
	left = again || found.Left > 0 || len(found.Unkept) > 0 // who ends later is told as well
	if !found.Moved && !f.moved && found.Left == 0 {
		r.since.tick = tick // what was read is read again only if it has changed since
	}
	return again || found.Left > 0 && f.live.Load() == 0, nil
}

// removals counts the changes that take names away, of which each takes at least
// one.
func removals(changes []dirtree.Change) int {
	n := 0
	for i := range changes {
		if changes[i].Op.Kind != objstore.KindPut {
			n++ // a change of attributes adds none
		}
		if changes[i].Op.Kind == objstore.KindRemove {
			n++
		}
	}
	return n
}

// fitting is how many of the changes one record takes, with the names of that many
// packs: at least one.
func fitting(changes []dirtree.Change, packs int) int {
	size := 70 * packs
	for i := range changes {
		if size += changes[i].Op.Size(); size > maxRecord && i > 0 || i == maxCaptureBatch {
			return i
		}
	}
	return len(changes)
}

// maxCaptureBatch bounds how long operations wait for one record of a capture.
const maxCaptureBatch = 2000

// admit puts changes into one record, if the disk is still what they say: no
// operation is between journal and disk meanwhile, so what it wrote is not
// journalled again as it was before.
func (f *pass) admit(ctx context.Context, changes []dirtree.Change, packs []objstore.ID, number uint64) (again bool, err error) {
	if !f.locked {
		unlock, err := f.w.locks.lock(ctx, ".")
		if err != nil {
			return false, err
		}
		defer unlock()
	}
	var ops []objstore.Op
	var good []*dirtree.Change
	for i := range changes {
		c := &changes[i]
		if !f.holds(c) {
			again = again || c.Op.Kind != "" || !c.Seen.IsDir() // else there is nothing to read again
			continue
		}
		good = append(good, c)
		if c.Op.Kind != "" {
			ops = append(ops, c.Op)
		}
	}
	if len(ops) > 0 {
		for i := range ops {
			if ops[i].Kind == objstore.KindPut && len(ops[i].Entry.Content) > 0 && len(ops[i].Data) == 0 {
				ops[i].Packs = packs // once a record is enough
				break
			}
		}
		seq, err := f.w.journal.append(ctx, ops, nil)
		if err != nil {
			return false, err
		}
		f.sum.count(ops)
		f.sum.sequence = seq
	}
	for _, c := range good {
		if c.Seen != (dirtree.Stat{}) {
			again = !f.ledger.Seen(string(c.Op.Path), c.Seen, number) || again
		}
	}
	return again, nil
}

// holds reports whether the disk is what a change says.
func (f *fileState) holds(c *dirtree.Change) bool {
	st, err := f.dir.Stat(string(c.Op.Path))
	if c.Op.Kind == objstore.KindRemove {
		return errors.Is(err, fs.ErrNotExist)
	}
	if err != nil || st != c.Seen {
		return false
	}
	if c.Op.Kind != objstore.KindPut || c.Op.Entry.Type != objstore.TypeLink {
		return true
	}
	first, err := f.dir.Stat(c.Op.Entry.Target)
	return err == nil && first == c.Seen
}

// count adds what a record holds: names that came, changed or went, apart from the
// times of directories.
func (s *captured) count(ops []objstore.Op) {
	for i := range ops {
		op := &ops[i]
		if op.Kind == objstore.KindAttr && op.Mode == nil {
			continue
		}
		s.files++
		if op.Kind == objstore.KindPut && op.Entry.Type == objstore.TypeFile {
			s.bytes += op.Entry.DataSize()
		}
	}
}

// captureContent takes the content of changed files: a little into records, the
// rest into packs.
type captureContent struct {
	f      *fileState
	inline atomic.Int64
	once   sync.Once
	writer *objstore.Writer
	err    error
}

func (c *captureContent) put(ctx context.Context, r io.Reader, size int64) ([]objstore.Chunk, []byte, error) {
	if size <= objstore.MaxInline && c.inline.Add(size) <= captureInline {
		data, err := io.ReadAll(r)
		if err != nil || int64(len(data)) != size {
			return nil, nil, errors.Join(err, sizeChanged(int64(len(data)), size))
		}
		return []objstore.Chunk{{ID: objstore.IDOf(data), Size: size}}, data, nil
	}
	c.once.Do(func() {
		var s *objstore.Store
		var base *objstore.Reader
		if s, base, c.err = c.f.base(ctx); c.err == nil {
			c.writer = s.Writer(base)
		}
	})
	if c.err != nil {
		return nil, nil, c.err
	}
	chunks, err := c.writer.Content(ctx, r)
	var sum int64
	for _, c := range chunks {
		sum += c.Size
	}
	return chunks, nil, errors.Join(err, sizeChanged(sum, size))
}

func sizeChanged(got, want int64) error {
	if got == want {
		return nil
	}
	return mesh.Errorf(mesh.CodeConflict, "it changed while it was read: it has %d bytes and had %d", got, want)
}

// flush makes what was taken durable and returns the packs it is in.
func (c *captureContent) flush(ctx context.Context) ([]objstore.ID, error) {
	if c.writer == nil {
		return nil, c.err
	}
	return c.writer.Flush(ctx)
}
