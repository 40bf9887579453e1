//go:build !linux

package main

import (
	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

func (n *nodeFlags) run(cmd *cobra.Command) error {
	if _, err := n.check(cmd); err != nil {
		return err
	}
	return mesh.Errorf(mesh.CodeUnsupported, "nodes host workspaces on Linux only so far")
}
