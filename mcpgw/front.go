package mcpgw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// Headers that say where a request works. None of them can widen what its token
// may reach.
const (
	headerWorkspace = "X-Workspace"
	headerScope     = "X-Scope-Path"
	headerRoot      = "X-Root-Dir"
)

// front checks a request before mcp-go, which checks none of it: in the order that
// costs least, and so that nothing of a stranger is parsed or kept.
type front struct {
	cfg    HTTPConfig
	routes *http.ServeMux
	mcp    *server.StreamableHTTPServer
	server *server.MCPServer
	slots  *mesh.Slots // of requests, by tenant
	bodies *budget
	// underWay is held, shared, by each request under way.
	underWay sync.RWMutex
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.underWay.RLock()
	defer f.underWay.RUnlock()
	// The deadline holds until the whole body has been read; a server-wide one
	// would end long calls as well.
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(DefaultReadTime)) //nolint:errcheck // such a writer has no deadline
	if r.ContentLength > DefaultMaxBody {
		if r.Header.Get("Expect") == "" { // else nothing comes before we say so
			drain(r.Body)
		}
		f.answer(w, tooLarge())
		return
	}
	if err := f.checkOrigin(w, r); err != nil {
		f.answer(w, err)
		return
	}
	f.routes.ServeHTTP(w, r)
}

// maxDrain is how much of a body that is too large is taken in, so that its sender
// gets to read why it is refused, instead of seeing the connection break.
const maxDrain = 4 * DefaultMaxBody

// drain reads a body and keeps nothing of it.
func drain(body io.Reader) {
	io.CopyN(io.Discard, body, maxDrain) //nolint:errcheck // a courtesy
}

func tooLarge() error {
	return mesh.Errorf(mesh.CodeTooLarge, "the request is larger than %d bytes; write a large file in parts with exec, or with the client", DefaultMaxBody)
}

// answer ends a request that mcp-go does not see.
func (f *front) answer(w http.ResponseWriter, err error) {
	code := status(err)
	h := w.Header()
	switch code {
	case http.StatusUnauthorized:
		challenge := `Bearer realm="wsmesh"`
		if !errors.Is(err, errNoToken) { // RFC 6750, 3.1: not where none was sent
			challenge += `, error="invalid_token"`
		}
		h.Set("WWW-Authenticate", challenge)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	case http.StatusRequestEntityTooLarge:
		h.Set("Connection", "close")
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	var text string
	if coded := mesh.AsError(err); coded != nil {
		text = coded.Error()
	}
	// The shape of a JSON-RPC error, so that MCP clients show the reason.
	json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // the client is gone
		"jsonrpc": "2.0", "id": nil, "error": map[string]any{"code": -32000, "message": text},
	})
}

// checkOrigin refuses pages that may not call, and names of the server that are
// not its own: a page whose name was bound to our address asks with that name.
func (f *front) checkOrigin(w http.ResponseWriter, r *http.Request) error {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	for _, origin := range r.Header.Values("Origin") {
		if !f.allowed(origin, local) {
			return refuse(http.StatusForbidden, mesh.CodeDenied, "pages of origin %.200q may not call this gateway", origin)
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After")
		h.Add("Vary", "Origin")
	}
	if loopback(local) && !isLoopback(hostname(r.Host)) && !slices.ContainsFunc(f.cfg.Origins, func(o string) bool { return sameHost(o, r.Host) }) {
		return refuse(http.StatusForbidden, mesh.CodeDenied, "this gateway is not called %.200q", r.Host)
	}
	return nil
}

// allowed reports whether an Origin may call: one that is configured, or a loopback
// one with the port we listen on.
func (f *front) allowed(origin string, local net.Addr) bool {
	if slices.Contains(f.cfg.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || !loopback(local) || !isLoopback(u.Hostname()) {
		return false
	}
	_, port, err := net.SplitHostPort(local.String())
	return err == nil && u.Port() == port
}

func loopback(a net.Addr) bool { return a != nil && isLoopback(hostname(a.String())) }

// hostname is the host of HOST or HOST:PORT.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Hostname(), hostname(host))
}

func (f *front) serveMCP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions: // a browser asks before it sends a token
		h := w.Header()
		h.Set("Access-Control-Allow-Methods", "POST")
		h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		w.Header().Set("Allow", "POST")
		f.answer(w, refuse(http.StatusMethodNotAllowed, mesh.CodeUnsupported, "%s is not for /mcp: there are no sessions and no streams apart from a POST's own", r.Method))
		return
	}
	token, err := bearer(r)
	if err == nil {
		err = checkType(r)
	}
	if err != nil {
		f.answer(w, err)
		return
	}
	answered := false
	err = f.cfg.Pool.With(r.Context(), token, func(c *client.Client) error {
		answered = true
		f.serveCaller(w, r, c)
		return nil
	})
	if err != nil && !answered {
		f.answer(w, err)
	}
}

