package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// Bounds of what a workspace takes on disk.
const (
	// DefaultDiskBytes is what one workspace may hold: a large repository with its
	// dependencies and builds.
	DefaultDiskBytes = 10 << 30
	// DefaultDiskFiles is how many files and directories, and the most that a tenant
	// may have: what is more could not be kept.
	DefaultDiskFiles = DefaultMaxFiles
	// DefaultMaxCounts bounds the workspaces whose files are counted at a time on
	// one node.
	DefaultMaxCounts = 8
)

const (
	// diskEvery is how often a workspace that is worked in is looked at.
	diskEvery = time.Second
	// A count of files may take one part in restShare of a processor while there is
	// room, and one in hurryShare where the room may be used up.
	restShare  = 20
	hurryShare = 3
)

// disk knows what a workspace takes on disk, to within what was written since the
// last look. A count goes through the whole tree, so a large one is not counted at
// each look: as long as the whole file system has not lost more room than the
// workspace has left, the count can wait.
type disk struct {
	workspace *workspace
	worked    atomic.Bool // something may have changed since the last count
	full      atomic.Bool // commands may remove, and not write

	counting sync.Mutex // held while the files are counted

	mu    sync.Mutex // guards the rest; taken after counting
	last  *counted   // nil before the first
	added int64      // bytes that requests have added since the last count began
}

// counted is what a count has found.
type counted struct {
	used sandbox.Usage
	free sandbox.Usage // of the file system, when the count began
	at   time.Time     // when it ended
	took time.Duration
}

// has reports whether the tree is the node's to bound: a directory of the host is
// its owner's.
func (d *disk) has() bool { return d.workspace.tree != nil && d.workspace.record.Dir == "" }

// lately is what the last count has found, and what was added since it began.
func (d *disk) lately() (last *counted, added int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, d.added
}

// isFull reports whether a command may only remove, and notes that one comes.
func (d *disk) isFull() bool {
	d.worked.Store(true)
	return d.full.Load()
}

// run looks at the workspace each second while it is worked in. Commands that
// write while it is over its limit are ended. It returns when ctx has ended.
func (d *disk) run(ctx context.Context) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !d.has() {
			continue
		}
		running := d.workspace.commanded()
		if running || d.worked.Load() {
			d.look(ctx, running)
		}
	}
}

// look counts if a count is due.
func (d *disk) look(ctx context.Context, running bool) {
	d.counting.Lock()
	defer d.counting.Unlock()
	limits := d.workspace.node.limitsOf(d.workspace.tenant)
	if !d.due(limits) {
		return
	}
	before, _ := d.lately()
	if !d.count(ctx, limits) {
		return
	}
	last, _ := d.lately()
	used := last.used
	if !over(used, limits) {
		return
	}
	// Over the limit a command may go on that only removes.
	grew := before == nil || !over(before.used, limits) || used.Bytes > before.used.Bytes || used.Files > before.used.Files
	if running && grew {
		d.workspace.log.Info("workspace over its disk limit", "bytes", used.Bytes, "files", used.Files)
		d.workspace.endAll(limitDisk)
	}
}

// due says whether the files should be counted now. d.counting is held.
func (d *disk) due(limits mesh.Limits) bool {
	last, _ := d.lately()
	if last == nil {
		return true
	}
	rest := time.Since(last.at)
	if rest >= restShare*last.took {
		return true
	}
	if rest < hurryShare*last.took {
		return false
	}
	now, err := d.workspace.tree.Free()
	if err != nil {
		return true
	}
	return d.full.Load() || last.used.Bytes+last.free.Bytes-now.Bytes > limits.DiskBytes || last.used.Files+last.free.Files-now.Files > limits.DiskFiles
}

func over(u sandbox.Usage, limits mesh.Limits) bool {
	return u.Bytes > limits.DiskBytes || u.Files > limits.DiskFiles
}

