package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultMaxOpen bounds the workspaces that are open at a time on one node: each
	// takes some 100 KiB, and more where it has many files.
	DefaultMaxOpen = 10_000
	// DefaultMinFree is what must be free on a node's disk for it to take a workspace,
	// or a fiftieth of a small one.
	DefaultMinFree = 256 << 20
	// DefaultProbe is how often a node tries its disk and its sandbox.
	DefaultProbe = 15 * time.Second
	// DefaultProbeTime is how long either may take, twice in a row.
	DefaultProbeTime = 10 * time.Second
)

// fitness is what a node finds out about itself: whether its disk keeps what is
// written, and whether commands still run in its sandbox. While one of them fails, no
// workspace comes to it; those that it has stay, since another node would have to
// restore them, and operations say themselves what fails.
type fitness struct {
	mu       sync.Mutex
	disk     string // why no workspace can be opened; "": it can
	commands string // why no command runs; "": they do
	room     mesh.NodeRoom
}

// unfit says why nothing is to be placed here; "" is nothing.
func (f *fitness) unfit() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.disk != "" {
		return f.disk
	}
	return f.commands
}

// refuses is why the node opens no workspace that is not open here. anyway: one without
// commands is better than none.
func (n *Node) refuses(open int, anyway bool) error {
	n.fitness.mu.Lock()
	defer n.fitness.mu.Unlock()
	switch f := &n.fitness; {
	case open >= n.cfg.MaxOpen:
		return mesh.Errorf(mesh.CodeBusy, "node %s has as many workspaces open as it may, %d; try again", n.cfg.Name, n.cfg.MaxOpen)
	case f.disk != "":
		return mesh.Errorf(mesh.CodeBusy, "node %s takes no workspace: its disk fails or is full; try again", n.cfg.Name)
	case f.commands != "" && !anyway:
		return mesh.Errorf(mesh.CodeBusy, "node %s runs no commands now: its sandbox fails; try again", n.cfg.Name)
	}
	return nil
}

// missing says what of a workspace's needs this node has not; "" is nothing.
func (n *Node) missing(need *mesh.Need) string {
	return need.Missing(n.cfg.Zone, n.cfg.Labels, n.runner.Level().Driver)
}

// room is what the node has left, as it tells the others.
func (n *Node) room(open int) mesh.NodeRoom {
	n.fitness.mu.Lock()
	defer n.fitness.mu.Unlock()
	r := n.fitness.room
	r.Commands = int64(n.execs.Free())
	r.Workspaces = int64(max(0, n.cfg.MaxOpen-open))
	return r
}

// keepFit probes until ctx ends.
func (n *Node) keepFit(ctx context.Context) error {
	tick := time.NewTicker(n.cfg.Probe)
	defer tick.Stop()
	disk := &probe{try: n.tryDisk}
	commands := &probe{try: func() error {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultProbeTime)
		defer cancel()
		return n.runner.Check(within)
	}}
	for {
		select {
		case <-ctx.Done():
			disk.wait()
			commands.wait()
			return ctx.Err()
		case <-tick.C:
		}
		n.judge(disk.result(ctx), commands.result(ctx))
	}
}

// judge notes what the probes have found, and says it where it is news.
func (n *Node) judge(disk, commands error) {
	room, err := n.look()
	if disk == nil {
		disk = err
	}
	before := n.fitness.unfit()
	n.fitness.mu.Lock()
	n.fitness.room = room
	n.fitness.disk, n.fitness.commands = textOf("the disk: ", disk), textOf("the sandbox: ", commands)
	n.fitness.mu.Unlock()
	switch now := n.fitness.unfit(); {
	case now == before:
	case now == "":
		n.log.Info("node takes workspaces again")
	default:
		n.log.Warn("node takes no workspaces", "err", now)
	}
}

func textOf(what string, err error) string {
	if err == nil {
		return ""
	}
	return what + err.Error()
}

// look finds out what is left of the machine, and whether that is enough.
func (n *Node) look() (mesh.NodeRoom, error) {
	free, all, err := diskRoom(n.treeDir())
	if err != nil {
		return mesh.NodeRoom{}, err
	}
	if least := min(DefaultMinFree, all/50); free < least {
		err = fmt.Errorf("%d MiB are free, and %d are needed", free>>20, least>>20)
	}
	return mesh.NodeRoom{DiskBytes: free, MemoryBytes: memoryRoom()}, err
}

// probe tries one thing that may hang: a try that does not end is a failure, and while
// it hangs there is no other one.
type probe struct {
	try func() error

	done chan struct{} // of the try under way or the last one; nil: there was none
	err  error         // of it, once done is closed
}

// result tries, or goes on waiting for the last try, at most for DefaultProbeTime.
func (p *probe) result(ctx context.Context) error {
	if p.done == nil || p.over() {
		done := make(chan struct{})
		p.done = done
		go func() { // ends with the try; wait waits for it
			defer close(done)
			if p.err = p.try(); p.err != nil {
				p.err = p.try() // a machine that was busy for a moment is no broken one
			}
		}()
	}
	timer := time.NewTimer(2 * DefaultProbeTime)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return nil
	case <-timer.C:
		return fmt.Errorf("no answer in %s", 2*DefaultProbeTime)
	}
}

func (p *probe) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait returns when no try is under way, or one hangs.
func (p *probe) wait() {
	if p.done == nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(DefaultProbeTime):
	}
}
