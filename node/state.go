package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
	"github.com/wsmesh/wsmesh/sandbox"
)

// DefaultMaxFiles is how many names one workspace may have: a node holds about
// 400 bytes for each while the workspace is open.
const DefaultMaxFiles = 500_000

// DefaultHistory is how many changes, the newest, history has of what lies between
// two commits: a commit takes some 100 bytes for each.
const DefaultHistory = 10_000

// Ephemeral are the directories, at any depth, whose content commands can make
// again: what they change there is not captured, and gone once the tree is restored, on
// another node or after a crash on this one.
var Ephemeral = []string{".cache/", ".npm/", ".cargo/registry/", "go/pkg/mod/"}

// isEphemeral reports whether dir is one of Ephemeral or of the workspace's own; what is
// below it is not asked for.
func (f *fileState) isEphemeral(dir string) bool {
	is := func(e string) bool { return dir == e || strings.HasSuffix(dir, "/"+e) }
	for _, e := range Ephemeral {
		if is(strings.TrimSuffix(e, "/")) {
			return true
		}
	}
	return slices.ContainsFunc(f.w.settings.Load().Ephemeral, func(e mesh.Path) bool { return is(string(e)) })
}

// fileState is a workspace's tree between its journal and the disk: what the
// journal says, what a command changed that it does not say yet (capture), and
// what of it is in a commit (checkpoint).
type fileState struct {
	w       *workspace
	ledger  *dirtree.Ledger
	dir     *dirtree.Dir
	watch   *dirtree.Watch // hears what changes in it; nil: nobody does, and captures look at all of it
	whole   bool           // at the end of the tenure: the tree is what the journal says
	adopted bool           // what is on the disk is the truth, and the journal does not say it yet

	mu        sync.Mutex // guards what follows; held with every record that is applied
	place     objstore.Place
	inline    map[objstore.ID]inlined // content that only records have
	recent    map[objstore.ID]uint64  // packs that records name which are in no commit, with the last one's sequence
	commit    objstore.Ref            // the last one
	committed []objstore.ID           // its packs
	covers    objstore.Place          // the last record in that commit
	made      time.Time               // when that commit was made
	ops       int                     // of files, since the commit
	bytes     int                     // of them
	changed   time.Time               // of the last op
	answers   []objstore.Answer
	answered  int                 // bytes of the answers
	oldest    time.Time           // when the first op came that is in no commit
	failure   error               // of the last checkpoint; nil where it was made
	history   []mesh.HistoryEntry // since the commit, the newest
	changes   uint64              // how many there were

	due      chan struct{} // a checkpoint may be due
	one      sync.Mutex    // held by a checkpoint
	captures captures
	captured time.Time // when a capture last ended; under mu

	renames atomic.Uint64 // that requests have begun; what goes along with a directory a scan may meet nowhere
	renamed atomic.Uint64 // how many of those are over

	live    atomic.Int64  // processes that may write
	begun   atomic.Uint64 // how many there were
	settled atomic.Uint64 // how many of those had ended before a capture that has all that they wrote
}

// inlined is content that came in a record.
type inlined struct {
	data     []byte
	sequence uint64 // of the last record with it
}

func newFileState(w *workspace) *fileState {
	return &fileState{
		w: w, ledger: dirtree.NewLedger(), inline: map[objstore.ID]inlined{}, recent: map[objstore.ID]uint64{},
		due: make(chan struct{}, 1),
	}
}

// apply takes a record that is stored, in the order of the chain. The sequencer
// calls it before anybody hears that the record is stored.
func (f *fileState) apply(r *objstore.StoredRecord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.place = r.Place()
	for i := range r.Ops {
		op := &r.Ops[i]
		if !op.Changes() {
			continue
		}
		f.ledger.Apply(op, r.Time)
		f.keep(op, r.Sequence)
		if f.ops == 0 {
			f.oldest = r.Time
		}
		f.ops++
		f.bytes += op.Size()
		f.changed = time.Now()
	}
	news := r.HistoryOf()
	f.history = append(f.history, news...)
	f.changes += uint64(len(news))
	if n := len(f.history); n > 2*DefaultHistory {
		f.history = slices.Clone(f.history[n-DefaultHistory:])
	}
	f.answer(r.Answers, r.Time)
	if f.ops >= checkpointOps || int64(f.bytes) >= min(checkpointBytes, f.w.node.cfg.MaxTail) || f.records() >= checkpointRecords {
		select {
		case f.due <- struct{}{}:
		default:
		}
	}
}

// records is how many records are in no commit; f.mu is held.
func (f *fileState) records() uint64 { return f.place.Number - f.covers.Number }

// keep remembers where the content of an op is.
func (f *fileState) keep(op *objstore.Op, sequence uint64) {
	for _, id := range op.Packs {
		f.recent[id] = sequence
	}
	if len(op.Data) > 0 {
		f.inline[op.Entry.Content[0].ID] = inlined{op.Data, sequence}
	}
}

