package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestStdin(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		for name, test := range map[string]func(*testing.T, *nodetest.Mesh){
			"arrives whole":                   stdinArrivesWhole,
			"of a command that reads little":  commandReadsLittle,
			"pipe":                            stdinPipe,
			"of several writers":              writersDoNotMix,
			"of a repeat":                     repeatIsNotWritten,
			"of a command that does not read": commandDoesNotRead,
		} {
			t.Run(name, func(t *testing.T) { test(t, m) })
		}
	})
}

// Standard input of any length arrives byte for byte, at the command's pace.
// WSMESH_LONG=1 makes it 100 MiB.
func stdinArrivesWhole(t *testing.T, m *nodetest.Mesh) {
	size := int64(16 << 20)
	if meshtest.Long() {
		size = 100 << 20
	}
	ctx := t.Context()
	sum := sha256.New()
	slow := "(for i in 1 2 3 4; do dd iflag=fullblock bs=300k count=1 status=none; sleep 0.1; done; cat) | sha256sum"
	cmd := m.Client.Workspace("w").Command(ctx, "sh", "-c", slow)
	cmd.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sum)
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%x  -\n", sum.Sum(nil)), string(out))
}

// A command that ends, or reads no more, is not held by what is still to come,
// and that is no error.
func commandReadsLittle(t *testing.T, m *nodetest.Mesh) {
	ctx, ws := t.Context(), m.Client.Workspace("w")
	for name, c := range map[string]struct {
		script string
		code   int
	}{
		"ends early":     {"head -c 3000000 > /dev/null; exit 3", 3},
		"never reads":    {"exit 0", 0},
		"closes it":      {"head -c 100 > /dev/null; exec < /dev/null; sleep 0.3", 0},
		"does not begin": {"", 127},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := ws.Command(ctx, "sh", "-c", c.script)
			if c.script == "" {
				cmd = ws.Command(ctx, "no-such-program")
			}
			cmd.Stdin = rand.NewChaCha8([32]byte{2}) // has no end
			err := cmd.Run()
			var exit *client.ExitError
			if c.code == 0 {
				require.NoError(t, err)
			} else {
				require.ErrorAs(t, err, &exit)
				require.Equal(t, c.code, exit.Code)
			}
		})
	}
	t.Run("while nothing comes", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		cmd := ws.Command(ctx, "true")
		cmd.Stdin = r
		require.NoError(t, cmd.Run())
	})
	t.Run("its reader fails", func(t *testing.T) {
		broken := errors.New("broken")
		cmd := ws.Command(ctx, "cat")
		cmd.Stdin = io.MultiReader(strings.NewReader("before\n"), readerOf(func([]byte) (int, error) { return 0, broken }))
		out, err := cmd.Output()
		require.ErrorIs(t, err, broken)
		require.Equal(t, "before\n", string(out))
	})
}

type readerOf func([]byte) (int, error)

func (r readerOf) Read(p []byte) (int, error) { return r(p) }

// chat is a command whose output is read line by line while it runs.
type chat struct {
	*client.Cmd
	lines *bufio.Scanner
	ended chan error
}

func (c *chat) says(t *testing.T, line string) {
	t.Helper()
	require.True(t, c.lines.Scan(), "%v", c.lines.Err())
	require.Equal(t, line, c.lines.Text())
}

// begin starts a command, whose standard input is open.
func begin(t *testing.T, cmd *client.Cmd) (*chat, io.WriteCloser) {
	t.Helper()
	r, w := io.Pipe()
	cmd.Stdout = w
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &chat{Cmd: cmd, lines: bufio.NewScanner(r), ended: make(chan error, 1)}
	go func() {
		err := cmd.Wait()
		w.Close()
		c.ended <- err
	}()
	return c, in
}

