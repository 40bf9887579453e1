package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	scaleSleep   = "0.2" // seconds that each command of scale sleeps
	scaleCallers = 8     // of each node
	scaleTime    = 8 * time.Second
)

// scale measures how many commands that sleep end in a second on all nodes together,
// each with a workspace and callers of its own, against so many times what the first of
// them does alone; and what a workspace costs.
func scale(ctx context.Context, cfg Config, name string, setting Setting) (*Row, error) {
	nodes, err := nodesUp(ctx, cfg.Floor)
	if err != nil {
		return nil, err
	}
	if len(nodes) < 2 {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "bench: scale compares one node with all of them, and there is %d; start another one", len(nodes))
	}
	var spread []*client.Workspace
	for i, n := range nodes {
		w := fmt.Sprintf("%s-%d", name, i)
		if err := cfg.Client.CreateWorkspace(ctx, w); err != nil {
			return nil, err
		}
		defer cfg.Client.RemoveWorkspace(context.WithoutCancel(ctx), w) //nolint:errcheck // the result stands
		if err := moveTo(ctx, cfg, w, n); err != nil {
			return nil, err
		}
		ws := cfg.Client.Workspace(w)
		if err := ws.Command(ctx, command).Run(); err != nil { // it is warm
			return nil, err
		}
		spread = append(spread, ws)
	}
	one, err := sleepers(ctx, spread[:1])
	if err != nil {
		return nil, err
	}
	all, err := sleepers(ctx, spread)
	if err != nil {
		return nil, err
	}
	memory, err := cost(ctx, cfg, name, setting)
	if err != nil {
		return nil, err
	}
	linear := float64(len(nodes)) * one.perSecond()
	return &Row{
		Name: cfg.Name, N: len(all.times), P50: percentile(all.times, 50), P99: percentile(all.times, 99), Ops: all.perSecond(), Cost: memory,
		Floor:    &Floor{Name: fmt.Sprintf("%d times one node", len(nodes)), P50: percentile(one.times, 50), Ops: linear},
		RatioP50: percentile(all.times, 50) / percentile(one.times, 50), RatioOps: all.perSecond() / linear, Settings: setting,
	}, nil
}

// sleepers runs commands that sleep, of every workspace the same number at a time.
func sleepers(ctx context.Context, spread []*client.Workspace) (sample, error) {
	times := make([][]time.Duration, len(spread)*scaleCallers)
	g, gctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i := range times {
		g.Go(func() error {
			for time.Since(start) < scaleTime {
				took, err := timed(gctx, func(ctx context.Context, _ int) error {
					return spread[i/scaleCallers].Command(ctx, "sleep", scaleSleep).Run()
				}, 0)
				if err != nil {
					return err
				}
				times[i] = append(times[i], took)
			}
			return nil
		})
	}
	err := g.Wait()
	s := sample{total: time.Since(start)}
	for _, t := range times {
		s.times = append(s.times, t...)
	}
	return s, err
}

// ask does a request of the operator.
func ask(ctx context.Context, conn *nats.Conn, verb string, args, reply any) error {
	m, err := mesh.NewRequest(mesh.AdminSubject(verb), mesh.NewID(), "", args, nil)
	if err != nil {
		return err
	}
	answer, err := conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return err
	}
	_, err = mesh.DecodeReply(answer, reply)
	return err
}

func nodesUp(ctx context.Context, conn *nats.Conn) ([]mesh.Node, error) {
	var status mesh.StatusReply
	if err := ask(ctx, conn, mesh.VerbAdminStatus, struct{}{}, &status); err != nil {
		return nil, err
	}
	var up []mesh.Node
	for _, n := range status.Nodes {
		if n.State == mesh.NodeUp {
			up = append(up, n.Node)
		}
	}
	return up, nil
}

func moveTo(ctx context.Context, cfg Config, name string, n mesh.Node) error {
	tenant, err := mesh.ParseTenant(cfg.Client.Tenant())
	if err != nil {
		return err
	}
	req := mesh.WorkspaceMoveRequest{Tenant: tenant, Workspace: mesh.Workspace(name), Node: n}
	for {
		var reply mesh.WorkspaceMoveReply
		if err := ask(ctx, cfg.Floor, mesh.VerbAdminMove, req, &reply); err != nil || reply.Done {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
