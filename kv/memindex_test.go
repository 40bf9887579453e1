package kv

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/btree"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

func emptyIndex() *memoryIndex {
	return &memoryIndex{
		changed: make(chan struct{}), spaces: map[memorySpaceKey]*memorySpace{}, used: map[mesh.Tenant]memoryUse{},
		gone: &btree.Map[uint64, memoryGone]{}, skips: func(mesh.Tenant) uint64 { return 0 },
	}
}

// Whatever changes in whichever order: the index is what the newest messages say,
// and its sums are theirs.
func TestMemoryIndexIsItsMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, start := emptyIndex(), time.Unix(1e9, 0)
		newest := map[string]memoryHead{}
		n := rapid.IntRange(1, 60).Draw(t, "messages")
		now := start
		for seq := 1; seq <= n; seq++ {
			key := rapid.SampledFrom([]string{"a", "a/b", "a/c", "b", "c/"}).Draw(t, "key")
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "minutes")) * time.Minute)
			size := rapid.IntRange(0, 5).Draw(t, "size")
			h := memoryHead{seq: uint64(seq), live: size > 0, size: int64(size), modified: now}
			x.put("acme", "main", key, h)
			if rapid.Bool().Draw(t, "again") {
				x.put("acme", "main", key, memoryHead{seq: h.seq / 2, live: true, size: 9}) // out of turn
			}
			newest[key] = h
			x.forget(now)
		}
		var use memoryUse
		for key, h := range newest {
			if !h.live && now.Sub(h.modified) > 2*mesh.TombstoneTTL {
				delete(newest, key)
				continue
			}
			use.keys++
			use.bytes += int64(len(key)) + h.size
		}
		require.Equal(t, use, x.used["acme"])
		got := map[string]memoryHead{}
		if space := x.spaces[memorySpaceKey{"acme", "main"}]; space != nil {
			require.Equal(t, space.keys.Len(), space.changes.Len())
			space.changes.Scan(func(seq uint64, key string) bool {
				h, _ := space.keys.Get(key)
				require.Equal(t, seq, h.seq)
				got[key] = h
				return true
			})
		}
		require.Equal(t, newest, got)
	})
}

// Pages show what a sorted slice does, in pages of any size, and never look at
// more keys than they may.
func TestMemoryPages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := emptyIndex()
		keys := rapid.SliceOfDistinct(rapid.StringMatching(`[ab/0]{1,5}`), rapid.ID).Draw(t, "keys")
		for i, k := range keys {
			x.put("acme", "main", k, memoryHead{seq: uint64(i + 1), live: i%4 != 3, size: 1})
		}
		prefix, level := rapid.StringMatching(`[ab/]{0,2}`).Draw(t, "prefix"), rapid.Bool().Draw(t, "level")
		want := []string{}
		for i, k := range keys {
			if i%4 == 3 || !strings.HasPrefix(k, prefix) {
				continue
			}
			if at := strings.IndexByte(k[len(prefix):], '/'); level && at >= 0 {
				k = k[:len(prefix)+at+1]
			}
			want = append(want, k)
		}
		slices.Sort(want)
		want = slices.Compact(want)
		got := []string{}
		req := mesh.MemoryListRequest{Prefix: prefix, Level: level, Limit: rapid.IntRange(1, 4).Draw(t, "limit")}
		space := x.spaces[memorySpaceKey{"acme", "main"}]
		if space == nil {
			return
		}
		for pages := 0; ; pages++ {
			require.Less(t, pages, 100)
			page, next := space.page(req)
			require.LessOrEqual(t, len(page), req.Limit)
			for _, e := range page {
				got = append(got, e.Key)
			}
			if next == "" {
				break
			}
			req.After = next
		}
		require.Equal(t, want, got)
	})
}

func TestMemoryPageLooksAtSoManyKeys(t *testing.T) {
	x := emptyIndex()
	for i := range 3 * maxScan {
		x.put("acme", "main", fmt.Sprintf("k%07d", i), memoryHead{seq: uint64(i + 1), live: i == 3*maxScan-1})
	}
	x.applied = 3 * maxScan
	req := mesh.MemoryListRequest{}
	pages := 0
	for found := false; !found; pages++ {
		page, next := x.spaces[memorySpaceKey{"acme", "main"}].page(req)
		found = len(page) == 1
		req.After = next
	}
	require.Contains(t, []int{3, 4}, pages)
	after, polls := uint64(0), 0
	for watch := (mesh.MemoryWatchRequest{Namespace: "main", Prefix: "k0059999"}); ; polls++ {
		entries, next := x.since("acme", watch, after)
		if len(entries) > 0 {
			break
		}
		require.Greater(t, next, after)
		after = next
	}
	require.Equal(t, 2, polls)
}

// A tenant's limits are its own; what does not grow is always possible.
func TestMemoryQuota(t *testing.T) {
	x := emptyIndex()
	for i := range DefaultMemoryKeys {
		x.put("acme", "main", fmt.Sprint(i), memoryHead{seq: uint64(i + 1), live: true, size: 10})
	}
	change := func(t mesh.Tenant, ops ...mesh.MemoryOp) *MemoryChange {
		return &MemoryChange{
			MemoryCommitRequest: mesh.MemoryCommitRequest{Namespace: "main", Ops: ops}, Tenant: t,
			Values: slices.Repeat([][]byte{make([]byte, 10)}, len(ops)),
		}
	}
	allow := func(c *MemoryChange) error { return x.allow(c, x.heads(c)) }
	full := change("acme", mesh.MemoryOp{Key: "one more"})
	require.Equal(t, mesh.CodeQuota, mesh.CodeOf(allow(full)))
	require.NoError(t, allow(change("other", mesh.MemoryOp{Key: "one more"})))
	require.NoError(t, allow(change("acme", mesh.MemoryOp{Key: "7"})), "no more than before")
	require.NoError(t, allow(change("acme", mesh.MemoryOp{Key: "7", Delete: true})))

	x.used["acme"] = memoryUse{keys: 1, bytes: DefaultMemoryBytes - 5}
	require.Equal(t, mesh.CodeQuota, mesh.CodeOf(allow(full)))
	require.NoError(t, allow(change("acme", mesh.MemoryOp{Key: "7"})))
}
