package chaos

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCrashInASnapshot lets a one box die between the commit of a snapshot and its
// record, and behind the record of a fork: the call is answered by the next one, and
// what it asked for is done once.
func TestCrashInASnapshot(t *testing.T) {
	at := program(t, "crashpoints")
	for _, point := range []string{"snapshot committed", "fork recorded"} {
		t.Run(point, func(t *testing.T) {
			box := &Box{Program: at, Data: t.TempDir(), Env: []string{"WSMESH_CRASH=" + point + ":1"}}
			t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
			require.NoError(t, box.Start(t.Context()))
			c, err := box.Dial(t.Context())
			require.NoError(t, err)
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			ws := c.Workspace("main")
			require.NoError(t, ws.WriteFile(ctx, "f", []byte("one"), 0))
			made := make(chan error, 1)
			go func() {
				_, err := ws.CreateSnapshot(ctx, "first", "")
				if err == nil {
					_, err = c.Fork(ctx, "main", "first", "other")
				}
				made <- err
			}()
			require.True(t, box.Gone(ctx), "the program has never come by there")
			box.Env = nil
			require.NoError(t, box.Start(t.Context()), box.Log())
			require.NoError(t, <-made)
			require.NoError(t, ws.WriteFile(ctx, "f", []byte("two"), 0))
			n := 0
			for s, err := range ws.Snapshots(ctx) {
				require.NoError(t, err)
				require.Equal(t, "first", string(s.Name))
				n++
			}
			require.Equal(t, 1, n)
			past, err := ws.At(ctx, "first")
			require.NoError(t, err)
			for _, of := range []interface {
				ReadFile(context.Context, string) ([]byte, error)
			}{past, c.Workspace("other")} {
				got, err := of.ReadFile(ctx, "f")
				require.NoError(t, err)
				require.Equal(t, "one", string(got))
			}
		})
	}
}
