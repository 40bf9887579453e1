package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"regexp"
	"sync"

	"github.com/wsmesh/wsmesh/mesh"
)

// Runner starts commands in one way of isolation, found at New. All methods may
// be called concurrently. The caller closes it.
type Runner struct {
	log     *slog.Logger
	level   Level
	driver  driver // nil when commands are refused
	limiter *limiter
	spawner *spawner
	agent   *os.File // the program that is process 1 of a kept sandbox; nil: there is none
	warm    *warm    // nil: every command starts cold
	root    bool
	mounts  bool

	mu      sync.Mutex
	closed  bool
	live    map[*Process]struct{}
	started sync.WaitGroup // Starts under way and processes not yet cleaned up
}

// driver is one way to run a command; it keeps no state between commands.
type driver interface {
	// reserve is the number of processes that the driver itself adds.
	reserve() int
	// compose says what to fork for spec.
	compose(spec *Spec, in *setting) (*prepared, error)
	// leader names the process whose end is the end of the whole command, and
	// whose process group takes signals; the command stands at the gate.
	leader(child int) (int, error)
}

// setting is what every driver is given besides the Spec.
type setting struct {
	files  []*os.File // descriptors 0 to 4
	at     string     // where the spawner mounted the directory, or ""
	limits string     // shell commands that set the limits per process
	agent  *os.File   // makes the listener of a Spec with Egress
}

// prepared is what a driver composed.
type prepared struct {
	launch *launch
	close  []*os.File // ends that only the child needs
}

func (p *prepared) discard() {
	for _, f := range p.close {
		_ = f.Close()
	}
	p.close = nil
}

const installHint = "install bubblewrap (apt-get install bubblewrap) and allow user namespaces, " +
	"or name another isolation: software runs commands without kernel isolation"

var stateIDForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// New chooses the isolation and proves it by running a command under it; ctx
// bounds that. It also removes what a dead predecessor with the same
// Config.StateID left behind. A named isolation that is not possible here is
// CodeUnsupported, and the text names the cure; with auto the Runner is made and
// its Start returns that error. A wrong Config is CodeInvalid.
func New(ctx context.Context, cfg Config) (*Runner, error) {
	r := &Runner{log: cfg.Log, root: os.Geteuid() == 0, live: make(map[*Process]struct{})}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Isolation == "" {
		cfg.Isolation = IsolationAuto
	}
	switch cfg.Isolation {
	case IsolationAuto, IsolationBwrap, IsolationSoftware, IsolationNone:
	default:
		return nil, mesh.Errorf(mesh.CodeInvalid, "isolation %q: want auto, bwrap, software or none", cfg.Isolation)
	}
	if cfg.StateID == "" {
		cfg.StateID = "x-" + rand.Text()
	} else if !stateIDForm.MatchString(cfg.StateID) {
		return nil, mesh.Errorf(mesh.CodeInvalid, "state id %q: want 1 to 64 of A-Z a-z 0-9 _ -", cfg.StateID)
	}
	if r.root {
		r.sweep(cfg.StateID)
	}
	if r.limiter = cfg.limiter; r.limiter == nil {
		r.limiter = newLimiter(cfg.StateID, r.root)
	}
	err := r.choose(cfg.Isolation)
	if err == nil {
		err = r.canary(ctx)
	}
	if err == nil {
		r.warmUp(ctx, cfg.Warm)
		return r, nil
	}
	refusal := mesh.Errorf(mesh.CodeUnsupported, "no command can run isolated here: %v; %s", err, installHint)
	if cfg.Isolation != IsolationAuto {
		return nil, errors.Join(refusal, r.Close())
	}
	if ctx.Err() != nil {
		return nil, errors.Join(fmt.Errorf("try the sandbox: %w", ctx.Err()), r.Close())
	}
	r.stop()
	r.driver, r.level = nil, Level{Reason: refusal.Text}
	return r, nil
}

// choose sets the driver and its surroundings without trying them.
func (r *Runner) choose(isolation string) error {
	r.level = Level{Driver: isolation, Limits: r.limiter.kind, CPU: r.limiter.cpu(), Reason: r.limiter.reason}
	switch isolation {
	case IsolationNone, IsolationSoftware:
		r.driver = plain{}
		r.level.Uids = r.root && isolation == IsolationSoftware
	default:
		b, err := newBwrap()
		if err != nil {
			return err
		}
		r.driver = b
		r.level.Driver, r.level.Uids, r.level.Seccomp, r.level.Net = IsolationBwrap, r.root, true, true
		if r.agent, err = agentProgram(); err != nil {
			return err
		}
	}
	spawner, err := newSpawner(spawnerConfig{
		mounts:       r.level.Uids,
		noPrivileges: isolation == IsolationSoftware,
	})
	if err != nil && isolation == IsolationSoftware {
		// The directory is then entered through its descriptor: it works, but a
		// name above it that the tenant may not pass stays in its way.
		r.level.Reason = joinReasons(r.level.Reason, err.Error())
		spawner, err = newSpawner(spawnerConfig{noPrivileges: true})
	}
	if err != nil {
		return err
	}
	r.spawner, r.mounts = spawner, spawner.ground != ""
	return nil
}

