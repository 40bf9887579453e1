package sandbox

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

// family starts processes in sessions of their own and one that fell to init.
func (b *bench) family() string {
	sleep := "sleep " + marker
	if b.runner.Level().Driver != IsolationBwrap && b.runner.Level().Limits == limitsRlimit {
		return sleep + " & (" + sleep + " &);"
	}
	return "setsid " + sleep + " & (setsid sh -c '" + sleep + " & " + sleep + "' &); (trap '' TERM HUP INT; " + sleep + ") &"
}

func testTreeEnds(t *testing.T, b *bench) {
	t.Run("exit", func(t *testing.T) {
		o := b.run(t, "sh", "-c", b.family()+" exit 5")
		require.Equal(t, 5, o.Code)
		require.Empty(t, marked(marker))
	})
	t.Run("kill", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", b.family()+" echo up; sleep "+marker))
		p.out.waitFor(t, "up")
		p.Kill()
		p.Kill()
		o := p.finish(t)
		require.NoError(t, o.Err)
		require.Equal(t, 137, o.Code)
		require.Equal(t, "SIGKILL", o.Signal)
		require.Empty(t, marked(marker))
		p.Kill()
		require.ErrorIs(t, p.Signal(syscall.SIGTERM), mesh.Errorf(mesh.CodeNotFound, ""))
	})
	t.Run("kill at once", func(t *testing.T) {
		for range 10 {
			p := b.start(t, b.spec(t, "sleep", marker))
			p.Kill()
			require.Equal(t, 137, p.finish(t).Code)
		}
	})
	t.Run("close", func(t *testing.T) {
		r, err := New(t.Context(), Config{Isolation: b.runner.Level().Driver, StateID: stateID()})
		require.NoError(t, err)
		other := &bench{runner: r, dir: b.dir, uid: b.uid, gid: b.gid}
		p := other.start(t, b.spec(t, "sh", "-c", b.family()+" echo up; sleep "+marker))
		p.out.waitFor(t, "up")
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
		require.Equal(t, 137, p.finish(t).Code)
		require.Empty(t, marked(marker))
		_, err = r.Start(t.Context(), b.spec(t, "true"))
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeUnavailable, ""))
	})
}

func testClosing(t *testing.T, b *bench) {
	r, err := New(t.Context(), Config{Isolation: b.runner.Level().Driver, StateID: stateID()})
	require.NoError(t, err)
	started := make(chan struct{}, 64)
	var group sync.WaitGroup
	for range 6 {
		spec := b.spec(t, "sleep", marker)
		group.Go(func() {
			for {
				p, err := r.Start(t.Context(), spec)
				if err != nil {
					require.ErrorIs(t, err, mesh.Errorf(mesh.CodeUnavailable, ""))
					return
				}
				select {
				case started <- struct{}{}:
				default:
				}
				defer func() { require.Equal(t, "SIGKILL", p.Wait().Signal) }()
			}
		})
	}
	<-started
	require.NoError(t, r.Close())
	// Where no cgroup holds it, what bubblewrap is of a start that was given up
	// ends a moment later.
	allGone(t, marker)
	group.Wait()
}

func testSignals(t *testing.T, b *bench) {
	t.Run("caught", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sh", "-c", "trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.01; done"))
		p.out.waitFor(t, "up")
		require.NoError(t, p.Signal(syscall.SIGTERM))
		o := p.finish(t)
		require.Equal(t, 9, o.Code)
		require.Contains(t, o.stdout, "caught")
	})
	t.Run("not caught", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sleep", marker))
		require.NoError(t, p.Signal(syscall.SIGINT))
		require.Equal(t, 130, p.finish(t).Code)
	})
	t.Run("at once", func(t *testing.T) {
		for range 10 {
			p := b.start(t, b.spec(t, "sleep", marker))
			require.NoError(t, p.Signal(syscall.SIGTERM))
			require.Equal(t, 143, p.finish(t).Code)
		}
	})
	t.Run("stopped and killed", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sleep", marker))
		require.NoError(t, p.Signal(syscall.SIGSTOP))
		require.NoError(t, p.Signal(syscall.SIGKILL))
		require.Equal(t, 137, p.finish(t).Code)
	})
	t.Run("unknown", func(t *testing.T) {
		p := b.start(t, b.spec(t, "sleep", marker))
		require.ErrorIs(t, p.Signal(99), mesh.Errorf(mesh.CodeInvalid, ""))
		p.Kill()
		p.finish(t)
	})
}

