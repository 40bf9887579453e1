//go:build unix

package onebox

import (
	"os"
	"syscall"

	"github.com/wsmesh/wsmesh/mesh"
)

// checkOwner refuses a data directory in which another user could have put keys
// of his own, such as one he made in a shared /tmp before us.
func checkOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "look at the data directory: %s", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return mesh.Errorf(mesh.CodeDenied, "data directory %s belongs to another user, who could be the operator of this mesh; use another directory", dir)
	}
	if mode := info.Mode(); mode.Perm()&0o002 != 0 {
		return mesh.Errorf(mesh.CodeDenied, "data directory %s has mode %04o, which lets other users put keys there; chmod 700 it or use another directory", dir, mode.Perm())
	}
	return nil
}
