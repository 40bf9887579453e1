package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// python is run inside for calls that no shell can make.
const python = "/usr/bin/python3"

func newBwrapBench(t *testing.T) *bench {
	t.Helper()
	return newBench(t, IsolationBwrap)
}

func requirePython(t *testing.T) {
	t.Helper()
	if !there(python) {
		requireOrSkip(t, "python3", python+" is not installed")
	}
}

// TestNetwork reaches a listener of the host, or not.
func TestNetwork(t *testing.T) {
	requirePython(t)
	b := newBwrapBench(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	code := fmt.Sprintf("import socket; print(socket.socket().connect_ex(('127.0.0.1', %d)))", port)
	for network, want := range map[string]unix.Errno{"": unix.ECONNREFUSED, NetNone: unix.ECONNREFUSED, NetFull: 0} {
		t.Run("net "+network, func(t *testing.T) {
			spec := b.spec(t, python, "-c", code)
			spec.Net = network
			o := b.runSpec(t, spec)
			require.Equal(t, fmt.Sprintf("%d\n", want), o.stdout, o.stderr)
		})
	}
	t.Run("names", func(t *testing.T) {
		hosts, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			t.Skip("SKIPPED: the host has no resolv.conf")
		}
		spec := b.spec(t, "cat", "/etc/resolv.conf")
		spec.Net = NetFull
		require.Equal(t, string(hosts), b.runSpec(t, spec).stdout)
	})
}

// TestHiddenParents runs commands in a tree below directories that only root may
// enter.
func TestHiddenParents(t *testing.T) {
	if os.Geteuid() != 0 {
		requireOrSkip(t, "root", "an ordinary user hides nothing from itself")
	}
	for _, isolation := range []string{IsolationBwrap, IsolationSoftware} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			hidden := filepath.Join(b.dir, "keys", "data")
			b.dir = filepath.Join(hidden, "tree")
			require.NoError(t, os.MkdirAll(b.dir, 0o700))
			b.owned(t)
			for dir := hidden; filepath.Base(filepath.Dir(dir)) != "tmp" && dir != "/"; dir = filepath.Dir(dir) {
				require.NoError(t, os.Chown(dir, 0, 0))
				require.NoError(t, os.Chmod(dir, 0o700))
			}
			o := b.run(t, "sh", "-c", `echo kept > "$HOME/file" && mkdir sub && cd sub && cat "$(pwd)/../file"`)
			require.Equal(t, "kept\n", o.stdout, o.stderr)
		})
	}
}
