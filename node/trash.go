package node

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// Directories that are given up are moved into the trash, which is quick and cannot
// fail half way, and removed when there is time: no opening and no removal of a
// workspace waits for it.

const (
	// trashBatch is how many names are removed at a time, and trashRest how many times
	// as long as that takes nothing is: a restore makes files on the same disk, where a
	// file system has much to look at for each after many were removed.
	trashBatch = 256
	trashRest  = 3
	// trashDepth bounds how far down names are removed one by one.
	trashDepth = 64
	// tried begins the names of what tryDir makes, which removes it itself.
	tried = "try-"
)

func (n *Node) trashDir() string { return filepath.Join(n.treeDir(), ".trash") }

// discard moves a directory into the trash. One that is not there is discarded already.
func (w *workspace) discard(dir string) error {
	if err := w.node.discard(dir); err != nil {
		return w.hostError("move a directory into the trash", err)
	}
	return nil
}

func (n *Node) discard(dir string) error {
	if err := os.MkdirAll(n.trashDir(), 0o700); err != nil {
		return err
	}
	err := os.Rename(dir, filepath.Join(n.trashDir(), mesh.NewID()))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		select {
		case n.trashed <- struct{}{}:
		default:
		}
	}
	return err
}

// emptyTrash removes what is in the trash, at first what an earlier process has left,
// until ctx ends. What is left then is for the next process.
func (n *Node) emptyTrash(ctx context.Context) error {
	for {
		entries, err := os.ReadDir(n.trashDir())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			n.log.Warn("the trash cannot be read", "err", err)
		}
		for _, e := range entries {
			if info, err := e.Info(); strings.HasPrefix(e.Name(), tried) && (err != nil || time.Since(info.ModTime()) < time.Minute) {
				continue
			}
			dir := filepath.Join(n.trashDir(), e.Name())
			if err := removeSlowly(ctx, dir); err != nil {
				n.log.Debug("not removed one by one", "dir", dir, "err", err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := os.RemoveAll(dir); err != nil {
				n.log.Warn("removed files remain", "dir", dir, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.trashed:
		}
	}
}

// removeSlowly removes what is in a directory at a rate that leaves the disk to others.
// What it cannot, or what is too deep, is for os.RemoveAll. Nothing outside is reached,
// whoever still holds the tree.
func removeSlowly(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	s := sweeper{ctx: ctx, root: root, began: time.Now()}
	return s.below(".", 0)
}

type sweeper struct {
	ctx   context.Context
	root  *os.Root
	count int
	began time.Time // the batch
}

func (s *sweeper) below(p string, depth int) error {
	dir, err := s.root.Open(p)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(trashBatch)
		for _, e := range entries {
			at := filepath.Join(p, e.Name())
			if e.IsDir() && depth < trashDepth {
				if err := s.below(at, depth+1); err != nil {
					return err
				}
			}
			if err := s.root.Remove(at); err != nil {
				return err
			}
			if err := s.rest(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// rest counts a name, and waits after a batch of them.
func (s *sweeper) rest() error {
	if s.count++; s.count%trashBatch != 0 {
		return nil
	}
	timer := time.NewTimer(trashRest * time.Since(s.began))
	defer timer.Stop()
	select {
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-timer.C:
	}
	s.began = time.Now()
	return nil
}
