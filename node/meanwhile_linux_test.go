package node_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// What a command has changed and left alone is stored while it still runs; a file that it
// goes on writing to is, once, at its end, as it is then.
func TestLongCommandsAreCapturedMeanwhile(t *testing.T) {
	nodetest.Commands(t)
	for _, by := range []string{mesh.CaptureScan, "auto"} {
		t.Run(by, func(t *testing.T) {
			m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{Meanwhile: 300 * time.Millisecond, Capture: by})
			ctx, ws := t.Context(), m.Client.Workspace("w")
			m.AddNode(t, "n2")
			require.NoError(t, ws.MkdirAll(ctx, ".", 0))
			cmd := ws.Command(ctx, "sh", "-c", "mkdir d; echo 1 >d/done; (while :; do echo x; sleep 0.1; done >hot) & read x; echo last >>d/done; kill $!; wait; echo end >>hot")
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			puts := func(p mesh.Path) (n int) {
				for e, err := range ws.History(ctx) {
					require.NoError(t, err)
					if e.Kind == "put" && e.Path == p {
						n++
					}
				}
				return n
			}
			require.Eventually(t, func() bool { return puts("d/done") == 1 }, 30*time.Second, 50*time.Millisecond)
			require.Zero(t, puts("hot"), "it is written to all the time")
			_, err = in.Write([]byte("on\n"))
			require.NoError(t, err)
			require.NoError(t, cmd.Wait())
			require.Equal(t, []int{2, 1}, []int{puts("d/done"), puts("hot")})
			info, err := ws.Info(ctx)
			require.NoError(t, err)
			require.NoError(t, m.Move(t, "w", map[mesh.Node]mesh.Node{"n1": "n2", "n2": "n1"}[info.Node]))
			b, err := ws.ReadFile(ctx, "d/done")
			require.NoError(t, err)
			require.Equal(t, "1\nlast\n", string(b))
			b, err = ws.ReadFile(ctx, "hot")
			require.NoError(t, err)
			require.True(t, slices.Equal([]byte("x\nend\n"), b[len(b)-6:]), "%q", b)
		})
	}
}
