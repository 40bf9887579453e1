package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// NATS servers are killed and started again, one after the other, under writers,
// readers and commands: what was acknowledged is there, nothing else is claimed,
// and no id ran twice.
func TestNATSRestartsUnderLoad(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ws := m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(t.Context(), "ran/none", nil, 0))
		load := newLoad(ws)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() { load.write(ctx, t, i) })
		}
		wg.Go(func() { load.read(ctx, t) })
		for range 2 {
			wg.Go(func() { load.run(ctx, t) })
		}
		for i := range m.Servers {
			load.progress(t)
			m.Stop(i)
			m.Restart(t, i)
		}
		load.progress(t)
		stop()
		wg.Wait()
		load.audit(t)
	})
}

// load is work on one workspace and what came of it.
type load struct {
	ws *client.Workspace

	mu      sync.Mutex
	written map[string]bool   // acknowledged
	ended   map[string]bool   // ids of commands that reported success
	begun   map[string]bool   // ids that were asked for
	refused map[mesh.Code]int // answers that were no success
	strange map[string]error  // answers that must not be
}

func newLoad(ws *client.Workspace) *load {
	return &load{ws: ws, written: map[string]bool{}, ended: map[string]bool{}, begun: map[string]bool{}, refused: map[mesh.Code]int{}, strange: map[string]error{}}
}

// note sorts an answer: done, or one of the codes that a fault may have.
func (l *load) note(done map[string]bool, name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch code := mesh.CodeOf(err); code {
	case "":
		done[name] = true
	case mesh.CodeLost, mesh.CodeUnavailable, mesh.CodeBusy, mesh.CodeStale, mesh.CodeDeadline:
		l.refused[code]++
	default:
		l.strange[name] = err
	}
}

func (l *load) write(ctx context.Context, t *testing.T, writer int) {
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("w%d/%05d", writer, i)
		l.note(l.written, name, l.ws.WriteFile(t.Context(), name, []byte(name), 0))
	}
}

// read reads what was acknowledged: it is there from then on.
func (l *load) read(ctx context.Context, t *testing.T) {
	for ctx.Err() == nil {
		l.mu.Lock()
		name := ""
		for name = range l.written {
			break // any of them
		}
		l.mu.Unlock()
		if name == "" {
			continue
		}
		b, err := l.ws.ReadFile(t.Context(), name)
		if err == nil && string(b) != name {
			err = errors.New("other content: " + string(b))
		}
		l.note(map[string]bool{}, "read "+name, err)
	}
}

// run runs commands that leave a line each, and repeats some with the same id.
func (l *load) run(ctx context.Context, t *testing.T) {
	for i := 0; ctx.Err() == nil; i++ {
		id := string(mesh.NewExecID())
		l.mu.Lock()
		l.begun[id] = true
		l.mu.Unlock()
		for range 1 + i%2 {
			cmd := l.ws.Command(t.Context(), "sh", "-c", "echo x >> ran/"+id)
			cmd.ID = id
			l.note(l.ended, id, cmd.Run())
		}
	}
}

// progress waits until work of every kind has succeeded again.
func (l *load) progress(t *testing.T) {
	t.Helper()
	count := func() (int, int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.written), len(l.ended)
	}
	writes, runs := count()
	require.Eventually(t, func() bool {
		w, r := count()
		return w > writes+50 && r > runs+3
	}, 60*time.Second, 20*time.Millisecond, "no progress; refused: %v, strange: %v", l.refused, l.strange)
}

func (l *load) audit(t *testing.T) {
	t.Helper()
	require.Empty(t, l.strange)
	for name := range l.written {
		b, err := l.ws.ReadFile(t.Context(), name)
		require.NoError(t, err, "an acknowledged write is gone")
		require.Equal(t, name, string(b))
	}
	for id := range l.begun {
		b, err := l.ws.ReadFile(t.Context(), "ran/"+id)
		if mesh.CodeOf(err) == mesh.CodeNotFound {
			require.NotContains(t, l.ended, id, "a command that reported success has not run")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "x\n", string(b), "a command ran twice")
	}
	t.Logf("%d writes, %d commands of %d, refused: %v", len(l.written), len(l.ended), len(l.begun), l.refused)
}

// A full disk refuses writes with quota and breaks nothing: old content stays,
// reading goes on, and room made is room to write.
func TestDiskFull(t *testing.T) {
	meshtest.Local(t, func(t *testing.T, servers *meshtest.Mesh) {
		nodetest.Need(t, os.Geteuid() == 0, "root", "only root mounts a small file system")
		dir := t.TempDir()
		require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
		fillDisk(t, nodetest.Start(t, servers, nodetest.Config{Dir: dir}).Client.Workspace("repo"))
	})
}

