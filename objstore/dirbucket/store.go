// Package dirbucket keeps objects as files of a directory (file://): the smallest
// mirror, and a bucket for tests and tools that need no server.
//
// An object's name is the path of its file. The file is written under another name,
// synced, renamed, and the directory synced: a crash leaves the whole object or none,
// and perhaps a temporary file, which Open removes once it is old. Several processes
// may use one directory. What is not an object's bytes is below .wsmesh: temporary
// files, the objects' metadata, and the lock of conditional writes.
package dirbucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/gofrs/flock"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// TempAge is how old a temporary file is when nobody writes it any more.
const TempAge = 24 * time.Hour

const own = ".wsmesh" // of what is no object

// Store is a directory of objects. Safe for concurrent use; it needs no Close.
type Store struct {
	dir  string
	view bool // of whatever directory, see View
}

var _ objstore.Remote = (*Store)(nil)

// Open returns the packs that are the objects of a directory, see OpenStore.
func Open(dir string) (*objstore.RemotePacks, error) {
	s, err := OpenStore(dir)
	if err != nil {
		return nil, err
	}
	return objstore.PacksIn(s, ""), nil
}

// OpenStore returns the store in a directory, which it makes when it does not exist.
func OpenStore(dir string) (*Store, error) {
	s := &Store{dir: dir}
	for _, d := range []string{dir, s.own("tmp"), s.own("meta")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, translate("open the directory of objects", err)
		}
	}
	entries, err := os.ReadDir(s.own("tmp"))
	if err != nil {
		return nil, translate("open the directory of objects", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && time.Since(info.ModTime()) > TempAge {
			_ = os.Remove(s.own("tmp", e.Name())) // the next Open tries again
		}
	}
	return s, nil
}

// View returns the objects of any directory, for reading: it makes nothing there. A
// file that no store has written says in its metadata what it is, as other files do
// whose copy is an object: mode, mtime, and symlink, whose content is the target; and
// so does every directory.
// What is neither file, directory nor symbolic link is no object.
func View(dir string) *Store { return &Store{dir: dir, view: true} }

// Root returns the directory of the store that a directory is in: the nearest one that
// a store has been opened in, else the directory itself.
func Root(dir string) string {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, own, "meta")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}

// metaOf is what a file says of itself.
func metaOf(info fs.FileInfo) map[string]string {
	t := info.ModTime()
	meta := map[string]string{"mode": fmt.Sprintf("%04o", info.Mode().Perm()), "mtime": fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())}
	if info.Mode()&fs.ModeSymlink != 0 {
		meta["symlink"] = "true"
	}
	return meta
}

func (s *Store) own(name ...string) string {
	return filepath.Join(append([]string{s.dir, own}, name...)...)
}

// path returns where an object is.
func (s *Store) path(name string) (string, error) {
	bare := strings.TrimSuffix(name, "/")
	if !fs.ValidPath(bare) || bare == "." || !utf8.ValidString(name) || strings.Contains(name, "\x00") || bare == own || strings.HasPrefix(name, own+"/") || len(name) > objstore.MaxObjectName {
		return "", mesh.Errorf(mesh.CodeInvalid, "%.80q is not the name of an object", name)
	}
	return filepath.Join(s.dir, filepath.FromSlash(bare)), nil
}

// hides reports whether a view does not have a file of that mode: to read a FIFO would
// wait for its writer.
func (s *Store) hides(m fs.FileMode) bool {
	return s.view && m&^(fs.ModeDir|fs.ModeSymlink)&fs.ModeType != 0
}

func (s *Store) metaPath(name string) string {
	sum := sha256.Sum256([]byte(name))
	return s.own("meta", hex.EncodeToString(sum[:]))
}

// Put implements objstore.Remote.
func (s *Store) Put(ctx context.Context, name string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	path, err := s.path(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("put %s: %w", name, err)
	}
	version, err := s.put(ctx, name, path, body, size, how)
	return version, translate("put "+name, err)
}

func (s *Store) put(ctx context.Context, name, path string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	temp, version, err := s.write(body, size)
	if err != nil {
		return "", err
	}
	defer os.Remove(temp) // where it was not renamed
	if how.If != nil {
		lock := flock.New(s.own("lock"), flock.SetPermissions(0o600))
		if ok, err := lock.TryLockContext(ctx, 2*time.Millisecond); !ok {
			return "", errors.Join(err, lock.Close())
		}
		defer lock.Close()
		if now := s.version(path); now != *how.If {
			return "", mesh.Errorf(mesh.CodeConflict, "another object is there than expected")
		}
	}
	if err := s.putMeta(name, how.Meta); err != nil {
		return "", err
	}
	if strings.HasSuffix(name, "/") {
		return "", s.putDir(path)
	}
	for range 10 { // a Delete beside it takes empty directories away
		err = os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.Rename(temp, path)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return "", err
	}
	return version, s.syncAbove(path)
}

// write puts the bytes into a temporary file.
func (s *Store) write(body io.Reader, size int64) (temp, version string, err error) {
	f, err := os.CreateTemp(s.own("tmp"), "")
	if err != nil {
		return "", "", err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), body)
	if err == nil && n != size {
		err = mesh.Errorf(mesh.CodeInvalid, "the content has %d bytes and not %d", n, size)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), hex.EncodeToString(sum.Sum(nil)), nil
}

