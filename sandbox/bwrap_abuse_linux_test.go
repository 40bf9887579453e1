package sandbox

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// python is run inside for calls that no shell can make.
const python = "/usr/bin/python3"

// callPrelude defines call, which prints the name of the error of a system call.
const callPrelude = `
import ctypes, errno, socket, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    got = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    print(errno.errorcode[ctypes.get_errno()] if got < 0 else "allowed")
def attempt(f):
    try:
        f()
        print("allowed")
    except OSError as e:
        print(errno.errorcode[e.errno])
`

func newBwrapBench(t *testing.T) *bench {
	t.Helper()
	return newBench(t, IsolationBwrap)
}

func requirePython(t *testing.T) {
	t.Helper()
	if !there(python) {
		requireOrSkip(t, "python3", python+" is not installed")
	}
}

// TestAbuseShell tries from a shell what a command must not be able to do.
func TestAbuseShell(t *testing.T) {
	t.Setenv("PLANTED_SECRET", "hunter2")
	for _, isolation := range []string{IsolationBwrap, coldBwrap} {
		t.Run(isolation, func(t *testing.T) { testAbuseShell(t, newBench(t, isolation)) })
	}
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	require.NoError(t, err)
	require.NotEqual(t, "x\n", string(pattern))
}

func testAbuseShell(t *testing.T, b *bench) {
	host := exec.Command("sleep", marker)
	require.NoError(t, host.Start())
	defer func() { _ = host.Process.Kill(); _ = host.Wait() }()
	hostPID := strconv.Itoa(host.Process.Pid)
	init := "bwrap"
	if b.runner.Level().Warm {
		init = "wsmesh"
	}

	for _, c := range []struct {
		name, script string
		stderr       string // what it says, when it must fail
		stdout       string // what it prints, when it must succeed
	}{
		{name: "shadow", script: "cat /etc/shadow", stderr: "No such file"},
		{name: "host homes", script: "ls /root /home", stderr: "No such file"},
		{name: "host process", script: "ls /proc/" + hostPID + "/", stderr: "No such file"},
		{name: "kill a host process", script: "kill -9 " + hostPID, stderr: "No such process"},
		{name: "only own processes", script: "for p in /proc/[0-9]*; do cat $p/comm; done", stdout: init + "\nsh\n"},
		{name: "secret of init", script: "{ tr '\\0' '\\n' < /proc/1/environ; } 2> /dev/null; true", stdout: ""},
		{name: "core pattern", script: "echo x > /proc/sys/kernel/core_pattern", stderr: "annot create"},
		{name: "ratelimit", script: "echo 11 > /proc/sys/kernel/printk_ratelimit_burst", stderr: "annot create"},
		{name: "sysrq", script: "echo h > /proc/sysrq-trigger", stderr: "annot create"},
		{name: "keys", script: "cat /proc/keys", stderr: "Permission denied"},
		{name: "kcore", script: "head -c1 /proc/kcore", stderr: "annot open"},
		{name: "timer list", script: "cat /proc/timer_list", stderr: "Permission denied"},
		{name: "user namespace", script: "unshare -U true", stderr: "Operation not permitted"},
		{name: "mount namespace", script: "unshare -m true", stderr: "Operation not permitted"},
		{name: "write /usr", script: "touch /usr/x", stderr: "Read-only file system"},
		{name: "write /etc", script: "echo x >> /etc/passwd", stderr: "annot create"},
		{name: "write /", script: "mkdir /x", stderr: "Read-only file system"},
		{name: "write beside the mount", script: "mkdir /workspace/../beside", stderr: "Read-only file system"},
		{name: "fill /dev", script: "echo x > /dev/x", stderr: "annot create"},
		{name: "device node", script: "mknod x b 8 0", stderr: "Operation not permitted"},
		{name: "host devices", script: "ls /dev/vda /dev/sda /dev/mem /dev/kvm /dev/fuse", stderr: "No such file"},
		{name: "nothing in /tmp", script: "ls -A /tmp /dev/shm", stdout: "/dev/shm:\n\n/tmp:\n"},
		{name: "bounded /tmp", script: "fallocate -l 1100M /tmp/x", stderr: "No space left"},
		{name: "bounded /dev/shm", script: "fallocate -l 300M /dev/shm/x", stderr: "No space left"},
		{name: "identity", script: "id -u; id -un; id -G; hostname", stdout: "1000\nagent\n1000\nworkspace\n"},
		{name: "no capabilities", script: "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | grep -vc 0000000000000000", stdout: "0\n"},
		{name: "no new privileges", script: "grep NoNewPrivs /proc/self/status", stdout: "NoNewPrivs:\t1\n"},
		{name: "filter", script: "grep Seccomp: /proc/self/status", stdout: "Seccomp:\t2\n"},
		{name: "no cores", script: "ulimit -c", stdout: "0\n"},
		{name: "no terminal", script: "echo x > /dev/tty", stderr: "annot create"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := b.run(t, "sh", "-c", c.script)
			if c.stderr != "" {
				require.NotEqual(t, 0, o.Code)
				require.Contains(t, o.stderr, c.stderr)
				return
			}
			require.Empty(t, o.stderr)
			require.Equal(t, c.stdout, o.stdout)
		})
	}
}

