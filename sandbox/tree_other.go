//go:build !linux

package sandbox

import (
	"context"
	"io"
	"os"

	"github.com/wsmesh/wsmesh/mesh"
)

// Tree needs Linux; elsewhere OpenTree fails and its methods are never reached.
type Tree struct{}

// View is a Tree seen from one scope; it needs Linux.
type View struct{}

func errLinux() error {
	return mesh.Errorf(mesh.CodeUnsupported, "hosting a workspace needs Linux")
}

// OpenTree returns CodeUnsupported.
func OpenTree(TreeConfig) (*Tree, error) { return nil, errLinux() }

// Close does nothing.
func (t *Tree) Close() error { return nil }

// View returns a View of which every method returns CodeUnsupported.
func (t *Tree) View(string) *View { return &View{} }

// StageWrite returns CodeUnsupported.
func (t *Tree) StageWrite(string, int64, []byte) error { return errLinux() }

// StageOpen returns CodeUnsupported.
func (t *Tree) StageOpen(string, int64) (*os.File, error) { return nil, errLinux() }

// StageDrop does nothing.
func (t *Tree) StageDrop(string) {}

// OpenRoot returns CodeUnsupported.
func (v *View) OpenRoot(bool) (*os.File, error) { return nil, errLinux() }

// Stat returns CodeUnsupported.
func (v *View) Stat(string, bool) (Info, error) { return Info{}, errLinux() }

// List returns CodeUnsupported.
func (v *View) List(string, string, int) (ListPage, error) { return ListPage{}, errLinux() }

// Open returns CodeUnsupported.
func (v *View) Open(string) (*os.File, Info, error) { return nil, Info{}, errLinux() }

// ReadAt returns CodeUnsupported.
func (v *View) ReadAt(string, int64, []byte, string) (int, Info, error) {
	return 0, Info{}, errLinux()
}

// Mkdir returns CodeUnsupported.
func (v *View) Mkdir(string, uint32, bool) error { return errLinux() }

// Remove returns CodeUnsupported.
func (v *View) Remove(string, bool) error { return errLinux() }

// Rename returns CodeUnsupported.
func (v *View) Rename(string, string, bool) error { return errLinux() }

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
