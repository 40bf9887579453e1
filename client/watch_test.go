package client_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// told is what a watch says, until it has said n things.
func told(t *testing.T, ws *client.Workspace, cursor string, n int) (all []client.Change) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for c, err := range ws.Watch(ctx, cursor) {
		require.NoError(t, err)
		if all = append(all, c); len(all) == n {
			return all
		}
	}
	require.Len(t, all, n, "%v", words(all))
	return all
}

func words(all []client.Change) []string {
	lines := []string{}
	for _, c := range all {
		lines = append(lines, strings.TrimSpace(c.Kind+" "+c.Path+" "+c.To))
	}
	return lines
}

func TestWatch(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		require.NoError(t, ws.Mkdir(ctx, "d", 0))
		require.NoError(t, ws.Mkdir(ctx, "e", 0))
		start, err := ws.Cursor(ctx)
		require.NoError(t, err)

		require.NoError(t, ws.WriteFile(ctx, "d/a,b:c%", []byte("1"), 0))
		require.NoError(t, ws.WriteFile(ctx, "d/a,b:c%", []byte("2"), 0))
		require.NoError(t, ws.Rename(ctx, "d/a,b:c%", "e/x"))
		require.NoError(t, ws.Chmod(ctx, "e/x", 0o600))
		require.Error(t, ws.Remove(ctx, "nothing"))
		require.NoError(t, ws.Remove(ctx, "e/x"))
		require.NoError(t, ws.Symlink(ctx, "d", "link"))
		want := []string{"put d/a,b:c%", "put d/a,b:c%", "rename d/a,b:c% e/x", "attr e/x", "remove e/x", "put link"}
		all := told(t, ws, start, len(want))
		require.Equal(t, want, words(all))

		for i := range all[:len(all)-1] { // each cursor goes on exactly behind its change
			rest := all[i+1:]
			require.Equal(t, words(rest), words(told(t, ws, all[i].Cursor, len(rest))), i)
		}

		// A scope sees what happens in it, under its own names.
		require.Equal(t, []string{"put a,b:c%", "put a,b:c%", "remove a,b:c%"}, words(told(t, ws.Scope("d", nil), start, 3)))
		require.Equal(t, []string{"put x", "attr x", "remove x"}, words(told(t, ws.Scope("e", nil), start, 3)))
		bound := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "w", "e")).Workspace("w")
		require.Equal(t, []string{"put x", "attr x", "remove x"}, words(told(t, bound, start, 3)))

		// What a command made is told, however much it is at once.
		before := all[len(all)-1].Cursor
		name := strings.Repeat("n", 120)
		require.NoError(t, ws.Command(ctx, "sh", "-c", "for i in $(seq 300); do : > "+name+"$i; done").Run())
		seen := map[string]int{}
		for _, c := range told(t, ws, before, 300) {
			seen[c.Path]++
		}
		require.Len(t, seen, 300)

		// One that listens is told as it happens, also by a token of a path.
		for _, w := range []*client.Workspace{ws.Scope("e", nil), bound} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			n := 0
			cursor, err := w.Cursor(ctx)
			require.NoError(t, err)
			require.NoError(t, ws.WriteFile(ctx, "e/0", nil, 0))
			for c, err := range w.Watch(ctx, cursor) {
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(n), c.Path)
				if n++; n == 4 {
					break
				}
				require.NoError(t, ws.WriteFile(ctx, fmt.Sprintf("e/%d", n), nil, 0))
			}
			require.Equal(t, 4, n)
		}

		// What cannot be watched.
		last := func(w *client.Workspace, cursor string) (err error) {
			for _, err = range w.Watch(ctx, cursor) {
			}
			return err
		}
		requireCode(t, mesh.CodeNotFound, last(m.Client.Workspace("none"), ""))
		for _, bad := range []string{"x", "1", "1.1", "-1.0.x", "1.-1.x", start + " "} {
			requireCode(t, mesh.CodeInvalid, last(ws, bad), bad)
		}
		other := m.Connect(t, m.BoundToken(t, nodetest.Tenant, "other", ".")).Workspace("w")
		requireCode(t, mesh.CodeDenied, last(other, start))

		// A name that is used again is another workspace.
		gone := make(chan error, 1)
		go func() { gone <- last(ws, start) }()
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "w"))
		requireCode(t, mesh.CodeNotFound, <-gone)
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		again := told(t, ws, start, 1)
		require.Equal(t, []string{client.ChangeResync}, words(again))
		require.NoError(t, ws.WriteFile(ctx, "g", nil, 0))
		require.Equal(t, []string{"put g"}, words(told(t, ws, again[0].Cursor, 1)))
	})
}

// A reader that is slower than what happens hears a part of it, and reads the rest;
// what the journal does not hold any more it is told as one resync.
func TestSlowWatch(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("w")
	require.NoError(t, ws.WriteFile(ctx, "0", nil, 0))
	start, err := ws.Cursor(ctx)
	require.NoError(t, err)
	const n = 400 // more than are kept for a slow reader
	require.NoError(t, ws.WriteFile(ctx, "1", nil, 0))
	next := 1
	for c, err := range ws.Watch(ctx, start) {
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("put %d", next), c.Kind+" "+c.Path)
		if next++; next > n+1 {
			break
		}
		for i := 2; next == 2 && i <= n; i++ {
			require.NoError(t, ws.WriteFile(ctx, fmt.Sprint(i), nil, 0))
		}
		if next == 50 { // heard behind the gap
			require.NoError(t, ws.WriteFile(ctx, fmt.Sprint(n+1), nil, 0))
		}
	}
	for i := range 20 { // until there is a checkpoint
		require.NoError(t, ws.WriteFile(ctx, fmt.Sprintf("large%d", i), make([]byte, 256<<10), 0))
	}
	require.Eventually(t, func() bool { return told(t, ws, start, 1)[0].Kind == client.ChangeResync }, 20*time.Second, 50*time.Millisecond)
}
