//go:build !windows

package node

import "syscall"

// signals are those that a client may send, by name.
var signals = map[string]syscall.Signal{
	"CONT": syscall.SIGCONT, "HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "QUIT": syscall.SIGQUIT,
	"STOP": syscall.SIGSTOP, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}
