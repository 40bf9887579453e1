//go:build !linux

package node

func spread(string) {}
