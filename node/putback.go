package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
	"github.com/wsmesh/wsmesh/objstore/treefs"
	"github.com/wsmesh/wsmesh/sandbox"
)

const (
	// putBackWorkers is how many files are put back at a time: their records go together.
	putBackWorkers = 16
	// putBackPasses is how often what is still another one is looked for, because
	// somebody has changed it meanwhile.
	putBackPasses = 3
	// putBackBusy is how long one change may wait for the workspace to take changes.
	putBackBusy = time.Minute
)

// putBack makes the files what they were. It is long work, and done once: a repeat waits
// for it, or finds the answer in the journal. An owner that gets a repeat of what another
// one has begun finds the safety snapshot by the Mesh-Id, and does what is left.
func (w *workspace) putBack(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.RestoreRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if err := wholeOnly(req, "restore"); err != nil {
		return nil, err
	}
	key := answerKey(req)
	w.once.Lock()
	given, repeat := w.answers.Get(key)
	w.once.Unlock()
	if repeat && key != "" {
		return given.reply, given.err
	}
	run, done, err := w.long.join(ctx, w, req, func(ctx context.Context, run *longRun) (any, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(w.changes, cancel)()
		r := &putBack{task: task{workspace: w, ctx: ctx, req: req, key: key}, run: run}
		return r.do(ctx, &a)
	})
	if err != nil {
		return nil, err
	}
	if !done {
		return &mesh.Reply{Args: mesh.RestoreReply{Changed: run.read.Load()}}, nil
	}
	return &mesh.Reply{Args: run.reply}, nil
}

// putBack is one restore.
type putBack struct {
	task
	run   *longRun
	paths []string // what is restored, with all below
	then  *viewAt  // what it becomes
	now   *viewAt  // what it is, as of the pass
	dir   *dirtree.Dir

	mu      sync.Mutex
	touched map[string]bool // directories that names came into or went from
	failed  error           // the first thing that somebody's change was in the way of
}

func (r *putBack) do(ctx context.Context, a *mesh.RestoreRequest) (any, error) {
	_, ref, err := r.node.find(ctx, &r.record, a.At)
	if err != nil {
		return nil, err
	}
	if r.then, err = r.node.view(ctx, &r.record, ref); err != nil {
		return nil, err
	}
	before, err := r.safety(ctx, a.At)
	if err != nil {
		return nil, err
	}
	if err := r.choose(ctx, a.Paths); err != nil {
		return nil, err
	}
	root, _ := r.tree.Dirs()
	if r.dir, err = dirtree.Open(root); err != nil {
		return nil, err
	}
	defer r.dir.Close()
	for range putBackPasses {
		if err := r.pass(ctx); err != nil || r.failed == nil {
			r.failed = err
			break
		}
	}
	if r.failed != nil {
		return nil, mesh.About(fmt.Sprintf("restored in part; what was before is snapshot %s", before), r.public(r.failed))
	}
	reply := mesh.RestoreReply{Done: true, Changed: r.run.read.Load(), Commit: ref.Commit.String(), Before: before}
	return reply, r.remembered(ctx, reply)
}

// safety makes a snapshot of the present, once for all owners that work on the request.
func (r *putBack) safety(ctx context.Context, at string) (mesh.Snapshot, error) {
	all, err := r.node.kv.Snapshots.List(ctx, r.tenant, r.name, r.record.ID)
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(all, func(s kv.SnapshotRecord) bool { return r.key != "" && s.Request == r.key }); i >= 0 {
		return all[i].Name, nil
	}
	of := strings.ToLower(at[:min(len(at), 12)])
	if mesh.CheckName("snapshot", of) != nil {
		of = "time"
	}
	for {
		name := mesh.Snapshot(fmt.Sprintf("before-%s-%s", of, time.Now().UTC().Format("060102-150405")))
		s, err := r.nameState(ctx, kv.SnapshotRecord{Name: name, Message: "before restore of " + at[:min(len(at), 200)], Request: r.key})
		if mesh.CodeOf(err) != mesh.CodeExists || err == nil {
			return s.Name, err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond): // the next second has a name that is free
		}
	}
}

