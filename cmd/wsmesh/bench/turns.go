package bench

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// turnOps is how many operations one caller does in its turn: enough that the
// wait for the last caller of a turn does not show.
const turnOps = 8

// takeTurns measures p.callers callers of ours, then as many of the floor, and
// so on; the two are never under way together. The first turn of each is dropped.
func takeTurns(ctx context.Context, p *pair, n int) (ours, floor sample, err error) {
	least := min(n, MinN)
	for turn, start := 0, time.Now(); len(ours.times) < least || len(ours.times) < n && time.Since(start) < DefaultTime; turn++ {
		a, b := sample{}, sample{}
		if a, err = oneTurn(ctx, p.ours, p.callers); err != nil {
			return ours, floor, err
		}
		if b, err = oneTurn(ctx, p.floor, p.callers); err != nil {
			return ours, floor, err
		}
		if turn > 0 {
			ours.add(a.total, a.times)
			floor.add(b.total, b.times)
		}
	}
	return ours, floor, nil
}

func oneTurn(ctx context.Context, do func(context.Context, int) error, callers int) (sample, error) {
	times := make([]time.Duration, callers*turnOps)
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for c := range callers {
		g.Go(func() error {
			for i := c * turnOps; i < (c+1)*turnOps; i++ {
				var err error
				if times[i], err = timed(ctx, do, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return sample{times: times, total: time.Since(start)}, err
}
