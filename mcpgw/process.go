package mcpgw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultProcessTime and MaxProcessTime bound the life of a process: one that a
	// model forgets must end.
	DefaultProcessTime = time.Hour
	MaxProcessTime     = 24 * time.Hour
	// MaxProcessWait is how long one call waits for a process.
	MaxProcessWait = 30 * time.Second
	// DefaultProcesses and MaxProcesses are how many processes one result shows.
	DefaultProcesses = 20
	MaxProcesses     = 100
)

type startArgs struct {
	Command     string            `json:"command" jsonschema:"shell line, run with sh -c"`
	Cwd         string            `json:"cwd,omitempty" jsonschema:"directory to run it in, relative to the workspace root"`
	Env         map[string]string `json:"env,omitempty" jsonschema:"environment variables to set besides the usual ones"`
	TimeoutMs   int64             `json:"timeoutMs,omitempty" jsonschema:"milliseconds after which the process is killed" limits:"min=1 max=86400000 default=3600000"`
	Interactive bool              `json:"interactive,omitempty" jsonschema:"keep its standard input open for process_write" limits:"default=false"`
}

type startResult struct {
	ProcessID string `json:"processId" jsonschema:"for process_read, process_wait, process_write and process_kill"`
}

func (r startResult) text() string {
	return "[process " + r.ProcessID + " runs; see its output with process_read]"
}

type readProcessArgs struct {
	ProcessID string `json:"processId" jsonschema:"id of the process"`
	Offset    uint64 `json:"offset,omitempty" jsonschema:"byte of the output to begin at: nextOffset of the call before" limits:"min=0 default=0"`
	WaitMs    int64  `json:"waitMs,omitempty" jsonschema:"milliseconds to wait for output, or the end, when there is none yet" limits:"min=0 max=30000 default=0"`
	MaxOutput int    `json:"maxOutputBytes,omitempty" jsonschema:"how many bytes of output to show" limits:"min=1 max=200000 default=30000"`
	Raw       bool   `json:"raw,omitempty" jsonschema:"keep colors and other control characters in the output" limits:"default=false"`
}

type processState struct {
	ProcessID string `json:"processId"`
	State     string `json:"state" jsonschema:"running; exited; or lost: its node died under it, and what it had done by then is unknown"`
	ExitCode  *int   `json:"exitCode,omitempty" jsonschema:"exit status of one that has exited; 128+N when signal N ended it, 124 when its time was over"`
	Limit     string `json:"limit,omitempty" jsonschema:"a limit that it hit: memory, pids, disk or timeout"`
}

func newProcessState(id string, final *mesh.Final) processState {
	s := processState{ProcessID: id, State: "running"}
	switch {
	case final == nil:
	case final.ErrorCode != "":
		s.State = string(final.ErrorCode)
	default:
		s.State, s.ExitCode, s.Limit = "exited", &final.Code, final.Limit
	}
	return s
}

func (s processState) text() string {
	switch {
	case s.ExitCode == nil:
		return "process " + s.ProcessID + ": " + s.State
	case s.Limit != "":
		return fmt.Sprintf("process %s: exit code %d, it hit its limit: %s", s.ProcessID, *s.ExitCode, s.Limit)
	}
	return fmt.Sprintf("process %s: exit code %d", s.ProcessID, *s.ExitCode)
}

type readProcessResult struct {
	processState
	Output     string `json:"output" jsonschema:"what it wrote to standard output and standard error, in about that order; control characters are taken out unless raw is set"`
	NextOffset uint64 `json:"nextOffset" jsonschema:"offset of the call that reads on"`
	Missing    uint64 `json:"missingBytes,omitempty" jsonschema:"bytes of this part that are not kept any more: there was too much output"`
	More       bool   `json:"more" jsonschema:"there is more output already"`
}

func (r readProcessResult) text() string {
	var b strings.Builder
	b.WriteString(r.Output)
	newLine(&b)
	if r.Missing > 0 {
		fmt.Fprintf(&b, "[%d bytes are not kept any more]\n", r.Missing)
	}
	b.WriteString("[" + r.processState.text())
	if r.More || r.State == "running" {
		fmt.Fprintf(&b, "; call process_read with offset=%d for more", r.NextOffset)
	}
	return b.String() + "]"
}

type writeProcessArgs struct {
	ProcessID string `json:"processId" jsonschema:"id of the process"`
	Data      string `json:"data,omitempty" jsonschema:"text for its standard input; a line needs its line break"`
	Close     bool   `json:"closeStdin,omitempty" jsonschema:"end its standard input after that" limits:"default=false"`
}

type writeProcessResult struct {
	Written int `json:"writtenBytes"`
}

func (r writeProcessResult) text() string { return fmt.Sprintf("[%d bytes written]", r.Written) }

