package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
	"github.com/wsmesh/wsmesh/objstore/jsbucket"
)

// journalOf reads the whole journal of acme/repo.
func journalOf(t *testing.T, m *nodetest.Mesh) (all []*objstore.StoredRecord) {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	stream := mesh.AtLeader(js.Conn(), mesh.JournalStream(0))
	subject := mesh.JournalSubject(0, "acme", "repo")
	last, err := stream.Last(t.Context(), subject)
	require.NoError(t, err)
	for try := 1; ; try++ {
		all, err = nil, nil
		for r, failed := range objstore.Chain(t.Context(), objstore.AtLeader(stream), subject, objstore.Place{}, last.Sequence) {
			if err = failed; err != nil {
				break
			}
			all = append(all, r)
		}
		if errors.Is(err, objstore.ErrGap) && try < 10 { // a checkpoint took away what comes next
			continue
		}
		require.NoError(t, err)
		return all
	}
}

// replay makes of a journal what the workspace's tree is, as describeTree has it.
// It knows the ops by their words and shares no code with who wrote them.
func replay(t *testing.T, m *nodetest.Mesh) map[string]string {
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	bucket, err := jsbucket.Open(t.Context(), js, 0, "acme")
	require.NoError(t, err)
	store, err := objstore.New(bucket, objstore.Config{})
	require.NoError(t, err)
	tree := map[string]*string{}
	remove := func(p string) {
		for q := range tree {
			if mesh.Inside(p, q) {
				delete(tree, q)
			}
		}
	}
	for _, r := range journalOf(t, m) {
		for _, op := range r.Ops {
			p := string(op.Path)
			switch op.Kind {
			case objstore.KindPut:
				if p == "." {
					continue // a new workspace
				}
				content := op.Data
				if op.Data == nil {
					reader, err := store.Reader(t.Context(), op.Packs...)
					require.NoError(t, err)
					content, err = io.ReadAll(reader.Open(t.Context(), op.Entry))
					require.NoError(t, err)
				}
				if op.Entry.Type != objstore.TypeDir {
					remove(p)
				}
				if dir := path.Dir(p); dir != "." {
					require.Contains(t, tree, dir, "%s is put where no directory is", p)
					require.True(t, strings.HasPrefix(*tree[dir], "dir"), "%s is put where no directory is", p)
				}
				putEntry(t, tree, p, op.Entry, content)
			case objstore.KindRemove:
				remove(p)
			case objstore.KindRename:
				to := string(op.To)
				require.Contains(t, tree, p, "what is renamed is not known")
				remove(to)
				for q, e := range tree {
					if mesh.Inside(p, q) {
						delete(tree, q)
						tree[to+q[len(p):]] = e
					}
				}
			case objstore.KindAttr:
				if p == "." {
					continue // the workspace's own
				}
				require.Contains(t, tree, p)
				words := strings.Fields(*tree[p])
				if op.Mode != nil {
					words[1] = fmt.Sprintf("%o", *op.Mode)
				}
				if op.ModTime != nil && words[0] != "dir" {
					words[2] = op.ModTime.Format(time.RFC3339Nano)
				}
				*tree[p] = strings.Join(words, " ") // of all its names
			}
		}
	}
	return named(tree)
}

func putEntry(t *testing.T, tree map[string]*string, p string, e *objstore.Entry, content []byte) {
	if e.Type == objstore.TypeLink {
		require.Contains(t, tree, e.Target)
		tree[p] = tree[e.Target]
		return
	}
	s := describeEntry(e, content)
	tree[p] = &s
}

// named says of each path what it is and how else it is called.
func named(tree map[string]*string) map[string]string {
	names := map[*string][]string{}
	for p, e := range tree {
		names[e] = append(names[e], p)
	}
	all := map[string]string{}
	for p, e := range tree {
		slices.Sort(names[e])
		all[p] = *e + strings.Join(names[e][1:], " = ")
	}
	return all
}

