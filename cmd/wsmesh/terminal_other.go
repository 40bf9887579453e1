//go:build !unix

package main

import (
	"context"
	"iter"
	"time"
)

// sizeChanges yields when our terminal may have another size, first at once, until
// ctx ends. Nothing tells us here, so it is looked at.
func sizeChanges(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for yield(struct{}{}) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}
