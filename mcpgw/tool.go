package mcpgw

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// tool is one tool: what a model is told of it, and what it does. In and Out are
// structs; their schemas come from their tags: json for the name (omitempty or
// omitzero makes it optional), jsonschema for the description, and limits for
// bounds ("min=1 max=5 default=3", or "enum=a|b").
type tool[In any, Out reply] struct {
	name, title, description string
	hints                    hints
	run                      func(ctx context.Context, c *call, in In) (Out, error)
	next                     map[mesh.Code]string // the next move after an error, where the usual one does not fit
}

// reply is a result: its JSON is what a program reads, its text what a model reads.
type reply interface{ text() string }

// hints tell a client what a tool may do; clients ask people, or do not, by them.
type hints struct{ readOnly, destructive, idempotent, openWorld bool }

// call is one call under way.
type call struct {
	client    *client.Client
	workspace *client.Workspace
	scope     string            // of the request, as caller has it
	token     mcp.ProgressToken // nil: nobody wants to hear of progress
}

// add makes a tool of a server. A tool whose schemas cannot be made is a
// programmer's error.
func add[In any, Out reply](s *server.MCPServer, t tool[In, Out]) {
	in := schemaOf[In]()
	resolved, err := in.Resolve(nil)
	if err != nil {
		panic(fmt.Sprintf("mcpgw: input schema of %s: %s", t.name, err))
	}
	known := &arguments{resolved, in.PropertyOrder}
	s.AddTool(mcp.Tool{
		Name: t.name, Title: t.title, Description: t.description,
		RawInputSchema:  asJSON(in),
		RawOutputSchema: asJSON(orFailure(schemaOf[Out]())),
		Annotations: mcp.ToolAnnotation{
			Title:        t.title,
			ReadOnlyHint: &t.hints.readOnly, DestructiveHint: &t.hints.destructive,
			IdempotentHint: &t.hints.idempotent, OpenWorldHint: &t.hints.openWorld,
		},
	}, func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		out, err := t.do(ctx, known, req)
		if err != nil {
			return failed(err, t.next, t.hints.readOnly), nil
		}
		return &mcp.CallToolResult{
			Content:           []mcp.Content{mcp.NewTextContent(out.text())},
			StructuredContent: out,
		}, nil
	})
}

func (t *tool[In, Out]) do(ctx context.Context, schema *arguments, req mcp.CallToolRequest) (Out, error) {
	var in In
	var none Out
	if err := decode(req, schema, &in); err != nil {
		return none, err
	}
	who, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return none, errNoCaller
	}
	c := call{scope: who.scope}
	var err error
	if c.client, c.workspace, err = who.open(ctx); err != nil {
		return none, err
	}
	if req.Params.Meta != nil {
		c.token = req.Params.Meta.ProgressToken
	}
	out, err := t.run(ctx, &c, in)
	return out, c.missing(ctx, err)
}

// arguments is what a tool takes.
type arguments struct {
	schema *jsonschema.Resolved
	names  []string // of all of them, for who guessed one
}

// unknown says of arguments that are not there which ones are; nil: all are known.
func (a *arguments) unknown(given map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if slices.Contains(a.names, name) {
			continue
		}
		meant := ""
		for _, n := range a.names {
			if similar(n, name) {
				meant = " (did you mean " + n + "?)"
				break
			}
		}
		return mesh.Errorf(mesh.CodeInvalid, "unknown argument %.80q%s; there are %s", name, meant, strings.Join(a.names, ", "))
	}
	return nil
}

// similar reports whether one name is in the other or begins as it does, in
// whatever spelling: timeout and timeoutMs, file_path and path.
func similar(a, b string) bool {
	plain := strings.NewReplacer("_", "", "-", "")
	a, b = strings.ToLower(plain.Replace(a)), strings.ToLower(plain.Replace(b))
	return b != "" && (strings.Contains(a, b) || strings.Contains(b, a)) || len(b) >= 4 && strings.HasPrefix(a, b[:4])
}

