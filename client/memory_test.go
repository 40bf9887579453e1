package client_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func keysOf(t *testing.T, m *client.Memory, prefix string) []string {
	t.Helper()
	keys := []string{}
	for e, err := range m.List(t.Context(), prefix) {
		require.NoError(t, err)
		require.NotZero(t, e.Revision)
		keys = append(keys, e.Key)
	}
	return keys
}

func levelOf(t *testing.T, m *client.Memory, prefix string, limit int) []string {
	t.Helper()
	keys := []string{}
	for l := (client.MemoryList{Prefix: prefix, Level: true, Limit: limit}); ; {
		page, err := m.ListPage(t.Context(), l)
		require.NoError(t, err)
		for _, e := range page.Entries {
			keys = append(keys, e.Key)
		}
		if l.After = page.Next; l.After == "" {
			return keys
		}
	}
}

func code(t *testing.T, want mesh.Code, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, mesh.CodeOf(err), "%v", err)
}

func TestMemory(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		m.AddNode(t, "n2")
		for name, test := range map[string]func(*testing.T, *nodetest.Mesh){
			"changes": testMemoryChanges, "keys": testMemoryKeys, "listing": testMemoryListing, "ttl": testMemoryTTL,
			"watch": testMemoryWatch, "watch ends": testMemoryWatchEnds, "commit": testMemoryCommit, "limits": testMemoryLimits, "tenants": testMemoryTenants,
			"two clients": testMemoryTwoClients, "upstream": testMemoryUpstream,
		} {
			t.Run(name, func(t *testing.T) { test(t, m) })
		}
	})
}

func testMemoryChanges(t *testing.T, m *nodetest.Mesh) {
	ctx, mem := t.Context(), m.Client.Memory("changes")
	_, err := mem.Get(ctx, "a")
	code(t, mesh.CodeNotFound, err)
	code(t, mesh.CodeNotFound, mem.Delete(ctx, "a"))
	_, err = mem.Update(ctx, "a", []byte("x"), 7)
	code(t, mesh.CodeNotFound, err)

	first, err := mem.Create(ctx, "a", []byte("one"))
	require.NoError(t, err)
	_, err = mem.Create(ctx, "a", []byte("two"))
	code(t, mesh.CodeExists, err)
	second, err := mem.Update(ctx, "a", []byte("two"), first)
	require.NoError(t, err)
	require.Greater(t, second, first)
	_, err = mem.Update(ctx, "a", []byte("three"), first)
	code(t, mesh.CodeConflict, err)
	code(t, mesh.CodeConflict, mem.Delete(ctx, "a", client.IfRevision(first)))
	e, err := mem.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "two", string(e.Value))
	require.Equal(t, second, e.Revision)
	require.WithinDuration(t, time.Now(), e.Modified, time.Minute)
	require.Zero(t, e.Expires)

	require.NoError(t, mem.Delete(ctx, "a", client.IfRevision(second)))
	_, err = mem.Get(ctx, "a")
	code(t, mesh.CodeNotFound, err)
	code(t, mesh.CodeNotFound, mem.Delete(ctx, "a"))
	third, err := mem.Create(ctx, "a", nil)
	require.NoError(t, err)
	require.Greater(t, third, second)
	e, err = mem.Get(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, e.Value)
	fourth, err := mem.Put(ctx, "a", []byte{0, 1, 0xff})
	require.NoError(t, err)
	e, err = mem.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, []byte{0, 1, 0xff}, e.Value)
	require.Equal(t, fourth, e.Revision)
	_, err = m.Client.Memory("").Get(ctx, "a")
	code(t, mesh.CodeNotFound, err)
}

// oddKeys are all valid, and all different.
var oddKeys = []string{
	"a", "a/b", "a//b", "/a", "a/", "/", "//", "~", "a/~", "a/~/b", ".", "..", "a.b", "*", ">", "a*b", " ", "a b", "%2E", "%", "\x00", "\n", "a\r\nb",
	"日本語/キー", "🙂", "é", "e\u0301", "$KV.x", strings.Repeat("k", 512), strings.Repeat("/", 512), strings.Repeat("é", 256), "a\u202eb", "{}", `"`, "'", "\\",
}

