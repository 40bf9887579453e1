package natsd_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/natsd"
)

func TestDiskThatCannotBeWritten(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		code  mesh.Code
	}{
		{"read-only", func(t *testing.T, dir string) {
			require.NoError(t, syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		}, mesh.CodeDenied},
		{"full", func(t *testing.T, dir string) {
			f, err := os.Create(filepath.Join(dir, "fill"))
			require.NoError(t, err)
			defer f.Close()
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
			require.ErrorIs(t, err, syscall.ENOSPC)
		}, mesh.CodeQuota},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig(t)
			cfg.Dir = t.TempDir()
			if err := syscall.Mount("none", cfg.Dir, "tmpfs", 0, "size=256k"); err != nil {
				t.Skipf("needs root and the right to mount a tmpfs: %v", err)
			}
			t.Cleanup(func() { require.NoError(t, syscall.Unmount(cfg.Dir, 0)) })
			c.spoil(t, cfg.Dir)
			_, err := natsd.Start(cfg)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			t.Log(err)
		})
	}
}