// TestAbuseCalls tries system calls directly and expects the named error.
func TestAbuseCalls(t *testing.T) {
	requirePython(t)
	for _, isolation := range []string{IsolationBwrap, coldBwrap} {
		t.Run(isolation, func(t *testing.T) { testAbuseCalls(t, newBench(t, isolation)) })
	}
}

func testAbuseCalls(t *testing.T, b *bench) {
	for _, c := range []struct {
		name, code, want string
	}{
		{"unshare a user namespace", fmt.Sprintf("call(%d, %d)", unix.SYS_UNSHARE, unix.CLONE_NEWUSER), "EPERM"},
		{"clone a user namespace", fmt.Sprintf("call(%d, %d, 0, 0, 0, 0)", unix.SYS_CLONE, unix.CLONE_NEWUSER|int(unix.SIGCHLD)), "EPERM"},
		{"clone3", fmt.Sprintf("call(%d, 0, 0)", unix.SYS_CLONE3), "ENOSYS"},
		{"setns", fmt.Sprintf("call(%d, 0, 0)", unix.SYS_SETNS), "EPERM"},
		{"mount", fmt.Sprintf("call(%d, 0, 0, 0, 0, 0)", unix.SYS_MOUNT), "EPERM"},
		{"new mount calls", fmt.Sprintf("call(%d, 0, 0)", unix.SYS_FSOPEN), "EPERM"},
		{"open_tree", fmt.Sprintf("call(%d, -100, b'/', 1)", unix.SYS_OPEN_TREE), "EPERM"},
		{"chroot", fmt.Sprintf("call(%d, b'/')", unix.SYS_CHROOT), "EPERM"},
		{"pivot_root", fmt.Sprintf("call(%d, b'/', b'/')", unix.SYS_PIVOT_ROOT), "EPERM"},
		{"add_key", fmt.Sprintf("call(%d, b'user', b'k', b'v', 1, -3)", unix.SYS_ADD_KEY), "EPERM"},
		{"keyctl", fmt.Sprintf("call(%d, 0, -3, 0)", unix.SYS_KEYCTL), "EPERM"},
		{"io_uring", fmt.Sprintf("call(%d, 1, 0)", unix.SYS_IO_URING_SETUP), "ENOSYS"},
		{"bpf", fmt.Sprintf("call(%d, 0, 0, 0)", unix.SYS_BPF), "EPERM"},
		{"perf_event_open", fmt.Sprintf("call(%d, 0, 0, 0, 0, 0)", unix.SYS_PERF_EVENT_OPEN), "EPERM"},
		{"userfaultfd", fmt.Sprintf("call(%d, 0)", unix.SYS_USERFAULTFD), "EPERM"},
		{"open_by_handle_at", fmt.Sprintf("call(%d, 0, 0, 0)", unix.SYS_OPEN_BY_HANDLE_AT), "EPERM"},
		{"ptrace", fmt.Sprintf("call(%d, 16, 1, 0, 0)", unix.SYS_PTRACE), "EPERM"},
		{"process_vm_readv", fmt.Sprintf("call(%d, 1, 0, 0, 0, 0, 0)", unix.SYS_PROCESS_VM_READV), "EPERM"},
		{"pidfd_getfd", fmt.Sprintf("call(%d, 0, 0, 0)", unix.SYS_PIDFD_GETFD), "EPERM"},
		{"limits of process 1", fmt.Sprintf("call(%d, 1, 7, 0, 0)", unix.SYS_PRLIMIT64), "EPERM"},
		{"own limits", fmt.Sprintf("call(%d, 0, 7, 0, 0)", unix.SYS_PRLIMIT64), "allowed"},
		{"kexec_load", fmt.Sprintf("call(%d, 0, 0, 0, 0)", unix.SYS_KEXEC_LOAD), "EPERM"},
		{"personality", fmt.Sprintf("call(%d, 0x0040000)", unix.SYS_PERSONALITY), "EPERM"},
		{"personality of linux", fmt.Sprintf("call(%d, 0xffffffff)", unix.SYS_PERSONALITY), "allowed"},
		{"a call of tomorrow", "call(2000, 0)", "ENOSYS"},
		{"type into the terminal", fmt.Sprintf("call(%d, 0, %d, b'x')", unix.SYS_IOCTL, unix.TIOCSTI), "EPERM"},
		{"with high bits", fmt.Sprintf("call(%d, 0, %d, b'x')", unix.SYS_IOCTL, unix.TIOCSTI|1<<32), "EPERM"},
		{"through the console", fmt.Sprintf("call(%d, 0, %d, b'x')", unix.SYS_IOCTL, unix.TIOCLINUX), "EPERM"},
		{"harmless ioctl", fmt.Sprintf("call(%d, 0, %d, b'x' * 64)", unix.SYS_IOCTL, unix.TCGETS), "ENOTTY"},
		{"raw socket", "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))", "EPERM"},
		{"packet socket", "attempt(lambda: socket.socket(17, socket.SOCK_RAW))", "EPERM"},
		{"vsock", "attempt(lambda: socket.socket(40, socket.SOCK_STREAM))", "EPERM"},
		{"crypto socket", "attempt(lambda: socket.socket(38, socket.SOCK_SEQPACKET))", "EPERM"},
		{"internet", "attempt(lambda: socket.create_connection(('192.0.2.1', 80), 2))", "ENETUNREACH"},
		{"own loopback", "s = socket.create_server(('127.0.0.1', 0)); attempt(lambda: socket.create_connection(s.getsockname(), 2))", "allowed"},
		{"a negative oom score", "attempt(lambda: open('/proc/self/oom_score_adj', 'w', buffering=1).write('-1000\\n'))", "EACCES"},
		{"a higher priority", "attempt(lambda: os.nice(-5))", "EPERM"},
		{"another id", "attempt(lambda: os.setuid(0))", "EINVAL"},
		{"another owner", "open('mine', 'w').close(); attempt(lambda: os.chown('mine', 0, 0))", "EINVAL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := b.run(t, python, "-c", callPrelude+c.code)
			require.Equal(t, c.want, strings.TrimSpace(o.stdout), o.stderr)
		})
	}
}

