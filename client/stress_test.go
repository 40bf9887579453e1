package client_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// long is n, or in CI a tenth of it.
func long(n int) int {
	if meshtest.Long() {
		return n
	}
	return n / 10
}

// Commands that take less than a millisecond lose no byte of their output, whatever
// bytes those are.
func TestShortCommandsLoseNothing(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		for range long(1000) {
			want := make([]byte, random.IntN(300))
			for i := range want {
				want[i] = byte(1 + random.IntN(255)) // broken UTF-8 too; an argument has no NUL
			}
			got, err := ws.Command(ctx, "printf", "%s", string(want)).Output()
			require.NoError(t, err)
			require.Equal(t, want, append([]byte{}, got...))
		}
	})
}

// Fifty clients with one id start one command, which leaves one mark, and all of them
// see its output.
func TestManyClientsStartOnce(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx := t.Context()
		require.NoError(t, m.Client.CreateWorkspace(ctx, "w"))
		id := string(mesh.NewExecID())
		var wg sync.WaitGroup
		for range max(10, long(50)) {
			c := m.Connect(t, m.Token(t, nodetest.Tenant))
			wg.Go(func() {
				cmd := c.Workspace("w").Command(ctx, "sh", "-c", "echo x >> marks; echo out")
				cmd.ID = id
				out, err := cmd.Output()
				if err != nil || string(out) != "out\n" {
					t.Errorf("%q, %v", out, err)
				}
			})
		}
		wg.Wait()
		requireFile(t, m.Client.Workspace("w"), "marks", "x\n")
	})
}

// A slow reader gets everything, and slows nobody down but itself.
func TestSlowReaderGetsAll(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		size := long(200) << 20
		cmd := ws.Command(ctx, "head", "-c", fmt.Sprint(size), "/dev/zero")
		n, zero := 0, make([]byte, 1<<20)
		release := make(chan struct{})
		cmd.Stdout = write(func(b []byte) (int, error) {
			<-release
			if !bytes.Equal(b, zero[:len(b)]) {
				t.Error("other bytes than were written")
			}
			n += len(b)
			return len(b), nil
		})
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		require.Eventually(t, func() bool { // the command ends although nobody reads
			e, err := ws.Exec(ctx, cmd.ID)
			return err == nil && e.Final != nil
		}, 2*time.Minute, 50*time.Millisecond)
		require.NoError(t, ws.Command(ctx, "true").Run())
		close(release)
		require.NoError(t, <-ended)
		require.Equal(t, size, n)
		require.Zero(t, cmd.Final().Missing)
	})
}

// A child in the background that holds the pipe does not hold the end, and a limit of
// time leaves no process.
func TestNothingHoldsTheEnd(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		out, err := ws.Command(ctx, "sh", "-c", "sleep 600 & echo out").Output()
		require.NoError(t, err)
		require.Equal(t, "out\n", string(out))
		late := ws.Command(ctx, "sh", "-c", "sleep 601 & setsid sleep 602 & exec sleep 603")
		late.Timeout = 200 * time.Millisecond
		var exit *client.ExitError
		require.ErrorAs(t, late.Run(), &exit)
		require.Equal(t, 124, exit.Code)
		require.Equal(t, "timeout", exit.Limit)
	})
}
