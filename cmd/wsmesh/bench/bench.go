// Package bench measures a running mesh as its users meet it, and next to it
// what the same bytes cost without the mesh: the floor.
//
// Ours runs over TCP on a tenant's token; the floor runs in the same process on
// the operator's credentials. The two alternate operation by operation, so that
// whatever else the machine does meets both, and the first operations of each
// are dropped. One operation is under way at a time, and operations per second
// are those of one caller; rows named _N have N callers, which take turns with N
// callers of the floor.
package bench

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Names are the rows that Run measures.
var Names = []string{"exec", "exec_32", "read", "write", "write_8", "upload", "download", "restore", "mem_get", "mem_put", "mem_list", "mcp_exec", "mcp_read", "exec_output", "exit_lag", "open", "capture", "untar", "failover", "fork", "snapshot", "mirror", "warm_memory", "scale"}

const (
	// DefaultN is how many operations are measured if they fit into
	// DefaultTime: enough for twenty beyond the 99th percentile.
	DefaultN = 2000
	// MinN is how many are measured even when they do not.
	MinN = 20
	// DefaultTime bounds the measurement, without preparation and MinN.
	DefaultTime = 20 * time.Second
	// warmTime and warmPart bound what is dropped at the start: two seconds,
	// and a tenth of N.
	warmTime = 2 * time.Second
	warmPart = 10
)

// Config says what to measure and with what. The caller owns the connections.
type Config struct {
	Name   string         // one of Names
	N      int            // operations to measure; default DefaultN (1000 of upload and download), but no longer than DefaultTime
	Client *client.Client // ours, with a tenant's token
	Floor  *nats.Conn     // the operator's
	Echo   *nats.Conn     // the operator's second, which answers the first
	HTTP   string         // URL of a gateway, for the rows of MCP
	Token  string         // the client's, for the gateway
	Data   string         // the data directory of the node, for restore and untar, or what wsmesh init has made, for failover
	Files  int            // of the tree of restore; default DefaultFiles, 2,000 of untar, and 1,000 of failover

	Mirror objstore.Remote // the mesh's, for mirror; nil: it has none

	Program, URL string // how nodes are started, and for which NATS servers
}

