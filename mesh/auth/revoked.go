package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nkeys"

	"github.com/wsmesh/wsmesh/mesh"
)

// RevokedFile is the file in the keys directory that names the users of revoked tokens,
// so that a mesh whose servers have lost everything does not let them in again.
const RevokedFile = "revoked.json"

// Revoked is a user whom no server lets in.
type Revoked struct {
	User    string    `json:"user"`             // public key
	At      time.Time `json:"at"`               // what was issued until then does not count
	Expires time.Time `json:"expires,omitzero"` // when the token would have ended; zero: never
}

// revokedFile is the file of revocations.
type revokedFile struct {
	Format int       `json:"format"`
	Users  []Revoked `json:"users"`
}

const revokedFormat = 1

// Revoke adds users to those in dir whom no server of the mesh lets in, and returns the
// keys, whose account says so: servers have to be told it (Keys.Mesh). Users whose token has
// expired by itself are dropped. The file is replaced in one step; several processes may
// call it at once. CodeInvalid for what is no user, or a damaged file; otherwise the errors
// are those of LoadOrCreate, but no keys are made: without any it is CodeNotFound.
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
	lock := flock.New(filepath.Join(dir, RevokedFile+".lock"), flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return nil, fileError("lock "+RevokedFile, err)
	}
	defer lock.Close() //nolint:errcheck // the kernel drops it with the process
	now, err := readRevoked(dir)
	if err != nil {
		return nil, err
	}
	if len(users) == 0 {
		return loadOrCreate(dir)
	}
	known := map[string]bool{}
	for _, r := range now {
		known[r.User] = true
	}
	for _, r := range users {
		if !nkeys.IsValidPublicUserKey(r.User) {
			return nil, mesh.Errorf(mesh.CodeInvalid, "%.80q is no user", r.User)
		}
		if !known[r.User] {
			known[r.User], now = true, append(now, r)
		}
	}
	if err := writeRevoked(dir, now); err != nil {
		return nil, fileError("write "+RevokedFile, err)
	}
	return loadOrCreate(dir)
}

// readRevoked returns whom the file names and whose token has not expired.
func readRevoked(dir string) ([]Revoked, error) {
	b, err := os.ReadFile(filepath.Join(dir, RevokedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fileError("read "+RevokedFile, err)
	}
	var f revokedFile
	if err := json.Unmarshal(b, &f); err != nil || f.Format != revokedFormat {
		return nil, mesh.Errorf(mesh.CodeInvalid, "%s is damaged or of another version; restore it from a backup (without it revoked tokens could be used again)", RevokedFile)
	}
	var all []Revoked
	for _, r := range f.Users {
		if r.Expires.IsZero() || time.Now().Before(r.Expires.Add(time.Minute)) { // clocks differ
			all = append(all, r)
		}
	}
	return all, nil
}

func writeRevoked(dir string, users []Revoked) error {
	b, err := json.MarshalIndent(revokedFile{Format: revokedFormat, Users: users}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, RevokedFile+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, RevokedFile)); err != nil {
		return err
	}
	return syncDir(dir)
}
