package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// feedEvery is how often a sandbox hears of us: five times before it takes
	// us for dead.
	feedEvery = 2 * time.Second
	// buildTime bounds the building of a sandbox, which takes 10 ms.
	buildTime = 15 * time.Second
)

// warm keeps sandboxes for the next command: one for each boxKey, in which its
// commands run side by side. A sandbox that fails in any way is never used
// again; a command for which there is none starts cold.
type warm struct {
	runner *Runner
	null   *os.File // standard files that nobody gave
	most   int
	alone  bool // one command at a time in a sandbox: no cgroup tells their processes apart

	mu    sync.Mutex
	boxes map[boxKey]*box
	live  map[*box]struct{} // those, and others that have not ended
	ended sync.WaitGroup    // of every box that was made, and of feed
	quit  chan struct{}
	close func() // ends every sandbox and returns when all are gone
}

// boxKey is what commands have in common that share a sandbox. The directory is
// known by its inode, which stays its own for as long as a sandbox holds it.
type boxKey struct {
	dev, ino uint64
	mount    string
	uid, gid int
	net      string
	egress   string

	tenant    string // whose share of the processors
	files     int
	fileBytes int64
}

func keyOf(spec *Spec) (boxKey, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(spec.Root.Fd()), &st); err != nil {
		return boxKey{}, fmt.Errorf("look at the directory: %w", err)
	}
	net := spec.Net
	if net == "" {
		net = NetNone
	}
	key := boxKey{
		dev: st.Dev, ino: st.Ino, mount: spec.Mount, uid: spec.UID, gid: spec.GID, net: net,
		tenant: spec.Tenant, files: spec.Files, fileBytes: spec.FileBytes,
	}
	if spec.Egress != nil {
		key.egress = spec.Egress.Key()
	}
	return key, nil
}

// warmUp keeps sandboxes from now on, if a canary runs in one. Otherwise every
// command starts cold, which is slower and no less safe.
func (r *Runner) warmUp(ctx context.Context, most int) {
	if most == 0 {
		most = DefaultWarm
	}
	if r.level.Driver != IsolationBwrap {
		return
	}
	if err := r.tryWarm(ctx, most); err != nil {
		r.level.Warm, r.level.Landlock = false, 0
		r.level.Reason = joinReasons(r.level.Reason, "every command starts cold: "+err.Error())
		r.log.Warn("sandboxes are not kept", "err", err)
	}
}

func (r *Runner) tryWarm(ctx context.Context, most int) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	w := &warm{
		runner: r, null: null, most: most, alone: r.limiter.kind == limitsRlimit,
		boxes: make(map[boxKey]*box), live: make(map[*box]struct{}), quit: make(chan struct{}),
	}
	w.close = sync.OnceFunc(w.end)
	w.ended.Go(w.feed)
	r.warm = w
	if most < 0 { // only for commands that need a process 1
		return nil
	}
	err = r.canary(ctx)
	w.mu.Lock()
	for _, b := range w.boxes {
		r.level.Warm, r.level.Landlock = true, b.landlock
		w.retire(b)
	}
	w.mu.Unlock()
	if err == nil && !r.level.Warm {
		err = errors.New("the canary's sandbox was not kept")
	}
	if err != nil {
		r.warm = nil
		w.close()
	}
	return err
}

func (w *warm) end() {
	close(w.quit)
	w.mu.Lock()
	for _, b := range w.boxes {
		w.retire(b)
	}
	w.mu.Unlock()
	w.ended.Wait()
	_ = w.null.Close()
}

// take returns the sandbox for spec, built if need be, or nil when the command
// has to start cold. The caller gives it back.
func (w *warm) take(ctx context.Context, spec *Spec) (*box, error) {
	key, err := keyOf(spec)
	if err != nil {
		return nil, err
	}
	b, fresh := w.choose(key, spec.Terminal != nil)
	switch {
	case b == nil:
		return nil, nil
	case fresh:
		b.build(ctx, spec)
	default:
		select {
		case <-b.built:
		case <-ctx.Done():
			w.give(b)
			return nil, ctx.Err()
		}
	}
	if b.failed() {
		w.give(b)
		return nil, nil
	}
	return b, nil
}

// choose returns a sandbox, which may be one that is still to be built, or nil if
// none may be kept. A command that needs process 1 then gets one that is not kept.
func (w *warm) choose(key boxKey, needed bool) (b *box, fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b = w.boxes[key]
	if b != nil && b.failed() {
		w.retire(b)
		b = nil
	}
	busy := b != nil && w.alone && b.users > 0
	switch {
	case b != nil && !busy:
		b.users++
		return b, false
	case !busy && w.makeRoom():
		b = newBox(w, key)
		w.boxes[key] = b
	case needed:
		b = newBox(w, key)
		b.retired = true
	default:
		return nil, false
	}
	w.live[b] = struct{}{}
	w.ended.Add(1)
	return b, true
}

// forget takes note of the end of a sandbox.
func (w *warm) forget(b *box) {
	w.mu.Lock()
	delete(w.live, b)
	w.mu.Unlock()
	w.ended.Done()
}

// whole reports whether process 1 enters a command's cgroup with all of its
// threads.
func (w *warm) whole() bool { return w.runner.limiter.kind == limitsCgroup2 }

// guests is how many threads of process 1 are in a command's cgroup while it is
// forked, and count there.
func (w *warm) guests() int {
	if w.whole() {
		return agentThreads
	}
	return 1
}

// makeRoom reports whether one more sandbox may be made, after it has retired
// the one without commands that was used the longest time ago. w.mu is held.
func (w *warm) makeRoom() bool {
	if len(w.boxes) < w.most {
		return true
	}
	var oldest *box
	for _, b := range w.boxes {
		if b.users == 0 && (oldest == nil || b.used.Before(oldest.used)) {
			oldest = b
		}
	}
	if oldest == nil {
		return false
	}
	w.retire(oldest)
	return true
}

// retire takes a sandbox out of use; it ends with its last command. w.mu is held.
func (w *warm) retire(b *box) {
	if w.boxes[b.key] == b {
		delete(w.boxes, b.key)
	}
	b.retired = true
	if b.users == 0 {
		b.fail(errRetired)
	}
}

// retireCanary takes the sandboxes of canaries out of use: each has a directory of its own,
// that no other command will have.
func (w *warm) retireCanary() {
	uid, _ := TenantIDs(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, b := range w.boxes {
		if key.uid == uid {
			w.retire(b)
		}
	}
}

// give takes a sandbox back from a command.
func (w *warm) give(b *box) {
	full := b.scratchBytes() > DefaultWarmScratch
	w.mu.Lock()
	defer w.mu.Unlock()
	b.users--
	b.used = time.Now()
	if b.retired || b.failed() || full && b.users == 0 {
		w.retire(b)
	}
}

// drop retires a sandbox that must get no further command.
func (w *warm) drop(b *box) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retire(b)
}

// feed tells every sandbox that we are alive.
func (w *warm) feed() {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
		}
		for _, b := range w.tend(time.Now()) {
			// One that does not read must not let the others starve.
			if b.feeding.CompareAndSwap(false, true) {
				w.ended.Go(func() {
					defer b.feeding.Store(false)
					b.feed()
				})
			}
		}
	}
}

// tend retires the sandboxes that nobody has used for long and returns all that live.
func (w *warm) tend(now time.Time) []*box {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.boxes {
		if b.users == 0 && now.Sub(b.used) > DefaultWarmIdle {
			w.retire(b)
		}
	}
	// Those that are retired too, for the commands in them.
	return slices.Collect(maps.Keys(w.live))
}
