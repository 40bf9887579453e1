// Command testsum runs a `go test -json` command and shows what it says the
// way go test does: package results as they come, the output of failing tests
// in full, and at the end how many tests passed, failed and were skipped.
//
//	testsum -skips FILE -- go test -json ./...
//
// It exits with 1 when a test failed, when no test was run, and when a test was
// skipped that the list of allowed skips does not name: a skip nobody looks at
// proves as little as a test that is not there.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	skips := flag.String("skips", "", "file that names the tests which may skip")
	flag.Parse()
	ok, err := run(*skips, flag.Args(), os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run reports whether all is well: the command succeeded, at least one test was
// run, and nothing was skipped that may not.
func run(skips string, command []string, out io.Writer) (bool, error) {
	if len(command) == 0 {
		return false, errors.New("no command; usage: testsum [-skips FILE] -- go test -json PACKAGE…")
	}
	allowed, err := readSkips(skips)
	if err != nil {
		return false, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	sum := newSummary(out)
	readErr := sum.read(bufio.NewReader(events))
	waitErr := cmd.Wait()
	well := sum.close(allowed, waitErr == nil && readErr == nil)
	return well, readErr
}
