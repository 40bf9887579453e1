package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
	"github.com/wsmesh/wsmesh/objstore/treefs"
	"github.com/wsmesh/wsmesh/router"
	"github.com/wsmesh/wsmesh/sandbox"
)

// Defaults and bounds of a node.
const (
	// DefaultGrace is how long Run lets commands finish after its context ended.
	DefaultGrace = 30 * time.Second
	// DefaultMaxExecs bounds the commands that run at a time on one node.
	DefaultMaxExecs = 256
	// DefaultMaxWorkspaces bounds the workspaces of one tenant.
	DefaultMaxWorkspaces = 1000
	// DefaultMaxCreations bounds the workspaces being created at a time on one node.
	DefaultMaxCreations = 16
)

// Config says who the node is and what it works with. Door, Store, Data and
// Name are required; the caller owns the connections and closes them after Run
// has returned.
type Config struct {
	Name      mesh.Node
	Data      string          // directory for workspaces; one node at a time
	Door      *nats.Conn      // with the door's credential
	Store     *nats.Conn      // with the store's credential
	Signer    *auth.Signer    // issues tokens; nil: token issue is unsupported
	First     auth.FirstToken // of a tenant that is made with the mesh; zero: none
	Storage   mesh.Storage    // zero: one shard, one replica
	Sync      string          // how NATS syncs, if known here; shown in status
	Isolation string          // auto (default), bwrap, software, none
	Capture   string          // how changes of commands are found: auto (default), fanotify, scan
	HostDirs  bool            // the operator may make a directory of the host a workspace

	// Where the node is and what it is like, for workspaces that need it: mesh.CheckPlace.
	Zone   string
	Labels map[string]string

	// Network of commands, as egress.Parse reads it.
	Net       string        // of those that name none, in workspaces that have none; default none
	MaxNet    string        // the most that a command or a workspace may ask for; default none
	NetExcept []string      // addresses that are not public and may be reached, as egress.ParseException reads them
	Resolver  *net.Resolver // finds the hosts that they may reach; default the machine's
	Own       []string      // URLs of the mesh that no command reaches, besides those of its NATS servers

	Mirror MirrorConfig

	Grace   time.Duration
	MaxLog  int64         // bytes of output that are kept of one exec; default DefaultMaxLog
	MaxLogs int64         // bytes of exec logs that one tenant may store by this node; default DefaultMaxLogs
	Idle    time.Duration // how long a workspace that is not used stays open; default DefaultIdle
	// Meanwhile is how often what a command changes is captured while it runs; default
	// DefaultMeanwhile.
	Meanwhile time.Duration
	Sweep     time.Duration // how often closed workspaces are looked at; default DefaultSweep
	MaxTail   int64         // bytes of changes of one workspace that are in no commit; default DefaultMaxTail
	Silence   time.Duration // see router.DefaultSilence
	MaxOpen   int           // workspaces that are open at a time; default DefaultMaxOpen
	Probe     time.Duration // how often the node tries its disk and its sandbox; default DefaultProbe
	// CollectAge is how old what nothing refers to is before it is deleted; default
	// DefaultCollectAge. Less is for tests: a slow writer may still refer to it.
	CollectAge time.Duration
	Version    string
	Log        *slog.Logger
}

// Node is a running node. Make it with New, then call Run once.
type Node struct {
	cfg         Config
	log         *slog.Logger
	incarnation string
	started     time.Time
	lock        *flock.Flock

	js      jetstream.JetStream
	kv      *kv.Store
	memory  *kv.Memory
	shards  []shard
	router  *router.Router
	runner  *sandbox.Runner
	watcher *dirtree.Watcher // of the data directory's file system; nil: captures scan
	network network
	door    *mesh.Responder // answers tenants and the operator
	peers   *mesh.Responder // answers nodes

	ready     atomic.Bool     // the door's subscriptions are known to the server
	execs     *mesh.Slots     // of running commands
	downloads *mesh.Slots     // of open tar streams, whose parts are kept in memory
	edits     *mesh.Slots     // of large files
	bulk      *mesh.Slots     // of copies, unpackings and recursive removals
	lists     *mesh.Slots     // of lists
	creations *mesh.Slots     // of workspaces being created, between the look at the quota and the record
	searches  *mesh.Slots     // of searches and greps under way, each of which may keep a processor busy
	verifies  *mesh.Slots     // of workspaces that are verified or recovered
	collect   chan collection // that somebody asked for
	counts    *mesh.Slots     // of workspaces whose files are being counted
	stores    *lru.Cache[storeKey, *objstore.Store]
	views     *lru.Cache[viewKey, *viewAt]
	trees     *treefs.Cache // of the views
	links     *lru.Cache[objstore.Ref, commitLink]
	logFrames *mesh.Slots // of frames of exec logs that are on their way
	logs      *logUse     // what exec logs hold
	fitness   fitness
	mirror    *mirroring // nil: there is none
	restored  sync.Map   // *restoredPart of what answerRestore has looked at, by what that is
	tenants   tenants
	hostDirs  *mesh.Slots // one: what is taken is read before a directory of the host is

	mu         sync.Mutex
	workspaces map[key]*workspace
	copies     map[key]*copying            // of workspaces that other nodes have
	limits     map[mesh.Tenant]mesh.Limits // as they were set
	draining   bool
	open       sync.WaitGroup // workspaces that run
	trashed    chan struct{}  // something has come into the trash
}

