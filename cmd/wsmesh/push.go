package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// getObjects copies a file, or a directory with all that is below it, to where a URL
// says.
func getObjects(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	info, err := ws.Stat(cmd.Context(), from)
	if err != nil {
		return err
	}
	o, err := openObjects(cmd.Context(), to, false)
	switch {
	case err != nil:
		return err
	case info.Type == "dir" && o.name != "":
		return mesh.Errorf(mesh.CodeInvalid, "%s is a directory; name the place of all that is below it: %s", shownName(from), below(to))
	case info.Type == "dir":
		return o.getAll(cmd, ws, from)
	case o.name == "":
		return mesh.Errorf(mesh.CodeInvalid, "%s is no directory; name the object it becomes, without a slash at the end of the URL", shownName(from))
	}
	p := newProgress(cmd, "get", info.Size, nil)
	defer p.end()
	return o.getOne(cmd.Context(), ws, from, o.name, p)
}

// getOne stores a file of the workspace.
func (o objects) getOne(ctx context.Context, ws *client.Workspace, from, name string, p *progress) error {
	info, err := ws.Stat(ctx, from)
	if err != nil {
		return err
	}
	return piped(func(w io.Writer) error { return ws.Get(ctx, from, p.writer(w)) }, func(r io.Reader) error {
		return o.store(ctx, name, r, info.Size, fileMeta(fs.FileMode(info.Mode), info.ModTime))
	})
}

// getAll stores what is below a directory of the workspace.
func (o objects) getAll(cmd *cobra.Command, ws *client.Workspace, from string) error {
	p := newProgress(cmd, "get", -1, nil)
	defer p.end()
	g, ctx := errgroup.WithContext(cmd.Context())
	g.SetLimit(objectsAhead)
	err := piped(func(w io.Writer) error { return ws.GetDir(ctx, from, p.writer(w)) }, func(r io.Reader) error {
		in := tar.NewReader(r)
		for ctx.Err() == nil {
			hdr, err := in.Next()
			if errors.Is(err, io.EOF) {
				_, err = io.Copy(io.Discard, r) // the stream's own end comes after the archive's
				return err
			}
			if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
				return err
			}
			if err := o.entry(ctx, g, hdr, in, p.notes(cmd.ErrOrStderr())); err != nil {
				return err
			}
			if hdr.Typeflag == tar.TypeLink { // an object has one name
				name := path.Clean(hdr.Name)
				g.Go(func() error { return o.getOne(ctx, ws, path.Join(from, hdr.Linkname), name, p) })
			}
		}
		return ctx.Err()
	})
	if storeErr := g.Wait(); storeErr != nil {
		err = storeErr
	}
	if err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "not all of %s is stored: %s", shownName(from), errorText(err))
	}
	return nil
}

// entry stores an entry of a tar stream, a small one beside others.
func (o objects) entry(ctx context.Context, g *errgroup.Group, hdr *tar.Header, in io.Reader, notes io.Writer) error {
	name, meta, size := path.Clean(hdr.Name), fileMeta(fs.FileMode(hdr.Mode), hdr.ModTime), hdr.Size
	switch hdr.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		if name == "." {
			return nil
		}
		name, size = name+"/", 0
	case tar.TypeSymlink:
		in, size = strings.NewReader(hdr.Linkname), int64(len(hdr.Linkname))
		meta[metaSymlink] = "true"
	case tar.TypeLink:
		return nil
	default:
		fmt.Fprintf(notes, "wsmesh: %s is left out: it is no file, directory or link\n", shownName(name))
		return nil
	}
	if size > smallObject {
		return o.store(ctx, name, in, size, meta)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(in, data); err != nil {
		return err
	}
	g.Go(func() error { return o.store(ctx, name, bytes.NewReader(data), size, meta) })
	return nil
}
