package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

func newPs() *cobra.Command {
	var p place
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List the commands that run in a workspace",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd.Context(), func(ws *client.Workspace) error {
				out := newOutput(cmd, asJSON, "ID", "STARTED", "TIME", "STATUS", "NODE", "BYTES", "COMMAND")
				if err := listExecs(cmd.Context(), ws, all, func(e mesh.ExecEntry) error { return showExec(out, e) }); err != nil {
					return err
				}
				return out.flush()
			})
		},
	}
	p.bind(cmd)
	bindJSON(cmd, &asJSON)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those that have ended too, the newest first")
	return cmd
}

func listExecs(ctx context.Context, ws *client.Workspace, all bool, show func(mesh.ExecEntry) error) error {
	if !all {
		running, err := ws.Running(ctx)
		for _, e := range running {
			err = errors.Join(err, show(e))
		}
		return err
	}
	for e, err := range ws.Execs(ctx) {
		if err == nil {
			err = show(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxShownCommand is how much of a command line a terminal shows.
const maxShownCommand = 80

func showExec(out *output, e mesh.ExecEntry) error {
	took := time.Since(e.Started)
	if e.Final != nil {
		took = time.Duration(e.Final.DurationUS) * time.Microsecond
	}
	words := make([]string, len(e.Args))
	for i, a := range e.Args {
		words[i] = shellQuote(string(a))
	}
	line := shownText(strings.Join(words, " "))
	if r := []rune(line); out.terminal && len(r) > maxShownCommand || e.Cut {
		line = string(r[:min(len(r), maxShownCommand)]) + "…"
	}
	return out.row(e, string(e.ID), shownTime(e.Started), took.Round(time.Millisecond).String(), execStatus(e.Final), orDash(string(e.Node)), fmt.Sprint(e.Output), line)
}

// execStatus is how a command ended, in a word or two.
func execStatus(f *mesh.Final) string {
	switch {
	case f == nil:
		return "running"
	case f.ErrorCode != "":
		return string(f.ErrorCode)
	case f.Limit != "":
		return fmt.Sprintf("exit %d (%s)", f.Code, f.Limit)
	}
	return fmt.Sprintf("exit %d", f.Code)
}

func newLogs() *cobra.Command {
	var p place
	var follow bool
	var from uint64
	cmd := &cobra.Command{
		Use:   "logs [-f] ID",
		Short: "Show the output of a command by its id",
		Long: "Show the output of a command by its id, up to now or with -f up to its end, and then end as it does. Nothing of it\n" +
			"depends on who started the command: its client, and its node, may be gone.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			err := p.with(ctx, func(ws *client.Workspace) error {
				x, err := ws.Attach(ctx, args[0], client.FromOffset(from))
				if err != nil {
					return err
				}
				defer x.Close()
				if follow {
					return newViewer(cmd, x).show(ctx)
				}
				return newViewer(cmd, x).stored(ctx)
			})
			if follow {
				return asExec(ctx, err)
			}
			return err
		},
	}
	p.bind(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on to the end of the command, and end with its status")
	cmd.Flags().Uint64Var(&from, "from", 0, "begin at byte `OFFSET` of the output of both streams")
	return cmd
}

func newAttach() *cobra.Command {
	var p place
	var from uint64
	cmd := &cobra.Command{
		Use:   "attach ID",
		Short: "Show the output of a command by its id, and end as it ends",
		Long: "Show the output of a command by its id, and end with its status, as if it had been started here. Ctrl-C is\n" +
			"for the command; the second one leaves it running.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return asExec(ctx, p.with(ctx, func(ws *client.Workspace) error {
				x, err := ws.Attach(ctx, args[0], client.FromOffset(from))
				if err != nil {
					return err
				}
				defer x.Close()
				watching, stop := forwardInterrupts(ctx, cmd.ErrOrStderr(), x.ID(), x.Signal)
				defer stop()
				return newViewer(cmd, x).show(watching)
			}))
		},
	}
	p.bind(cmd)
	cmd.Flags().Uint64Var(&from, "from", 0, "begin at byte `OFFSET` of the output of both streams")
	return cmd
}

