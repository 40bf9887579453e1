// Package dirbucket keeps packs as files of a directory (file://): the smallest
// mirror, and a bucket for tests and tools that need no server.
//
// An object lies at <first two digits>/<name>. It is written to a temporary file,
// synced, renamed, and the directory synced: a crash leaves the whole object or
// none, and perhaps a temporary file, which Open removes once it is old. Several
// processes may use one directory.
package dirbucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// TempAge is how old a temporary file is when nobody writes it any more.
const TempAge = 24 * time.Hour

const temp = "tmp-"

// Bucket is a directory of packs. Safe for concurrent use; it needs no Close.
type Bucket struct {
	dir string
}

var _ objstore.Bucket = (*Bucket)(nil)

// Open returns the bucket in a directory, which it makes when it does not exist.
func Open(dir string) (*Bucket, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, translate("open the bucket", err)
	}
	b := &Bucket{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, translate("open the bucket", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), temp) && time.Since(info.ModTime()) > TempAge {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next Open tries again
		}
	}
	return b, nil
}

func (b *Bucket) path(id objstore.ID) string {
	name := id.String()
	return filepath.Join(b.dir, name[:2], name)
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, id objstore.ID, data []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put %s: %w", id, err)
	}
	return translate("put "+id.String(), b.put(id, data))
}

func (b *Bucket) put(id objstore.ID, data []byte) error {
	path := b.path(id)
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); err == nil {
		return syncDir(dir) // whoever renamed it may not have got to that yet
	}
	if err := os.Mkdir(dir, 0o700); err == nil {
		err = syncDir(b.dir)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.CreateTemp(b.dir, temp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, id objstore.ID, offset int64, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("get %s: %w", id, err)
	}
	f, err := os.Open(b.path(id))
	if err != nil {
		return nil, translate("get "+id.String(), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, translate("get "+id.String(), err)
	}
	from, to, err := objstore.Range(info.Size(), offset, n)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", id, err)
	}
	data := make([]byte, to-from)
	if _, err := f.ReadAt(data, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, translate("get "+id.String(), err)
	}
	return data, nil
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, id objstore.ID) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	err := os.Remove(b.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(b.path(id)))
	}
	return translate("delete "+id.String(), err)
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context) iter.Seq2[objstore.ID, error] {
	return func(yield func(objstore.ID, error) bool) {
		dirs, err := os.ReadDir(b.dir) // sorted
		for i := 0; i < len(dirs) && err == nil; i++ {
			if !dirs[i].IsDir() || len(dirs[i].Name()) != 2 {
				continue
			}
			var names []os.DirEntry
			names, err = os.ReadDir(filepath.Join(b.dir, dirs[i].Name()))
			for _, e := range names {
				id, notOurs := objstore.ParseID(e.Name())
				if notOurs == nil && !yield(id, nil) {
					return
				}
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
		}
		if err != nil {
			yield(objstore.ID{}, translate("list", err))
		}
	}
}

// translate gives an error of the file system a code and takes the path away.
func translate(op string, err error) error {
	if err == nil {
		return nil
	}
	code := mesh.CodeOf(err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		code = mesh.CodeQuota
	}
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		err = path.Err
	case errors.As(err, &link):
		err = link.Err
	}
	return fmt.Errorf("%s: %w", op, mesh.Errorf(code, "%s", err))
}
