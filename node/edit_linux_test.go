package node_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// Two that edit one file lose no edit of one another: who names what he replaces never
// meets a conflict, and who names a revision repeats with the one that he is told.
func TestEditorsLoseNone(t *testing.T) {
	t.Parallel() // it waits more than it works
	edits := 150
	if meshtest.Long() {
		edits = 5000
	}
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		first, err := ws.WriteFileInfo(ctx, "count", []byte("a=0\nb=0\n"), 0)
		require.NoError(t, err)
		step := func(name string, n int, opts ...client.FileOption) (string, error) {
			from, to := fmt.Sprintf("%s=%d\n", name, n), fmt.Sprintf("%s=%d\n", name, n+1)
			r, err := ws.Edit(ctx, "count", client.EditRequest{Edits: []mesh.Edit{{Old: mesh.Text(from), New: mesh.Text(to)}}}, opts...)
			return r.File.Revision, err
		}
		var wg sync.WaitGroup
		conflicts := 0
		wg.Go(func() {
			for n := range edits {
				if _, err := step("a", n); !assert.NoError(t, err) {
					return
				}
			}
		})
		wg.Go(func() {
			revision := first.Revision
			for n := 0; n < edits; {
				got, err := step("b", n, client.IfMatch(revision))
				var e *mesh.Error
				switch {
				case err == nil:
					revision = got
					n++
				case errors.As(err, &e) && e.Code == mesh.CodeConflict && e.Revision != "":
					revision = e.Revision
					conflicts++
				default:
					assert.NoError(t, err)
					return
				}
			}
		})
		wg.Wait()
		t.Logf("%d conflicts", conflicts)
		content, err := ws.ReadFile(ctx, "count")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("a=%d\nb=%d\n", edits, edits), string(content))
		require.Equal(t, describeTree(t, m), replay(t, m))
	})
}

// An edit that would fit again is made once for any number of repeats, by the owner
// that has made it and by the next one, and so is a refusal.
func TestRepeatedEditIsMadeOnce(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("x\n"), 0))
		o := owner{m, m.DialToken(t, m.Token(t, nodetest.Tenant))}
		grow := mesh.EditRequest{Path: "f", Edits: []mesh.Edit{{Old: "x\n", New: "x\nx\n"}}}
		made, refused := mesh.NewID(), mesh.NewID()
		check := func() {
			t.Helper()
			reply, err := o.ask(t, mesh.VerbEdit, made, grow, nil)
			require.NoError(t, err)
			require.EqualValues(t, 4, reply.File.Size)
			_, err = o.ask(t, mesh.VerbEdit, refused, grow, nil)
			requireCode(t, mesh.CodeConflict, err) // it is there twice by now
			require.Contains(t, err.Error(), "at line 1, 2")
		}
		check()
		check()
		m.StopNode(t)
		m.StartNode(t)
		check()
		content, err := ws.ReadFile(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, "x\nx\n", string(content))
	})
}

// A file that programs write meanwhile is edited as it is then, or not at all.
func TestEditBesideWriters(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("old\nold\n"), 0))
		path := filepath.Join(treeOf(m), "f")
		done, writing := make(chan struct{}), make(chan struct{})
		go func() { // as a command does that writes whole files, always of two equal lines
			defer close(writing)
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				line := strings.Repeat(fmt.Sprint(i), 1+i%3) + "\n"
				assert.NoError(t, os.WriteFile(path+"~", []byte(line+line), 0o644))
				assert.NoError(t, os.Rename(path+"~", path))
			}
		}()
		for range 50 {
			r, err := ws.Edit(ctx, "f", client.EditRequest{Edits: []mesh.Edit{{Old: "\n", New: "+\n", ReplaceAll: true}}})
			if mesh.CodeOf(err) == mesh.CodeBusy {
				continue
			}
			require.NoError(t, err)
			require.Equal(t, 2, r.Replaced)
			require.Equal(t, 2, r.Added, r.Diff)
		}
		close(done)
		<-writing
	})
}
