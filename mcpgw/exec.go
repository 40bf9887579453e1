package mcpgw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultExecTime and MaxExecTime bound a command: a model that waits longer
	// has usually started something that does not end.
	DefaultExecTime = 2 * time.Minute
	MaxExecTime     = 10 * time.Minute
	// DefaultOutput and MaxOutput are how many bytes of each stream a result
	// shows: a model pays for each of them in each later turn.
	DefaultOutput = 30_000
	MaxOutput     = 200_000
	// DefaultYield is how long a call waits for a command before it leaves it running
	// and names it.
	DefaultYield = 10 * time.Second
	// progressEvery is how often a running command reports.
	progressEvery = time.Second
)

type execArgs struct {
	Command   string            `json:"command" jsonschema:"shell line, run with sh -c"`
	Cwd       string            `json:"cwd,omitempty" jsonschema:"directory to run it in, relative to the workspace root"`
	Env       map[string]string `json:"env,omitempty" jsonschema:"environment variables to set besides the usual ones"`
	TimeoutMs int64             `json:"timeoutMs,omitempty" jsonschema:"milliseconds after which the command is killed" limits:"min=1 max=600000 default=120000"`
	YieldMs   int64             `json:"yieldMs,omitempty" jsonschema:"milliseconds after which a command that has not ended is left running, as a process" limits:"min=1 max=600000 default=10000"`
	Stdin     string            `json:"stdin,omitempty" jsonschema:"text for the command's standard input, at most 524288 bytes; put more into a file"`
	MaxOutput int               `json:"maxOutputBytes,omitempty" jsonschema:"how many bytes of stdout, and of stderr, the result shows: the beginning and the end" limits:"min=1 max=200000 default=30000"`
	Raw       bool              `json:"raw,omitempty" jsonschema:"keep colors and other control characters in the output" limits:"default=false"`
}

type execResult struct {
	ExitCode   *int   `json:"exitCode,omitempty" jsonschema:"exit status of the command; 128+N when signal N ended it, 124 after the timeout"`
	Stdout     string `json:"stdout" jsonschema:"standard output; control characters are taken out unless raw is set"`
	Stderr     string `json:"stderr" jsonschema:"standard error, likewise"`
	StdoutSize int64  `json:"stdoutBytes" jsonschema:"bytes that the command wrote to standard output"`
	StderrSize int64  `json:"stderrBytes" jsonschema:"bytes that the command wrote to standard error"`
	Truncated  bool   `json:"truncated" jsonschema:"a part in the middle of the output is not shown"`
	TimedOut   bool   `json:"timedOut" jsonschema:"the command was killed when its time was over"`
	Limit      string `json:"limit,omitempty" jsonschema:"a limit that the command hit: memory, pids or timeout"`
	DurationMs int64  `json:"durationMs" jsonschema:"milliseconds from start to end"`
	Changed    int    `json:"filesChanged,omitempty" jsonschema:"names that came, changed or went, and are stored; other commands' too, where several ran"`
	Stored     int64  `json:"bytesStored,omitempty" jsonschema:"bytes of the files among them"`
	ProcessID  string `json:"processId,omitempty" jsonschema:"of a command that still runs: for process_read, process_wait, process_write and process_kill"`
	NextOffset uint64 `json:"nextOffset,omitempty" jsonschema:"of a command that still runs: where process_read goes on"`
	Note       string `json:"note,omitempty" jsonschema:"how to see what is not shown, or why the network was not reached"`
}

func (r execResult) text() string {
	var b strings.Builder
	b.WriteString(r.output())
	newLine(&b)
	return b.String() + r.status()
}

// output is what the command wrote.
func (r execResult) output() string {
	var b strings.Builder
	b.WriteString(r.Stdout)
	if r.Stderr != "" {
		newLine(&b)
		b.WriteString("[stderr]\n" + r.Stderr)
	}
	return b.String()
}

