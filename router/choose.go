package router

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/wsmesh/wsmesh/mesh"
)

// Choose picks a node for a key by rendezvous hashing: the node with the
// highest hash of (node, key) wins, so that a node that comes or goes moves only
// its own share. It returns "" for no nodes; the order of nodes does not matter.
func Choose(key string, nodes []mesh.Node) mesh.Node {
	var best mesh.Node
	var high uint64
	for _, n := range nodes {
		sum := sha256.Sum256([]byte(string(n) + "\x00" + key))
		h := binary.BigEndian.Uint64(sum[:8])
		if best == "" || h > high || (h == high && n < best) {
			best, high = n, h
		}
	}
	return best
}
