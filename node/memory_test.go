package node_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// memoryAsker sends requests as they are, with ids of the test's choice.
type memoryAsker struct {
	t    *testing.T
	conn *nats.Conn
}

// ask sends a request to a node, or to any with "".
func (a *memoryAsker) ask(node mesh.Node, verb, id string, args any, content []byte, reply any) ([]byte, error) {
	subject := mesh.APISubject(nodetest.Tenant, mesh.ServiceMemory, verb)
	if node != "" {
		subject = mesh.APINodeSubject(nodetest.Tenant, mesh.ServiceMemory, verb, node)
	}
	m, err := mesh.NewRequest(subject, id, "", args, content)
	require.NoError(a.t, err)
	answer, err := a.conn.RequestMsg(m, 20*time.Second)
	require.NoError(a.t, err)
	return mesh.DecodeReply(answer, reply)
}

func (a *memoryAsker) put(node mesh.Node, id string, after uint64, keys ...string) mesh.MemoryCommitReply {
	req := mesh.MemoryCommitRequest{After: after}
	var content []byte
	for _, k := range keys {
		req.Ops = append(req.Ops, mesh.MemoryOp{Key: k, Size: len(id)})
		content = append(content, id...)
	}
	var reply mesh.MemoryCommitReply
	_, err := a.ask(node, mesh.VerbMemoryCommit, id, req, content, &reply)
	require.NoError(a.t, err)
	return reply
}

func (a *memoryAsker) get(key string) (string, mesh.MemoryGetReply) {
	var reply mesh.MemoryGetReply
	value, err := a.ask("", mesh.VerbMemoryGet, "", mesh.MemoryGetRequest{Key: key}, nil, &reply)
	require.NoError(a.t, err)
	return string(value), reply
}

// A request is done once, whichever nodes are asked, at once or later; and what
// came between is not undone.
func TestMemoryRepeats(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		m.AddNode(t, "n2")
		a := &memoryAsker{t, m.DialToken(t, m.Token(t, nodetest.Tenant))}
		for _, keys := range [][]string{{"one"}, {"a", "b", "c"}} {
			first := mesh.NewID()
			done := a.put("n1", first, 0, keys...)
			require.NotZero(t, done.Revision)
			require.Equal(t, done.Revision, a.put("n1", first, 0, keys...).Revision)
			require.Equal(t, done.Revision, a.put("n2", first, 0, keys...).Revision)

			second := mesh.NewID()
			overtaken := a.put("n2", second, done.Head, keys...)
			require.Greater(t, overtaken.Revision, done.Revision)
			for _, node := range []mesh.Node{"n2", "n1"} {
				again := a.put(node, first, 0, keys...)
				if again.Unsure {
					require.GreaterOrEqual(t, again.Head, overtaken.Revision)
				} else { // a node that has not heard of the second one knows better
					require.Equal(t, done.Revision, again.Revision)
				}
				value, _ := a.get(keys[0])
				require.Equal(t, second, value, "the second one is not undone")
			}
			third := mesh.NewID()
			require.False(t, a.put("n1", third, overtaken.Head, keys...).Unsure, "who knows the newest revision is sure")
		}
		testMemoryHedges(t, m)
	})
}

// The same request at two nodes at the same time.
func testMemoryHedges(t *testing.T, m *nodetest.Mesh) {
	askers := []*memoryAsker{{t, m.DialToken(t, m.Token(t, nodetest.Tenant))}, {t, m.DialToken(t, m.Token(t, nodetest.Tenant))}}
	var head uint64
	for i := range 40 {
		id, keys := mesh.NewID(), []string{"hedged"}
		if i%4 == 0 {
			keys = append(keys, "also")
		}
		var replies [2]mesh.MemoryCommitReply
		var all sync.WaitGroup
		for i, a := range askers {
			all.Go(func() { replies[i] = a.put([]mesh.Node{"n1", "n2"}[i], id, head, keys...) })
		}
		all.Wait()
		require.Equal(t, replies[0].Revision, replies[1].Revision)
		_, now := askers[0].get(keys[len(keys)-1])
		require.Equal(t, replies[0].Revision, now.Entry.Revision)
		head = max(replies[0].Head, replies[1].Head)
	}
}

