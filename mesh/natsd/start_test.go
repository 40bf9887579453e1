package natsd

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

// The check before the start makes this rare, but only the server's own listen
// decides: a port taken in between must not leave half a server.
func TestPortTakenAfterTheCheck(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		name   string
		change func(*Config)
	}{
		{"for clients", func(c *Config) { c.Port = port }},
		{"for servers", func(c *Config) {
			c.Cluster = &Cluster{Name: "c", Port: port, Routes: []string{taken.Addr().String()}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
			require.NoError(t, err)
			cfg := Config{Dir: filepath.Join(dir, "nats"), Keys: keys}
			c.change(&cfg)
			cfg.setDefaults()
			lock, err := openDir(cfg.Dir)
			require.NoError(t, err)
			o, err := cfg.options()
			require.NoError(t, err)
			s := &Server{opts: o, account: keys.Mesh().ID, log: cfg.Log, lock: lock}
			err = s.launch()
			require.Equal(t, mesh.CodeExists, mesh.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, taken.Addr().String())
			require.False(t, s.Running())

			lock, err = openDir(cfg.Dir)
			require.NoError(t, err, "the lock was released")
			require.NoError(t, lock.Close())
		})
	}
}

func TestHostErrorCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		code mesh.Code
	}{
		{"disk full", &fs.PathError{Op: "write", Path: "/secret", Err: syscall.ENOSPC}, mesh.CodeQuota},
		{"disk quota", &fs.PathError{Op: "write", Path: "/secret", Err: syscall.EDQUOT}, mesh.CodeQuota},
		{"not ours", &fs.PathError{Op: "open", Path: "/secret", Err: syscall.EACCES}, mesh.CodeDenied},
		{"read-only", &fs.PathError{Op: "open", Path: "/secret", Err: syscall.EROFS}, mesh.CodeDenied},
		{"disk broken", &fs.PathError{Op: "fsync", Path: "/secret", Err: syscall.EIO}, mesh.CodeInternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := hostError("write", c.err)
			require.Equal(t, c.code, mesh.CodeOf(err))
			require.NotContains(t, err.Error(), "/secret")
		})
	}
}

func TestLockWithoutAReadableHolder(t *testing.T) {
	for _, content := range []string{"", "12x", "\x00\x00"} {
		path := filepath.Join(t.TempDir(), lockFile)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.Empty(t, holder(path))
	}
}
