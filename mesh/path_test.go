package mesh_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestResolvePath(t *testing.T) {
	long := strings.Repeat("n", 256)
	for _, c := range []struct {
		name, scope, path, want string
		code                    mesh.Code
	}{
		{name: "plain", path: "file.txt", want: "file.txt"},
		{name: "dot dot inside", path: "./a/../file.txt", want: "file.txt"},
		{name: "empty is the root", path: "", want: "."},
		{name: "slash is the root", path: "/", want: "."},
		{name: "absolute counts from the root", path: "/etc/passwd", want: "etc/passwd"},
		{name: "as the sandbox sees it", path: "/workspace/a/b", want: "a/b"},
		{name: "the workspace root", path: "/workspace", want: "."},
		{name: "look-alike prefix", path: "/workspace2/x", want: "workspace2/x"},
		{name: "double slashes", path: "a//b///c", want: "a/b/c"},
		{name: "tilde is a name", path: "~/x", want: "~/x"},
		{name: "dots are a name", path: "a..b", want: "a..b"},
		{name: "leaves", path: "../etc/passwd", code: mesh.CodeDenied},
		{name: "leaves later", path: "a/../../x", code: mesh.CodeDenied},
		{name: "leaves absolute", path: "/../etc/passwd", code: mesh.CodeDenied},
		{name: "leaves as seen", path: "/workspace/../x", code: mesh.CodeDenied},
		{name: "leaves as seen, deep", path: "/workspace/../../x", code: mesh.CodeDenied},
		{name: "leaves by dot dot only", path: "..", code: mesh.CodeDenied},
		{name: "NUL", path: "a\x00b", code: mesh.CodeInvalid},
		{name: "long name", path: "a/" + long, code: mesh.CodeInvalid},
		{name: "long path", path: strings.Repeat("a/", 3000), code: mesh.CodeInvalid},
		{name: "invalid UTF-8 is a name", path: "\xff/x", want: "\xff/x"},
		{name: "scoped", scope: "u/1", path: "x", want: "u/1/x"},
		{name: "scoped absolute", scope: "u/1", path: "/x", want: "u/1/x"},
		{name: "scoped root", scope: "u/1", path: "", want: "u/1"},
		{name: "scoped as seen", scope: "u/1", path: "/workspace/u/1/x", want: "u/1/x"},
		{name: "scoped leaves", scope: "u/1", path: "../x", code: mesh.CodeDenied},
		{name: "scoped sibling as seen", scope: "u/1", path: "/workspace/u/2/x", code: mesh.CodeDenied},
		{name: "scoped sibling with its prefix", scope: "u/1", path: "/workspace/u/11", code: mesh.CodeDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.scope == "" {
				c.scope = "."
			}
			got, err := mesh.ResolvePath(c.scope, c.path)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			if c.code == "" {
				require.Equal(t, c.want, got)
			}
		})
	}
}

func FuzzResolvePath(f *testing.F) {
	for _, s := range []string{"a", "..", "/workspace/../..", "a/../../b", "/workspace//..//x", "\xff/.."} {
		f.Add("u/1", s)
		f.Add(".", s)
	}
	f.Fuzz(func(t *testing.T, scope, p string) {
		scope, err := mesh.ParseScope("", scope)
		if err != nil {
			return
		}
		got, err := mesh.ResolvePath(scope, p)
		if err != nil {
			return
		}
		for part := range strings.SplitSeq(got, "/") {
			require.NotEqual(t, "..", part)
		}
		require.False(t, strings.HasPrefix(got, "/"))
		if scope != "." {
			require.True(t, got == scope || strings.HasPrefix(got, scope+"/"), "%q is not below %q", got, scope)
		}
		again, err := mesh.ResolvePath(".", got)
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}

func TestPathKeepsBytes(t *testing.T) {
	for _, p := range []mesh.Path{"a/b", "naïve 漢字", "\xff\xfe/x", "a\nb", `"quoted"`, ""} {
		b, err := json.Marshal(p)
		require.NoError(t, err)
		var back mesh.Path
		require.NoError(t, json.Unmarshal(b, &back))
		require.Equal(t, p, back)

		unescaped, err := mesh.UnescapePath(mesh.EscapePath(string(p)))
		require.NoError(t, err)
		require.Equal(t, string(p), unescaped)
	}
}
