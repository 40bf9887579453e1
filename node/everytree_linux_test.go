package node_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
)

// Trees of every kind of name and attribute, changed in every way, come back as they
// were: from the journal, from a commit and what follows it, and on another node.
func TestEveryTreeComesBack(t *testing.T) {
	t.Parallel() // it waits more than it works
	rounds := 3
	if meshtest.Long() {
		rounds = 60
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(ctx, "first", nil, 0))
		g := &grower{t: t, root: hostTree(m), rand: rand.New(rand.NewPCG(seed, 1))}
		for round := range rounds {
			for range 50 {
				g.step()
			}
			require.NoError(t, ws.Command(ctx, "true").Run())
			want := allOf(t, g.root)
			how := []string{"from the journal", "from a commit", "from a commit and the journal"}[round%3]
			if how == "from a commit" {
				m.StopNode(t)
			}
			require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, "workspaces")))
			if how == "from a commit" {
				m.StartNode(t)
			}
			_, err := ws.Stat(ctx, ".")
			require.NoError(t, err)
			require.Equal(t, want, allOf(t, g.root), "round %d, %s", round, how)
		}
	})
}

// allOf is treeLines with extended attributes and where files have data.
func allOf(t *testing.T, root string) (lines []string) {
	for _, line := range treeLines(t, root) {
		var name string
		_, err := fmt.Sscanf(line, "%q", &name)
		require.NoError(t, err)
		p := filepath.Join(root, name)
		list := make([]byte, 4<<10)
		n, err := unix.Llistxattr(p, list)
		require.NoError(t, err)
		names := strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 })
		slices.Sort(names)
		for _, x := range names {
			value := make([]byte, 4<<10)
			n, err := unix.Lgetxattr(p, x, value)
			require.NoError(t, err)
			line += fmt.Sprintf(" %s=%x", x, value[:n])
		}
		lines = append(lines, line+dataOf(t, p))
	}
	return lines
}

// dataOf says which parts of a file are no holes.
func dataOf(t *testing.T, p string) (parts string) {
	if info, err := os.Lstat(p); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(p)
	require.NoError(t, err)
	defer f.Close()
	for at := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return parts
		}
		require.NoError(t, err)
		at, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		require.NoError(t, err)
		parts += fmt.Sprintf(" [%d,%d)", from, at)
	}
}

// grower changes a tree at random, as commands of its owner would.
type grower struct {
	t    *testing.T
	root string
	rand *rand.Rand
}

// paths are all names of a kind below the root; 0 is any.
func (g *grower) paths(kind fs.FileMode, any bool) (all []string) {
	require.NoError(g.t, filepath.WalkDir(g.root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && p != g.root && (any || d.Type() == kind) {
			all = append(all, p)
		}
		return err
	}))
	return all
}

func (g *grower) some(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return all[g.rand.IntN(len(all))]
}

// fresh is a name, mostly a new one, in some directory.
func (g *grower) fresh() string {
	dir := g.some(append(g.paths(fs.ModeDir, false), g.root))
	names := []string{"a", "b", "c", "d", "e", ".hidden", "with space", "line\nbreak", "\xff\xfe", "ümlaut", strings.Repeat("n", 255), "-rf", "*"}
	return filepath.Join(dir, names[g.rand.IntN(len(names))])
}

func (g *grower) step() {
	var st unix.Stat_t
	require.NoError(g.t, unix.Stat(g.root, &st))
	p, err := g.fresh(), error(nil)
	switch g.rand.IntN(12) {
	case 0, 1:
		err = os.Mkdir(p, 0o755)
	case 2, 3:
		sizes := []int{0, 1, 10, 100, 1000, 4096, 5000, 9999, 70_000, objstore.MaxInline, objstore.MaxInline + 1, objstore.MaxWhole + 1}
		content := make([]byte, sizes[g.rand.IntN(len(sizes))])
		_, _ = rand.NewChaCha8([32]byte{byte(g.rand.Uint32()), byte(g.rand.Uint32())}).Read(content)
		var f *os.File
		if f, err = openFile(p); err == nil {
			_, err = f.Write(content)
			err = errors.Join(err, f.Close())
		}
	case 4:
		err = g.sparse(p)
	case 5:
		targets := []string{"a", "../b", "/etc/passwd", "/workspace/a", "nowhere", strings.Repeat("far/", 900)}
		err = os.Symlink(targets[g.rand.IntN(len(targets))], p)
	case 6:
		err = unix.Mkfifo(p, 0o640)
	case 7:
		if from := g.some(g.paths(0, false)); from != "" {
			err = os.Link(from, p)
		}
	case 8:
		if from := g.some(g.paths(0, true)); from != "" {
			err = os.Rename(from, p)
		}
	case 9:
		if g.rand.IntN(3) == 0 {
			err = os.RemoveAll(p)
		}
	default:
		p = g.some(g.paths(0, true))
		if p != "" {
			err = g.attribute(p)
		}
	}
	var no unix.Errno // what is in the way is in the way
	if err != nil && !errors.As(err, &no) {
		require.NoError(g.t, err)
	}
	_ = os.Lchown(p, int(st.Uid), int(st.Gid))
}

// openFile opens a file that is there or is made, and neither where a link leads nor
// what waits for a reader.
func openFile(p string) (*os.File, error) {
	return os.OpenFile(p, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
}

func (g *grower) sparse(p string) error {
	f, err := openFile(p)
	if err != nil {
		return err
	}
	for range g.rand.IntN(4) {
		if _, err := f.WriteAt([]byte("data"), int64(g.rand.IntN(64))<<16); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Truncate(int64(g.rand.IntN(80))<<16+1), f.Close())
}

// attribute changes something of what is there.
func (g *grower) attribute(p string) error {
	link := false
	if info, err := os.Lstat(p); err == nil {
		link = info.Mode()&fs.ModeSymlink != 0
	}
	switch n := g.rand.IntN(4); {
	case n == 0:
		at := unix.Timespec{Sec: []int64{-1, 0, 1, 1_700_000_000, 1 << 33}[g.rand.IntN(5)], Nsec: int64(g.rand.IntN(1e9))}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	case link:
		return nil
	case n == 1:
		return unix.Setxattr(p, fmt.Sprint("user.x", g.rand.IntN(3)), fmt.Append(nil, g.rand.Uint64()), 0)
	case n == 2:
		return unix.Removexattr(p, fmt.Sprint("user.x", g.rand.IntN(3)))
	}
	modes := []uint32{0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o400, 0o000, 0o711}
	return unix.Chmod(p, modes[g.rand.IntN(len(modes))])
}
