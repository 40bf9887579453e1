package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminalOf opens a terminal of a width; said ends it and returns all that was
// written to it.
func terminalOf(t *testing.T, width uint16) (tty *os.File, said func() string) {
	t.Helper()
	host, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	fd := int(host.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width}))
	read := make(chan string)
	go func() {
		b, _ := io.ReadAll(host) // ends with EIO when the last writer is gone
		read <- string(b)
	}()
	return tty, func() string {
		tty.Close()
		return <-read
	}
}

// lastLine is what a terminal shows of its last line, as long as only carriage
// returns and spaces move over it.
func lastLine(said string) string {
	line := []rune{}
	at := 0
	for _, r := range said[strings.LastIndex(said, "\n")+1:] {
		if r == '\r' {
			at = 0
			continue
		}
		for len(line) <= at {
			line = append(line, ' ')
		}
		line[at] = r
		at++
	}
	return strings.TrimRight(string(line), " ")
}

func TestProgress(t *testing.T) {
	const large = 64 << 20
	for name, c := range map[string]struct {
		width   uint16
		total   int64
		done    int64
		onIt    bool // the transfer's own end is the same terminal
		visible bool
	}{
		"half of a large file":       {80, large, large / 2, false, true},
		"all of a large file":        {80, large, large, false, true},
		"more than a file was":       {80, large, large + 1<<20, false, true},
		"unknown size":               {80, -1, large, false, true},
		"small file":                 {80, 1000, 1000, false, false},
		"little of an unknown size":  {80, -1, 1 << 20, false, false},
		"narrow terminal":            {30, large, large / 2, false, false},
		"content goes to the screen": {80, large, large / 2, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			tty, said := terminalOf(t, c.width)
			var cmd cobra.Command
			cmd.SetErr(tty)
			var other any
			if c.onIt {
				other = tty
			}
			p := newProgress(&cmd, "put", c.total, other)
			out := p.writer(io.Discard)
			for left := c.done; left > 0; left -= 512 << 10 {
				_, err := out.Write(make([]byte, min(left, 512<<10)))
				require.NoError(t, err)
			}
			p.end()
			p.end()
			text := said()
			require.Equal(t, c.visible, strings.Contains(text, "put"), "%q", text)
			require.Empty(t, lastLine(text), "%q", text)
		})
	}
}

// A note stands on a line of its own, and the bar comes back below it.
func TestProgressGivesWayToNotes(t *testing.T) {
	tty, said := terminalOf(t, 80)
	var cmd cobra.Command
	cmd.SetErr(tty)
	p := newProgress(&cmd, "get", -1, nil)
	p.add(barFrom)
	fmt.Fprintln(p.notes(tty), "note")
	p.end()
	text := said()
	before, _, found := strings.Cut(text, "note")
	require.True(t, found, "%q", text)
	require.Contains(t, before, "get")
	require.Empty(t, lastLine(before), "%q", text)
}

func TestNoProgressOffATerminal(t *testing.T) {
	var cmd cobra.Command
	var out bytes.Buffer
	cmd.SetErr(&out)
	p := newProgress(&cmd, "put", 1<<30, nil)
	p.add(1 << 29)
	p.end()
	require.Empty(t, out.String())
}
