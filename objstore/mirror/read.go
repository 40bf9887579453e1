package mirror

import (
	"context"
	"io"
	"iter"
	"regexp"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// OpenFiles returns the readable copy that the directory dir of a remote is, or is in, as
// a Remote that is only read: its names are those that the files have in the workspace,
// below dir. It returns nil where no copy is; its state object says that one is.
func OpenFiles(ctx context.Context, r objstore.Remote, dir string) (objstore.Remote, error) {
	for i := range dir {
		if !strings.HasPrefix(dir[i:], filesDir) || !ofWorkspace.MatchString(dir[:i]) {
			continue
		}
		var state Files
		version, err := getJSON(ctx, r, dir[:i]+"files.json", &state)
		if err != nil {
			return nil, err
		}
		if version != "" {
			return &filesView{objstore.Below(r, dir[:i]), unescape(dir[i+len(filesDir):])}, nil
		}
	}
	return nil, nil
}

// ofWorkspace is what the names of the objects of a workspace begin with.
var ofWorkspace = regexp.MustCompile(`(^|/)tenants/[^/]+/workspaces/[^/]+/$`)

// filesView is a readable copy, or a directory of it.
type filesView struct {
	at  objstore.Remote // the objects of the workspace
	dir string          // "" or ends with a slash
}

func (v *filesView) object(name string) string {
	p, isDir := strings.CutSuffix(v.dir+name, "/")
	return fileName(p, isDir)
}

// Get implements objstore.Remote.
func (v *filesView) Get(ctx context.Context, name string, offset int64, n int) ([]byte, objstore.Object, error) {
	data, o, err := v.at.Get(ctx, v.object(name), offset, n)
	o.Name = name
	return data, o, err
}

// Stat implements objstore.Remote.
func (v *filesView) Stat(ctx context.Context, name string) (objstore.Object, error) {
	o, err := v.at.Stat(ctx, v.object(name))
	o.Name = name
	return o, err
}

// List implements objstore.Remote, but for its order and the delimiter. What has too long
// a name comes last.
func (v *filesView) List(ctx context.Context, prefix, _ string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		for o, err := range v.at.List(ctx, filesDir+escape(v.dir+prefix), "") {
			o.Name = strings.TrimPrefix(unescape(strings.TrimPrefix(o.Name, filesDir)), v.dir)
			if !yield(o, err) || err != nil {
				return
			}
		}
		for o, err := range v.at.List(ctx, overflowDir, "") {
			object, end := o.Name, ""
			if strings.HasSuffix(object, pathOf) || object == overflowDir {
				continue
			}
			var p []byte
			if err == nil {
				if strings.HasSuffix(object, "/") {
					end = "/"
				}
				p, _, err = objstore.GetSmall(ctx, v.at, strings.TrimSuffix(object, end)+pathOf)
			}
			name, below := strings.CutPrefix(string(p)+end, v.dir+prefix)
			if o.Name = prefix + name; (below || err != nil) && !yield(o, err) || err != nil {
				return
			}
		}
	}
}

var errReadable = mesh.Errorf(mesh.CodeUnsupported, "a readable copy is only read")

// Put implements objstore.Remote: it is CodeUnsupported.
func (v *filesView) Put(context.Context, string, io.Reader, int64, objstore.PutOptions) (string, error) {
	return "", errReadable
}

// Delete implements objstore.Remote: it is CodeUnsupported.
func (v *filesView) Delete(context.Context, string) error { return errReadable }