func testMemoryKeys(t *testing.T, m *nodetest.Mesh) {
	ctx, mem := t.Context(), m.Client.Memory("keys")
	for _, k := range oddKeys {
		_, err := mem.Create(ctx, k, []byte(k))
		require.NoError(t, err, "%q", k)
	}
	for _, k := range oddKeys {
		e, err := mem.Get(ctx, k)
		require.NoError(t, err, "%q", k)
		require.Equal(t, k, string(e.Value))
		require.Equal(t, k, e.Key)
	}
	require.Equal(t, slices.Sorted(slices.Values(oddKeys)), keysOf(t, mem, ""))
	for _, k := range []string{"", strings.Repeat("k", 513), "a\xff"} {
		_, err := mem.Put(ctx, k, nil)
		code(t, mesh.CodeInvalid, err)
		_, err = mem.Get(ctx, k)
		code(t, mesh.CodeInvalid, err)
	}
	for _, ns := range []string{"A", "a.b", "a/b", ">", strings.Repeat("n", 41)} {
		_, err := m.Client.Memory(ns).Get(ctx, "k")
		code(t, mesh.CodeInvalid, err)
	}
}

// Every page of every size shows what a sorted slice does.
func testMemoryListing(t *testing.T, m *nodetest.Mesh) {
	ctx, mem := t.Context(), m.Client.Memory("listing")
	var all []string
	for _, k := range []string{"a", "a/", "a/1", "a/2/x", "a/2/y", "a/2", "a0", "a/2/", "b/c/d", "b/c/e", "b", "c//x", "c/", "d~", "é/1", "é/2"} {
		all = append(all, k)
		_, err := mem.Put(ctx, k, []byte("v"))
		require.NoError(t, err)
		_, err = mem.Put(ctx, "gone-"+k, []byte("v"))
		require.NoError(t, err)
		require.NoError(t, mem.Delete(ctx, "gone-"+k))
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/2", "a/2/", "b/c/", "c/", "é", "zz", "d~x"} {
		var want, level []string
		for _, k := range all {
			if !strings.HasPrefix(k, prefix) {
				continue
			}
			want = append(want, k)
			if i := strings.IndexByte(k[len(prefix):], '/'); i >= 0 {
				k = k[:len(prefix)+i+1]
			}
			level = append(level, k)
		}
		level = slices.Compact(level)
		require.ElementsMatch(t, want, keysOf(t, mem, prefix), "prefix %q", prefix)
		for limit := 1; limit < 6; limit++ {
			require.Equal(t, append([]string{}, level...), levelOf(t, mem, prefix, limit), "prefix %q, pages of %d", prefix, limit)
			got := []string{}
			for l := (client.MemoryList{Prefix: prefix, Limit: limit}); ; {
				page, err := mem.ListPage(ctx, l)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page.Entries), limit)
				for _, e := range page.Entries {
					got = append(got, e.Key)
				}
				if l.After = page.Next; l.After == "" {
					break
				}
			}
			require.Equal(t, append([]string{}, want...), got, "prefix %q, pages of %d", prefix, limit)
		}
	}
	in := mem.Scope("a").Scope("2")
	require.Equal(t, []string{"", "x", "y"}, keysOf(t, in, ""))
	e, err := in.Get(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, "x", e.Key)
	n, err := in.DeleteAll(ctx, "")
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, []string{"a", "a/", "a/1", "a/2", "a0"}, keysOf(t, mem, "a"))
}

