//go:build !linux

package sandbox

// OpenFiles returns CodeUnsupported.
func OpenFiles() (int, error) { return 0, errLinux() }