func fillDisk(t *testing.T, ws *client.Workspace) {
	ctx := t.Context()
	mib := make([]byte, 1<<20)
	rand.Read(mib)
	require.NoError(t, ws.WriteFile(ctx, "kept", mib, 0))
	var err error
	n := 0
	for ; err == nil && n < 64; n++ {
		err = ws.WriteFile(ctx, fmt.Sprintf("fill/%d", n), mib, 0)
	}
	requireCode(t, mesh.CodeQuota, err)
	requireCode(t, mesh.CodeQuota, ws.WriteFile(ctx, "kept", bytes.Repeat([]byte("x"), 1<<20), 0))
	requireCode(t, mesh.CodeQuota, ws.Copy(ctx, "kept", "copy"))
	requireCode(t, mesh.CodeQuota, ws.Copy(ctx, "fill", "copies"))
	for _, name := range []string{"copy", "copies"} {
		_, err = ws.Lstat(ctx, name)
		requireCode(t, mesh.CodeNotFound, err)
	}
	b, err := ws.ReadFile(ctx, "kept")
	require.NoError(t, err)
	require.Equal(t, mib, b, "a refused write changed the old content")
	if nodetest.Isolation() != "auto" {
		out, err := ws.Command(ctx, "sh", "-c", "cat kept > more || echo full; ls fill | wc -l").Output()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("full\n%d\n", n-1), string(out))
		require.NoError(t, ws.RemoveAll(ctx, "more"))
	}
	require.NoError(t, ws.RemoveAll(ctx, "fill"))
	require.NoError(t, ws.WriteFile(ctx, "after", mib, 0))
}

// The directory of a workspace is removed on the host: nothing is answered as if
// its files had never been. They are restored from the journal.
func TestDirectoryRemovedUnderTheNode(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "d/f", []byte("1"), 0))
		dir := filepath.Join(m.Dir, "workspaces", string(nodetest.Tenant), "repo")
		for name, look := range map[string]func() error{
			"read": func() error { _, err := ws.ReadFile(ctx, "d/f"); return err },
			"stat": func() error { _, err := ws.Stat(ctx, "d/f"); return err },
			"list": func() (err error) {
				n := 0
				for _, err = range ws.ReadDir(ctx, "") {
					n++
				}
				require.NotZero(t, n, "an empty tree")
				return err
			},
			"write":  func() error { return ws.WriteFile(ctx, "new", nil, 0) },
			"remove": func() error { return ws.Remove(ctx, "new") },
			"exec": func() error {
				_ = ws.Command(ctx, "cat", "d/f").Run() // it may have begun where the files were not
				return nil
			},
		} {
			require.NoError(t, os.RemoveAll(dir))
			if name == "remove" {
				require.NoError(t, ws.WriteFile(ctx, "new", nil, 0))
				require.NoError(t, os.RemoveAll(dir))
			}
			if name != "exec" || nodetest.Isolation() != "auto" {
				require.NoError(t, look(), name)
			}
			b, err := ws.ReadFile(ctx, "d/f")
			require.NoError(t, err, "after %s", name)
			require.Equal(t, "1", string(b))
		}
	})
}