type key struct {
	tenant    mesh.Tenant
	workspace mesh.Workspace
}

// shard is the pair of streams that a workspace lives in.
type shard struct {
	journal mesh.Leader
	log     jetstream.Stream
}

// New checks the host and the mesh: it locks the data directory (CodeBusy when
// another process has it), runs the sandbox's canary, and creates the streams
// or refuses to work on those with other settings (CodeConflict). Call Run or
// Close afterwards.
func New(ctx context.Context, cfg Config) (_ *Node, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Storage.Shards == 0 {
		cfg.Storage.Shards = 1
	}
	if cfg.Storage.Replicas == 0 {
		cfg.Storage.Replicas = 1
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.MaxLog == 0 {
		cfg.MaxLog = DefaultMaxLog
	}
	if cfg.MaxLogs == 0 {
		cfg.MaxLogs = DefaultMaxLogs
	}
	if cfg.MaxTail == 0 {
		cfg.MaxTail = DefaultMaxTail
	}
	if cfg.CollectAge == 0 {
		cfg.CollectAge = DefaultCollectAge
	}
	if cfg.Idle == 0 {
		cfg.Idle = DefaultIdle
	}
	if cfg.Meanwhile == 0 {
		cfg.Meanwhile = DefaultMeanwhile
	}
	if cfg.Sweep == 0 {
		cfg.Sweep = DefaultSweep
	}
	if cfg.MaxOpen == 0 {
		cfg.MaxOpen = DefaultMaxOpen
	}
	if cfg.Probe == 0 {
		cfg.Probe = DefaultProbe
	}
	if err := mesh.CheckPlace(cfg.Zone, cfg.Labels); err != nil {
		return nil, err
	}
	n := &Node{
		tenants: newTenants(),
		trashed: make(chan struct{}, 1),
		collect: make(chan collection, 1),
		cfg:     cfg, log: cfg.Log.With("node", string(cfg.Name)), incarnation: mesh.NewID(), started: time.Now().UTC(),
		workspaces: map[key]*workspace{}, copies: map[key]*copying{}, execs: mesh.NewSlots(DefaultMaxExecs), downloads: mesh.NewSlots(DefaultMaxDownloads),
		searches: mesh.NewSlots(DefaultMaxSearches), bulk: mesh.NewSlots(DefaultMaxBulk), lists: mesh.NewSlots(DefaultMaxLists), edits: mesh.NewSlots(DefaultMaxEdits), creations: mesh.NewSlots(DefaultMaxCreations),
		hostDirs: mesh.NewSlots(1), counts: mesh.NewSlots(DefaultMaxCounts), limits: map[mesh.Tenant]mesh.Limits{},
		logFrames: mesh.NewSlots(DefaultLogFrames), verifies: mesh.NewSlots(DefaultMaxVerifies),
	}
	if n.stores, err = lru.New[storeKey, *objstore.Store](maxStores); err != nil {
		return nil, err
	}
	if err := n.makeViews(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.network, err = newNetwork(&n.cfg); err != nil {
		return nil, err
	}
	if err := n.lockData(); err != nil {
		return nil, err
	}
	n.logs = openLogUse(filepath.Join(cfg.Data, "logs.json"), n.log)
	if err := n.bindStreams(ctx); err != nil {
		return nil, fmt.Errorf("node %s: %w", cfg.Name, err)
	}
	n.runner, err = sandbox.New(ctx, sandbox.Config{Isolation: cfg.Isolation, Log: n.log, StateID: n.stateID()})
	if err == nil {
		err = n.checkHeld()
	}
	if err != nil {
		return nil, err
	}
	if n.watcher, err = n.listen(); err != nil {
		return nil, err
	}
	n.judge(nil, n.runner.Refusal())
	n.door = mesh.NewResponder(cfg.Door, cfg.Name, n.log)
	n.peers = mesh.NewResponder(cfg.Store, cfg.Name, n.log)
	if n.mirror, err = newMirroring(ctx, n); err != nil {
		return nil, err
	}
	n.router = router.New(router.Config{Conn: cfg.Store, Owners: n.kv.Owners, Nodes: n.kv.Nodes, Silence: cfg.Silence})
	return n, nil
}

func (n *Node) lockData() error {
	if err := os.MkdirAll(n.treeDir(), 0o700); err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "make the data directory: %s", err)
	}
	n.lock = flock.New(filepath.Join(n.cfg.Data, "node.lock"), flock.SetPermissions(0o600))
	held, err := n.lock.TryLock()
	if err != nil {
		return mesh.Errorf(mesh.CodeOf(err), "lock the data directory: %s", err)
	}
	if !held {
		return mesh.Errorf(mesh.CodeBusy, "another node runs on the data directory %s", n.cfg.Data)
	}
	return nil
}

