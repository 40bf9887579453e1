package mesh

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// requests are the arguments of every request that outsiders can send.
func requests() []any {
	return []any{
		&PlaceRequest{}, &LogRequest{}, &WorkspaceRequest{}, &WorkspaceListRequest{},
		&StatRequest{}, &ListRequest{}, &ReadRequest{}, &WriteRequest{}, &MkdirRequest{}, &RemoveRequest{}, &RenameRequest{},
		&CopyRequest{}, &ChmodRequest{}, &SymlinkRequest{}, &ReadlinkRequest{}, &TouchRequest{}, &EditRequest{}, &SearchRequest{}, &GrepRequest{},
		&UploadRequest{}, &DownloadRequest{}, &ExecRequest{}, &SignalRequest{}, &StdinRequest{}, &ResizeRequest{},
		&MemoryGetRequest{}, &MemoryCommitRequest{}, &MemoryListRequest{}, &MemoryWatchRequest{},
		&TenantRequest{}, &TokenIssueRequest{},
	}
}

// Whatever stands in a request's subject, headers and body: what is let through
// is canonical, and inside of what the caller's token is bound to.
func FuzzRequest(f *testing.F) {
	id := "018bcfe5-6800-7abc-9def-0123456789ab"
	bound := Bound{Token: "0123456789abcdef", Workspace: "repo", Scope: "users/u1"}
	f.Add("ws.v1.acme.repo.1.stat", "", id, "1000", "", []byte(`{"path":"a"}`))
	f.Add(bound.OwnerSubject("acme", 1, VerbWrite), "users/u1/a%20b", "", "0", `{"path":{"b64":"/w=="}}`, []byte("content"))
	f.Add(bound.APISubject("acme", ServiceLog, VerbLogRead, "n1"), "users/../users", id, "-1", "{", []byte("{}"))
	f.Add("api.v1.acme.place.open", "%2e%2e", "x", "99999999999999999999", "null", []byte(`[]`))
	f.Add("node.v1.n1.open", "/workspace/x", id, "5", "", []byte(`{"tenant":1}`))
	f.Fuzz(func(t *testing.T, subject, scope, id, deadline, args string, body []byte) {
		reply := "_INBOX.acme.0123456789abcdef.x"
		of, err := boundOf(subject)
		if err != nil || !replyAllowed(Principal(subject), of, reply) {
			return // dropped
		}
		m := &nats.Msg{Subject: subject, Reply: reply, Data: body, Header: nats.Header{}}
		for name, value := range map[string]string{HeaderScope: scope, HeaderID: id, HeaderDeadline: deadline, HeaderArgs: args} {
			if value != "" {
				m.Header.Set(name, value)
			}
		}
		req := &Request{Subject: subject, Verb: Verb(subject), Principal: Principal(subject), Bound: of, msg: m}
		_, err = NewResponder(nil, "n1", nil).answer(t.Context(), m, req, func(_ context.Context, req *Request) (*Reply, error) {
			clean, err := ParseScope("", req.Scope)
			require.NoError(t, err)
			require.Equal(t, clean, req.Scope)
			if of != nil {
				require.True(t, Inside(of.Scope, req.Scope), "%q is outside of %q", req.Scope, of.Scope)
			}
			require.True(t, req.ID == "" || req.ID == id)
			for _, v := range requests() {
				decodeTwice(t, req, v)
			}
			return nil, nil
		})
		require.NotEqual(t, CodeInternal, CodeOf(err), "%v", err)
	})
}

// decodeTwice requires that what a request's arguments are read as is what they
// are written as.
func decodeTwice(t *testing.T, req *Request, v any) {
	err := req.Args(v)
	if err != nil {
		require.Equal(t, CodeInvalid, CodeOf(err))
		return
	}
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	again := reflect.New(reflect.TypeOf(v).Elem()).Interface()
	require.NoError(t, json.Unmarshal(raw, again))
	second, err := json.Marshal(again)
	require.NoError(t, err)
	require.Equal(t, string(raw), string(second))
}

// A header's text survives as it is, or not at all: no line break of a value may
// begin another header.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{"", "a/b", "ü", "a b", "\xff", "a\r\nNats-Service-Error-Code: denied", "%", "a%2fb", "..", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		escaped := EscapePath(s)
		require.False(t, strings.ContainsAny(escaped, "\r\n\x00 "), "%q", escaped)
		back, err := UnescapePath(escaped)
		require.NoError(t, err)
		require.Equal(t, s, back)
		require.False(t, strings.ContainsAny(EscapeScope(s), "./*> \r\n\x00"))
		UnescapePath(s) //nolint:errcheck // whatever it says, it does not panic

		h := nats.Header{}
		SetError(h, Errorf(CodeInvalid, "%s", s))
		m := &nats.Msg{Subject: "x", Header: h}
		require.False(t, strings.ContainsAny(m.Header.Get(HeaderError), "\r\n\x00"))
		require.Equal(t, CodeInvalid, ErrorIn(h).Code)
	})
}

// Two keys never share a subject, and a key comes back as it was.
func FuzzMemorySubject(f *testing.F) {
	for _, key := range []string{"a", "a/b", "a//b", "/", "~", "a/~/b", ".", "*", ">", "%7E", "a b", "\x00", "ü/ü", strings.Repeat("/", MaxKeyBytes)} {
		f.Add(key)
		f.Add("int.v1.mem.00.acme.main." + key)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if tenant, ns, key, err := ParseMemorySubject(s); err == nil {
			require.Equal(t, s, MemorySubject(tenant, ns, key), "one spelling")
		}
		if CheckKey(s) != nil {
			return
		}
		subject := MemorySubject("acme", "main", s)
		require.True(t, strings.HasPrefix(subject, MemoryPrefix("acme", "main")))
		require.False(t, strings.ContainsAny(subject, "*> \t\r\n\x00"), subject)
		require.NotContains(t, subject+".", "..")
		require.Less(t, len(subject), 2048)
		_, _, key, err := ParseMemorySubject(subject)
		require.NoError(t, err)
		require.Equal(t, s, key)
	})
}
