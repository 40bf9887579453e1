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
	"fmt"
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
	ctx, cancel := context.WithCancelCause(context.Background())
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, wanted...)
	go func() {
		defer close(done)
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(&interruption{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		<-done
	}
}

// interruption is why the context of a command ended: a signal.
type interruption struct{ signal os.Signal }

func (i *interruption) Error() string { return fmt.Sprintf("stopped by a signal (%s)", i.signal) }

func (i *interruption) Unwrap() error { return context.Canceled }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "wsmesh",
		Short: "Workspaces for AI agents on NATS: files and commands",
		Long: "Workspaces for AI agents on NATS: files and commands. wsmesh dev runs a whole mesh on this machine; wsmesh init\n" +
			"begins one of several machines.\n\n" +
			"What commands take where no flag says otherwise:\n" +
			"  data directory DIR   WSMESH_DATA, else $XDG_DATA_HOME/wsmesh, else ~/.local/share/wsmesh\n" +
			"  mesh and token       WSMESH_URL and WSMESH_TOKEN, else the context in use in DIR (wsmesh context),\n" +
			"                       which is DIR/client.json until another one is chosen\n" +
			"  workspace            WSMESH_WORKSPACE, else that of the token or the context, else main\n" +
			"  tenant               that of the token; dev in DIR/client.json\n" +
			"  flags of servers     WSMESH_<FLAG>, such as WSMESH_GRACE=10s\n\n" +
			"Exit codes: 0 fine, 1 the mesh refused or failed, 2 the command line is wrong. exec ends as its command\n" +
			"does; 124 is a timeout, 125 the mesh, 126 and 127 are a shell's, 128+s is signal s.\n" +
			"Results are on standard output, words on standard error: wsmesh: CODE: text.",
		Version:       versionLine(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          needsSubcommand,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return wrongUse(cmd, "%s", flagText(err)) })
	root.AddCommand(
		newDev(), newInit(), newNATS(), newNode(), newGateway(), newMCP(), newExec(), newPs(), newLogs(), newAttach(), newKill(),
		newLs(), newCat(), newStat(), newCp(), newMv(), newRm(), newMkdir(), newPut(), newGet(), newHistory(), newSnapshot(), newFork(), newWatch(), newMem(),
		newWorkspace(), newTenant(), newToken(), newContext(), newStatus(), newDoctor(), newGC(), newRestore(), newBench(), newVersion(),
	)
	root.AddCommand(laterCommands("audit")...)
	return root
}
