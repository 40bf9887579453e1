package natsd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/wsmesh/wsmesh/mesh"
)

// lockFile is locked while a server runs and holds its process id, for people.
const lockFile = "server.lock"

// openDir makes the data directory private, takes its lock and proves that it
// can be written, so that a bad disk is found before a server half starts.
func openDir(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, hostError("make the data directory", err)
	}
	path := filepath.Join(dir, lockFile)
	lock := flock.New(path, flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, hostError("lock the data directory", err)
	}
	if !locked {
		return nil, mesh.Errorf(mesh.CodeBusy, "data directory is in use by another server%s; stop it or use another directory", holder(path))
	}
	err = os.Chmod(dir, 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	}
	if err == nil {
		err = probe(dir)
	}
	if err != nil {
		return nil, errors.Join(hostError("write to the data directory", err), lock.Close())
	}
	return lock, nil
}

// holder says who holds the lock. The id is empty for a moment after the lock
// was taken, and a text only: never act on it.
func holder(path string) string {
	b, err := os.ReadFile(path)
	pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || perr != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

// probe writes and syncs one block: some file systems accept a name, and even
// a write, that a sync then refuses.
func probe(dir string) error {
	f, err := os.CreateTemp(dir, "probe.*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// hostError turns a failure of this host into a *mesh.Error: CodeDenied when
// the place cannot be written, CodeQuota when the disk is full, else
// CodeInternal. The text has no path; Start names the directory around it.
func hostError(op string, err error) error {
	cause := err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		cause = pe.Err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return mesh.Errorf(mesh.CodeQuota, "%s: the disk is full (%v); free some space or use another directory", op, cause)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR):
		return mesh.Errorf(mesh.CodeDenied, "%s: %v; make it writable for this user or use another directory", op, cause)
	}
	return mesh.Errorf(mesh.CodeInternal, "%s: %v", op, cause)
}

// checkAddr finds a taken address before streams are recovered for nothing.
// The server's own listen, later, decides.
func checkAddr(addr, flag string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return listenError(addr, flag, err)
	}
	return l.Close()
}

// listenError is CodeExists for a taken address, CodeDenied for one this user
// may not listen on, else CodeInvalid.
func listenError(addr, flag string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return mesh.Errorf(mesh.CodeExists, "address %s is in use by another program; choose another port%s", addr, flag)
	case errors.Is(err, fs.ErrPermission):
		return mesh.Errorf(mesh.CodeDenied, "this user may not listen on %s; choose another port%s", addr, flag)
	}
	return mesh.Errorf(mesh.CodeInvalid, "cannot listen on %s: %v", addr, err)
}
