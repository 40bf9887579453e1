//go:build linux

// Command agent is process 1 of a warm sandbox as a program of its own: small,
// because one runs in every sandbox. make build embeds it in wsmesh; without it
// wsmesh plays this part itself.
package main

import (
	"runtime"

	"github.com/wsmesh/wsmesh/sandbox/inside"
)

// Main wants the main thread, which main is sure to have only if init keeps it.
func init() { runtime.LockOSThread() }

func main() { inside.Main() }
