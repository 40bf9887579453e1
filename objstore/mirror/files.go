package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Bounds of the readable copy.
const (
	// MaxHoles is how many bytes of holes a file may have that is in it: there they are
	// zeros, and cost as much as any bytes.
	MaxHoles = 1 << 30
	// MaxExtra is how many bytes it may have more than the files take: of their holes,
	// and of their further names, of which each is a whole file there. A command makes
	// any number of both for nothing.
	MaxExtra = 10 << 30
	// GuardedFiles is how few files may always be removed from it at once. More than
	// these, and more than half of all, are held back until the next commit.
	GuardedFiles = 100
	// filePuts is how many of its objects are written at a time, of up to 8 MiB each in
	// memory, or removed.
	filePuts = 6
)

// Files is how far the readable copy of a workspace is.
type Files struct {
	Format    int          `json:"format"`
	Mesh      string       `json:"mesh"`
	Workspace string       `json:"workspace"` // id of its record
	Sequence  uint64       `json:"sequence"`  // of the head whose files it has; 0: of none
	Ref       objstore.Ref `json:"ref"`       // what it was made of; zero: it is empty, or nobody knows
	To        objstore.Ref `json:"to"`        // what somebody makes of it now, or has died at; zero: nothing
	By        string       `json:"by"`        // id of that work
	Objects   int          `json:"objects"`
	Links     int          `json:"links"`                // further names of files among them
	Extra     int64        `json:"extra"`                // bytes, see MaxExtra
	Held      uint64       `json:"held,omitempty"`       // of the head that removes so much that the next one must too
	HeldFiles int          `json:"held_files,omitempty"` // that it removes
	Confirmed bool         `json:"confirmed,omitempty"`  // that somebody says so as well
}

// HeldBack is the error of a copy that is not made before the next commit says so too, or
// ConfirmFiles does, or has less Extra.
type HeldBack struct {
	Workspace  mesh.Workspace
	Remove, Of int
	Extra      int64
}

func (e *HeldBack) Error() string {
	if e.Extra > 0 {
		return fmt.Sprintf("holes and further names of its files are %d bytes, more than the %d that the readable copy may have; it stays as it was until they are less", e.Extra, MaxExtra)
	}
	return fmt.Sprintf("its last commit removes %d of %d files; the readable copy keeps them until the next commit, or until: wsmesh workspace confirm %s", e.Remove, e.Of, e.Workspace)
}

func filesStateName(t mesh.Tenant, w mesh.Workspace) string {
	return workspaceBelow(t, w) + "files.json"
}

// FilesState reads how far the readable copy is; its Format is 0 where there is none.
func (m *Mirror) FilesState(ctx context.Context, t mesh.Tenant, w mesh.Workspace) (f Files, err error) {
	_, err = getJSON(ctx, m.remote, filesStateName(t, w), &f)
	return f, err
}

