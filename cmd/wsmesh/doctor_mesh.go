package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

const (
	// knockTime is how long one server may take to say who it is.
	knockTime = 3 * time.Second
	// nodeTime is how long a node may take to answer; the client goes on trying
	// for as long.
	nodeTime = 5 * time.Second
	// soon is when a token's end is worth a warning.
	soon = 7 * 24 * time.Hour
)

// startHint says how to come to a mesh.
func startHint() string {
	const name = "wsmesh context add NAME --url URL --token-file FILE, and wsmesh context use NAME"
	if hosts {
		return "start one here with: wsmesh dev; or name one with: " + name
	}
	return name
}

// mesh checks what a client needs, each step only where the one before it
// leaves something to try.
func (d *doctor) mesh(ctx context.Context) {
	d.add(d.secrets())
	defer func() { d.add(d.operator(ctx)) }()
	cfg, _, err := d.target.config()
	if err != nil {
		// Where workspaces can be hosted, having none yet is no fault.
		if mesh.CodeOf(err) == mesh.CodeUnavailable && hosts {
			what, _, _ := strings.Cut(errorText(err), "; ") // the rest is our fix
			d.add(warn("mesh", what, startHint()))
			return
		}
		fix := startHint()
		if mesh.CodeOf(err) == mesh.CodeDenied {
			fix = "give that mesh's token with --token-file or WSMESH_TOKEN"
		}
		d.add(fail("mesh", errorText(err), fix))
		return
	}
	known := client.Context{URL: cfg.URL, Token: cfg.Token}
	refusal := known.Check()
	if code := mesh.CodeOf(refusal); refusal != nil && code != mesh.CodeDenied {
		d.add(fail("mesh", errorText(refusal), "give another URL with --url, WSMESH_URL or wsmesh context add"))
		return
	}
	d.add(ok("mesh", "%s, from %s", cfg.URL, d.source()))
	there := reachableServers(ctx, cfg.URL)
	d.add(there)
	if refusal != nil {
		d.add(fail("token", errorText(refusal), "wsmesh token issue --tenant "+cmp.Or(known.Tenant, "T")))
		return
	}
	if there.State != stateFail {
		d.token(ctx, cfg)
	}
}

// source says where the URL comes from.
func (d *doctor) source() string {
	switch {
	case d.target.url != "":
		return "--url"
	case os.Getenv("WSMESH_URL") != "":
		return "WSMESH_URL"
	}
	if in, err := client.ContextIn(d.dir); err == nil && in.Name != client.DefaultContext {
		return "context " + in.Name
	}
	return filepath.Join(d.dir, "client.json")
}

// reachableServers asks each server who it is; NATS says so first, whoever
// knocks.
func reachableServers(ctx context.Context, urls string) finding {
	var good, bad []string
	for s := range strings.SplitSeq(urls, ",") {
		start := time.Now()
		version, err := greeting(ctx, strings.TrimSpace(s))
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: %s", s, err))
			continue
		}
		good = append(good, fmt.Sprintf("%s is NATS %s, %s away", s, version, time.Since(start).Round(10*time.Microsecond)))
	}
	detail := strings.Join(append(good, bad...), "; ")
	const fix = "start the mesh (wsmesh dev), or check the address and the network between"
	switch {
	case len(good) == 0:
		return fail("reachable", detail, fix)
	case len(bad) > 0:
		return warn("reachable", detail, fix)
	}
	return ok("reachable", "%s", detail)
}

func greeting(ctx context.Context, server string) (version string, err error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", errors.New("not a URL")
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "4222") // as the client takes it
	}
	ctx, cancel := context.WithTimeout(ctx, knockTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	until, _ := ctx.Deadline()
	if err := conn.SetDeadline(until); err != nil {
		return "", err
	}
	line, err := bufio.NewReaderSize(conn, 32<<10).ReadSlice('\n')
	info, isNATS := strings.CutPrefix(string(line), "INFO ")
	var said struct {
		Version string `json:"version"`
	}
	if err != nil || !isNATS || json.Unmarshal([]byte(info), &said) != nil {
		return "", errors.New("something answers there, but it is no NATS server")
	}
	return said.Version, nil
}

