package node_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// tidy is a command that takes a moment to clean up when it is asked to end; a
// process of another session does too.
const tidy = `
rm -f ready tidied
setsid sh -c 'trap "sleep 0.1; echo child >> tidied; exit" TERM; : > ready; while :; do sleep 0.01; done' &
trap 'wait; echo main >> tidied; exit 3' TERM
while ! rm ready 2> /dev/null; do sleep 0.01; done
echo up; while :; do sleep 0.01; done`

// Whatever ends a command, its processes are asked first.
func TestCommandsMayCleanUp(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ws := m.Client.Workspace("repo")
		tidied := func(t *testing.T) string {
			var b []byte
			require.Eventually(t, func() bool {
				var err error
				b, err = ws.ReadFile(t.Context(), "tidied")
				return err == nil && bytes.Contains(b, []byte("main"))
			}, 10*time.Second, 10*time.Millisecond)
			require.NoError(t, ws.Remove(t.Context(), "tidied"))
			return string(b)
		}
		start := func(ctx context.Context, t *testing.T, timeout time.Duration) *client.Cmd {
			up := &signalled{on: make(chan struct{})}
			cmd := ws.Command(ctx, "sh", "-c", tidy)
			cmd.Stdout, cmd.Timeout = up, timeout
			require.NoError(t, cmd.Start())
			return cmd
		}
		t.Run("timeout", func(t *testing.T) {
			// Its time begins before it has said that it is up: a short one may end
			// before there is anything to clean up.
			for timeout, isUp := 500*time.Millisecond, false; !isUp; timeout *= 2 {
				require.Less(t, timeout, time.Minute, "the command does not come up")
				var exit *client.ExitError
				cmd := start(t.Context(), t, timeout)
				require.ErrorAs(t, cmd.Wait(), &exit)
				require.Equal(t, 124, exit.Code)
				require.Equal(t, "timeout", exit.Limit)
				select {
				case <-cmd.Stdout.(*signalled).on:
					isUp = true
				default:
				}
			}
			require.Equal(t, "child\nmain\n", tidied(t))
		})
		t.Run("context", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := start(ctx, t, 0)
			go func() { <-cmd.Stdout.(*signalled).on; cancel() }()
			require.ErrorIs(t, cmd.Wait(), context.Canceled)
			require.Equal(t, "child\nmain\n", tidied(t))
		})
		t.Run("kill", func(t *testing.T) {
			cmd := start(t.Context(), t, 0)
			go func() { <-cmd.Stdout.(*signalled).on; cmd.Signal(t.Context(), "KILL") }() //nolint:errcheck // Wait says it
			var exit *client.ExitError
			require.ErrorAs(t, cmd.Wait(), &exit)
			require.Equal(t, 137, exit.Code)
			_, err := ws.Stat(t.Context(), "tidied")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
		})
		t.Run("drain", func(t *testing.T) {
			cmd := start(t.Context(), t, 0)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			<-cmd.Stdout.(*signalled).on
			m.StopNode(t)
			m.StartNode(t)
			require.Equal(t, mesh.CodeLost, mesh.CodeOf(<-ended))
			require.Equal(t, "child\nmain\n", tidied(t))
		})
	})
}

// signalled is a writer that tells of its first byte.
type signalled struct {
	once sync.Once
	on   chan struct{}
}

func (s *signalled) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.on) })
	return len(p), nil
}

// A command that takes no notice of the end of its time is killed.
func TestGraceEnds(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	cmd := m.Client.Workspace("repo").Command(t.Context(), "sh", "-c", "trap '' TERM; (setsid sleep 1234 &); while :; do sleep 0.01; done")
	cmd.Timeout = 50 * time.Millisecond
	var exit *client.ExitError
	require.ErrorAs(t, cmd.Run(), &exit)
	require.Equal(t, 124, exit.Code)
}