// status is how the command ended.
func (r execResult) status() string {
	var b strings.Builder
	if r.ExitCode == nil {
		fmt.Fprintf(&b, "[still running after %.2f s]", float64(r.DurationMs)/1000)
	} else {
		fmt.Fprintf(&b, "[exit code %d, %.2f s]", *r.ExitCode, float64(r.DurationMs)/1000)
	}
	if r.Limit != "" {
		fmt.Fprintf(&b, "\n[the command hit its limit: %s]", r.Limit)
	}
	if r.Note != "" {
		b.WriteString("\n[" + r.Note + "]")
	}
	return b.String()
}

func newLine(b *strings.Builder) {
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
}

func addExec(s *server.MCPServer) {
	add(s, tool[execArgs, execResult]{
		name: anyTool, title: "Run a command",
		description: "Run a shell command in the workspace and wait for its end. It starts in the root of your view (or cwd), " +
			"which is /workspace or a directory below it, and leaves its changes there. It has no network unless the operator granted it, and then perhaps to some hosts only, through the proxy that its variables name. Each call is a shell of its own: directory and variables do not " +
			"carry over, and processes left in the background are killed at its end. An exit code other than 0 is not an error of this tool. " +
			"The command is killed after timeoutMs (default 120000, at most 600000). One that has not ended after yieldMs (default 10000) goes on " +
			"as a process, whose id and output so far are the result. Of long output the beginning and the end are shown " +
			"(default 30000 bytes of each stream).",
		hints: hints{destructive: true, openWorld: true},
		run:   runExec,
		next: map[mesh.Code]string{
			mesh.CodeNotFound:    "See what exists with list_directory.",
			mesh.CodeDeadline:    "Give it a longer timeoutMs (at most 600000), or do the work in smaller steps.",
			mesh.CodeUnsupported: "The file tools work without commands; tell the person you work for why commands do not run.",
		},
	})
}

func runExec(ctx context.Context, c *call, in execArgs) (execResult, error) {
	cmd, err := shellCommand(ctx, c, in.Command, in.Cwd, in.Env)
	if err != nil {
		return execResult{}, err
	}
	limit := cmp.Or(in.MaxOutput, DefaultOutput)
	out, errs := newEnds(limit), newEnds(limit)
	cmd.Timeout = cmp.Or(time.Duration(in.TimeoutMs)*time.Millisecond, DefaultExecTime)
	if len(in.Stdin) > mesh.MaxMessage {
		return execResult{}, mesh.Errorf(mesh.CodeTooLarge, "stdin of %d bytes is larger than %d; put it into a file of the workspace", len(in.Stdin), mesh.MaxMessage)
	}
	if in.Stdin != "" {
		cmd.Stdin = strings.NewReader(in.Stdin)
	}
	cmd.Stdout, cmd.Stderr = out, errs
	began := time.Now()
	err = reporting(ctx, c, func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		yield := time.AfterFunc(cmp.Or(time.Duration(in.YieldMs)*time.Millisecond, DefaultYield), cmd.Detach)
		defer yield.Stop()
		return cmd.Wait()
	})
	final := cmd.Final()
	if yielded(ctx, final, err) {
		next := uint64(out.size + errs.size)
		return execResult{
			Stdout: out.show(in.Raw), Stderr: errs.show(in.Raw), StdoutSize: out.size, StderrSize: errs.size,
			Truncated: out.cut() || errs.cut(), DurationMs: time.Since(began).Milliseconds(), ProcessID: cmd.ID, NextOffset: next,
			Note: fmt.Sprintf("it goes on as process %s; for more call process_read with offset=%d, wait for it with process_wait, end it with process_kill", cmd.ID, next),
		}, nil
	}
	var exit *client.ExitError
	if err != nil && !errors.As(err, &exit) || final == nil {
		return execResult{}, err
	}
	r := execResult{
		ExitCode: &final.Code, Stdout: out.show(in.Raw), Stderr: errs.show(in.Raw), StdoutSize: out.size, StderrSize: errs.size,
		Truncated: out.cut() || errs.cut(), TimedOut: final.Limit == "timeout", Limit: final.Limit,
		DurationMs: final.DurationUS / 1000, Changed: final.Files, Stored: final.Bytes,
	}
	if r.Truncated {
		r.Note = "a part of the output is not shown; to read all of it, run the command again with its output in a file " +
			"(COMMAND > out.txt 2>&1) and call read_text_file with path=\"out.txt\""
	}
	if hint := client.NetworkHint(final, slices.Concat(errs.head, errs.tail)); hint != "" {
		r.Note = strings.TrimPrefix(r.Note+"; "+hint, "; ")
	}
	if final.Limit == "" || final.Code == 0 || final.Limit == "pids" {
		return r, nil
	}
	return r, killed(&r, cmd.Timeout)
}