// CopyFiles makes the readable copy of a workspace that of its head, which has the
// sequence least or a later one, else CodeBusy. from is the store of the mesh with the
// packs of the head; nil: those of the copy are read.
//
// Only what differs from the commit that was copied last is written: first all that has
// to go, then what comes, since a name may turn from a file into a directory. Who begins
// says so, and for which commit; who comes after a crash does the same once more, and
// goes on from there. Of two at the same time the one that ends later finds out, and the
// copy is made anew.
func (m *Mirror) CopyFiles(ctx context.Context, t mesh.Tenant, w mesh.Workspace, least uint64, from *objstore.Store) error {
	h, err := m.Head(ctx, t, w)
	if err != nil {
		return err
	}
	if h.Mesh != m.mesh || h.Sequence < least {
		return mesh.Errorf(mesh.CodeBusy, "its commit is not copied yet")
	}
	c := &filesCopy{m: m, workspace: w, at: workspaceBelow(t, w), name: filesStateName(t, w), head: h, from: from}
	if c.copied, err = m.Store(t); err != nil {
		return err
	}
	if c.version, err = getJSON(ctx, m.remote, c.name, &c.state); err != nil {
		return err
	}
	if c.state.Mesh != m.mesh || c.state.Workspace != h.Workspace { // of another one with its name
		c.state = Files{Format: Format, Mesh: m.mesh, Workspace: h.Workspace}
	}
	for c.state.Sequence < h.Sequence || !c.state.To.IsZero() {
		if c.state.Held == h.Sequence && !c.meant() && c.state.To.IsZero() && !h.Removed {
			return c.heldBack()
		}
		if err := c.pass(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ConfirmFiles lets the readable copy of a workspace lose what its last commit has removed,
// and a HeldBack has told of. CodeNotFound says that nothing is held back.
func (m *Mirror) ConfirmFiles(ctx context.Context, t mesh.Tenant, w mesh.Workspace) error {
	for range swaps {
		var f Files
		version, err := getJSON(ctx, m.remote, filesStateName(t, w), &f)
		switch {
		case err != nil:
			return err
		case f.Mesh != m.mesh || f.Held == 0:
			return mesh.Errorf(mesh.CodeNotFound, "nothing is held back of the readable copy of %s/%s", t, w)
		}
		f.Confirmed, f.By = true, mesh.NewID()
		b, err := json.Marshal(&f)
		if err != nil {
			return err
		}
		if err := objstore.PutSmall(ctx, m.remote, filesStateName(t, w), b, version); mesh.CodeOf(err) != mesh.CodeConflict {
			return err
		}
	}
	return mesh.Errorf(mesh.CodeBusy, "the readable copy of %s/%s is written all the time", t, w)
}

// filesCopy is the work on one readable copy.
type filesCopy struct {
	m            *Mirror
	workspace    mesh.Workspace
	at, name     string // what names begin with; name of the state
	head         Head
	from, copied *objstore.Store
	state        Files
	version      string // of the state
}

// meant reports whether a removal of so much has been said twice.
func (c *filesCopy) meant() bool {
	return c.state.Confirmed || c.state.Held != 0 && c.state.Held != c.head.Sequence
}

func (c *filesCopy) heldBack() error {
	return &HeldBack{Workspace: c.workspace, Remove: c.state.HeldFiles, Of: c.state.Objects}
}

// pass makes the copy equal to the head, or to what somebody has begun before.
func (c *filesCopy) pass(ctx context.Context) error {
	begun := c.state.To
	now, err := c.tree(ctx, begun)
	if gone(err) { // nobody can go on with it
		begun, c.state.To, c.state.Ref = objstore.Ref{}, objstore.Ref{}, objstore.Ref{}
		err = nil
	}
	if err == nil && begun.IsZero() && !c.head.Removed {
		now, err = c.tree(ctx, c.head.Ref)
	}
	if err != nil {
		return err
	}
	old, err := c.tree(ctx, c.state.Ref)
	if gone(err) {
		old, err = nil, nil
	}
	if err != nil {
		return err
	}
	d := &filesDiff{old: old, now: now, whole: c.state.Links > 0}
	removals := d.removals
	if old == nil {
		removals = func(ctx context.Context) iter.Seq2[string, error] { return c.stale(ctx, d) }
	}
	n, err := d.count(ctx, removals)
	if err != nil {
		return err
	}
	extra := d.extra
	if old != nil {
		extra += c.state.Extra
	}
	if begun.IsZero() && extra > MaxExtra {
		return &HeldBack{Workspace: c.workspace, Extra: extra}
	}
	if begun.IsZero() && !c.head.Removed && n > GuardedFiles && n > c.state.Objects/2 && c.state.Objects > 0 && !c.meant() {
		c.state.Held, c.state.HeldFiles = c.head.Sequence, n
		return firstOf(c.save(ctx), c.heldBack())
	}
	if c.state.To = begun; begun.IsZero() {
		c.state.To = c.head.Ref
	}
	if old == nil {
		c.state.Ref = objstore.Ref{}
	}
	if err := c.save(ctx); err != nil {
		return err
	}
	c.m.Step("files begun")
	if n > 0 {
		if err := c.each(ctx, removals(ctx), func(ctx context.Context, name string) error { return c.remove(ctx, name) }); err != nil {
			return err
		}
	}
	c.m.Step("files removed")
	if err := c.put(ctx, d); err != nil {
		return err
	}
	c.m.Step("files stored")
	if old == nil {
		c.state.Objects, c.state.Links = 0, 0
	}
	c.state.Objects, c.state.Links, c.state.Extra = c.state.Objects+d.objects, c.state.Links+d.links, extra
	c.state.Ref, c.state.To, c.state.Held, c.state.HeldFiles, c.state.Confirmed = c.state.To, objstore.Ref{}, 0, 0, false
	if begun.IsZero() || begun == c.head.Ref {
		c.state.Sequence = c.head.Sequence
	}
	return c.save(ctx)
}

// gone reports whether what an earlier copy was made of can be had no more.
func gone(err error) bool {
	code := mesh.CodeOf(err)
	return err != nil && (code == mesh.CodeNotFound || code == mesh.CodeInternal)
}

// tree reads the tree of a commit; nil for the zero Ref.
func (c *filesCopy) tree(ctx context.Context, ref objstore.Ref) (*fileTree, error) {
	if ref.IsZero() {
		return nil, nil
	}
	s := c.copied
	if ref == c.head.Ref && c.from != nil {
		s = c.from
	}
	r, commit, err := s.CommitReader(ctx, ref)
	if mesh.CodeOf(err) == mesh.CodeNotFound && s == c.from { // collected in the mesh
		r, commit, err = c.copied.CommitReader(ctx, ref)
	}
	if err != nil {
		return nil, err
	}
	return &fileTree{r, commit.Root}, nil
}

// save writes the state in place of the one that was read. Where that is another one
// now, somebody works beside us, and nobody knows what is there.
func (c *filesCopy) save(ctx context.Context) error {
	c.state.By = mesh.NewID()
	b, err := json.Marshal(&c.state)
	if err != nil {
		return err
	}
	version, err := c.m.remote.Put(ctx, c.name, bytes.NewReader(b), int64(len(b)), objstore.PutOptions{If: &c.version})
	if mesh.CodeOf(err) == mesh.CodeConflict {
		var now Files // ours, if an earlier try has stored it
		if version, err = getJSON(ctx, c.m.remote, c.name, &now); err == nil && now.By != c.state.By {
			return c.doubt(ctx)
		}
	}
	if err == nil {
		c.version = version
	}
	return err
}

// doubt has the whole copy made anew.
func (c *filesCopy) doubt(ctx context.Context) error {
	var now Files
	_, err := c.m.advance(ctx, c.name, &now, &Files{Format: Format, Mesh: c.m.mesh, Workspace: c.head.Workspace, Objects: c.state.Objects, By: mesh.NewID()}, func() bool { return true })
	if err != nil {
		return err
	}
	return mesh.Errorf(mesh.CodeBusy, "others make the readable copy at the same time; it is made anew")
}

// stale yields what is there and belongs to no file of now, where nobody knows what was
// copied before. What the copy has is counted on the way.
func (c *filesCopy) stale(ctx context.Context, d *filesDiff) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, dir := range []string{filesDir, overflowDir} {
			for o, err := range c.m.remote.List(ctx, c.at+dir, "") {
				name, wanted := strings.TrimPrefix(o.Name, c.at), false
				if err == nil {
					wanted, err = d.wants(ctx, name)
				}
				if name == dir { // the directory itself, where a server shows it
					continue
				}
				if !wanted && !yield(name, err) || err != nil {
					return
				}
			}
		}
	}
}

// each does something with many names, some at a time.
func (c *filesCopy) each(ctx context.Context, names iter.Seq2[string, error], do func(context.Context, string) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(filePuts)
	var err error
	for name, nameErr := range names {
		if err = nameErr; err != nil || gctx.Err() != nil {
			break
		}
		g.Go(func() error { return do(gctx, name) })
	}
	return firstOf(g.Wait(), err, ctx.Err())
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *filesCopy) remove(ctx context.Context, name string) error {
	err := c.m.remote.Delete(ctx, c.at+name)
	if err == nil && strings.HasPrefix(name, overflowDir) && !strings.HasSuffix(name, pathOf) {
		err = c.m.remote.Delete(ctx, c.at+strings.TrimSuffix(name, "/")+pathOf)
	}
	return err
}

// put writes what now has and old has not alike.
func (c *filesCopy) put(ctx context.Context, d *filesDiff) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(filePuts)
	var err error
	for f, fileErr := range d.changes(ctx) {
		if err = fileErr; err != nil || gctx.Err() != nil {
			break
		}
		if f.put == "" {
			continue
		}
		g.Go(func() error {
			if err := c.putFile(gctx, d.now, &f); err != nil {
				return fmt.Errorf("file %.200q: %w", f.path, err)
			}
			return nil
		})
	}
	return firstOf(g.Wait(), err, ctx.Err())
}

