package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
	"github.com/wsmesh/wsmesh/objstore/mirror"
	"github.com/wsmesh/wsmesh/objstore/s3bucket"
)

// urlHelp says what put and get make of a URL.
const urlHelp = "A URL in place of the local name, s3://BUCKET/NAME?endpoint=URL&region=REGION or file:///DIR/NAME, is an object,\n" +
	"and with a slash at its end all that is below it. Metadata mode, mtime and symlink are what a file is; an object\n" +
	"whose name ends with a slash is a directory. Keys are where the AWS SDK finds them, such as AWS_ACCESS_KEY_ID.\n"

// objects is what a URL names: an object, or all that are below it.
type objects struct {
	url  string
	r    objstore.Remote // of the directory that it is in
	name string          // "": all that r shows
}

func isURL(s string) bool { return strings.HasPrefix(s, "s3://") || strings.HasPrefix(s, "file://") }

// below is the URL of all that is below the one that at names.
func below(at string) string {
	u, err := url.Parse(at)
	if err != nil || strings.HasSuffix(u.Path, "/") {
		return at
	}
	u.Path, u.RawPath = u.Path+"/", ""
	return u.String()
}

// openObjects opens what is at a URL. For reading it makes nothing there, and all that is
// below a directory of a mirror's readable copy has the names that the files have.
func openObjects(ctx context.Context, at string, reading bool) (objects, error) {
	o, root, dir, err := openAt(ctx, at, reading)
	if err != nil || !reading || o.name != "" {
		return o, err
	}
	files, err := mirror.OpenFiles(ctx, root, dir)
	if err == nil && files != nil {
		o.r = files
	}
	return o, err
}

// openAt returns the objects at a URL as they are, and the remote and the directory in it
// that they are in.
func openAt(ctx context.Context, at string, reading bool) (o objects, root objstore.Remote, dir string, err error) {
	u, err := url.Parse(at)
	switch {
	case err != nil || !isURL(at):
		return objects{}, nil, "", mesh.Errorf(mesh.CodeInvalid, "%.200q is no URL of objects; write s3://BUCKET/NAME or file:///DIR/NAME, with %%20 for a space and so on", at)
	case u.Fragment != "":
		return objects{}, nil, "", mesh.Errorf(mesh.CodeInvalid, "%.200q has a #, behind which nothing is a name; write %%23 for one in a name", at)
	case u.Scheme == "file":
		return openFileURL(u, at, reading)
	}
	dir, name := path.Split(strings.TrimPrefix(u.Path, "/"))
	u.Path, u.RawPath = "/", ""
	r, err := s3Remote(s3bucket.Open(ctx, u.String()))
	if err != nil {
		return objects{}, nil, "", err
	}
	return objects{url: at, r: objstore.Below(r, dir), name: name}, r, dir, nil
}

// openFileURL is openObjects of a file:// URL. The metadata of files are at the root of
// their store.
func openFileURL(u *url.URL, at string, reading bool) (o objects, root objstore.Remote, below string, err error) {
	if u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || !fs.ValidPath(strings.Trim(u.Path, "/")) {
		return objects{}, nil, "", mesh.Errorf(mesh.CodeInvalid, "%.200q is not file:///DIR with an absolute path", at)
	}
	dir, name := filepath.Split(u.Path)
	dir = filepath.Clean(dir)
	top := dirbucket.Root(dir)
	store := dirbucket.View(top)
	if reading {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return objects{}, nil, "", mesh.Errorf(mesh.CodeNotFound, "there is no local directory %s", dir)
		}
	} else {
		var err error
		if store, err = dirbucket.OpenStore(top); err != nil {
			return objects{}, nil, "", mesh.About(at, err)
		}
	}
	prefix, err := filepath.Rel(top, dir)
	if err != nil {
		return objects{}, nil, "", local(err)
	}
	if prefix += "/"; prefix == "./" {
		prefix = ""
	}
	prefix = filepath.ToSlash(prefix)
	return objects{url: at, r: objstore.Below(store, prefix), name: name}, store, prefix, nil
}

// missing is what to say where nothing is.
func (o objects) missing() error {
	if o.name == "" {
		return mesh.Errorf(mesh.CodeNotFound, "nothing is below %s", o.url)
	}
	return mesh.Errorf(mesh.CodeNotFound, "there is no object %s; with a slash at its end a URL names all that is below it", o.url)
}

// checkObject refuses an object whose name can be no path of a workspace.
func checkObject(o objstore.Object) error {
	why := "names between slashes must not be empty, . or .."
	name, isDir := strings.CutSuffix(o.Name, "/")
	clean, err := mesh.ResolvePath(".", name)
	switch {
	case err != nil:
		why = errorText(err)
	case isDir && o.Size > 0:
		why = "what ends with a slash is a directory, and this has content"
	case name != "" && name != "." && clean == name:
		return nil
	}
	return mesh.Errorf(mesh.CodeInvalid, "object %q cannot be a file: %s", o.Name, why)
}

// crossing finds an object that is a directory of others too, in names that come in
// the order of their bytes.
type crossing struct{ files []string } // each begins with the one before

func (c *crossing) add(name string) error {
	for n := len(c.files); n > 0 && !strings.HasPrefix(name, c.files[n-1]); n-- {
		c.files = c.files[:n-1]
	}
	for _, f := range c.files {
		if strings.HasPrefix(name, f+"/") {
			return mesh.Errorf(mesh.CodeInvalid, "object %q cannot be a file: it is a directory of %q too", f, name)
		}
	}
	if !strings.HasSuffix(name, "/") {
		c.files = append(c.files, name)
	}
	return nil
}

// The metadata of objects that say what a file is.
const (
	metaMode    = "mode"    // octal with a leading 0 or of four digits; else decimal, as s3fs writes it
	metaTime    = "mtime"   // seconds since 1970, with a fraction
	metaSymlink = "symlink" // "true": the content is the target
)

// objectMode is an object's mode; other where it has none.
func objectMode(o objstore.Object, other fs.FileMode) fs.FileMode {
	text, base := o.Meta[metaMode], 10
	if strings.HasPrefix(text, "0") || len(text) == len("4755") { // one of s3fs has the type too, and five digits
		base = 8
	}
	m, err := strconv.ParseUint(text, base, 32)
	if err != nil {
		return other
	}
	return fs.FileMode(m) & fs.ModePerm
}

// objectTime is when an object's file was changed; when the object was stored if that
// is not said.
func objectTime(o objstore.Object) time.Time {
	whole, fraction, _ := strings.Cut(o.Meta[metaTime], ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	nano, fractionErr := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if err != nil || fractionErr != nil {
		return o.Modified
	}
	return time.Unix(sec, int64(nano))
}

// fileMeta is the metadata of a file.
func fileMeta(mode fs.FileMode, t time.Time) map[string]string {
	return map[string]string{metaMode: fmt.Sprintf("%04o", mode.Perm()), metaTime: fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())}
}

// store stores a file's content as an object. What fails is named.
func (o objects) store(ctx context.Context, name string, in io.Reader, size int64, meta map[string]string) error {
	if !utf8.ValidString(name) {
		return mesh.Errorf(mesh.CodeInvalid, "%s cannot be the name of an object: it is not UTF-8", strconv.Quote(name))
	}
	_, err := o.r.Put(ctx, name, in, size, objstore.PutOptions{Meta: meta})
	return err
}