// version is that of the object at a path, "" where there is none.
func (s *Store) version(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return versionOf(b)
}

func versionOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// putMeta keeps the metadata of an object, before the object.
func (s *Store) putMeta(name string, meta map[string]string) error {
	if len(meta) == 0 {
		err := os.Remove(s.metaPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	b, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	temp, _, err := s.write(strings.NewReader(string(b)), int64(len(b)))
	if err != nil {
		return err
	}
	return os.Rename(temp, s.metaPath(name))
}

func (s *Store) putDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return s.syncAbove(path)
}

// syncAbove syncs the directories down to a path.
func (s *Store) syncAbove(path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) || dir == s.dir || len(dir) <= len(s.dir) {
			return err
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if runtime.GOOS == "windows" {
		err = nil // directories cannot be synced there
	}
	return errors.Join(err, d.Close())
}

// Get implements objstore.Remote.
func (s *Store) Get(ctx context.Context, name string, offset int64, n int) ([]byte, objstore.Object, error) {
	data, o, err := s.get(ctx, name, offset, n)
	return data, o, translate("get "+name, err)
}

func (s *Store) get(ctx context.Context, name string, offset int64, n int) ([]byte, objstore.Object, error) {
	o, path, err := s.stat(ctx, name)
	if err != nil || strings.HasSuffix(name, "/") {
		return nil, o, err
	}
	if target, err := os.Readlink(path); err == nil && s.view {
		from, to, err := objstore.Range(int64(len(target)), offset, n)
		return []byte(target)[from:to], o, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, o, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, o, err
	}
	o.Size = info.Size()
	from, to, err := objstore.Range(o.Size, offset, n)
	if err != nil {
		return nil, o, err
	}
	data := make([]byte, to-from)
	if _, err := f.ReadAt(data, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, o, err
	}
	if int64(len(data)) == o.Size {
		o.Version = versionOf(data)
	}
	return data, o, nil
}

// Stat implements objstore.Remote.
func (s *Store) Stat(ctx context.Context, name string) (objstore.Object, error) {
	o, _, err := s.stat(ctx, name)
	return o, translate("stat "+name, err)
}

func (s *Store) stat(ctx context.Context, name string) (objstore.Object, string, error) {
	o := objstore.Object{Name: name}
	path, err := s.path(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return o, "", err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, syscall.ENOTDIR) || err == nil && (info.IsDir() != strings.HasSuffix(name, "/") || s.hides(info.Mode())) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return o, "", err
	}
	if !info.IsDir() {
		o.Size = info.Size()
	}
	b, err := os.ReadFile(s.metaPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		if s.view {
			o.Meta = metaOf(info)
		}
		return o, path, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &o.Meta)
	}
	return o, path, err
}

// Delete implements objstore.Remote. Directories that become empty go as well.
func (s *Store) Delete(ctx context.Context, name string) error {
	path, err := s.path(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return translate("delete "+name, s.delete(name, path))
}

func (s *Store) delete(name, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && info.IsDir() != strings.HasSuffix(name, "/") {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // somebody else did it
	case err != nil && info != nil && info.IsDir(): // of other objects
	case err != nil:
		return err
	}
	if err := s.putMeta(name, nil); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	for ; len(dir) > len(s.dir) && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
	return s.syncAbove(filepath.Join(dir, "x"))
}

// List implements objstore.Remote.
func (s *Store) List(ctx context.Context, prefix, delimiter string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		dir, _ := filepath.Split(filepath.FromSlash(prefix))
		done := errors.New("no more is wanted")
		err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
				return nil // deleted meanwhile, or never there
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			below, err := filepath.Rel(s.dir, path)
			if err != nil {
				return err
			}
			name := filepath.ToSlash(below)
			if d.IsDir() {
				switch {
				case name == own:
					return fs.SkipDir
				case name == "." || len(prefix) > len(name)+1 && strings.HasPrefix(prefix, name+"/"):
					return nil
				case !strings.HasPrefix(name+"/", prefix):
					return fs.SkipDir
				}
				if delimiter != "" && name+"/" != prefix {
					if !yield(objstore.Object{Name: name + "/"}, nil) {
						return done
					}
					return fs.SkipDir
				}
				entries, err := os.ReadDir(path)
				if err != nil || len(entries) > 0 && !s.view {
					return nil
				}
				name += "/"
			}
			info, err := d.Info()
			if err != nil || !strings.HasPrefix(name, prefix) || s.hides(info.Mode()) {
				return nil
			}
			o := objstore.Object{Name: name, Size: info.Size(), Modified: info.ModTime()}
			if d.IsDir() {
				o.Size = 0
			}
			if !yield(o, nil) {
				return done
			}
			return nil
		})
		if err != nil && !errors.Is(err, done) {
			yield(objstore.Object{}, translate("list", err))
		}
	}
}

// translate gives an error of the file system a code and takes the path away.
func translate(op string, err error) error {
	if err == nil {
		return nil
	}
	code := mesh.CodeOf(err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code = mesh.CodeQuota
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, fs.ErrExist):
		code = mesh.CodeConflict
	}
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		err = path.Err
	case errors.As(err, &link):
		err = link.Err
	}
	var coded *mesh.Error
	if errors.As(err, &coded) {
		return fmt.Errorf("%s: %w", op, err)
	}
	return fmt.Errorf("%s: %w", op, mesh.Errorf(code, "%s", err))
}
