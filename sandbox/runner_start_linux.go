package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// held is a command that is ready, in the way its driver holds it.
type held interface {
	// begin lets it begin; where that fails, nothing of it ran.
	begin() (*Process, error)
	// drop gives it up.
	drop()
	// terminal is our side of its terminal, nil without one.
	terminal() *Terminal
}

// Held is a command that is ready and has not begun. One of Begin and Drop has to
// be called, and only once. Until it has returned the files of the Spec stay open.
type Held struct {
	held held
}

// Begin lets the command begin. It fails as Start does.
func (h *Held) Begin() (*Process, error) { return h.held.begin() }

// Drop gives the command up: it never begins.
func (h *Held) Drop() { h.held.drop() }

// Terminal is our side of the command's terminal, nil if it has none. It is the
// caller's once Begin has succeeded; otherwise it goes with the command.
func (h *Held) Terminal() *Terminal { return h.held.terminal() }

// hold is Prepare with plain errors and what the sandbox said when it failed.
func (r *Runner) hold(ctx context.Context, given *Spec) (h held, said string, err error) {
	spec, err := r.complete(given)
	if err != nil {
		return nil, "", err
	}
	if r.warm != nil {
		if c, err := r.warm.hold(ctx, spec); c != nil || err != nil {
			return c, "", err
		}
	}
	if spec.Terminal != nil && r.level.Driver == IsolationBwrap {
		return nil, "", errors.New("no sandbox with a process 1 of ours can be set up, which a terminal needs")
	}
	return r.holdCold(ctx, spec)
}

// holdCold brings a complete spec to its gate in a sandbox of its own.
func (r *Runner) holdCold(ctx context.Context, spec *Spec) (p *cold, said string, err error) {
	if err := r.begin(); err != nil {
		return nil, "", err
	}
	p = &cold{runner: r, leaderFD: -1}
	p.Process = Process{tree: p, done: make(chan struct{})}
	defer func() {
		if err != nil {
			if p.wasKilled() {
				err = errEnding()
			}
			said = p.abandon()
			p = nil
		}
	}()
	others := r.driver.reserve()
	if spec.listens() {
		others += max(0, agentThreads-spec.Pids) // before the command
	}
	if p.group, err = r.limiter.open(spec.bounds(others)); err != nil {
		return p, "", err
	}
	if spec.Terminal != nil {
		if p.tty, err = hostTerminal(*spec.Terminal, r.owner(spec.UID), spec.GID); err != nil {
			return p, "", err
		}
		spec = p.tty.files(spec)
	}
	if r.mounts {
		if p.mounted, err = r.spawner.mount(ctx, spec.Root); err != nil {
			return p, "", err
		}
	}
	return p, "", r.fork(ctx, p, spec)
}

// begin implements held.
func (p *cold) begin() (*Process, error) {
	if err := p.gate.open(); err != nil {
		if p.wasKilled() {
			err = errEnding()
		}
		said := p.abandon()
		return nil, p.runner.explain(context.Background(), &Spec{}, err, said)
	}
	p.gate.close()
	go p.watch()
	return &p.Process, nil
}

// drop implements held.
func (p *cold) drop() { p.abandon() }

// terminal implements held.
func (p *cold) terminal() *Terminal { return p.tty }

// abandon undoes a start, as far as it came, and returns what the sandbox said.
func (p *cold) abandon() (said string) {
	if p.tty != nil {
		_ = p.tty.Close()
	}
	if p.gate != nil {
		p.gate.shut()
	}
	if p.child != nil {
		p.endUnbegun()
		p.watch()
	} else {
		err := p.release()
		if p.group != nil {
			err = errors.Join(err, p.group.remove())
		}
		if err != nil {
			p.runner.log.Warn("a failed start was not cleaned up after", "err", err)
		}
		p.runner.started.Done()
	}
	if p.gate != nil {
		said = p.gate.said()
		p.gate.close()
	}
	return said
}

// endUnbegun ends a child that did not come to its command. Where a cgroup does
// not hold all of it, the shut gate has to: bubblewrap killed half-way leaves
// processes behind, and nothing it can do before the gate takes long.
func (p *cold) endUnbegun() {
	if p.isLed() {
		p.Kill()
		return
	}
	if p.group.kind != limitsRlimit {
		if err := p.group.kill(); err != nil {
			p.runner.log.Warn("a failed start did not end", "err", err)
		}
		return
	}
	time.AfterFunc(goneWait, func() { _ = p.child.Kill() })
}

