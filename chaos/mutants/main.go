//go:build unix

// Command mutants proves that tests can fail. Each patch beside it breaks one
// promise and names the test that must notice; the command applies it to a copy
// of the working tree and runs that test there. README.md defines the format.
//
//	go run ./chaos/mutants [NAME…]
//
// It runs at the root of the repository, and exits with 1 unless every mutant
// was caught by its test: one that survives, a patch that no longer applies or
// builds, a test that fails without it, or that was not run at all.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	well, err := prove(ctx, ".", os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	if err != nil || !well {
		os.Exit(1)
	}
}

// prove tries the named mutants of the repository at root, or all of them, and
// reports whether each was caught. Each gets a line on out, and what is wrong
// with it below.
func prove(ctx context.Context, root string, names []string, out io.Writer) (bool, error) {
	mutants, err := readMutants(root, names)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "wsmesh-mutants-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)

	p := prover{root: root, dir: dir, baseline: map[witness]error{}}
	well := true
	for _, m := range mutants {
		verdict, err := p.try(ctx, m)
		if ctx.Err() != nil {
			return false, errors.New("interrupted")
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", m.name, err)
		}
		well = well && verdict.caught
		fmt.Fprintf(out, "%-10s  %-24s %6.1fs  %s: %s\n", verdict.word(), m.name,
			verdict.took.Seconds(), m.test, m.promise)
		if !verdict.caught {
			fmt.Fprintln(out, verdict.detail)
		}
	}
	return well, nil
}
