package sandbox

import (
	"os"

	"github.com/wsmesh/wsmesh/mesh"
)

// HostDir is a directory of the host that somebody has and works in, and that is
// to be a workspace where it is. FindHostDir makes it.
type HostDir struct {
	Path     string // absolute, without symbolic links
	UID, GID int    // of its owner: what the workspace's files and commands have
}

// CheckOwner refuses, with CodeDenied, an owner who cannot be the user of
// commands. As root that is root, as which no command runs, and a tenant of some
// mesh; an ordinary user has no other user to run them as.
func (d HostDir) CheckOwner() error { return d.checkOwner(os.Geteuid()) }

func (d HostDir) checkOwner(euid int) error {
	switch {
	case euid != 0 && d.UID != euid:
		return mesh.Errorf(mesh.CodeDenied, "it belongs to another user; without root commands run as you, so use a directory of yours, or run dev as its owner")
	case euid != 0:
		return nil
	case d.UID == 0 || d.GID == 0:
		return mesh.Errorf(mesh.CodeDenied, "it belongs to root or to root's group, as which no command runs; give it to an ordinary user with chown -R USER:GROUP, or use a directory of one")
	case d.UID >= DefaultTenantBase || d.GID >= DefaultTenantBase:
		return mesh.Errorf(mesh.CodeDenied, "it belongs to a tenant of a mesh")
	}
	return nil
}
