package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/wsmesh/wsmesh/node/onebox"
)

// mcpGrace is how long the commands of others may go on when a process ends that
// ran the box by the way: MCP clients kill a server that takes longer than a few
// seconds.
const mcpGrace = 2 * time.Second

// startBox runs the one box of the data directory in this process.
func (m *mcpFlags) startBox(ctx context.Context, port int, log *slog.Logger) (box, error) {
	dir, err := m.dir()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	b, err := onebox.Start(ctx, onebox.Config{
		Data: dir, Port: port, Isolation: m.isolation, Net: m.net, NetExcept: m.netExcept, Grace: mcpGrace, Version: version, Log: log,
	})
	if err != nil {
		return nil, local(err)
	}
	log.Info("started a one box", "data", dir, "url", b.URL())
	return b, nil
}
