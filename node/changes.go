package node

import (
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// The owner verbs that change files; package task says in which steps.

func (t *task) write() (*mesh.Reply, error) {
	var a mesh.WriteRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	a.Stage = stageOf(t.req, a.Stage)
	if a.Stage != "" && !a.Commit {
		t.private = true
		if a.Drop {
			t.tree.StageDrop(a.Stage)
			return nil, nil
		}
		return &mesh.Reply{Args: struct{}{}}, t.tree.StageWrite(a.Stage, a.Offset, t.req.Content())
	}
	view, path, err := t.resolve(t.req, a.Path)
	if err != nil {
		return nil, err
	}
	opt := sandbox.WriteOptions{Mode: a.Mode, CreateOnly: a.CreateOnly, IfMatch: a.IfMatch}
	content := t.req.Content()
	if content == nil {
		content = []byte{}
	}
	var reply mesh.WriteReply
	t.answer = func(c sandbox.Change) any { return writeAnswer(view, path, c) }
	err = t.at(view, func(v *sandbox.View) (err error) {
		if a.Stage != "" {
			reply.File, err = v.StageCommit(a.Stage, a.Size, path, opt)
		} else {
			reply.File, err = v.Write(path, content, opt)
		}
		return err
	}, path)
	return &mesh.Reply{Args: reply}, err
}

// writeAnswer is what the next owner says of a write: a revision is one of this
// node's disk and means nothing there.
func writeAnswer(view *sandbox.View, path string, c sandbox.Change) mesh.WriteReply {
	file := c.Info
	file.Path, file.Revision = view.Shown(path), ""
	return mesh.WriteReply{File: file}
}

func (t *task) mkdir() (*mesh.Reply, error) {
	var a mesh.MkdirRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	if a.Mode == 0 {
		a.Mode = 0o755
	}
	view, path, err := t.resolve(t.req, a.Path)
	if err != nil {
		return nil, err
	}
	return nil, t.at(view, func(v *sandbox.View) error { return v.Mkdir(path, a.Mode, a.Parents) }, path)
}

func (t *task) remove() (*mesh.Reply, error) {
	var a mesh.RemoveRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	view, path, err := t.resolve(t.req, a.Path)
	if err != nil {
		return nil, err
	}
	if a.Recursive {
		if err := t.node.takeBulk(t.tenant); err != nil {
			return nil, err
		}
		defer t.node.bulk.Give(string(t.tenant))
	}
	return nil, t.at(view, func(v *sandbox.View) error { return v.Remove(path, a.Recursive, a.IfMatch) }, path)
}

func (t *task) rename() (*mesh.Reply, error) {
	var a mesh.RenameRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	view, from, to, err := t.resolveTwo(t.req, a.From, a.To)
	if err != nil {
		return nil, err
	}
	return nil, t.at(view, func(v *sandbox.View) error { return v.Rename(from, to, a.NoReplace, a.IfMatch) }, from, to)
}

func (t *task) copy() (*mesh.Reply, error) {
	var a mesh.CopyRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	view, from, to, err := t.resolveTwo(t.req, a.From, a.To)
	if err != nil {
		return nil, err
	}
	if err := t.node.takeBulk(t.tenant); err != nil {
		return nil, err
	}
	defer t.node.bulk.Give(string(t.tenant))
	var count mesh.CopyReply
	t.answer = func(c sandbox.Change) any { return c.Copied }
	err = t.at(view, func(v *sandbox.View) (err error) {
		count, err = t.disk.copy(t.ctx, func(room sandbox.TarLimits) (mesh.CopyReply, error) {
			return v.Copy(t.ctx, from, to, sandbox.CopyOptions{Recursive: a.Recursive, NoReplace: a.NoReplace, Limits: room})
		})
		return err
	}, to)
	return &mesh.Reply{Args: count}, err
}

func (t *task) chmod() (*mesh.Reply, error) {
	var a mesh.ChmodRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	view, path, err := t.resolve(t.req, a.Path)
	if err != nil {
		return nil, err
	}
	return nil, t.at(view, func(v *sandbox.View) error { return v.Chmod(path, a.Mode) }, path)
}

func (t *task) symlink() (*mesh.Reply, error) {
	var a mesh.SymlinkRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	view, path, err := t.resolve(t.req, a.Path)
	if err != nil {
		return nil, err
	}
	return nil, t.at(view, func(v *sandbox.View) error { return v.Symlink(string(a.Target), path) }, path)
}

func (t *task) touch() (*mesh.Reply, error) {
	var a mesh.TouchRequest
	if err := t.req.Args(&a); err != nil {
		return nil, err
	}
	view, path, err := t.resolve(t.req, a.Path)
	if err != nil {
		return nil, err
	}
	var at time.Time
	if a.ModTime != nil {
		at = *a.ModTime
	}
	return nil, t.at(view, func(v *sandbox.View) error { return v.Touch(path, at, a.NoCreate) }, path)
}
