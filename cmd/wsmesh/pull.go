package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// What a transfer of objects holds in memory: so many of them, whole up to
// smallObject, and a part of a larger one.
const (
	objectsAhead = 8
	smallObject  = 1 << 20
	objectPart   = 8 << 20
)

// createFrom makes a workspace of what is below a URL.
func createFrom(cmd *cobra.Command, t *target, name, from string, settings mesh.Settings) error {
	from = below(from)
	o, err := openObjects(cmd.Context(), from, true)
	if err != nil {
		return err
	}
	size, err := o.check(cmd.Context())
	if err != nil {
		return err
	}
	return t.withClient(cmd.Context(), func(c *client.Client) error {
		if err := c.CreateWorkspaceWith(cmd.Context(), name, settings); err != nil {
			return err
		}
		if err := o.putAll(cmd, c.Workspace(name), ".", size); err != nil {
			return mesh.Errorf(mesh.CodeOf(err), "workspace %s is made and not filled: %s; go on with: wsmesh put -w %s %s . or remove it: wsmesh workspace rm %s",
				name, errorText(err), name, shellQuote(from), name)
		}
		return nil
	})
}

// putObjects copies what a URL names into the workspace.
func (o putOptions) putObjects(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	src, err := openObjects(cmd.Context(), from, true)
	switch {
	case err != nil:
		return err
	case src.name != "":
		return o.putObject(cmd, ws, src, to)
	case o != putOptions{}:
		return wrongUse(cmd, "--if-match and --create-only are of one file, and SRC is all that is below a URL")
	}
	size, err := src.check(cmd.Context())
	if err != nil {
		return err
	}
	return src.putAll(cmd, ws, to, size)
}

func (o putOptions) putObject(cmd *cobra.Command, ws *client.Workspace, src objects, to string) error {
	ctx := cmd.Context()
	obj, err := src.r.Stat(ctx, src.name)
	if mesh.CodeOf(err) == mesh.CodeNotFound {
		return src.missing()
	}
	if err != nil {
		return err
	}
	if obj.Meta[metaSymlink] == "true" && o == (putOptions{}) {
		target, err := src.target(ctx, obj, nil)
		if err != nil {
			return err
		}
		return ws.Symlink(ctx, target, to)
	}
	p := newProgress(cmd, "put", obj.Size, nil)
	defer p.end()
	return piped(func(w io.Writer) error { return src.copy(ctx, p.writer(w), obj) }, func(r io.Reader) error {
		return ws.Put(ctx, to, r, objectMode(obj, 0), o.options()...)
	})
}

// check finds out that all objects can be files, and returns the sum of their bytes.
func (o objects) check(ctx context.Context) (size int64, err error) {
	n, names := 0, crossing{}
	for obj, err := range o.r.List(ctx, "", "") {
		if err != nil {
			return 0, err
		}
		if obj.Name == "" { // the directory itself
			continue
		}
		if err := checkObject(obj); err != nil {
			return 0, err
		}
		if err := names.add(obj.Name); err != nil {
			return 0, err
		}
		n++
		size += obj.Size
	}
	if n == 0 {
		return 0, o.missing()
	}
	return size, nil
}

// putAll makes the directory to of all objects, whose bytes are size.
func (o objects) putAll(cmd *cobra.Command, ws *client.Workspace, to string, size int64) error {
	p := newProgress(cmd, "put", size, nil)
	defer p.end()
	return putTar(cmd, ws, o.url, to, func(out io.Writer) error {
		w := tar.NewWriter(out)
		err := o.each(cmd.Context(), func(obj objstore.Object, data []byte) error { return o.pack(cmd.Context(), w, p, obj, data) })
		if err != nil {
			return err
		}
		return w.Close()
	})
}

