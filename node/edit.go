package node

import (
	"errors"
	"io"
	"strings"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/edit"
	"github.com/wsmesh/wsmesh/sandbox"
)

const (
	// maxEditTries is how often an edit is made anew of what a command has just
	// written.
	maxEditTries = 10
	// binaryProbe is how much of a file is looked at for a NUL byte, as grep does.
	binaryProbe = 8 << 10
)

// editing is an edit under way: of the lock of its path, and of its memory.
type editing struct {
	*task
	a     mesh.EditRequest
	large bool // it has one of the node's places for large ones
	reply mesh.EditReply
	diff  string
}

// edit reads, decides and writes under one lock, so that of two editors none loses
// what the other has written.
func (t *task) edit() (*mesh.Reply, error) {
	e := editing{task: t}
	if err := t.req.Args(&e.a); err != nil {
		return nil, err
	}
	view, path, err := t.resolve(t.req, e.a.Path)
	if err != nil {
		return nil, err
	}
	defer e.end()
	t.private = e.a.DryRun
	t.answer = func(c sandbox.Change) any {
		known := e.reply
		known.File = writeAnswer(view, path, c).File
		return known
	}
	err = t.at(view, func(v *sandbox.View) error {
		for range maxEditTries {
			if overtaken, err := e.once(v, path); !overtaken {
				return err
			}
		}
		return mesh.Errorf(mesh.CodeBusy, "a command changes the file all the time; try again")
	}, path)
	if err != nil {
		return nil, err
	}
	reply := &mesh.Reply{Args: e.reply}
	if e.diff != "" {
		reply.Content = []byte(cutLines(e.diff, mesh.MaxMessage))
	}
	return reply, nil
}

// once makes the edit of what the file is now. With overtaken a command has written
// it meanwhile, and nothing was changed.
func (e *editing) once(v *sandbox.View, path string) (overtaken bool, err error) {
	before, info, err := e.read(v, path)
	if err != nil {
		return false, err
	}
	after, n, err := edit.Apply(before, &e.a, e.room)
	if err != nil {
		return false, err
	}
	e.reply = mesh.EditReply{File: info, Replaced: n}
	e.diff, e.reply.Added, e.reply.Removed = edit.Diff(string(info.Path), before, after)
	e.reply.DiffBytes = len(e.diff)
	if e.a.DryRun || e.diff == "" {
		return false, nil
	}
	if more := int64(len(after) - len(before)); more > 0 {
		if err := e.disk.admit(e.ctx, more, 0); err != nil {
			return false, err
		}
	}
	e.reply.File, err = v.Write(path, []byte(after), sandbox.WriteOptions{IfMatch: info.Revision})
	return e.a.IfMatch == "" && mesh.CodeOf(err) == mesh.CodeConflict, err
}

// read reads the whole file, if it is one that can be edited and the one that the
// caller means.
func (e *editing) read(v *sandbox.View, path string) (string, sandbox.Info, error) {
	f, info, err := v.Open(path)
	if want := e.a.IfMatch; want != "" && (mesh.CodeOf(err) == mesh.CodeNotFound || err == nil && info.Revision != want) {
		if err == nil {
			f.Close()
		}
		other := mesh.Errorf(mesh.CodeConflict, "it is another one than revision %.80q by now; read it again", want)
		other.Revision = info.Revision
		return "", info, other
	}
	if err != nil {
		return "", info, err
	}
	defer f.Close()
	if info.Size > mesh.MaxEdit {
		return "", info, mesh.Errorf(mesh.CodeTooLarge, "it has %d bytes, more than the %d of a file that can be edited; change it with a command", info.Size, mesh.MaxEdit)
	}
	if err := e.room(int(info.Size)); err != nil {
		return "", info, err
	}
	var text strings.Builder
	text.Grow(int(info.Size))
	if _, err := io.CopyN(&text, f, info.Size); err != nil && !errors.Is(err, io.EOF) { // a shorter one is another revision
		return "", info, err
	}
	s := text.String()
	if strings.IndexByte(s[:min(len(s), binaryProbe)], 0) >= 0 {
		return "", info, mesh.Errorf(mesh.CodeUnsupported, "it is a binary file of %d bytes; change it with a command", info.Size)
	}
	return s, info, nil
}

// room refuses a text that is too large to be held, at all or now.
func (e *editing) room(size int) error {
	switch {
	case size > mesh.MaxEdit:
		return mesh.Errorf(mesh.CodeTooLarge, "with it the file would have %d bytes, more than the %d of a file that can be edited; change it with a command", size, mesh.MaxEdit)
	case size <= mesh.MaxMessage || e.large:
		return nil
	}
	if e.large = e.node.edits.Take(string(e.tenant)); !e.large {
		return mesh.Errorf(mesh.CodeBusy, "node %s edits as many large files as it may, at all or for one tenant; try again", e.node.cfg.Name)
	}
	return nil
}

func (e *editing) end() {
	if e.large {
		e.node.edits.Give(string(e.tenant))
	}
}

// cutLines is as many whole lines of a text as fit.
func cutLines(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:strings.LastIndexByte(s[:most], '\n')+1]
}
