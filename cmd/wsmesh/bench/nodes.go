package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	nodeTime = 30 * time.Second // a node may take to come up
	ownLabel = "bench"          // of nodes that a row starts for itself
)

// ownNode is a node, a process on this machine, that only workspaces of one row are
// placed on: they need its label.
type ownNode struct {
	name  mesh.Node
	args  []string
	tight bool // keeps little garbage
	cmd   *exec.Cmd
	said  bytes.Buffer  // by cmd; to be read when it has ended
	gone  chan struct{} // closed when cmd has ended
}

// startNodes starts some nodes, whose label has this value, and returns when they serve.
// They run commands as setting says, and keep little garbage if they are to be tight. stop ends them and removes what they have kept.
func startNodes(ctx context.Context, cfg Config, value string, setting Setting, count int, tight bool) (nodes []*ownNode, stop func(), err error) {
	creds := filepath.Join(cfg.Data, "node.creds")
	if _, err := os.Stat(creds); err != nil {
		return nil, nil, mesh.Errorf(mesh.CodeUnsupported, "bench: %s starts nodes of its own, with node.creds of wsmesh init, and there is none in %s; name that directory with --data DIR", cfg.Name, cfg.Data)
	}
	dir, err := os.MkdirTemp(cfg.Data, "bench-")
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		for _, n := range nodes {
			_ = n.cmd.Process.Signal(os.Interrupt) // it may be gone
		}
		for _, n := range nodes {
			n.end()
		}
		os.RemoveAll(dir)
	}
	for i := range count {
		n := &ownNode{name: mesh.Node(fmt.Sprintf("%s-%d", value, i)), tight: tight}
		n.args = []string{
			"node", "--nats", cfg.URL, "--creds", creds, "--data", filepath.Join(dir, string(n.name)), "--name", string(n.name),
			"--label", ownLabel + "=" + value, "--isolation", setting.Isolation, "--log-level", "error",
		}
		if err = n.start(cfg.Program); err != nil {
			break
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		if err == nil {
			err = n.serves(ctx, cfg)
		}
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return nodes, stop, nil
}

func (n *ownNode) start(program string) error {
	cmd := exec.Command(program, n.args...)
	n.said.Reset()
	cmd.Stderr = &n.said
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WSMESH_") })
	if n.tight {
		cmd.Env = append(cmd.Env, "GOGC=10")
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() { // ends with the process, which end waits for
		defer close(gone)
		_ = cmd.Wait() // it was killed, or says itself what is wrong
	}()
	n.cmd, n.gone = cmd, gone
	return nil
}

// serves returns when the node does.
func (n *ownNode) serves(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, nodeTime)
	defer cancel()
	for {
		up, err := nodesUp(ctx, cfg.Floor)
		if err == nil && slices.Contains(up, n.name) {
			return nil
		}
		select {
		case <-n.gone:
			return mesh.Errorf(mesh.CodeUnavailable, "bench: node %s ended: %s", n.name, strings.TrimSpace(n.said.String()))
		case <-ctx.Done():
			return mesh.Errorf(mesh.CodeUnavailable, "bench: node %s does not come up", n.name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// end waits for a node that was asked to end, and kills it when that takes long.
func (n *ownNode) end() {
	select {
	case <-n.gone:
	case <-time.After(nodeTime):
		_ = n.cmd.Process.Kill()
		<-n.gone
	}
}