// decode reads the arguments of a call. Models fill optional arguments with null:
// that is as if they were not there. Of a name that is there twice the last one
// counts, for the schema and for in alike: they read the same, written anew.
func decode(req mcp.CallToolRequest, known *arguments, in any) error {
	fields := map[string]json.RawMessage{}
	raw, _ := req.GetRawArguments().(json.RawMessage)
	if len(raw) > 0 && json.Unmarshal(raw, &fields) != nil {
		return mesh.Errorf(mesh.CodeInvalid, "arguments are not a JSON object")
	}
	maps.DeleteFunc(fields, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
	raw = json.RawMessage("{}")
	if len(fields) > 0 {
		raw = asJSON(fields)
	}
	var args map[string]any
	if err := json.Unmarshal(raw, &args); err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "arguments are not a JSON object")
	}
	if err := known.unknown(args); err != nil {
		return err
	}
	if err := known.schema.Validate(args); err != nil {
		text := misfit(err)
		if strings.HasPrefix(text, "arguments:") { // one is not there
			text += "; the arguments are " + strings.Join(known.names, ", ")
		}
		return mesh.Errorf(mesh.CodeInvalid, "%s", text)
	}
	if err := json.Unmarshal(raw, in); err != nil { // a number that is no int64
		return mesh.Errorf(mesh.CodeInvalid, "arguments: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// phrases say what a schema does not like in words that name the remedy. The
// validator has no other form of its reasons than text.
var phrases = []struct {
	reason *regexp.Regexp
	phrase string
}{
	{regexp.MustCompile(`^required: missing properties: \["([^"]*)".*$`), "$1 is missing"},
	{regexp.MustCompile(`^unexpected additional properties \["([^"]*)".*$`), "there is no $1 in it"},
	{regexp.MustCompile(`^type: .* has type "(\w+)", want "(\w+)"$`), "must be of type $2, not $1"},
	{regexp.MustCompile(`^minimum: (-?\d+)\S* is less than (-?\d+).*$`), "must be at least $2, not $1"},
	{regexp.MustCompile(`^maximum: (-?\d+)\S* is greater than (-?\d+).*$`), "must be at most $2, not $1"},
	{regexp.MustCompile(`^enum: .* does not equal any of: \[(.*)\]$`), "must be one of: $1"},
	{regexp.MustCompile(`^minItems: .*$`), "must not be empty"},
}

// misfit says in a model's words what a schema does not like. The validator names
// the place in a chain of schema paths before the reason.
func misfit(err error) string {
	text, place := err.Error(), ""
	for {
		rest, ok := strings.CutPrefix(text, "validating ")
		if !ok {
			break
		}
		if place, text, ok = strings.Cut(rest, ": "); !ok {
			break
		}
	}
	for _, p := range phrases {
		if p.reason.MatchString(text) {
			text = p.reason.ReplaceAllString(text, p.phrase)
			break
		}
	}
	place = strings.NewReplacer("/properties/", ".", "/items", "[]").Replace(place)
	place = strings.TrimPrefix(strings.TrimPrefix(place, "root"), ".")
	if place == "" {
		return "arguments: " + text
	}
	return "argument " + place + ": " + text
}

// schemaOf makes the schema of a struct.
func schemaOf[T any]() *jsonschema.Schema {
	s, err := jsonschema.For[T](nil)
	if err != nil {
		panic(fmt.Sprintf("mcpgw: schema of %s: %s", reflect.TypeFor[T](), err))
	}
	refine(reflect.TypeFor[T](), s)
	return s
}

// refine takes null out of the types of lists, and of what is left out where it is
// nil, since many clients cannot express it, and applies the limits tags.
func refine(t reflect.Type, s *jsonschema.Schema) {
	if len(s.Types) == 2 && s.Types[0] == "null" {
		s.Type, s.Types = s.Types[1], nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		refine(t.Elem(), s)
	case reflect.Slice:
		if s.Items != nil {
			refine(t.Elem(), s.Items)
		}
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if p := s.Properties[name]; p != nil {
				refine(f.Type, p)
				limit(p, f.Tag.Get("limits"))
			}
		}
	}
}

// limit applies one limits tag.
func limit(s *jsonschema.Schema, tag string) {
	for _, word := range strings.Fields(tag) {
		key, value, _ := strings.Cut(word, "=")
		number, _ := strconv.ParseFloat(value, 64) // 0 of what is none
		switch {
		case key == "enum":
			for v := range strings.SplitSeq(value, "|") {
				s.Enum = append(s.Enum, v)
			}
		case key == "default" && json.Valid([]byte(value)): // a number, true or false
			s.Default = json.RawMessage(value)
		case key == "default":
			s.Default = asJSON(value)
		case key == "min":
			s.Minimum = &number
		case key == "max":
			s.Maximum = &number
		case key == "items":
			n := int(number)
			s.MinItems = &n
		}
	}
}

// orFailure makes a result schema that a failure fits as well: clients check the
// structured content of both.
func orFailure(s *jsonschema.Schema) *jsonschema.Schema {
	fail := schemaOf[failure]()
	success := &jsonschema.Schema{Required: s.Required}
	s.AnyOf = []*jsonschema.Schema{success, {Required: fail.Required}}
	s.Required, s.AdditionalProperties = nil, nil
	for name, p := range fail.Properties {
		s.Properties[name] = p
	}
	s.PropertyOrder = append(s.PropertyOrder, fail.PropertyOrder...)
	return s
}

func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("mcpgw: %T is not JSON: %s", v, err))
	}
	return b
}