// token checks that the mesh takes the token, and that a node is behind it.
func (d *doctor) token(ctx context.Context, cfg client.Config) {
	cfg.Wait = nodeTime
	c, err := client.Dial(ctx, cfg)
	if err != nil {
		d.add(fail("token", errorText(err), "wsmesh token issue --tenant T, where the operator's credentials are"))
		return
	}
	defer c.Close()
	d.add(tokenState(c, cfg.Token))
	for _, err := range c.Workspaces(ctx) {
		if err != nil {
			d.add(fail("node", errorText(err), "start a node; wsmesh dev has one"))
			return
		}
		break
	}
	d.add(ok("node", "a node answers"))
}

func tokenState(c *client.Client, token string) finding {
	workspace, scope := c.Bound()
	detail := "accepted; tenant " + c.Tenant() + boundTo(workspace, scope)
	claims, err := mesh.ParseToken(token)
	if err != nil {
		return fail("token", errorText(err), "wsmesh token issue --tenant "+c.Tenant())
	}
	if claims.Expires.IsZero() {
		return ok("token", "%s; does not expire", detail)
	}
	detail += "; expires " + shownTime(claims.Expires)
	if time.Until(claims.Expires) < soon {
		return warn("token", detail, "wsmesh token issue --tenant "+c.Tenant()+", before it does")
	}
	return ok("token", "%s", detail)
}

// secrets checks that no other user can read what makes one this tenant, or the
// operator.
func (d *doctor) secrets() finding {
	if runtime.GOOS == "windows" { // mode bits say nothing about access there
		return ok("secrets", "not checked on this system; the files are below your own profile by default")
	}
	var fine, open []string
	for _, name := range []string{"client.json", "contexts.json", "admin.creds", filepath.Join("keys", auth.KeyFile)} {
		info, err := os.Stat(filepath.Join(d.dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			fine = append(fine, name+" cannot be looked at")
		case info.Mode().Perm()&0o077 != 0:
			open = append(open, name)
		default:
			fine = append(fine, fmt.Sprintf("%s %04o", name, info.Mode().Perm()))
		}
	}
	if len(open) > 0 {
		return warn("secrets", "other users may open "+strings.Join(open, ", "),
			fmt.Sprintf("cd %s && chmod 600 %s; if others may have read them, issue new ones", shellQuote(d.dir), strings.Join(open, " ")))
	}
	if len(fine) == 0 {
		return ok("secrets", "none in %s yet", d.dir)
	}
	return ok("secrets", "%s", strings.Join(fine, ", "))
}

// operator tries the operator's credentials on DIR's own mesh.
func (d *doctor) operator(ctx context.Context) finding {
	path := filepath.Join(d.dir, "admin.creds")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ok("operator", "no admin.creds in %s: this machine has no operator's rights, and needs none", d.dir)
	}
	if err != nil {
		return warn("operator", err.Error(), "let the operator's user read it, or do without tenant, token and bench")
	}
	if _, err := auth.ParseCreds(raw); err != nil {
		return fail("operator", errorText(err), "wsmesh dev writes "+path+" anew when it starts")
	}
	var reply mesh.StatusReply
	err = (&target{data: d.dir, url: d.target.url}).request(ctx, mesh.VerbAdminStatus, struct{}{}, &reply)
	switch {
	case err == nil:
		return ok("operator", "admin.creds is accepted; live nodes: %d", len(reply.Nodes))
	case mesh.CodeOf(err) == mesh.CodeUnavailable:
		return warn("operator", "admin.creds is whole, and was not tried: "+errorText(err), "start DIR's own mesh: wsmesh dev")
	}
	return fail("operator", errorText(err), "use the data directory of that mesh: --data DIR")
}