// TestAbuseEntries tries the ways into the kernel that a filter for the native
// calls does not see.
func TestAbuseEntries(t *testing.T) {
	requirePython(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("SKIPPED: only amd64 has these entries")
	}
	b := newBwrapBench(t)
	t.Run("x32", func(t *testing.T) {
		o := b.run(t, python, "-c", callPrelude+"call(0x40000000 + 39)")
		require.Equal(t, "ENOSYS\n", o.stdout, o.stderr)
	})
	t.Run("32-bit", func(t *testing.T) {
		// mov eax, 20 (getpid); int 0x80; ret
		o := b.run(t, python, "-c", callPrelude+`
import mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
print(f())`)
		require.Equal(t, fmt.Sprintf("%d\n", -int(unix.EPERM)), o.stdout, o.stderr)
	})
}

// TestNetwork reaches a listener of the host, or not.
func TestNetwork(t *testing.T) {
	requirePython(t)
	b := newBwrapBench(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	code := callPrelude + fmt.Sprintf("attempt(lambda: socket.create_connection(('127.0.0.1', %d), 2))", port)
	for network, want := range map[string]string{"": "ECONNREFUSED", NetNone: "ECONNREFUSED", NetFull: "allowed"} {
		t.Run("net "+network, func(t *testing.T) {
			spec := b.spec(t, python, "-c", code)
			spec.Net = network
			o := b.runSpec(t, spec)
			require.Equal(t, want+"\n", o.stdout, o.stderr)
		})
	}
	t.Run("names", func(t *testing.T) {
		hosts, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			t.Skip("SKIPPED: the host has no resolv.conf")
		}
		spec := b.spec(t, "cat", "/etc/resolv.conf")
		spec.Net = NetFull
		require.Equal(t, string(hosts), b.runSpec(t, spec).stdout)
	})
}

