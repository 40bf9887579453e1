package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// hosts says whether this system can host workspaces at all.
const hosts = true

const (
	// littleSpace and noSpace are what is free of a disk when it is time to act,
	// and when a build of moderate size already fails.
	littleSpace = 2 << 30
	noSpace     = 128 << 20
	// slowSync is a disk's answer that a person notices: each acknowledged write
	// waits for at least one.
	slowSync  = 10 * time.Millisecond
	syncTries = 20
)

// host checks what hosting workspaces needs.
func (d *doctor) host(ctx context.Context) {
	d.add(system(), user(), bubblewrap(ctx))
	runner, err := sandbox.New(ctx, sandbox.Config{})
	if err != nil {
		d.add(fail("isolation", errorText(err), "see the checks around this one"))
	} else {
		defer runner.Close()
		d.add(isolationOf(runner.Level()), sandboxes(runner.Level()))
	}
	d.add(userNamespaces(), seccompFilters(), landlock(), limits(ctx, runner), processors(runner), openFiles())
	d.add(d.space()...)
	d.add(tool(ctx, runner, "git", "agents keep their work in it"), tool(ctx, runner, "python3", "agents calculate with it"))
}

// system tries the one call that safe file access cannot do without.
func system() finding {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fail("system", "uname: "+err.Error(), "report this")
	}
	detail := fmt.Sprintf("Linux %s %s", unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Machine[:]))
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return fail("system", detail+": openat2: "+err.Error(), "use a kernel from 5.6 on, and a container that allows openat2")
	}
	unix.Close(fd)
	return ok("system", "%s", detail)
}

func user() finding {
	if os.Geteuid() == 0 {
		return ok("user", "root: each tenant's commands have ids of their own")
	}
	return warn("user", fmt.Sprintf("uid %d, not root: commands of all tenants run as you, so that the sandbox alone keeps them from each other and from your files, "+
		"and they share what the kernel counts for one user: processes, inotify watches", os.Geteuid()),
		"nothing, if all tenants are you; else run it as root: sudo wsmesh dev --data DIR")
}

func bubblewrap(ctx context.Context) finding {
	path, err := exec.LookPath("bwrap")
	if err != nil {
		return fail("bubblewrap", "not installed: commands are refused", "sudo apt-get install bubblewrap (or dev --isolation software, without kernel isolation)")
	}
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return fail("bubblewrap", fmt.Sprintf("%s does not run: %s", path, err), "sudo apt-get install --reinstall bubblewrap")
	}
	return ok("bubblewrap", "%s, %s", path, strings.TrimSpace(string(out)))
}

// isolationOf judges what the canary achieved: a command run as a tenant's is.
func isolationOf(level sandbox.Level) finding {
	if level.Driver == "" {
		why, _, _ := strings.Cut(level.Reason, "; install ") // the other checks say what to do
		return fail("isolation", why, "see bubblewrap and user-namespaces")
	}
	parts := []string{level.Driver + ": /bin/true ran as a tenant's command does"}
	if level.Uids {
		parts = append(parts, "own ids for each tenant")
	}
	if level.Seccomp {
		parts = append(parts, "system calls filtered")
	}
	if level.Net {
		parts = append(parts, "a network of their own")
	}
	return ok("isolation", "%s", strings.Join(parts, ", "))
}

// userNamespaces makes one as an unprivileged user: root may where others may
// not, and a tenant's command is not root.
func userNamespaces() finding {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = sandbox.TenantIDs(0)
	}
	err := inUserNamespace(uid, gid)
	if err == nil {
		return ok("user-namespaces", "uid %d can make them", uid)
	}
	fix := "allow them on the host; in a container, run it with --privileged or --security-opt seccomp=unconfined"
	for _, k := range []struct{ name, bad, good string }{
		{"user/max_user_namespaces", "0", "10000"},
		{"kernel/unprivileged_userns_clone", "0", "1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "0"},
	} {
		b, readErr := os.ReadFile("/proc/sys/" + k.name)
		if readErr == nil && strings.TrimSpace(string(b)) == k.bad {
			fix = fmt.Sprintf("sudo sysctl -w %s=%s", strings.ReplaceAll(k.name, "/", "."), k.good)
			break
		}
	}
	return fail("user-namespaces", fmt.Sprintf("uid %d cannot make them: %s", uid, err), fix)
}