// count counts the files and reports whether it did. d.counting is held.
func (d *disk) count(ctx context.Context, limits mesh.Limits) bool {
	n, owner := d.workspace.node, string(d.workspace.tenant)
	if !n.counts.Take(owner) {
		return false
	}
	defer n.counts.Give(owner)
	d.worked.Store(false)
	_, added := d.lately()
	began := time.Now()
	var used sandbox.Usage
	free, err := d.workspace.tree.Free()
	if err == nil {
		used, err = d.workspace.tree.Usage(ctx, limits.DiskFiles)
	}
	if err != nil {
		d.worked.Store(true)
		return false
	}
	d.mu.Lock()
	d.last = &counted{used: used, free: free, at: time.Now(), took: time.Since(began)}
	d.added -= added
	d.mu.Unlock()
	d.full.Store(over(used, limits))
	return true
}

// admit refuses a request that adds bytes, with CodeQuota, where they do not fit.
// What was counted long ago is counted again before that; what was added while the
// files were counted may count twice until then. Of what is there some bytes go again
// with the end of the request.
func (d *disk) admit(ctx context.Context, bytes, going int64) error {
	if !d.has() {
		return nil
	}
	worked := d.worked.Swap(true)
	limits := d.workspace.node.limitsOf(d.workspace.tenant)
	last, fits := d.take(bytes, going, limits)
	if fits {
		return nil
	}
	d.counting.Lock() // a count that goes on may find room
	defer d.counting.Unlock()
	if now, _ := d.lately(); now == last && worked && time.Since(last.at) >= hurryShare*last.took {
		d.count(ctx, limits)
	}
	if _, fits = d.take(bytes, going, limits); fits {
		return nil
	}
	return d.errFull(limits)
}

// take notes what a request adds, if it fits by the last count. Before the first
// anything does.
func (d *disk) take(bytes, going int64, limits mesh.Limits) (last *counted, fits bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fits = d.last == nil || d.last.used.Bytes+d.added+bytes-going <= limits.DiskBytes && d.last.used.Files < limits.DiskFiles
	if fits {
		d.added += bytes
	}
	return d.last, fits
}

func (d *disk) errFull(limits mesh.Limits) *mesh.Error {
	return mesh.Errorf(mesh.CodeQuota, "workspace %s may hold %d MiB and %d files, and this does not fit; remove something, or ask the operator for more",
		d.workspace.name, limits.DiskBytes>>20, limits.DiskFiles)
}

// copy does a copy within what there is room for, of which more than that is
// CodeQuota: how large it is only the copy itself finds out.
func (d *disk) copy(ctx context.Context, do func(sandbox.TarLimits) (mesh.CopyReply, error)) (mesh.CopyReply, error) {
	if !d.has() {
		return do(sandbox.TarLimits{})
	}
	limits := d.workspace.node.limitsOf(d.workspace.tenant)
	room := d.room(ctx, limits)
	if room.Bytes <= 0 || room.Entries <= 0 {
		return mesh.CopyReply{}, d.errFull(limits)
	}
	reply, err := do(room)
	d.mu.Lock()
	d.added += reply.Bytes
	d.mu.Unlock()
	if mesh.CodeOf(err) == mesh.CodeTooLarge && (room.Bytes < sandbox.DefaultTarBytes || room.Entries < sandbox.DefaultTarEntries) {
		err = d.errFull(limits)
	}
	return reply, err
}

// room is what still fits, by a fresh count where one is due; without any, all that
// a workspace may hold.
func (d *disk) room(ctx context.Context, limits mesh.Limits) sandbox.TarLimits {
	d.counting.Lock()
	defer d.counting.Unlock()
	if d.due(limits) {
		d.count(ctx, limits)
	}
	last, added := d.lately()
	if last == nil {
		last = &counted{}
	}
	return sandbox.TarLimits{Entries: limits.DiskFiles - last.used.Files, Bytes: limits.DiskBytes - last.used.Bytes - added}
}
