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

var (
	zones      = []string{"", "a", "b"}
	isolations = []string{"", "none", "software", "bwrap"}
)

func drawLabels(r *rapid.T, what string) map[string]string {
	value := rapid.SampledFrom([]string{"x", "y"})
	return rapid.MapOfN(rapid.SampledFrom([]string{"gpu", "disk", "rack"}), value, 0, 2).Draw(r, what)
}

func drawNodes(r *rapid.T) []router.Candidate {
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`)
	var all []router.Candidate
	for _, n := range rapid.SliceOfNDistinct(name, 1, 12, rapid.ID).Draw(r, "nodes") {
		all = append(all, router.Candidate{
			Node: mesh.Node(n), Zone: rapid.SampledFrom(zones).Draw(r, "zone"), Labels: drawLabels(r, "labels"),
			Isolation: rapid.SampledFrom(isolations).Draw(r, "isolation"),
			Weight:    rapid.SampledFrom([]float64{0, 1, 2, 17.5, 4000}).Draw(r, "weight"), Unfit: rapid.IntRange(0, 4).Draw(r, "unfit") == 0,
		})
	}
	return all
}

func drawNeed(r *rapid.T) mesh.Need {
	return mesh.Need{
		Zone: rapid.SampledFrom(zones).Draw(r, "needs zone"), Labels: drawLabels(r, "needs labels"),
		Isolation: rapid.SampledFrom([]string{"", "software", "bwrap"}).Draw(r, "needs isolation"),
	}
}

func drawKey(r *rapid.T) string {
	return rapid.StringMatching(`[a-z0-9]{1,8}\.[a-z0-9-]{1,8}`).Draw(r, "key")
}

func TestChooseIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		nodes, need, key := drawNodes(r), drawNeed(r), drawKey(r)
		chosen := router.Choose(key, need, nodes)
		require.Equal(r, chosen, router.Choose(key, need, nodes), "the same answer each time")
		shuffled := rapid.Permutation(nodes).Draw(r, "order")
		require.Equal(r, chosen, router.Choose(key, need, shuffled))
		require.Equal(r, chosen, router.Choose(key, need, append(shuffled, shuffled...)), "a node named twice has no more weight")
	})
}

// TestChooseKeepsToWhatIsNeeded compares with the words of the need, one by one: all
// nodes that have it are named, and no other; those that can take nothing come last.
func TestChooseKeepsToWhatIsNeeded(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		nodes, need, key := drawNodes(r), drawNeed(r), drawKey(r)
		chosen := router.Choose(key, need, nodes)
		rank := -1
		for _, n := range chosen {
			c := nodes[slices.IndexFunc(nodes, func(c router.Candidate) bool { return c.Node == n })]
			now := 0
			if c.Weight == 0 {
				now = 1
			}
			if c.Unfit {
				now = 2
			}
			require.GreaterOrEqual(r, now, rank, "the fit ones with room, the full ones, the unfit ones")
			rank = now
		}
		for _, c := range nodes {
			has := need.Zone == "" || need.Zone == c.Zone
			for name, value := range need.Labels {
				has = has && c.Labels[name] == value
			}
			switch need.Isolation {
			case "software":
				has = has && (c.Isolation == "software" || c.Isolation == "bwrap")
			case "bwrap":
				has = has && c.Isolation == "bwrap"
			}
			require.Equal(r, has, slices.Contains(chosen, c.Node), "%+v for %+v", c, need)
		}
	})
}

// TestChooseMovesLittle: a node that leaves moves only what it had, one that comes takes
// only for itself, and so does one that gets more room.
func TestChooseMovesLittle(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		nodes, need, key := drawNodes(r), drawNeed(r), drawKey(r)
		chosen := router.Choose(key, need, nodes)
		at := rapid.IntRange(0, len(nodes)-1).Draw(r, "at")
		other := nodes[at].Node
		without := func(all []mesh.Node) []mesh.Node {
			return slices.DeleteFunc(append([]mesh.Node{}, all...), func(n mesh.Node) bool { return n == other })
		}
		rest := slices.Delete(slices.Clone(nodes), at, at+1)
		require.Equal(r, without(chosen), without(router.Choose(key, need, rest)))

		before := slices.Index(chosen, other)
		nodes[at].Weight = nodes[at].Weight*2 + 1
		grown := router.Choose(key, need, nodes)
		require.Equal(r, without(chosen), without(grown))
		require.LessOrEqual(r, slices.Index(grown, other), before)
	})
}

// TestChooseBalances: nodes get workspaces in proportion to their weight.
func TestChooseBalances(t *testing.T) {
	const keys = 8000
	for _, weights := range [][]float64{{1}, {1, 1}, {5, 5, 5}, {1, 2, 5}, {0.1, 0.1, 0.2, 0.4}, {1, 1, 1, 1, 1, 1, 1, 1}, {64, 64, 0}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			var nodes []router.Candidate
			sum := 0.0
			for i, w := range weights {
				nodes = append(nodes, router.Candidate{Node: mesh.Node(fmt.Sprintf("n%d", i+1)), Weight: w})
				sum += w
			}
			share := map[mesh.Node]int{}
			for i := range keys {
				share[router.Choose(fmt.Sprintf("acme.ws-%d", i), mesh.Need{}, nodes)[0]]++
			}
			for _, n := range nodes {
				require.InDelta(t, keys*n.Weight/sum, share[n.Node], keys/50, "%v", share)
			}
		})
	}
}

// TestChooseStays pins the choice: programs of two versions run side by side and agree.
func TestChooseStays(t *testing.T) {
	nodes := []router.Candidate{{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1}, {Node: "n3", Weight: 1}}
	got := map[string]mesh.Node{}
	for _, key := range []string{"acme.repo", "acme.docs", "other.repo", "a.b", "a-b.c"} {
		got[key] = router.Choose(key, mesh.Need{}, nodes)[0]
	}
	require.Equal(t, map[string]mesh.Node{"acme.repo": "n2", "acme.docs": "n1", "other.repo": "n2", "a.b": "n1", "a-b.c": "n1"}, got)
	require.Empty(t, router.Choose("acme.repo", mesh.Need{}, nil))
}
