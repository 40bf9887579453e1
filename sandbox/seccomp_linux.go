package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"

	filter "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	profile "github.com/moby/profiles/seccomp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Words of the profile's data.
const (
	profileAllow  = "SCMP_ACT_ALLOW"
	profileEqual  = "SCMP_CMP_EQ"
	profileMasked = "SCMP_CMP_MASKED_EQ"
)

// withheld are calls that the container profile allows and we do not: what
// reaches into another process, and what no build or test needs.
var withheld = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd",
	"process_madvise", "process_mrelease", "kcmp",
	"fanotify_mark", "name_to_handle_at", "modify_ldt", "uretprobe",
	"adjtimex", "clock_adjtime", "clock_adjtime64",
	"listmount", "statmount",
	// Allowed below, by argument.
	"socket", "ioctl", "prlimit64",
}

// absent answer ENOSYS, which makes runtimes fall back to what the filter can
// judge: clone3 hides its flags behind a pointer, and requests in an io_uring
// are never seen by a filter.
var absent = []string{"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"}

// families are the socket domains a command may create. Netlink is what
// getifaddrs reads.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// seccompProgram assembles the allow-list into the bytes that the kernel, and
// bubblewrap's --seccomp, take. Everything outside it answers EPERM, calls newer
// than the list ENOSYS, and the calls of another architecture are refused.
func seccompProgram() ([]byte, error) {
	info, err := arch.GetInfo(runtime.GOARCH)
	if err != nil || info.SyscallNames == nil {
		return nil, fmt.Errorf("no system-call table for %s", runtime.GOARCH)
	}
	policy := filter.Policy{
		DefaultAction: filter.ActionErrno,
		Syscalls: []filter.SyscallGroup{
			{Action: errno(unix.ENOSYS), Names: known(info, absent)},
			allowed(info),
		},
	}
	program, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble the system-call filter: %w", err)
	}
	// The default action is taken bare, so which errno it ends in is the
	// assembler's choice. Every path that ends in no other verdict ends here.
	last := len(program) - 1
	if end, ok := program[last].(bpf.RetConstant); !ok || end.Val&0xffff0000 != uint32(filter.ActionErrno) {
		return nil, fmt.Errorf("the system-call filter ends in %v", program[last])
	}
	program[last] = bpf.RetConstant{Val: uint32(errno(unix.EPERM))}
	return encode(append(refuseNewer(info), program...))
}

func errno(number unix.Errno) filter.Action {
	return filter.ActionErrno | filter.Action(number)
}

// refuseNewer answers ENOSYS to numbers above the table: a C library that tries
// a new call first takes EPERM for a verdict, ENOSYS for an old kernel. On amd64
// it refuses the x32 numbers too.
func refuseNewer(info *arch.Info) []bpf.Instruction {
	newest := 0
	for number := range info.SyscallNumbers {
		newest = max(newest, number)
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(newest), SkipFalse: 1},
		bpf.RetConstant{Val: uint32(errno(unix.ENOSYS))},
	}
}

// allowed is the container profile for a process without capabilities, less
// what is withheld.
func allowed(info *arch.Info) filter.SyscallGroup {
	group := filter.SyscallGroup{Action: filter.ActionAllow}
	seen := make(map[string]bool)
	for _, rule := range profile.DefaultProfile().Syscalls {
		if rule.Action != profileAllow || !applies(rule) {
			continue
		}
		for _, name := range known(info, rule.Names) {
			switch {
			case slices.Contains(withheld, name):
			case len(rule.Args) > 0:
				group.NamesWithCondtions = append(group.NamesWithCondtions,
					filter.NameWithConditions{Name: name, Conditions: conditions(rule)})
			case !seen[name]:
				seen[name] = true
				group.Names = append(group.Names, name)
			}
		}
	}
	group.NamesWithCondtions = append(group.NamesWithCondtions, byArgument()...)
	return group
}

// byArgument allows sockets of harmless families, limits of the caller's own, and
// every ioctl but the two that type into a terminal. Process 1 of a sandbox has
// the caller's user id: without this a command could forbid it to open files.
func byArgument() []filter.NameWithConditions {
	var list []filter.NameWithConditions
	for _, family := range families {
		list = append(list, filter.NameWithConditions{
			Name:       "socket",
			Conditions: filter.ArgumentConditions{{Argument: 0, Operation: filter.Equal, Value: family}},
		})
	}
	list = append(list, filter.NameWithConditions{
		Name:       "prlimit64",
		Conditions: filter.ArgumentConditions{{Argument: 0, Operation: filter.Equal, Value: 0}},
	})
	// The kernel looks at the low 32 bits of a request only, the filter at all
	// 64: anything that is neither zero-extended nor a sign-extended negative
	// number (as musl passes them) could hide one of the two.
	return append(
		list,
		filter.NameWithConditions{Name: "ioctl", Conditions: filter.ArgumentConditions{
			{Argument: 1, Operation: filter.LessOrEqual, Value: 0xffffffff},
			{Argument: 1, Operation: filter.NotEqual, Value: unix.TIOCSTI},
			{Argument: 1, Operation: filter.NotEqual, Value: unix.TIOCLINUX},
		}},
		filter.NameWithConditions{Name: "ioctl", Conditions: filter.ArgumentConditions{
			{Argument: 1, Operation: filter.GreaterOrEqual, Value: 0xffffffff80000000},
		}},
	)
}

// applies reports whether a rule of the profile holds for this architecture and
// a process without capabilities. Kernel versions are not compared: a call the
// kernel does not have answers ENOSYS by itself.
func applies(rule *profile.Syscall) bool {
	if in := rule.Includes; in != nil {
		if len(in.Caps) > 0 || len(in.Arches) > 0 && !slices.Contains(in.Arches, runtime.GOARCH) {
			return false
		}
	}
	return rule.Excludes == nil || !slices.Contains(rule.Excludes.Arches, runtime.GOARCH)
}

// conditions translates a rule's arguments. An operation that cannot be
// expressed panics: the profile is part of the program, and a test assembles it.
func conditions(rule *profile.Syscall) filter.ArgumentConditions {
	list := make(filter.ArgumentConditions, 0, len(rule.Args))
	for _, arg := range rule.Args {
		c := filter.Condition{Argument: uint32(arg.Index), Value: arg.Value}
		switch {
		case arg.Op == profileEqual:
			c.Operation = filter.Equal
		case arg.Op == profileMasked && arg.ValueTwo == 0:
			c.Operation = filter.BitsNotSet
		default:
			panic(fmt.Sprintf("seccomp profile: operation %s is not translated", arg.Op))
		}
		list = append(list, c)
	}
	return list
}

func known(info *arch.Info, names []string) []string {
	var list []string
	for _, name := range names {
		if _, ok := info.SyscallNames[name]; ok {
			list = append(list, name)
		}
	}
	return list
}

// encode lays the instructions out as an array of struct sock_filter.
func encode(program []bpf.Instruction) ([]byte, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("encode the system-call filter: %w", err)
	}
	var buf bytes.Buffer
	for _, in := range raw {
		if err := binary.Write(&buf, binary.NativeEndian, in); err != nil {
			return nil, fmt.Errorf("encode the system-call filter: %w", err)
		}
	}
	return buf.Bytes(), nil
}