// What is malformed is refused by its code and changes nothing.
func TestMemoryRefusals(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		a := &memoryAsker{t, m.DialToken(t, m.Token(t, nodetest.Tenant))}
		op := func(op mesh.MemoryOp) mesh.MemoryCommitRequest {
			return mesh.MemoryCommitRequest{Ops: []mesh.MemoryOp{op}}
		}
		for i, bad := range []struct {
			verb    string
			id      bool
			args    any
			content string
		}{
			{mesh.VerbMemoryCommit, false, op(mesh.MemoryOp{Key: "k"}), ""},
			{mesh.VerbMemoryCommit, true, mesh.MemoryCommitRequest{}, ""},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{}), ""},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: "k", Size: 2}), "x"},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: "k", Size: -1}), "x"},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: "k", Size: 1}), "xx"},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: "k", Delete: true, Size: 1}), "x"},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: "k", Delete: true, TTLMS: 5000}), ""},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: "k", TTLMS: 999}), ""},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: "k", TTLMS: 1 << 62}), ""},
			{mesh.VerbMemoryCommit, true, op(mesh.MemoryOp{Key: strings.Repeat("k", 513)}), ""},
			{mesh.VerbMemoryCommit, true, mesh.MemoryCommitRequest{Namespace: "a.b", Ops: []mesh.MemoryOp{{Key: "k"}}}, ""},
			{mesh.VerbMemoryCommit, true, mesh.MemoryCommitRequest{Ops: []mesh.MemoryOp{{Key: "k"}, {Key: "k"}}}, ""},
			{mesh.VerbMemoryCommit, true, mesh.MemoryCommitRequest{Ops: make([]mesh.MemoryOp, mesh.MaxCommit+1)}, ""},
			{mesh.VerbMemoryGet, false, mesh.MemoryGetRequest{Key: ""}, ""},
			{mesh.VerbMemoryGet, false, mesh.MemoryGetRequest{Namespace: ">", Key: "k"}, ""},
			{mesh.VerbMemoryGet, false, []int{1}, ""},
			{mesh.VerbMemoryList, false, mesh.MemoryListRequest{Namespace: "*"}, ""},
			{mesh.VerbMemoryWatch, false, mesh.MemoryWatchRequest{Cursor: "-1.0"}, ""},
			{mesh.VerbMemoryWatch, false, mesh.MemoryWatchRequest{Cursor: "99999999999999999999.1"}, ""},
		} {
			id := ""
			if bad.id {
				id = mesh.NewID()
			}
			_, err := a.ask("", bad.verb, id, bad.args, []byte(bad.content), nil)
			require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%d: %v", i, err)
		}
		_, err := a.ask("", "purge", "", struct{}{}, nil, nil)
		require.Equal(t, mesh.CodeUnsupported, mesh.CodeOf(err))
		var list mesh.MemoryListReply
		_, err = a.ask("", mesh.VerbMemoryList, "", mesh.MemoryListRequest{Limit: -5, After: "\xff", Prefix: "\xff"}, nil, &list)
		require.NoError(t, err)
		require.Empty(t, list.Entries)
		_, err = a.ask("", mesh.VerbMemoryGet, "", mesh.MemoryGetRequest{Key: "k"}, nil, nil)
		require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), "%v", err)
		late, err := mesh.NewRequest(mesh.APISubject(nodetest.Tenant, mesh.ServiceMemory, mesh.VerbMemoryGet), "", "", mesh.MemoryGetRequest{Key: "k", Least: 7}, nil)
		require.NoError(t, err)
		late.Header.Set(mesh.HeaderDeadline, "300")
		answer, err := a.conn.RequestMsg(late, 20*time.Second)
		require.NoError(t, err)
		_, err = mesh.DecodeReply(answer, nil)
		require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "the caller has seen more than this server knows: %v", err)
	})
}
