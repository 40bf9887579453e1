package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/mirror"
)

// One operation of the row mirror is 64 MiB that cannot be compressed, in files of
// mirrorBytes; the floor puts objects of that size, mirrorPuts at a time.
const (
	mirrorFiles = 16
	mirrorBytes = 4 << 20
	mirrorPuts  = 4
	mirrorLeast = 5
	mirrorTries = 20 // to write before a part is copied
	mirrorWait  = time.Minute
)

// mirrorPair copies a commit to the mesh's mirror, from when it is asked for to when the
// copy's head names it, against puts of as many bytes to the same place.
func mirrorPair(ctx context.Context, cfg Config, ws *client.Workspace) (*pair, error) {
	if cfg.Mirror == nil {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "bench: the mesh has no mirror; start its nodes with --s3 URL")
	}
	m, err := mirror.New(cfg.Mirror, "")
	if err != nil {
		return nil, err
	}
	data, below := make([]byte, mirrorBytes), "bench-"+mesh.NewID()[:8]+"/"
	head := func(ctx context.Context) (mirror.Head, error) {
		return m.Head(ctx, mesh.Tenant(cfg.Client.Tenant()), mesh.Workspace(ws.Name()))
	}
	puts := func(ctx context.Context, do func(ctx context.Context, name string) error) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(mirrorPuts)
		for i := range mirrorFiles {
			g.Go(func() error { return do(ctx, fmt.Sprint(below, i)) })
		}
		return g.Wait()
	}
	ours := func(ctx context.Context) (time.Duration, error) {
		before, err := head(ctx)
		if err != nil {
			return 0, err
		}
		for i := range mirrorFiles {
			rand.Read(data) //nolint:errcheck // never fails
			if err := ws.WriteFile(ctx, fmt.Sprint("f", i), data, 0); err != nil {
				return 0, err
			}
		}
		began := time.Now()
		if now, err := head(ctx); err != nil || now.Ref != before.Ref { // a part of it is copied already
			return 0, err
		}
		commit, err := ws.Commit(ctx)
		for err == nil {
			var h mirror.Head
			if h, err = head(ctx); err == nil && h.Ref.Commit.String() == commit {
				break
			}
			if time.Since(began) > mirrorWait {
				return 0, mesh.Errorf(mesh.CodeUnavailable, "bench: a commit was not copied within %s; see wsmesh status", mirrorWait)
			}
			time.Sleep(2 * time.Millisecond)
		}
		return time.Since(began), err
	}
	return &pair{
		floorName: fmt.Sprintf("put of %d MiB", mirrorFiles*mirrorBytes>>20),
		least:     mirrorLeast,
		lag: func(ctx context.Context, _ int) (time.Duration, error) {
			for range mirrorTries {
				took, err := ours(ctx)
				if err == nil {
					err = mirrorRests(ctx, cfg)
				}
				if took > 0 || err != nil {
					return took, err
				}
			}
			return 0, mesh.Errorf(mesh.CodeBusy, "bench: %d MiB are not written before the mesh copies a part of them", mirrorFiles*mirrorBytes>>20)
		},
		floor: func(ctx context.Context, _ int) error {
			return puts(ctx, func(ctx context.Context, name string) error {
				_, err := cfg.Mirror.Put(ctx, name, bytes.NewReader(data), mirrorBytes, objstore.PutOptions{})
				return err
			})
		},
		after: func(ctx context.Context, _ int) error { return puts(ctx, cfg.Mirror.Delete) },
		check: func(context.Context) error { return nil }, // the head was read
		close: func() {},
	}, nil
}

// mirrorRests waits until nothing is copied.
func mirrorRests(ctx context.Context, cfg Config) error {
	for end := time.Now().Add(mirrorWait); ; {
		s, err := status(ctx, cfg.Floor)
		if err != nil || s.Mirror == nil || s.Mirror.Seconds == 0 && s.Mirror.FilesSeconds == 0 || time.Now().After(end) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
