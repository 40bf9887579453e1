package sandbox

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// abuse is something that a command tries, and what comes of it: the name of the
// error, "allowed", or what the code says. Alternatives are separated by "|".
type abuse struct {
	name, code string // Python, after abusePrelude
	want       string // in a sandbox that is kept
	cold       string // in one of its own, where that differs
	// Of driver software, where that differs: of a tenant's user, and of the only
	// user there is if the node is not root. These are its expected failures.
	software, softwareUser string
}

// What may come besides.
const (
	granted  = "allowed"
	anything = "*" // the host decides
	untried  = "-" // it would be the host that suffers, or is asked
)

// in is what is expected in one mode.
func (a *abuse) in(isolation string, root bool) string {
	want := a.want
	switch {
	case isolation == coldBwrap && a.cold != "":
		want = a.cold
	case isolation == IsolationSoftware && !root && a.softwareUser != "":
		want = a.softwareUser
	case isolation == IsolationSoftware && a.software != "":
		want = a.software
	}
	return want
}

// TestAbuse tries everything in one sandbox of each kind: as the user of a tenant,
// and, through TestOrdinaryUser, as an ordinary one. TestConformance and TestLimits
// try what ends or fills a sandbox, TestWarmProcessOne and TestWarmSiblings what
// aims at others in it, TestReadTarHostile what arrives in archives.
func TestAbuse(t *testing.T) {
	requirePython(t)
	t.Setenv("PLANTED_SECRET", "hunter2")
	for _, isolation := range []string{IsolationBwrap, coldBwrap, IsolationSoftware} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			host := plant(t, b)
			var tries [][2]string
			for _, a := range abuses() {
				if a.in(isolation, os.Geteuid() == 0) != untried {
					tries = append(tries, [2]string{a.name, a.code})
				}
			}
			order, err := json.Marshal(map[string]any{"calls": abuseCalls, "host": host, "tries": tries})
			require.NoError(t, err)
			o := b.run(t, python, "-c", abusePrelude, string(order))
			require.Equal(t, 0, o.Code, o.stderr)
			var got map[string]string
			require.NoError(t, json.Unmarshal([]byte(o.stdout), &got), o.stdout)
			require.Len(t, got, len(tries))
			for _, a := range abuses() {
				want := a.in(isolation, os.Geteuid() == 0)
				if want == untried || want == anything {
					continue
				}
				t.Run(a.name, func(t *testing.T) {
					require.Contains(t, strings.Split(want, "|"), got[a.name], o.stderr)
				})
			}
		})
	}
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	require.NoError(t, err)
	require.NotEqual(t, "x", strings.TrimSpace(string(pattern)))
}

// plant makes what is on the host to be reached.
func plant(t *testing.T, b *bench) map[string]any {
	victim := exec.Command("sleep", marker)
	require.NoError(t, victim.Start())
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })

	other := (&bench{runner: b.runner, dir: t.TempDir()}).owned(t)
	secret := filepath.Join(other.dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("hunter2"), 0o644))
	busy := other.start(t, other.spec(t, "sh", "-c", "cat secret; exec sleep "+marker))
	busy.out.waitFor(t, "hunter2")
	t.Cleanup(func() { busy.Kill(); busy.finish(t) })

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	abstract, err := net.Listen("unix", "@wsmesh-"+marker)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, abstract.Close()) })
	key := 0x7773_0000 + os.Getpid()&0xffff
	memory, err := unix.SysvShmGet(key, 4096, unix.IPC_CREAT|0o666)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = unix.SysvShmCtl(memory, unix.IPC_RMID, nil) })

	return map[string]any{
		"process": victim.Process.Pid, "node": os.Getpid(), "dir": b.dir, "secret": secret,
		"port": listener.Addr().(*net.TCPAddr).Port, "socket": "wsmesh-" + marker, "memory": key,
	}
}