func describeEntry(e *objstore.Entry, content []byte) string {
	s := fmt.Sprintf("%s %o %s %d %.8s %s", e.Type, e.Mode, e.ModTime.Format(time.RFC3339Nano), e.Size, objstore.IDOf(content), e.Target)
	if e.Type == objstore.TypeDir {
		s = fmt.Sprintf("%s %o", e.Type, e.Mode) // its time is when something came into it
	}
	return strings.TrimSpace(s)
}

// describeTree is the tree on disk.
func describeTree(t *testing.T, m *nodetest.Mesh) map[string]string {
	dir, err := dirtree.Open(treeOf(m))
	require.NoError(t, err)
	defer dir.Close()
	tree := map[string]*string{}
	for it, err := range dir.Items(t.Context()) {
		require.NoError(t, err)
		if it.Path == "." {
			continue
		}
		var content []byte
		if it.Open != nil {
			f, err := it.Open()
			require.NoError(t, err)
			content, err = io.ReadAll(f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		putEntry(t, tree, it.Path, &it.Entry, content)
	}
	return named(tree)
}

func treeOf(m *nodetest.Mesh) string { return filepath.Join(m.Dir, "workspaces/acme/repo/workspace") }

// The journal says of every change what the disk then has, be it small or large,
// through links, or of what the journal did not know.
func TestJournalSaysWhatTheDiskHas(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		random := make([]byte, 1500<<10)
		_, _ = rand.NewChaCha8([32]byte{}).Read(random)
		require.NoError(t, ws.WriteFile(ctx, "a/b/small", []byte("small"), 0o600))
		require.NoError(t, ws.WriteFile(ctx, "a/b/small", []byte("other"), 0))
		require.NoError(t, ws.WriteFile(ctx, "inline", random[:objstore.MaxInline], 0))
		require.NoError(t, ws.WriteFile(ctx, "packed", random[:objstore.MaxInline+1], 0o755))
		require.NoError(t, ws.Put(ctx, "large", bytes.NewReader(random), 0))
		require.NoError(t, ws.Symlink(ctx, "a/b", "link"))
		require.NoError(t, ws.WriteFile(ctx, "link/through", []byte("x"), 0))
		require.NoError(t, ws.Symlink(ctx, "new/target", "dangling"))
		require.NoError(t, ws.WriteFile(ctx, "dangling", []byte("y"), 0))
		require.NoError(t, ws.Scope("scope/deep").WriteFile(ctx, "f", nil, 0))
		require.NoError(t, ws.MkdirAll(ctx, "a/c/d", 0o700))
		require.NoError(t, ws.MkdirAll(ctx, "a/c/d", 0o755))
		require.NoError(t, ws.Touch(ctx, "touched/new", time.Unix(1, 5)))
		require.NoError(t, ws.Touch(ctx, "link/small", time.Unix(2, 7)))
		require.NoError(t, ws.Chmod(ctx, "a/b", 0o711))
		require.NoError(t, ws.Copy(ctx, "packed", "copies/packed"))
		require.NoError(t, ws.Copy(ctx, "a", "copies/a"))
		require.NoError(t, ws.Rename(ctx, "copies/a/b", "moved/b"))
		require.NoError(t, ws.Remove(ctx, "inline"))
		require.NoError(t, ws.RemoveAll(ctx, "a/c"))

		// What a command makes: two names of one file among it.
		made := filepath.Join(treeOf(m), "made")
		require.NoError(t, os.MkdirAll(filepath.Join(made, "sub"), 0o750))
		require.NoError(t, os.WriteFile(filepath.Join(made, "sub/f"), []byte("made"), 0o640))
		require.NoError(t, os.Link(filepath.Join(made, "sub/f"), filepath.Join(made, "second")))
		require.NoError(t, unix.Mkfifo(filepath.Join(made, "fifo"), 0o600))
		require.NoError(t, ws.Rename(ctx, "made", "unmade"))
		require.NoError(t, os.WriteFile(filepath.Join(treeOf(m), "alone"), []byte("made"), 0o640))
		require.NoError(t, ws.Chmod(ctx, "alone", 0o604))

		// Below directories that a command has made, and on what is not kept.
		for _, dir := range []string{"cmd/put", "cmd/moved", "cmd/attr"} {
			require.NoError(t, os.MkdirAll(filepath.Join(treeOf(m), dir, "deep"), 0o750))
		}
		require.NoError(t, ws.WriteFile(ctx, "cmd/put/deep/f", nil, 0))
		require.NoError(t, ws.Rename(ctx, "packed", "cmd/moved/deep/new/f"))
		require.NoError(t, os.WriteFile(filepath.Join(treeOf(m), "cmd/attr/deep/f"), []byte("made"), 0o640))
		require.NoError(t, ws.Chmod(ctx, "cmd/attr/deep/f", 0o604))
		for _, p := range []string{"cmd/fell", "cmd/over"} {
			require.NoError(t, ws.WriteFile(ctx, p, nil, 0))
		}
		require.NoError(t, os.Remove(filepath.Join(treeOf(m), "cmd/fell")))
		require.NoError(t, unix.Mknod(filepath.Join(treeOf(m), "cmd/fell"), unix.S_IFSOCK|0o600, 0))
		require.NoError(t, ws.Chmod(ctx, "cmd/fell", 0o604))
		require.NoError(t, ws.Rename(ctx, "cmd/fell", "cmd/over"))

		archive := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(archive, "x/y"), 0o700))
		for i := range 20 {
			require.NoError(t, os.WriteFile(filepath.Join(archive, "x/y", fmt.Sprint(i)), random[:i*100], 0o644))
		}
		require.NoError(t, os.Link(filepath.Join(archive, "x/y/1"), filepath.Join(archive, "x/z")))
		require.NoError(t, os.Symlink("y/2", filepath.Join(archive, "x/sym")))
		packed, err := exec.CommandContext(ctx, "tar", "-C", archive, "-cf", "-", ".").Output()
		require.NoError(t, err)
		require.NoError(t, ws.PutDir(ctx, "up", bytes.NewReader(packed)))

		require.Equal(t, describeTree(t, m), replay(t, m))
	})
}

