package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newPut() *cobra.Command {
	var p place
	var o putOptions
	cmd := &cobra.Command{
		Use:   "put [-w WORKSPACE] SRC DST",
		Short: "Copy a local file or directory into a workspace",
		Long: "Copy the local SRC into a workspace as DST. '-' is standard input. A directory SRC makes DST that directory,\n" +
			"and where DST is one already merges with it: other names there stay.\n" + urlHelp +
			"A path of a workspace has slashes whatever the local system has. A terminal shows how far it is.",
		Args: between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] == "-" {
				return wrongUse(cmd, "DST is a name in the workspace; a file called - is ./-")
			}
			return p.with(cmd.Context(), func(ws *client.Workspace) error { return o.put(cmd, ws, args[0], args[1]) })
		},
	}
	p.bind(cmd)
	cmd.Flags().StringVar(&o.ifMatch, "if-match", "", "write only if the file has this revision (stat --json)")
	cmd.Flags().BoolVar(&o.createOnly, "create-only", false, "write only if nothing is there")
	return cmd
}

// putOptions are the conditions of a put.
type putOptions struct {
	ifMatch    string
	createOnly bool
}

func (o putOptions) options() (opts []client.FileOption) {
	if o.ifMatch != "" {
		opts = append(opts, client.IfMatch(o.ifMatch))
	}
	if o.createOnly {
		opts = append(opts, client.CreateOnly())
	}
	return opts
}

func (o putOptions) put(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	if isURL(from) {
		return o.putObjects(cmd, ws, from, to)
	}
	if from == "-" {
		return o.stream(cmd, ws, cmd.InOrStdin(), to, fs.FileMode(0), -1)
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
		if o != (putOptions{}) {
			return wrongUse(cmd, "--if-match and --create-only are of one file, and SRC is a directory")
		}
		return putDir(cmd, ws, from, to)
	}
	if !info.Mode().IsRegular() { // the mode of a pipe says nothing about the content
		return o.stream(cmd, ws, f, to, 0, -1)
	}
	return o.stream(cmd, ws, f, to, localPerm(info), info.Size())
}

// stream writes a file of size bytes; -1 is an unknown number.
func (o putOptions) stream(cmd *cobra.Command, ws *client.Workspace, in io.Reader, to string, perm fs.FileMode, size int64) error {
	p := newProgress(cmd, "put", size, in)
	defer p.end()
	return ws.Put(cmd.Context(), to, p.reader(in), perm, o.options()...)
}

func putDir(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return local(err)
	}
	defer root.Close()
	p := newProgress(cmd, "put", -1, nil)
	defer p.end()
	return putTar(cmd, ws, from, to, func(w io.Writer) error { return pack(root, p.writer(w), p.notes(cmd.ErrOrStderr())) })
}

// putTar makes the directory to of the tar stream that pack writes of from.
func putTar(cmd *cobra.Command, ws *client.Workspace, from, to string, pack func(io.Writer) error) error {
	err := piped(pack, func(r io.Reader) error { return ws.PutDir(cmd.Context(), to, r) })
	if err != nil {
		if info, statErr := ws.Stat(cmd.Context(), to); statErr == nil && info.Type != "dir" {
			return mesh.Errorf(mesh.CodeInvalid, "%s is a directory and %s in the workspace is not; choose another DST, or remove that first: wsmesh rm %s", from, to, shellQuote(to))
		}
	}
	return local(err)
}

// piped has read read what write writes, and returns when both have ended. The error
// is read's, to which one of write comes as its reader's.
func piped(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.CloseWithError(write(w))
	}()
	err := read(r)
	r.Close() // ends the writing where reading ended first
	<-written
	return err
}

func newGet() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "get [-w WORKSPACE] SRC DST",
		Short: "Copy a file or directory of a workspace to this machine",
		Long: "Copy SRC of a workspace to the local DST. '-' is standard output. A directory SRC makes DST that directory,\n" +
			"and where DST is one already merges with it: other names there stay.\n" + urlHelp +
			"A path of a workspace has slashes whatever the local system has. A terminal shows how far it is.",
		Args: between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				return wrongUse(cmd, "SRC is a name in the workspace; a file called - is ./-")
			}
			return p.with(cmd.Context(), func(ws *client.Workspace) error { return get(cmd, ws, args[0], args[1]) })
		},
	}
	p.bind(cmd)
	p.bindAt(cmd)
	return cmd
}

func get(cmd *cobra.Command, ws *client.Workspace, from, to string) error {
	if isURL(to) {
		return getObjects(cmd, ws, from, to)
	}
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
	if to == "-" {
		return getStream(cmd, ws, from, cmd.OutOrStdout(), info.Size)
	}
	old, err := os.Stat(to)
	switch {
	case err == nil && old.IsDir():
		return mesh.Errorf(mesh.CodeExists, "%s is a directory; name the file in it: %s", to, filepath.Join(to, path.Base(from)))
	case err == nil && !old.Mode().IsRegular(): // such as /dev/null or a pipe
		f, err := os.OpenFile(to, os.O_WRONLY, 0)
		if err != nil {
			return local(err)
		}
		return errors.Join(getStream(cmd, ws, from, f, info.Size), f.Close())
	}
	p := newProgress(cmd, "get", info.Size, nil)
	defer p.end()
	return getFile(cmd.Context(), ws, from, to, fs.FileMode(info.Mode).Perm(), p)
}

// getStream writes a file of size bytes to what is open already.
func getStream(cmd *cobra.Command, ws *client.Workspace, from string, out io.Writer, size int64) error {
	p := newProgress(cmd, "get", size, out)
	defer p.end()
	return ws.Get(cmd.Context(), from, p.writer(out))
}

// getFile puts the file in place when it is whole.
func getFile(ctx context.Context, ws *client.Workspace, from, to string, perm fs.FileMode, p *progress) (err error) {
	if resolved, err := filepath.EvalSymlinks(to); err == nil {
		to = resolved // a link stays a link
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), ".wsmesh-*")
	if err != nil {
		return noPlace(filepath.Dir(to), err)
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
		return noPlace(to, err)
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

// noPlace says that nothing can be put into a directory of this machine.
func noPlace(dir string, err error) error {
	var why *fs.PathError // whose path may be one that nobody has named
	if errors.As(err, &why) {
		err = why.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return mesh.Errorf(mesh.CodeNotFound, "there is no local directory %s; make it first: mkdir -p %s", dir, shellQuote(dir))
	case errors.Is(err, syscall.ENOTDIR):
		return mesh.Errorf(mesh.CodeInvalid, "%s is no local directory; name another place", dir)
	}
	return mesh.Errorf(mesh.CodeOf(err), "local directory %s: %s", dir, err)
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
	err = written(err)
	return mesh.Errorf(mesh.CodeOf(err), "%s", errorText(err))
}
