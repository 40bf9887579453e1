//go:build unix

package main

import (
	"context"
	"iter"
	"os"
	"os/signal"
	"syscall"
)

// sizeChanges yields when our terminal may have another size, first at once, until
// ctx ends.
func sizeChanges(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGWINCH)
		defer signal.Stop(signals)
		for yield(struct{}{}) {
			select {
			case <-signals:
			case <-ctx.Done():
				return
			}
		}
	}
}