// choose takes the paths that are asked for, none of which is below another.
func (r *putBack) choose(ctx context.Context, paths []mesh.Path) error {
	for _, p := range paths {
		clean, err := mesh.ResolvePath(".", string(p))
		if err != nil {
			return err
		}
		e, err := r.then.Entry(ctx, clean)
		if err != nil {
			return err
		}
		if _, here := r.files.ledger.Entry(clean); e == nil && !here {
			return mesh.Errorf(mesh.CodeNotFound, "%.200q is neither in the workspace nor in what is restored", p)
		}
		r.paths = append(r.paths, clean)
	}
	slices.Sort(r.paths)
	r.paths = slices.DeleteFunc(slices.Compact(r.paths), func(p string) bool {
		return slices.ContainsFunc(r.paths, func(q string) bool { return q != p && mesh.Inside(q, p) })
	})
	if len(r.paths) == 0 {
		r.paths = []string{"."}
	}
	return nil
}

func (r *putBack) chosen(p string) bool {
	return slices.ContainsFunc(r.paths, func(q string) bool { return mesh.Inside(q, p) })
}

// plan is what one pass does, in this order.
type plan struct {
	remove []string                   // with all below
	dirs   []string                   // to make, those above first
	files  []put                      // to make or replace
	links  []link                     // further names, behind their files
	attrs  []objstore.Item            // of files whose content is the same
	after  map[string]*objstore.Entry // directories, which get their attributes last
}

type put struct {
	path  string
	entry *objstore.Entry
}

type link struct{ from, path string }

