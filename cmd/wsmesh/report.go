package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wsmesh/wsmesh/mesh"
)

// Exit codes. exec has its own besides: 124 to 127 and those of commands.
const (
	exitMesh   = 1
	exitUsage  = 2
	exitExec   = 125 // exec: refused or failed by the mesh
	exitSignal = 128 // exec: and the number of the signal
)

// usageError says that the command line is wrong, and shows the right one.
type usageError struct{ text, use string }

func (e *usageError) Error() string { return e.text }

func wrongUse(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...), use: cmd.UseLine()}
}

// exitError ends the program with a code of its own; err, if any, is shown.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// report shows what went wrong and returns the exit code.
func report(out io.Writer, cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	code := exitMesh
	var exit *exitError
	if errors.As(err, &exit) {
		if code, err = exit.code, exit.err; err == nil {
			return code
		}
	}
	var usage *usageError
	var coded *mesh.Error
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(out, "wsmesh: usage: %s; use: %s\n", usage.text, usage.use)
		return exitUsage
	case strings.HasPrefix(err.Error(), "unknown command") && !errors.As(err, &coded): // cobra has no type for it
		text, _, _ := strings.Cut(err.Error(), "\n")
		fmt.Fprintf(out, "wsmesh: usage: %s; see: wsmesh --help\n", text)
		return exitUsage
	}
	err = written(err)
	fmt.Fprintf(out, "wsmesh: %s: %s\n", mesh.CodeOf(err), shownText(errorText(err)))
	return code
}

// written calls our standard streams what people call them, where an error is
// that one of them could not be written.
func written(err error) error {
	names := map[string]string{os.Stdout.Name(): "standard output", os.Stderr.Name(): "standard error"}
	var at *fs.PathError
	for in := err; errors.As(in, &at); in = at.Err { // what was read for it can be around
		name := names[at.Path]
		if name == "" {
			continue
		}
		code := mesh.CodeOf(err)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			code = mesh.CodeQuota
		}
		return mesh.Errorf(code, "write %s: %s", name, at.Err)
	}
	return err
}

// shownText is one line that no terminal obeys: texts of errors hold names of
// files, which a command in a workspace chooses.
func shownText(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		q := strconv.Quote(text[:n])
		if strconv.IsPrint(r) {
			q = `"` + text[:n] + `"`
		}
		b.WriteString(q[1 : len(q)-1])
		text = text[n:]
	}
	return b.String()
}

// errorText is the whole text without the code, which stands before it.
func errorText(err error) string {
	text := err.Error()
	var coded *mesh.Error
	if errors.As(err, &coded) {
		text = strings.Replace(text, coded.Error(), coded.Text, 1)
	}
	return text
}

// between checks the number of arguments; most < 0 is no limit.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return wrongUse(cmd, "%s is missing", missing(cmd, len(args)))
		case most >= 0 && len(args) > most:
			return wrongUse(cmd, "unexpected argument %q", args[most])
		}
		return nil
	}
}

// optional is what the use of a command has in brackets.
var optional = regexp.MustCompile(`\[[^\]]*\]`)

// missing is what a command's use calls its argument number n, from 0.
func missing(cmd *cobra.Command, n int) string {
	words := strings.Fields(optional.ReplaceAllString(cmd.Use, ""))
	if n+1 < len(words) {
		return strings.TrimSuffix(words[n+1], "…")
	}
	return "an argument"
}

// needsSubcommand is what a command does that only groups others.
func needsSubcommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			names = append(names, c.Name())
		}
	}
	right := fmt.Sprintf("%s %s", cmd.CommandPath(), strings.Join(names, "|"))
	if len(args) > 0 {
		return &usageError{text: fmt.Sprintf("unknown command %q", args[0]), use: right}
	}
	return &usageError{text: "a command is missing", use: right}
}

// flagText is what is wrong with a flag; of a value it says what was expected,
// in words of people and not of the parser's.
func flagText(err error) string {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err.Error()
	}
	expected := map[string]string{
		"duration": "a time such as 90s or 5m",
		"int":      "a whole number",
		"int64":    "a whole number",
		"bool":     "true or false",
	}[bad.GetFlag().Value.Type()]
	if expected == "" {
		return err.Error()
	}
	return fmt.Sprintf("--%s %q is not %s", bad.GetFlag().Name, bad.GetValue(), expected)
}

// laterCommands are the names of commands that are not built yet, so that they
// are told from mistakes.
func laterCommands(names ...string) []*cobra.Command {
	var all []*cobra.Command
	for _, name := range names {
		all = append(all, &cobra.Command{
			Use: name, Hidden: true, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return later(strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "))
			},
		})
	}
	return all
}

// later refuses what is part of the command line but not built yet.
func later(what string) error {
	return mesh.Errorf(mesh.CodeUnsupported, "%s is not built yet", what)
}
