package node

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// upload unpacks a tar stream that was staged whole, so that one which breaks
// off on the way changes nothing. Each entry is a change of its own.
func (t *task) upload() (*mesh.Reply, error) {
	var a mesh.UploadRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	view, path, err := t.resolve(t.req, a.Path)
	if err != nil {
		return nil, err
	}
	if err := t.node.takeBulk(t.tenant); err != nil {
		return nil, err // the stage stays for a repeat
	}
	defer t.node.bulk.Give(string(t.tenant))
	a.Stage = stageOf(t.req, a.Stage)
	f, err := t.tree.StageOpen(a.Stage, a.Size)
	if err != nil {
		return nil, err
	}
	defer t.tree.StageDrop(a.Stage)
	defer f.Close()
	t.looked = true
	// What does not fit is refused by the entry, so that at most one is more than fits.
	gate := func(c sandbox.Change) (func(error) error, error) {
		if err := t.disk.admit(t.ctx, c.Info.Size, a.Size); err != nil {
			return nil, err
		}
		return t.each(c)
	}
	count, err := view.Gated(gate).ReadTar(t.ctx, path, f, sandbox.TarLimits{})
	return &mesh.Reply{Args: mesh.UploadReply{Entries: int(count.Entries), Bytes: count.Bytes}}, err
}

// stageOf is the id of a staged file: the client's, but each scope's own, so that
// none reaches what another one stages. What is no UUID stays, to be refused.
func stageOf(req *mesh.Request, id string) string {
	u, err := uuid.Parse(id)
	if err != nil || req.Scope == "." {
		return id
	}
	return uuid.NewSHA1(u, []byte(req.Scope)).String()
}

// Bounds of downloads.
const (
	// DefaultMaxDownloads is how many tar streams one node keeps open, with up
	// to DownloadWindow parts each: 256 MiB.
	DefaultMaxDownloads = 64
	// DefaultDownloadIdle is how long one waits for its next request, be it a
	// repeat of the last part: longer than a client takes to repeat one.
	DefaultDownloadIdle = 30 * time.Second
)

// downloads are the tar streams that clients are reading. The zero value works.
type downloads struct {
	mu     sync.Mutex
	open   map[string]*download
	closed bool
	wg     sync.WaitGroup
}

// download is one tar stream, cut into numbered parts. Parts are made in order,
// on demand, and the last ones are kept for repeats.
type download struct {
	mu    sync.Mutex
	give  func() // gives the slot back
	r     *io.PipeReader
	parts map[int][]byte // made, not older than DownloadWindow
	next  int            // number of the next part to make
	last  int            // number of the last part, once known; -1 before
	idle  *time.Timer
}

func (w *workspace) download(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.DownloadRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if _, err := uuid.Parse(a.Stream); err != nil || a.Number < 0 {
		return nil, mesh.Errorf(mesh.CodeInvalid, "download: a UUID as stream and a part number are needed")
	}
	view, path, err := w.resolve(req, a.Path)
	if err != nil {
		return nil, err
	}
	id := req.Scope + "\x00" + path + "\x00" + a.Stream
	if a.Drop {
		w.downloads.drop(id)
		return nil, nil
	}
	d, err := w.downloads.get(w, id, a.Number, func(out io.Writer) error { return view.WriteTar(context.WithoutCancel(ctx), path, out) })
	if err != nil {
		return nil, err
	}
	part, last, err := d.part(a.Number)
	if err != nil {
		w.downloads.drop(id)
		return nil, err
	}
	return &mesh.Reply{Args: mesh.DownloadReply{Last: last}, Content: part}, nil
}

// get finds a stream; only a request for its first part starts one: a later part
// of a new stream would belong to another tar than the parts before.
func (ds *downloads) get(w *workspace, id string, number int, write func(io.Writer) error) (*download, error) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if d, ok := ds.open[id]; ok {
		d.idle.Reset(DefaultDownloadIdle)
		return d, nil
	}
	if number != 0 {
		return nil, mesh.Errorf(mesh.CodeConflict, "download: the stream is over; start over")
	}
	if ds.closed || !w.node.downloads.Take(string(w.tenant)) {
		return nil, mesh.Errorf(mesh.CodeBusy, "as many downloads are open as may be, at all or of one tenant; try again")
	}
	r, out := io.Pipe()
	d := &download{give: func() { w.node.downloads.Give(string(w.tenant)) }, r: r, parts: map[int][]byte{}, last: -1}
	d.idle = time.AfterFunc(DefaultDownloadIdle, func() { ds.drop(id) })
	ds.wg.Go(func() { out.CloseWithError(write(out)) })
	if ds.open == nil {
		ds.open = map[string]*download{}
	}
	ds.open[id] = d
	return d, nil
}

func (ds *downloads) drop(id string) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if d, ok := ds.open[id]; ok {
		d.end()
		delete(ds.open, id)
	}
}

var errDownloadOver = mesh.Errorf(mesh.CodeCanceled, "the download was given up")

// close ends every download and waits for their writers.
func (ds *downloads) close() {
	ds.mu.Lock()
	ds.closed = true
	for _, d := range ds.open {
		d.end()
	}
	ds.open = nil
	ds.mu.Unlock()
	ds.wg.Wait()
}

func (d *download) end() {
	d.idle.Stop()
	d.r.CloseWithError(errDownloadOver)
	d.give()
}

// part returns one part, making those before it. A part that was asked for in
// the last DownloadWindow is still there.
func (d *download) part(number int) (part []byte, last bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if number >= d.next+mesh.DownloadWindow || (number < d.next && d.parts[number] == nil) {
		return nil, false, mesh.Errorf(mesh.CodeInvalid, "download: part %d is not within reach", number)
	}
	for d.next <= number && d.last < 0 {
		buf := make([]byte, mesh.MaxMessage)
		n, err := io.ReadFull(d.r, buf)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			d.last = d.next
		default:
			return nil, false, err
		}
		d.parts[d.next] = buf[:n:n]
		delete(d.parts, d.next-mesh.DownloadWindow)
		d.next++
	}
	if d.last < 0 {
		return d.parts[number], false, nil
	}
	if number > d.last {
		return []byte{}, true, nil
	}
	return d.parts[number], number == d.last, nil
}
