package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is one line of `go test -json`; `go doc test2json` and `go help
// buildjson` define the fields.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// result is what became of one test.
type result struct {
	pkg, name string
	output    []string
	failed    bool
}

// summary shows events as they come and counts them. A test with subtests
// counts once itself and once for each of them.
type summary struct {
	out                     io.Writer
	passed, failed, skipped int

	open  map[string][]*result // by package, in order of start: neither passed nor shown yet
	red   map[string]bool      // packages in which a test has failed
	seed  map[string]string    // by package: the line with the seed of its shuffle
	skips []*result
}

func newSummary(out io.Writer) *summary {
	return &summary{
		out:  out,
		open: map[string][]*result{},
		red:  map[string]bool{},
		seed: map[string]string{},
	}
}

// read takes events until in ends. Lines that are no events are shown as they
// are: go prints some of its own errors that way.
func (s *summary) read(in *bufio.Reader) error {
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(s.out, "%s", line)
			} else {
				s.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the test command's output: %w", err)
		}
	}
}

func (s *summary) take(e event) {
	switch {
	case e.Action == "build-output":
		fmt.Fprint(s.out, e.Output)
	case e.Test == "":
		s.takePackage(e)
	default:
		s.takeTest(e)
	}
}

func (s *summary) takePackage(e event) {
	switch e.Action {
	case "output":
		switch {
		case e.Output == "PASS\n", e.Output == "FAIL\n":
		case strings.HasPrefix(e.Output, "-test.shuffle "):
			s.seed[e.Package] = e.Output
		case strings.HasPrefix(e.Output, "FAIL\t"):
			s.abandon(e.Package)
			fmt.Fprint(s.out, s.seed[e.Package], e.Output)
		default:
			fmt.Fprint(s.out, e.Output)
		}
	case "fail":
		s.abandon(e.Package)
		// A build error, an init panic or an os.Exit(1) after the last test
		// fails the package with no test to blame.
		if !s.red[e.Package] {
			s.failed++
		}
	}
}

// abandon counts and shows the tests of pkg that never finished: the process
// died under them.
func (s *summary) abandon(pkg string) {
	for _, r := range s.open[pkg] {
		if !r.failed {
			s.failed++
			s.red[pkg] = true
		}
		s.show(r)
	}
	delete(s.open, pkg)
}

func (s *summary) takeTest(e event) {
	switch e.Action {
	case "run":
		s.open[e.Package] = append(s.open[e.Package], &result{pkg: e.Package, name: e.Test})
	case "output":
		if r := s.find(e); r != nil && !isProgress(e.Output) {
			r.output = append(r.output, e.Output)
		}
	case "pass":
		s.passed++
		s.drop(e)
	case "skip":
		s.skipped++
		if r := s.find(e); r != nil {
			s.skips = append(s.skips, r)
		}
		s.drop(e)
	case "fail":
		s.failed++
		s.red[e.Package] = true
		if r := s.find(e); r != nil {
			r.failed = true
		}
		if !strings.Contains(e.Test, "/") {
			s.showFamily(e)
		}
	}
}

// isProgress reports whether a line only says which test runs: events say that
// in a field of their own.
func isProgress(line string) bool {
	for _, p := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

func (s *summary) find(e event) *result {
	for _, r := range s.open[e.Package] {
		if r.name == e.Test {
			return r
		}
	}
	return nil
}

// drop forgets a test that neither failed nor may fail any more.
func (s *summary) drop(e event) {
	rest := s.open[e.Package][:0]
	for _, r := range s.open[e.Package] {
		if r.name != e.Test {
			rest = append(rest, r)
		}
	}
	s.open[e.Package] = rest
}

// showFamily shows a failed test and its failed subtests.
func (s *summary) showFamily(e event) {
	rest := s.open[e.Package][:0]
	for _, r := range s.open[e.Package] {
		if r.name == e.Test || strings.HasPrefix(r.name, e.Test+"/") {
			s.show(r)
		} else {
			rest = append(rest, r)
		}
	}
	s.open[e.Package] = rest
}

func (s *summary) show(r *result) {
	for _, line := range r.output {
		fmt.Fprint(s.out, line)
	}
}

// close prints the totals and reports whether all is well. commandOK says that
// the test command itself succeeded.
func (s *summary) close(allowed []skip, commandOK bool) bool {
	well := commandOK && s.failed == 0
	fmt.Fprintln(s.out)
	for _, r := range s.skips {
		word := "skipped"
		if !isAllowed(allowed, r) {
			well = false
			word = "skipped, but the list of skips does not allow it"
		}
		fmt.Fprintf(s.out, "%s: %s %s: %s\n", word, r.pkg, r.name, r.reason())
	}
	if s.passed+s.failed+s.skipped == 0 {
		well = false
		fmt.Fprintln(s.out, "no test was run")
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return well
}

// reason is what a skipped test printed, on one line.
func (r *result) reason() string {
	var words []string
	for _, line := range r.output {
		if !strings.HasPrefix(strings.TrimSpace(line), "--- SKIP") {
			words = append(words, strings.Fields(line)...)
		}
	}
	return strings.Join(words, " ")
}
