package client_test

import (
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// talk is a command in a terminal, which a test types to.
type talk struct {
	*client.Cmd
	in    io.WriteCloser
	shown strings.Builder
	out   *io.PipeReader
	ended chan error
}

func open(t *testing.T, ws *client.Workspace, argv ...string) *talk {
	t.Helper()
	r, w := io.Pipe()
	x := &talk{Cmd: ws.Command(t.Context(), argv[0], argv[1:]...), out: r, ended: make(chan error, 1)}
	x.Stdout, x.Env = w, []string{"PS1=> ", "PYTHONSTARTUP", "INPUTRC=/dev/null"}
	x.Terminal = &client.Terminal{Rows: 30, Cols: 90, Type: "xterm"}
	var err error
	x.in, err = x.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, x.Start())
	go func() {
		x.ended <- x.Wait()
		w.Close()
	}()
	return x
}

func (x *talk) types(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(x.in, text)
	require.NoError(t, err)
}

// shows reads until what is shown since the last call matches.
func (x *talk) shows(t *testing.T, pattern string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	late := time.AfterFunc(20*time.Second, func() { x.out.CloseWithError(io.ErrNoProgress) })
	defer late.Stop()
	buf := make([]byte, 4096)
	for !want.MatchString(x.shown.String()) {
		n, err := x.out.Read(buf)
		x.shown.Write(buf[:n])
		require.NoError(t, err, "shown so far: %q", x.shown.String())
	}
	x.shown.Reset()
}

// ends is how the command ended, whatever else it shows.
func (x *talk) ends() error {
	go io.Copy(io.Discard, x.out) //nolint:errcheck // ends with the command
	return <-x.ended
}

func TestTerminal(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		t.Run("python3", func(t *testing.T) {
			x := open(t, ws, "python3", "-i")
			x.shows(t, `>>> $`)
			x.types(t, "print('a' * 3, __import__('sys').stdin.isatty())\r")
			x.shows(t, `aaa True[^>]*>>> $`)
			x.types(t, "while True: pass\r\r")
			x.shows(t, `\.\.\. [^.]*$`)
			x.types(t, "\x03")
			x.shows(t, `KeyboardInterrupt[^>]*>>> $`)
			x.types(t, "exit(7)\r")
			var exit *client.ExitError
			require.ErrorAs(t, x.ends(), &exit)
			require.Equal(t, 7, exit.Code)
		})
		t.Run("a full-screen program", func(t *testing.T) {
			fill(t, ws, "text")
			require.NoError(t, ws.WriteFile(ctx, "text", []byte(strings.Repeat("line\n", 100)+"last line\n"), 0))
			x := open(t, ws, "less", "text")
			x.shows(t, `text`)
			x.types(t, "G")
			x.shows(t, `last line`)
			require.NoError(t, x.Resize(ctx, 5, 40))
			x.types(t, "g")
			x.shows(t, `line`)
			x.types(t, "q")
			require.NoError(t, x.ends())
		})
		t.Run("a shell", func(t *testing.T) {
			x := open(t, ws, "bash", "--norc", "-i")
			x.shows(t, `> $`)
			x.types(t, "stty size; echo $TERM; echo err >&2; tty\r")
			x.shows(t, `(?s)30 90\r\nxterm\r\nerr\r\n/dev/pts/\d+`)
			require.NoError(t, x.Resize(ctx, 11, 22))
			x.types(t, "stty size\r")
			x.shows(t, `11 22`)
			x.types(t, "exit 6\r")
			var exit *client.ExitError
			require.ErrorAs(t, x.ends(), &exit)
			require.Equal(t, 6, exit.Code)
			require.Eventually(t, func() bool { return mesh.CodeOf(x.Resize(ctx, 1, 1)) == mesh.CodeNotFound }, 5*time.Second, 10*time.Millisecond)
		})
		t.Run("the end of its input", func(t *testing.T) {
			x := open(t, ws, "sh", "-c", "stty -echo; echo up; cat; echo end")
			x.shows(t, `up`)
			x.types(t, "typed")
			require.NoError(t, x.in.Close())
			x.shows(t, `typedend`)
			require.NoError(t, x.ends())
		})
		t.Run("without input", func(t *testing.T) {
			cmd := ws.Command(ctx, "sh", "-c", "test -t 0 && test -t 1 && stty size")
			cmd.Terminal = &client.Terminal{}
			out, err := cmd.Output()
			require.NoError(t, err)
			require.Equal(t, "24 80\r\n", string(out))
		})
		t.Run("one that is none", func(t *testing.T) {
			cmd := ws.Command(ctx, "true")
			cmd.Terminal = &client.Terminal{Rows: 1 << 20}
			requireCode(t, mesh.CodeInvalid, cmd.Run())
			cmd = ws.Command(ctx, "sleep", "600")
			require.NoError(t, cmd.Start())
			requireCode(t, mesh.CodeInvalid, cmd.Resize(ctx, 1, 1))
			require.NoError(t, cmd.Signal(ctx, "KILL"))
		})
	})
}