func testMemoryTTL(t *testing.T, m *nodetest.Mesh) {
	ctx, mem := t.Context(), m.Client.Memory("ttl")
	first, err := mem.Changes(ctx, "", "")
	require.NoError(t, err)
	rev, err := mem.Put(ctx, "short", []byte("v"), client.TTL(time.Second))
	require.NoError(t, err)
	_, err = mem.Put(ctx, "long", []byte("v"), client.TTL(time.Hour))
	require.NoError(t, err)
	_, err = mem.Put(ctx, "renewed", []byte("v"), client.TTL(time.Second))
	require.NoError(t, err)
	_, err = mem.Put(ctx, "renewed", []byte("v"))
	require.NoError(t, err)
	e, err := mem.Get(ctx, "long")
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(time.Hour), e.Expires, time.Minute)
	require.Eventually(t, func() bool {
		_, err := mem.Get(ctx, "short")
		return mesh.CodeOf(err) == mesh.CodeNotFound
	}, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, []string{"long", "renewed"}, keysOf(t, mem, ""))
	_, err = mem.Update(ctx, "short", nil, rev)
	code(t, mesh.CodeNotFound, err)
	var last client.MemoryEntry
	require.Eventually(t, func() bool {
		changes, err := mem.Changes(ctx, "short", first.Cursor)
		require.NoError(t, err)
		first.Cursor = changes.Cursor
		for _, e := range changes.Entries {
			last = e
		}
		return last.Deleted
	}, 20*time.Second, time.Millisecond, "a watch hears of the end")
	again, err := mem.Create(ctx, "short", []byte("again"))
	require.NoError(t, err)
	require.Greater(t, again, last.Revision)
	for _, d := range []time.Duration{time.Millisecond, -time.Second, 0, 200 * 365 * 24 * time.Hour} {
		_, err := mem.Put(ctx, "bad", nil, client.TTL(d))
		code(t, mesh.CodeInvalid, err)
	}
}

// A watch sees each key's last state, in order, also what another client changed
// through another node; nothing of other memories or prefixes.
func testMemoryWatch(t *testing.T, m *nodetest.Mesh) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mem := m.Client.Memory("watch")
	start, err := mem.Changes(ctx, "w/", "")
	require.NoError(t, err)
	seen := make(chan client.MemoryEntry, 1000)
	var watching sync.WaitGroup
	watching.Go(func() {
		var last uint64
		for cursor := start.Cursor; ctx.Err() == nil; {
			changes, err := mem.Changes(ctx, "w/", cursor)
			if err != nil {
				continue
			}
			cursor = changes.Cursor
			for _, e := range changes.Entries {
				if e.Revision <= last {
					e.Key = fmt.Sprintf("out of order: %s at %d after %d", e.Key, e.Revision, last)
				}
				last = e.Revision
				seen <- e
			}
		}
	})
	other := m.Connect(t, m.Token(t, nodetest.Tenant)).Memory("watch")
	want := map[string]uint64{}
	for i := range 100 {
		by := []*client.Memory{mem, other}[i%2]
		key := fmt.Sprintf("w/%d", i%30)
		rev, err := by.Put(ctx, key, []byte("v"))
		require.NoError(t, err)
		want[key] = rev
		_, err = by.Put(ctx, "x/"+key, []byte("v"))
		require.NoError(t, err)
		_, err = m.Client.Memory("other").Put(ctx, key, nil)
		require.NoError(t, err)
	}
	require.NoError(t, other.Delete(ctx, "w/0"))
	got := map[string]uint64{}
	for deleted := false; !deleted; {
		select {
		case e := <-seen:
			require.Contains(t, want, e.Key)
			got[e.Key] = e.Revision
			deleted = e.Deleted
		case <-time.After(20 * time.Second):
			require.Fail(t, "the deletion is not seen")
		}
	}
	want["w/0"] = got["w/0"]
	require.Equal(t, want, got)
	cancel()
	watching.Wait()

	old, err := other.Changes(t.Context(), "", "1.1000")
	require.NoError(t, err)
	require.True(t, old.Resync)
	_, err = other.Changes(t.Context(), "", "nonsense")
	code(t, mesh.CodeInvalid, err)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	watching.Go(func() { // the watch begins at some time
		for ctx.Err() == nil {
			other.Put(ctx, "it/is", nil) //nolint:errcheck // again
		}
	})
	for e, err := range mem.Watch(ctx, "it/") {
		require.NoError(t, err)
		require.Equal(t, "it/is", e.Key)
		break
	}
	cancel()
	watching.Wait()
	for range mem.Watch(ctx, "it/") {
		require.Fail(t, "a watch goes on after its context")
	}
}

