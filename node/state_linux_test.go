package node_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// hostTree is where the node keeps a workspace's files.
func hostTree(m *nodetest.Mesh) string {
	return filepath.Join(m.Dir, "workspaces", string(nodetest.Tenant), "repo", "workspace")
}

// everything makes what a tree can hold, with a command.
const everything = `set -e
mkdir -p a/b/c empty a/gone
echo text > a/f; head -c 3000000 /dev/urandom > a/large; head -c 300000 /dev/urandom > a/b/inline
ln a/f a/b/other; ln -s ../a/f a/link; mkfifo fifo; chmod 4711 a/f; chmod 1777 empty
truncate -s 8M sparse; printf x >> sparse; rmdir a/gone
i=0; while [ $i -lt 200 ]; do echo $i > a/b/c/$i; i=$((i+1)); done
touch -d '2001-02-03 04:05:06.789' a/b/c/1 a/b; touch -h -d '2002-02-03' a/link`

// treeLines says what must survive, a line for each name.
func treeLines(t *testing.T, dir string) (lines []string) {
	require.NoError(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		require.NoError(t, unix.Lstat(p, &s))
		rel, _ := filepath.Rel(dir, p)
		line := fmt.Sprintf("%q %o %d.%09d %d:%d", rel, s.Mode, s.Mtim.Sec, s.Mtim.Nsec, s.Uid, s.Gid)
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			require.NoError(t, err)
			line += fmt.Sprintf(" %d links %d %x", s.Size, s.Nlink, sha256.Sum256(b))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			require.NoError(t, err)
			line += " -> " + target
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

// TestWhatACommandMadeOutlivesTheNode: the disk of the node is lost, whether it
// went in peace or not, and whether there was a commit or not.
func TestWhatACommandMadeOutlivesTheNode(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		cmd := ws.Command(ctx, "sh", "-c", everything)
		require.NoError(t, cmd.Run())
		final := cmd.Final()
		require.Greater(t, final.Files, 210)
		require.Greater(t, final.Bytes, int64(3_300_000))
		require.NotZero(t, final.Position)
		want := treeLines(t, hostTree(m))

		again := ws.Command(ctx, "true")
		require.NoError(t, again.Run())
		require.Zero(t, again.Final().Position, "nothing changed, and something was journalled")

		wipe := func() { require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces"))) }
		wipe() // under the node: no checkpoint can be made any more
		b, err := ws.ReadFile(ctx, "a/b/c/17")
		require.NoError(t, err)
		require.Equal(t, "17\n", string(b))
		require.Equal(t, want, treeLines(t, hostTree(m)), "restored from the journal")

		m.StopNode(t)
		wipe()
		m.StartNode(t)
		_, err = ws.Stat(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, want, treeLines(t, hostTree(m)), "restored from a commit")

		m.AddNode(t, "n2")
		m.StopNode(t)
		out, err := ws.Command(ctx, "sh", "-c", "cat a/b/c/*; cat a/f").Output()
		require.NoError(t, err)
		require.Len(t, strings.Fields(string(out)), 201, "on another node")
	})
}

// TestLocalTreeIsTrusted: who closes a workspace in peace finds it as it was, and
// one that was changed meanwhile is made what the journal says.
func TestLocalTreeIsTrusted(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "d/f", []byte("acknowledged"), 0o640))
		restart := func(meanwhile func()) uint64 {
			m.StopNode(t)
			meanwhile()
			m.StartNode(t)
			b, err := ws.ReadFile(ctx, "d/f")
			require.NoError(t, err)
			require.Equal(t, "acknowledged", string(b))
			return inodeOf(t, filepath.Join(hostTree(m), "d/f"))
		}
		f := filepath.Join(hostTree(m), "d/f")
		before := inodeOf(t, f)
		require.Equal(t, before, restart(func() {}), "a tree that was not changed was restored")
		for name, change := range map[string]func(){
			"content, and time as before": func() {
				info, err := os.Stat(f)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(f, []byte("overwritten!"), 0))
				require.NoError(t, os.Chtimes(f, info.ModTime(), info.ModTime()))
			},
			"another name": func() { require.NoError(t, os.WriteFile(filepath.Join(hostTree(m), "d/g"), nil, 0o600)) },
			"gone":         func() { require.NoError(t, os.Remove(f)) },
			"no ledger":    func() { require.NoError(t, os.Remove(filepath.Join(hostTree(m), "../ledger"))) },
		} {
			restart(change)
			_, err := ws.Stat(ctx, "d/g")
			require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err), name)
		}
	})
}

func inodeOf(t *testing.T, p string) uint64 {
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(p, &st))
	return st.Ino
}