func newKill() *cobra.Command {
	var p place
	var name string
	cmd := &cobra.Command{
		Use:   "kill ID",
		Short: "Send a signal to a command by its id",
		Long: "Send a signal to a command by its id, from wherever you are. KILL ends everything that the command started.\n" +
			"Signals: " + strings.Join(mesh.SignalNames, " "),
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return p.with(ctx, func(ws *client.Workspace) error {
				e, err := ws.Exec(ctx, args[0]) // KILL of an id that nobody has is not refused
				if err == nil && e.Final != nil {
					err = mesh.Errorf(mesh.CodeNotFound, "exec %s has ended: %s", args[0], execStatus(e.Final))
				}
				if err != nil {
					return err
				}
				return ws.Signal(ctx, args[0], strings.TrimPrefix(strings.ToUpper(name), "SIG"))
			})
		},
	}
	p.bind(cmd)
	cmd.Flags().StringVarP(&name, "signal", "s", "TERM", "which `SIGNAL`")
	return cmd
}

// viewer shows an exec on our own streams.
type viewer struct {
	exec      *client.Exec
	out, errs io.Writer
}

func newViewer(cmd *cobra.Command, x *client.Exec) *viewer {
	return &viewer{exec: x, out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr()}
}

func (v *viewer) write(o client.Output) error {
	if o.Missing > 0 {
		fmt.Fprintf(v.errs, "wsmesh: output: %d bytes before byte %d are not in the log\n", o.Missing, o.Offset)
	}
	to := v.out
	if o.Stderr {
		to = v.errs
	}
	_, err := to.Write(o.Data)
	return err
}

// show goes on to the end of the command and returns as it did.
func (v *viewer) show(ctx context.Context) error {
	for o, err := range v.exec.Output(ctx) {
		if err == nil {
			err = v.write(o)
		}
		switch {
		case err != nil && errors.Is(context.Cause(ctx), errLeft):
			return leftRunning(v.errs, v.exec.ID())
		case err != nil:
			return err
		}
	}
	final := v.exec.Final()
	if err := final.Err(); err != nil {
		return err
	}
	explain(v.errs, final)
	explainNet(v.errs, final, nil)
	if final.Code != 0 {
		return &exitError{code: final.Code}
	}
	return nil
}

// stored shows what there is, and how the command ended if it has.
func (v *viewer) stored(ctx context.Context) error {
	for o, err := range v.exec.Stored(ctx) {
		if err == nil {
			err = v.write(o)
		}
		if err != nil {
			return err
		}
	}
	final := v.exec.Final()
	if final == nil {
		return nil
	}
	if err := final.Err(); err != nil {
		fmt.Fprintf(v.errs, "wsmesh: %s: %s\n", mesh.CodeOf(err), shownText(errorText(err)))
		return nil
	}
	explain(v.errs, final)
	explainNet(v.errs, final, nil)
	return nil
}

// errLeft is why one stops to watch a command: the second Ctrl-C, or ~. at a
// terminal.
var errLeft = mesh.Errorf(mesh.CodeCanceled, "the command was left running")

// leftRunning says where to find a command that goes on without us.
func leftRunning(out io.Writer, id string) error {
	fmt.Fprintf(out, "wsmesh: exec %s runs on; to see it again: wsmesh attach %s\n", id, id)
	return &exitError{code: exitSignal + int(syscall.SIGINT)}
}

// forwardInterrupts passes the first Ctrl-C on to a command, and ends the context
// that it returns at the second, which leaves the command running. Other signals
// end that context as they end ctx.
func forwardInterrupts(ctx context.Context, out io.Writer, id string, send func(context.Context, string) error) (context.Context, func()) {
	watching, leave := context.WithCancelCause(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-watching.Done():
			return
		case <-ctx.Done():
		}
		if !interrupted(ctx) {
			leave(context.Cause(ctx))
			return
		}
		second := make(chan os.Signal, 1) // the first is heard by who ended ctx
		signal.Notify(second, os.Interrupt)
		defer signal.Stop(second)
		asking, cancel := context.WithTimeout(watching, 3*time.Second)
		defer cancel()
		if err := send(asking, "INT"); err != nil && mesh.CodeOf(err) != mesh.CodeNotFound {
			fmt.Fprintf(out, "wsmesh: %s: the interrupt did not reach the command: %s\n", mesh.CodeOf(err), shownText(errorText(err)))
		}
		select {
		case <-watching.Done():
		case <-second:
			leave(errLeft)
		}
	}()
	return watching, func() {
		leave(nil)
		<-done
	}
}

// interrupted reports whether ctx ended by Ctrl-C.
func interrupted(ctx context.Context) bool {
	var by *interruption
	return errors.As(context.Cause(ctx), &by) && by.signal == syscall.SIGINT
}
