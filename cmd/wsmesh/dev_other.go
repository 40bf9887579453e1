//go:build !linux

package main

import (
	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

func (d *devFlags) run(cmd *cobra.Command) error {
	if _, _, err := d.check(cmd); err != nil {
		return err
	}
	return mesh.Errorf(mesh.CodeUnsupported, "dev hosts workspaces on Linux only so far; on this machine use the client commands with --url and --token-file")
}