// fork starts the child and brings it to the gate before its command.
func (r *Runner) fork(ctx context.Context, p *cold, spec *Spec) error {
	gate, files, err := newGate(spec)
	if err != nil {
		return err
	}
	p.gate = gate
	limits, err := r.rlimits(spec)
	if err != nil {
		return err
	}
	prep, err := r.driver.compose(spec, &setting{files: files, at: p.mounted, limits: limits, agent: r.agent})
	if err != nil {
		return err
	}
	defer prep.discard()
	if r.level.Uids {
		// An empty list of groups, not none: ours must go.
		prep.launch.sys.Credential = &credential{Uid: uint32(spec.UID), Gid: uint32(spec.GID), Groups: []uint32{}}
	}
	if p.child, err = r.spawner.fork(ctx, prep.launch, p.group); err != nil {
		return err
	}
	r.track(&p.Process)
	gate.forked()
	if spec.listens() {
		fd, err := gate.listener(ctx)
		if err != nil {
			return err
		}
		if p.outlet, err = openOutlet(spec.Egress, fd); err != nil {
			return err
		}
	}
	if err := gate.wait(ctx); err != nil {
		return err
	}
	leader, err := r.driver.leader(p.child.Pid)
	if err != nil {
		return fmt.Errorf("find the sandbox's first process: %w", err)
	}
	if err := p.lead(leader); err != nil {
		return err
	}
	return ctx.Err()
}

// rlimits are shell commands that bind the shell at the gate, and so all it
// becomes and starts. It does that itself because limiting another user's
// process takes CAP_SYS_RESOURCE, which containers rarely have even as root; for
// the same reason no limit is raised.
func (r *Runner) rlimits(spec *Spec) (string, error) {
	files, err := hardLimit(unix.RLIMIT_NOFILE, int64(spec.Files))
	if err != nil {
		return "", err
	}
	bytes, err := hardLimit(unix.RLIMIT_FSIZE, spec.FileBytes)
	if err != nil {
		return "", err
	}
	script := fmt.Sprintf("ulimit -c 0 || exit 126; ulimit -n %d || exit 126; ulimit -f %d || exit 126; ", files, bytes/512)
	if spec.agent != nil {
		return script, nil
	}
	return script + r.ownLimits(spec, r.driver.reserve()), nil
}

// ownLimits are those shell commands that differ from command to command: none
// where a cgroup holds the command and the disk is not full.
func (r *Runner) ownLimits(spec *Spec, reserve int) (script string) {
	if spec.Full {
		script = "ulimit -f 0 || exit 126; "
	}
	if r.limiter.kind != limitsRlimit || r.level.Driver == IsolationNone {
		return script
	}
	// Not the address space: runtimes reserve far more than they use.
	script += fmt.Sprintf("ulimit -d %d || exit 126; ", max(1, spec.MemoryBytes>>10))
	if r.level.Uids || r.level.Driver == IsolationBwrap {
		// Outside a user namespace the count is of all processes of the host
		// user, whose desktop alone may have more. Shells disagree on the letter.
		script += fmt.Sprintf("if (ulimit -u %[1]d) 2>/dev/null; then ulimit -u %[1]d; else ulimit -p %[1]d; fi || exit 126; ",
			spec.Pids+reserve)
	}
	return script
}

// complete checks a Spec and returns a copy with every default in place. Its
// first variable is HOME, if the caller gave none.
func (r *Runner) complete(given *Spec) (*Spec, error) {
	spec := *given
	if spec.Root == nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: no directory")
	}
	if spec.Dir == "" {
		spec.Dir = spec.Mount
	}
	switch {
	case !checkMount(spec.Mount):
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: mount %q is not a clean path at or below %s", spec.Mount, mesh.WorkspaceRoot)
	case !checkDir(spec.Mount, spec.Dir):
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: working directory %q is outside %s", spec.Dir, spec.Mount)
	case spec.Net != "" && spec.Net != NetNone && spec.Net != NetFull:
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: network %q: want none or full", spec.Net)
	case spec.Egress != nil && spec.Net == NetFull:
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: network full needs no way out")
	case spec.Egress != nil && !r.level.Net:
		return nil, mesh.Errorf(mesh.CodeUnsupported, "exec: isolation %s cannot keep a command to some hosts", r.level.Driver)
	case spec.Terminal != nil && (spec.Stdin != nil || spec.Stdout != nil || spec.Stderr != nil):
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: either a terminal or files")
	case spec.MemoryBytes < 0 || spec.Pids < 0 || spec.CPUMillis < 0 || spec.Files < 0 || spec.FileBytes < 0:
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: a limit is negative")
	case r.level.Uids && (!tenantID(spec.UID) || !tenantID(spec.GID)):
		return nil, mesh.Errorf(mesh.CodeInvalid, "exec: not the host ids of a tenant")
	}
	spec.Dir = path.Clean(spec.Dir)
	if spec.MemoryBytes == 0 {
		spec.MemoryBytes = DefaultMemoryBytes
	}
	if spec.Pids == 0 {
		spec.Pids = DefaultPids
	}
	if spec.Files == 0 {
		spec.Files = DefaultFiles
	}
	if spec.FileBytes == 0 {
		spec.FileBytes = DefaultFileBytes
	}
	spec.Env = environment(&spec)
	return &spec, checkWords(spec.Argv, spec.Env)
}

