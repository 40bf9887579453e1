package client

import (
	"context"
	"math"

	"github.com/wsmesh/wsmesh/mesh"
)

// Terminal is a terminal to run a command in.
type Terminal struct {
	Rows, Cols int    // 0: 24 by 80
	Type       string // TERM; "": xterm-256color. Cmd.Env wins
}

// size is what goes over the wire.
func (t *Terminal) size() (*mesh.TerminalSize, error) {
	switch {
	case t == nil:
		return nil, nil
	case t.Rows < 0 || t.Cols < 0 || t.Rows > math.MaxUint16 || t.Cols > math.MaxUint16:
		return nil, mesh.Errorf(mesh.CodeInvalid, "terminal of %d rows and %d columns", t.Rows, t.Cols)
	case t.Rows == 0 || t.Cols == 0:
		return &mesh.TerminalSize{Rows: 24, Cols: 80}, nil
	}
	return &mesh.TerminalSize{Rows: uint16(t.Rows), Cols: uint16(t.Cols)}, nil
}

// env is what a command's environment begins with.
func (t *Terminal) env() []string {
	switch {
	case t == nil:
		return nil
	case t.Type == "":
		return []string{"TERM=xterm-256color"}
	}
	return []string{"TERM=" + t.Type}
}

// Resize gives the command's terminal another size. It may be called while others
// wait.
func (c *Cmd) Resize(ctx context.Context, rows, cols int) error {
	return c.workspace.Resize(ctx, c.ID, rows, cols)
}

// Resize gives the terminal of a running command another size. CodeNotFound: the
// command has ended. CodeInvalid: it has no terminal.
func (w *Workspace) Resize(ctx context.Context, id string, rows, cols int) error {
	ctx, op := w.changes(ctx, "resize")
	op.add(execAttr(id))
	parsed, err := mesh.ParseExecID(id)
	if err != nil {
		return op.end(err)
	}
	size, err := (&Terminal{Rows: rows, Cols: cols}).size()
	if err == nil {
		req := mesh.ResizeRequest{ID: parsed, TerminalSize: *size}
		_, err = w.request(ctx, call{verb: mesh.VerbResize, args: req, reads: true}, nil)
	}
	return op.end(err)
}