// TestNeighbours looks at another tenant's tree from inside, by every way that
// could lead there.
func TestNeighbours(t *testing.T) {
	if os.Geteuid() != 0 {
		requireOrSkip(t, "root", "tenants have ids of their own only under root")
	}
	for _, isolation := range []string{IsolationBwrap, IsolationSoftware} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			other := (&bench{runner: b.runner, dir: t.TempDir()}).owned(t)
			secret := filepath.Join(other.dir, "secret")
			require.NoError(t, os.WriteFile(secret, []byte("hunter2"), 0o644))
			require.NoError(t, os.Symlink(secret, filepath.Join(b.dir, "link")))
			busy := other.start(t, other.spec(t, "sh", "-c", "cat secret; exec sleep "+marker))
			busy.out.waitFor(t, "hunter2")
			for _, at := range []string{secret, "link", "../*/secret", "/run/wsmesh/*/secret", "/mnt/*/secret"} {
				o := b.run(t, "sh", "-c", "cat "+at)
				require.NotEqual(t, 0, o.Code, at)
				require.NotContains(t, o.stdout, "hunter2", at)
			}
			busy.Kill()
			busy.finish(t)
		})
	}
}

// TestHiddenParents runs commands in a tree below directories that only root may
// enter.
func TestHiddenParents(t *testing.T) {
	if os.Geteuid() != 0 {
		requireOrSkip(t, "root", "an ordinary user hides nothing from itself")
	}
	for _, isolation := range []string{IsolationBwrap, IsolationSoftware} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			hidden := filepath.Join(b.dir, "keys", "data")
			b.dir = filepath.Join(hidden, "tree")
			require.NoError(t, os.MkdirAll(b.dir, 0o700))
			b.owned(t)
			for dir := hidden; filepath.Base(filepath.Dir(dir)) != "tmp" && dir != "/"; dir = filepath.Dir(dir) {
				require.NoError(t, os.Chown(dir, 0, 0))
				require.NoError(t, os.Chmod(dir, 0o700))
			}
			o := b.run(t, "sh", "-c", `echo kept > "$HOME/file" && mkdir sub && cd sub && cat "$(pwd)/../file"`)
			require.Equal(t, "kept\n", o.stdout, o.stderr)
		})
	}
}

