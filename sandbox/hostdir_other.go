//go:build !linux

package sandbox

// FindHostDir returns CodeUnsupported.
func FindHostDir(string) (HostDir, error) { return HostDir{}, errLinux() }