// abuseCalls are the system calls that no function of Python makes.
var abuseCalls = map[string]int{
	"acct": unix.SYS_ACCT, "add_key": unix.SYS_ADD_KEY, "bpf": unix.SYS_BPF, "chroot": unix.SYS_CHROOT, "clone": unix.SYS_CLONE,
	"clone3": unix.SYS_CLONE3, "fsopen": unix.SYS_FSOPEN, "getpid": unix.SYS_GETPID, "init_module": unix.SYS_INIT_MODULE,
	"io_uring_setup": unix.SYS_IO_URING_SETUP, "ioctl": unix.SYS_IOCTL, "kexec_load": unix.SYS_KEXEC_LOAD, "keyctl": unix.SYS_KEYCTL,
	"mount": unix.SYS_MOUNT, "open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "open_tree": unix.SYS_OPEN_TREE,
	"perf_event_open": unix.SYS_PERF_EVENT_OPEN, "personality": unix.SYS_PERSONALITY, "pidfd_getfd": unix.SYS_PIDFD_GETFD,
	"pivot_root": unix.SYS_PIVOT_ROOT, "prlimit64": unix.SYS_PRLIMIT64, "process_vm_readv": unix.SYS_PROCESS_VM_READV,
	"ptrace": unix.SYS_PTRACE, "reboot": unix.SYS_REBOOT, "sethostname": unix.SYS_SETHOSTNAME, "setns": unix.SYS_SETNS,
	"shmget": unix.SYS_SHMGET, "swapon": unix.SYS_SWAPON, "syslog": unix.SYS_SYSLOG, "umount2": unix.SYS_UMOUNT2,
	"unshare": unix.SYS_UNSHARE, "userfaultfd": unix.SYS_USERFAULTFD,
}

// abusePrelude tries each code in a process of its own and prints what came of it.
const abusePrelude = `
import ctypes, errno, fcntl, json, mmap, os, resource, shutil, signal, socket, stat, struct, sys, termios, time
order = json.loads(sys.argv[1])
calls, host = order["calls"], order["host"]
libc = ctypes.CDLL(None, use_errno=True)

class Said(Exception): pass

def say(what):
    raise Said(str(what))

def call(name, *args):
    number = calls[name] if isinstance(name, str) else name
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args]) < 0:
        raise OSError(ctypes.get_errno(), name)

def read(path):
    with open(path, "rb") as f:
        return f.read(1 << 20)

def write(path, text):
    with open(path, "wb", buffering=0) as f:
        f.write(text)

def status(key):
    return dict(l.split(":", 1) for l in open("/proc/self/status"))[key].strip()

def until(do):
    for _ in range(100000):
        do()

def attempt(code):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            exec(code, globals())
            said = "allowed"
        except Said as e:
            said = str(e)
        except OSError as e:
            said = errno.errorcode.get(e.errno, str(e))
        except BaseException as e:
            said = repr(e)
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    _, end = os.waitpid(pid, 0)
    if os.WIFSIGNALED(end):
        return signal.Signals(os.WTERMSIG(end)).name
    return said or "allowed" # it became another program

print(json.dumps({name: attempt(code) for name, code in order["tries"]}))
`

func abuses() []abuse {
	all := slices.Concat(abusesOfFiles, abusesOfProcesses, abusesOfProcessOne, abusesOfTheKernel(), abusesOfTheNetwork)
	if runtime.GOARCH == "amd64" {
		all = append(all, abusesOfEntries...)
	}
	return all
}

