//go:build !linux

package node

import (
	"os"
	"path/filepath"

	"github.com/wsmesh/wsmesh/mesh"
)

func spread(string) {}

func makeApart(parent string) (string, error) {
	dir := filepath.Join(parent, mesh.NewID())
	return dir, os.Mkdir(dir, 0o700)
}