func joinReasons(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// Refusal is why New has found no isolation, so that no command runs; nil: it has.
func (r *Runner) Refusal() error {
	if r.driver == nil {
		return errors.New(r.level.Reason)
	}
	return nil
}

// Check runs a command as New did, and says what fails; ctx bounds it. The Runner stays
// as it is.
func (r *Runner) Check(ctx context.Context) error {
	if err := r.Refusal(); err != nil {
		return err
	}
	err := r.canary(ctx)
	if r.warm != nil {
		r.warm.retireCanary()
	}
	return err
}

// canary runs /bin/true exactly as a tenant's command would run.
func (r *Runner) canary(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "wsmesh-canary-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer os.Remove(dir)
	root, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open a directory: %w", err)
	}
	defer root.Close()
	if err := root.Chmod(0o711); err != nil {
		return fmt.Errorf("open a directory to all: %w", err)
	}
	uid, gid := TenantIDs(0)
	h, text, err := r.hold(ctx, &Spec{
		Root: root, Mount: mesh.WorkspaceRoot, Argv: []string{"/bin/true"}, UID: uid, GID: gid,
	})
	if err != nil {
		if text != "" {
			return fmt.Errorf("%w: %s", err, text)
		}
		return err
	}
	p, err := h.begin()
	if err != nil {
		return err
	}
	switch res := p.Wait(); {
	case res.Err != nil:
		return res.Err
	case res.Code != 0:
		return fmt.Errorf("/bin/true ended with %d", res.Code)
	}
	return nil
}

// sweep removes what a dead predecessor left. Failing at it is no reason not to
// start: what is left is dead weight under names we do not use.
func (r *Runner) sweep(stateID string) {
	host, err := readCgroups()
	if err != nil {
		return
	}
	n, err := host.sweep(groupPrefix + stateID + ".")
	if n > 0 {
		r.log.Info("removed cgroups of a dead predecessor", "count", n)
	}
	if err != nil {
		r.log.Warn("cgroups of a dead predecessor remain", "err", err)
	}
}

// Level returns what this Runner achieves. It does not change.
func (r *Runner) Level() Level { return r.level }

// Prepare makes a command ready, in a sandbox that is up, but does not let it
// begin; ctx bounds that and nothing after it.
//
// It returns CodeInvalid for a wrong Spec, CodeTooLarge for too long arguments,
// CodeNotFound or CodeDenied for a working directory that cannot be entered,
// CodeUnsupported when commands are refused, CodeUnavailable after Close,
// CodeBusy when the host is out of processes or memory, CodeDeadline or
// CodeCanceled when ctx ended first, and CodeInternal when the sandbox cannot be
// set up. In each case nothing of the command has run.
func (r *Runner) Prepare(ctx context.Context, spec *Spec) (*Held, error) {
	if r.driver == nil {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "%s", r.level.Reason)
	}
	h, said, err := r.hold(ctx, spec)
	if err != nil {
		return nil, r.explain(ctx, spec, err, said)
	}
	return &Held{held: h}, nil
}

// Start is Prepare and Begin.
func (r *Runner) Start(ctx context.Context, spec *Spec) (*Process, error) {
	h, err := r.Prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	return h.Begin()
}

// explain gives a failed start its code.
func (r *Runner) explain(ctx context.Context, spec *Spec, err error, said string) error {
	var coded *mesh.Error
	if errors.As(err, &coded) {
		return coded
	}
	coded = translate(ctx, spec, err, said)
	if coded.Code == mesh.CodeInternal {
		// What the sandbox says names places on the host, so the caller does
		// not get it.
		r.log.Warn("a sandbox could not be set up", "err", err, "said", said)
	}
	return coded
}

// Close kills every command, waits until all are gone, ends the sandboxes that
// were kept, and removes what the Runner made on the host. It may be called more than once.
func (r *Runner) Close() error {
	r.mu.Lock()
	r.closed = true
	live := make([]*Process, 0, len(r.live))
	for p := range r.live {
		live = append(live, p)
	}
	r.mu.Unlock()
	for _, p := range live {
		p.Kill()
	}
	r.started.Wait()
	if r.warm != nil {
		r.warm.close()
	}
	r.stop()
	return nil
}

func (r *Runner) stop() {
	if r.spawner != nil {
		r.spawner.close()
	}
	if r.agent != nil {
		_ = r.agent.Close()
	}
}

// begin counts a Start, so that Close waits for it.
func (r *Runner) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errEnding()
	}
	r.started.Add(1)
	return nil
}

func (r *Runner) closing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

func errEnding() *mesh.Error { return mesh.Errorf(mesh.CodeUnavailable, "exec: the node is closing") }

// track makes a forked process known to Close.
func (r *Runner) track(p *Process) {
	r.mu.Lock()
	r.live[p] = struct{}{}
	closed := r.closed
	r.mu.Unlock()
	if closed {
		p.Kill()
	}
}

func (r *Runner) forget(p *Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, p)
}

// checkMount accepts clean absolute paths at or below the workspace root: any
// other place could cover the system inside.
func checkMount(mount string) bool {
	return path.Clean(mount) == mount && checkDir(mesh.WorkspaceRoot, mount)
}