var abusesOfFiles = []abuse{
	{name: "a neighbour's file", code: `read(host["secret"])`, want: "ENOENT", software: "EACCES", softwareUser: granted},
	{name: "a link to it", code: `os.symlink(host["secret"], "link"); read("link")`, want: "ENOENT", software: "EACCES", softwareUser: granted},
	{name: "a hard link to it", code: `os.link(host["secret"], "hard")`, want: "ENOENT", software: "EACCES", softwareUser: granted},
	{name: "up to it", code: `read("../" * 32 + host["secret"][1:])`, want: "ENOENT", software: "EACCES", softwareUser: granted},
	{name: "where it is mounted", code: `
failure = None
for at in ["/run/wsmesh", "/mnt"]:
    for n in range(64):
        try:
            read(f"{at}/{n}/secret")
            say(allowed)
        except OSError as e:
            if failure is None or e.errno != errno.ENOENT:
                failure = e
raise failure`, want: "ENOENT", software: "EACCES", softwareUser: "ENOENT"},
	{name: "passwords of the host", code: `read("/etc/shadow")`, want: "ENOENT", software: "EACCES"},
	{name: "homes of the host", code: `os.listdir("/root")`, want: "ENOENT", software: "EACCES"},
	{name: "devices of the kernel", code: `os.listdir("/sys")`, want: "ENOENT", software: granted},
	{name: "the kernel's log", code: `read("/dev/kmsg")`, want: "ENOENT", software: anything},
	{name: "the host's memory", code: `os.open("/dev/mem", os.O_RDWR)`, want: "ENOENT", software: "EACCES|ENOENT"},
	{name: "the host's disks", code: `
for name in ["vda", "sda", "nvme0n1", "loop0", "mapper/control", "kvm", "fuse", "net/tun", "vhost-net"]:
    if os.path.exists("/dev/" + name):
        say(name)`, want: granted, software: anything},
	{name: "write the programs", code: `write("/usr/x", b"x")`, want: "EROFS", software: "EACCES"},
	{name: "write the system's settings", code: `write("/etc/x", b"x")`, want: "EROFS", software: "EACCES"},
	{name: "write the users", code: `write("/etc/passwd", b"x")`, want: "EROFS", software: "EACCES"},
	{name: "write the root", code: `os.mkdir("/x")`, want: "EROFS", software: "EACCES"},
	{name: "write beside the tree", code: `os.mkdir("../beside")`, want: "EROFS", software: "EACCES", softwareUser: granted},
	{name: "write into /dev", code: `write("/dev/x", b"x")`, want: "EROFS", software: "EACCES"},
	{name: "a device node", code: `os.mknod("device", stat.S_IFBLK | 0o600, os.makedev(8, 0))`, want: "EPERM"},
	{name: "a character device", code: `os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 1))`, want: "EPERM"},
	{name: "a FIFO", code: `os.mkfifo("fifo")`, want: granted},
	{name: "a name for a terminal", code: `os.mkdir(b"new\nline \xff\x1b[2J")`, want: granted},
	{name: "its own attribute", code: `write("f", b""); os.setxattr("f", "user.x", b"1")`, want: "allowed|ENOTSUP"},
	{name: "a capability of a file", code: `write("f", b""); os.setxattr("f", "security.capability", struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0))`, want: "EPERM"},
	{name: "a set-uid file", code: `shutil.copy("/bin/true", "s"); os.chmod("s", 0o6755); os.execv("./s", ["s"])`, want: granted}, // and of no use: see below
	{name: "another owner", code: `write("f", b""); os.chown("f", 0, 0)`, want: "EINVAL", software: "EPERM"},
	{name: "too large a file", code: `os.truncate(os.open("big", os.O_RDWR | os.O_CREAT), 1 << 40)`, want: "EFBIG"},
	{name: "fill /tmp", code: `os.posix_fallocate(os.open("/tmp/x", os.O_RDWR | os.O_CREAT), 0, 1100 << 20)`, want: "ENOSPC", software: untried},
	{name: "fill /dev/shm", code: `os.posix_fallocate(os.open("/dev/shm/x", os.O_RDWR | os.O_CREAT), 0, 300 << 20)`, want: "ENOSPC", software: untried},
	{name: "files of others in /tmp", code: `say(set(os.listdir("/tmp") + os.listdir("/dev/shm")) - {"x"})`, want: "set()", software: anything},
	// The kernel names the place of a bind mount in its file system. Nothing
	// below the place can be reached by it.
	{name: "where its tree lies", code: `say(host["dir"] in open("/proc/self/mountinfo").read())`, want: "True|False", software: anything},
}