func (c *filesCopy) putFile(ctx context.Context, now *fileTree, f *fileChange) error {
	e := f.entry
	meta := map[string]string{"mode": fmt.Sprintf("%04o", e.Mode), "mtime": fmt.Sprintf("%d.%09d", e.ModTime.Unix(), e.ModTime.Nanosecond())}
	body, size := io.Reader(strings.NewReader("")), int64(0)
	switch e.Type {
	case objstore.TypeSymlink:
		meta["symlink"] = "true"
		body, size = strings.NewReader(e.Target), int64(len(e.Target))
	case objstore.TypeFile:
		body, size = now.open(ctx, e), e.Size
	}
	if strings.HasPrefix(f.put, overflowDir) { // what cannot be its name is beside it, and before it
		name := c.at + strings.TrimSuffix(f.put, "/") + pathOf
		if _, err := c.m.remote.Put(ctx, name, bytes.NewReader([]byte(f.path)), int64(len(f.path)), objstore.PutOptions{}); err != nil {
			return err
		}
	}
	_, err := c.m.remote.Put(ctx, c.at+f.put, body, size, objstore.PutOptions{Meta: meta})
	return err
}

// fileTree is the tree of a commit.
type fileTree struct {
	r    *objstore.Reader
	root objstore.Entry
}

