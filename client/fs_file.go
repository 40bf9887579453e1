package client

import (
	"io"
	"io/fs"
	"path"
	"sync/atomic"

	"github.com/wsmesh/wsmesh/mesh"
)

// file is one revision of an open file that is not a directory.
type file struct {
	fs     *fileSystem
	name   string
	info   mesh.FileInfo
	offset int64                // of the next Read
	last   atomic.Pointer[span] // what was fetched last
	closed atomic.Bool
}

// span is some bytes of a file from start on. It is never changed.
type span struct {
	start int64
	b     []byte
}

// from is what s has from offset on.
func (s *span) from(offset int64) []byte {
	if s == nil || offset < s.start || offset > s.start+int64(len(s.b)) {
		return nil
	}
	return s.b[offset-s.start:]
}

// Stat implements fs.File: it describes the revision that was opened.
func (f *file) Stat() (fs.FileInfo, error) { return &fileInfo{path.Base(f.name), f.info}, nil }

// Close implements fs.File.
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.last.Store(nil)
	return nil
}

// check is io.EOF where no byte is left to read.
func (f *file) check(offset int64) error {
	switch {
	case f.closed.Load():
		return pathError("read", f.name, fs.ErrClosed)
	case f.info.Type != "file":
		return pathError("read", f.name, mesh.Errorf(mesh.CodeInvalid, "it is a %s, not a regular file", f.info.Type))
	case offset < 0:
		return pathError("read", f.name, fs.ErrInvalid)
	case offset >= f.info.Size:
		return io.EOF
	}
	return nil
}

func (f *file) from(offset int64) mesh.ReadRequest {
	return mesh.ReadRequest{Path: mesh.Path(f.name), Revision: f.info.Revision, Offset: offset}
}

// at returns some bytes at offset: what is known of them, or length bytes that it
// fetches.
func (f *file) at(offset int64, length int) ([]byte, error) {
	if err := f.check(offset); err != nil {
		return nil, err
	}
	if b := f.last.Load().from(offset); len(b) > 0 {
		return b, nil
	}
	f.last.Store(nil) // not two at a time
	req := f.from(offset)
	req.Length = length
	b, _, err := f.fs.workspace.readRange(f.fs.ctx, req)
	if err != nil {
		return nil, pathError("read", f.name, err)
	}
	f.last.Store(&span{offset, b})
	return b, nil
}

// Read implements fs.File.
func (f *file) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := f.at(f.offset, mesh.MaxMessage)
	n := copy(p, b)
	f.offset += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt. It may be called concurrently.
func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	for n := 0; ; {
		if n == len(p) {
			return n, nil
		}
		b, err := f.at(offset+int64(n), max(smallRead, min(len(p)-n, mesh.MaxMessage)))
		if err != nil {
			return n, err
		}
		n += copy(p[n:], b)
	}
}

// Seek implements io.Seeker; nothing is asked of the mesh.
func (f *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		offset += f.info.Size
	case io.SeekStart:
	default:
		offset = -1
	}
	if offset < 0 {
		return 0, pathError("seek", f.name, fs.ErrInvalid)
	}
	f.offset = offset
	return offset, nil
}

// WriteTo implements io.WriterTo: what Read would give up to the end, with
// several ranges in flight.
func (f *file) WriteTo(out io.Writer) (written int64, err error) {
	each := func(b []byte) error {
		n, err := out.Write(b)
		written += int64(n)
		f.offset += int64(n)
		return err
	}
	err = f.check(f.offset)
	if err == io.EOF {
		return 0, nil
	}
	if b := f.last.Load().from(f.offset); err == nil && len(b) > 0 {
		err = each(b)
	}
	if err != nil {
		return written, err
	}
	f.last.Store(nil)
	err = f.fs.workspace.rest(f.fs.ctx, f.from(f.offset), f.info.Size, each)
	return written, pathError("read", f.name, err)
}
