package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/wsmesh/wsmesh/sandbox/inside"
)

// Who the command is inside.
const (
	insideID   = 1000
	insideHost = "workspace"
)

// bwrapOwn is what bubblewrap itself counts against the pids limit: its monitor
// and its init.
const bwrapOwn = 2

// masked are files and directories of /proc that tell about the host and that
// any user could read; those that exist are covered, and with them what acts on
// the host if it is writable at all. Each one costs a mount in every command.
var masked = []string{
	"acpi", "interrupts", "kcore", "key-users", "keys", "latency_stats", "sched_debug", "scsi",
	"sysrq-trigger", "timer_list", "timer_stats",
}

// etcBound is what of /etc a command sees of the host: how to find libraries,
// alternatives and certificates.
var etcBound = []string{
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives",
	"ssl/certs", "ca-certificates", "pki/tls/certs", "pki/ca-trust/extracted",
}

// etcOwn is what of /etc is made for it.
var etcOwn = map[string]string{
	"passwd":        "root:x:0:0:root:/:/usr/sbin/nologin\nagent:x:1000:1000:agent:/workspace:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
	"group":         "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"hosts":         "127.0.0.1 localhost workspace\n::1 localhost\n",
}

// bwrap runs commands in bubblewrap, one instance per command.
type bwrap struct {
	path    string
	profile []string // arguments that are the same for every command
	seccomp []byte
}

// newBwrap finds bubblewrap and composes the profile. It does not try it.
func newBwrap() (*bwrap, error) {
	found, err := exec.LookPath("bwrap")
	if err != nil {
		return nil, errors.New("bubblewrap is not installed")
	}
	found, err = filepath.Abs(found)
	if err != nil {
		return nil, fmt.Errorf("find bubblewrap: %w", err)
	}
	usage, err := exec.Command(found, "--help").Output()
	if err != nil {
		return nil, fmt.Errorf("bubblewrap does not run: %w", err)
	}
	program, err := seccompProgram()
	if err != nil {
		return nil, err
	}
	profile := []string{
		"--unshare-user", "--unshare-all", "--new-session", "--die-with-parent", "--cap-drop", "ALL",
		"--uid", strconv.Itoa(insideID), "--gid", strconv.Itoa(insideID), "--hostname", insideHost,
	}
	if strings.Contains(string(usage), "--disable-userns") {
		profile = append(profile, "--disable-userns")
	}
	profile = append(profile, systemFiles()...)
	profile = append(profile, procFiles()...)
	return &bwrap{path: found, profile: profile, seccomp: program}, nil
}

// systemFiles is the read-only system, laid out as the host has it.
func systemFiles() []string {
	args := []string{"--ro-bind", "/usr", "/usr"}
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if target, err := os.Readlink(name); err == nil {
			args = append(args, "--symlink", target, name)
		} else if there(name) {
			args = append(args, "--ro-bind", name, name)
		}
	}
	for _, name := range etcBound {
		if host := "/etc/" + name; there(host) {
			args = append(args, "--ro-bind", host, host)
		}
	}
	return args
}

// procFiles is /proc, /dev and the scratch file systems.
func procFiles() []string {
	// The ids in there are the host's: where a tenant's command ran as the
	// host's root, a writable /proc/sys would be the host's own.
	args := []string{"--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"}
	for _, name := range masked {
		name = "/proc/" + name
		switch info, err := os.Stat(name); {
		case err != nil:
		case info.IsDir():
			args = append(args, "--size", "4096", "--tmpfs", name, "--remount-ro", name)
		default:
			args = append(args, "--ro-bind", os.DevNull, name)
		}
	}
	scratch := func(size int, at string) []string {
		return []string{"--size", strconv.Itoa(size), "--perms", "1777", "--tmpfs", at}
	}
	args = append(args, "--dev", "/dev")
	args = append(args, scratch(DefaultShmBytes, "/dev/shm")...)
	args = append(args, "--remount-ro", "/dev")
	return append(args, scratch(DefaultTmpBytes, "/tmp")...)
}