// Changes side by side, of few paths: what the journal has last is what the disk
// has, whoever came first.
func TestConcurrentChangesHaveOneOrder(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("repo")
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(g), 1))
				name := func() string {
					p := []string{"a", "b"}[r.IntN(2)]
					for range r.IntN(3) {
						p += "/" + []string{"a", "b"}[r.IntN(2)]
					}
					return p
				}
				for i := range 50 {
					var err error
					switch ctx := t.Context(); r.IntN(6) {
					case 0:
						err = ws.Rename(ctx, name(), name())
					case 1:
						err = ws.RemoveAll(ctx, name())
					case 2:
						err = ws.MkdirAll(ctx, name(), 0o755)
					case 3:
						err = ws.Chmod(ctx, name(), 0o700)
					default:
						err = ws.WriteFile(ctx, name(), fmt.Appendf(nil, "%d %d", g, i), 0)
					}
					switch mesh.CodeOf(err) {
					case "", mesh.CodeNotFound, mesh.CodeExists, mesh.CodeInvalid:
					default:
						require.NoError(t, err)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, describeTree(t, m), replay(t, m))
	})
}

// owner asks the owner of acme/repo as a client does that repeats a request.
type owner struct {
	m    *nodetest.Mesh
	conn *nats.Conn
}

func (o owner) ask(t *testing.T, verb, id string, args any, content []byte) (mesh.WriteReply, error) {
	t.Helper()
	info, err := o.m.Client.Workspace("repo").Info(t.Context())
	require.NoError(t, err)
	req, err := mesh.NewRequest(mesh.OwnerSubject("acme", "repo", info.Epoch, verb), id, "", args, content)
	require.NoError(t, err)
	answer, err := o.conn.RequestMsg(req, 10*time.Second)
	require.NoError(t, err)
	var reply mesh.WriteReply
	_, err = mesh.DecodeReply(answer, &reply)
	return reply, err
}