func testAtOnce(t *testing.T, b *bench) {
	var group sync.WaitGroup
	for i := range 16 {
		spec := b.spec(t, "sh", "-c", fmt.Sprintf("echo %d; sleep 0.05; exit %d", i, i))
		p := b.start(t, spec)
		group.Go(func() {
			res := p.Wait()
			<-p.out.done
			if res.Code != i || res.Err != nil || p.out.String() != fmt.Sprintf("%d\n", i) {
				t.Errorf("command %d: %+v %q", i, res, p.out.String())
			}
		})
	}
	group.Wait()
}

func testRefusals(t *testing.T, b *bench) {
	for _, c := range []struct {
		name   string
		change func(*Spec)
		code   mesh.Code
	}{
		{"no directory", func(s *Spec) { s.Root = nil }, mesh.CodeInvalid},
		{"no command", func(s *Spec) { s.Argv = nil }, mesh.CodeInvalid},
		{"zero byte", func(s *Spec) { s.Argv = []string{"a\x00b"} }, mesh.CodeInvalid},
		{"long argument", func(s *Spec) { s.Argv = []string{"true", strings.Repeat("x", 200<<10)} }, mesh.CodeTooLarge},
		{"many arguments", func(s *Spec) { s.Argv = strings.Split(strings.Repeat("x ", 600<<10), " ") }, mesh.CodeTooLarge},
		{"bad variable", func(s *Spec) { s.Env = []string{"no-value"} }, mesh.CodeInvalid},
		{"a digit first", func(s *Spec) { s.Env = []string{"1A"} }, mesh.CodeInvalid},
		{"empty variable", func(s *Spec) { s.Env = []string{""} }, mesh.CodeInvalid},
		{"nameless variable", func(s *Spec) { s.Env = []string{"=x"} }, mesh.CodeInvalid},
		{"mount elsewhere", func(s *Spec) { s.Mount = "/etc" }, mesh.CodeInvalid},
		{"mount beside", func(s *Spec) { s.Mount = "/workspaces" }, mesh.CodeInvalid},
		{"mount with dots", func(s *Spec) { s.Mount = "/workspace/../etc" }, mesh.CodeInvalid},
		{"dir outside", func(s *Spec) { s.Dir = "/workspace/../etc" }, mesh.CodeInvalid},
		{"unknown network", func(s *Spec) { s.Net = "some" }, mesh.CodeInvalid},
		{"negative limit", func(s *Spec) { s.Pids = -1 }, mesh.CodeInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := b.spec(t, "true")
			c.change(spec)
			_, err := b.runner.Start(t.Context(), spec)
			require.ErrorIs(t, err, mesh.Errorf(c.code, ""))
		})
	}
	t.Run("our own ids", func(t *testing.T) {
		if !b.runner.Level().Uids {
			t.Skip("SKIPPED: this driver does not change ids here")
		}
		spec := b.spec(t, "true")
		spec.UID = 0
		_, err := b.runner.Start(t.Context(), spec)
		require.ErrorIs(t, err, mesh.Errorf(mesh.CodeInvalid, ""))
	})
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := b.runner.Start(ctx, b.spec(t, "true"))
		require.ErrorIs(t, err, context.Canceled)
	})
}

func testAccount(t *testing.T, b *bench) {
	o := b.run(t, "sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done")
	if b.runner.Level().Limits == limitsRlimit && b.runner.Level().Driver == IsolationBwrap && !b.runner.Level().Warm {
		require.Zero(t, o.User)
		return
	}
	require.Positive(t, o.User)
	require.Positive(t, o.MaxRSS)
}
