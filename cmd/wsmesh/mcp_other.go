//go:build !linux

package main

import (
	"context"
	"log/slog"

	"github.com/wsmesh/wsmesh/mesh"
)

func (m *mcpFlags) startBox(context.Context, int, *slog.Logger) (box, error) {
	return nil, mesh.Errorf(mesh.CodeUnsupported, "workspaces are hosted on Linux only so far; on this machine name a mesh with wsmesh context add, or with WSMESH_URL and WSMESH_TOKEN")
}