type killArgs struct {
	ProcessID string `json:"processId" jsonschema:"id of the process"`
	Signal    string `json:"signal,omitempty" jsonschema:"CANCEL asks everything it started to end and kills what does not; KILL kills at once; others go to it alone" limits:"enum=CANCEL|CONT|HUP|INT|KILL|QUIT|STOP|TERM|USR1|USR2 default=CANCEL"`
}

type killResult struct {
	Sent string `json:"signal"`
}

func (r killResult) text() string { return "[" + r.Sent + " sent]" }

type waitArgs struct {
	ProcessIDs []string `json:"processIds" jsonschema:"ids of processes" limits:"items=1"`
	WaitMs     int64    `json:"waitMs,omitempty" jsonschema:"milliseconds to wait" limits:"min=1 max=30000 default=30000"`
}

type processListArgs struct {
	All   bool `json:"all,omitempty" jsonschema:"those that have ended too, the newest first" limits:"default=false"`
	Limit int  `json:"limit,omitempty" jsonschema:"how many to show" limits:"min=1 max=100 default=20"`
}

type listedProcess struct {
	processState
	Command   string `json:"command" jsonschema:"its command line, cut"`
	StartedAt string `json:"startedAt" jsonschema:"RFC 3339, UTC"`
	Output    uint64 `json:"outputBytes"`
}

type processListResult struct {
	Processes []listedProcess `json:"processes"`
	Truncated bool            `json:"truncated" jsonschema:"there are more"`
}

func (r processListResult) text() string {
	var b strings.Builder
	for _, p := range r.Processes {
		fmt.Fprintf(&b, "%s; started %s, %d bytes of output: %s\n", p.processState.text(), p.StartedAt, p.Output, p.Command)
	}
	note := ""
	if r.Truncated {
		note = "there are more"
	}
	if len(r.Processes) == 0 {
		note = "no processes"
	}
	return withNote(&b, note)
}

// seeProcesses is the next move where an id is not known.
var seeProcesses = map[mesh.Code]string{
	mesh.CodeNotFound: "See which processes there are with process_list, those that have ended with all=true.",
	mesh.CodeInvalid:  "See which processes there are with process_list.",
}

func addProcesses(s *server.MCPServer) {
	add(s, tool[startArgs, startResult]{
		name: "process_start", title: "Start a process",
		description: "Start a shell command in the background and return at once with its id: for servers, watchers, long builds, and with interactive " +
			"programs that are typed to. It goes on after this conversation's connection, until it ends, is killed, or its timeoutMs is over (default 3600000, at most 86400000). " +
			"Its output is kept and read with process_read.",
		hints: hints{destructive: true, openWorld: true},
		run:   startProcess,
	})
	add(s, tool[readProcessArgs, readProcessResult]{
		name: "process_read", title: "Read a process's output",
		description: "Read the output of a process from a byte offset on, and learn whether it still runs. With waitMs it waits for output or the end.",
		hints:       hints{readOnly: true, idempotent: true, openWorld: true},
		run:         readProcess, next: seeProcesses,
	})
	add(s, tool[waitArgs, processState]{
		name: "process_wait", title: "Wait for processes",
		description: "Wait until one of several processes has ended, and say which and how.",
		hints:       hints{readOnly: true, idempotent: true},
		run:         waitProcess,
		next: map[mesh.Code]string{
			mesh.CodeNotFound: seeProcesses[mesh.CodeNotFound],
			mesh.CodeDeadline: "None has ended yet: wait again, or read what they write with process_read.",
		},
	})
	add(s, tool[writeProcessArgs, writeProcessResult]{
		name: "process_write", title: "Write to a process",
		description: "Write text to the standard input of a process that was started with interactive, or end its standard input with closeStdin.",
		hints:       hints{destructive: true, openWorld: true},
		run:         writeProcess, next: seeProcesses,
	})
	add(s, tool[killArgs, killResult]{
		name: "process_kill", title: "End a process",
		description: "End a process and everything that it started, or send it a signal.",
		hints:       hints{destructive: true, idempotent: true},
		run:         killProcess, next: seeProcesses,
	})
	add(s, tool[processListArgs, processListResult]{
		name: "process_list", title: "List processes",
		description: "List the commands that run in your view of the workspace, of exec and process_start alike; with all=true those that have ended too.",
		hints:       hints{readOnly: true, idempotent: true},
		run:         listProcesses,
	})
}

func startProcess(ctx context.Context, c *call, in startArgs) (startResult, error) {
	cmd, err := shellCommand(context.WithoutCancel(ctx), c, in.Command, in.Cwd, in.Env)
	if err != nil {
		return startResult{}, err
	}
	cmd.Timeout = cmp.Or(time.Duration(in.TimeoutMs)*time.Millisecond, DefaultProcessTime)
	if in.Interactive {
		if _, err := cmd.StdinPipe(); err != nil {
			return startResult{}, err
		}
	}
	if err := cmd.Start(); err != nil {
		return startResult{}, err
	}
	cmd.Detach()
	cmd.Wait() //nolint:errcheck // it is over at once: the command is nobody's now
	return startResult{ProcessID: cmd.ID}, nil
}

