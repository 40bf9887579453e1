package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// A transfer that is over at once, or nearly, needs no bar.
const (
	patientFor = 500 * time.Millisecond
	barFrom    = 4 << 20 // bytes
)

// narrowest is the terminal in which the numbers of a bar fit into one line.
const narrowest = 60

// progress shows on standard error how far a transfer is. Its zero value, which
// newProgress returns off a terminal, shows nothing. All methods may be called
// concurrently; call end before anything else is written.
type progress struct {
	out   *os.File // nil: show nothing
	verb  string
	total int64 // bytes; -1 where nobody knows

	mu    sync.Mutex
	start time.Time
	done  int64
	bar   *progressbar.ProgressBar // nil until the transfer takes long
	ended bool
}

// newProgress is for one transfer. terminal is the transfer's own end on this
// machine, as far as it is one of our standard streams: a terminal there is the
// same screen.
func newProgress(cmd *cobra.Command, verb string, total int64, terminal any) *progress {
	p := &progress{verb: verb, total: total, start: time.Now()}
	f, ok := cmd.ErrOrStderr().(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return p
	}
	if end, ok := terminal.(*os.File); ok && term.IsTerminal(int(end.Fd())) {
		return p
	}
	if width, _, err := term.GetSize(int(f.Fd())); err != nil || width < narrowest {
		return p
	}
	p.out = f
	return p
}

func (p *progress) add(n int) {
	if p.out == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += int64(n)
	if p.ended {
		return
	}
	if p.bar != nil {
		p.bar.Add(n) //nolint:errcheck // a file that grows is no error
		return
	}
	if max(p.done, p.total) < barFrom && time.Since(p.start) < patientFor {
		return
	}
	p.bar = progressbar.NewOptions64(
		p.total,
		progressbar.OptionSetWriter(p.out),
		progressbar.OptionSetDescription(p.verb),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionShowTotalBytes(true),
		progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(10), // what is left beside the numbers in a narrow terminal
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSpinnerType(14),
		progressbar.OptionSetSpinnerChangeInterval(0), // no goroutine that nobody ends
		progressbar.OptionClearOnFinish(),
	)
	p.bar.Add64(p.done) //nolint:errcheck // as above
}

// end takes the bar away; nothing is shown after it. Idempotent.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.wipe()
}

// wipe empties the bar's line. The library's own way leaves the line on Windows.
func (p *progress) wipe() {
	if p.bar == nil {
		return
	}
	width, _, err := term.GetSize(int(p.out.Fd()))
	if err != nil {
		width = narrowest
	}
	fmt.Fprintf(p.out, "\r%s\r", strings.Repeat(" ", max(width-1, 0)))
}

// reader counts what is read.
func (p *progress) reader(in io.Reader) io.Reader { return &counted{p: p, in: in} }

// writer counts what is written.
func (p *progress) writer(out io.Writer) io.Writer { return &counted{p: p, out: out} }

type counted struct {
	p   *progress
	in  io.Reader
	out io.Writer
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.p.add(n)
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.out.Write(b)
	c.p.add(n)
	return n, err
}

// notes is out with the bar out of the way; the next count shows it again.
func (p *progress) notes(out io.Writer) io.Writer { return &noted{p, out} }

type noted struct {
	p   *progress
	out io.Writer
}

func (n *noted) Write(b []byte) (int, error) {
	n.p.mu.Lock()
	defer n.p.mu.Unlock()
	n.p.wipe()
	return n.out.Write(b)
}
