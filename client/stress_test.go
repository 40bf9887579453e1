package client_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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

// A reader of 1 MB/s that rests half way gets everything, of a command that is long done
// by then, and slows nobody down but itself: others begin and end in the middle of it.
func TestSlowReaderGetsAll(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		size := long(200) << 20 / m.Replicas()
		line := fmt.Sprintf("head -c %d /dev/zero; until [ -e stop ]; do head -c 1000 /dev/zero; sleep 0.05; done", size)
		cmd := ws.Command(ctx, "sh", "-c", line)
		var read atomic.Int64
		zero, release := make([]byte, 1<<20), make(chan struct{})
		cmd.Stdout = write(func(b []byte) (int, error) {
			pause := time.After(time.Duration(len(b)) * time.Microsecond)
			if read.Load() > int64(size/2) {
				pause = nil
			}
			select {
			case <-release:
			case <-pause:
			}
			if !bytes.Equal(b, zero[:len(b)]) {
				t.Error("other bytes than were written")
			}
			read.Add(int64(len(b)))
			return len(b), nil
		})
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		began := time.Now()
		for range 5 {
			require.NoError(t, ws.Command(ctx, "true").Run())
		}
		t.Logf("5 commands beside took %s", time.Since(began))
		require.Less(t, read.Load(), int64(size))
		require.NoError(t, ws.WriteFile(ctx, "stop", nil, 0))
		var e mesh.ExecEntry
		require.Eventually(t, func() bool { // the command ends although hardly anybody reads
			var err error
			e, err = ws.Exec(ctx, cmd.ID)
			return err == nil && e.Final != nil
		}, 2*time.Minute, 50*time.Millisecond)
		require.Less(t, read.Load(), int64(e.Output))
		require.NoError(t, ws.Command(ctx, "true").Run())
		close(release)
		require.NoError(t, <-ended)
		require.GreaterOrEqual(t, read.Load(), int64(size))
		require.Equal(t, e.Output, uint64(read.Load()))
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

// The leader of the log's stream steps down, again and again, and is killed, under a
// command that writes: its output is whole, live and read again, and has one end.
func TestOutputSurvivesItsLeader(t *testing.T) {
	nodetest.Commands(t)
	m := nodetest.Start(t, meshtest.Cluster(t, 3), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("w")
	cmd := ws.Command(ctx, "sh", "-c", "i=0; while ! [ -e stop ]; do seq -f %07.0f $i $((i+99)); i=$((i+100)); sleep 0.05; done")
	var live numbers
	cmd.Stdout = &live
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	goesOn := func() {
		t.Helper()
		before := live.seen()
		require.Eventually(t, func() bool { return live.seen() > before+300 }, time.Minute, 5*time.Millisecond, "the output stands still")
	}
	store, stream := m.Streams(t), mesh.ExecLogStream(0)
	for range long(20) {
		goesOn()
		require.Eventually(t, func() bool { // nobody answers while there is no leader
			_, err := store.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, time.Second)
			return err == nil
		}, time.Minute, 20*time.Millisecond)
	}
	goesOn()
	killLeader(t, m, store, stream)
	goesOn()
	require.NoError(t, ws.WriteFile(ctx, "stop", nil, 0))
	require.NoError(t, <-ended)
	require.NoError(t, live.broken)
	require.Zero(t, live.seen()%100)
	require.Equal(t, uint64(8*live.seen()), cmd.Final().Output)
	require.Zero(t, cmd.Final().Missing)

	x, err := ws.Attach(ctx, cmd.ID)
	require.NoError(t, err)
	defer x.Close()
	var again numbers
	require.NoError(t, x.Copy(ctx, &again, nil))
	require.NoError(t, again.broken)
	require.Equal(t, live.seen(), again.seen())
	require.Equal(t, cmd.Final(), x.Final())
}

// numbers takes lines of seven digits that count from 0.
type numbers struct {
	mu     sync.Mutex
	next   int
	part   []byte
	broken error
}

func (n *numbers) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.part = append(n.part, b...)
	for ; len(n.part) >= 8 && n.broken == nil; n.part = n.part[8:] {
		if want := fmt.Sprintf("%07d\n", n.next); string(n.part[:8]) != want {
			n.broken = fmt.Errorf("%q instead of %q", n.part[:8], want)
		}
		n.next++
	}
	return len(b), nil
}

func (n *numbers) seen() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.next
}
