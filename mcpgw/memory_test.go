package mcpgw

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func TestMemoryTools(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		x := toolsOf(t, m.Client)
		text, r := x.ok(t, "memory_put", args{"key": "project/decisions", "value": "use NATS"})
		require.Contains(t, text, "Remembered 8 bytes under project/decisions")
		first := r["revision"]
		text, r = x.ok(t, "memory_get", args{"key": "project/decisions"})
		require.Equal(t, "use NATS", text)
		require.Equal(t, "use NATS", r["value"])
		require.Equal(t, first, r["revision"])
		e, err := m.Client.Memory("").Get(t.Context(), "project/decisions")
		require.NoError(t, err, "one default for MCP and Go")
		require.Equal(t, "use NATS", string(e.Value))

		x.fails(t, mesh.CodeExists, "memory_put", args{"key": "project/decisions", "value": "x", "ifRevision": 0})
		_, r = x.ok(t, "memory_put", args{"key": "project/decisions", "value": "use NATS 2", "ifRevision": first})
		x.fails(t, mesh.CodeConflict, "memory_put", args{"key": "project/decisions", "value": "x", "ifRevision": first})
		x.fails(t, mesh.CodeConflict, "memory_delete", args{"key": "project/decisions", "ifRevision": first})
		x.ok(t, "memory_delete", args{"key": "project/decisions", "ifRevision": r["revision"]})
		x.fails(t, mesh.CodeNotFound, "memory_get", args{"key": "project/decisions"})
		x.fails(t, mesh.CodeNotFound, "memory_delete", args{"key": "project/decisions"})

		_, err = m.Client.Memory("other").Put(t.Context(), "binary", []byte{0xff, 0})
		require.NoError(t, err)
		text, r = x.ok(t, "memory_get", args{"key": "binary", "namespace": "other"})
		require.Equal(t, "/wA=", r["base64"])
		require.Contains(t, text, "/wA=")
		x.fails(t, mesh.CodeNotFound, "memory_get", args{"key": "binary"})
		x.fails(t, mesh.CodeInvalid, "memory_get", args{"key": ""})
		x.fails(t, mesh.CodeInvalid, "memory_get", args{"key": "a", "namespace": "No Such"})

		x.ok(t, "memory_put", args{"key": "brief", "value": "x", "ttlSeconds": 1})
		require.Eventually(t, func() bool {
			_, _, gone := x.call(t, "memory_get", args{"key": "brief"})
			return gone
		}, 20*time.Second, 100*time.Millisecond)
	})
}

func TestMemoryListPages(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		x := toolsOf(t, m.Client)
		for i := range 25 {
			x.ok(t, "memory_put", args{"key": fmt.Sprintf("notes/%02d", i), "value": "x"})
		}
		x.ok(t, "memory_put", args{"key": "z", "value": "x"})
		var keys []string
		a := args{"prefix": "notes/", "limit": 10}
		for {
			_, r := x.ok(t, "memory_list", a)
			for _, k := range r["keys"].([]any) {
				keys = append(keys, k.(args)["key"].(string))
			}
			if r["nextCursor"] == nil {
				break
			}
			a["cursor"] = r["nextCursor"]
		}
		require.Len(t, keys, 25)
		require.IsIncreasing(t, keys)
		text, _ := x.ok(t, "memory_list", args{"prefix": "none"})
		require.Equal(t, "(no keys)", text)
	})
}

// Who sees a part of the workspace sees that part of memory, and a token of a
// workspace sees none, which is the tenant's.
func TestMemoryHasTheScopeOfTheRequest(t *testing.T) {
	eachGateway(t, func(t *testing.T, g *gateway) {
		m := g.Client.Memory("")
		for _, key := range []string{"users/u1/k", "users/u2/k"} {
			_, err := m.Put(t.Context(), key, []byte(key))
			require.NoError(t, err)
		}
		h := headers{headerScope: "users/u1"}
		_, text, isError := g.call(t, "memory_get", args{"key": "k"}, h)
		require.False(t, isError, text)
		require.Equal(t, "users/u1/k", text)
		for _, key := range []string{"users/u2/k", "../u2/k", "/users/u2/k", "../../users/u2/k"} {
			_, text, isError = g.call(t, "memory_get", args{"key": key}, h)
			require.True(t, isError, key)
			require.Regexp(t, "^not_found: ", text)
		}
		_, text, _ = g.call(t, "memory_list", args{}, h)
		require.Regexp(t, `^k \(10 bytes, `, text)
		require.NotContains(t, text, "u2")

		status, text, isError := g.call(t, "memory_get", args{"key": "users/u1/k"}, bearerOf(g.BoundToken(t, nodetest.Tenant, "main", ".")))
		require.Equal(t, http.StatusOK, status)
		require.True(t, isError)
		require.Regexp(t, "^denied: .*write_file", text)
	})
}