// killed is the error of a command that a limit ended; what it had written by then
// is most of what there is to learn from it.
func killed(r *execResult, timeout time.Duration) error {
	code, why := mesh.CodeQuota, "the command was killed: it hit its limit of "+r.Limit
	if r.TimedOut {
		code, why = mesh.CodeDeadline, fmt.Sprintf("the command was killed after %d ms; the files it had changed stay changed", timeout.Milliseconds())
	}
	output := r.output()
	if output == "" {
		output = "(no output)"
	}
	return mesh.Errorf(code, "%s. Its output until then:\n%s\n%s\n", why, strings.TrimSuffix(output, "\n"), r.status())
}

// shellCommand is a shell line to run in the caller's view.
func shellCommand(ctx context.Context, c *call, line, dir string, env map[string]string) (*client.Cmd, error) {
	if err := checkEnv(env); err != nil {
		return nil, err
	}
	cmd := c.workspace.Command(ctx, "sh", "-c", line)
	cmd.Dir = dir
	for _, name := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, name+"="+env[name])
	}
	return cmd, nil
}

func checkEnv(env map[string]string) error {
	for name := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return mesh.Errorf(mesh.CodeInvalid, "argument env: %q is not a name of a variable", name)
		}
	}
	return nil
}

// reporting runs do and tells the caller each second that it goes on.
func reporting(ctx context.Context, c *call, do func() error) error {
	if c.token == nil {
		return do()
	}
	start := time.Now()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var reporter sync.WaitGroup
	ended := make(chan struct{})
	reporter.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				at := time.Since(start).Seconds()
				c.progress(ctx, at, fmt.Sprintf("the command has been running for %.0f s", at))
			}
		}
	})
	err := do()
	close(ended)
	reporter.Wait()
	return err
}

// ends keeps the beginning and the end of what is written to it: two fifths and
// three fifths, since errors stand at the end.
type ends struct {
	head, tail []byte
	limit      int
	size       int64 // bytes written
}

func newEnds(limit int) *ends { return &ends{limit: limit} }

func (e *ends) Write(p []byte) (int, error) {
	e.size += int64(len(p))
	rest := p
	if room := e.limit*2/5 - len(e.head); room > 0 {
		n := min(room, len(rest))
		e.head, rest = append(e.head, rest[:n]...), rest[n:]
	}
	keep := e.limit - e.limit*2/5
	e.tail = append(e.tail, rest[max(0, len(rest)-2*keep):]...)
	if len(e.tail) > 2*keep {
		e.tail = append(e.tail[:0], e.tail[len(e.tail)-keep:]...)
	}
	return len(p), nil
}

func (e *ends) cut() bool { return e.size > int64(e.limit) }

func (e *ends) show(raw bool) string {
	shown := shownOutput
	if raw {
		shown = validText
	}
	if !e.cut() {
		return shown(append(e.head, e.tail...))
	}
	keep := e.limit - e.limit*2/5
	tail := e.tail[max(0, len(e.tail)-keep):]
	missing := e.size - int64(len(e.head)) - int64(len(tail))
	return shown(e.head) + fmt.Sprintf("\n[%d of %d bytes are not shown here]\n", missing, e.size) + shown(tail)
}
