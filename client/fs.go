package client

import (
	"context"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// smallRead is how much of a file Open fetches along with its description: most
// files whole, and not much for one that is only looked at. A ReadAt of less
// fetches as much.
const smallRead = 64 << 10

// FS returns the files of the scope as an io/fs file system, for what takes
// one: fs.WalkDir, text/template, net/http, os.CopyFS. It implements
// fs.ReadDirFS, fs.ReadFileFS, fs.StatFS, fs.SubFS and fs.ReadLinkFS; its files
// are io.ReaderAt, io.Seeker and io.WriterTo besides, its directories
// fs.ReadDirFile. All its calls use ctx, since io/fs has no place for one.
//
// Cost: each call is one round trip for up to 512 KiB, or for 1,000 entries; Open
// of a directory is two. Open brings the first 64 KiB; Read then fetches ranges of
// 512 KiB and ReadAt of at least 64 KiB, and an open file holds the last of them,
// however little each call takes. WriteTo, which io.Copy uses, and ReadFile keep
// several ranges in flight. The Info of a directory entry is that of the listing
// and costs nothing.
//
// Consistency: what is read of one open file is one revision of it; once the file
// was written, replaced, renamed over or chmodded, what is not held already is
// CodeConflict. Nothing else is a snapshot: a directory is listed page by page.
//
// Links are followed inside the scope, by Open, Stat, ReadFile and ReadDir; one
// that leads out is CodeDenied. Sub is a Scope: links that lead out of the
// subdirectory are CodeDenied there.
//
// A name that is not UTF-8 is no path of io/fs: as with os.DirFS it is listed, so
// that no copy is silently incomplete, and opening it is fs.ErrInvalid. The
// Workspace's own methods take it.
//
// Each FileInfo's Sys is the mesh.FileInfo. The file system and ReadAt may be used
// concurrently, the other methods of a file by one goroutine at a time.
func (w *Workspace) FS(ctx context.Context) fs.FS { return &fileSystem{ctx, w} }

type fileSystem struct {
	ctx       context.Context
	workspace *Workspace
}

var _ interface {
	fs.ReadDirFS
	fs.ReadFileFS
	fs.StatFS
	fs.SubFS
	fs.ReadLinkFS
} = (*fileSystem)(nil)

func checkPath(op, name string) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}

// Open implements fs.FS.
func (v *fileSystem) Open(name string) (fs.File, error) {
	if err := checkPath("open", name); err != nil {
		return nil, err
	}
	ctx, op := v.workspace.reads(v.ctx, "open", name)
	f, err := v.open(ctx, name)
	return f, op.end(err)
}

func (v *fileSystem) open(ctx context.Context, name string) (fs.File, error) {
	req := mesh.ReadRequest{Path: mesh.Path(name), Length: smallRead}
	first, info, err := v.workspace.readRange(ctx, req)
	if err == nil {
		f := &file{fs: v, name: name, info: info}
		f.last.Store(&span{b: first})
		return f, nil
	}
	if mesh.CodeOf(err) != mesh.CodeInvalid {
		return nil, err
	}
	info, statErr := v.workspace.stat(ctx, name, true) // not a regular file, it seems
	if statErr != nil {
		return nil, err
	}
	if info.Type == "dir" {
		return &dir{fs: v, ctx: ctx, name: name, info: info}, nil
	}
	return &file{fs: v, name: name, info: info}, nil // its reads say what it is
}

// Stat implements fs.StatFS.
func (v *fileSystem) Stat(name string) (fs.FileInfo, error) {
	return v.stat("stat", name, true)
}

// Lstat implements fs.ReadLinkFS.
func (v *fileSystem) Lstat(name string) (fs.FileInfo, error) {
	return v.stat("lstat", name, false)
}

func (v *fileSystem) stat(op, name string, follow bool) (fs.FileInfo, error) {
	if err := checkPath(op, name); err != nil {
		return nil, err
	}
	info, err := v.workspace.stat(v.ctx, name, follow)
	if err != nil {
		return nil, err
	}
	return &fileInfo{path.Base(name), info}, nil
}

