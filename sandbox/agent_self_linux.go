//go:build !embedagent

package sandbox

import "github.com/wsmesh/wsmesh/sandbox/inside"

// embedded is nil: this program itself is process 1 of its sandboxes.
var embedded []byte

// A program that imports this package and is started as process 1 of a sandbox
// is that and nothing else. It is decided here, and not in main, so that it holds
// for every program that embeds a node, tests included.
func init() {
	if inside.Asked() {
		inside.Main()
	}
}
