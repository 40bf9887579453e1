package sandbox

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// long is a grace that no test waits for.
const long = time.Minute

// testStops ends trees with a grace.
func testStops(t *testing.T, b *bench) {
	ownBox := b.runner.Level().Driver == IsolationBwrap && !b.runner.Level().Warm
	// A second process of its own session, which says when it is ready for SIGTERM.
	const child = `setsid sh -c 'trap "sleep 0.1; echo child; exit" TERM; echo up; while :; do sleep 0.01; done' & `
	t.Run("the whole tree", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", "trap 'wait; echo main; exit 3' TERM; "+child+"while :; do sleep 0.01; done"))
		p.out.waitFor(t, "up")
		p.Stop(long)
		p.Stop(time.Nanosecond)
		o := p.finish(t)
		require.Equal(t, 3, o.Code)
		require.Equal(t, "up\nchild\nmain\n", o.stdout)
		require.Empty(t, o.Limit)
	})
	t.Run("the rest has its time", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", child+"while :; do sleep 0.01; done"))
		p.out.waitFor(t, "up")
		p.Stop(long)
		o := p.finish(t)
		require.Equal(t, 143, o.Code)
		if !ownBox {
			require.Contains(t, o.stdout, "child")
		}
	})
	t.Run("who does not listen", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", b.family()+" trap '' TERM; echo up; while :; do sleep "+marker+"; done"))
		p.out.waitFor(t, "up")
		began := time.Now()
		p.Stop(100 * time.Millisecond)
		o := p.finish(t)
		require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
		require.Equal(t, 137, o.Code)
		require.Empty(t, marked(marker))
	})
	t.Run("a rest that does not listen", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", b.family()+" echo up; sleep "+marker))
		p.out.waitFor(t, "up")
		p.Stop(100 * time.Millisecond)
		o := p.finish(t)
		require.Equal(t, 143, o.Code)
		require.Empty(t, marked(marker))
	})
	t.Run("what is stopped", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", "trap 'echo woken; exit 4' TERM; echo up; kill -STOP $$; sleep "+marker))
		p.out.waitFor(t, "up")
		p.Stop(long)
		o := p.finish(t)
		require.Equal(t, 4, o.Code)
		require.Equal(t, "up\nwoken\n", o.stdout)
	})
	t.Run("at once", func(t *testing.T) {
		for range 5 {
			p := b.start(t, b.spec(t, "sleep", marker))
			p.Stop(long)
			require.Equal(t, 143, p.finish(t).Code)
		}
	})
	t.Run("an impatient second", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"))
		p.out.waitFor(t, "up")
		p.Stop(long)
		p.Kill()
		require.Equal(t, 137, p.finish(t).Code)
	})
}
