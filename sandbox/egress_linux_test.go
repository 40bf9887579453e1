package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

// echo is an Egress that answers with its key, and knows which listeners it had.
type echo struct {
	key string

	mu            sync.Mutex
	begun, served int
}

func (e *echo) Key() string { return e.key }

func (e *echo) Serve(l net.Listener) {
	e.mu.Lock()
	e.begun++
	e.mu.Unlock()
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		_, _ = c.Write([]byte(e.key))
		_ = c.Close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.served++
}

func (e *echo) counts() (begun, served int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begun, e.served
}

const readEgress = "import socket; print(socket.create_connection(('127.0.0.1', 3128), 5).recv(100).decode())"

func TestEgress(t *testing.T) {
	requirePython(t)
	for _, isolation := range []string{IsolationBwrap, coldBwrap} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			e := &echo{key: "a"}
			run := func(e Egress, argv ...string) outcome {
				spec := b.spec(t, argv...)
				spec.Egress = e
				return b.runSpec(t, spec)
			}
			for range 2 {
				o := run(e, python, "-c", readEgress)
				require.Equal(t, "a\n", o.stdout, o.stderr)
			}
			begun, served := e.counts()
			if isolation == IsolationBwrap {
				require.Equal(t, [2]int{1, 0}, [2]int{begun, served}, "one listener for each sandbox")
			} else {
				require.Equal(t, [2]int{2, 2}, [2]int{begun, served}, "it ends with the command")
			}
			other := &echo{key: "b"}
			o := run(other, python, "-c", readEgress)
			require.Equal(t, "b\n", o.stdout, o.stderr)
			o = run(nil, python, "-c", readEgress)
			require.Contains(t, o.stderr, "Connection refused")

			o = run(e, "sh", "-c", "env; ls -l /proc/self/fd; cat /proc/net/tcp")
			for _, kv := range egressEnv {
				require.Contains(t, o.stdout, kv+"\n")
			}
			require.NotContains(t, o.stdout, "socket:", "no descriptor of the listener")
			require.Equal(t, 1, strings.Count(o.stdout, "0100007F:0C38 00000000:0000 0A"), "the listener is in its network: %s", o.stdout)
			require.NotContains(t, run(nil, "env").stdout, "3128")
			spec := b.spec(t, "sh", "-c", "echo $https_proxy $HTTP_PROXY")
			spec.Egress, spec.Env = e, []string{"https_proxy=mine", "HTTP_PROXY"}
			require.Equal(t, "mine\n", b.runSpec(t, spec).stdout)

			o = run(e, python, "-c", "import socket\nfor f, a in (2, ('198.51.100.1', 80)), (10, ('2001:db8::1', 80)):\n"+
				" try: socket.socket(f).connect(a)\n except OSError as e: print(e.strerror)")
			require.Equal(t, "Network is unreachable\nNetwork is unreachable\n", o.stdout, "nothing else is in that network")
			require.NoError(t, b.runner.Close())
			for _, e := range []*echo{e, other} {
				begun, served := e.counts()
				require.Equal(t, begun, served)
			}
		})
	}
}

// A start that fails ends its way out as well.
func TestEgressOfFailedStart(t *testing.T) {
	b := newBench(t, coldBwrap)
	e := &echo{}
	spec := b.spec(t, "true")
	spec.Egress, spec.Dir = e, "/workspace/none"
	_, err := b.runner.Start(t.Context(), spec)
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
	spec.Dir = ""
	h, err := b.runner.Prepare(t.Context(), spec)
	require.NoError(t, err)
	h.Drop()
	begun, served := e.counts()
	require.Equal(t, [2]int{1, 1}, [2]int{begun, served})
}

// A sandbox that dies takes its way out with it, whoever is connected.
func TestEgressEndsWithItsSandbox(t *testing.T) {
	requirePython(t)
	b := newBwrapBench(t)
	e := &echo{key: "a"}
	spec := b.spec(t, python, "-c", readEgress)
	spec.Egress = e
	require.Equal(t, "a\n", b.runSpec(t, spec).stdout)
	w := b.runner.warm
	w.mu.Lock()
	for _, box := range w.boxes {
		box.process.Kill()
	}
	w.mu.Unlock()
	require.Eventually(t, func() bool { _, served := e.counts(); return served == 1 }, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, "a\n", b.runSpec(t, spec).stdout, "the next one has its own")
}

// Without own networks, and besides the host's, there is no keeping to a way out.
func TestEgressRefused(t *testing.T) {
	for _, isolation := range []string{IsolationNone, IsolationSoftware, IsolationBwrap} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			proof := filepath.Join(b.dir, "ran")
			spec := b.spec(t, "touch", proof)
			spec.Egress = &echo{}
			want := mesh.CodeUnsupported
			if isolation == IsolationBwrap {
				spec.Net, want = NetFull, mesh.CodeInvalid
			}
			require.Equal(t, isolation == IsolationBwrap, b.runner.Level().Net)
			_, err := b.runner.Start(t.Context(), spec)
			require.Equal(t, want, mesh.CodeOf(err), err)
			_, err = os.Stat(proof)
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}
