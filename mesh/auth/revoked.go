package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/wsmesh/wsmesh/mesh"
)

// RevokedDir is the directory beside the key file with a file for each user of a revoked
// token, so that a mesh whose servers have lost everything does not let them in again.
const RevokedDir = "revoked"

// RevokedLonger is how long after a token has expired it is still told to be revoked:
// clocks differ.
const RevokedLonger = time.Hour

// Revoked is a user whom no server lets in.
type Revoked struct {
	User    string    `json:"user"`             // public key; the name of the file
	At      time.Time `json:"at"`               // what was issued until then does not count
	Expires time.Time `json:"expires,omitzero"` // when the token would have ended; zero: never
}

// Revoke adds users to those in dir whom no server of the mesh lets in, and returns the
// keys, whose account says so: servers have to be told it (Keys.Mesh). Several processes
// may call it at once. CodeInvalid for what is no user, or a damaged file; otherwise the
// errors are those of LoadOrCreate, but no keys are made: without any it is CodeNotFound.
func Revoke(dir string, users []Revoked) (*Keys, error) {
	k, err := revoke(dir, users)
	if err != nil {
		return nil, fmt.Errorf("revoke in %s: %w", dir, err)
	}
	return k, nil
}

func revoke(dir string, users []Revoked) (*Keys, error) {
	if _, err := os.Stat(filepath.Join(dir, KeyFile)); err != nil {
		return nil, fileError("find "+KeyFile, err)
	}
	for _, r := range users {
		if !nkeys.IsValidPublicUserKey(r.User) {
			return nil, mesh.Errorf(mesh.CodeInvalid, "%.80q is no user", r.User)
		}
		if err := writeRevoked(filepath.Join(dir, RevokedDir), r); err != nil {
			return nil, fileError("write "+RevokedDir, err)
		}
	}
	if len(users) > 0 {
		if err := errors.Join(syncDir(filepath.Join(dir, RevokedDir)), syncDir(dir)); err != nil {
			return nil, fileError("write "+RevokedDir, err)
		}
	}
	return loadOrCreate(dir)
}

// readRevoked returns whom the files name and whose token has not expired; of one that has
// the file goes.
func readRevoked(dir string) (all []Revoked, err error) {
	dir = filepath.Join(dir, RevokedDir)
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fileError("read "+RevokedDir, err)
	}
	for _, f := range files {
		if strings.Contains(f.Name(), ".") {
			continue // of a process that was writing it
		}
		path := filepath.Join(dir, f.Name())
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just expired
		}
		var r Revoked
		if err != nil {
			return nil, fileError("read "+RevokedDir, err)
		}
		if json.Unmarshal(b, &r) != nil || r.User != f.Name() {
			return nil, mesh.Errorf(mesh.CodeInvalid, "%s/%s is damaged; restore it from a backup (without it a revoked token could be used again)", RevokedDir, f.Name())
		}
		if !r.Expires.IsZero() && time.Now().After(r.Expires.Add(RevokedLonger)) {
			_ = os.Remove(path)
			continue
		}
		all = append(all, r)
	}
	return all, nil
}

// writeRevoked replaces the file of a user in one step, where it is not what it should be.
func writeRevoked(dir string, r Revoked) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if now, err := os.ReadFile(filepath.Join(dir, r.User)); err == nil && bytes.Equal(now, b) {
		return nil
	}
	f, err := os.CreateTemp(dir, r.User+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, r.User))
}
