package sandbox

import (
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/sandbox/inside"
)

// Isolation values of Config.
const (
	IsolationAuto     = "auto"     // bwrap, or no commands at all
	IsolationBwrap    = "bwrap"    // kernel isolation through bubblewrap
	IsolationSoftware = "software" // own uid and limits, no kernel isolation
	IsolationNone     = "none"     // a plain process under our own uid
)

// Net values of Spec.
const (
	NetNone = "none" // an own, empty network with a loopback device
	NetFull = "full" // the host's network
)

// Limits of a Spec that names none.
const (
	// DefaultMemoryBytes lets a linker or a bundler of a large project finish
	// while a node of 16 GiB still carries several commands at once.
	DefaultMemoryBytes = 2 << 30
	// DefaultPids is well above a parallel build or test run on a large
	// machine; a fork bomb reaches it in milliseconds.
	DefaultPids = 512
)

// Fixed properties of a command.
const (
	// DefaultFiles is RLIMIT_NOFILE, soft and hard, where the host allows as
	// many (see OpenFiles): what servers and bundlers ask for, small enough that
	// programs which close every possible descriptor stay fast.
	DefaultFiles = 65536
	// DefaultFileBytes bounds one file, sparse ones too: what the workspace's disk
	// limit is by default, which no file can be larger than.
	DefaultFileBytes = 10 << 30
	// DefaultTmpBytes bounds /tmp: a build of a large Go program keeps its
	// object files there. It counts against the command's memory.
	DefaultTmpBytes = 1 << 30
	// DefaultShmBytes bounds /dev/shm.
	DefaultShmBytes = 256 << 20
	// MaxArgBytes bounds one argument or variable: the kernel's limit for a
	// string is 32 pages with its terminating zero.
	MaxArgBytes = 128<<10 - 1
	// MaxArgsBytes bounds all arguments and variables together: half of what
	// the kernel takes with its usual stack limit of 8 MiB.
	MaxArgsBytes = 1 << 20
)

// DefaultGrace is how long the processes of a command that is ended may take to
// end by themselves: enough to write a file, little for who waits.
const DefaultGrace = 2 * time.Second

// Bounds of the sandboxes that are kept.
const (
	// DefaultWarm is how many a node keeps: an idle one takes 2 MiB of memory.
	DefaultWarm = 64
	// DefaultWarmIdle is how long one without a command is kept: as long as an
	// idle workspace stays open.
	DefaultWarmIdle = 10 * time.Minute
	// DefaultWarmScratch is how much of /tmp and /dev/shm, which is the node's
	// memory, may stay in one without a command.
	DefaultWarmScratch = 64 << 20
)

// DefaultTenantBase is the first host id given to a tenant: above every range
// that systemd assigns (the last one ends at 1,879,048,191) and, for 147 million
// tenants, below 2^31, where programs that keep ids in signed integers go wrong.
const DefaultTenantBase = 2_000_000_000

// Limit values of Result.
const (
	LimitMemory = "memory"
	LimitPids   = "pids"
	LimitDisk   = "disk" // a file became larger than Spec.FileBytes
)

// Config says how a Runner isolates commands. The zero value is useful.
type Config struct {
	// Isolation is auto, bwrap, software or none; "" is auto.
	Isolation string
	// Log receives what an operator should act on; nil discards it.
	Log *slog.Logger
	// StateID names the data directory, 1 to 64 characters of [A-Za-z0-9_-].
	// Cgroups carry it, and New removes those a dead predecessor of the same
	// StateID left, with the processes in them: no two live Runners may share
	// one. "" makes a random one, and nothing is swept.
	StateID string
	// Warm bounds the sandboxes that are kept for the next command of the same
	// tenant, directory and network; 0 is DefaultWarm, and with a negative number
	// every command gets a sandbox of its own.
	Warm int

	limiter *limiter // for tests; nil: the best that the host offers
}

// Level is what a Runner achieves on this host.
type Level struct {
	Driver  string `json:"driver"`  // bwrap, software or none; "" when commands are refused
	Uids    bool   `json:"uids"`    // each tenant has host ids of its own
	Seccomp bool   `json:"seccomp"` // a system-call allow-list is in force
	Limits  string `json:"limits"`  // cgroup2, cgroup1 or rlimit
	CPU     bool   `json:"cpu"`     // tenants have equal shares of the processors
	// Warm: commands of one directory share a sandbox that is kept, in which
	// /tmp and /dev/shm outlive a command; their processes do not.
	Warm bool `json:"warm"`
	// Net: a command has no network but what Spec.Net and Spec.Egress say.
	Net bool `json:"net"`
	// Landlock is the version of the second layer below the mounts of a warm
	// sandbox, 0 for none; from version 6 on, commands that share a sandbox
	// cannot signal each other.
	Landlock int    `json:"landlock"`
	Reason   string `json:"reason"` // why it is not more, for an operator
}

