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

type execFlags struct {
	place
	line       string
	env        []string
	timeout    time.Duration
	id         string
	detach     bool
	stdin      bool
	terminal   bool
	durability string
	net        string
	dangerous  bool
	maxOutput  int64
}

func newExec() *cobra.Command {
	var x execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] (-c 'SHELL LINE' | [--] CMD ARG…)",
		Short: "Run a command in a workspace and end as it ends",
		Long: "Run a command in a workspace, show its output and end with its exit status. Other statuses: 124 the\n" +
			"timeout ended it, 125 the mesh refused or failed, 126 and 127 as a shell has them, 128+s ended by signal s.\n" +
			"The first word that is not a flag ends the flags. Ctrl-C is passed on to the command, and the second one\n" +
			"leaves it running; SIGTERM and SIGHUP end it, and then the status is 143 or 129.\n\n" +
			"With -it every key is for the command, Ctrl-C too. As with ssh, ~. typed at the beginning of a line leaves\n" +
			"the command running and ends the exec, with status 130; ~~ types a ~.",
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			argv, err := x.check(cmd, args)
			if err == nil {
				err = x.run(cmd, argv)
			}
			return asExec(cmd.Context(), err)
		},
	}
	x.bind(cmd)
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&x.line, "command", "c", "", "run `LINE` with sh -c")
	f.StringArrayVar(&x.env, "env", nil, "set `NAME=VALUE` in the command's environment (may be repeated)")
	f.DurationVar(&x.timeout, "timeout", 0, "how long the command may live, e.g. 90s (default no limit)")
	f.StringVar(&x.id, "id", "", "`UUID` (version 7) of the exec; one id never starts twice")
	f.BoolVar(&x.detach, "detach", false, "print the id and leave the command running")
	f.BoolVarP(&x.stdin, "interactive", "i", false, "pass our standard input on")
	f.BoolVarP(&x.terminal, "tty", "t", false, "give the command a terminal; with -i ours is at its other end")
	f.StringVar(&x.durability, "durability", "", "what the exit waits for: sync (its files are stored; the default), async or none")
	f.StringVar(&x.net, "net", "", "`NETWORK` of the command: none, full or allow:HOST,… (default as the workspace and the mesh are set)")
	f.BoolVar(&x.dangerous, "allow-dangerous", false, "run what the command guard would refuse")
	f.Int64Var(&x.maxOutput, "max-output", 0, "end the command after `N` bytes of output (default no limit)")
	return cmd
}

// asExec gives an error of the mesh exec's code for it. One that a signal is the
// reason of, or that nobody reads the output, has a shell's code for that signal.
func asExec(ctx context.Context, err error) error {
	var usage *usageError
	var exit *exitError
	if err == nil || errors.As(err, &usage) || errors.As(err, &exit) {
		return err
	}
	var by *interruption
	if errors.As(context.Cause(ctx), &by) {
		if s, ok := by.signal.(syscall.Signal); ok {
			return &exitError{code: exitSignal + int(s), err: err}
		}
	}
	if errors.Is(err, syscall.EPIPE) {
		return &exitError{code: exitSignal + int(syscall.SIGPIPE)}
	}
	return &exitError{code: exitExec, err: err}
}

// check returns the command to run.
func (x *execFlags) check(cmd *cobra.Command, args []string) ([]string, error) {
	withLine := cmd.Flags().Changed("command")
	switch {
	case withLine && len(args) > 0:
		return nil, wrongUse(cmd, "either -c or a command, not both")
	case !withLine && len(args) == 0:
		return nil, wrongUse(cmd, "no command")
	case x.timeout < 0 || x.maxOutput < 0:
		return nil, wrongUse(cmd, "a limit is negative")
	case x.detach && x.terminal:
		return nil, wrongUse(cmd, "either --detach or -t, not both")
	}
	for _, e := range x.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return nil, wrongUse(cmd, "--env %q is not NAME=VALUE", e)
		}
	}
	if x.id != "" {
		if _, err := mesh.ParseExecID(x.id); err != nil {
			return nil, wrongUse(cmd, "--id: %s", errorText(err))
		}
	}
	if err := x.checkLater(cmd); err != nil {
		return nil, err
	}
	if withLine {
		return []string{"sh", "-c", x.line}, nil
	}
	return args, nil
}

func (x *execFlags) checkLater(cmd *cobra.Command) error {
	switch x.durability {
	case "", "sync", "async", "none":
	default:
		return wrongUse(cmd, "--durability %q is not sync, async or none", x.durability)
	}
	return checkNet(cmd, x.net)
}

