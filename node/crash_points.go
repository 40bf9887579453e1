//go:build !crashpoints

package node

// crashPoint is a step after which a crash must lose nothing. Built with the tag
// crashpoints, the process can be told to die there; see chaos.
func crashPoint(string) {}
