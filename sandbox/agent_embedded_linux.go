//go:build embedagent

package sandbox

import _ "embed"

// embedded is sandbox/agent, built by make build.
//
//go:embed agent.bin
var embedded []byte
