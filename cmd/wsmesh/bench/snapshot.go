package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// fill puts a tree into a workspace, and returns what is in it.
func fill(ctx context.Context, cfg Config, ws *client.Workspace) (names []string, sums [][sha256.Size]byte, err error) {
	if cfg.Files <= 0 {
		cfg.Files = DefaultFiles
	}
	archive, names, sums, err := tree(cfg.Files)
	if err == nil {
		err = ws.PutDir(ctx, ".", bytes.NewReader(archive))
	}
	return names, sums, err
}

// forkPair forks a workspace of many files, up to the first one that is read.
func forkPair(ctx context.Context, cfg Config, ws *client.Workspace) (*pair, error) {
	names, sums, err := fill(ctx, cfg, ws)
	if err != nil {
		return nil, err
	}
	if _, err := ws.CreateSnapshot(ctx, "bench", ""); err != nil {
		return nil, err
	}
	fork := func(i int) string { return fmt.Sprintf("%s-%d", ws.Name(), i) }
	return &pair{
		ours: func(ctx context.Context, i int) error {
			if _, err := cfg.Client.Fork(ctx, ws.Name(), "bench", fork(i)); err != nil {
				return err
			}
			b, err := cfg.Client.Workspace(fork(i)).ReadFile(ctx, names[i%len(names)])
			if err == nil && sha256.Sum256(b) != sums[i%len(names)] {
				err = mesh.Errorf(mesh.CodeInternal, "bench: the fork has other bytes than were written")
			}
			return err
		},
		after: func(ctx context.Context, i int) error { return cfg.Client.RemoveWorkspace(ctx, fork(i)) },
		close: func() {},
	}, nil
}

// snapshotPair makes snapshots of a workspace of many files: when one file has changed,
// against when none has.
func snapshotPair(ctx context.Context, cfg Config, ws *client.Workspace) (*pair, error) {
	names, _, err := fill(ctx, cfg, ws)
	if err != nil {
		return nil, err
	}
	made := 0
	snapshot := func(ctx context.Context, _ int) error {
		made++
		_, err := ws.CreateSnapshot(ctx, fmt.Sprintf("s%d", made), "")
		return err
	}
	if err := snapshot(ctx, 0); err != nil {
		return nil, err
	}
	return &pair{
		floorName: "unchanged",
		lag: func(ctx context.Context, i int) (time.Duration, error) {
			if err := ws.WriteFile(ctx, names[i%len(names)], random(), 0); err != nil {
				return 0, err
			}
			return timed(ctx, snapshot, i)
		},
		floor: snapshot,
		check: func(ctx context.Context) error {
			all := slices.Collect(func(yield func(string) bool) {
				for s, err := range ws.Snapshots(ctx) {
					if err != nil || !yield(string(s.Name)) {
						return
					}
				}
			})
			if len(all) != made {
				return mesh.Errorf(mesh.CodeInternal, "bench: %d of %d snapshots are there", len(all), made)
			}
			return nil
		},
		close: func() {},
	}, nil
}
