// Command wsmesh is the one binary of the mesh: it runs a one box, and it is
// the command line of its users and its operator.
//
// Results go to standard output and words to standard error, there as
// "wsmesh: CODE: text". Exit codes: 0 fine, 1 the mesh refused or failed, 2 the
// command line is wrong. exec ends with the status of the command it ran, and
// with 125 where other commands end with 1.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := interruptible()
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return report(os.Stderr, cmd, err)
}

// interruptible ends its context at the first SIGINT, SIGTERM or SIGHUP that
// the caller does not want ignored (nohup does). From then on the signals have
// their usual effect again, so that a second Ctrl-C ends what does not stop.
func interruptible() (context.Context, context.CancelFunc) {
	var wanted []os.Signal
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			wanted = append(wanted, s)
		}
	}
	if len(wanted) == 0 { // an empty list would mean every signal
		return context.WithCancel(context.Background())
	}
	ctx, stop := signal.NotifyContext(context.Background(), wanted...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "wsmesh",
		Short:         "Workspaces for AI agents on NATS: files and commands, on this machine or a fleet",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          needsSubcommand,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return wrongUse(cmd, "%s", err) })
	root.AddCommand(
		newDev(), newExec(),
		newLs(), newCat(), newStat(), newCp(), newMv(), newRm(), newMkdir(), newPut(), newGet(), newMem(),
		newWorkspace(), newTenant(), newToken(), newContext(), newStatus(), newDoctor(), newBench(), newVersion(),
	)
	return root
}
