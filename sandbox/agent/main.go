//go:build linux

// Command agent is process 1 of a warm sandbox as a program of its own: small,
// because one runs in every sandbox. make build embeds it in wsmesh; without it
// wsmesh plays this part itself.
package main

import "github.com/wsmesh/wsmesh/sandbox/inside"

func main() { inside.Main() }