// packs are those that the last commit and the records since refer to; f.mu is
// held.
func (f *fileState) packs() []objstore.ID {
	return append(slices.Collect(maps.Keys(f.recent)), f.committed...)
}

// maxAnswerBytes bounds the answers that a commit carries.
const maxAnswerBytes = 1 << 20

// answer keeps the answers of the last DefaultAnswerAge, the newest that fit.
func (f *fileState) answer(news []objstore.Answer, now time.Time) {
	size := func(a *objstore.Answer) int { return 64 + len(a.ID) + len(a.Body) }
	for i := range news {
		f.answered += size(&news[i])
	}
	f.answers = append(f.answers, news...)
	for len(f.answers) > 0 && (f.answered > maxAnswerBytes || now.Sub(f.answers[0].Time) > DefaultAnswerAge) {
		f.answered -= size(&f.answers[0])
		f.answers = f.answers[1:]
	}
}

// knows reports whether the journal has a path as it is on the disk now. What it
// does not know a command has made or changed, and what such a one did below a
// directory is found where the directory is then.
func (f *fileState) knows(p string) bool {
	if f.w.record.Dir != "" {
		return false
	}
	st, err := f.dir.Stat(p)
	if err != nil {
		return false
	}
	e, ok := f.ledger.Entry(p)
	return ok && (f.ledger.Knows(p, st) || e.Type == objstore.TypeDir && st.IsDir())
}

// done notes that the disk has followed the record of a change, which is applied:
// what it changed is what the journal says. A directory that a name came into or
// went from gets the time of the record, on the disk as in the ledger.
func (f *fileState) done(c *sandbox.Change) {
	if f.w.record.Dir != "" {
		return // never captured, never trusted
	}
	f.see(true, c.Missing...)
	f.see(c.Kind == sandbox.ChangePut && c.LinkTo == "", pathsOf(c)...)
	if c.Kind == sandbox.ChangeAttr || c.Kind == sandbox.ChangeNone {
		return
	}
	for _, p := range append(pathsOf(c), c.Missing...) {
		dir := path.Dir(p)
		if e, ok := f.ledger.Entry(dir); ok && e.Type == objstore.TypeDir && p != "." {
			if err := f.dir.SetTime(dir, e.ModTime); err != nil {
				f.w.log.Debug("time of a directory not set", "err", err)
			}
			f.see(false, dir)
		}
	}
}

// see notes how paths are described now; written: their content is what was just
// recorded, and not what somebody may have stored to through memory meanwhile.
func (f *fileState) see(written bool, paths ...string) {
	var number uint64
	if f.live.Load() > 0 {
		number = f.captures.number.Load()
	}
	for _, p := range paths {
		switch st, err := f.dir.Stat(p); {
		case err != nil:
		case written:
			f.ledger.Seen(p, st, 0)
		default:
			f.ledger.Moved(p, st, number)
		}
	}
}

// describe says how far the files are kept.
func (f *fileState) describe(info *mesh.InfoReply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info.Capture, info.Lag = mesh.CaptureNone, f.ops
	if f.w.record.Dir == "" {
		info.Capture = mesh.CaptureScan
		if f.watch != nil {
			info.Capture = mesh.CaptureFanotify
		}
		for _, e := range Ephemeral {
			info.Ephemeral = append(info.Ephemeral, mesh.Path(e))
		}
		for _, e := range f.w.settings.Load().Ephemeral {
			info.Ephemeral = append(info.Ephemeral, e+"/")
		}
	}
	if f.failure != nil {
		info.CommitError = mesh.AsError(f.failure).Text
	}
	if !f.commit.IsZero() {
		made := f.made.UTC()
		info.Commit, info.Committed = f.commit.Commit.String(), &made
	}
	if !f.captured.IsZero() {
		at := f.captured.UTC()
		info.Captured = &at
	}
}

// close gives the directory back.
func (f *fileState) close() {
	if f == nil {
		return
	}
	f.watch.Close()
	if f.dir == nil {
		return
	}
	if err := f.dir.Close(); err != nil {
		f.w.log.Debug("close the tree", "err", err)
	}
}

// openDir opens the workspace's directory for scans.
func (f *fileState) openDir(dir string) error {
	d, err := dirtree.Open(dir)
	if err != nil {
		return f.w.hostError("open the workspace's directory", err)
	}
	d.Note = func(p, what string) { f.w.log.Debug("not captured", "path", p, "why", what) }
	f.dir = d
	return nil
}

// base returns a reader of what the workspace's commit and the records since refer
// to.
func (f *fileState) base(ctx context.Context) (*objstore.Store, *objstore.Reader, error) {
	s, err := f.w.content(ctx)
	if err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	packs := f.packs()
	f.mu.Unlock()
	r, err := s.Reader(ctx, packs...)
	return s, r, err
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Sprint("unknown ", time.Now().UnixNano()) // trusts nothing
	}
	return strings.TrimSpace(string(b))
}
