package node_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// eachCapture runs a test of commands with both ways to find what they change.
func eachCapture(t *testing.T, test func(t *testing.T, m *nodetest.Mesh)) {
	for _, capture := range []string{mesh.CaptureFanotify, mesh.CaptureScan} {
		t.Run(capture, func(t *testing.T) {
			meshtest.Local(t, func(t *testing.T, servers *meshtest.Mesh) {
				nodetest.Commands(t)
				nodetest.Need(t, capture == mesh.CaptureScan || os.Geteuid() == 0, "root", "only root hears what changes on a file system")
				m := nodetest.Start(t, servers, nodetest.Config{Capture: capture})
				test(t, m)
				info, err := m.Client.Workspace("repo").Info(t.Context())
				require.NoError(t, err)
				require.Equal(t, capture, info.Capture)
			})
		})
	}
}

// restoredElsewhere loses the disk of the node, which has no time to say anything, and
// requires that the tree comes back as it was.
func restoredElsewhere(t *testing.T, m *nodetest.Mesh) {
	t.Helper()
	ws := m.Client.Workspace("repo")
	reply, err := ws.Verify(t.Context(), nil)
	require.NoError(t, err)
	if reply.Changed > 0 {
		require.Equal(t, describeTree(t, m), replay(t, m))
	}
	require.Zero(t, reply.Changed, "changes that no capture has found")
	want := treeLines(t, hostTree(m))
	require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces")))
	_, err = ws.Stat(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, want, treeLines(t, hostTree(m)))
}

// putChurn puts a program into the workspace that does random things to its working
// directory.
func putChurn(t *testing.T, ws *client.Workspace) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "churn")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./testdata/churn")
	build.Dir, build.Env = "../objstore/dirtree", append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	b, err := os.ReadFile(bin)
	require.NoError(t, err)
	require.NoError(t, ws.Put(t.Context(), "bin/churn", bytes.NewReader(b), 0o755))
}

// TestRandomOperationsAreCaptured: commands do random things, alone, beside one
// another and beside file verbs. What they have done when the last has ended comes
// back on an empty disk.
func TestRandomOperationsAreCaptured(t *testing.T) {
	rounds, operations := 3, 60
	if meshtest.Long() {
		rounds, operations = 60, 400
	}
	eachCapture(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		putChurn(t, ws)
		require.NoError(t, ws.MkdirAll(ctx, "work", 0o755))
		seed := rand.Uint32()
		t.Log("seed", seed)
		for i := range rounds {
			var wg sync.WaitGroup
			for j := range 1 + i%3 {
				wg.Go(func() {
					cmd := ws.Command(ctx, "/workspace/bin/churn", fmt.Sprint(int(seed)+10*i+j), fmt.Sprint(operations))
					cmd.Dir = "work"
					out, err := cmd.CombinedOutput()
					assert.NoError(t, err, "%s", out)
				})
			}
			for j := range i % 3 * 10 { // what is told of them is in TestConcurrentChangesHaveOneOrder
				_ = ws.WriteFile(ctx, fmt.Sprintf("work/a/%d", j%4), fmt.Append(nil, i, j), 0)
				_ = ws.Rename(ctx, "work/a", "work/b")
				_ = ws.Chmod(ctx, "work/b", 0o700)
			}
			wg.Wait()
		}
		require.NoError(t, ws.Command(ctx, "true").Run())
		restoredElsewhere(t, m)
	})
}

// TestStoresThroughMemory: a process maps a file and stores to it, a capture reads it,
// and the process stores again, of which nothing tells. When it has ended the file is
// what it left.
func TestStoresThroughMemory(t *testing.T) {
	eachCapture(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Need(t, hasPython, "python", "python3 is missing")
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		cmd := ws.Command(ctx, "python3", "-c", `
import mmap, sys
f = open('f', 'w+b'); f.truncate(4096)
m = mmap.mmap(f.fileno(), 4096)
for line in sys.stdin:
    m[0:5] = line[:5].encode()
    print('stored', flush=True)
`)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		read := make([]byte, len("stored\n"))
		for _, word := range []string{"first", "again", "third"} {
			_, err := fmt.Fprintln(in, word)
			require.NoError(t, err)
			_, err = out.Read(read)
			require.NoError(t, err)
			require.NoError(t, ws.Command(ctx, "true").Run())
		}
		require.NoError(t, ws.Rename(ctx, "f", "g"), "what is not read again because of that is lost")
		_, err = fmt.Fprintln(in, "final")
		require.NoError(t, err)
		_, err = out.Read(read)
		require.NoError(t, err)
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
		restoredElsewhere(t, m)
		b, err := ws.ReadFile(ctx, "g")
		require.NoError(t, err)
		require.Equal(t, "final", string(b[:5]))
	})
}

