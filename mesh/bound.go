package mesh

import (
	"net/url"
	"strings"
)

// Bound is what a token of one workspace, or of one path of it, is tied to. A
// bound token may publish only on subjects that end with its own Bound, so what
// the node reads there is the broker's word and not the caller's; the package
// documentation has their form.
type Bound struct {
	Token     TokenID
	Workspace Workspace
	Scope     string // a result of ParseScope; "." is the whole workspace
}

// MaxBoundScope is the longest scope of a token, in bytes as it stands in a
// subject: the token, which says it three times, must fit into the 4 KiB that a
// server reads of a connecting client.
const MaxBoundScope = 400

// OwnerSubject addresses the owner of the bound workspace.
func (b Bound) OwnerSubject(t Tenant, e Epoch, verb string) string {
	return OwnerSubject(t, b.Workspace, e, verb) + "." + string(b.Token) + "." + EscapeScope(b.Scope)
}

// APISubject addresses node n, or with "" any node.
func (b Bound) APISubject(t Tenant, service, verb string, n Node) string {
	if n == "" {
		n = anyNode
	}
	return APINodeSubject(t, service, verb, n) + "." + string(b.Token) + "." + string(b.Workspace) + "." + EscapeScope(b.Scope)
}

// Patterns are what the token may publish on.
func (b Bound) Patterns(t Tenant) []string {
	end := string(b.Token) + "."
	return []string{
		"ws.v1." + string(t) + "." + string(b.Workspace) + ".*.*." + end + EscapeScope(b.Scope),
		"api.v1." + string(t) + ".*.*.*." + end + string(b.Workspace) + "." + EscapeScope(b.Scope),
	}
}

// EscapeScope makes one token of a subject of a scope.
func EscapeScope(scope string) string {
	return strings.ReplaceAll(url.PathEscape(scope), ".", "%2E")
}

// parseBound reads what a bound token says of itself; the error has CodeInvalid.
// scope has one spelling only: that of EscapeScope.
func parseBound(token, workspace, scope string) (*Bound, error) {
	id, err := ParseTokenID(token)
	if err != nil {
		return nil, err
	}
	w, err := ParseWorkspace(workspace)
	if err != nil {
		return nil, err
	}
	raw, err := UnescapePath(scope)
	if err != nil {
		return nil, err
	}
	clean, err := ParseScope("", raw)
	if err != nil || EscapeScope(clean) != scope || len(scope) > MaxBoundScope {
		return nil, Errorf(CodeInvalid, "scope %.80q is not the spelling of a bound token's scope", scope)
	}
	return &Bound{Token: id, Workspace: w, Scope: clean}, nil
}

// boundOf returns what a request subject is bound to; nil for a subject of a
// token of the whole tenant, of the operator or of a node.
func boundOf(subject string) (*Bound, error) {
	switch family, _, _ := strings.Cut(subject, "."); family {
	case "ws":
		a, err := ParseOwnerSubject(subject)
		return a.Bound, err
	case "api":
		a, err := ParseAPISubject(subject)
		return a.Bound, err
	}
	return nil, nil
}

// within narrows a request: its scope is the one it asks for, or the bound one
// when it asks for none, and never a wider one.
func (b *Bound) within(scope string) (string, error) {
	if b == nil || b.Scope == "." {
		return scope, nil
	}
	if scope == "" || scope == "." {
		return b.Scope, nil
	}
	if !Inside(b.Scope, scope) {
		return "", Errorf(CodeDenied, "scope %.200q is outside of %.200q, which the token is bound to", scope, b.Scope)
	}
	return scope, nil
}

// Inside reports whether p is scope or below it; both are clean and relative to
// the workspace root.
func Inside(scope, p string) bool {
	return scope == "." || p == scope || strings.HasPrefix(p, scope+"/")
}

// Below is a path that is inside of a scope as the scope has it.
func Below(scope string, p Path) Path {
	switch scope {
	case ".":
		return p
	case string(p):
		return "."
	}
	return p[len(scope)+1:]
}
