package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
)

// pack writes what is below root as a tar stream: modes, modification times,
// symbolic links, FIFOs and empty directories are kept, several names of one
// file become several files. Sockets and devices are named on notes.
func pack(root *os.Root, out io.Writer, notes io.Writer) error {
	w := tar.NewWriter(out)
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since the directory was read
		}
		if err != nil {
			return err
		}
		if info.Mode()&(fs.ModeSocket|fs.ModeDevice|fs.ModeIrregular) != 0 {
			fmt.Fprintf(notes, "wsmesh: %s is left out: it is no file, directory, link or FIFO\n", shownName(name))
			return nil
		}
		return packOne(root, w, name, info)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func packOne(root *os.Root, w *tar.Writer, name string, info fs.FileInfo) error {
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = root.Readlink(name); err != nil {
			return err
		}
		target = filepath.ToSlash(target)
	}
	hdr, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	hdr.Name, hdr.Format = name, tar.FormatPAX // PAX for times below a second
	if info.IsDir() {
		hdr.Name += "/"
	}
	if runtime.GOOS == "windows" && target == "" { // its modes only tell read-only files from others
		hdr.Mode = 0o644
		if info.IsDir() {
			hdr.Mode = 0o755
		}
	}
	hdr.Uid, hdr.Gid, hdr.Uname, hdr.Gname = 0, 0, "", ""
	hdr.AccessTime, hdr.ChangeTime = hdr.ModTime, hdr.ModTime
	if !info.Mode().IsRegular() {
		return w.WriteHeader(hdr)
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.WriteHeader(hdr); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, hdr.Size) // what it grows by meanwhile is left out
	if errors.Is(err, io.EOF) {
		return mesh.Errorf(mesh.CodeConflict, "%s became shorter while it was being read; start over", name)
	}
	return err
}

// unpack extracts a tar stream below root and, whatever the stream says, nowhere
// else: root refuses names and links that lead out of it. Set-user-id bits and
// owners are not taken over; FIFOs are named on notes.
func unpack(root *os.Root, in io.Reader, notes io.Writer) error {
	r := tar.NewReader(in)
	var dirs []*tar.Header // their modes and times come last: they may forbid writing
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		if runtime.GOOS == "windows" && strings.ContainsAny(hdr.Name, `\:*?"<>|`) { // backslashes separate there
			fmt.Fprintf(notes, "wsmesh: %s is left out: Windows has no such names\n", shownName(hdr.Name))
			continue
		}
		name := filepath.Clean(filepath.FromSlash(hdr.Name))
		if !filepath.IsLocal(name) {
			return mesh.Errorf(mesh.CodeDenied, "the archive names %q, which is outside of the directory", hdr.Name)
		}
		hdr.Name = name
		if hdr.Typeflag == tar.TypeDir {
			dirs = append(dirs, hdr)
		}
		if err := unpackOne(root, r, hdr, notes); err != nil {
			return fmt.Errorf("%s: %w", shownName(name), err)
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		hdr := dirs[i]
		if err := finish(root, hdr); err != nil {
			return err
		}
	}
	return nil
}

func unpackOne(root *os.Root, in io.Reader, hdr *tar.Header, notes io.Writer) error {
	if hdr.Typeflag == tar.TypeDir {
		return unpackDir(root, hdr.Name)
	}
	if err := root.MkdirAll(filepath.Dir(hdr.Name), 0o777); err != nil {
		return err
	}
	// The old name goes first: writing through a link would change another file.
	if err := root.Remove(hdr.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		return unpackFile(root, in, hdr)
	case tar.TypeSymlink:
		err := root.Symlink(hdr.Linkname, hdr.Name)
		if err != nil && runtime.GOOS == "windows" { // it takes a right there that few users have
			fmt.Fprintf(notes, "wsmesh: %s is left out: %s\n", shownName(hdr.Name), err)
			return nil
		}
		return err
	case tar.TypeLink:
		return root.Link(filepath.FromSlash(hdr.Linkname), hdr.Name)
	}
	fmt.Fprintf(notes, "wsmesh: %s is left out: it is no file, directory or link\n", shownName(hdr.Name))
	return nil
}

// unpackDir keeps a directory that exists and replaces anything else; a link to
// a directory would lead the entries below it elsewhere.
func unpackDir(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err == nil && info.IsDir() {
		return root.Chmod(name, 0o700|info.Mode().Perm())
	}
	if err == nil {
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	return root.MkdirAll(name, 0o700)
}

func unpackFile(root *os.Root, in io.Reader, hdr *tar.Header) error {
	f, err := root.OpenFile(hdr.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return finish(root, hdr)
}

func finish(root *os.Root, hdr *tar.Header) error {
	if err := root.Chmod(hdr.Name, fs.FileMode(hdr.Mode).Perm()); err != nil {
		return err
	}
	return root.Chtimes(hdr.Name, hdr.ModTime, hdr.ModTime)
}