// listen begins to hear what changes in workspaces, where that is possible and
// wanted. CodeUnsupported says why fanotify, asked for by name, is not.
func (n *Node) listen() (*dirtree.Watcher, error) {
	switch n.cfg.Capture {
	case "", "auto", mesh.CaptureFanotify:
	case mesh.CaptureScan:
		return nil, nil
	default:
		return nil, mesh.Errorf(mesh.CodeInvalid, "capture %.20q is not auto, fanotify or scan", n.cfg.Capture)
	}
	w, err := dirtree.NewWatcher(n.treeDir())
	if err == nil {
		return w, nil
	}
	if n.cfg.Capture == mesh.CaptureFanotify {
		return nil, fmt.Errorf("capture fanotify: %w", err)
	}
	n.log.Info("changes of commands are found by scans", "err", err)
	return nil, nil
}

// capture is how changes are found in workspaces that are not directories of the host.
func (n *Node) capture() string {
	if n.watcher == nil {
		return mesh.CaptureScan
	}
	return mesh.CaptureFanotify
}

func (n *Node) treeDir() string { return filepath.Join(n.cfg.Data, "workspaces") }

// stateID names this data directory to the host, so that leftovers of a dead
// predecessor are told from a neighbour's.
func (n *Node) stateID() string {
	path := filepath.Join(n.cfg.Data, "node.id")
	if b, err := os.ReadFile(path); err == nil && len(b) == 36 {
		return string(b)
	}
	id := mesh.NewID()
	if err := os.WriteFile(path, []byte(id), 0o600); err != nil {
		n.log.Warn("data directory id not kept", "err", err)
	}
	return id
}

func (n *Node) bindStreams(ctx context.Context) error {
	var err error
	if n.js, err = jetstream.New(n.cfg.Store, jetstream.WithPublishAsyncTimeout(ackTimeout)); err != nil {
		return err
	}
	if err := mesh.EnsureStreams(ctx, n.js, n.cfg.Storage); err != nil {
		return err
	}
	if n.kv, err = kv.Open(ctx, n.js); err != nil {
		return err
	}
	if t := n.cfg.First; t.ID != "" {
		first := kv.TokenRecord{ID: t.ID, User: t.User, Tenant: t.Tenant, Generation: auth.FirstGeneration, Issued: t.Issued}
		if err := n.kv.Tenants.CreateFirst(ctx, first); err != nil {
			return fmt.Errorf("make the first tenant: %w", err)
		}
	}
	n.memory = kv.NewMemory(n.cfg.Store, n.js, n.cfg.Storage)
	for i := range n.cfg.Storage.Shards {
		s := shard{journal: mesh.AtLeader(n.cfg.Store, mesh.JournalStream(i))}
		if s.log, err = n.js.Stream(ctx, mesh.ExecLogStream(i)); err != nil {
			return err
		}
		n.shards = append(n.shards, s)
	}
	return nil
}

// Close releases what New has taken. Run does it itself. Idempotent.
func (n *Node) Close() error {
	n.open.Wait()
	if n.memory != nil {
		n.memory.Close()
	}
	if n.runner != nil {
		n.runner.Close()
	}
	if err := n.watcher.Close(); err != nil {
		n.log.Debug("close the watcher", "err", err)
	}
	if n.logs != nil {
		n.logs.save()
	}
	if n.lock != nil {
		return n.lock.Unlock()
	}
	return nil
}

