package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newPut() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "put [-w WORKSPACE] SRC DST",
		Short: "Copy a local file or directory into a workspace",
		Long: "Copy the local SRC into a workspace as DST. '-' is standard input. A directory SRC makes DST that directory.\n" +
			"A path of a workspace has slashes whatever the local system has. A terminal shows how far it is.",
		Args: between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error { return put(cmd, ws, args[0], args[1]) })
		},
	}
	p.bind(cmd)
	return cmd
}

func put(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	if from == "-" {
		return putStream(cmd, ws, cmd.InOrStdin(), to, fs.FileMode(0), -1)
	}
	f, err := os.Open(from)
	if err != nil {
		return local(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return local(err)
	}
	if info.IsDir() {
		return putDir(cmd, ws, from, to)
	}
	if !info.Mode().IsRegular() { // the mode of a pipe says nothing about the content
		return putStream(cmd, ws, f, to, 0, -1)
	}
	return putStream(cmd, ws, f, to, localPerm(info), info.Size())
}

// putStream writes a file of size bytes; -1 is an unknown number.
func putStream(cmd *cobra.Command, ws *client.Workspace, in io.Reader, to string, perm fs.FileMode, size int64) error {
	p := newProgress(cmd, "put", size, in)
	defer p.end()
	return ws.Put(cmd.Context(), to, p.reader(in), perm)
}

func putDir(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return local(err)
	}
	defer root.Close()
	p := newProgress(cmd, "put", -1, nil)
	defer p.end()
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(pack(root, w, p.notes(cmd.ErrOrStderr())))
	}()
	err = ws.PutDir(cmd.Context(), to, p.reader(r))
	r.Close() // ends the packing where the mesh gave up first
	<-packed
	return local(err)
}

func newGet() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "get [-w WORKSPACE] SRC DST",
		Short: "Copy a file or directory of a workspace to this machine",
		Long: "Copy SRC of a workspace to the local DST. '-' is standard output. A directory SRC makes DST that directory.\n" +
			"A path of a workspace has slashes whatever the local system has. A terminal shows how far it is.",
		Args: between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error { return get(cmd, ws, args[0], args[1]) })
		},
	}
	p.bind(cmd)
	return cmd
}

func get(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	info, err := ws.Stat(cmd.Context(), from)
	if err != nil {
		return err
	}
	switch {
	case info.Type == "dir" && to == "-":
		return mesh.Errorf(mesh.CodeInvalid, "%s is a directory: name a local directory instead of '-'", from)
	case info.Type == "dir":
		return getDir(cmd, ws, from, to)
	}
	out := any(nil)
	if to == "-" {
		out = cmd.OutOrStdout()
	}
	p := newProgress(cmd, "get", info.Size, out)
	defer p.end()
	if to == "-" {
		return ws.Get(cmd.Context(), from, p.writer(cmd.OutOrStdout()))
	}
	return getFile(cmd.Context(), ws, from, to, fs.FileMode(info.Mode).Perm(), p)
}

// getFile puts the file in place when it is whole. What exists and is no
// regular file, such as /dev/null or a pipe, is written to instead.
func getFile(ctx context.Context, ws *client.Workspace, from, to string, perm fs.FileMode, p *progress) (err error) {
	old, statErr := os.Stat(to)
	if statErr == nil && old.IsDir() {
		return mesh.Errorf(mesh.CodeExists, "%s is a directory; name the file in it: %s", to, filepath.Join(to, path.Base(from)))
	}
	if statErr == nil && !old.Mode().IsRegular() {
		f, err := os.OpenFile(to, os.O_WRONLY, 0)
		if err != nil {
			return local(err)
		}
		return errors.Join(ws.Get(ctx, from, f), f.Close())
	}
	if resolved, err := filepath.EvalSymlinks(to); err == nil {
		to = resolved // a link stays a link
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), ".wsmesh-*")
	if err != nil {
		return local(err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	err = ws.Get(ctx, from, p.writer(tmp))
	if err == nil {
		err = tmp.Chmod(perm)
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	return local(err)
}

func getDir(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	if err := os.MkdirAll(to, 0o777); err != nil {
		return local(err)
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return local(err)
	}
	defer root.Close()
	p := newProgress(cmd, "get", -1, nil)
	defer p.end()
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	r, w := io.Pipe()
	fetched := make(chan struct{})
	go func() {
		defer close(fetched)
		w.CloseWithError(ws.GetDir(ctx, from, p.writer(w)))
	}()
	err = unpack(root, r, p.notes(cmd.ErrOrStderr()))
	if err == nil {
		_, err = io.Copy(io.Discard, r) // the stream's own end comes after the archive's
	}
	cancel()
	r.Close()
	<-fetched
	return local(err)
}

// localPerm is what a local file's mode says about it in a workspace: nothing on
// Windows, whose modes only tell read-only files from others.
func localPerm(info fs.FileInfo) fs.FileMode {
	if runtime.GOOS == "windows" {
		return 0
	}
	return info.Mode().Perm()
}

// local gives an error of this machine's files a code; others stay.
func local(err error) error {
	var coded *mesh.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return mesh.Errorf(mesh.CodeOf(err), "%s", fmt.Sprint(err))
}