// A repeat gets the first answer, from the owner that gave it and from the next
// one, be it that the change was made or that it was refused.
func TestRepeatsAreAnsweredByTheNextOwner(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(t.Context(), "there", []byte("1"), 0))
		o := owner{m, m.DialToken(t, m.Token(t, nodetest.Tenant))}
		create := mesh.WriteRequest{Path: "new", CreateOnly: true}
		made, refused := mesh.NewID(), mesh.NewID()
		check := func() {
			t.Helper()
			reply, err := o.ask(t, mesh.VerbWrite, made, create, []byte("x"))
			require.NoError(t, err, "the change is one's own")
			require.Equal(t, int64(1), reply.File.Size)
			_, err = o.ask(t, mesh.VerbWrite, refused, mesh.WriteRequest{Path: "there", CreateOnly: true}, []byte("2"))
			requireCode(t, mesh.CodeExists, err)
		}
		check()
		require.NoError(t, ws.Remove(t.Context(), "there"))
		check()
		_, err := o.ask(t, mesh.VerbWrite, mesh.NewID(), create, []byte("x"))
		requireCode(t, mesh.CodeExists, err)
		m.StopNode(t)
		m.StartNode(t)
		check()
		_, err = ws.Stat(t.Context(), "there")
		requireCode(t, mesh.CodeNotFound, err)
	})
}

// Two creations of one file at a time: one wins.
func TestOneOfTwoCreationsWins(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ws := m.Client.Workspace("repo")
		for i := range 20 {
			var wg sync.WaitGroup
			var codes [2]mesh.Code
			for j := range codes {
				wg.Go(func() {
					codes[j] = mesh.CodeOf(ws.CreateFile(t.Context(), fmt.Sprintf("d/%d", i), []byte{byte(j)}, 0))
				})
			}
			wg.Wait()
			require.ElementsMatch(t, []mesh.Code{"", mesh.CodeExists}, codes)
		}
	})
}

// The directory of a file is removed, as commands do, between the record of a change
// and the rename: the answer is no success for what is not there, and the journal
// says in the end what the disk has.
func TestDirectoryRemovedUnderAChange(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.MkdirAll(ctx, "d/e", 0o755))
		dir := filepath.Join(treeOf(m), "d")
		done, removing := make(chan struct{}), make(chan struct{})
		go func() { // as fast as it can: most changes meet it
			defer close(removing)
			for {
				select {
				case <-done:
					return
				default:
				}
				_ = os.RemoveAll(dir)
				_ = os.MkdirAll(filepath.Join(dir, "e"), 0o755)
				_ = os.WriteFile(filepath.Join(dir, "e/k"), nil, 0o644)
			}
		}()
		mended := func() (n int) {
			for _, r := range journalOf(t, m) {
				if r.Has(objstore.KindRemove) { // nobody has asked for one
					n++
				}
			}
			return n
		}
		rounds := 0
		for ; rounds == 0 || mended() == 0 && rounds < 20; rounds++ {
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					for j := range 30 {
						p := fmt.Sprintf("d/e/%d", i)
						var err error
						switch j % 3 {
						case 0:
							err = ws.WriteFile(ctx, p, fmt.Append(nil, j), 0)
						case 1:
							err = ws.Chmod(ctx, "d/e/k", 0o600)
						default:
							err = ws.Rename(ctx, "d/e/k", p+"x")
						}
						switch mesh.CodeOf(err) {
						case "", mesh.CodeNotFound, mesh.CodeBusy, mesh.CodeExists:
						default:
							assert.NoError(t, err)
						}
					}
				})
			}
			wg.Wait()
		}
		close(done)
		<-removing
		t.Logf("%d changes met it in %d rounds", mended(), rounds)
		require.NotZero(t, mended(), "the test is of no use")
		require.NoError(t, ws.Command(ctx, "true").Run()) // what is there now is captured
		require.Equal(t, describeTree(t, m), replay(t, m))
	})
}

// A large upload is not as many records as it has names: what waits for the journal
// goes into one record.
func TestUploadIsFewRecords(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		archive := t.TempDir()
		const files = 300
		for i := range files {
			dir := filepath.Join(archive, fmt.Sprint("d", i/100))
			require.NoError(t, os.MkdirAll(dir, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o644))
		}
		packed, err := exec.CommandContext(ctx, "tar", "-C", archive, "-cf", "-", ".").Output()
		require.NoError(t, err)
		require.NoError(t, ws.WriteFile(ctx, "first", nil, 0))
		before := len(journalOf(t, m))
		require.NoError(t, ws.PutDir(ctx, "up", bytes.NewReader(packed)))
		records := len(journalOf(t, m)) - before
		t.Logf("%d files are %d records", files, records)
		require.Less(t, records, files) // how many share one is up to how long the server takes
		require.Equal(t, describeTree(t, m), replay(t, m))
	})
}