// entry returns what stands at a path; nil if nothing does.
func (t *fileTree) entry(ctx context.Context, p string) (*objstore.Entry, error) {
	at := &t.root
	for name := range strings.SplitSeq(p, "/") {
		if at.Type != objstore.TypeDir {
			return nil, nil
		}
		tree, err := t.r.Tree(ctx, at)
		if err != nil {
			return nil, err
		}
		i, ok := slices.BinarySearchFunc(tree, name, func(e objstore.Entry, name string) int { return strings.Compare(e.Name, name) })
		if !ok {
			return nil, nil
		}
		at = &tree[i]
	}
	return at, nil
}

// file returns the file that an entry is another name of, or the entry itself.
func (t *fileTree) file(ctx context.Context, e *objstore.Entry) (*objstore.Entry, error) {
	if e.Type != objstore.TypeLink {
		return e, nil
	}
	f, err := t.entry(ctx, e.Target)
	if err == nil && (f == nil || f.Type != objstore.TypeFile) {
		err = mesh.Errorf(mesh.CodeInternal, "it is another name of %.200q, which is no file", e.Target)
	}
	return f, err
}

// open returns the bytes of a file, zeros for its holes.
func (t *fileTree) open(ctx context.Context, e *objstore.Entry) io.Reader {
	data, parts, at := t.r.Open(ctx, e), []io.Reader(nil), int64(0)
	for _, x := range append(e.Data(), objstore.Extent{Offset: e.Size}) {
		parts = append(parts, io.LimitReader(zeros{}, x.Offset-at), io.LimitReader(data, x.Length))
		at = x.Offset + x.Length
	}
	return io.MultiReader(parts...)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// object returns what a name of the tree is in the copy, and as what: "" for what has no
// object of its own, which are directories that are not empty, FIFOs, and files that are
// nearly all holes.
func (t *fileTree) object(ctx context.Context, p string, e *objstore.Entry) (string, *objstore.Entry, error) {
	if t == nil || e == nil {
		return "", nil, nil
	}
	e, err := t.file(ctx, e)
	if err != nil {
		return "", nil, err
	}
	switch {
	case e.Type == objstore.TypeFile && e.Size-e.DataSize() <= MaxHoles, e.Type == objstore.TypeSymlink:
		return fileName(p, false), e, nil
	case e.Type == objstore.TypeDir && p != ".":
		tree, err := t.r.Tree(ctx, e)
		if err != nil {
			return "", nil, err
		}
		for i := range tree {
			if tree[i].Type != objstore.TypeFIFO {
				return "", e, nil
			}
		}
		return fileName(p, true), e, nil
	}
	return "", e, nil
}

// fileChange is what has to be done about one name.
type fileChange struct {
	remove, put string // names of objects; "": nothing
	path        string
	entry       *objstore.Entry // of what is to be put
}

// filesDiff compares two trees, name by name.
type filesDiff struct {
	old, now *fileTree // nil: there is none
	// whole looks at directories that are alike too: they may have further names of files
	// that changed elsewhere.
	whole bool

	objects, links int             // how many more now has; set by count
	extra          int64           // likewise
	overflow       map[string]bool // of now, where there is no old; set by count
}

// count walks once and returns how many objects are to be removed.
func (d *filesDiff) count(ctx context.Context, removals func(context.Context) iter.Seq2[string, error]) (n int, err error) {
	w := filesWalk{filesDiff: d, ctx: ctx}
	d.overflow = map[string]bool{}
	w.yield = func(f fileChange, fileErr error) bool {
		if err = fileErr; d.old == nil && strings.HasPrefix(f.put, overflowDir) {
			d.overflow[f.put], d.overflow[strings.TrimSuffix(f.put, "/")+pathOf] = true, true
		}
		return err == nil
	}
	w.run()
	d.objects, d.links, d.extra = w.objects, w.links, w.extra
	for _, removeErr := range removals(ctx) {
		if err == nil {
			err = removeErr
		}
		n++
	}
	return n, err
}

// removals yields the objects that have to go.
func (d *filesDiff) removals(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for f, err := range d.changes(ctx) {
			if (err != nil || f.remove != "") && !yield(f.remove, err) {
				return
			}
		}
	}
}

