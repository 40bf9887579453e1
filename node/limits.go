package node

import (
	"context"
	"fmt"
	"time"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// Names of limits in final frames.
const (
	limitTimeout = "timeout"
	limitOutput  = "output"
	limitDisk    = sandbox.LimitDisk
)

// limitsOf returns the limits of a tenant, with the defaults where none was set.
func (n *Node) limitsOf(t mesh.Tenant) mesh.Limits {
	n.mu.Lock()
	defer n.mu.Unlock()
	return withDefaults(n.limits[t])
}

func withDefaults(l mesh.Limits) mesh.Limits {
	for _, d := range []struct {
		value *int64
		none  int64
	}{
		{&l.MemoryBytes, sandbox.DefaultMemoryBytes},
		{&l.Pids, sandbox.DefaultPids},
		{&l.Files, sandbox.DefaultFiles},
		{&l.DiskBytes, DefaultDiskBytes},
		{&l.DiskFiles, DefaultDiskFiles},
	} {
		if *d.value == 0 {
			*d.value = d.none
		}
	}
	l.DiskFiles = min(l.DiskFiles, DefaultMaxFiles)
	if l.Dangerous == "" {
		l.Dangerous = mesh.DangerousAsked
	}
	if l.FileBytes == 0 || l.FileBytes > l.DiskBytes {
		l.FileBytes = l.DiskBytes
	}
	return l
}

// bound gives the command its limits: the tenant's, or what it asks for itself if
// that is less.
func (c *command) bound() error {
	for _, b := range []struct {
		name  string
		asked *int64
		most  int64
	}{
		{"memory", &c.MemoryBytes, c.limits.MemoryBytes},
		{"pids", &c.Pids, c.limits.Pids},
		{"cpu", &c.CPUMillis, c.limits.CPUMillis},
		{"timeout", &c.TimeoutMS, c.limits.TimeoutMS},
		{"output", &c.MaxOutput, c.limits.OutputBytes},
	} {
		switch {
		case *b.asked == 0:
			*b.asked = b.most
		case b.most != 0 && *b.asked > b.most:
			return mesh.Errorf(mesh.CodeQuota, "exec: %s %d is more than the %d that the tenant may have; ask for less, or the operator for more", b.name, *b.asked, b.most)
		}
	}
	return nil
}

// tell writes into the final frame how a command ended that ran.
func (x *run) tell(final *mesh.Final, result *sandbox.Result) {
	level := x.workspace.node.runner.Level()
	final.Code, final.Rung = result.Code, level.Limits
	final.UserUS, final.SystemUS, final.MaxRSS = result.User.Microseconds(), result.System.Microseconds(), result.MaxRSS
	if final.Warm = result.Warm; final.Warm {
		final.Landlock = level.Landlock
	}
	x.name(final, result.Limits)
}

// name writes into the final frame which limits the command met.
func (x *run) name(final *mesh.Final, met []string) {
	if own := x.limit.Load(); own != nil {
		met = append([]string{*own}, met...)
	}
	for _, name := range met {
		if final.Limit == "" {
			final.Limit = name
		} else if name == final.Limit {
			continue
		}
		final.Met = append(final.Met, mesh.LimitMet{Name: name, Text: x.command.about(name)})
	}
	if final.Limit == limitTimeout {
		final.Code = 124
	}
}

// about is a sentence about a limit that was met.
func (c *command) about(limit string) string {
	switch limit {
	case limitTimeout:
		return fmt.Sprintf("the command was ended after %s", time.Duration(c.TimeoutMS)*time.Millisecond)
	case limitOutput:
		return fmt.Sprintf("the command was ended after %d bytes of output", c.MaxOutput)
	case limitDisk:
		return fmt.Sprintf("the workspace is full; it may hold %d MiB and %d files, and one file %d MiB; remove something",
			c.limits.DiskBytes>>20, c.limits.DiskFiles, c.limits.FileBytes>>20)
	case sandbox.LimitMemory:
		return fmt.Sprintf("the command reached its memory limit of %d MiB", c.MemoryBytes>>20)
	case sandbox.LimitPids:
		return fmt.Sprintf("the command reached its limit of %d processes and threads", c.Pids)
	}
	return "the command reached this limit"
}

// tenantQuota reads or sets the limits of a tenant.
func (n *Node) tenantQuota(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.TenantQuotaRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	t, err := mesh.ParseTenant(string(a.Tenant))
	if err != nil {
		return nil, err
	}
	var r kv.TenantRecord
	if a.Set == nil {
		r, err = n.kv.Tenants.Get(ctx, t)
	} else {
		if err := a.Set.Check(); err != nil {
			return nil, err
		}
		r, err = n.kv.Tenants.SetLimits(ctx, t, *a.Set)
	}
	return &mesh.Reply{Args: mesh.TenantQuotaReply{Tenant: t, Set: r.Limits, Limits: withDefaults(r.Limits)}}, err
}
