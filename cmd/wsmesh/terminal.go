package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/wsmesh/wsmesh/client"
)

// screen is our side of exec -t: the terminal that we run in, as far as we do. Off a
// terminal the command has one nevertheless, of a usual size, as with ssh -tt.
type screen struct {
	keys *os.File // standard input, nil if it is no terminal
	show *os.File // standard output, or else keys, nil if neither is one
}

func newScreen(cmd *cobra.Command) *screen {
	s := &screen{}
	if f, ok := cmd.InOrStdin().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.keys, s.show = f, f
	}
	if f, ok := cmd.OutOrStdout().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.show = f
	}
	return s
}

// terminal is what the command gets.
func (s *screen) terminal() *client.Terminal {
	t := &client.Terminal{Type: os.Getenv("TERM")}
	if s.show != nil {
		if cols, rows, err := term.GetSize(int(s.show.Fd())); err == nil {
			t.Rows, t.Cols = rows, cols
		}
	}
	return t
}

// escape passes on what is typed. With ~. at the beginning of a line one leaves; ~~
// there is a ~. A ~ waits for the key after it.
type escape struct {
	in    io.Reader
	leave func()
	left  <-chan struct{} // closed when nobody reads any more
	fresh bool            // at the beginning of a line
	held  bool            // a ~ was typed there
}

// Read implements io.Reader. After ~. it comes back when nobody reads any more: the
// end of what is typed would be the end of the command's input.
func (e *escape) Read(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, io.ErrShortBuffer
	}
	n, err := e.in.Read(p[1:]) // a ~ that was held makes it one byte more
	out := p[:0]
	for _, key := range p[1 : 1+n] {
		switch {
		case e.held && key == '.':
			e.leave()
			<-e.left
			return 0, io.EOF
		case e.held:
			e.held = false
			if out = append(out, '~'); key == '~' {
				e.fresh = false
				continue
			}
		case e.fresh && key == '~':
			e.held = true
			continue
		}
		out = append(out, key)
		e.fresh = key == '\r' || key == '\n'
	}
	if err != nil && e.held {
		out = append(out, '~')
	}
	return len(out), err
}

// enter puts us into the terminal that the command has, if it has one.
func (x *execFlags) enter(ctx context.Context, cmd *cobra.Command, c *client.Cmd) (leave func(), err error) {
	if !x.terminal {
		return func() {}, nil
	}
	if leave, err = newScreen(cmd).enter(ctx, c, x.stdin); err != nil {
		return nil, fmt.Errorf("use the terminal: %w", err)
	}
	return leave, nil
}

// enter passes every key on, also those that would be signals here, if the command
// has our input, and tells it of our size. What is returned undoes that, and may be
// called again.
func (s *screen) enter(ctx context.Context, c *client.Cmd, typed bool) (leave func(), err error) {
	restore := func() {}
	if typed && s.keys != nil {
		before, err := term.MakeRaw(int(s.keys.Fd()))
		if err != nil {
			return restore, err
		}
		restore = func() { term.Restore(int(s.keys.Fd()), before) } //nolint:errcheck // it is gone then
	}
	if s.show == nil {
		return sync.OnceFunc(restore), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		last := *c.Terminal
		for range sizeChanges(ctx) {
			if now := s.terminal(); now.Rows != last.Rows || now.Cols != last.Cols {
				last = *now
				c.Resize(ctx, now.Rows, now.Cols) //nolint:errcheck // the next change tells it again
			}
		}
	})
	return sync.OnceFunc(func() {
		restore()
		cancel()
		watch.Wait()
	}), nil
}
