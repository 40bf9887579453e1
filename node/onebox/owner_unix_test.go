//go:build unix

package onebox

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

// Who made the directory could have put keys of his own into it.
func TestDirectoryOfOthersIsRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(dir string) error
		code    mesh.Code
	}{
		{"for all to write", func(dir string) error { return os.Chmod(dir, 0o777) }, mesh.CodeDenied},
		{"a shared /tmp", func(dir string) error { return os.Chmod(dir, os.ModeSticky|0o777) }, mesh.CodeDenied},
		{"of another user", func(dir string) error { return os.Chown(dir, 12345, 12345) }, mesh.CodeDenied},
		{"ours", func(string) error { return nil }, ""},
		{"ours, for all to read", func(dir string) error { return os.Chmod(dir, 0o755) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.prepare(dir); os.Geteuid() != 0 && err != nil {
				t.Skipf("not root: %v", err)
			}
			err := checkOwner(dir)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			if c.code == "" {
				return
			}
			_, err = Start(t.Context(), Config{Data: dir})
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}
