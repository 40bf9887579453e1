package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// plain runs commands as processes of the host, for drivers software and none.
type plain struct{}

// reserve implements driver.
func (plain) reserve() int { return 0 }

// compose implements driver. Without a mount the directory is entered through
// its descriptor, after the user id has been given up: the kernel lets a process
// follow its own descriptors whatever lies above them.
func (plain) compose(spec *Spec, in *setting) (*prepared, error) {
	at, enter := in.at, in.at
	if at == "" {
		enter = "/proc/self/fd/" + strconv.Itoa(int(spec.Root.Fd()))
		real, err := os.Readlink(enter)
		if err != nil {
			return nil, fmt.Errorf("find the directory: %w", err)
		}
		at = real
	}
	inside := *spec
	if home := "HOME=" + spec.Mount; spec.Env[0] == home {
		inside.Env = append([]string{"HOME=" + at}, spec.Env[1:]...)
	}
	gated, env := gateArgv(&inside, in.limits+gateScript)
	sys := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	sys.Setctty = spec.Terminal != nil // descriptor 0
	return &prepared{launch: &launch{
		path:  shell,
		argv:  gated,
		env:   env,
		dir:   enter + strings.TrimPrefix(spec.Dir, spec.Mount),
		files: in.files,
		sys:   sys,
	}}, nil
}

// leader implements driver: the command itself leads its POSIX session.
func (plain) leader(child int) (int, error) { return child, nil }

// killStragglers kills what is still in the POSIX session of an ended leader.
// Its number is not given to another process while the leader is not reaped.
func killStragglers(leader int) {
	_ = unix.Kill(-leader, unix.SIGKILL)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == leader {
			continue
		}
		if stat, err := readStat(pid); err == nil && stat.sid == leader {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// procStat is what we read of /proc/PID/stat.
type procStat struct {
	state       byte
	parent, sid int
}

func readStat(pid int) (procStat, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The name, in parentheses, may itself hold spaces and parentheses.
	line := string(text)
	words := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(words) < 4 {
		return procStat{}, errors.New("short stat line")
	}
	parent, err1 := strconv.Atoi(words[1])
	sid, err2 := strconv.Atoi(words[3])
	return procStat{state: words[0][0], parent: parent, sid: sid}, errors.Join(err1, err2)
}