func stdinPipe(t *testing.T, m *nodetest.Mesh) {
	cmd := m.Client.Workspace("w").Command(t.Context(), "sh", "-c", "while read line; do echo got $line; done; echo end")
	c, in := begin(t, cmd)
	_, err := cmd.StdinPipe()
	require.Error(t, err, "started already")
	for i := range 5 {
		_, err := fmt.Fprintf(in, "line %d\n", i)
		require.NoError(t, err)
		c.says(t, fmt.Sprintf("got line %d", i))
	}
	require.NoError(t, in.Close())
	c.says(t, "end")
	require.NoError(t, <-c.ended)
	require.NoError(t, in.Close())
	_, err = in.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// Others write to a command too, whole lines, and end its input; they need not be
// there when its own client is gone.
func writersDoNotMix(t *testing.T, m *nodetest.Mesh) {
	ctx := t.Context()
	first := m.Connect(t, m.Token(t, nodetest.Tenant))
	cmd := first.Workspace("w").Command(ctx, "sh", "-c", "sort > sorted; echo done > finished")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = in.Write([]byte("0000\n"))
	require.NoError(t, err)
	require.NoError(t, first.Close())

	ws := m.Client.Workspace("w")
	var want bytes.Buffer
	want.WriteString("0000\n")
	var wg sync.WaitGroup
	for i := range 8 {
		for j := range 10 {
			fmt.Fprintf(&want, "%d %d %s\n", i+1, j, strings.Repeat("x", 1000))
		}
		wg.Go(func() {
			for j := range 10 {
				line := fmt.Sprintf("%d %d %s\n", i+1, j, strings.Repeat("x", 1000))
				n, err := ws.WriteStdin(ctx, cmd.ID, []byte(line))
				if err != nil || n != len(line) {
					t.Errorf("%d bytes of %d: %v", n, len(line), err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, ws.CloseStdin(ctx, cmd.ID))
	require.Eventually(t, func() bool {
		_, err := ws.Stat(ctx, "finished")
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	got, err := ws.ReadFile(ctx, "sorted")
	require.NoError(t, err)
	require.Equal(t, want.String(), string(got))
	require.Eventually(t, func() bool {
		_, err = ws.WriteStdin(ctx, cmd.ID, []byte("late"))
		return mesh.CodeOf(err) == mesh.CodeNotFound
	}, 10*time.Second, 20*time.Millisecond)
}

// Who asks for a command that runs gets its output; its input is of who started it.
func repeatIsNotWritten(t *testing.T, m *nodetest.Mesh) {
	ctx, ws := t.Context(), m.Client.Workspace("w")
	c, in := begin(t, ws.Command(ctx, "cat"))
	again := ws.Command(ctx, "cat")
	again.ID, again.Stdin = c.ID, io.MultiReader(strings.NewReader("theirs\n"))
	repeat := make(chan []byte, 1)
	go func() {
		out, _ := again.Output()
		repeat <- out
	}()
	_, err := in.Write([]byte("mine\n"))
	require.NoError(t, err)
	c.says(t, "mine")
	require.NoError(t, in.Close())
	require.NoError(t, <-c.ended)
	require.Equal(t, "mine\n", string(<-repeat))
}

// A command that does not read takes what the node holds for it, and the writer
// hears so in its own time.
func commandDoesNotRead(t *testing.T, m *nodetest.Mesh) {
	ctx, ws := t.Context(), m.Client.Workspace("w")
	cmd := ws.Command(ctx, "sleep", "600")
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	n, err := ws.WriteStdin(short, cmd.ID, make([]byte, 8<<20))
	require.ErrorIs(t, err, context.DeadlineExceeded, "%v", err)
	require.LessOrEqual(t, n, mesh.DefaultStdinBuffer+(64<<10))
	require.Greater(t, n, mesh.DefaultStdinBuffer/2)
	require.NoError(t, cmd.Signal(ctx, "KILL"))
}

// The servers go away under a transfer of standard input and come back.
func TestStdinSurvivesAnOutage(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx := t.Context()
		c, in := begin(t, m.Client.Workspace("w").Command(ctx, "sh", "-c", "echo up; sha256sum"))
		c.says(t, "up")
		sum := sha256.New()
		source := rand.NewChaCha8([32]byte{3})
		over := make(chan struct{})
		go func() {
			defer close(over)
			for s := range m.Replicas() {
				m.Stop(s)
				m.Restart(t, s)
			}
		}()
		for n := 0; n < 20 || !closed(over); n++ {
			_, err := io.CopyN(io.MultiWriter(in, sum), source, 50_000)
			require.NoError(t, err)
		}
		require.NoError(t, in.Close())
		c.says(t, fmt.Sprintf("%x  -", sum.Sum(nil)))
		require.NoError(t, <-c.ended)
	})
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
