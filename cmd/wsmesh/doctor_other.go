//go:build !linux

package main

import (
	"context"
	"runtime"
)

// hosts says whether this system can host workspaces at all.
const hosts = false

// host has nothing to try.
func (d *doctor) host(context.Context) {
	d.add(ok("system", "%s/%s: client commands work here; workspaces are hosted on Linux", runtime.GOOS, runtime.GOARCH))
}
