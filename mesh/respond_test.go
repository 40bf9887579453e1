package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
)

// requestTime is far above what an answer takes on a busy host.
const requestTime = 10 * time.Second

// ask sends a request as the tenant acme and returns the reply.
func ask(t *testing.T, nc *nats.Conn, m *nats.Msg) *nats.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestTime)
	defer cancel()
	reply, err := nc.RequestMsgWithContext(ctx, m)
	require.NoError(t, err)
	return reply
}

// pair is a responder with a node's real rights and a tenant who asks it.
func pair(t *testing.T, answer mesh.Answer) (*mesh.Responder, *nats.Conn) {
	t.Helper()
	m := meshtest.Server(t)
	r := mesh.NewResponder(m.Door(t, "n1"), "n1", nil)
	_, err := r.Subscribe(t.Context(), "ws.v1.>", "", answer)
	require.NoError(t, err)
	return r, m.DialToken(t, m.Token(t, "acme"))
}

const askSubject = "ws.v1.acme.repo.1.write"

type echoArgs struct {
	Text string      `json:"text"`
	Path mesh.Path   `json:"path"`
	List []mesh.Path `json:"list"`
}

func TestArgumentsAndContent(t *testing.T) {
	_, tenant := pair(t, func(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
		var args echoArgs
		if err := req.Args(&args); err != nil {
			return nil, err
		}
		args.List = append(args.List, mesh.Path(req.ID), mesh.Path(req.Scope))
		return &mesh.Reply{Args: args, Content: req.Content()}, nil
	})
	var controls strings.Builder
	for c := range rune(0x20) {
		controls.WriteRune(c)
	}
	for _, c := range []struct {
		name  string
		text  string
		path  mesh.Path
		scope string
	}{
		{name: "plain", text: "x", path: "a/b"},
		{name: "no ASCII", text: "naïve 漢字 🦊", path: "漢字/é", scope: "ü/漢"},
		{name: "all control characters", text: controls.String(), path: mesh.Path(controls.String()), scope: "a\nb\tc"},
		{name: "header injection", text: "x\r\nMesh-Id: evil\r\n\r\nbody", path: "\r\nMesh-Scope: .", scope: "\r\nMesh-Id: evil"},
		{name: "delete and C1 controls", text: "\x7f\u0080\u0085\u009f", path: "\x7f\u0085"},
		{name: "separators", text: "\u2028\u2029\ufeff\u00a0", path: "\u00a0\ufeff"},
		{name: "spaces around", text: "  x  ", path: " ", scope: " a "},
		{name: "bytes that are no UTF-8", path: "\xff\xfe\x80", scope: "\xff"},
		{name: "percent", text: "%0d%0a", path: "%2e%2e", scope: "%2e%2e"},
		{name: "quotes", text: `"\"\\`, path: `"{}`, scope: `"\`},
	} {
		for kind, content := range map[string][]byte{"body": nil, "content": []byte("\x00raw\r\n\xff"), "empty content": {}} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				m, err := mesh.NewRequest(askSubject, oneID, c.scope, echoArgs{Text: c.text, Path: c.path}, content)
				require.NoError(t, err)
				reply := ask(t, tenant, m)
				var got echoArgs
				back, err := mesh.DecodeReply(reply, &got)
				require.NoError(t, err)
				scope := c.scope
				if scope == "" {
					scope = "."
				}
				require.Equal(t, echoArgs{Text: c.text, Path: c.path, List: []mesh.Path{oneID, mesh.Path(scope)}}, got)
				require.Equal(t, string(content), string(back))
				require.Equal(t, "n1", reply.Header.Get(mesh.HeaderNode))
			})
		}
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	var sent error
	_, tenant := pair(t, func(context.Context, *mesh.Request) (*mesh.Reply, error) { return nil, sent })
	for _, code := range mesh.Codes {
		t.Run(string(code), func(t *testing.T) {
			sent = fmt.Errorf("host detail: %w", mesh.Errorf(code, "naïve\r\nMesh-Node: evil\r\nX-Forged: 1\r\n\r\nbody"))
			reply := ask(t, tenant, nats.NewMsg(askSubject))
			_, err := mesh.DecodeReply(reply, nil)
			require.Equal(t, mesh.Errorf(code, "naïve  Mesh-Node: evil  X-Forged: 1    body"), err)
			require.Len(t, reply.Header, 3, "%v", reply.Header)
			require.Equal(t, "n1", reply.Header.Get(mesh.HeaderNode))
			require.Empty(t, reply.Data)
		})
	}
	for name, c := range map[string]struct {
		err  error
		want mesh.Code
	}{
		"a file of the host":      {&fs.PathError{Op: "open", Path: "/srv/secret/acme", Err: errors.New("input/output error")}, mesh.CodeInternal},
		"a missing one":           {&fs.PathError{Op: "open", Path: "/srv/secret/acme", Err: fs.ErrNotExist}, mesh.CodeNotFound},
		"a deadline with details": {fmt.Errorf("dial /srv/secret: %w", context.DeadlineExceeded), mesh.CodeDeadline},
	} {
		t.Run(name, func(t *testing.T) {
			sent = c.err
			reply := ask(t, tenant, nats.NewMsg(askSubject))
			_, err := mesh.DecodeReply(reply, nil)
			require.Equal(t, c.want, mesh.CodeOf(err))
			require.NotContains(t, fmt.Sprint(reply.Header, string(reply.Data)), "secret")
		})
	}
}

func TestPanicIsAnswered(t *testing.T) {
	_, tenant := pair(t, func(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
		if req.ID == oneID {
			panic("at /srv/secret")
		}
		return echo(t.Context(), req)
	})
	for range 3 {
		m, err := mesh.NewRequest(askSubject, oneID, "", nil, nil)
		require.NoError(t, err)
		reply := ask(t, tenant, m)
		_, err = mesh.DecodeReply(reply, nil)
		require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
		require.NotContains(t, fmt.Sprint(reply.Header), "secret")
	}
	_, err := mesh.DecodeReply(ask(t, tenant, nats.NewMsg(askSubject)), nil)
	require.NoError(t, err, "the responder lives")
}

func TestRequestChecks(t *testing.T) {
	var answered atomic.Uint64
	_, tenant := pair(t, func(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
		answered.Add(1)
		end, _ := ctx.Deadline()
		var size struct{ Size int }
		if err := req.Args(&size); err != nil {
			return nil, err
		}
		switch {
		case size.Size > 0 && req.ID == oneID:
			return &mesh.Reply{Args: strings.Repeat("x", size.Size)}, nil
		case size.Size > 0:
			return &mesh.Reply{Content: make([]byte, size.Size)}, nil
		}
		return &mesh.Reply{Args: int64(time.Until(end))}, nil
	})
	type headers map[string]string
	for _, c := range []struct {
		name   string
		h      headers
		body   []byte
		code   mesh.Code
		within time.Duration // of the request's deadline
	}{
		{name: "no header", within: mesh.DefaultRequestTime},
		{name: "deadline", h: headers{mesh.HeaderDeadline: "5000"}, within: 5 * time.Second},
		{name: "deadline zero", h: headers{mesh.HeaderDeadline: "0"}, code: mesh.CodeInvalid},
		{name: "deadline negative", h: headers{mesh.HeaderDeadline: "-1"}, code: mesh.CodeInvalid},
		{name: "deadline with a unit", h: headers{mesh.HeaderDeadline: "5s"}, code: mesh.CodeInvalid},
		{name: "deadline of centuries", h: headers{mesh.HeaderDeadline: "99999999999999"}, code: mesh.CodeInvalid},
		{name: "deadline overflows", h: headers{mesh.HeaderDeadline: "99999999999999999999999"}, code: mesh.CodeInvalid},
		{name: "deadline is a text", h: headers{mesh.HeaderDeadline: strings.Repeat("soon", 1000)}, code: mesh.CodeInvalid},
		{name: "id is no UUID", h: headers{mesh.HeaderID: "x"}, code: mesh.CodeInvalid},
		{name: "id is a long text", h: headers{mesh.HeaderID: strings.Repeat("x", 10000)}, code: mesh.CodeInvalid},
		{name: "id has another spelling", h: headers{mesh.HeaderID: strings.ToUpper(oneID)}, code: mesh.CodeInvalid},
		{name: "scope", h: headers{mesh.HeaderScope: "u/1"}, within: mesh.DefaultRequestTime},
		{name: "scope leaves", h: headers{mesh.HeaderScope: "../x"}, code: mesh.CodeDenied},
		{name: "scope leaves, escaped", h: headers{mesh.HeaderScope: "%2e%2e/x"}, code: mesh.CodeDenied},
		{name: "scope leaves, slash escaped", h: headers{mesh.HeaderScope: "a%2f..%2f..%2fx"}, code: mesh.CodeDenied},
		{name: "scope leaves the workspace as seen", h: headers{mesh.HeaderScope: "/workspace/../x"}, code: mesh.CodeDenied},
		{name: "scope with NUL", h: headers{mesh.HeaderScope: "a%00b"}, code: mesh.CodeInvalid},
		{name: "scope with a bad escape", h: headers{mesh.HeaderScope: "a%zz"}, code: mesh.CodeInvalid},
		{name: "arguments are no JSON", body: []byte("{"), code: mesh.CodeInvalid},
		{name: "arguments of another type", body: []byte(`{"size":"big"}`), code: mesh.CodeInvalid},
		{name: "arguments in the header are no JSON", h: headers{mesh.HeaderArgs: "{"}, code: mesh.CodeInvalid},
		{name: "largest body", body: largeJSON(mesh.MaxMessage), within: mesh.DefaultRequestTime},
		{name: "oversize body", body: largeJSON(mesh.MaxMessage + 1), code: mesh.CodeTooLarge},
		{name: "oversize content", h: headers{mesh.HeaderArgs: "{}"}, body: make([]byte, mesh.MaxMessage+1), code: mesh.CodeTooLarge},
		{name: "oversize reply", body: fmt.Appendf(nil, `{"size":%d}`, mesh.MaxMessage+1), code: mesh.CodeTooLarge},
		{name: "oversize JSON reply", h: headers{mesh.HeaderID: oneID}, body: fmt.Appendf(nil, `{"size":%d}`, mesh.MaxMessage), code: mesh.CodeTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := nats.NewMsg(askSubject)
			m.Data = c.body
			for name, value := range c.h {
				m.Header.Set(name, value)
			}
			var left time.Duration
			_, err := mesh.DecodeReply(ask(t, tenant, m), &left)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			if err == nil {
				require.LessOrEqual(t, left, c.within)
				require.Greater(t, left, c.within-4*time.Second)
			}
		})
	}
	require.Equal(t, uint64(9), answered.Load(), "a request that is refused at the door reaches no answer")
}

// oneID is a Mesh-Id as clients make them.
const oneID = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"

func largeJSON(size int) []byte {
	return []byte(`{"pad":"` + strings.Repeat("x", size-10) + `"}`)
}

func TestLargestReply(t *testing.T) {
	_, tenant := pair(t, func(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
		return &mesh.Reply{Args: echoArgs{Text: "whole"}, Content: req.Content()}, nil
	})
	content := []byte(strings.Repeat("\x00\xff", mesh.MaxMessage/2))
	m, err := mesh.NewRequest(askSubject, mesh.NewID(), "", echoArgs{}, content)
	require.NoError(t, err)
	back, err := mesh.DecodeReply(ask(t, tenant, m), nil)
	require.NoError(t, err)
	require.Equal(t, content, back)
	_, err = mesh.NewRequest(askSubject, "", "", nil, append(content, 0))
	require.Equal(t, mesh.CodeTooLarge, mesh.CodeOf(err))
}

// One tenant may fill its share, and no more.
func TestBusyWhenFull(t *testing.T) {
	const share = mesh.DefaultMaxInFlight / 4
	release := make(chan struct{})
	var working atomic.Int64
	r, tenant := pair(t, func(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
		working.Add(1)
		<-release
		return nil, nil
	})
	for range share {
		require.NoError(t, tenant.PublishRequest(askSubject, "_INBOX.acme.ignored", nil))
	}
	require.Eventually(t, func() bool { return working.Load() == share }, 10*time.Second, time.Millisecond)
	_, err := mesh.DecodeReply(ask(t, tenant, nats.NewMsg(askSubject)), nil)
	require.ErrorIs(t, err, &mesh.Error{Code: mesh.CodeBusy})
	require.True(t, mesh.AsError(err).RetrySafe())
	require.Equal(t, mesh.ResponderStats{Busy: 1}, r.Stats())
	require.EqualValues(t, share, working.Load())

	close(release)
	require.Eventually(t, func() bool {
		_, err = mesh.DecodeReply(ask(t, tenant, nats.NewMsg(askSubject)), nil)
		return err == nil
	}, 10*time.Second, time.Millisecond, "it answers again")
}

// A responder that waits for its answers takes no more: they are refused in a way
// that says that nothing was done.
func TestWaitEndsIt(t *testing.T) {
	release := make(chan struct{})
	working := make(chan struct{}, 1)
	r, tenant := pair(t, func(context.Context, *mesh.Request) (*mesh.Reply, error) {
		working <- struct{}{}
		<-release
		return nil, nil
	})
	require.NoError(t, tenant.PublishRequest(askSubject, "_INBOX.acme.ignored", nil))
	<-working
	ended := make(chan struct{})
	go func() { r.Wait(); close(ended) }()
	require.Eventually(t, func() bool {
		_, err := mesh.DecodeReply(ask(t, tenant, nats.NewMsg(askSubject)), nil)
		return mesh.CodeOf(err) == mesh.CodeUnavailable && mesh.AsError(err).RetrySafe()
	}, 10*time.Second, time.Millisecond)
	select {
	case <-ended:
		require.Fail(t, "it did not wait")
	default:
	}
	close(release)
	<-ended
}

func TestDeadlineEndsTheContext(t *testing.T) {
	_, tenant := pair(t, func(ctx context.Context, _ *mesh.Request) (*mesh.Reply, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("wait: %w", ctx.Err())
	})
	m := nats.NewMsg(askSubject)
	m.Header.Set(mesh.HeaderDeadline, "10")
	_, err := mesh.DecodeReply(ask(t, tenant, m), nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// What a hostile caller can do a million times is not logged a million times.
func TestDroppedRequestsAreLoggedSparingly(t *testing.T) {
	server := meshtest.Server(t)
	door := server.Door(t, "n1")
	var log bytes.Buffer
	r := mesh.NewResponder(door, "n1", slog.New(slog.NewTextHandler(&log, nil)))
	_, err := r.Subscribe(t.Context(), "ws.v1.>", "", func(context.Context, *mesh.Request) (*mesh.Reply, error) { return nil, nil })
	require.NoError(t, err)
	caller := server.DialToken(t, server.Token(t, "acme"))
	for range 1000 {
		require.NoError(t, caller.PublishRequest("ws.v1.acme.repo.1.stat", "_INBOX.other.x", nil))
	}
	require.Eventually(t, func() bool { return r.Stats().Dropped == 1000 }, 10*time.Second, 5*time.Millisecond)
	door.Close()
	require.Equal(t, 10, strings.Count(log.String(), "\n"), "%s", log.String())
}