// Run serves until ctx ends, then drains: it takes nothing new, lets commands
// finish within the grace, ends the others as lost, and gives its workspaces
// up. serving, if not nil, is called once requests are answered. The error is
// nil after a drain, and says what else ended the node.
func (n *Node) Run(ctx context.Context, serving func()) error {
	defer n.Close()
	revision, err := n.register(ctx)
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx by the drain
	defer stop()
	subs, err := n.subscribe(work)
	if err != nil {
		return fmt.Errorf("node %s: %w", n.cfg.Name, err)
	}
	n.watchConnection(work)
	n.ready.Store(true)

	var owners sync.WaitGroup // until the last workspace is given up
	owners.Go(func() { n.watchOwners(work) })
	if n.mirror != nil {
		owners.Go(func() { n.mirror.run(work) })
	}
	g, bg := errgroup.WithContext(ctx)
	g.Go(func() error { return n.renew(bg, revision) })
	g.Go(func() error { return n.watchTenants(bg) })
	g.Go(func() error { return n.logs.keep(bg) })
	g.Go(func() error { return n.closeIdle(bg) })
	g.Go(func() error { return n.sweepClosed(bg) })
	g.Go(func() error { return n.keepFit(bg) })
	g.Go(func() error { return n.discardRemoved(bg) })
	g.Go(func() error { return n.emptyTrash(bg) })
	g.Go(func() error { return n.collectDaily(bg) })
	level := n.runner.Level()
	n.log.Info("node serves", "isolation", level.Driver, "warm", level.Warm, "limits", level.Limits, "landlock", level.Landlock, "reason", level.Reason)
	if serving != nil {
		serving()
	}
	err = g.Wait() // ctx ended, or the registry says that we must not go on
	end := time.Now().Add(n.cfg.Grace)
	n.drain(subs)
	flushErr := n.flushMirror(work, end)
	stop()
	owners.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	return cmp.Or(err, flushErr)
}

// register announces the node. A process that still runs under the name is
// found by asking it.
func (n *Node) register(ctx context.Context) (uint64, error) {
	old, err := n.kv.Nodes.Get(ctx, n.cfg.Name)
	if err != nil {
		return 0, fmt.Errorf("register node %s: %w", n.cfg.Name, err)
	}
	if old.Revision != 0 && !old.Draining && n.router.Alive(ctx, n.cfg.Name) {
		return 0, mesh.Errorf(mesh.CodeConflict, "another process runs as node %s; give this one another --name", n.cfg.Name)
	}
	return n.kv.Nodes.Put(ctx, n.record(false), old.Revision)
}

func (n *Node) record(draining bool) kv.NodeRecord {
	level, _ := json.Marshal(n.runner.Level())
	behind := n.mirror.behind()
	n.mu.Lock()
	defer n.mu.Unlock()
	return kv.NodeRecord{
		Node: n.cfg.Name, Incarnation: n.incarnation, Version: n.cfg.Version,
		Wire: [2]int{1, 1}, Format: [2]int{1, objstore.RecordFormat}, Started: n.started, Renewed: time.Now().UTC(),
		Sync: n.cfg.Sync, Replicas: n.cfg.Storage.Replicas,
		Workspaces: len(n.workspaces), Draining: draining, Isolation: level, Capture: n.capture(), Net: n.network.grant.String(),
		Mirror: behind, Zone: n.cfg.Zone, Labels: n.cfg.Labels, Driver: n.runner.Level().Driver, Room: n.room(len(n.workspaces)), Unfit: n.fitness.unfit(),
	}
}

// renew keeps the registry record fresh. It ends with ctx, or when another
// process took the name: then this one must stop.
func (n *Node) renew(ctx context.Context, revision uint64) error {
	tick := time.NewTicker(kv.RenewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if _, err := n.kv.Nodes.Put(bye, n.record(true), revision); err != nil {
				n.log.Debug("drain not announced", "err", err)
			}
			return ctx.Err()
		case <-tick.C:
		}
		rev, err := n.kv.Nodes.Put(ctx, n.record(false), revision)
		switch {
		case err == nil:
			revision = rev
			n.router.Renewed(rev)
		case mesh.CodeOf(err) == mesh.CodeConflict:
			return err
		default:
			n.log.Debug("registry not renewed", "err", err)
		}
	}
}