// Ten thousand files in one directory, in the long run a hundred thousand: listed, searched, copied and
// removed, and meanwhile the node answers others.
func TestManyFiles(t *testing.T) {
	count := 10_000
	if meshtest.Long() {
		count = 100_000
	}
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	require.NoError(t, ws.Mkdir(ctx, "many", 0o755))
	host := filepath.Join(m.Dir, "workspaces", string(nodetest.Tenant), "repo", "workspace", "many")
	for i := range count {
		f, err := os.Create(filepath.Join(host, fmt.Sprintf("f%06d", i)))
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	n, last := 0, ""
	for e, err := range ws.ReadDir(ctx, "many") {
		require.NoError(t, err)
		require.Greater(t, string(e.Path), last)
		n, last = n+1, string(e.Path)
	}
	require.Equal(t, count, n)
	var found []string
	for e, err := range ws.Search(ctx, mesh.SearchRequest{Path: "many", Selection: mesh.Selection{Globs: []mesh.Path{mesh.Path(fmt.Sprintf("f*%05d", count-1)), "f000000"}}}) {
		require.NoError(t, err)
		found = append(found, string(e.Path))
	}
	require.Equal(t, []string{"many/f000000", fmt.Sprintf("many/f%06d", count-1)}, found)
	require.NoError(t, ws.RemoveAll(ctx, "many"))
	_, err := ws.Stat(ctx, "many")
	requireCode(t, mesh.CodeNotFound, err)
}

// A hundred directories in one another, in the long run two thousand, made by the API and by a command.
func TestDeepPaths(t *testing.T) {
	t.Parallel() // it waits more than it works
	_, err := exec.LookPath("python3")
	nodetest.Need(t, err == nil, "python3", "Python is missing")
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		depth, name := 99, strings.Repeat("d", 99) // each level is a record of the journal
		if meshtest.Long() {
			depth, name = 1999, "d"
		}
		deep := "top" + strings.Repeat("/d", depth)
		require.NoError(t, ws.MkdirAll(ctx, deep, 0o755))
		require.NoError(t, ws.WriteFile(ctx, deep+"/f", []byte("bottom\n"), 0))
		b, err := ws.ReadFile(ctx, deep+"/f")
		require.NoError(t, err)
		require.Equal(t, "bottom\n", string(b))
		require.NoError(t, ws.Copy(ctx, deep+"/f", deep+"/g"))
		require.NoError(t, ws.Rename(ctx, deep+"/g", "up"))
		var found []string
		for e, err := range ws.Search(ctx, mesh.SearchRequest{Type: "file"}) {
			require.NoError(t, err)
			found = append(found, string(e.Path))
		}
		require.Equal(t, []string{deep + "/f", "up"}, found)
		var archive bytes.Buffer
		require.NoError(t, ws.GetDir(ctx, "top", &archive))
		require.NoError(t, ws.PutDir(ctx, "t", &archive))
		b, err = ws.ReadFile(ctx, "t"+deep[len("top"):]+"/f")
		require.NoError(t, err)
		require.Equal(t, "bottom\n", string(b))
		requireCode(t, mesh.CodeInvalid, ws.MkdirAll(ctx, deep+strings.Repeat("/d", 2100-depth), 0o755))
		deeper := nodetest.Isolation() != "auto"
		if deeper {
			// A command goes deeper than any path can say.
			script := "import os, sys\nfor _ in range(4200 // (len(sys.argv[1]) + 1)): os.mkdir(sys.argv[1]); os.chdir(sys.argv[1])\nopen('f', 'w').write('deeper')"
			requireCode(t, mesh.CodeTooLarge, ws.Command(ctx, "python3", "-c", script, name).Run())
			for e, err := range ws.Search(ctx, mesh.SearchRequest{Path: mesh.Path(name)}) {
				require.NoError(t, err)
				require.LessOrEqual(t, len(e.Path), mesh.MaxPathBytes)
			}
		}
		for _, top := range []string{"top", "t"} {
			require.NoError(t, ws.RemoveAll(ctx, top))
		}
		if deeper {
			require.NoError(t, ws.RemoveAll(ctx, name))
		}
	})
}

// Names with a line break, and names that are no text, in pages of every verb
// that lists.
func TestNamesThatAreBytes(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		want := []string{"a\nb", "a\r", "\x01\x7f", "caf\xe9", "\xff\xfe\xfd", "\xf0\x9f\x90", "e\u0301", "\u202etxt.exe"}
		for _, name := range want {
			require.NoError(t, ws.WriteFile(ctx, path.Join("d", name), []byte(name), 0))
		}
		var listed, found, matched []string
		for e, err := range ws.ReadDir(ctx, "d") {
			require.NoError(t, err)
			listed = append(listed, string(e.Path))
		}
		for e, err := range ws.Search(ctx, mesh.SearchRequest{Path: "d", Limit: 1}) {
			require.NoError(t, err)
			found = append(found, strings.TrimPrefix(string(e.Path), "d/"))
		}
		for match, err := range ws.Grep(ctx, mesh.GrepRequest{Path: "d", Pattern: "", Mode: mesh.GrepFiles, Limit: 1}) {
			require.NoError(t, err)
			matched = append(matched, strings.TrimPrefix(string(match.Path), "d/"))
		}
		require.ElementsMatch(t, want, listed)
		require.Equal(t, listed, found)
		require.Equal(t, listed, matched)
		for _, name := range want {
			b, err := ws.ReadFile(ctx, path.Join("d", name))
			require.NoError(t, err)
			require.Equal(t, name, string(b))
			require.NoError(t, ws.Rename(ctx, path.Join("d", name), path.Join("e", name)))
		}
	})
}
