package router_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/router"
)

func drawNodes(r *rapid.T) []mesh.Node {
	name := rapid.Map(rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`), func(s string) mesh.Node { return mesh.Node(s) })
	return rapid.SliceOfNDistinct(name, 1, 12, rapid.ID).Draw(r, "nodes")
}

func drawKey(r *rapid.T) string {
	return rapid.StringMatching(`[a-z0-9]{1,8}\.[a-z0-9-]{1,8}`).Draw(r, "key")
}

func TestChooseIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		nodes, key := drawNodes(r), drawKey(r)
		chosen := router.Choose(key, nodes)
		require.Contains(r, nodes, chosen)
		require.Equal(r, chosen, router.Choose(key, nodes), "the same answer each time")
		shuffled := rapid.Permutation(nodes).Draw(r, "order")
		require.Equal(r, chosen, router.Choose(key, shuffled))
		require.Equal(r, chosen, router.Choose(key, append(shuffled, shuffled...)), "a node named twice has no more weight")
	})
}

// TestChooseMovesLittle: a node that leaves moves only what it had, and a node
// that comes takes only for itself.
func TestChooseMovesLittle(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		nodes, key := drawNodes(r), drawKey(r)
		chosen := router.Choose(key, nodes)
		gone := rapid.SampledFrom(nodes).Draw(r, "gone")
		rest := slices.DeleteFunc(slices.Clone(nodes), func(n mesh.Node) bool { return n == gone })
		after := router.Choose(key, rest)
		switch {
		case len(rest) == 0:
			require.Empty(r, after)
		case gone != chosen:
			require.Equal(r, chosen, after)
		default:
			require.Contains(r, rest, after)
		}
	})
}

func TestChooseBalances(t *testing.T) {
	const keys = 8000
	for _, count := range []int{1, 2, 3, 5, 8} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			var nodes []mesh.Node
			for i := range count {
				nodes = append(nodes, mesh.Node(fmt.Sprintf("n%d", i+1)))
			}
			share := map[mesh.Node]int{}
			for i := range keys {
				share[router.Choose(fmt.Sprintf("acme.ws-%d", i), nodes)]++
			}
			for _, n := range nodes {
				require.InEpsilon(t, keys/count, share[n], 0.15, "%v", share)
			}
		})
	}
}

// TestChooseStays pins the choice: programs of two versions run side by side
// and must agree.
func TestChooseStays(t *testing.T) {
	nodes := []mesh.Node{"n1", "n2", "n3"}
	got := map[string]mesh.Node{}
	for _, key := range []string{"acme.repo", "acme.docs", "other.repo", "a.b", "a-b.c"} {
		got[key] = router.Choose(key, nodes)
	}
	require.Equal(t, map[string]mesh.Node{"acme.repo": "n2", "acme.docs": "n1", "other.repo": "n2", "a.b": "n1", "a-b.c": "n1"}, got)
	require.Empty(t, router.Choose("acme.repo", nil))
}
