//go:build !linux

package sandbox

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Tree needs Linux; elsewhere OpenTree fails and its methods are never reached.
type Tree struct{}

// View is a Tree seen from one scope; it needs Linux.
type View struct{ gate Gate }

func errLinux() error {
	return mesh.Errorf(mesh.CodeUnsupported, "hosting a workspace needs Linux")
}

// OpenTree returns CodeUnsupported.
func OpenTree(TreeConfig) (*Tree, error) { return nil, errLinux() }

// Close does nothing.
func (t *Tree) Close() error { return nil }

// Gone returns false.
func (t *Tree) Gone() bool { return false }

// Usage returns CodeUnsupported.
func (t *Tree) Usage(context.Context, int64) (Usage, error) { return Usage{}, errLinux() }

// Free returns CodeUnsupported.
func (t *Tree) Free() (Usage, error) { return Usage{}, errLinux() }

// View returns a View of which every method returns CodeUnsupported.
func (t *Tree) View(string) *View { return &View{} }

// StageWrite returns CodeUnsupported.
func (t *Tree) StageWrite(string, int64, []byte) error { return errLinux() }

// StageOpen returns CodeUnsupported.
func (t *Tree) StageOpen(string, int64) (*os.File, error) { return nil, errLinux() }

// StageDrop does nothing.
func (t *Tree) StageDrop(string) {}

// Shown returns its argument.
func (v *View) Shown(p string) mesh.Path { return mesh.Path(p) }

// Dirs returns nothing.
func (t *Tree) Dirs() (root, stage string) { return "", "" }

// OpenRoot returns CodeUnsupported.
func (v *View) OpenRoot(bool) (*os.File, error) { return nil, errLinux() }

// Stat returns CodeUnsupported.
func (v *View) Stat(string, bool) (Info, error) { return Info{}, errLinux() }

// List returns CodeUnsupported.
func (v *View) List(string, string, int) (mesh.ListReply, error) { return mesh.ListReply{}, errLinux() }

// Open returns CodeUnsupported.
func (v *View) Open(string) (*os.File, Info, error) { return nil, Info{}, errLinux() }

// ReadAt returns CodeUnsupported.
func (v *View) ReadAt(string, int64, int, string) ([]byte, Info, error) {
	return nil, Info{}, errLinux()
}

// Mkdir returns CodeUnsupported.
func (v *View) Mkdir(string, uint32, bool) error { return errLinux() }

// Remove returns CodeUnsupported.
func (v *View) Remove(string, bool, string) error { return errLinux() }

// Rename returns CodeUnsupported.
func (v *View) Rename(string, string, bool, string) error { return errLinux() }

// Copy returns CodeUnsupported.
func (v *View) Copy(context.Context, string, string, CopyOptions) (mesh.CopyReply, error) {
	return mesh.CopyReply{}, errLinux()
}

// Chmod returns CodeUnsupported.
func (v *View) Chmod(string, uint32) error { return errLinux() }

// Symlink returns CodeUnsupported.
func (v *View) Symlink(string, string) error { return errLinux() }

// Install returns CodeUnsupported.
func (v *View) Install(string, func(dir, name string) error) error { return errLinux() }

// Link returns CodeUnsupported.
func (v *View) Link(string, string) error { return errLinux() }

// Readlink returns CodeUnsupported.
func (v *View) Readlink(string) (string, error) { return "", errLinux() }

// Touch returns CodeUnsupported.
func (v *View) Touch(string, time.Time, bool) error { return errLinux() }

// Search returns CodeUnsupported.
func (v *View) Search(context.Context, string, *mesh.SearchRequest) (mesh.SearchReply, error) {
	return mesh.SearchReply{}, errLinux()
}

// Grep returns CodeUnsupported.
func (v *View) Grep(context.Context, string, *mesh.GrepRequest) (mesh.GrepReply, error) {
	return mesh.GrepReply{}, errLinux()
}

// Write returns CodeUnsupported.
func (v *View) Write(string, []byte, WriteOptions) (Info, error) { return Info{}, errLinux() }

// StageCommit returns CodeUnsupported.
func (v *View) StageCommit(string, int64, string, WriteOptions) (Info, error) {
	return Info{}, errLinux()
}

// WriteTar returns CodeUnsupported.
func (v *View) WriteTar(context.Context, string, io.Writer) error { return errLinux() }

// ReadTar returns CodeUnsupported.
func (v *View) ReadTar(context.Context, string, io.Reader, TarLimits) (TarCount, error) {
	return TarCount{}, errLinux()
}