// wants reports whether an object is one of now's.
func (d *filesDiff) wants(ctx context.Context, name string) (bool, error) {
	if d.now == nil || strings.HasPrefix(name, overflowDir) {
		return d.overflow[name], nil
	}
	p := unescape(strings.TrimSuffix(strings.TrimPrefix(name, filesDir), "/"))
	e, err := d.now.entry(ctx, p)
	if err != nil || e == nil {
		return false, err
	}
	is, _, err := d.now.object(ctx, p, e)
	return is == name, err
}

// changes yields what has to be done, and ends with the first error.
func (d *filesDiff) changes(ctx context.Context) iter.Seq2[fileChange, error] {
	return func(yield func(fileChange, error) bool) {
		w := filesWalk{filesDiff: d, ctx: ctx, yield: yield}
		w.run()
	}
}

type filesWalk struct {
	*filesDiff
	ctx            context.Context
	objects, links int
	extra          int64
	yield          func(fileChange, error) bool
}

func (w *filesWalk) run() {
	var a, b *objstore.Entry
	if w.old != nil {
		a = &w.old.root
	}
	if w.now != nil {
		b = &w.now.root
	}
	if err := w.name(".", a, b); err != nil && !errors.Is(err, errEnough) {
		w.yield(fileChange{}, err)
	}
}

var errEnough = errors.New("no more is wanted")

// name compares one name and what is below it.
func (w *filesWalk) name(p string, a, b *objstore.Entry) error {
	before, x, err := w.old.object(w.ctx, p, a)
	if err != nil {
		return err
	}
	after, y, err := w.now.object(w.ctx, p, b)
	if err != nil {
		return err
	}
	f := fileChange{path: p, entry: y}
	if before != "" && before != after {
		f.remove = before
		w.objects--
	}
	if after != "" && (before != after || !alike(x, y)) {
		f.put = after
	}
	if after != "" && before != after {
		w.objects++
	}
	w.links += links(b) - links(a)
	w.extra += extra(b, y, after) - extra(a, x, before)
	if (f.remove != "" || f.put != "") && !w.yield(f, nil) {
		return errEnough
	}
	return w.below(p, directory(a), directory(b))
}

// below compares what is in two directories.
func (w *filesWalk) below(p string, a, b *objstore.Entry) error {
	if a == nil && b == nil || a != nil && b != nil && !w.whole && sameContent(a, b) {
		return w.ctx.Err()
	}
	var old, now objstore.Tree
	var err error
	if a != nil {
		old, err = w.old.r.Tree(w.ctx, a)
	}
	if err == nil && b != nil {
		now, err = w.now.r.Tree(w.ctx, b)
	}
	for err == nil && (len(old) > 0 || len(now) > 0) {
		var x, y *objstore.Entry
		if len(now) == 0 || len(old) > 0 && old[0].Name <= now[0].Name {
			x = &old[0]
		}
		if len(old) == 0 || len(now) > 0 && now[0].Name <= old[0].Name {
			y = &now[0]
		}
		name := ""
		if x != nil {
			name, old = x.Name, old[1:]
		}
		if y != nil {
			name, now = y.Name, now[1:]
		}
		err = w.name(join(p, name), x, y)
	}
	return err
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

func directory(e *objstore.Entry) *objstore.Entry {
	if e != nil && e.Type == objstore.TypeDir {
		return e
	}
	return nil
}

// extra is how many bytes more an object has than its name takes in a tree, where file is
// what the name e stands for.
func extra(e, file *objstore.Entry, object string) int64 {
	switch {
	case object == "" || file.Type != objstore.TypeFile:
		return 0
	case e.Type == objstore.TypeLink:
		return file.Size
	}
	return file.Size - file.DataSize()
}

func links(e *objstore.Entry) int {
	if e != nil && e.Type == objstore.TypeLink {
		return 1
	}
	return 0
}