// A journal that takes no more refuses changes with quota, and nothing of them is
// seen.
func TestFullJournal(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("old"), 0o644))
		limitStream(t, m, mesh.JournalStream(0), 1)
		require.EventuallyWithT(t, func(c *assert.CollectT) { // every replica learns of the limit in its time
			require.Equal(c, mesh.CodeQuota, mesh.CodeOf(ws.WriteFile(ctx, "f", []byte("new"), 0)))
		}, 10*time.Second, 10*time.Millisecond)
		for what, err := range map[string]error{
			"write": ws.WriteFile(ctx, "new/f", nil, 0), "mkdir": ws.Mkdir(ctx, "d", 0), "remove": ws.Remove(ctx, "f"),
			"rename": ws.Rename(ctx, "f", "g"), "chmod": ws.Chmod(ctx, "f", 0o600), "copy": ws.Copy(ctx, "f", "g"),
			"refusal": ws.CreateFile(ctx, "f", nil, 0),
		} {
			require.Equal(t, mesh.CodeQuota, mesh.CodeOf(err), "%s: %v", what, err)
		}
		limitStream(t, m, mesh.JournalStream(0), -1)
		require.Eventually(t, func() bool { return ws.WriteFile(ctx, "after", nil, 0) == nil }, 10*time.Second, 10*time.Millisecond)
		tree := describeTree(t, m)
		require.Len(t, tree, 2)
		require.Contains(t, tree["f"], "file 644")
		require.Equal(t, tree, replay(t, m))
	})
}

// A disk that is full between the record and the rename: the journal is told the
// truth before the answer, and a repeat hears the same from the next owner.
func TestDiskDoesNotFollow(t *testing.T) {
	meshtest.Local(t, func(t *testing.T, servers *meshtest.Mesh) {
		nodetest.Need(t, os.Geteuid() == 0, "root", "only root mounts a small file system")
		dir := t.TempDir()
		require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m,nr_inodes=100"))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
		m := nodetest.Start(t, servers, nodetest.Config{Dir: dir})
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", nil, 0))
		var fs unix.Statfs_t
		require.NoError(t, unix.Statfs(dir, &fs))
		for i := range fs.Ffree - 1 { // one is left: for the content, not for the directory
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("fill", i)), nil, 0o600))
		}
		o, id := owner{m, m.DialToken(t, m.Token(t, nodetest.Tenant))}, mesh.NewID()
		_, err := o.ask(t, mesh.VerbWrite, id, mesh.WriteRequest{Path: "d/f"}, []byte("x"))
		requireCode(t, mesh.CodeQuota, err)
		require.Equal(t, describeTree(t, m), replay(t, m))
		kinds := map[string]bool{}
		for _, r := range journalOf(t, m) {
			for _, op := range r.Ops {
				kinds[op.Kind+" "+string(op.Path)] = true
			}
		}
		require.Contains(t, kinds, "put d/f", "the test is of no use")
		require.NoError(t, os.Remove(filepath.Join(dir, "fill0")))
		require.NoError(t, os.Remove(filepath.Join(dir, "fill1")))
		m.StopNode(t)
		m.StartNode(t)
		_, err = o.ask(t, mesh.VerbWrite, id, mesh.WriteRequest{Path: "d/f"}, []byte("x"))
		requireCode(t, mesh.CodeQuota, err)
	})
}