// A watch ends with its client, by an error.
func testMemoryWatchEnds(t *testing.T, m *nodetest.Mesh) {
	c := m.Connect(t, m.Token(t, nodetest.Tenant))
	ended := make(chan error, 1)
	go func() {
		var last error
		for _, err := range c.Memory("ends").Watch(context.Background(), "") {
			last = err
		}
		ended <- last
	}()
	_, err := c.Memory("ends").Changes(t.Context(), "", "")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	select {
	case err := <-ended:
		code(t, mesh.CodeUnavailable, err)
	case <-time.After(20 * time.Second):
		require.Fail(t, "the watch goes on without a connection")
	}
}

func testMemoryCommit(t *testing.T, m *nodetest.Mesh) {
	ctx, mem := t.Context(), m.Client.Memory("commit")
	put := func(k, v string) client.MemoryOp { return client.MemoryOp{Key: k, Value: []byte(v)} }
	rev, err := mem.Commit(ctx, put("a", "1"), put("b", ""), put("c", "333"))
	require.NoError(t, err)
	for i, k := range []string{"a", "b", "c"} {
		e, err := mem.Get(ctx, k)
		require.NoError(t, err)
		require.Equal(t, rev-2+uint64(i), e.Revision)
	}
	next, err := mem.Commit(ctx, put("a", "2").With(client.IfRevision(rev-2)), client.MemoryOp{Key: "b", Delete: true}, put("d", "4").With(client.IfRevision(0), client.TTL(time.Hour)))
	require.NoError(t, err)
	e, err := mem.Get(ctx, "d")
	require.NoError(t, err)
	require.Equal(t, next, e.Revision)
	require.NotZero(t, e.Expires)
	for want, ops := range map[mesh.Code][]client.MemoryOp{
		mesh.CodeConflict: {put("x", "x"), put("a", "9").With(client.IfRevision(rev - 2))},
		mesh.CodeExists:   {put("x", "x"), put("c", "9").With(client.IfRevision(0))},
		mesh.CodeNotFound: {put("x", "x"), {Key: "b", Delete: true}},
		mesh.CodeInvalid:  {put("x", "x"), put("x", "y")},
	} {
		_, err := mem.Commit(ctx, ops...)
		code(t, want, err)
	}
	_, err = mem.Commit(ctx)
	code(t, mesh.CodeInvalid, err)
	require.Equal(t, []string{"a", "c", "d"}, keysOf(t, mem, ""), "nothing of a refused commit is there")

	var many []client.MemoryOp
	for i := range mesh.MaxCommit {
		many = append(many, put(fmt.Sprintf("many/%04d", i), strings.Repeat("v", i%500)))
	}
	_, err = mem.Commit(ctx, many...)
	require.NoError(t, err)
	require.Len(t, keysOf(t, mem, "many/"), mesh.MaxCommit)
	_, err = mem.Commit(ctx, append(many, put("one more", ""))...)
	code(t, mesh.CodeInvalid, err)
	for i := range many {
		many[i] = client.MemoryOp{Key: many[i].Key, Delete: true}
	}
	_, err = mem.Commit(ctx, many...)
	require.NoError(t, err)
	require.Empty(t, keysOf(t, mem, "many/"))
	testCommitsSideBySide(t, m)
}

// Transfers between accounts, each a commit of two keys: the sum stays.
func testCommitsSideBySide(t *testing.T, m *nodetest.Mesh) {
	ctx := t.Context()
	const accounts, each = 4, 8
	name := func(i int) string { return fmt.Sprintf("account/%d", i) }
	for i := range accounts {
		_, err := m.Client.Memory("bank").Put(ctx, name(i), []byte{100})
		require.NoError(t, err)
	}
	var all sync.WaitGroup
	for range 4 {
		mem := m.Connect(t, m.Token(t, nodetest.Tenant)).Memory("bank")
		all.Go(func() {
			for done := 0; done < each; {
				from := rand.N(accounts)
				to := (from + 1 + rand.N(accounts-1)) % accounts
				a, err := mem.Get(ctx, name(from))
				require.NoError(t, err)
				b, err := mem.Get(ctx, name(to))
				require.NoError(t, err)
				_, err = mem.Commit(ctx, client.MemoryOp{Key: name(from), Value: []byte{a.Value[0] - 1}}.With(client.IfRevision(a.Revision)),
					client.MemoryOp{Key: name(to), Value: []byte{b.Value[0] + 1}}.With(client.IfRevision(b.Revision)))
				if mesh.CodeOf(err) != mesh.CodeConflict {
					require.NoError(t, err)
					done++
				}
			}
		})
	}
	all.Wait()
	sum := 0
	for i := range accounts {
		e, err := m.Client.Memory("bank").Get(ctx, name(i))
		require.NoError(t, err)
		sum += int(e.Value[0])
	}
	require.Equal(t, 100*accounts, sum)
}