// Spec is one command. The caller keeps and closes every *os.File in it, and may
// do so as soon as Start, or Begin or Drop after Prepare, has returned.
type Spec struct {
	// Root is the directory the command works in, open with O_PATH or O_RDONLY.
	// The directory that is open is used, whatever its path names by now.
	Root *os.File
	// Mount is where the command sees Root: /workspace or a path below it.
	// Drivers software and none have no such place and use the real directory.
	Mount string
	// Dir is the working directory as the command sees it, Mount or below; ""
	// is Mount.
	Dir string
	// Argv is the program, looked up in PATH if it has no slash, and its
	// arguments.
	Argv []string
	// Env is K=V, added to HOME (Mount), PATH and LANG; a later one wins. A
	// bare K, of letters, digits and "_", takes that variable away, one of the
	// three as well; a later K=V sets it again.
	Env []string
	// Stdin, Stdout and Stderr are pipe ends; nil is /dev/null. A file other
	// than a pipe would show its path to the command.
	Stdin, Stdout, Stderr *os.File
	// Terminal, if not nil, is the size of a terminal that the command gets for its
	// three standard files, which are nil then, and as the controlling one of its
	// session. Our side of it is Held.Terminal.
	Terminal *Winsize
	// UID and GID are the host ids of the tenant, from TenantIDs. They are used
	// when we are root, and then 0 is refused.
	UID, GID int
	// Net is none or full; "" is none. Drivers software and none always have
	// the host's network.
	Net string
	// Egress, if not nil, is the one way out of network none. Only driver bwrap has it.
	Egress Egress
	// MemoryBytes bounds the memory of all processes of the command together
	// (of each of them where Level.Limits is rlimit); 0 is DefaultMemoryBytes.
	MemoryBytes int64
	// Pids bounds the number of its processes and threads; 0 is DefaultPids.
	Pids int
	// CPUMillis bounds the processors of all processes together, in thousandths of
	// one; 0 is no bound. It holds where Level.CPU is true.
	CPUMillis int64
	// Tenant is whose share of the processors the command uses. Tenants have equal
	// shares, however many processes they run, where Level.CPU is true.
	Tenant string
	// Files bounds the files that one process may have open; 0 is DefaultFiles. A
	// lower hard limit of the host wins.
	Files int
	// FileBytes bounds the size of a file that the command writes; 0 is
	// DefaultFileBytes. A lower hard limit of the host wins.
	FileBytes int64
	// Full: no file may grow, as on a full disk. Removing works.
	Full bool

	agent *os.File // run this program as process 1 of a warm sandbox, and not Argv
}

// EgressAddr is where commands find the way out, in their own network. The variables
// that programs look for name it as their proxy, unless Spec.Env has others.
const EgressAddr = inside.EgressAddr

// Egress answers what commands send to EgressAddr.
type Egress interface {
	// Key tells apart what must not share a sandbox: one Egress answers for all
	// commands of a sandbox, that of the first of them.
	Key() string
	// Serve answers connections to l until l is closed, which is when the sandbox
	// has ended. Then it ends all of them, and returns when nothing of it is left.
	Serve(l net.Listener)
}

// Result is how a command ended. All of it but Limit and Err is under the
// tenant's control: fit to be shown, never to decide on.
type Result struct {
	// Code is the exit status, or 128+s after signal s.
	Code int
	// Signal is the name of the signal that ended the command, such as
	// "SIGKILL"; "" if it exited, and where the driver cannot tell.
	Signal string
	// Limit is the one of the Limit… values that was met, whatever the status; ""
	// is none. Limits are all of them, Limit first: a command that was killed for
	// its memory may also have been refused processes. Where Level.Limits is rlimit
	// only LimitDisk is ever named: the kernel tells nobody but the process itself
	// that it may have no more memory (ENOMEM) or processes (EAGAIN), and what it
	// makes of that is its own affair. LimitDisk is also named of a command that
	// chooses the status of a shell whose command ended so.
	Limit  string
	Limits []string
	// User and System are processor time of the whole tree; 0 where the host
	// gives no account (bwrap without cgroups).
	User, System time.Duration
	// MaxRSS is the peak memory in bytes: of the tree with cgroups, page cache
	// included, else of its largest process; 0 where the host does not say.
	MaxRSS int64
	// Warm: it ran in a sandbox that is kept, and so below Level.Landlock.
	Warm bool
	// Err is set when the sandbox failed and not the command.
	Err error
}

// meet adds a limit that was met.
func (r *Result) meet(limit string) {
	if slices.Contains(r.Limits, limit) {
		return
	}
	r.Limits = append(r.Limits, limit)
	r.Limit = r.Limits[0]
}

// TenantIDs returns the host uid and gid of a tenant's number. Number 0 is the
// canary's. Numbers must stay below 147,483,648: Start refuses ids of 2^31 and
// above.
func TenantIDs(number uint32) (uid, gid int) {
	id := DefaultTenantBase + int(number)
	return id, id
}