// pass commits the present, finds what is another one, and puts that back. What somebody
// was in the way of stands in failed.
func (r *putBack) pass(ctx context.Context) error {
	r.touched, r.failed = map[string]bool{}, nil
	ref, _, err := r.files.present(ctx, "restore")
	if err != nil {
		return err
	}
	if r.now, err = r.node.view(ctx, &r.record, ref); err != nil {
		return err
	}
	p, err := r.plan(ctx)
	if err != nil {
		return err
	}
	view := r.tree.View(".").Gated(r.each)
	for _, gone := range p.remove {
		if err := r.step(ctx, gone, func() error { return view.Remove(gone, true, "") }); err != nil {
			return err
		}
	}
	for _, dir := range p.dirs {
		if err := r.step(ctx, dir, func() error { return view.Mkdir(dir, 0o700, true) }); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(putBackWorkers)
	for _, f := range p.files {
		g.Go(func() error {
			return r.step(gctx, f.path, func() error { return r.file(gctx, view, f) })
		})
	}
	for _, it := range p.attrs {
		g.Go(func() error {
			return r.step(gctx, it.Path, func() error { return r.attributes(gctx, it.Path, &it.Entry) })
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, l := range p.links {
		if err := r.step(ctx, l.path, func() error { return view.Link(l.from, l.path) }); err != nil {
			return err
		}
	}
	return r.directories(ctx, p)
}

// errSame says that there was nothing to do.
var errSame = errors.New("it is so already")

// step does one change, again while the workspace takes none. What others have changed in
// between is left to the next pass.
func (r *putBack) step(ctx context.Context, p string, change func() error) error {
	until := time.Now().Add(putBackBusy)
	for {
		err := change()
		switch code := mesh.CodeOf(err); {
		case errors.Is(err, errSame):
			return nil
		case err == nil:
			r.run.read.Add(1)
			r.mu.Lock()
			r.touched[path.Dir(p)] = true
			r.mu.Unlock()
			return nil
		case code == mesh.CodeBusy && ctx.Err() == nil && time.Now().Before(until):
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		case isUnsteady(code):
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.failed == nil {
				r.failed = mesh.About(fmt.Sprintf("%.200q", p), err)
			}
			return nil
		default:
			return err
		}
	}
}

// plan finds what is to be done. Of files with several names all that are chosen are put
// back together where one of them is another one, or has other names.
func (r *putBack) plan(ctx context.Context) (*plan, error) {
	p := &plan{after: map[string]*objstore.Entry{}}
	then, err := groupsOf(ctx, r.then)
	if err != nil {
		return nil, err
	}
	now, err := groupsOf(ctx, r.now)
	if err != nil {
		return nil, err
	}
	stale := map[string]bool{} // first names of files that are put back with all their names
	for _, below := range r.paths {
		for x, err := range treefs.Compare(ctx, r.now.View, r.then.View, below, "") {
			if err != nil {
				return nil, err
			}
			r.difference(p, x, then, stale)
		}
	}
	for first, names := range then.names {
		if !slices.Equal(r.only(names), r.only(now.names[now.first[first]])) {
			stale[first] = true
		}
	}
	for name := range now.first { // what has several names now, and had one
		if _, several := then.first[name]; several || !r.chosen(name) {
			continue
		}
		e, err := r.then.Entry(ctx, name)
		if err != nil {
			return nil, err
		}
		if e != nil && e.Type == objstore.TypeFile {
			stale[name] = true
		}
	}
	p.files = slices.DeleteFunc(p.files, func(f put) bool { return stale[f.path] })
	for _, first := range slices.Sorted(maps.Keys(stale)) {
		if err := r.group(ctx, p, first, then.names[first]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(p.attrs, func(a, b objstore.Item) int { return strings.Compare(a.Path, b.Path) })
	p.attrs = slices.DeleteFunc(p.attrs, func(it objstore.Item) bool { return stale[it.Path] })
	return p, nil
}

// groups are the files with several names.
type groups struct {
	names map[string][]string // all, by the first one
	first map[string]string   // the first one, by each
}

func groupsOf(ctx context.Context, v *viewAt) (g groups, err error) {
	g.first = map[string]string{}
	if g.names, err = v.Names(ctx); err != nil {
		return g, err
	}
	for first, all := range g.names {
		slices.Sort(all)
		for _, name := range all {
			g.first[name] = first
		}
	}
	return g, nil
}

// only are the names that are chosen; nil for none.
func (r *putBack) only(all []string) (chosen []string) {
	for _, name := range all {
		if r.chosen(name) {
			chosen = append(chosen, name)
		}
	}
	return chosen
}

// difference adds what is to be done for one name, but for groups.
func (r *putBack) difference(p *plan, x treefs.Difference, then groups, stale map[string]bool) {
	old, want := x.Old, x.New
	if want == nil || old != nil && (old.Type == objstore.TypeDir) != (want.Type == objstore.TypeDir) {
		if n := len(p.remove); n == 0 || !mesh.Inside(p.remove[n-1], x.Path) {
			p.remove = append(p.remove, x.Path)
		}
		old = nil
	}
	switch {
	case want == nil:
	case want.Type == objstore.TypeDir:
		if old == nil {
			p.dirs = append(p.dirs, x.Path)
		}
		p.after[x.Path] = want
	case want.Type == objstore.TypeLink:
		stale[want.Target] = true
	case then.names[x.Path] != nil:
		stale[x.Path] = true
	case old != nil && old.Type == want.Type && treefs.SameContent(old, want) && slices.Equal(old.Xattrs, want.Xattrs) && want.Type == objstore.TypeFile:
		p.attrs = append(p.attrs, objstore.Item{Path: x.Path, Entry: *want})
	default:
		p.files = append(p.files, put{x.Path, want})
	}
}

// group adds a file with all its names that are chosen.
func (r *putBack) group(ctx context.Context, p *plan, first string, all []string) error {
	e, err := r.then.Entry(ctx, first)
	if err == nil {
		e, err = r.then.File(ctx, e)
	}
	if err != nil || e == nil {
		return err
	}
	if len(all) == 0 {
		all = []string{first}
	}
	for i, name := range r.only(all) {
		if i == 0 {
			p.files = append(p.files, put{name, e})
			first = name
			continue
		}
		p.links = append(p.links, link{first, name})
	}
	return nil
}

// file makes one file, symbolic link or FIFO aside, and puts it in its place.
func (r *putBack) file(ctx context.Context, view *sandbox.View, f put) error {
	if err := r.disk.admit(ctx, f.entry.Size, 0); err != nil {
		return err
	}
	return view.Install(f.path, func(dir, name string) error {
		d, err := dirtree.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		if os.Geteuid() == 0 {
			d.Owner = &dirtree.Owner{UID: r.uid, GID: r.gid}
		}
		one := func(yield func(objstore.Item, error) bool) { yield(objstore.Item{Path: name, Entry: *f.entry}, nil) }
		return d.RestoreItems(ctx, one, r.then.Chunk)
	})
}

// attributes gives a file or directory the attributes that it had.
func (r *putBack) attributes(ctx context.Context, p string, want *objstore.Entry) error {
	unlock, err := r.locks.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	have, ok := r.files.ledger.Entry(p)
	switch {
	case !ok || have.Type != want.Type:
		return mesh.Errorf(mesh.CodeConflict, "it is another one by now")
	case treefs.SameMode(&have, want) && have.ModTime.Equal(want.ModTime):
		return errSame
	}
	op := objstore.Op{Kind: objstore.KindAttr, Path: mesh.Path(p), Mode: &want.Mode, ModTime: &want.ModTime}
	if !slices.Equal(have.Xattrs, want.Xattrs) {
		e := *want
		e.Name, e.Content = "", nil
		op = objstore.Op{Kind: objstore.KindPut, Path: mesh.Path(p), Entry: &e}
	}
	if err := r.task.files.room(); err != nil {
		return err
	}
	rec := &recorder{w: r.workspace, ctx: ctx, verb: r.req.Verb}
	if err := rec.add(op); err != nil {
		return err
	}
	if err := rec.flush(); err != nil {
		return err
	}
	if err := r.dir.SetAttributes(p, want); err != nil {
		t := r.task
		t.unlock, t.key = unlock, ""
		return t.mend(&sandbox.Change{Kind: sandbox.ChangeAttr, Path: p}, err)
	}
	r.files.see(false, p)
	return nil
}

// directories gives those that were made, that differ, and that names came into or went
// from, and those above, their attributes: the innermost first, since each change tells
// the time of the one above.
func (r *putBack) directories(ctx context.Context, p *plan) error {
	dirs := slices.Collect(maps.Keys(r.touched))
	dirs = slices.AppendSeq(dirs, maps.Keys(p.after))
	for _, dir := range dirs {
		for r.chosen(dir) {
			e, err := r.then.Entry(ctx, dir)
			if err != nil {
				return err
			}
			if e != nil && e.Type == objstore.TypeDir {
				p.after[dir] = e
			}
			if dir == "." {
				break
			}
			dir = path.Dir(dir)
		}
	}
	dirs = slices.Collect(maps.Keys(p.after))
	depth := func(dir string) int {
		if dir == "." {
			return -1
		}
		return strings.Count(dir, "/")
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Or(cmp.Compare(depth(b), depth(a)), strings.Compare(a, b)) })
	for _, dir := range dirs {
		if err := r.step(ctx, dir, func() error { return r.attributes(ctx, dir, p.after[dir]) }); err != nil {
			return err
		}
	}
	return nil
}

// remembered puts the answer into the journal, for repeats.
func (r *putBack) remembered(ctx context.Context, reply mesh.RestoreReply) error {
	if r.key == "" {
		return nil
	}
	body, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	a := objstore.Answer{ID: r.key, Time: time.Now().UTC(), Body: string(body)}
	if _, err := r.journal.append(ctx, []objstore.Op{{Kind: objstore.KindRefused}}, &a); err != nil {
		return err
	}
	r.workspace.remember(a)
	return nil
}