func testMemoryLimits(t *testing.T, m *nodetest.Mesh) {
	ctx, mem := t.Context(), m.Client.Memory("limits")
	big := make([]byte, mesh.MaxValueBytes)
	big[len(big)-1] = 7
	_, err := mem.Put(ctx, strings.Repeat("k", mesh.MaxKeyBytes), big)
	require.NoError(t, err)
	e, err := mem.Get(ctx, strings.Repeat("k", mesh.MaxKeyBytes))
	require.NoError(t, err)
	require.Equal(t, big, e.Value)
	_, err = mem.Put(ctx, "k", append(big, 1))
	code(t, mesh.CodeTooLarge, err)
	_, err = mem.Commit(ctx, client.MemoryOp{Key: "a", Value: big}, client.MemoryOp{Key: "b", Value: []byte("x")})
	code(t, mesh.CodeTooLarge, err)
}

// A tenant sees nothing of another's memory, and a bound token none at all.
func testMemoryTenants(t *testing.T, m *nodetest.Mesh) {
	ctx := t.Context()
	_, err := m.Client.Memory("").Put(ctx, "secret", []byte("acme's"))
	require.NoError(t, err)
	for i := range 40 { // some share the stream
		name := mesh.Tenant(fmt.Sprintf("other-%d", i))
		if mesh.MemoryShard(name) != mesh.MemoryShard(nodetest.Tenant) && i > 0 {
			continue
		}
		m.CreateTenant(t, name)
		other := m.Connect(t, m.Token(t, name)).Memory("")
		_, err := other.Get(ctx, "secret")
		code(t, mesh.CodeNotFound, err)
		require.Empty(t, keysOf(t, other, ""))
		_, err = other.Create(ctx, "secret", []byte(name))
		require.NoError(t, err)
	}
	e, err := m.Client.Memory("").Get(ctx, "secret")
	require.NoError(t, err)
	require.Equal(t, "acme's", string(e.Value))
	bound := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "repo", ".")).Memory("")
	_, err = bound.Get(ctx, "secret")
	code(t, mesh.CodeDenied, err)
	_, err = bound.Put(ctx, "secret", nil)
	code(t, mesh.CodeDenied, err)
	_, err = bound.ListPage(ctx, client.MemoryList{})
	code(t, mesh.CodeDenied, err)
	_, err = bound.Changes(ctx, "", "")
	code(t, mesh.CodeDenied, err)
}

// What one client was told is what the other reads, lists and hears, each on a
// server of its own, and through whichever node.
func testMemoryTwoClients(t *testing.T, m *nodetest.Mesh) {
	ctx := t.Context()
	var mems []*client.Memory
	for _, url := range m.URLs() {
		mems = append(mems, m.ConnectTo(t, url, m.Token(t, nodetest.Tenant)).Memory("both"))
	}
	mems = append(mems, m.Client.Memory("both"))
	rounds := 60
	if meshtest.Long() {
		rounds = 200
	}
	for i := range rounds {
		writer, reader := mems[i%len(mems)], mems[(i+1)%len(mems)]
		key, value := fmt.Sprintf("k/%d", i%7), fmt.Sprint(i)
		rev, err := writer.Put(ctx, key, []byte(value))
		require.NoError(t, err)
		e, err := reader.Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, value, string(e.Value))
		require.Equal(t, rev, e.Revision)
		page, err := reader.ListPage(ctx, client.MemoryList{Prefix: key})
		require.NoError(t, err)
		require.Equal(t, rev, page.Entries[0].Revision)
		if i%5 == 0 {
			require.NoError(t, reader.Delete(ctx, key, client.IfRevision(rev)))
			require.NotContains(t, keysOf(t, writer, "k/"), key)
			_, err = writer.Get(ctx, key)
			code(t, mesh.CodeNotFound, err)
		}
	}
}

