package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestGate opens the gate before a command, or goes away without doing so.
func TestGate(t *testing.T) {
	for _, c := range []struct {
		name string
		open bool
		code int
	}{
		{"opened", true, 0},
		{"shut", false, 126},
	} {
		t.Run(c.name, func(t *testing.T) {
			proof := filepath.Join(t.TempDir(), "ran")
			spec := &Spec{Argv: []string{"touch", proof}, Env: environment(&Spec{Mount: "/"})}
			g, files, err := newGate(spec)
			require.NoError(t, err)
			defer g.close()
			argv, env := gateArgv(spec, gateScript)
			cmd := &exec.Cmd{
				Path: shell, Args: argv, Env: env,
				Stdin: files[0], Stdout: files[1], Stderr: files[2], ExtraFiles: files[3:],
			}
			require.NoError(t, cmd.Start())
			g.forked()
			require.NoError(t, g.wait(t.Context()))
			require.NoFileExists(t, proof)
			if c.open {
				require.NoError(t, g.open())
			}
			g.shut()
			_ = cmd.Wait()
			require.Equal(t, c.code, cmd.ProcessState.ExitCode())
			_, err = os.Stat(proof)
			require.Equal(t, c.open, err == nil)
		})
	}
}

// TestSpawnerKeepsToItself looks for the spawner's mounts where they must not
// be, and starts it more than once.
func TestSpawnerKeepsToItself(t *testing.T) {
	requireRoot(t, "only root has a mount namespace to give")
	for range 3 {
		s, err := newSpawner(spawnerConfig{mounts: true, noPrivileges: true})
		require.NoError(t, err)
		root, err := os.Open(t.TempDir())
		require.NoError(t, err)
		defer root.Close()
		at, err := s.mount(t.Context(), root)
		require.NoError(t, err)
		require.NoDirExists(t, at)
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		require.NoError(t, err)
		require.NotContains(t, string(mounts), "wsmesh")
		flag, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		require.NoError(t, err)
		require.Zero(t, flag)
		require.NoError(t, s.unmount(at))
		s.close()
		s.close()
		require.ErrorIs(t, s.do(t.Context(), func() {}), os.ErrClosed)
	}
}
