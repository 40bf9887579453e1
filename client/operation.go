package client

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
)

// operation is one call of a caller's, from its beginning to its end: it gives its
// error the shape that the caller knows, and is recorded once in Config.Log.
type operation struct {
	name  string
	paths []string // of files: one, or two

	log   *slog.Logger // nil: not recorded
	level slog.Level
	ctx   context.Context // the caller's
	began time.Time
	attrs []slog.Attr
}

// inOperation marks the context of what an operation is made of.
type inOperation struct{}

// begin begins an operation. What it is made of is asked for with the context that
// is returned, and is not recorded again.
func (c *Client) begin(ctx context.Context, level slog.Level, name string, paths ...string) (context.Context, *operation) {
	op := &operation{name: name, paths: paths}
	if c.cfg.Log == nil || ctx.Value(inOperation{}) != nil || !c.cfg.Log.Enabled(ctx, level) {
		return ctx, op
	}
	op.log, op.level, op.ctx, op.began = c.cfg.Log, level, ctx, time.Now()
	op.add(slog.String("op", name), slog.String("tenant", c.Tenant()))
	return context.WithValue(ctx, inOperation{}, true), op
}

// reads begins an operation that changes nothing, changes one that does.
func (w *Workspace) reads(ctx context.Context, name string, paths ...string) (context.Context, *operation) {
	return w.begin(ctx, slog.LevelDebug, name, paths...)
}

func (w *Workspace) changes(ctx context.Context, name string, paths ...string) (context.Context, *operation) {
	return w.begin(ctx, slog.LevelInfo, name, paths...)
}

func (m *Memory) reads(ctx context.Context, name string, attrs ...slog.Attr) (context.Context, *operation) {
	return m.begin(ctx, slog.LevelDebug, name, attrs)
}

func (m *Memory) changes(ctx context.Context, name string, attrs ...slog.Attr) (context.Context, *operation) {
	return m.begin(ctx, slog.LevelInfo, name, attrs)
}

func (m *Memory) begin(ctx context.Context, level slog.Level, name string, attrs []slog.Attr) (context.Context, *operation) {
	ctx, op := m.client.begin(ctx, level, name)
	op.add(slog.String("memory", string(m.ns)))
	op.add(attrs...)
	return ctx, op
}

func (w *Workspace) begin(ctx context.Context, level slog.Level, name string, paths ...string) (context.Context, *operation) {
	ctx, op := w.client.begin(ctx, level, name, paths...)
	op.add(slog.String("workspace", string(w.name)))
	if w.scope != "." {
		op.add(slog.String("scope", w.scope))
	}
	for i, p := range paths {
		op.add(slog.String([]string{"path", "to"}[i], p))
	}
	return ctx, op
}

// add says more about an operation that is recorded.
func (o *operation) add(attrs ...slog.Attr) {
	if o.log != nil {
		o.attrs = append(o.attrs, attrs...)
	}
}

// end records the operation and returns its error as the standard library has it.
func (o *operation) end(err error) error {
	o.record(err)
	switch len(o.paths) {
	case 1:
		return pathError(o.name, o.paths[0], err)
	case 2:
		return linkError(o.name, o.paths[0], o.paths[1], err)
	}
	return err
}

func (o *operation) record(err error) {
	if o.log == nil {
		return
	}
	attrs := append(o.attrs, slog.Duration("dur", time.Since(o.began)))
	if err != nil {
		var p *fs.PathError
		var l *os.LinkError
		switch { // the names are there already
		case errors.As(err, &p):
			err = p.Err
		case errors.As(err, &l):
			err = l.Err
		}
		attrs = append(attrs, slog.String("code", string(mesh.CodeOf(err))), slog.Any("err", err))
	}
	o.log.LogAttrs(o.ctx, o.level, "operation", attrs...)
	o.log = nil
}

// whole makes an iteration one operation, over when the last of it is yielded.
func whole[T any](op *operation, all iter.Seq2[T, error], yield func(T, error) bool) {
	var last error
	defer func() { op.record(last) }()
	for item, err := range all {
		last = err
		if !yield(item, err) {
			return
		}
	}
}

// execAttr is the id of an exec in a record.
func execAttr(id string) slog.Attr { return slog.String("exec", id) }

// shownArgs are a command's arguments as far as a record has them.
func shownArgs(args []string) slog.Attr {
	shown, room := make([]string, 0, len(args)), mesh.MaxListedArgs
	for _, a := range args {
		if len(a) > room {
			shown = append(shown, a[:room]+"…")
			break
		}
		shown, room = append(shown, a), room-len(a)
	}
	return slog.Any("command", shown)
}

// ended records the end of a command. It may be called again, by several.
func (c *Cmd) ended(final *mesh.Final, err error) {
	c.recorded.Do(func() {
		c.operation.add(execAttr(c.ID), shownArgs(c.Args))
		if final != nil && final.ErrorCode == "" {
			c.operation.add(slog.Int("exit", final.Code))
			if final.Limit != "" {
				c.operation.add(slog.String("limit", final.Limit))
			}
		}
		var exit *ExitError
		if errors.As(err, &exit) {
			err = nil // exit says it
		}
		c.operation.record(err)
	})
}