// Row is one result. Times are in microseconds, ratios are ours divided by the
// floor: of times the larger is the worse, of operations the smaller.
type Row struct {
	Name     string  `json:"name"`
	N        int     `json:"n"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	Ops      float64 `json:"ops_per_s"`
	Bytes    int64   `json:"bytes,omitempty"` // of warm_memory, which has no times
	Cost     *Cost   `json:"cost,omitempty"`  // of scale, where wsmesh init has left node.creds
	Floor    *Floor  `json:"floor,omitempty"` // and the ratios: not of rows without a floor
	RatioP50 float64 `json:"ratio_p50,omitempty"`
	RatioOps float64 `json:"ratio_ops,omitempty"`
	Settings Setting `json:"config"`
}

// Floor is what the same bytes cost without the mesh.
type Floor struct {
	Name string  `json:"name"`
	P50  float64 `json:"p50_us"`
	Ops  float64 `json:"ops_per_s"`
}

// Setting is what the numbers depend on. Sync is empty where the node does not
// know how its NATS servers sync.
type Setting struct {
	Isolation  string `json:"isolation"`
	Sync       string `json:"sync"`
	Durability string `json:"durability"`
	Replicas   int    `json:"replicas"`
	Capture    string `json:"capture,omitempty"` // of the rows capture and untar: how it is done
}

// pair is one row's two operations; i counts both from 0.
type pair struct {
	floorName   string
	callers     int                                                     // of each at a time; 0 is 1
	least       int                                                     // operations that are measured; 0 is MinN
	ours, floor func(ctx context.Context, i int) error                  // floor is nil where there is none
	after       func(ctx context.Context, i int) error                  // undoes ours, untimed; may be nil
	lag         func(ctx context.Context, i int) (time.Duration, error) // stands for ours where that measures itself
	check       func(ctx context.Context) error                         // what was written, when all is measured; nil: ours and floor did
	close       func()
}

// Run measures one row in a workspace of its own, which it removes, and returns
// within 40 seconds unless MinN operations take longer. CodeInvalid: a name
// that is none of Names.
func Run(ctx context.Context, cfg Config) (*Row, error) {
	if cfg.N <= 0 {
		cfg.N = DefaultN
		if cfg.Name == "upload" || cfg.Name == "download" {
			cfg.N = bulkN
		}
	}
	name := "bench-" + mesh.NewID()[:8]
	ws := cfg.Client.Workspace(name)
	if err := cfg.Client.CreateWorkspace(ctx, name); err != nil {
		return nil, err
	}
	defer cfg.Client.RemoveWorkspace(context.WithoutCancel(ctx), name) //nolint:errcheck // the result stands
	info, err := ws.Info(ctx)
	if err != nil {
		return nil, err
	}
	setting, err := settings(ctx, cfg.Floor, info)
	if err != nil {
		return nil, err
	}
	if cfg.Name == "warm_memory" {
		return warmMemory(ctx, cfg, ws, setting)
	}
	if cfg.Name == "scale" {
		return scale(ctx, cfg, name, setting)
	}
	if cfg.Name == "capture" || cfg.Name == "untar" {
		setting.Capture = info.Capture
	}
	p, err := prepare(ctx, cfg, ws, setting)
	if err != nil {
		return nil, err
	}
	defer p.close()
	var ours, floor sample
	if p.callers > 1 {
		ours, floor, err = takeTurns(ctx, p, cfg.N)
	} else {
		ours, floor, err = alternate(ctx, p, cfg.N)
	}
	if err == nil && p.check != nil {
		err = p.check(ctx)
	}
	if err != nil {
		return nil, err
	}
	row := &Row{
		Name: cfg.Name, N: len(ours.times), P50: percentile(ours.times, 50), P99: percentile(ours.times, 99), Ops: ours.perSecond(),
		Settings: setting,
	}
	if p.floor == nil {
		return row, nil
	}
	row.Floor = &Floor{Name: p.floorName, P50: percentile(floor.times, 50), Ops: floor.perSecond()}
	row.RatioP50, row.RatioOps = row.P50/row.Floor.P50, row.Ops/row.Floor.Ops
	return row, nil
}

func prepare(ctx context.Context, cfg Config, ws *client.Workspace, setting Setting) (*pair, error) {
	switch cfg.Name {
	case "exec":
		return execPair(ws), nil
	case "exec_32":
		p := execPair(ws)
		p.callers = 32
		return p, nil
	case "read":
		return readPair(ctx, cfg, ws)
	case "write":
		return writePair(ctx, cfg, ws, setting.Replicas, 1)
	case "write_8":
		return writePair(ctx, cfg, ws, setting.Replicas, 8)
	case "upload":
		return uploadPair(cfg, ws)
	case "mem_get", "mem_put", "mem_list":
		return memoryPair(ctx, cfg, setting.Replicas)
	case "exec_output":
		return outputPair(ctx, cfg, ws, setting.Replicas)
	case "exit_lag":
		return exitPair(ws), nil
	case "capture":
		return capturePair(ctx, ws)
	case "untar":
		return untarPair(ctx, cfg, ws)
	case "open":
		return openPair(cfg, ws), nil
	case "failover":
		return failoverPair(ctx, cfg, ws, setting)
	case "fork":
		return forkPair(ctx, cfg, ws)
	case "snapshot":
		return snapshotPair(ctx, cfg, ws)
	case "mirror":
		return mirrorPair(ctx, cfg, ws)
	case "download":
		return downloadPair(ctx, cfg, ws)
	case "restore":
		return restorePair(ctx, cfg, ws)
	case "mcp_exec":
		return mcpExecPair(cfg, ws)
	case "mcp_read":
		return mcpReadPair(ctx, cfg, ws)
	}
	return nil, mesh.Errorf(mesh.CodeInvalid, "unknown bench %q", cfg.Name)
}

// alternate does the two operations in turn, and which one comes first changes
// each time: the second finds the processor warm.
func alternate(ctx context.Context, p *pair, n int) (ours, floor sample, err error) {
	i := 0
	both := func() (a, b time.Duration, err error) {
		ourTime := func() {
			var e error
			if p.lag != nil {
				a, e = p.lag(ctx, i)
			} else {
				a, e = timed(ctx, p.ours, i)
			}
			err = errors.Join(err, e)
		}
		floorTime := func() { var e error; b, e = timed(ctx, p.floor, i); err = errors.Join(err, e) }
		order := []func(){ourTime, floorTime}
		if i%2 == 1 {
			order = []func(){floorTime, ourTime}
		}
		if p.floor == nil {
			order = []func(){ourTime}
		}
		for _, do := range order {
			do()
		}
		if p.after != nil {
			err = errors.Join(err, p.after(ctx, i))
		}
		i++
		return a, b, err
	}
	for start := time.Now(); i < n/warmPart && time.Since(start) < warmTime; {
		if _, _, err := both(); err != nil {
			return ours, floor, err
		}
	}
	least := min(n, cmp.Or(p.least, MinN))
	for start := time.Now(); len(ours.times) < least || len(ours.times) < n && time.Since(start) < DefaultTime; {
		a, b, err := both()
		if err != nil {
			return ours, floor, err
		}
		ours.add(a, []time.Duration{a})
		floor.add(b, []time.Duration{b})
	}
	return ours, floor, nil
}

func timed(ctx context.Context, do func(context.Context, int) error, i int) (time.Duration, error) {
	start := time.Now()
	err := do(ctx, i)
	return time.Since(start), err
}

// percentile is the smallest time that p percent of all do not exceed, in
// microseconds.
func percentile(times []time.Duration, p int) float64 {
	sorted := slices.Sorted(slices.Values(times))
	rank := (len(sorted)*p + 99) / 100
	return float64(sorted[max(rank, 1)-1].Nanoseconds()) / 1000
}

// sample is the times of single operations and how long all of them took.
type sample struct {
	times []time.Duration
	total time.Duration
}

func (s *sample) add(total time.Duration, times []time.Duration) {
	s.times, s.total = append(s.times, times...), s.total+total
}

func (s *sample) perSecond() float64 { return float64(len(s.times)) / s.total.Seconds() }