const howToken = "send one as: Authorization: Bearer TOKEN"

var errNoToken = mesh.Errorf(mesh.CodeDenied, "the request has no token; %s", howToken)

// bearer returns the request's token, which is whole and has not expired; whether
// it is genuine the broker finds out.
func bearer(r *http.Request) (string, error) {
	all := r.Header.Values("Authorization")
	if len(all) == 0 {
		return "", errNoToken
	}
	scheme, token, _ := strings.Cut(all[0], " ")
	token = strings.TrimSpace(token)
	if len(all) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return "", mesh.Errorf(mesh.CodeDenied, "the request has no bearer token, or several; %s", howToken)
	}
	_, err := mesh.ParseToken(token)
	return token, err
}

// checkType refuses bodies that mcp-go would, whose answer has no code.
func checkType(r *http.Request) error {
	got := r.Header.Get("Content-Type")
	if kind, _, err := mime.ParseMediaType(got); err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, mesh.CodeInvalid, "header Content-Type is %.80q; a request is application/json", got)
	}
	return nil
}

var errBusy = mesh.Errorf(mesh.CodeBusy, "the gateway works on as many requests as it may, at all or for this tenant; try again in a moment")

// serveCaller works for a caller whom the broker has let in.
func (f *front) serveCaller(w http.ResponseWriter, r *http.Request, c *client.Client) {
	if !f.slots.Take(c.Tenant()) {
		f.answer(w, errBusy)
		return
	}
	defer f.slots.Give(c.Tenant())
	who, err := callerOf(r, c)
	if err != nil {
		f.answer(w, err)
		return
	}
	body, release, err := f.readBody(r, c.Tenant())
	if err != nil {
		f.answer(w, err)
		return
	}
	defer release()
	http.NewResponseController(w).SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	if isNotification(body) {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	r = r.WithContext(withCaller(r.Context(), who))
	r.Header.Del("Mcp-Session-Id") // there are no sessions, whatever a client remembers
	r.Body = io.NopCloser(bytes.NewReader(body))
	w.Header().Set("X-Accel-Buffering", "no")
	f.mcp.ServeHTTP(w, r)
}

// readBody reads a whole body. A large one has its room until release.
func (f *front) readBody(r *http.Request, tenant string) (body []byte, release func(), err error) {
	body, err = io.ReadAll(io.LimitReader(r.Body, DefaultSmallBody+1))
	if err != nil {
		return nil, nil, errNotWhole
	}
	if len(body) <= DefaultSmallBody {
		return body, func() {}, nil
	}
	size := r.ContentLength
	if size < 0 { // not known
		size = DefaultMaxBody
	}
	ctx, cancel := context.WithTimeout(r.Context(), DefaultReadTime)
	defer cancel()
	room, err := f.bodies.take(ctx, tenant, size)
	if err != nil {
		return nil, nil, err
	}
	rest, err := io.ReadAll(io.LimitReader(r.Body, int64(DefaultMaxBody+1-len(body))))
	if body = append(body, rest...); len(body) > DefaultMaxBody { // its length was not known
		drain(r.Body)
		err = tooLarge()
	} else if err != nil {
		err = errNotWhole
	}
	if err != nil {
		room.give()
		return nil, nil, err
	}
	room.keep(int64(len(body)))
	return body, room.give, nil
}

var errNotWhole = mesh.Errorf(mesh.CodeInvalid, "the request did not arrive whole within %s", DefaultReadTime)

// isNotification reports whether mcp-go would take a body for a notification or for
// an answer of the client. We ask clients nothing, and act on nothing that they
// notify: mcp-go would cancel the call that has the id, whosever it is. The fields
// are decoded as mcp-go does it, whatever their spelling.
func isNotification(body []byte) bool {
	var m struct {
		ID     any    `json:"id"`
		Method string `json:"method"`
	}
	return json.Unmarshal(body, &m) == nil && (m.ID == nil || m.Method == "")
}

// callerOf reads the headers that say where a request works.
func callerOf(r *http.Request, c *client.Client) (caller, error) {
	who := caller{client: func(context.Context) (*client.Client, error) { return c, nil }, workspace: r.Header.Get(headerWorkspace)}
	for _, name := range []string{headerWorkspace, headerScope, headerRoot} {
		if len(r.Header.Values(name)) > 1 {
			return who, mesh.Errorf(mesh.CodeInvalid, "header %s is there twice", name)
		}
	}
	bound, within := c.Bound()
	if who.workspace != "" {
		if _, err := mesh.ParseWorkspace(who.workspace); err != nil {
			return who, err
		}
		if bound != "" && bound != who.workspace {
			return who, refuse(http.StatusForbidden, mesh.CodeDenied, "the token is bound to workspace %s", bound)
		}
	}
	if err := checkRoot(r.Header.Get(headerRoot), within); err != nil {
		return who, err
	}
	var err error
	who.scope, err = scopeOf(r.Header.Get(headerScope), within)
	return who, err
}

// checkRoot accepts the names that the root has: what a client set up for another
// backend believes it to be.
func checkRoot(root, within string) error {
	switch path.Clean("/" + root) {
	case "/", "/undefined", mesh.WorkspaceRoot, path.Join(mesh.WorkspaceRoot, within):
		return nil
	}
	return refuse(http.StatusForbidden, mesh.CodeDenied, "header %s is %.200q; the root is %s here, or leave the header out", headerRoot, root, mesh.WorkspaceRoot)
}

// scopeOf reads a scope, which lies below what the token is bound to. One that
// climbs is refused even where it would come out inside: whoever put it together
// meant to stay below its beginning.
func scopeOf(scope, within string) (string, error) {
	if scope == "" {
		return "", nil
	}
	if strings.ContainsAny(scope, "\\\x00") || slices.Contains(strings.Split(scope, "/"), "..") {
		return "", mesh.Errorf(mesh.CodeInvalid, "header %s is %.200q; it is a path below the root, without .. and backslashes", headerScope, scope)
	}
	if _, err := mesh.ParseScope(within, scope); err != nil {
		return "", mesh.Errorf(mesh.CodeInvalid, "header %s: %s", headerScope, mesh.AsError(err).Text)
	}
	return scope, nil
}

// health is what /health answers: what an orchestrator and a client of other
// backends look at.
type health struct {
	Status     string   `json:"status"` // ok, or unavailable when the mesh does not answer
	Version    string   `json:"version"`
	RootDir    string   `json:"rootDir"`
	Transports []string `json:"transports"`
}

// healthTime bounds the look at the mesh.
const healthTime = 2 * time.Second

func (f *front) serveHealth(w http.ResponseWriter, r *http.Request) {
	h := health{"ok", f.cfg.Version, mesh.WorkspaceRoot, []string{"streamable-http"}}
	ctx, cancel := context.WithTimeout(r.Context(), healthTime)
	defer cancel()
	code := http.StatusOK
	if f.cfg.Reachable != nil && f.cfg.Reachable(ctx) != nil {
		h.Status, code = "unavailable", http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(h) //nolint:errcheck // the client is gone
}
