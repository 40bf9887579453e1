package node

import "syscall"

var signals = map[string]syscall.Signal{}