func (x *execFlags) run(cmd *cobra.Command, argv []string) error {
	// A reader of our output that goes away must not end us before the command.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, leave := context.WithCancelCause(cmd.Context())
	defer leave(nil)
	defer hintAtSecond(cmd.Context(), cmd.ErrOrStderr())()
	return x.with(ctx, func(ws *client.Workspace) error {
		life, end := context.WithCancelCause(context.WithoutCancel(ctx))
		defer end(nil)
		c := ws.Command(life, argv[0], argv[1:]...)
		c.Env, c.ID, c.Timeout, c.MaxOutput = x.env, x.id, x.timeout, x.maxOutput
		c.Net, c.Durability = x.net, x.durability
		c.AllowDangerous = x.dangerous
		if x.detach {
			return x.runDetached(cmd, c)
		}
		if x.stdin {
			c.Stdin = cmd.InOrStdin()
		}
		if x.terminal {
			s := newScreen(cmd)
			c.Terminal = s.terminal()
			if x.stdin && s.keys != nil {
				c.Stdin = &escape{in: c.Stdin, leave: func() { leave(errLeft) }, left: life.Done(), fresh: true}
			}
		}
		c.Stdout, c.Stderr = cmd.OutOrStdout(), &tail{out: cmd.ErrOrStderr()}
		return x.attended(ctx, cmd, c, end)
	})
}

// runDetached starts the command and leaves it, once all of our standard input is
// passed on.
func (x *execFlags) runDetached(cmd *cobra.Command, c *client.Cmd) error {
	var stdin io.WriteCloser
	var err error
	if x.stdin {
		if stdin, err = c.StdinPipe(); err != nil {
			return err
		}
	}
	if err := c.Start(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), c.ID); err != nil || stdin == nil {
		return err
	}
	if _, err := io.Copy(stdin, cmd.InOrStdin()); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return stdin.Close()
}

// attended runs a command to its end. Once it has started the first Ctrl-C is for
// it, and the second leaves it running.
func (x *execFlags) attended(ctx context.Context, cmd *cobra.Command, c *client.Cmd, end context.CancelCauseFunc) error {
	starting := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	if err := c.Start(); err != nil {
		return err
	}
	starting()
	watching, stop := forwardInterrupts(ctx, cmd.ErrOrStderr(), c.ID, c.Signal)
	defer stop()
	defer context.AfterFunc(watching, func() {
		if errors.Is(context.Cause(watching), errLeft) {
			c.Detach()
		}
		end(context.Cause(watching))
	})()
	leave, err := x.enter(watching, cmd, c)
	if err != nil {
		return err
	}
	defer leave()
	err = c.Wait()
	leave() // before there are words of ours
	if final := c.Final(); final != nil && final.ErrorCode == "" {
		explain(cmd.ErrOrStderr(), final)
		explainNet(cmd.ErrOrStderr(), final, c.Stderr)
	}
	if err != nil && errors.Is(context.Cause(watching), errLeft) {
		return leftRunning(cmd.ErrOrStderr(), c.ID)
	}
	var exit *client.ExitError
	if errors.As(err, &exit) {
		return &exitError{code: exit.Code}
	}
	return err
}

// explain names every limit that was met, whatever the status, and output that is
// not in the log.
func explain(out io.Writer, final *mesh.Final) {
	met := final.Met
	if len(met) == 0 && final.Limit != "" {
		met = []mesh.LimitMet{{Name: final.Limit, Text: "the command reached this limit"}}
	}
	for _, l := range met {
		fmt.Fprintf(out, "wsmesh: %s: %s\n", l.Name, l.Text)
	}
	if final.Missing > 0 && final.Limit != "output" {
		fmt.Fprintf(out, "wsmesh: output: %d of %d bytes of output are not in the log\n", final.Missing, final.Output)
	}
}

// hintAfter is how long a command may take to end before we say what else to do.
const hintAfter = time.Second

// hintAtSecond says what a second Ctrl-C does where the first one does not end the
// command soon. The function that it returns ends the watch.
func hintAtSecond(ctx context.Context, out io.Writer) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
		case <-ended:
			return
		}
		select {
		case <-time.After(hintAfter):
			fmt.Fprintln(out, "wsmesh: waiting for the command to end; a second Ctrl-C leaves it running")
		case <-ended:
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}