// each calls do for each object in the order of the list, with its content where that
// is small, while it fetches the next ones.
func (o objects) each(ctx context.Context, do func(objstore.Object, []byte) error) error {
	type fetched struct {
		obj  objstore.Object
		data []byte
	}
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan chan fetched, objectsAhead)
	g.Go(func() error {
		defer close(queue)
		for obj, err := range o.r.List(ctx, "", "") {
			if err != nil {
				return err
			}
			if obj.Name == "" {
				continue
			}
			c := make(chan fetched, 1)
			select {
			case queue <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error {
				now, data, err := o.fetch(ctx, obj)
				if err == nil {
					c <- fetched{now, data}
				}
				return err
			})
		}
		return nil
	})
	g.Go(func() error {
		for c := range queue {
			select {
			case f := <-c:
				if err := do(f.obj, f.data); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return g.Wait()
}

// fetch returns a listed object with its metadata, and its content if it is small.
func (o objects) fetch(ctx context.Context, listed objstore.Object) (obj objstore.Object, data []byte, err error) {
	if listed.Size > smallObject {
		obj, err = o.r.Stat(ctx, listed.Name)
	} else if data, obj, err = o.r.Get(ctx, listed.Name, 0, smallObject); err == nil && int64(len(data)) != obj.Size {
		err = changed(listed.Name)
	}
	obj.Modified = listed.Modified
	return obj, data, err
}

func changed(name string) error {
	return mesh.Errorf(mesh.CodeConflict, "object %q changed while it was being read; start over", name)
}

// pack writes an object as an entry of a tar stream.
func (o objects) pack(ctx context.Context, w *tar.Writer, p *progress, obj objstore.Object, data []byte) error {
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: obj.Name, Size: obj.Size, Mode: int64(objectMode(obj, 0o644)), ModTime: objectTime(obj), Format: tar.FormatPAX}
	switch {
	case obj.Name[len(obj.Name)-1] == '/':
		hdr.Typeflag, hdr.Mode = tar.TypeDir, int64(objectMode(obj, 0o755))
	case obj.Meta[metaSymlink] == "true":
		target, err := o.target(ctx, obj, data)
		if err != nil {
			return err
		}
		hdr.Typeflag, hdr.Linkname, hdr.Size, hdr.Mode = tar.TypeSymlink, target, 0, int64(fs.ModePerm)
	}
	if err := w.WriteHeader(hdr); err != nil {
		return mesh.About(shownName(obj.Name), err)
	}
	if hdr.Typeflag != tar.TypeReg {
		return nil
	}
	if data != nil || obj.Size == 0 {
		_, err := io.Copy(p.writer(w), bytes.NewReader(data))
		return err
	}
	return o.copy(ctx, p.writer(w), obj)
}

// target is where a symbolic link leads, whose content may have been read already.
func (o objects) target(ctx context.Context, obj objstore.Object, data []byte) (string, error) {
	if data == nil {
		var err error
		if data, _, err = o.r.Get(ctx, obj.Name, 0, mesh.MaxPathBytes+1); err != nil {
			return "", err
		}
	}
	if len(data) == 0 || len(data) > mesh.MaxPathBytes || bytes.IndexByte(data, 0) >= 0 {
		return "", mesh.Errorf(mesh.CodeInvalid, "object %q cannot be a symbolic link: its content is no path", obj.Name)
	}
	return string(data), nil
}

// copy writes the content of an object, part after part. obj is what Stat said.
func (o objects) copy(ctx context.Context, w io.Writer, obj objstore.Object) error {
	for at := int64(0); at < obj.Size; {
		data, now, err := o.r.Get(ctx, obj.Name, at, objectPart)
		if err != nil {
			return err
		}
		if now.Size != obj.Size || len(data) == 0 {
			return changed(obj.Name)
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		at += int64(len(data))
	}
	if now, err := o.r.Stat(ctx, obj.Name); err != nil || now.Version != obj.Version || now.Size != obj.Size {
		return changed(obj.Name)
	}
	return nil
}
