package mcpgw

import (
	"cmp"
	"errors"
	"regexp"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/wsmesh/wsmesh/mesh"
)

// failure is the structured content of a result that is an error.
type failure struct {
	Code      mesh.Code `json:"code" jsonschema:"of an error: what kind it is, e.g. not_found or unavailable"`
	Message   string    `json:"message" jsonschema:"of an error: what failed, why, and what to do next"`
	Retryable bool      `json:"retryable" jsonschema:"of an error: nothing was done, and the same call may succeed a moment later"`
}

// nextMove is what a model can do about each code, where a tool knows no better.
var nextMove = map[mesh.Code]string{
	mesh.CodeInvalid:     "Correct the arguments and call again.",
	mesh.CodeNotFound:    "See what exists with list_directory or search_files.",
	mesh.CodeExists:      "Choose another name, or remove what is there with delete_path.",
	mesh.CodeDenied:      "Do not repeat the call as it is: use a path inside the workspace that you may use, or tell the person you work for.",
	mesh.CodeStale:       "Call again in a moment.",
	mesh.CodeConflict:    "Look at the current state, then call again.",
	mesh.CodeBusy:        "Call again in a few seconds.",
	mesh.CodeQuota:       "Delete what is not needed any more with delete_path, or ask a person to raise the limit.",
	mesh.CodeTooLarge:    "Work on a smaller part.",
	mesh.CodeUnsupported: "It does not work here: find another way, or tell the person you work for.",
	mesh.CodeUnavailable: "Nothing was done. Call again in some seconds; if that fails, tell the person you work for.",
	mesh.CodeLost:        "Look at what is there (get_file_info, read_text_file, exec) before you do it again.",
	mesh.CodeDeadline:    "Look at what is there (get_file_info, read_text_file, exec) before you do it again.",
	mesh.CodeCanceled:    "Call again if it is still wanted.",
	mesh.CodeInternal:    "Tell the person you work for.",
}

// askAgain is the next move where an unanswered call leaves nothing in doubt.
const askAgain = "Nothing was changed. Call again in some seconds; if that fails, tell the person you work for."

// failed makes a result of an error. Errors without a code are defects, and their
// text stays here. A tool that only reads may be called again when no answer came.
func failed(err error, next map[mesh.Code]string, reads bool) *mcp.CallToolResult {
	var coded *mesh.Error
	if !errors.As(err, &coded) {
		if code := mesh.CodeOf(err); code == mesh.CodeInternal {
			coded = errDefect
		} else {
			coded = mesh.Errorf(code, "%s", err)
		}
		err = coded
	}
	what := strings.Replace(err.Error(), coded.Error(), forModel(coded.Text), 1)
	move := cmp.Or(next[coded.Code], nextMove[coded.Code])
	f := failure{Code: coded.Code, Retryable: coded.RetrySafe()}
	var own *advice
	switch {
	case errors.As(err, &own):
		move = own.move
	case reads && coded.Code == mesh.CodeDeadline:
		move, f.Retryable = askAgain, true
	}
	f.Message = string(coded.Code) + ": " + sentence(what) + " " + move
	return &mcp.CallToolResult{
		Content:           []mcp.Content{mcp.NewTextContent(f.Message)},
		StructuredContent: f,
		IsError:           true,
	}
}

// advice is an error that knows its next move better than the tool does.
type advice struct {
	err  *mesh.Error
	move string
}

func (a *advice) Error() string { return a.err.Error() }
func (a *advice) Unwrap() error { return a.err }

func advise(code mesh.Code, move, format string, args ...any) error {
	return &advice{mesh.Errorf(code, format, args...), move}
}

// forPeople is what ends the texts of other packages: a next move that a model
// cannot make, since it names a command line, or that is said again after it.
var forPeople = regexp.MustCompile(`; (?:try again|start over|is one running\?|[^;]*\bwsmesh (?:workspace|token|tenant|context|dev)\b[^;]*)$`)

func forModel(text string) string { return forPeople.ReplaceAllString(text, "") }

// sentence ends a text as a sentence ends.
func sentence(s string) string {
	s = strings.TrimRight(s, " \n")
	if s != "" && strings.ContainsAny(s[len(s)-1:], ".?!]") {
		return s
	}
	return s + "."
}
