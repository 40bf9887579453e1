package sandbox

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkTrue starts and waits for the smallest command, cold, and the same
// command through os/exec.
func BenchmarkTrue(b *testing.B) {
	for _, isolation := range []string{IsolationBwrap, IsolationSoftware, IsolationNone} {
		b.Run(isolation, func(b *testing.B) {
			if isolation == IsolationBwrap {
				if _, err := exec.LookPath("bwrap"); err != nil {
					b.Skip("SKIPPED: bubblewrap is not installed")
				}
			}
			r, err := New(b.Context(), Config{Isolation: isolation, StateID: stateID()})
			require.NoError(b, err)
			defer r.Close()
			root, err := os.Open(b.TempDir())
			require.NoError(b, err)
			defer root.Close()
			uid, gid := TenantIDs(1)
			require.NoError(b, root.Chown(uid, gid))
			for b.Loop() {
				p, err := r.Start(b.Context(), &Spec{Root: root, Mount: "/workspace", Argv: []string{"true"}, UID: uid, GID: gid})
				require.NoError(b, err)
				require.NoError(b, p.Wait().Err)
			}
		})
	}
	b.Run("os/exec", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, exec.Command("true").Run())
		}
	})
}