// Agents that edit one file on the condition that it is what they have read lose
// no edit of another.
func TestConditionalEditsLoseNone(t *testing.T) {
	edits := 250
	if meshtest.Long() {
		edits = 5000
	}
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "count", []byte("0"), 0))
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for done := 0; done < edits && ctx.Err() == nil; {
					content, info, err := ws.ReadFileInfo(ctx, "count")
					if !assert.NoError(t, err) {
						return
					}
					n, err := strconv.Atoi(string(content))
					if !assert.NoError(t, err) {
						return
					}
					_, err = ws.WriteFileInfo(ctx, "count", fmt.Appendf(nil, "%d", n+1), 0, client.IfMatch(info.Revision))
					var e *mesh.Error
					switch {
					case err == nil:
						done++
					case errors.As(err, &e) && e.Code == mesh.CodeConflict:
						assert.NotEmpty(t, e.Revision)
						assert.NotEqual(t, info.Revision, e.Revision)
					default:
						assert.NoError(t, err)
						return
					}
				}
			})
		}
		wg.Wait()
		content, err := ws.ReadFile(ctx, "count")
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(2*edits), string(content))
	})
}

// A condition holds for the content as it is on the disk, whoever has changed it,
// and for what is gone.
func TestIfMatch(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		first, err := ws.WriteFileInfo(ctx, "f", []byte("1"), 0)
		require.NoError(t, err)
		stat, err := ws.Stat(ctx, "f")
		require.NoError(t, err)
		require.Equal(t, stat.Revision, first.Revision)
		require.NoError(t, os.WriteFile(filepath.Join(treeOf(m), "f"), []byte("by a command"), 0o644))
		stat, err = ws.Stat(ctx, "f")
		require.NoError(t, err)
		for what, err := range map[string]error{
			"write":  ws.WriteFile(ctx, "f", []byte("2"), 0, client.IfMatch(first.Revision)),
			"put":    ws.Put(ctx, "f", strings.NewReader("2"), 0, client.IfMatch(first.Revision)),
			"remove": ws.Remove(ctx, "f", client.IfMatch(first.Revision)),
			"rename": ws.Rename(ctx, "f", "g", client.IfMatch(first.Revision)),
		} {
			var e *mesh.Error
			require.ErrorAs(t, err, &e, what)
			require.Equal(t, mesh.CodeConflict, e.Code, what)
			require.Equal(t, stat.Revision, e.Revision, what)
		}
		requireCode(t, mesh.CodeInvalid, ws.Remove(ctx, "f", client.IfMatch("")))
		require.NoError(t, ws.Put(ctx, "f", strings.NewReader("3"), 0, client.IfMatch(stat.Revision)))
		_, third, err := ws.ReadFileInfo(ctx, "f")
		require.NoError(t, err)
		require.NoError(t, ws.Rename(ctx, "f", "g", client.IfMatch(third.Revision)))
		var e *mesh.Error
		require.ErrorAs(t, ws.WriteFile(ctx, "f", nil, 0, client.IfMatch(third.Revision)), &e)
		require.Equal(t, mesh.CodeConflict, e.Code)
		require.Empty(t, e.Revision)
		_, err = ws.Stat(ctx, "f")
		requireCode(t, mesh.CodeNotFound, err)
	})
}

// The write of an owner that froze, and was overruled meanwhile, is refused by the
// journal: it says that it is not the owner, and nothing is changed.
func TestWriteOfAnOverruledOwner(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "f", []byte("old"), 0))
		all := journalOf(t, m)
		last := all[len(all)-1]
		// What the next owner leaves, and this one has not heard of yet.
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		r := objstore.Record{
			Epoch: last.Epoch + 100, Number: last.Number + 1, Prev: last.Sequence, Root: last.Hash,
			ID: mesh.NewID(), Time: time.Now(), Ops: []objstore.Op{{Kind: objstore.KindOpen}},
		}
		msg, _, err := r.Message(mesh.JournalSubject(0, "acme", "repo"))
		require.NoError(t, err)
		_, err = mesh.Publish(ctx, js, msg, last.Sequence)
		require.NoError(t, err)

		o := owner{m, m.DialToken(t, m.Token(t, nodetest.Tenant))}
		_, err = o.ask(t, mesh.VerbWrite, mesh.NewID(), mesh.WriteRequest{Path: "f"}, []byte("new"))
		requireCode(t, mesh.CodeStale, err)
		content, err := os.ReadFile(filepath.Join(treeOf(m), "f"))
		require.NoError(t, err)
		require.Equal(t, "old", string(content))
	})
}