// watchOwners steps down from every workspace that a newer epoch names. A watch
// that breaks is set up again; it starts with every present record.
func (n *Node) watchOwners(ctx context.Context) {
	for {
		err := n.kv.Owners.Watch(ctx, func(ev kv.OwnerEvent) {
			n.mu.Lock()
			w := n.workspaces[key{ev.Tenant, ev.Workspace}]
			n.mu.Unlock()
			if w != nil && w.epoch.Load() != 0 && mesh.Epoch(w.epoch.Load()) < ev.Epoch && !w.releasing.Load() {
				w.stop(mesh.Errorf(mesh.CodeStale, "the workspace has a new owner"))
			}
		})
		if ctx.Err() != nil {
			return
		}
		n.log.Debug("owners watch ended, starting again", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// watchConnection makes the node silent while the door may be unknown to the
// server: after a reconnect the subscriptions are flushed and every workspace
// is checked in owners before a read is answered.
func (n *Node) watchConnection(ctx context.Context) {
	n.cfg.Store.SetReconnectHandler(func(*nats.Conn) {
		if err := n.recheck(ctx); err != nil {
			n.log.Warn("workspaces not checked after a reconnect", "err", err)
		}
	})
	n.cfg.Door.SetDisconnectErrHandler(func(*nats.Conn, error) { n.ready.Store(false) })
	n.cfg.Door.SetReconnectHandler(func(c *nats.Conn) {
		for c.FlushTimeout(5*time.Second) != nil {
			if !c.IsConnected() || ctx.Err() != nil {
				return // disconnected again: the next reconnect comes here too
			}
		}
		if err := n.recheck(ctx); err != nil {
			n.log.Warn("workspaces not checked after a reconnect", "err", err)
		}
		n.ready.Store(c.IsConnected())
	})
}

func (n *Node) recheck(ctx context.Context) error {
	for _, w := range n.list() {
		for {
			_, epoch, err := n.kv.Owners.Get(ctx, w.tenant, w.name)
			if err == nil {
				if own := mesh.Epoch(w.epoch.Load()); own != 0 && own < epoch {
					w.stop(mesh.Errorf(mesh.CodeStale, "the workspace has a new owner"))
				}
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

func (n *Node) list() []*workspace {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*workspace
	for _, w := range n.workspaces {
		all = append(all, w)
	}
	return all
}

// ofPeers is how many of the subscriptions, the first ones, are for other nodes.
const ofPeers = 1

func (n *Node) subscribe(ctx context.Context) ([]*nats.Subscription, error) {
	type asked struct {
		on             *mesh.Responder
		subject, queue string
		answer         mesh.Answer
	}
	all := []asked{
		{n.peers, mesh.NodeSubject(n.cfg.Name, "*"), "", n.answerNode},
		{n.door, mesh.AdminWildcard, mesh.AdminQueue, n.answerAdmin},
	}
	for _, subject := range mesh.APIWildcards {
		all = append(all, asked{n.door, subject, mesh.APIQueue, n.answerAPI})
	}
	for _, subject := range mesh.APINodeWildcards(n.cfg.Name) {
		all = append(all, asked{n.door, subject, "", n.answerAPI})
	}
	var subs []*nats.Subscription
	for _, s := range all {
		sub, err := s.on.Subscribe(ctx, s.subject, s.queue, s.answer)
		if err != nil {
			return nil, err
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// drain ends the node's work in the order that loses nothing: no new
// workspaces, no new requests of any node, commands within the grace, then the rest.
// Until then the other nodes are answered: who owns a workspace and is silent is dead
// to them.
func (n *Node) drain(subs []*nats.Subscription) {
	n.mu.Lock()
	n.draining = true
	n.mu.Unlock()
	end := func(all []*nats.Subscription) {
		for _, s := range all {
			if err := s.Drain(); err != nil {
				n.log.Debug("drain", "err", err)
			}
		}
	}
	end(subs[ofPeers:])
	var wg sync.WaitGroup
	n.endCopies(func(key) bool { return true })
	for _, w := range n.list() {
		wg.Go(func() { n.leaveTo(context.Background(), w, mesh.Errorf(mesh.CodeCanceled, "the node was stopped")) })
	}
	wg.Wait()
	n.open.Wait()
	end(subs[:ofPeers])
	n.door.Wait()
	n.peers.Wait()
	if err := n.cfg.Door.FlushTimeout(2 * time.Second); err != nil {
		n.log.Debug("last replies not flushed", "err", err)
	}
	n.log.Info("node stopped")
}