// inUserNamespace runs /bin/true in a new user namespace as the given ids. They
// are taken by one thread only, which ends with its goroutine.
func inUserNamespace(uid, gid int) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
			if errno == 0 { // last: without root no id can be changed any more
				_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
			}
			if errno != 0 {
				result <- errno
				return
			}
		}
		cmd := exec.Command("/bin/true")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		result <- cmd.Run()
	}()
	return <-result
}

func seccompFilters() finding {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return fail("seccomp", "the kernel filters no system calls: "+errno.Error(), "use a kernel with CONFIG_SECCOMP_FILTER")
	}
	return ok("seccomp", "the kernel filters system calls")
}

// sandboxes says whether they are kept, and how far.
func sandboxes(level sandbox.Level) finding {
	switch {
	case level.Driver != sandbox.IsolationBwrap:
		return ok("sandboxes", "none are made without bubblewrap")
	case !level.Warm:
		return warn("sandboxes", "each command waits some 10 ms for one of its own: "+level.Reason, "see landlock and user-namespaces, or report this")
	case level.Limits == "rlimit":
		return warn("sandboxes", "kept for the next command; without cgroups two commands of one workspace at a time cannot share one, and the second waits some 10 ms for its own",
			"see limits")
	}
	return ok("sandboxes", "kept for the next command")
}

// landlock is the second layer below the mounts of a sandbox that is kept.
func landlock() finding {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	const fix = "use a kernel from 6.12 on, with landlock among its lsm="
	switch {
	case errno != 0:
		return warn("landlock", "the kernel has none ("+errno.Error()+"): a sandbox's mounts alone hold its commands, and those that share one can signal and read each other", fix)
	case abi < 6:
		return warn("landlock", fmt.Sprintf("ABI %d: commands that share a sandbox can signal each other", abi), fix)
	}
	return ok("landlock", "ABI %d: a second layer, which also keeps commands of one sandbox apart", abi)
}

// limits reports which rung was reached from where doctor was started: a service
// may reach another. A host that refuses commands is asked without isolation.
func limits(ctx context.Context, runner *sandbox.Runner) finding {
	var level sandbox.Level
	if runner != nil {
		level = runner.Level()
	}
	if level.Limits == "" {
		plain, err := sandbox.New(ctx, sandbox.Config{Isolation: sandbox.IsolationNone})
		if err != nil {
			return fail("limits", errorText(err), "see isolation")
		}
		defer plain.Close()
		level = plain.Level()
	}
	switch {
	case strings.HasPrefix(level.Limits, "cgroup"):
		return ok("limits", "memory and processes of a whole command, by %s", level.Limits)
	}
	fix := "start it where cgroups can be written: as a systemd service with Delegate=yes, or in a container with them mounted read-write"
	if os.Geteuid() != 0 {
		fix = "run it as root"
	}
	return warn("limits", level.Limits+": memory is bounded for each process of a command and not for all of them, and a command that is refused memory or processes is told so "+
		"by errors of its own, not by us: "+level.Reason, fix)
}

// processors reports whether a tenant can take them all.
func processors(runner *sandbox.Runner) finding {
	if runner == nil || runner.Level().Driver == "" {
		return ok("processors", "no command runs here")
	}
	if runner.Level().CPU {
		return ok("processors", "tenants have equal shares")
	}
	return warn("processors", "a tenant with many processes takes them from the others, and the quota cpu bounds nothing", "see limits")
}

func openFiles() finding {
	files, err := sandbox.OpenFiles()
	if err != nil {
		return warn("open-files", err.Error(), "report this")
	}
	if files < sandbox.DefaultFiles {
		return warn("open-files", fmt.Sprintf("at most %d, for the node and for each command; commands would have %d", files, sandbox.DefaultFiles),
			fmt.Sprintf("ulimit -Hn %d, or LimitNOFILE=%d in the service", sandbox.DefaultFiles, sandbox.DefaultFiles))
	}
	return ok("open-files", "up to %d for each command", files)
}