var hasPython = func() bool { _, err := exec.LookPath("python3"); return err == nil }()

// TestCaptureDoesNotUndoWrites: file verbs write what a command has just written, while
// captures go on. What a capture has read before is not journalled over a write that was
// acknowledged since.
func TestCaptureDoesNotUndoWrites(t *testing.T) {
	t.Parallel() // it waits more than it works
	rounds := 1
	if meshtest.Long() {
		rounds = 50
	}
	const files = 200
	eachCapture(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		captures, undone := 0, 0
		for round := range rounds {
			dir := fmt.Sprint("d", round)
			require.NoError(t, ws.Mkdir(ctx, dir, 0o755))
			done := make(chan struct{})
			var wg, capturing sync.WaitGroup
			capturing.Go(func() { // each end captures what has been written by then
				for {
					select {
					case <-done:
						return
					default:
					}
					assert.NoError(t, ws.Command(ctx, "true").Run())
					captures++
				}
			})
			script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo command > %s/$i; i=$((i+1)); [ $((i %% 50)) != 0 ] || sleep 0.1; done`, files, dir)
			wg.Go(func() { assert.NoError(t, ws.Command(ctx, "sh", "-c", script).Run()) })
			for g := range 4 {
				wg.Go(func() {
					for i := g; i < files; i += 4 {
						p := fmt.Sprint(dir, "/", i)
						assert.Eventually(t, func() bool {
							info, err := os.Stat(filepath.Join(hostTree(m), p))
							return err == nil && info.Size() > 0
						}, 20*time.Second, time.Millisecond)
						assert.NoError(t, ws.WriteFile(ctx, p, []byte("acknowledged"), 0o644))
					}
				})
			}
			wg.Wait()
			close(done)
			capturing.Wait()
			acknowledged := map[mesh.Path]bool{}
			for _, r := range journalOf(t, m) {
				for i := range r.Ops {
					if op := &r.Ops[i]; op.Kind == objstore.KindPut && op.Entry.Type == objstore.TypeFile {
						if acknowledged[op.Path] && string(op.Data) == "command\n" {
							undone++
						}
						acknowledged[op.Path] = string(op.Data) == "acknowledged"
					}
				}
			}
		}
		t.Logf("%d captures beside %d writes", captures, rounds*files)
		require.Zero(t, undone, "writes that were acknowledged, and journalled over")
		require.NoError(t, ws.Command(ctx, "true").Run())
		restoredElsewhere(t, m)
	})
}

// TestRenamedWhileCaptured: requests rename the directory in which commands make files,
// all the time. When a command has ended, its file is in a record, under one name or the
// other.
func TestRenamedWhileCaptured(t *testing.T) {
	t.Parallel()     // it waits more than it works
	const most = 150 // renames: more, and a checkpoint takes the records away
	eachCapture(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.Command(ctx, "sh", "-c", "mkdir -p a/deep z $(seq 200)").Run(), "many, so that a scan takes its time")
		stop := make(chan struct{})
		var renaming sync.WaitGroup
		var renames atomic.Int64
		renaming.Go(func() {
			for from, to := "a/deep", "z/deep"; renames.Add(1) <= most; from, to = to, from {
				select {
				case <-stop:
					return
				default:
					assert.NoError(t, ws.Rename(ctx, from, to))
				}
			}
		})
		ends := map[string]uint64{}
		for i := 0; renames.Load() < most; i++ {
			name := fmt.Sprint("f", i)
			cmd := ws.Command(ctx, "sh", "-c", `until echo x > a/deep/$1 || echo x > z/deep/$1; do :; done 2>/dev/null`, "sh", name)
			require.NoError(t, cmd.Run())
			ends[name] = cmd.Final().Position
		}
		close(stop)
		renaming.Wait()
		stored := map[string]uint64{}
		for _, r := range journalOf(t, m) {
			for i := range r.Ops {
				if op := &r.Ops[i]; op.Kind == objstore.KindPut && stored[path.Base(string(op.Path))] == 0 {
					stored[path.Base(string(op.Path))] = r.Sequence
				}
			}
		}
		for name, end := range ends {
			assert.NotZero(t, stored[name], name)
			assert.LessOrEqual(t, stored[name], end, name)
		}
		restoredElsewhere(t, m)
	})
}

// TestChangesWithinATick: commands, one after the other, write to a file as much as the
// one before, all within a tick of the kernel's clock. On a file system whose times are no
// finer than that the file is then described as it was, and is another.
func TestChangesWithinATick(t *testing.T) {
	meshtest.Local(t, func(t *testing.T, servers *meshtest.Mesh) {
		nodetest.Commands(t)
		m := nodetest.Start(t, servers, nodetest.Config{Capture: mesh.CaptureScan, Dir: coarse(t)})
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		for i := range 100 {
			cmd := ws.Command(ctx, "sh", "-c", "printf %03d $0 >f", fmt.Sprint(i))
			if i%2 != 0 { // what follows stores it
				cmd.Durability = mesh.DurabilityNone
				require.NoError(t, cmd.Run())
				cmd = ws.Command(ctx, "true")
			}
			require.NoError(t, cmd.Run())
			require.NotZero(t, cmd.Final().Position, "command %d changed the file, and nothing was stored", i)
		}
	})
}

// coarse is a directory of a file system whose times are as coarse as the kernel's clock,
// as they all were before Linux 6.13, where this process may mount one.
func coarse(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "ramfs", 0, "mode=0755"); err != nil {
		t.Logf("its times may be finer than a tick: %s", err)
		return dir
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// programs are what agents run all day, on files that need no network.
var programs = []struct {
	name, program, prepare, check string
	long                          string // why it needs WSMESH_LONG=1
}{
	{
		name: "git", program: "git",
		prepare: `git init -q a && cd a && for i in 1 2 3; do echo $i > f$i; git add . && git -c user.name=a -c user.email=a@b commit -qm $i; done
cd .. && git clone -q a b && git -C b gc -q && echo change >> b/f1`,
		check: `git -C b fsck --strict 2>&1; git -C b log --format=%s | tr '\n' ' '; git -C b status --short`,
	},
	{
		name: "venv", program: "python3",
		prepare: `python3 -m venv --without-pip v && mkdir -p v/lib/own && v/bin/python -c 'import sysconfig; open(sysconfig.get_path("purelib") + "/own.py", "w").write("x = 45")' && v/bin/python -c 'import own'`,
		check:   `v/bin/python -c 'import own, sys; print(own.x, sys.prefix)'`,
	},
	{
		name: "npm", program: "npm", long: "takes npm ten seconds",
		prepare: `export npm_config_cache=/tmp/npm; mkdir app own && echo '{"name":"own","version":"1.0.0","main":"index.js","bin":"run.js"}' > own/package.json && echo 'module.exports = 45' > own/index.js &&
printf '#!/usr/bin/env node\nconsole.log(require("own"))\n' > own/run.js && echo '{"name":"app","version":"1.0.0","dependencies":{"own":"file:../own"}}' > app/package.json &&
cd app && npm install --offline --no-audit --no-fund --no-update-notifier > said`,
		check: `export npm_config_cache=/tmp/npm; cd app && node -p 'require("own")' && npm ls --offline`,
	},
	{
		name: "go", program: "/usr/local/go/bin/go", long: "compiles a standard library",
		prepare: `mkdir sum && cd sum && printf 'module example.com/sum\n\ngo 1.21\n' > go.mod && printf 'package main\n\nfunc main() { print(45) }\n' > main.go &&
GOCACHE=$PWD/cache /usr/local/go/bin/go build -o sum .`,
		check: `cd sum && ./sum 2>&1 && GOCACHE=$PWD/cache /usr/local/go/bin/go build -o again . && cmp sum again && echo same`,
	},
}

// TestProgramsGoOnElsewhere: what programs have made works on a disk that had nothing
// of it.
func TestProgramsGoOnElsewhere(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			if _, err := exec.LookPath(p.program); err != nil {
				nodetest.Need(t, false, filepath.Base(p.program), p.program+" is missing")
			}
			if p.long != "" && !meshtest.Long() {
				t.Skip("SKIPPED: " + p.long + "; set WSMESH_LONG=1 to run it")
			}
			nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
				nodetest.Commands(t)
				ctx, ws := t.Context(), m.Client.Workspace("repo")
				shell := func(script string) string {
					t.Helper()
					out, err := ws.Command(ctx, "sh", "-c", script).CombinedOutput()
					require.NoError(t, err, "%s", out)
					return strings.TrimSpace(string(out))
				}
				shell(p.prepare)
				want := shell(p.check)
				require.NotEmpty(t, want)
				restoredElsewhere(t, m)
				require.Equal(t, want, shell(p.check))
			})
		})
	}
}
