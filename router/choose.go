package router

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
)

// Candidate is a node that may get a workspace.
type Candidate struct {
	Node      mesh.Node
	Zone      string
	Labels    map[string]string
	Isolation string  // driver of its sandbox; "": it runs no commands
	Weight    float64 // how much it has left; 0 or less is nothing
	Unfit     bool    // something is broken there
}

// Choose returns the nodes that have what a workspace needs, the best first, by
// rendezvous hashing: the workspaces are shared out in proportion to the weights, and
// a node that comes, goes or changes its weight moves only what it gains or loses. Those
// without weight come after the others, and those that are unfit last. The order of
// all does not matter, nor that a node is named twice.
func Choose(key string, need mesh.Need, all []Candidate) []mesh.Node {
	type ranked struct {
		Candidate
		cost float64
	}
	var able []ranked
	for _, c := range all {
		if need.Missing(c.Zone, c.Labels, c.Isolation) == "" {
			able = append(able, ranked{c, cost(key, c)})
		}
	}
	slices.SortFunc(able, func(a, b ranked) int {
		if a.Unfit != b.Unfit {
			if a.Unfit {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.Node, b.Node))
	})
	var nodes []mesh.Node
	for _, c := range able {
		if !slices.Contains(nodes, c.Node) {
			nodes = append(nodes, c.Node)
		}
	}
	return nodes
}

// cost is exponentially distributed with the weight as its rate, so that the least of
// several is each one's with a probability in proportion to its weight.
func cost(key string, c Candidate) float64 {
	if c.Weight <= 0 {
		return math.Inf(1)
	}
	sum := sha256.Sum256([]byte(string(c.Node) + "\x00" + key))
	uniform := (float64(binary.BigEndian.Uint64(sum[:8])>>11) + 0.5) / (1 << 53)
	return -math.Log(uniform) / c.Weight
}

// What a workspace takes that is worked in, for the weight of a node: neither is a
// bound of anything.
const (
	usualDisk   = 256 << 20
	usualMemory = 128 << 20
)

// weight is how many more workspaces fit on a node.
func weight(r mesh.NodeRoom) float64 {
	return min(float64(r.DiskBytes)/usualDisk, float64(r.MemoryBytes)/usualMemory, float64(r.Commands), float64(r.Workspaces))
}

func candidate(r *kv.NodeRecord) Candidate {
	return Candidate{Node: r.Node, Zone: r.Zone, Labels: r.Labels, Isolation: r.Driver, Weight: weight(r.Room), Unfit: r.Unfit != ""}
}
