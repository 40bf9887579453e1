package client_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/mesh/natsd"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// memoryCall is one call of a client about one key; If is the condition of a put
// or a deletion.
type memoryCall struct {
	Kind, Key string // get, list (the key alone), put, delete
	Value     string
	If        *uint64
}

// memoryAnswer is what it was told.
type memoryAnswer struct {
	Code  mesh.Code
	Value string
	Rev   uint64
}

// unknown reports whether the call may have had its effect, or will have it.
func (a memoryAnswer) unknown() bool {
	switch a.Code {
	case mesh.CodeLost, mesh.CodeDeadline, mesh.CodeUnavailable, mesh.CodeCanceled, mesh.CodeBusy:
		return true
	}
	return false
}

// memoryState is one key of the model. The revision is 0 after a change whose
// answer nobody got.
type memoryState struct {
	Live  bool
	Value string
	Rev   uint64
}

// memoryModel is what a memory is to behave like: as if there were one copy, and
// each call happened at one moment between its start and its answer.
var memoryModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		of := map[string]int{}
		for _, op := range history {
			key := op.Input.(memoryCall).Key
			i, ok := of[key]
			if !ok {
				i = len(parts)
				of[key] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], op)
		}
		return parts
	},
	Init: func() any { return memoryState{} },
	Step: func(state, input, output any) (bool, any) {
		return state.(memoryState).step(input.(memoryCall), output.(memoryAnswer))
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

func (s memoryState) step(c memoryCall, a memoryAnswer) (bool, memoryState) {
	same := func(rev uint64) bool { return s.Rev == 0 || rev == s.Rev }
	if c.Kind == "get" || c.Kind == "list" {
		switch {
		case a.unknown():
			return true, s
		case a.Code == mesh.CodeNotFound:
			return !s.Live, s
		}
		ok := s.Live && same(a.Rev) && (c.Kind == "list" || a.Value == s.Value)
		return ok, memoryState{true, s.Value, a.Rev}
	}
	holds := c.If == nil || *c.If == 0 && !s.Live || *c.If != 0 && s.Live && same(*c.If)
	if c.Kind == "delete" {
		holds = holds && s.Live
	}
	next := memoryState{Live: c.Kind == "put", Value: c.Value, Rev: a.Rev}
	switch {
	case a.unknown() && holds:
		next.Rev = 0
		return true, next
	case a.unknown():
		return true, s
	case a.Code == "":
		return holds && (c.Kind == "delete" || a.Rev > s.Rev), next
	case a.Code == mesh.CodeExists:
		return s.Live, s
	case a.Code == mesh.CodeNotFound:
		return !s.Live, s
	case a.Code == mesh.CodeConflict:
		return s.Live && (s.Rev == 0 || *c.If != s.Rev), s
	}
	return false, s
}

// The model itself finds what must not be.
func TestMemoryModelFindsLies(t *testing.T) {
	op := func(client int, from, to int64, c memoryCall, a memoryAnswer) porcupine.Operation {
		c.Key = "k"
		return porcupine.Operation{ClientId: client, Call: from, Return: to, Input: c, Output: a}
	}
	put := func(v string) memoryCall { return memoryCall{Kind: "put", Value: v} }
	zero := uint64(0)
	for name, history := range map[string][]porcupine.Operation{
		"stale value": {
			op(0, 0, 1, put("a"), memoryAnswer{Rev: 1}), op(0, 2, 3, put("b"), memoryAnswer{Rev: 2}),
			op(1, 4, 5, memoryCall{Kind: "get"}, memoryAnswer{Value: "a", Rev: 1}),
		},
		"stale absence": {op(0, 0, 1, put("a"), memoryAnswer{Rev: 1}), op(1, 2, 3, memoryCall{Kind: "list"}, memoryAnswer{Code: mesh.CodeNotFound})},
		"two creates": {
			op(0, 0, 9, memoryCall{Kind: "put", Value: "a", If: &zero}, memoryAnswer{Rev: 1}),
			op(1, 0, 9, memoryCall{Kind: "put", Value: "b", If: &zero}, memoryAnswer{Rev: 2}),
		},
		"put twice": {
			op(0, 0, 9, put("a"), memoryAnswer{Rev: 3}), op(1, 0, 2, put("b"), memoryAnswer{Rev: 2}),
			op(2, 3, 4, memoryCall{Kind: "get"}, memoryAnswer{Value: "a", Rev: 1}), op(2, 5, 6, memoryCall{Kind: "get"}, memoryAnswer{Value: "b", Rev: 2}),
			op(2, 7, 8, memoryCall{Kind: "get"}, memoryAnswer{Value: "a", Rev: 3}),
		},
	} {
		require.False(t, porcupine.CheckOperations(memoryModel, history), name)
	}
	require.True(t, porcupine.CheckOperations(memoryModel, []porcupine.Operation{
		op(0, 0, math.MaxInt64, put("a"), memoryAnswer{Code: mesh.CodeLost}), op(1, 1, 2, memoryCall{Kind: "get"}, memoryAnswer{Code: mesh.CodeNotFound}),
		op(1, 3, 4, memoryCall{Kind: "get"}, memoryAnswer{Value: "a", Rev: 5}), op(1, 5, 6, memoryCall{Kind: "delete"}, memoryAnswer{}),
	}))
}

// Clients on every server, through two nodes, while the stream's leader changes
// again and again and some requests arrive late, after their client has asked
// another node: no read, listing or refusal is stale, and no change is lost, or
// made twice.
func TestMemoryOracle(t *testing.T) {
	t.Run("one server", func(t *testing.T) { testMemoryOracle(t, meshtest.Server(t)) })
	t.Run("cluster", func(t *testing.T) { testMemoryOracle(t, meshtest.Cluster(t, 3)) })
}

func testMemoryOracle(t *testing.T, servers *meshtest.Mesh) {
	m := nodetest.Start(t, servers, nodetest.Config{})
	m.AddNode(t, "n2")
	delayed := delay(t, m)
	const clients, calls = 6, 200
	start := time.Now()
	histories := make([][]porcupine.Operation, clients)
	var all sync.WaitGroup
	for id := range clients {
		urls := m.URLs()
		c := m.ConnectTo(t, urls[id%len(urls)], m.Token(t, nodetest.Tenant))
		all.Go(func() {
			mem, seen := c.Memory("oracle"), map[string]uint64{}
			for i := range calls {
				in := randomCall(seen, fmt.Sprintf("%d.%d", id, i))
				from := time.Since(start)
				out := do(t.Context(), mem, in)
				to := int64(time.Since(start))
				if out.unknown() {
					to = math.MaxInt64
				}
				if out.Rev != 0 {
					seen[in.Key] = out.Rev
				}
				histories[id] = append(histories[id], porcupine.Operation{ClientId: id, Call: int64(from), Return: to, Input: in, Output: out})
			}
		})
	}
	disturbed := make(chan struct{})
	go func() { all.Wait(); close(disturbed) }()
	disturb(t, m, disturbed)
	var history []porcupine.Operation
	unknown := 0
	for _, h := range histories {
		history = append(history, h...)
		for _, op := range h {
			if op.Output.(memoryAnswer).unknown() && op.Input.(memoryCall).Kind != "get" && op.Input.(memoryCall).Kind != "list" {
				unknown++
			}
		}
	}
	require.Len(t, history, clients*calls)
	t.Logf("%d requests were late, the outcome of %d changes is unknown", delayed.Load(), unknown)
	require.Positive(t, delayed.Load())
	require.Less(t, unknown, calls/5, "too much is unknown for the test to say anything")
	result, info := porcupine.CheckOperationsVerbose(memoryModel, history, time.Minute)
	if result != porcupine.Ok {
		for key, ops := range memoryModel.Partition(history) {
			logFrontier(t, ops, slices.MaxFunc(info.PartialLinearizationsOperations()[key], func(a, b []porcupine.Operation) int { return len(a) - len(b) }))
		}
	}
	require.Equal(t, porcupine.Ok, result)
}

// logFrontier shows where no order could be found for one key's operations any
// more: the last ones that have a place, and the first ones that have none.
func logFrontier(t *testing.T, ops, placed []porcupine.Operation) {
	if len(placed) == len(ops) {
		return
	}
	id := func(op porcupine.Operation) string { return fmt.Sprint(op.ClientId, op.Call) }
	in := map[string]bool{}
	state := any(memoryState{})
	for i, op := range placed {
		in[id(op)] = true
		_, state = memoryModel.Step(state, op.Input, op.Output)
		if i >= len(placed)-12 {
			t.Logf("placed %s, then %+v", describe(op), state)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(ops), func(op porcupine.Operation) bool { return in[id(op)] })
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, op := range rest[:min(len(rest), 12)] {
		t.Logf("no place %s", describe(op))
	}
	for _, op := range rest {
		if op.Return == math.MaxInt64 {
			t.Logf("unknown %s", describe(op))
		}
	}
}

func describe(op porcupine.Operation) string {
	in := op.Input.(memoryCall)
	on := ""
	if in.If != nil {
		on = fmt.Sprintf(" if %d", *in.If)
	}
	return fmt.Sprintf("%d: [%v, %v] %s %s %s%s -> %+v", op.ClientId, time.Duration(op.Call), time.Duration(op.Return), in.Kind, in.Key, in.Value, on, op.Output)
}

func randomCall(seen map[string]uint64, value string) memoryCall {
	in := memoryCall{Key: "k/" + strconv.Itoa(rand.N(5)), Value: value}
	rev := seen[in.Key]
	switch n := rand.N(100); {
	case n < 30:
		in.Kind = "get"
	case n < 45:
		in.Kind = "list"
	case n < 65:
		in.Kind = "put"
	case n < 75:
		in.Kind, in.If = "put", new(uint64)
	case n < 88 && rev != 0:
		in.Kind, in.If = "put", &rev
	default:
		in.Kind = "delete"
	}
	return in
}

func do(ctx context.Context, m *client.Memory, in memoryCall) (out memoryAnswer) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var opts []client.MemoryOption
	if in.If != nil {
		opts = append(opts, client.IfRevision(*in.If))
	}
	var err error
	switch in.Kind {
	case "get":
		var e client.MemoryEntry
		e, err = m.Get(ctx, in.Key)
		out.Value, out.Rev = string(e.Value), e.Revision
	case "list":
		var page client.MemoryPage
		page, err = m.ListPage(ctx, client.MemoryList{Prefix: in.Key})
		if err == nil && len(page.Entries) == 0 {
			out.Code = mesh.CodeNotFound
		}
		for _, e := range page.Entries {
			out.Rev = e.Revision
		}
	case "put":
		out.Rev, err = m.Put(ctx, in.Key, []byte(in.Value), opts...)
	case "delete":
		err = m.Delete(ctx, in.Key, opts...)
	}
	if err != nil {
		out.Code = mesh.CodeOf(err)
	}
	return out
}

// delay is a member of the nodes' group that hands on what it gets: one change in
// ten late, as a node does that was frozen.
func delay(t *testing.T, m *nodetest.Mesh) *atomic.Int64 {
	var delayed atomic.Int64
	var late sync.WaitGroup
	var mu sync.Mutex
	over := false // nothing is late any more
	door, tenant := m.Door(t, "late"), m.DialToken(t, m.Token(t, nodetest.Tenant))
	change := mesh.APISubject(nodetest.Tenant, mesh.ServiceMemory, mesh.VerbMemoryCommit)
	_, err := door.QueueSubscribe(change, mesh.APIQueue, func(got *nats.Msg) {
		on := nats.NewMsg(mesh.APINodeSubject(nodetest.Tenant, mesh.ServiceMemory, mesh.VerbMemoryCommit, nodetest.NodeName))
		on.Header, on.Data, on.Reply = got.Header, got.Data, got.Reply
		if rand.N(10) > 0 {
			tenant.PublishMsg(on) //nolint:errcheck // the client asks again
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		delayed.Add(1)
		late.Go(func() {
			time.Sleep(300*time.Millisecond + rand.N(time.Second))
			tenant.PublishMsg(on) //nolint:errcheck // as above
		})
	})
	require.NoError(t, err)
	require.NoError(t, door.Flush())
	t.Cleanup(func() {
		mu.Lock()
		over = true
		mu.Unlock()
		late.Wait()
	})
	return &delayed
}

// disturb moves the leader of the tenant's memory until done, and kills it once.
func disturb(t *testing.T, m *nodetest.Mesh, done chan struct{}) {
	if m.Replicas() == 1 {
		<-done
		return
	}
	store := m.Streams(t)
	name := mesh.MemoryStream(mesh.MemoryShard(nodetest.Tenant))
	moves := 0
	for {
		select {
		case <-done:
			t.Logf("the leader was moved %d times", moves)
			require.Positive(t, moves)
			return
		case <-time.After(300 * time.Millisecond):
		}
		if moves == 5 {
			killLeader(t, m, store, name)
			moves++
		}
		if reply, err := store.Request("$JS.API.STREAM.LEADER.STEPDOWN."+name, nil, time.Second); err == nil && len(reply.Data) > 0 {
			moves++
		}
	}
}

// killLeader kills the server that leads a stream, which comes back a moment later.
func killLeader(t *testing.T, m *nodetest.Mesh, store *nats.Conn, stream string) {
	js, err := jetstream.New(store)
	require.NoError(t, err)
	leader := -1
	require.Eventually(t, func() bool {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			return false
		}
		name := s.CachedInfo().Cluster.Leader
		leader = slices.IndexFunc(m.Servers, func(s *natsd.Server) bool { return s.Name() == name })
		return leader >= 0
	}, 20*time.Second, 100*time.Millisecond)
	m.Stop(leader)
	time.Sleep(500 * time.Millisecond)
	m.Restart(t, leader)
}
