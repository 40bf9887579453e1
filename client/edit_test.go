package client_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func edits(pairs ...mesh.Text) client.EditRequest {
	var req client.EditRequest
	for i := 0; i < len(pairs); i += 2 {
		req.Edits = append(req.Edits, mesh.Edit{Old: pairs[i], New: pairs[i+1]})
	}
	return req
}

// What an edit makes of a file; a dry run says the same and makes nothing.
func TestEdit(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		for _, c := range []struct {
			name, before string
			req          client.EditRequest
			after, diff  string
			replaced     int
		}{
			{"edits", "a\nb\nc\n", edits("a", "A", "A\nb", "A"), "A\nc\n", "@@ -1,3 +1,2 @@\n-a\n-b\n+A\n c\n", 2},
			{"all", "x x\n", client.EditRequest{Edits: []mesh.Edit{{Old: "x", New: "$&", ReplaceAll: true}}}, "$& $&\n", "@@ -1 +1 @@\n-x x\n+$& $&\n", 2},
			{"diff", "a\nb\n", client.EditRequest{Diff: "@@ -2 +2 @@\n-b\n+B\n"}, "a\nB\n", "@@ -1,2 +1,2 @@\n a\n-b\n+B\n", 1},
			{"CRLF", "a\r\nb\r\n", edits("a\nb", "b\na"), "b\r\na\r\n", "@@ -1,2 +1,2 @@\n+b\r\n a\r\n-b\r\n", 1},
			{"byte order mark", "\ufeffa\n", client.EditRequest{Diff: "@@ -1 +1 @@\n-a\n+b\n"}, "\ufeffb\n", "@@ -1 +1 @@\n-\ufeffa\n+\ufeffb\n", 1},
			{"other bytes", "\xe9 one", edits("\xe9 one", "\xe8"), "\xe8", "@@ -1 +1 @@\n-\xe9 one\n\\ No newline at end of file\n+\xe8\n\\ No newline at end of file\n", 1},
			{"nothing changes", "a\n", edits("a", "a"), "a\n", "", 1},
		} {
			t.Run(c.name, func(t *testing.T) {
				require.NoError(t, ws.WriteFile(ctx, "d/f", []byte(c.before), 0o750))
				before, err := ws.Stat(ctx, "d/f")
				require.NoError(t, err)
				diff := c.diff
				if diff != "" {
					diff = "--- a/d/f\n+++ b/d/f\n" + diff
				}
				dry := c.req
				dry.DryRun = true
				r, err := ws.Edit(ctx, "d/f", dry)
				require.NoError(t, err)
				require.Equal(t, diff, r.Diff)
				require.Equal(t, before, r.File)
				requireFile(t, ws, "d/f", c.before)

				r, err = ws.Edit(ctx, "d/f", c.req, client.IfMatch(before.Revision))
				require.NoError(t, err)
				require.Equal(t, diff, r.Diff)
				require.Equal(t, c.replaced, r.Replaced)
				require.Equal(t, strings.Count(c.diff, "\n+"), r.Added)
				require.Equal(t, strings.Count(c.diff, "\n-"), r.Removed)
				requireFile(t, ws, "d/f", c.after)
				info, err := ws.Stat(ctx, "d/f")
				require.NoError(t, err)
				require.Equal(t, info, r.File)
				require.EqualValues(t, 0o750, info.Mode)
			})
		}
	})
}