// ReadLink implements fs.ReadLinkFS. The text is as it stands in the link: it may
// be absolute.
func (v *fileSystem) ReadLink(name string) (string, error) {
	if err := checkPath("readlink", name); err != nil {
		return "", err
	}
	return v.workspace.Readlink(v.ctx, name)
}

// ReadFile implements fs.ReadFileFS.
func (v *fileSystem) ReadFile(name string) ([]byte, error) {
	if err := checkPath("read", name); err != nil {
		return nil, err
	}
	return v.workspace.ReadFile(v.ctx, name)
}

// ReadDir implements fs.ReadDirFS.
func (v *fileSystem) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := checkPath("list", name); err != nil {
		return nil, err
	}
	ctx, op := v.workspace.reads(v.ctx, "list", name)
	d := dir{fs: v, ctx: ctx, name: name}
	entries, err := d.ReadDir(-1)
	op.record(err)
	return entries, err
}

// Sub implements fs.SubFS.
func (v *fileSystem) Sub(name string) (fs.FS, error) {
	if err := checkPath("sub", name); err != nil {
		return nil, err
	}
	if name == "." {
		return v, nil
	}
	return v.workspace.Scope(name).FS(v.ctx), nil
}

// dir is an open directory.
type dir struct {
	fs     *fileSystem
	ctx    context.Context // of the operation that it is a part of
	name   string
	info   mesh.FileInfo
	rest   []mesh.FileInfo // of the last page
	after  mesh.Path       // the last name of that page
	ended  bool            // it was the last page
	closed bool
}

// Stat implements fs.File.
func (d *dir) Stat() (fs.FileInfo, error) { return &fileInfo{path.Base(d.name), d.info}, nil }

// Read implements fs.File.
func (d *dir) Read([]byte) (int, error) {
	return 0, pathError("read", d.name, mesh.Errorf(mesh.CodeInvalid, "it is a directory"))
}

// Close implements fs.File.
func (d *dir) Close() error {
	if d.closed {
		return pathError("close", d.name, fs.ErrClosed)
	}
	d.closed = true
	return nil
}

// ReadDir implements fs.ReadDirFile. It fetches a page at a time.
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, pathError("list", d.name, fs.ErrClosed)
	}
	entries := []fs.DirEntry{}
	for n <= 0 || len(entries) < n {
		if len(d.rest) == 0 {
			if d.ended {
				break
			}
			if err := d.page(); err != nil {
				return entries, err
			}
			continue
		}
		e := d.rest[0]
		d.rest = d.rest[1:]
		entries = append(entries, fs.FileInfoToDirEntry(&fileInfo{string(e.Path), e}))
	}
	if n > 0 && len(entries) == 0 {
		return nil, io.EOF
	}
	return entries, nil
}

func (d *dir) page() error {
	page, err := d.fs.workspace.ReadDirPage(d.ctx, mesh.ListRequest{Path: mesh.Path(d.name), After: d.after})
	if err != nil {
		return err
	}
	d.rest, d.ended = page.Entries, !page.More
	if page.More {
		d.after = page.Entries[len(page.Entries)-1].Path
	}
	return nil
}

// fileInfo implements fs.FileInfo.
type fileInfo struct {
	name string
	info mesh.FileInfo
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.info.Size }
func (i *fileInfo) ModTime() time.Time { return i.info.ModTime }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) Sys() any           { return i.info }
func (i *fileInfo) String() string     { return fs.FormatFileInfo(i) }

// Mode implements fs.FileInfo.
func (i *fileInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.info.Mode) & fs.ModePerm
	for _, b := range specialBits {
		if i.info.Mode&b.bit != 0 {
			mode |= b.flag
		}
	}
	switch i.info.Type {
	case "file":
		return mode
	case "dir":
		return mode | fs.ModeDir
	case "symlink":
		return mode | fs.ModeSymlink
	case "fifo":
		return mode | fs.ModeNamedPipe
	case "socket":
		return mode | fs.ModeSocket
	case "device":
		return mode | fs.ModeDevice
	}
	return mode | fs.ModeIrregular
}

// specialBits are the mode bits that io/fs has elsewhere than chmod.
var specialBits = []struct {
	flag fs.FileMode
	bit  uint32
}{{fs.ModeSticky, 0o1000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSetuid, 0o4000}}
