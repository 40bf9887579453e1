package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/wsmesh/wsmesh/mesh"
)

// KeyFile is the one file in the keys directory.
const KeyFile = "keys.json"

// LoadOrCreate returns the keys in dir, making dir (0700) and the keys (0600)
// when there are none. Several processes may call it on one dir at once: one of
// them makes the keys and all of them return these.
//
// Keys that are there are never replaced, since that would lock out every
// token and node of the mesh: a damaged or truncated file is CodeInvalid; a
// file that others can read, and a directory or file that this process may not
// use, is CodeDenied.
func LoadOrCreate(dir string) (*Keys, error) {
	k, err := loadOrCreate(dir)
	if err != nil {
		return nil, fmt.Errorf("load keys from %s: %w", dir, err)
	}
	return k, nil
}

func loadOrCreate(dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fileError("make the keys directory", err)
	}
	if err := checkMode(dir, "keys directory", 0o022, "chmod 700"); err != nil {
		return nil, err
	}
	revoked, err := readRevoked(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, KeyFile)
	k, err := load(path, revoked)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fileError("write "+KeyFile, err)
	}
	return load(path, revoked)
}

func load(path string, revoked []Revoked) (*Keys, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fileError("read "+KeyFile, err)
	}
	if err := checkMode(path, KeyFile, 0o077, "chmod 600"); err != nil {
		return nil, err
	}
	var s seeds
	if err := json.Unmarshal(b, &s); err != nil {
		// The decoder's text may quote the file, which is secret.
		return nil, damaged("it is not JSON or is cut short")
	}
	k, err := s.keys(revoked)
	if err != nil {
		return nil, damaged(mesh.AsError(err).Text)
	}
	return k, nil
}

// create writes new keys to path, or returns fs.ErrExist when there are some.
//
// The link is the commit point: it fails when the name is taken, so of several
// starters exactly one wins, and the file has its whole content before it has
// its name. A crash before it leaves a temporary file that nobody trusts; after
// it, a second name for the keys, as unreadable to others as the first.
func create(path string) error {
	s, err := newSeeds()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), KeyFile+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be opened for this there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// checkMode refuses a file that others have one of the forbidden rights on.
func checkMode(path, what string, forbidden fs.FileMode, fix string) error {
	if runtime.GOOS == "windows" {
		return nil // mode bits say nothing about access there
	}
	info, err := os.Stat(path)
	if err != nil {
		return fileError("look at the "+what, err)
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return mesh.Errorf(mesh.CodeDenied, "%s has mode %04o, which lets other users at the keys of the mesh; %s it and, if others may have read it, start a new mesh", what, mode, fix)
	}
	return nil
}

func damaged(why string) *mesh.Error {
	return mesh.Errorf(mesh.CodeInvalid, "%s is damaged: %s; restore it from a backup (new keys would lock out every token and node)", KeyFile, why)
}

// fileError turns a failure of the file system into a *mesh.Error without the
// path; LoadOrCreate names the directory around it.
func fileError(op string, err error) error {
	code := mesh.CodeOf(err)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		err = le.Err
	}
	return mesh.Errorf(code, "%s: %v", op, err)
}