var abusesOfProcesses = []abuse{
	{name: "who it is", code: `say((os.getuid(), os.getgid(), set(os.getgroups()) - {os.getgid()}))`, want: "(1000, 1000, set())", software: anything},
	{name: "its capabilities", code: `say(any(int(status(k), 16) for k in ["CapInh", "CapPrm", "CapEff", "CapAmb"]))`, want: "False"},
	{name: "capabilities to come", code: `say(int(status("CapBnd"), 16))`, want: "0", software: anything},
	{name: "no new privileges", code: `say(status("NoNewPrivs"))`, want: "1"},
	{name: "its filter", code: `say(status("Seccomp"))`, want: "2", software: "0"},
	{name: "who else runs", code: `
names = set()
for p in os.listdir("/proc"):
    if p.isdigit():
        names.add(open(f"/proc/{p}/comm").read().strip())
say(sorted(names))`, want: "['python3', 'wsmesh']", cold: "['bwrap', 'python3']", software: anything},
	{name: "a process of the host", code: `os.stat(f"/proc/{host['process']}")`, want: "ENOENT", software: granted},
	{name: "signal it", code: `os.kill(host["process"], 0)`, want: "ESRCH", software: "EPERM", softwareUser: granted},
	{name: "environment of the node", code: `read(f"/proc/{host['node']}/environ")`, want: "ENOENT", software: "EACCES", softwareUser: granted},
	{name: "memory of the node", code: `os.open(f"/proc/{host['node']}/mem", os.O_RDWR)`, want: "ENOENT", software: "EACCES", softwareUser: granted},
	{name: "another id", code: `os.setuid(0)`, want: "EINVAL", software: "EPERM"},
	{name: "another group", code: `os.setgroups([0])`, want: "EPERM"},
	{name: "trace", code: `call("ptrace", 0, 0, 0, 0)`, want: "EPERM", software: granted},
	{name: "read memory of others", code: `call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0)`, want: "EPERM", software: granted},
	{name: "a descriptor of others", code: `call("pidfd_getfd", os.pidfd_open(os.getppid()), 1, 0)`, want: "EPERM", software: granted},
	{name: "its own limits", code: `call("prlimit64", 0, 7, 0, 0)`, want: granted},
	{name: "raise a limit", code: `call("prlimit64", 0, 7, struct.pack("QQ", 1 << 30, 1 << 30), 0)`, want: "EPERM"},
	{name: "a higher priority", code: `os.nice(-5)`, want: "EPERM"},
	{name: "real time", code: `os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))`, want: "EPERM"},
	{name: "to live longer", code: `write("/proc/self/oom_score_adj", b"-1000")`, want: "EACCES"},
	{name: "a core", code: `say(resource.getrlimit(resource.RLIMIT_CORE))`, want: "(0, 0)"},
	{name: "a reader that is gone", code: `signal.signal(signal.SIGPIPE, signal.SIG_DFL); r, w = os.pipe(); os.close(r); os.write(w, b"x")`, want: "SIGPIPE"},
	{name: "processes without end", code: `
resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))
started = []
try:
    for _ in range(64):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        started.append(pid)
finally:
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)`, want: "EAGAIN"},
	{name: "files without end", code: `until(lambda: os.dup(0))`, want: "EMFILE"},
	{name: "watches without end", code: `until(lambda: libc.inotify_init() >= 0 or call("acct", 0))`, want: "EPERM"}, // of acct: inotify_init said EMFILE
	{name: "a program of memory", code: `fd = os.memfd_create("x"); os.write(fd, read("/bin/true")); os.execve(fd, ["x"], {})`, want: granted},
}

// What process 1 of a cold sandbox is, which runs one command, is the command's own
// affair; it is bubblewrap's.
var abusesOfProcessOne = []abuse{
	{name: "environment of process 1", code: `say(read("/proc/1/environ"))`, want: "EACCES", cold: "b''"},
	{name: "memory of process 1", code: `os.open("/proc/1/mem", os.O_RDWR)`, want: "EACCES", cold: "EACCES|allowed"},
	{name: "program of process 1", code: `os.open("/proc/1/exe", os.O_RDWR)`, want: "EACCES", cold: "EACCES|ETXTBSY|EROFS"},
	{name: "root of process 1", code: `os.listdir("/proc/1/root/etc/shadow")`, want: "EACCES", cold: "EACCES|ENOENT"},
	{name: "directory of process 1", code: `os.listdir("/proc/1/cwd/")`, want: "EACCES", cold: "EACCES|allowed"},
	{name: "descriptors of process 1", code: `os.listdir("/proc/1/fd")`, want: "EACCES", cold: "EACCES|allowed"},
	{name: "limits of process 1", code: `call("prlimit64", 1, 7, 0, 0)`, want: "EPERM"},
	{name: "trace process 1", code: `call("ptrace", 16, 1, 0, 0)`, want: "EPERM"},
	// These two slow the sandbox of the command, which is its own workspace's.
	{name: "priority of process 1", code: `os.setpriority(os.PRIO_PROCESS, 1, 19)`, want: granted, software: "EPERM"},
	{name: "processors of process 1", code: `os.sched_setaffinity(1, os.sched_getaffinity(0))`, want: granted, software: "EPERM"},
}