// TestFilesOfAnEarlierVersion: what a node has of a workspace that the journal knows
// no files of is served by that node, taken into the journal, and then by any. Until
// then another node says where the files are, and does not keep the workspace.
func TestFilesOfAnEarlierVersion(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "d/f", []byte("acknowledged"), 0o640))
		m.StopNode(t)
		// As an earlier version leaves it: a journal without files, no ledger, and no mark.
		unmark(t, m)
		require.NoError(t, os.Remove(filepath.Join(hostTree(m), "../ledger")))
		all := journalOf(t, m)
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		stream, err := js.Stream(ctx, mesh.JournalStream(0))
		require.NoError(t, err)
		subject := mesh.JournalSubject(0, "acme", "repo")
		require.NoError(t, stream.Purge(ctx, jetstream.WithPurgeSubject(subject)))
		old := objstore.Record{Epoch: all[len(all)-1].Epoch, Number: 1, ID: mesh.NewID(), Time: time.Now(), Ops: []objstore.Op{{Kind: objstore.KindOpen, Node: nodetest.NodeName}}}
		msg, _, err := old.Message(subject)
		require.NoError(t, err)
		_, err = mesh.Publish(ctx, js, msg, 0)
		require.NoError(t, err)

		m.AddNode(t, "n2")
		elsewhere := m.Connect(t, m.Token(t, nodetest.Tenant)).Workspace("repo")
		require.Eventually(t, func() bool { // until then it may be busy with finding that out
			short, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			_, err := elsewhere.ReadFile(short, "d/f")
			return mesh.CodeOf(err) == mesh.CodeUnavailable && strings.Contains(err.Error(), "on node n1 only")
		}, 30*time.Second, 10*time.Millisecond)
		m.StartNode(t)
		read := func() {
			b, err := ws.ReadFile(ctx, "d/f")
			require.NoError(t, err)
			require.Equal(t, "acknowledged", string(b))
		}
		read()
		require.Eventually(t, func() bool {
			info, err := ws.Info(ctx)
			return err == nil && info.Commit != ""
		}, 30*time.Second, 20*time.Millisecond, "the files are not taken into the journal")
		m.StopNode(t)
		read()
	})
}

// TestCheckpoint: after many changes the journal begins behind the record that is
// in a commit, and never is empty; the tree comes back from there, and the next
// commit stores what changed.
func TestCheckpoint(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		var wg sync.WaitGroup
		for i := range 8 { // nothing of a checkpoint keeps them from writing
			wg.Go(func() {
				for j := range 140 {
					require.NoError(t, ws.WriteFile(ctx, fmt.Sprintf("d%d/f%d", i, j%70), fmt.Append(nil, i, j), 0))
				}
			})
		}
		wg.Wait()
		var records []*objstore.StoredRecord
		require.Eventually(t, func() bool {
			records = journalOf(t, m)
			return records[0].Number > 1
		}, 30*time.Second, 50*time.Millisecond, "nothing was purged")
		covered := checkpointIn(t, records)
		require.Equal(t, covered.Number+1, records[0].Number, "purged up to the record that is in the commit")
		want := treeLines(t, hostTree(m))

		m.StopNode(t)
		records = journalOf(t, m)
		require.NotEmpty(t, records)
		require.Equal(t, checkpointIn(t, records).Number+1, records[0].Number)
		require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces")))
		m.StartNode(t)
		b, err := ws.ReadFile(ctx, "d7/f69")
		require.NoError(t, err)
		require.Equal(t, string(fmt.Append(nil, 7, 139)), string(b))
		require.Equal(t, want, treeLines(t, hostTree(m)))
	})
}

// checkpointIn returns the last checkpoint of a journal.
func checkpointIn(t *testing.T, records []*objstore.StoredRecord) (found objstore.Op) {
	for _, r := range records {
		for _, op := range r.Ops {
			if op.Kind == objstore.KindCheckpoint {
				found = op
			}
		}
	}
	require.NotZero(t, found.Number, "no checkpoint is there")
	return found
}

// TestDamagedPack: content that is not what its name says is an error that names
// it, and never other content.
func TestDamagedPack(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("content"), 0))
		m.StopNode(t)
		commit := checkpointIn(t, journalOf(t, m))
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		stream, err := js.Stream(ctx, mesh.PackStream(0))
		require.NoError(t, err)
		end := mesh.PackEndSubject(0, nodetest.Tenant, commit.Ref.Pack)
		raw, err := stream.GetLastMsgForSubject(ctx, end)
		require.NoError(t, err)
		require.NoError(t, stream.Purge(ctx, jetstream.WithPurgeSubject(end)))
		raw.Data[len(raw.Data)/3] ^= 1
		_, err = js.PublishMsg(ctx, &nats.Msg{Subject: end, Header: raw.Header, Data: raw.Data})
		require.NoError(t, err)

		require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces")))
		m.StartNode(t)
		_, err = ws.ReadFile(ctx, "f")
		requireCode(t, mesh.CodeInternal, err)
		require.ErrorContains(t, err, "damaged")
		require.ErrorContains(t, err, "wsmesh workspace r", "what to do next")
		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"), "it can be given up")
	})
}