func there(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// reserve implements driver.
func (b *bwrap) reserve() int { return bwrapOwn }

// compose implements driver. The arguments go through a descriptor: on the
// command line every user of the host could read the variables.
func (b *bwrap) compose(spec *Spec, in *setting) (*prepared, error) {
	p := &prepared{}
	at, files := in.at, append(in.files, nil, nil) // args, seccomp
	extra := func(content []byte) (string, error) {
		f, err := memfile(content)
		if err != nil {
			return "", err
		}
		p.close = append(p.close, f)
		files = append(files, f)
		return strconv.Itoa(len(files) - 1), nil
	}
	if at == "" {
		at = "/proc/self/fd/" + strconv.Itoa(len(files))
		files = append(files, spec.Root)
	}
	run, ours := *spec, ""
	if spec.agent != nil || spec.listens() {
		for len(files) < fdAgent {
			files = append(files, nil)
		}
		ours = "/proc/self/fd/" + strconv.Itoa(len(files))
		files = append(files, in.agent)
	}
	if spec.agent != nil {
		run.Argv, run.Env = []string{ours, inside.Arg}, nil
		if spec.Egress != nil {
			run.Argv = append(run.Argv, inside.ArgEgress)
		}
	}
	gated, env := gateArgv(&run, in.limits+gateScript)
	if spec.listens() {
		gated = append([]string{ours, inside.ArgListen}, gated...)
	}
	args, err := b.arguments(spec, env, at, extra)
	if err != nil {
		p.discard()
		return nil, err
	}
	for i, content := range [][]byte{[]byte(args), b.seccomp} {
		f, err := memfile(content)
		if err != nil {
			p.discard()
			return nil, err
		}
		p.close = append(p.close, f)
		files[fdExtra+i] = f
	}
	// No parent-death signal from us: bubblewrap's monitor asks for its own, just
	// before it lets init go on. Killed earlier it would leave init waiting for
	// ever, while a monitor that outlives us comes to the gate, and ends there.
	p.launch = &launch{
		path:  b.path,
		argv:  append([]string{"bwrap", "--args", strconv.Itoa(fdExtra), "--"}, gated...),
		files: files,
		dir:   "/",
		sys:   &syscall.SysProcAttr{},
	}
	return p, nil
}

// arguments is everything before the command, separated by NUL.
func (b *bwrap) arguments(spec *Spec, env []string, at string, extra func([]byte) (string, error)) (string, error) {
	args := append([]string{}, b.profile...)
	args = append(args, "--seccomp", strconv.Itoa(fdExtra+1))
	if spec.agent != nil {
		args = append(args, "--as-pid-1")
	}
	own := etcOwn
	if spec.Net == NetFull {
		args = append(args, "--share-net")
		own = withHostNames(etcOwn)
	}
	for name, content := range own {
		fd, err := extra([]byte(content))
		if err != nil {
			return "", err
		}
		args = append(args, "--perms", "0444", "--file", fd, "/etc/"+name)
	}
	args = append(args, "--bind", at, spec.Mount, "--remount-ro", "/", "--chdir", spec.Dir)
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		args = append(args, "--setenv", name, value)
	}
	return strings.Join(args, "\x00") + "\x00", nil
}

// withHostNames replaces what the network of the host needs to find names. It is
// read per command: a laptop changes networks.
func withHostNames(own map[string]string) map[string]string {
	merged := make(map[string]string, len(own)+1)
	for name, content := range own {
		merged[name] = content
	}
	for _, name := range []string{"resolv.conf", "hosts"} {
		if text, err := os.ReadFile("/etc/" + name); err == nil {
			merged[name] = string(text)
		}
	}
	return merged
}

// leader implements driver: bubblewrap's init inside, the only child of its
// monitor, whose end is the end of every process of the namespace.
func (b *bwrap) leader(child int) (int, error) {
	at := fmt.Sprintf("/proc/%d/task/%d/children", child, child)
	if text, err := os.ReadFile(at); err == nil {
		return strconv.Atoi(strings.TrimSpace(string(text)))
	}
	// Without that kernel option the parents of all processes are asked.
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if stat, err := readStat(pid); err == nil && stat.parent == child {
			return pid, nil
		}
	}
	return 0, errors.New("bubblewrap has no child")
}

// checkDir reports whether dir is mount or below it.
func checkDir(mount, dir string) bool {
	return path.IsAbs(dir) && (dir == mount || strings.HasPrefix(path.Clean(dir), mount+"/"))
}
