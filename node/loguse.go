package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultMaxLogs is how many bytes of exec logs one tenant may store by one node
	// in the time that they are kept: many workspaces' work, and far from what fills
	// the streams for the others.
	DefaultMaxLogs = 16 << 30
	// frameRoom is what a frame takes besides its bytes: so many small logs are
	// bounded too.
	frameRoom = 512
	// keepUseEvery is how much of the count a crash loses.
	keepUseEvery = 10 * time.Second
)

// logUse counts what the exec logs hold that this node has written, by workspace
// and hour, since logs expire by their age. It is kept in a file of the node's: a
// workspace that moves is counted where it was, until its logs have expired.
type logUse struct {
	file string
	log  *slog.Logger

	mu    sync.Mutex
	use   map[mesh.Tenant]map[mesh.Workspace]map[int64]int64 // bytes by hour
	sum   map[mesh.Tenant]int64
	at    int64 // hour of the last look for what has expired
	dirty bool
}

func openLogUse(file string, log *slog.Logger) *logUse {
	u := &logUse{file: file, log: log, use: map[mesh.Tenant]map[mesh.Workspace]map[int64]int64{}, sum: map[mesh.Tenant]int64{}}
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &u.use)
	}
	if err != nil && !os.IsNotExist(err) {
		log.Warn("what exec logs hold is counted anew", "err", err)
		u.use = map[mesh.Tenant]map[mesh.Workspace]map[int64]int64{}
	}
	u.expire(hourNow())
	return u
}

func hourNow() int64 { return time.Now().Unix() / 3600 }

// expire forgets hours whose logs are gone. Called with mu held, or by the maker.
func (u *logUse) expire(now int64) {
	if u.at == now {
		return
	}
	u.at = now
	oldest := now - int64(mesh.DefaultLogAge/time.Hour)
	clear(u.sum)
	for t, workspaces := range u.use {
		for w, hours := range workspaces {
			for h, n := range hours {
				if h < oldest {
					delete(hours, h)
				} else {
					u.sum[t] += n
				}
			}
			if len(hours) == 0 {
				delete(workspaces, w)
			}
		}
		if len(workspaces) == 0 {
			delete(u.use, t)
		}
	}
}

// add counts bytes, which may be negative, unless they would exceed most.
func (u *logUse) add(k key, bytes, most int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	hour := hourNow()
	u.expire(hour)
	if bytes > 0 && u.sum[k.tenant]+bytes > most {
		return false
	}
	if u.use[k.tenant] == nil {
		u.use[k.tenant] = map[mesh.Workspace]map[int64]int64{}
	}
	if u.use[k.tenant][k.workspace] == nil {
		u.use[k.tenant][k.workspace] = map[int64]int64{}
	}
	u.use[k.tenant][k.workspace][hour] += bytes
	u.sum[k.tenant] += bytes
	u.dirty = true
	return true
}

// drop forgets a workspace.
func (u *logUse) drop(k key) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.use[k.tenant], k.workspace)
	u.at, u.dirty = 0, true // sums are made anew
}

// dropTenant forgets a tenant.
func (u *logUse) dropTenant(t mesh.Tenant) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.use[t] != nil {
		delete(u.use, t)
		u.at, u.dirty = 0, true
	}
}

// keep saves the counts until ctx ends.
func (u *logUse) keep(ctx context.Context) error {
	tick := time.NewTicker(keepUseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			u.save()
		}
	}
}

func (u *logUse) save() {
	u.mu.Lock()
	raw, err := json.Marshal(u.use)
	dirty := u.dirty
	u.dirty = false
	u.mu.Unlock()
	if dirty && err == nil {
		err = writeSynced(u.file, raw)
	}
	if err != nil {
		u.log.Warn("what exec logs hold is not kept", "err", err)
	}
}

// tenantSpace is the logSpace of one workspace's tenant.
type tenantSpace struct {
	node *Node
	key  key
}

func (s *tenantSpace) take(bytes int) bool {
	return s.node.logs.add(s.key, int64(bytes+frameRoom), s.node.cfg.MaxLogs)
}
func (s *tenantSpace) give(bytes int) { s.node.logs.add(s.key, -int64(bytes), 0) }
func (s *tenantSpace) enter() bool    { return s.node.logFrames.Take(string(s.key.tenant)) }
func (s *tenantSpace) leave()         { s.node.logFrames.Give(string(s.key.tenant)) }

// admitLog takes the room for a claim and a final frame, or refuses a new exec.
func (w *workspace) admitLog() error {
	space := tenantSpace{w.node, key{w.tenant, w.name}}
	if space.take(frameRoom) {
		return nil
	}
	return mesh.Errorf(mesh.CodeQuota, "the logs of tenant %s's commands hold %s, which is the limit; they expire after %d days: remove a workspace with: wsmesh workspace rm NAME",
		w.tenant, size(w.node.cfg.MaxLogs), int(mesh.DefaultLogAge.Hours()/24))
}

func size(bytes int64) string {
	if bytes >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}

// dropLogs removes the logs of a workspace that is removed: its ids are another
// workspace's if the name is used again.
func (w *workspace) dropLogs(ctx context.Context) error {
	err := w.streams.log.Purge(ctx, jetstream.WithPurgeSubject(w.logSubject("*")))
	if err != nil {
		return fmt.Errorf("remove the exec logs: %w", unavailable(err))
	}
	w.node.logs.drop(key{w.tenant, w.name})
	return nil
}