// space writes where the data directory is or would be.
func (d *doctor) space() []finding {
	at, detail := d.dir, d.dir
	for !exists(at) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
	}
	if at != d.dir {
		detail = fmt.Sprintf("%s does not exist yet; %s does", d.dir, at)
	}
	const elsewhere = "choose another with --data DIR or WSMESH_DATA"
	f, err := os.CreateTemp(at, ".wsmesh-doctor-*")
	if err != nil {
		return []finding{fail("data", err.Error(), elsewhere)}
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &disk); err != nil {
		return []finding{fail("data", detail+": "+err.Error(), elsewhere)}
	}
	free := int64(disk.Bavail) * disk.Bsize
	detail = fmt.Sprintf("%s; %.1f GiB free", detail, float64(free)/(1<<30))
	data := ok("data", "%s", detail)
	switch {
	case free < noSpace:
		data = fail("data", detail, "free some space, or "+elsewhere)
	case disk.Type == unix.TMPFS_MAGIC || disk.Type == unix.RAMFS_MAGIC:
		data = warn("data", detail+"; it is memory and gone after a restart", elsewhere)
	case free < littleSpace:
		data = warn("data", detail, "free some space, or "+elsewhere)
	}
	return []finding{data, syncSpeed(f)}
}

// syncSpeed measures what each acknowledged write waits for.
func syncSpeed(f *os.File) finding {
	block := bytes.Repeat([]byte("wsmesh\n\x00"), 512)
	var times []time.Duration
	for range syncTries {
		start := time.Now()
		_, err := f.Write(block)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			return fail("fsync", err.Error(), "see data")
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	p50 := times[(len(times)-1)/2]
	detail := fmt.Sprintf("4 KiB are on disk in %s (p50 of %d)", p50.Round(time.Microsecond), syncTries)
	if p50 > slowSync {
		return warn("fsync", detail, "put the data directory on a faster disk; dev --sync interval does without, and may lose the last seconds at a power failure")
	}
	return ok("fsync", "%s", detail)
}

// tool runs a program as a command would find it, since a sandbox sees only part
// of the host; as this process does where no command can run.
func tool(ctx context.Context, runner *sandbox.Runner, name, why string) finding {
	fix := "sudo apt-get install " + name
	if runner == nil || runner.Level().Driver == "" {
		said, err := exec.CommandContext(ctx, name, "--version").Output()
		if err != nil {
			return warn(name, fmt.Sprintf("not usable on this machine (%s); %s", err, why), fix)
		}
		return ok(name, "%s, outside of any sandbox", strings.TrimSpace(string(said)))
	}
	said, err := inside(ctx, runner, name, "--version")
	if err == nil {
		return ok(name, "%s", said)
	}
	if path, look := exec.LookPath(name); look == nil {
		return warn(name, fmt.Sprintf("%s is here, but does not run in a workspace (%s); %s", path, err, why), "install it below /usr: "+fix)
	}
	return warn(name, "not installed; "+why, fix)
}

// inside runs a command as a tenant's and returns its first line.
func inside(ctx context.Context, runner *sandbox.Runner, argv ...string) (string, error) {
	dir, err := os.MkdirTemp("", "wsmesh-doctor-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", err
	}
	root, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	uid, gid := sandbox.TenantIDs(0)
	p, err := runner.Start(ctx, &sandbox.Spec{Root: root, Mount: mesh.WorkspaceRoot, Argv: argv, Stdout: w, UID: uid, GID: gid})
	w.Close()
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, p.Kill)
	defer stop()
	said, readErr := io.ReadAll(io.LimitReader(r, 4<<10))
	result := p.Wait()
	if err := errors.Join(readErr, result.Err); err != nil {
		return "", err
	}
	if result.Code != 0 {
		return "", fmt.Errorf("it ended with %d", result.Code)
	}
	line, _, _ := strings.Cut(string(said), "\n")
	return line, nil
}
