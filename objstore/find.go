package objstore

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/wsmesh/wsmesh/mesh"
)

// FoundCommit is a commit that FindCommits has found.
type FoundCommit struct {
	Ref
	Number uint64
	Epoch  mesh.Epoch
}

// FindCommits returns the commits of a workspace, by the id of its record, in no
// order, whoever knows of them: it reads the end of each pack of the tenant, since a
// commit is the last blob of its pack. What is damaged is left out. For when the
// way from commit to commit is lost.
func (s *Store) FindCommits(ctx context.Context, workspace string) (all []FoundCommit, err error) {
	packs, err := s.Packs(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * s.workers)
	for _, pack := range packs {
		g.Go(func() error {
			c, id, err := s.lastCommit(ctx, pack)
			if mesh.CodeOf(err) == mesh.CodeUnavailable || ctx.Err() != nil {
				return err
			}
			if err != nil || c == nil || c.Workspace != workspace {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, FoundCommit{Ref{Pack: pack, Commit: id}, c.Number, c.Epoch})
			return nil
		})
	}
	return all, g.Wait()
}

// lastCommit returns the commit that ends a pack; nil if none does.
func (s *Store) lastCommit(ctx context.Context, pack ID) (*Commit, ID, error) {
	blobs, err := s.end(ctx, pack)
	if err != nil {
		return nil, ID{}, err
	}
	last := blobs[len(blobs)-1]
	if last.size > MaxCommit {
		return nil, ID{}, nil
	}
	stored, err := s.load(ctx, pack, last)
	if err == nil {
		stored, err = s.unpack(last, stored)
	}
	if err != nil || stored[0] != CommitFormat && stored[0] != plainCommitFormat {
		return nil, ID{}, err
	}
	c, err := DecodeCommit(stored)
	return c, last.id, err
}