func readProcess(ctx context.Context, c *call, in readProcessArgs) (readProcessResult, error) {
	x, err := c.workspace.Attach(ctx, in.ProcessID, client.FromOffset(in.Offset))
	if err != nil {
		return readProcessResult{}, err
	}
	defer x.Close()
	r := readProcessResult{NextOffset: in.Offset}
	var shown []byte
	limit := cmp.Or(in.MaxOutput, DefaultOutput)
	// take takes in one piece and says whether there is room for another.
	take := func(o client.Output) bool {
		data := o.Data
		if len(data) > limit-len(shown) {
			data, r.More = data[:limit-len(shown)], true
		}
		shown = append(shown, data...)
		r.Missing += o.Missing
		r.NextOffset = o.Offset + uint64(len(data))
		return !r.More
	}
	for o, err := range x.Stored(ctx) {
		if err != nil {
			return readProcessResult{}, err
		}
		if !take(o) {
			break
		}
	}
	if wait := time.Duration(in.WaitMs) * time.Millisecond; len(shown) == 0 && x.Final() == nil && wait > 0 {
		waiting, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		for o, err := range x.Output(waiting) {
			if err != nil && waiting.Err() != nil && ctx.Err() == nil {
				break // nothing came
			}
			if err != nil {
				return readProcessResult{}, err
			}
			take(o)
			break
		}
	}
	show := shownOutput
	if in.Raw {
		show = validText
	}
	final := x.Final()
	if r.More {
		final = nil
	}
	r.processState, r.Output = newProcessState(x.ID(), final), show(shown)
	return r, nil
}

func waitProcess(ctx context.Context, c *call, in waitArgs) (processState, error) {
	wait := cmp.Or(time.Duration(in.WaitMs)*time.Millisecond, MaxProcessWait)
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	id, final, err := c.workspace.WaitAny(waiting, in.ProcessIDs...)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		err = mesh.Errorf(mesh.CodeDeadline, "no process has ended within %d ms", wait.Milliseconds())
	}
	return newProcessState(id, final), err
}

func writeProcess(ctx context.Context, c *call, in writeProcessArgs) (writeProcessResult, error) {
	n, err := 0, error(nil)
	if in.Data != "" {
		n, err = c.workspace.WriteStdin(ctx, in.ProcessID, []byte(in.Data))
	}
	if err == nil && in.Close {
		err = c.workspace.CloseStdin(ctx, in.ProcessID)
	}
	return writeProcessResult{n}, err
}

func killProcess(ctx context.Context, c *call, in killArgs) (killResult, error) {
	e, err := c.workspace.Exec(ctx, in.ProcessID)
	if err == nil && e.Final != nil {
		err = &advice{mesh.Errorf(mesh.CodeNotFound, "%s", newProcessState(in.ProcessID, e.Final).text()), "It has ended: there is nothing to do."}
	}
	if err != nil {
		return killResult{}, err
	}
	name := cmp.Or(in.Signal, mesh.SignalCancel)
	return killResult{name}, c.workspace.Signal(ctx, in.ProcessID, name)
}

func listProcesses(ctx context.Context, c *call, in processListArgs) (processListResult, error) {
	r := processListResult{Processes: []listedProcess{}}
	limit := cmp.Or(in.Limit, DefaultProcesses)
	show := func(e mesh.ExecEntry) bool {
		if len(r.Processes) == limit {
			r.Truncated = true
			return false
		}
		r.Processes = append(r.Processes, newListedProcess(e))
		return true
	}
	var err error
	if in.All {
		for e, failed := range c.workspace.Execs(ctx) {
			if err = failed; err != nil || !show(e) {
				break
			}
		}
	} else {
		var running []mesh.ExecEntry
		running, err = c.workspace.Running(ctx)
		for _, e := range running {
			show(e)
		}
	}
	if mesh.CodeOf(err) == mesh.CodeNotFound { // no workspace yet
		err = nil
	}
	return r, err
}

// maxListedCommand is how much of a command line a listing shows.
const maxListedCommand = 200

func newListedProcess(e mesh.ExecEntry) listedProcess {
	var words []string
	for _, a := range e.Args {
		words = append(words, string(a))
	}
	line := strings.TrimPrefix(strings.Join(words, " "), "sh -c ")
	cut := e.Cut || len(line) > maxListedCommand
	line = shownName(line[:min(len(line), maxListedCommand)])
	if cut {
		line += "…"
	}
	return listedProcess{
		processState: newProcessState(string(e.ID), e.Final), Command: line,
		StartedAt: e.Started.UTC().Format(time.RFC3339), Output: e.Output,
	}
}

// yielded reports whether a command was left because it took too long.
func yielded(ctx context.Context, final *mesh.Final, err error) bool {
	return final == nil && ctx.Err() == nil && errors.Is(err, context.Canceled)
}
