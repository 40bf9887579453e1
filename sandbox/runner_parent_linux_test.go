package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// parentEnv turns the test binary into a node, as a nodeOrder says.
const parentEnv = "WSMESH_TEST_PARENT"

// nodeOrder is what such a node does: run one command for ever, or start as
// many as it can.
type nodeOrder struct {
	isolation, state, text, dir string
	uid                         int
	storm                       bool
}

func (o *nodeOrder) String() string {
	return fmt.Sprint(o.isolation, " ", o.state, " ", o.text, " ", o.dir, " ", o.uid, " ", o.storm)
}

func (o *nodeOrder) spec() (*Spec, error) {
	root, err := os.Open(o.dir)
	sleep := "sleep " + o.text
	tree := "setsid " + sleep + " & (setsid sh -c '" + sleep + " & " + sleep + "' &); echo up; " + sleep
	return &Spec{
		Root: root, Mount: "/workspace", Argv: []string{"sh", "-c", tree}, Stdout: os.Stdout, UID: o.uid, GID: o.uid,
	}, err
}

// beParent is the main of the node.
func beParent() int {
	if err := obey(os.Getenv(parentEnv)); err != nil {
		fmt.Println(err)
		return 2
	}
	return 0
}

func obey(text string) error {
	var o nodeOrder
	if _, err := fmt.Sscan(text, &o.isolation, &o.state, &o.text, &o.dir, &o.uid, &o.storm); err != nil {
		return err
	}
	r, err := New(context.Background(), Config{Isolation: o.isolation, StateID: o.state})
	if err != nil {
		return err
	}
	spec, err := o.spec()
	if err != nil {
		return err
	}
	if !o.storm {
		p, err := r.Start(context.Background(), spec)
		if err != nil {
			return err
		}
		return p.Wait().Err
	}
	fmt.Println("storm")
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			for {
				if _, err := r.Start(context.Background(), spec); err != nil {
					fmt.Println(err)
					return
				}
			}
		})
	}
	group.Wait()
	return nil
}

// kill starts a node, waits until it has said word, lets it go on for a while
// and kills it.
func (o *nodeOrder) kill(t *testing.T, word string, after time.Duration) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parentEnv+"="+o.String())
	out, write := collect(t)
	cmd.Stdout, cmd.Stderr = write, write
	require.NoError(t, cmd.Start())
	require.NoError(t, write.Close())
	out.waitFor(t, word)
	<-time.After(after)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	t.Cleanup(func() {
		select {
		case <-out.done:
		case <-time.After(5 * time.Second):
			t.Error("a process outlives its node and holds its output")
		}
		require.NoError(t, out.read.Close())
	})
}

func allGone(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(marked(text)) == 0 }, 5*time.Second, 5*time.Millisecond,
		"processes outlive their node")
}

func requireRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		requireOrSkip(t, "root", why)
	}
}

// TestParentDies kills a node with SIGKILL and looks for what it leaves.
func TestParentDies(t *testing.T) {
	requireRoot(t, "an ordinary user has no cgroups to sweep")
	for _, isolation := range []string{IsolationBwrap, IsolationSoftware} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			order := &nodeOrder{
				isolation: isolation, state: stateID(), uid: b.uid, dir: b.dir,
				text: marker + strconv.Itoa(int(numbers.Add(1))),
			}
			order.kill(t, "up", 0)
			if isolation == IsolationBwrap {
				allGone(t, order.text)
			}
			// A neighbour's start leaves the leftovers alone.
			neighbour, err := New(t.Context(), Config{Isolation: IsolationNone, StateID: order.state + "x"})
			require.NoError(t, err)
			require.NoError(t, neighbour.Close())
			require.NotEmpty(t, groupsOf(t, order.state+"."))
			if isolation == IsolationSoftware {
				require.NotEmpty(t, marked(order.text))
			}

			heir, err := New(t.Context(), Config{Isolation: IsolationNone, StateID: order.state})
			require.NoError(t, err)
			require.NoError(t, heir.Close())
			require.Empty(t, groupsOf(t, order.state+"."))
			require.Empty(t, marked(order.text))
		})
	}
}

// TestParentDiesStarting kills a node at moments in which commands are half
// started. No sweep is made: the gate alone has to end them.
func TestParentDiesStarting(t *testing.T) {
	b := newBwrapBench(t)
	for i := range 6 {
		order := &nodeOrder{
			isolation: IsolationBwrap, state: stateID(), uid: b.uid, dir: b.dir, storm: true,
			text: marker + strconv.Itoa(int(numbers.Add(1))),
		}
		order.kill(t, "storm", time.Duration(i)*7*time.Millisecond)
		allGone(t, order.text)
		heir, err := New(t.Context(), Config{Isolation: IsolationNone, StateID: order.state})
		require.NoError(t, err)
		require.NoError(t, heir.Close())
	}
}