// An edit that is refused changes nothing, and says with a code why.
func TestEditRefuses(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		const content = "one\ntwo\none\n"
		fill(t, ws, "scope/own", "f")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte(content), 0))
		require.NoError(t, ws.WriteFile(ctx, "binary", []byte("two\x00"), 0))
		require.NoError(t, ws.Put(ctx, "large", strings.NewReader(strings.Repeat("x", mesh.MaxEdit+1)), 0))
		require.NoError(t, ws.Put(ctx, "largest", strings.NewReader("two"+strings.Repeat("x", mesh.MaxEdit-3)), 0))
		require.NoError(t, ws.Symlink(ctx, "../f", "scope/out"))
		old, err := ws.Stat(ctx, "f")
		require.NoError(t, err)
		require.NoError(t, ws.WriteFile(ctx, "f", []byte(content), 0))
		for _, c := range []struct {
			name, path string
			req        client.EditRequest
			opts       []client.FileOption
			code       mesh.Code
		}{
			{"nothing to do", "f", client.EditRequest{}, nil, mesh.CodeInvalid},
			{"the second is not there", "f", edits("two", "2", "three", "3"), nil, mesh.CodeInvalid},
			{"the second is there twice", "f", edits("two", "2", "one", "1"), nil, mesh.CodeConflict},
			{"the second hunk does not fit", "f", client.EditRequest{Diff: "@@ -2 +2 @@\n-two\n+2\n@@ -3 +3 @@\n-two\n+1\n"}, nil, mesh.CodeConflict},
			{"another revision", "f", edits("two", "2"), []client.FileOption{client.IfMatch(old.Revision)}, mesh.CodeConflict},
			{"empty revision", "f", edits("two", "2"), []client.FileOption{client.IfMatch("")}, mesh.CodeInvalid},
			{"no such file", "none", edits("two", "2"), nil, mesh.CodeNotFound},
			{"a revision of what is gone", "none", edits("two", "2"), []client.FileOption{client.IfMatch(old.Revision)}, mesh.CodeConflict},
			{"directory", "scope", edits("two", "2"), nil, mesh.CodeInvalid},
			{"binary", "binary", edits("two", "2"), nil, mesh.CodeUnsupported},
			{"large", "large", edits("x", "y"), nil, mesh.CodeTooLarge},
			{"becomes large", "largest", edits("two", "three"), nil, mesh.CodeTooLarge},
			{"large request", "f", edits("two", mesh.Text(strings.Repeat("2", mesh.MaxMessage))), nil, mesh.CodeTooLarge},
			{"leaves the workspace", "../f", edits("two", "2"), nil, mesh.CodeDenied},
		} {
			t.Run(c.name, func(t *testing.T) {
				_, err := ws.Edit(ctx, c.path, c.req, c.opts...)
				requireCode(t, c.code, err)
				var p *fs.PathError
				require.ErrorAs(t, err, &p)
				requireFile(t, ws, "f", content)
			})
		}
		for _, path := range []string{"../f", "/workspace/f", "out"} {
			_, err := ws.Scope("scope").Edit(ctx, path, edits("two", "2"))
			requireCode(t, mesh.CodeDenied, err, path)
		}
		_, err = m.Client.Workspace("other").Edit(ctx, "f", edits("two", "2"))
		requireCode(t, mesh.CodeNotFound, err)
		var e *mesh.Error
		_, err = ws.Edit(ctx, "f", edits("two", "2"), client.IfMatch(old.Revision))
		require.True(t, errors.As(err, &e))
		r, err := ws.Edit(ctx, "f", edits("two", "2"), client.IfMatch(e.Revision))
		require.NoError(t, err, "the error says which revision it has")
		requireFile(t, ws, "f", "one\n2\none\n")
		_, err = ws.Edit(ctx, "largest", edits("two", "2"))
		require.NoError(t, err)
		require.NotEqual(t, e.Revision, r.File.Revision)
	})
}

// A link is followed, and stays one; the paths of a scope are its own.
func TestEditThroughLink(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		require.NoError(t, ws.WriteFile(ctx, "s/d/f", []byte("one\n"), 0o600))
		require.NoError(t, ws.Symlink(ctx, "d/f", "s/link"))
		r, err := ws.Scope("s").Edit(ctx, "link", edits("one", "two"))
		require.NoError(t, err)
		require.Equal(t, "--- a/link\n+++ b/link\n@@ -1 +1 @@\n-one\n+two\n", r.Diff)
		requireFile(t, ws, "s/d/f", "two\n")
		info, err := ws.Lstat(ctx, "s/link")
		require.NoError(t, err)
		require.Equal(t, "symlink", info.Type)
		info, err = ws.Stat(ctx, "s/link")
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode)
		require.Equal(t, info.Revision, r.File.Revision)
	})
}
