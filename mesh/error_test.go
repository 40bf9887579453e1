package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

// sentinels is what each code is besides an *Error of that code.
var sentinels = map[mesh.Code]error{
	mesh.CodeInvalid:     fs.ErrInvalid,
	mesh.CodeNotFound:    fs.ErrNotExist,
	mesh.CodeExists:      fs.ErrExist,
	mesh.CodeDenied:      fs.ErrPermission,
	mesh.CodeUnsupported: errors.ErrUnsupported,
	mesh.CodeDeadline:    context.DeadlineExceeded,
	mesh.CodeCanceled:    context.Canceled,
}

var retrySafe = map[mesh.Code]bool{mesh.CodeStale: true, mesh.CodeBusy: true, mesh.CodeUnavailable: true}

func TestCodes(t *testing.T) {
	require.Len(t, mesh.Codes, 15, "the set is closed: a new code is a change of the wire")
	for _, code := range mesh.Codes {
		t.Run(string(code), func(t *testing.T) {
			h := nats.Header{}
			mesh.SetError(h, mesh.Errorf(code, "%s of naïve 漢字", code))
			got := mesh.ErrorIn(h)
			require.Equal(t, mesh.Errorf(code, "%s of naïve 漢字", code), got)
			require.Equal(t, string(code)+": "+got.Text, got.Error())

			wrapped := fmt.Errorf("read a/b: %w", got)
			require.Equal(t, code, mesh.CodeOf(wrapped))
			require.Equal(t, got, mesh.AsError(wrapped))
			require.Equal(t, retrySafe[code], got.RetrySafe())
			for other, sentinel := range sentinels {
				require.Equal(t, other == code, errors.Is(wrapped, sentinel), "%s is %v", code, sentinel)
			}
			for _, other := range mesh.Codes {
				require.Equal(t, other == code, errors.Is(wrapped, &mesh.Error{Code: other}), "%s is %s", code, other)
			}
			require.NotErrorIs(t, wrapped, &mesh.Error{Code: code, Text: "another text"})
		})
	}
}

func TestErrorInUnknown(t *testing.T) {
	for _, c := range []struct {
		name string
		h    nats.Header
		want *mesh.Error
	}{
		{"no header", nil, nil},
		{"no code", nats.Header{mesh.HeaderError: {"text"}}, nil},
		{"no text", nats.Header{mesh.HeaderErrorCode: {"busy"}}, mesh.Errorf(mesh.CodeBusy, "")},
		{"another set's code", nats.Header{mesh.HeaderErrorCode: {"500"}, mesh.HeaderError: {"x"}}, mesh.Errorf(mesh.CodeInternal, "500: x")},
		{"upper case", nats.Header{mesh.HeaderErrorCode: {"BUSY"}, mesh.HeaderError: {"x"}}, mesh.Errorf(mesh.CodeInternal, "BUSY: x")},
		{"space", nats.Header{mesh.HeaderErrorCode: {"busy "}, mesh.HeaderError: {"x"}}, mesh.Errorf(mesh.CodeInternal, "busy : x")},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, mesh.ErrorIn(c.h)) })
	}
}

func TestErrorTextIsOneLine(t *testing.T) {
	h := nats.Header{}
	mesh.SetError(h, mesh.Errorf(mesh.CodeInvalid, "a\r\nMesh-Node: evil\r\n\r\nbody\x00\x7f\tz"))
	require.Equal(t, "a  Mesh-Node: evil    body   z", h.Get(mesh.HeaderError))
	require.Len(t, h, 2)
}

func TestCodeOfForeign(t *testing.T) {
	_, missing := os.Open(t.TempDir() + "/missing")
	for _, c := range []struct {
		name string
		err  error
		want mesh.Code
	}{
		{"nil", nil, ""},
		{"deadline", context.DeadlineExceeded, mesh.CodeDeadline},
		{"timeout", nats.ErrTimeout, mesh.CodeDeadline},
		{"canceled", context.Canceled, mesh.CodeCanceled},
		{"not exist", missing, mesh.CodeNotFound},
		{"exist", fs.ErrExist, mesh.CodeExists},
		{"permission", &fs.PathError{Op: "open", Path: "/x", Err: fs.ErrPermission}, mesh.CodeDenied},
		{"payload", nats.ErrMaxPayload, mesh.CodeTooLarge},
		{"no responders", nats.ErrNoResponders, mesh.CodeUnavailable},
		{"anything else", errors.New("disk on fire"), mesh.CodeInternal},
		{"joined with a code", errors.Join(errors.New("x"), mesh.Errorf(mesh.CodeQuota, "full")), mesh.CodeQuota},
		{"a code wins over a sentinel", fmt.Errorf("%w (%w)", mesh.Errorf(mesh.CodeLost, "unknown"), context.DeadlineExceeded), mesh.CodeLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, mesh.CodeOf(c.err))
			e := mesh.AsError(c.err)
			if c.err == nil {
				require.Nil(t, e)
				return
			}
			require.Equal(t, c.want, e.Code)
		})
	}
}
