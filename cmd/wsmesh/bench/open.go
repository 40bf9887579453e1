package bench

import (
	"context"
	"fmt"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// openPair runs the first command of a new workspace, up to its output.
func openPair(cfg Config, ws *client.Workspace) *pair {
	name := func(i int) string { return fmt.Sprintf("%s-%d", ws.Name(), i) }
	return &pair{
		ours: func(ctx context.Context, i int) error {
			out, err := cfg.Client.Workspace(name(i)).Command(ctx, "echo", "first").Output()
			return same(out, []byte("first\n"), err)
		},
		after: func(ctx context.Context, i int) error { return cfg.Client.RemoveWorkspace(ctx, name(i)) },
		close: func() {},
	}
}

// warmSandboxes is how many are made to see what one takes.
const warmSandboxes = 16

// warmMemory measures what an idle sandbox takes: it makes some, and asks the node.
func warmMemory(ctx context.Context, cfg Config, ws *client.Workspace, setting Setting) (*Row, error) {
	for i := range warmSandboxes {
		name := fmt.Sprintf("%s-%d", ws.Name(), i)
		defer cfg.Client.RemoveWorkspace(context.WithoutCancel(ctx), name) //nolint:errcheck // the result stands
		if err := cfg.Client.Workspace(name).Command(ctx, command).Run(); err != nil {
			return nil, err
		}
	}
	req, err := mesh.NewRequest(mesh.AdminSubject(mesh.VerbAdminStatus), mesh.NewID(), "", struct{}{}, nil)
	if err != nil {
		return nil, err
	}
	answer, err := cfg.Floor.RequestMsgWithContext(ctx, req)
	if err != nil {
		return nil, err
	}
	var status mesh.StatusReply
	if _, err := mesh.DecodeReply(answer, &status); err != nil {
		return nil, err
	}
	for _, n := range status.Nodes {
		if n.Warm.Sandboxes >= warmSandboxes/2 {
			return &Row{Name: cfg.Name, N: n.Warm.Sandboxes, Bytes: n.Warm.Bytes / int64(n.Warm.Sandboxes), Settings: setting}, nil
		}
	}
	return nil, mesh.Errorf(mesh.CodeUnsupported, "bench: the node that answers keeps no sandboxes")
}