func abusesOfTheKernel() []abuse {
	return []abuse{
		{name: "unshare a user namespace", code: fmt.Sprintf(`call("unshare", %d)`, unix.CLONE_NEWUSER), want: "EPERM", software: anything},
		{name: "unshare a mount namespace", code: fmt.Sprintf(`call("unshare", %d)`, unix.CLONE_NEWNS), want: "EPERM"},
		{name: "clone a user namespace", code: fmt.Sprintf(`call("clone", %d, 0, 0, 0, 0)`, unix.CLONE_NEWUSER|int(unix.SIGCHLD)), want: "EPERM", software: untried},
		{name: "clone3", code: `call("clone3", 0, 0)`, want: "ENOSYS", software: "EINVAL"},
		{name: "setns", code: `call("setns", 0, 0)`, want: "EPERM", software: "EINVAL"},
		{name: "mount", code: `call("mount", b"x", b"/tmp", b"tmpfs", 0, 0)`, want: "EPERM"},
		{name: "mount again", code: fmt.Sprintf(`call("mount", 0, b"/", 0, %d, 0)`, unix.MS_REMOUNT|unix.MS_BIND), want: "EPERM"},
		{name: "unmount", code: `call("umount2", b"/tmp", 0)`, want: "EPERM"},
		{name: "new mount calls", code: `call("fsopen", b"tmpfs", 0)`, want: "EPERM"},
		{name: "open_tree", code: `call("open_tree", -100, b"/", 1)`, want: "EPERM"},
		{name: "chroot", code: `call("chroot", b"/")`, want: "EPERM"},
		{name: "pivot_root", code: `call("pivot_root", b"/", b"/")`, want: "EPERM"},
		{name: "add_key", code: `call("add_key", b"user", b"k", b"v", 1, -3)`, want: "EPERM", software: granted},
		{name: "keyctl", code: `call("keyctl", 0, -3, 0)`, want: "EPERM", software: anything},
		{name: "io_uring", code: `call("io_uring_setup", 1, 0)`, want: "ENOSYS", software: anything},
		{name: "bpf", code: `call("bpf", 0, 0, 0)`, want: "EPERM", software: anything},
		{name: "perf_event_open", code: `call("perf_event_open", 0, 0, 0, 0, 0)`, want: "EPERM", software: anything},
		{name: "userfaultfd", code: `call("userfaultfd", 0)`, want: "EPERM", software: anything},
		{name: "open_by_handle_at", code: `call("open_by_handle_at", 0, 0, 0)`, want: "EPERM", software: anything},
		{name: "kexec_load", code: `call("kexec_load", 0, 0, 0, 0)`, want: "EPERM", software: "EPERM|ENOSYS"},
		{name: "a kernel module", code: `call("init_module", 0, 0, b"")`, want: "EPERM", software: "EPERM|ENOSYS"},
		{name: "reboot", code: `call("reboot", 0, 0, 0, 0)`, want: "EPERM"},
		{name: "swap", code: `call("swapon", b"x", 0)`, want: "EPERM"},
		{name: "account", code: `call("acct", b"x")`, want: "EPERM"},
		{name: "read the log", code: `call("syslog", 3, ctypes.create_string_buffer(64), 64)`, want: "EPERM", software: anything},
		{name: "set the clock", code: `time.clock_settime(time.CLOCK_REALTIME, time.time())`, want: "EPERM"},
		{name: "set the host's name", code: `call("sethostname", b"x", 1)`, want: "EPERM"},
		{name: "name of the host", code: `say(socket.gethostname())`, want: insideHost, software: anything},
		{name: "personality", code: `call("personality", 0x0040000)`, want: "EPERM", software: granted},
		{name: "personality of Linux", code: `call("personality", 0xffffffff)`, want: granted},
		{name: "a call of tomorrow", code: `call(2000, 0)`, want: "ENOSYS"},
		{name: "type into the terminal", code: fmt.Sprintf(`call("ioctl", 0, %d, b"x")`, unix.TIOCSTI), want: "EPERM", software: "ENOTTY"},
		{name: "with high bits", code: fmt.Sprintf(`call("ioctl", 0, %d, b"x")`, unix.TIOCSTI|1<<32), want: "EPERM", software: "ENOTTY"},
		{name: "through the console", code: fmt.Sprintf(`call("ioctl", 0, %d, b"x")`, unix.TIOCLINUX), want: "EPERM", software: "ENOTTY"},
		{name: "into its own terminal", code: `
os.setsid()
_, tty = os.openpty()
fcntl.ioctl(tty, termios.TIOCSCTTY)
fcntl.ioctl(tty, termios.TIOCSTI, b"x")`, want: "EPERM", software: "allowed|EIO"},
		{name: "a harmless ioctl", code: fmt.Sprintf(`call("ioctl", 0, %d, b"x" * 64)`, unix.TCGETS), want: "ENOTTY"},
		{name: "the terminal", code: `os.open("/dev/tty", os.O_RDWR)`, want: "ENXIO"},
		{name: "core pattern", code: `write("/proc/sys/kernel/core_pattern", b"x")`, want: "EROFS", software: "EACCES"},
		{name: "a rate of the kernel", code: `write("/proc/sys/kernel/printk_ratelimit_burst", b"11")`, want: "EROFS", software: "EACCES"},
		{name: "sysrq", code: `write("/proc/sysrq-trigger", b"h")`, want: "EACCES|EROFS|ENOENT"},
		{name: "keys", code: `read("/proc/keys")`, want: "EACCES", software: anything},
		{name: "kcore", code: `read("/proc/kcore")`, want: "EACCES|ENOENT"},
		{name: "timers", code: `read("/proc/timer_list")`, want: "EACCES|ENOENT"},
		{name: "interrupts", code: `read("/proc/interrupts")`, want: "EACCES", software: anything},
		{name: "cgroups", code: `write("/sys/fs/cgroup/cgroup.procs", b"0")`, want: "ENOENT", software: "EACCES|ENOENT"},
	}
}