// shielded keeps a defect of a tool from ending more than its call, and from
// showing its insides to the caller.
func shielded(log *slog.Logger) server.ToolHandlerMiddleware {
	return func(next server.ToolHandlerFunc) server.ToolHandlerFunc {
		return func(ctx context.Context, req mcp.CallToolRequest) (result *mcp.CallToolResult, err error) {
			defer func() {
				if p := recover(); p != nil {
					log.Error("tool panicked", "op", req.Params.Name, "err", p, "stack", string(debug.Stack()))
					result, err = failed(errDefect, nil, false), nil
				}
			}()
			result, err = next(ctx, req)
			if err != nil {
				log.Error("tool failed", "op", req.Params.Name, "err", err)
				return failed(errDefect, nil, false), nil
			}
			return result, nil
		}
	}
}

// noSuchTool stands in place of a call's arguments for the name of a tool that is not
// there. mcp-go answers such a call itself, and names none of those that are: the
// call goes to one of them, and this keeps it from being run.
type noSuchTool string

// redirectUnknown is a hook before a call.
func redirectUnknown(s *server.MCPServer) server.OnBeforeCallToolFunc {
	return func(_ context.Context, _ any, req *mcp.CallToolRequest) {
		if s.GetTool(req.Params.Name) == nil {
			req.Params.Arguments, req.Params.Name = noSuchTool(req.Params.Name), anyTool
		}
	}
}

// unknownTool answers what redirectUnknown redirected.
func unknownTool(next server.ToolHandlerFunc) server.ToolHandlerFunc {
	return func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		name, ok := req.Params.Arguments.(noSuchTool)
		if !ok {
			return next(ctx, req)
		}
		tools := slices.Sorted(maps.Keys(server.ServerFromContext(ctx).ListTools()))
		err := advise(mesh.CodeInvalid, "Call one of them.", "there is no tool %.80q; there are %s", string(name), strings.Join(tools, ", "))
		return failed(err, nil, true), nil
	}
}

// errDefect is all that a caller learns of a defect.
var errDefect = mesh.Errorf(mesh.CodeInternal, "the tool failed because of a defect in the gateway")

// lastNotificationTime is how long a call waits after its last notification. mcp-go
// drops one that is still on its way when the result is written. A fifth of a
// millisecond is mostly enough; on a machine that is busy with other things two were
// too few once in a thousand calls.
const lastNotificationTime = 20 * time.Millisecond

// notified is when a call sent its last notification.
type notified struct {
	mu   sync.Mutex
	last time.Time
}

type notifiedKey struct{}

// lastNotification keeps the last notification of a call from being lost.
func lastNotification(next server.ToolHandlerFunc) server.ToolHandlerFunc {
	return func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		var n notified
		result, err := next(context.WithValue(ctx, notifiedKey{}, &n), req)
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.last.IsZero() {
			time.Sleep(time.Until(n.last.Add(lastNotificationTime)))
		}
		return result, err
	}
}

// progress tells the caller how far a call is, if it wants to know. at must grow.
// What cannot be sent is left out: the result says everything.
func (c *call) progress(ctx context.Context, at float64, message string) {
	if c.token == nil {
		return
	}
	params := map[string]any{"progressToken": c.token, "progress": at, "message": message}
	err := server.ServerFromContext(ctx).SendNotificationToClient(ctx, string(mcp.MethodNotificationProgress), params)
	if n, ok := ctx.Value(notifiedKey{}).(*notified); ok && err == nil {
		n.mu.Lock()
		n.last = time.Now()
		n.mu.Unlock()
	}
}