// What the memory of the model to outdo does, or ought to do.
func testMemoryUpstream(t *testing.T, m *nodetest.Mesh) {
	ctx, mem := t.Context(), m.Client.Memory("upstream")
	put := func(k, v string) client.MemoryOp { return client.MemoryOp{Key: k, Value: []byte(v)} }
	get := func(t *testing.T, k string) string {
		e, err := mem.Get(ctx, k)
		require.NoError(t, err)
		return string(e.Value)
	}
	t.Run("108 text and bytes", func(t *testing.T) {
		for _, v := range []string{"text", "\x00\xff\xfe", "日本語"} {
			_, err := mem.Put(ctx, "108", []byte(v))
			require.NoError(t, err)
			require.Equal(t, v, get(t, "108"))
		}
	})
	t.Run("109 missing key", func(t *testing.T) {
		_, err := mem.Get(ctx, "109")
		code(t, mesh.CodeNotFound, err)
		require.Contains(t, err.Error(), `"109"`)
	})
	_, err := mem.Commit(ctx, put("110/b/2", "2"), put("110/a", "1"), put("110/b/1", "3"), put("110/c", "4"))
	require.NoError(t, err)
	t.Run("110 sorted, nested", func(t *testing.T) {
		require.Equal(t, []string{"110/a", "110/b/1", "110/b/2", "110/c"}, keysOf(t, mem, "110/"))
		require.Equal(t, []string{"108", "110/a", "110/b/1", "110/b/2", "110/c"}, keysOf(t, mem, ""))
	})
	t.Run("111 immediate children", func(t *testing.T) {
		require.Equal(t, []string{"110/a", "110/b/", "110/c"}, levelOf(t, mem, "110/", 0))
		require.Equal(t, []string{"108", "110/"}, levelOf(t, mem, "", 0))
		require.Equal(t, []string{"a", "b/", "c"}, levelOf(t, mem.Scope("110"), "", 0))
	})
	t.Run("112 remove below a prefix", func(t *testing.T) {
		n, err := mem.DeleteAll(ctx, "110/b/")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		n, err = mem.DeleteAll(ctx, "110/b/")
		require.NoError(t, err)
		require.Zero(t, n)
		code(t, mesh.CodeNotFound, mem.Delete(ctx, "110/b/1"))
	})
	t.Run("113 rename, touch, exists, clear", func(t *testing.T) {
		e, err := mem.Get(ctx, "110/a")
		require.NoError(t, err)
		_, err = mem.Commit(ctx, client.MemoryOp{Key: "113", Value: e.Value}.With(client.IfRevision(0)), client.MemoryOp{Key: "110/a", Delete: true}.With(client.IfRevision(e.Revision)))
		require.NoError(t, err)
		require.Equal(t, "1", get(t, "113"))
		page, err := mem.ListPage(ctx, client.MemoryList{Prefix: "113"})
		require.NoError(t, err)
		require.Equal(t, int64(1), page.Entries[0].Size)
		_, err = mem.DeleteAll(ctx, "")
		require.NoError(t, err)
		require.Empty(t, keysOf(t, mem, ""))
	})
	t.Run("114 no commands", func(t *testing.T) {
		// By design: what runs commands is a workspace, and a memory is not one.
		_, runs := reflect.TypeOf(mem).MethodByName("Command")
		require.False(t, runs)
	})
	t.Run("115 initial data", func(t *testing.T) {
		_, err := mem.Commit(ctx, put("115/a", "1"), put("115/b", "2"))
		require.NoError(t, err)
		require.Equal(t, "2", get(t, "115/b"))
	})
	t.Run("116 another client", func(t *testing.T) {
		other, err := m.Connect(t, m.Token(t, nodetest.Tenant)).Memory("upstream").Get(ctx, "115/a")
		require.NoError(t, err)
		require.Equal(t, "1", string(other.Value))
	})
	t.Run("117 life", func(t *testing.T) {
		_, err := mem.Put(ctx, "117", nil, client.TTL(time.Second))
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, err := mem.Get(ctx, "117")
			return mesh.CodeOf(err) == mesh.CodeNotFound
		}, 20*time.Second, 50*time.Millisecond)
	})
}