// bounds is what a cgroup holds the command to, with some processes of others.
func (s *Spec) bounds(others int) bounds {
	return bounds{memory: s.MemoryBytes, pids: s.Pids + others, cpu: s.CPUMillis, tenant: s.Tenant}
}

// owner is whose a terminal is made: a tenant's, or 0 where commands have our id.
func (r *Runner) owner(uid int) int {
	if r.level.Uids {
		return uid
	}
	return 0
}

func tenantID(id int) bool { return id > 0 && id <= math.MaxInt32 }

// environment is the defaults and what is given, one entry per name: the last one
// wins, and a bare name takes away what came before it.
func environment(spec *Spec) []string {
	all := []string{"HOME=" + spec.Mount, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}
	if spec.Egress != nil {
		all = append(all, egressEnv...)
	}
	all = append(all, spec.Env...)
	at := make(map[string]int, len(all))
	list := all[:0:0]
	for _, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			list[i] = kv
			continue
		}
		at[name] = len(list)
		list = append(list, kv)
	}
	return slices.DeleteFunc(list, isBareName)
}

// checkWords refuses what no process can be started with.
func checkWords(argv, env []string) error {
	if len(argv) == 0 {
		return mesh.Errorf(mesh.CodeInvalid, "exec: no command")
	}
	total := 0
	for i, word := range append(append([]string{}, argv...), env...) {
		total += len(word) + 1
		switch {
		case strings.ContainsRune(word, 0):
			return mesh.Errorf(mesh.CodeInvalid, "exec: an argument or variable contains a zero byte")
		case len(word) > MaxArgBytes:
			return mesh.Errorf(mesh.CodeTooLarge, "exec: an argument or variable is over %d bytes; pass it through a file or stdin", MaxArgBytes)
		case i >= len(argv) && strings.IndexByte(word, '=') < 1:
			return mesh.Errorf(mesh.CodeInvalid, "exec: variable %.200q is not NAME=VALUE, or NAME to take it away", word)
		}
	}
	if total > MaxArgsBytes {
		return mesh.Errorf(mesh.CodeTooLarge, "exec: arguments and variables are over %d bytes together; pass them through a file or stdin", MaxArgsBytes)
	}
	return nil
}

// translate gives a failed start its code. Bubblewrap reports only in words, so
// the one failure that is the caller's is known by them.
func translate(ctx context.Context, spec *Spec, err error, said string) *mesh.Error {
	below := spec.Dir != "" && path.Clean(spec.Dir) != spec.Mount
	chdir := strings.Contains(said, "Can't chdir to")
	switch {
	case ctx.Err() != nil:
		return mesh.Errorf(mesh.CodeOf(ctx.Err()), "exec: the sandbox was not up in time; nothing was run")
	case errors.Is(err, unix.E2BIG):
		return mesh.Errorf(mesh.CodeTooLarge, "exec: arguments and variables are too long")
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return mesh.Errorf(mesh.CodeBusy, "exec: the node is out of processes or memory")
	case spec.Terminal != nil && errors.Is(err, unix.ENOSPC):
		return mesh.Errorf(mesh.CodeBusy, "exec: there are as many terminals as there may be")
	case errors.Is(err, os.ErrClosed):
		return errEnding()
	case below && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) ||
		chdir && (strings.Contains(said, "No such file") || strings.Contains(said, "Not a directory"))):
		return mesh.Errorf(mesh.CodeNotFound, "exec: working directory %q does not exist", spec.Dir)
	case below && (errors.Is(err, unix.EACCES) || chdir):
		return mesh.Errorf(mesh.CodeDenied, "exec: working directory %q cannot be entered", spec.Dir)
	}
	return mesh.Errorf(mesh.CodeInternal, "exec: the sandbox could not be set up; the node's log says why")
}