var abusesOfTheNetwork = []abuse{
	{name: "raw socket", code: `socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)`, want: "EPERM"},
	{name: "packet socket", code: `socket.socket(17, socket.SOCK_RAW)`, want: "EPERM"},
	{name: "vsock", code: `socket.socket(40, socket.SOCK_STREAM)`, want: "EPERM", software: anything},
	{name: "crypto socket", code: `socket.socket(38, socket.SOCK_SEQPACKET)`, want: "EPERM", software: anything},
	{name: "netlink", code: `socket.socket(16, socket.SOCK_RAW)`, want: granted},
	{name: "a server of the host", code: `socket.create_connection(("127.0.0.1", host["port"]), 5)`, want: "ECONNREFUSED", software: granted},
	{name: "the internet", code: `socket.create_connection(("192.0.2.1", 80), 5)`, want: "ENETUNREACH", software: untried},
	{name: "metadata", code: `socket.create_connection(("169.254.169.254", 80), 5)`, want: "ENETUNREACH", software: untried},
	{name: "the internet by IPv6", code: `socket.create_connection(("2001:db8::1", 80), 5)`, want: "ENETUNREACH|EADDRNOTAVAIL|EAFNOSUPPORT", software: untried},
	{name: "its own loopback", code: `s = socket.create_server(("127.0.0.1", 0)); socket.create_connection(s.getsockname(), 5)`, want: granted},
	{name: "a port of the system", code: `socket.create_server(("127.0.0.1", 79))`, want: "EACCES", software: anything},
	{name: "a socket without a file", code: `socket.socket(socket.AF_UNIX).connect("\0" + host["socket"])`, want: "ECONNREFUSED", software: granted},
	{name: "shared memory of others", code: `call("shmget", host["memory"], 0, 0)`, want: "ENOENT", software: granted},
}

// abusesOfEntries are the ways into the kernel that a filter for the native calls
// does not see.
var abusesOfEntries = []abuse{
	{name: "x32", code: `call(0x40000000 + calls["getpid"])`, want: "ENOSYS"},
	{name: "32-bit", code: `
m = mmap.mmap(-1, 4096, prot=7)
m.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3") # mov eax, 20 (getpid); int 0x80; ret
got = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
say(errno.errorcode[-got] if got < 0 else "allowed")`, want: "EPERM", software: anything},
}