// TestLimits reaches each limit.
func TestLimits(t *testing.T) {
	for _, isolation := range []string{IsolationBwrap, coldBwrap, IsolationSoftware} {
		t.Run(isolation, func(t *testing.T) {
			b := newBench(t, isolation)
			if b.runner.Level().Limits == limitsRlimit {
				requireOrSkip(t, "root", "limits of a whole tree need cgroups: "+b.runner.Level().Reason)
			}
			t.Run("memory", func(t *testing.T) {
				spec := b.spec(t, "tail", "/dev/zero")
				spec.MemoryBytes = 48 << 20
				o := b.runSpec(t, spec)
				require.Equal(t, 137, o.Code)
				require.Equal(t, "SIGKILL", o.Signal)
				require.Equal(t, LimitMemory, o.Limit)
				require.Greater(t, o.MaxRSS, int64(24<<20))
			})
			t.Run("memory of a child", func(t *testing.T) {
				spec := b.spec(t, "sh", "-c", "tail /dev/zero; exit 4")
				spec.MemoryBytes = 48 << 20
				o := b.runSpec(t, spec)
				require.Equal(t, LimitMemory, o.Limit)
			})
			t.Run("processes", func(t *testing.T) {
				spec := b.spec(t, "sh", "-c", "i=0; while [ $i -lt 64 ]; do sleep "+marker+" & i=$((i+1)); done")
				spec.Pids = 24
				o := b.runSpec(t, spec)
				require.NotEqual(t, 0, o.Code)
				require.Equal(t, LimitPids, o.Limit)
				require.Empty(t, marked(marker))
			})
			t.Run("fork bomb", func(t *testing.T) {
				spec := b.spec(t, "sh", "-c", "f() { f | f & }; f; while :; do :; done")
				spec.Pids = 64
				p := b.start(t, spec)
				p.err.waitFor(t, "fork")
				p.Kill()
				o := p.finish(t)
				require.NoError(t, o.Err)
				require.Equal(t, LimitPids, o.Limit)
			})
			t.Run("none met", func(t *testing.T) {
				spec := b.spec(t, "sh", "-c", "sleep 0.01 & sleep 0.01 & wait")
				spec.Pids, spec.MemoryBytes = 8, 64<<20
				o := b.runSpec(t, spec)
				require.Equal(t, 0, o.Code, o.stderr)
				require.Empty(t, o.Limit)
			})
		})
	}
}

// TestPrograms runs what agents run all day.
func TestPrograms(t *testing.T) {
	b := newBwrapBench(t)
	file := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644))
	}
	file("pool.py", "import multiprocessing as m\nif __name__ == '__main__':\n    print(sum(m.Pool(4).map(abs, range(-9, 0))))\n")
	file("work.js", "const w = require('worker_threads'); if (w.isMainThread) new w.Worker(__filename); else console.log('45')\n")
	file("main.c", "#include <stdio.h>\nint main(void) { puts(\"45\"); }\n")
	file("main.go", "package main\n\nfunc main() { print(45) }\n")
	for _, c := range []struct {
		program, script string
		long            bool
	}{
		{program: "git", script: "git init -q . && git add main.c && git -c user.name=a -c user.email=a@b commit -qm x && echo 45"},
		{program: "/usr/bin/python3", script: "/usr/bin/python3 pool.py"},
		{program: "/usr/bin/node", script: "node work.js"},
		{program: "gcc", script: "gcc -o c main.c && ./c"},
		{program: "/usr/local/go/bin/go", script: "/usr/local/go/bin/go run main.go 2>&1", long: true},
	} {
		t.Run(filepath.Base(c.program), func(t *testing.T) {
			if _, err := exec.LookPath(c.program); err != nil {
				requireOrSkip(t, filepath.Base(c.program), c.program+" is not installed")
			}
			if c.long && os.Getenv("WSMESH_LONG") == "" {
				t.Skip("SKIPPED: compiles a standard library; set WSMESH_LONG=1 to run it")
			}
			o := b.run(t, "sh", "-c", c.script)
			require.Equal(t, 0, o.Code, o.stderr)
			require.Equal(t, "45", strings.TrimSpace(o.stdout))
		})
	}
}
