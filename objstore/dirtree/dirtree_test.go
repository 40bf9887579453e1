//go:build linux

package dirtree_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
	"github.com/wsmesh/wsmesh/objstore/dirtree"
)

func newStore(t testing.TB) *objstore.Store {
	t.Helper()
	b, err := dirbucket.Open(t.TempDir())
	require.NoError(t, err)
	s, err := objstore.New(b, objstore.Config{})
	require.NoError(t, err)
	return s
}

func openDir(t testing.TB, dir string) *dirtree.Dir {
	t.Helper()
	d, err := dirtree.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// store commits a directory.
func store(t testing.TB, s *objstore.Store, base *objstore.Reader, dir string) objstore.Ref {
	t.Helper()
	w := s.Writer(base)
	root, err := w.Tree(t.Context(), openDir(t, dir).Items(t.Context()))
	require.NoError(t, err)
	ref, err := w.Commit(t.Context(), objstore.Commit{Time: time.Now().UTC(), Root: root})
	require.NoError(t, err)
	return ref
}

// restore makes a commit's tree in a new directory.
func restore(t testing.TB, s *objstore.Store, ref objstore.Ref) string {
	t.Helper()
	r, c, err := s.CommitReader(t.Context(), ref)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, openDir(t, dir).Restore(t.Context(), r, c.Root))
	return dir
}

// generate makes a tree with every kind of name and attribute.
func generate(t *testing.T, dir string) {
	r := rand.New(rand.NewPCG(7, 7))
	unreadable := uint32(0)
	if os.Geteuid() != 0 {
		unreadable = 0o400 // nobody but root reads the other
	}
	mtime := func() time.Time { return time.Unix(r.Int64N(4e9)-1e9, r.Int64N(1e9)) }
	write := func(name string, n int, mode uint32) string {
		b := make([]byte, n)
		if n%2 == 0 {
			_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
		}
		full := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(full, b, 0o600))
		require.NoError(t, unix.Chmod(full, mode))
		return full
	}
	for _, d := range []string{"a/b/c", "empty", "sticky", "sgid", "locked", "\xff\xfe", "with space\n", "z"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for i, n := range []int{0, 1, 2, 4095, 4096, 1 << 20, 1<<20 + 1, 1<<20 + 2, 9 << 20} {
		write(fmt.Sprintf("a/size-%d", n), n, []uint32{0o644, 0o600, 0o755, 0o444, unreadable, 0o4755, 0o2711, 0o1777, 0o7777}[i])
	}
	for i := range 200 {
		write(fmt.Sprintf("a/b/%03d", i), r.IntN(3000), 0o644)
	}
	write("\xff\xfe/\x01\x80", 10, 0o644)
	write("-rf", 10, 0o644)
	write("a/b/c/"+strings.Repeat("n", 255), 10, 0o644)

	linked := write("a/linked", 5000, 0o640)
	require.NoError(t, unix.Setxattr(linked, "user.shared", []byte("yes"), 0))
	for _, other := range []string{"a/b/other", "z/other", "0-first"} {
		require.NoError(t, os.Link(linked, filepath.Join(dir, other)))
	}
	write("z/alone", 0, 0o644)
	require.NoError(t, os.Link(filepath.Join(dir, "z/alone"), filepath.Join(dir, "z/alone2")))

	attributes := write("a/xattrs", 10, 0o644)
	for name, value := range map[string]string{"user.a": "", "user.b": "x\x00\xff", "user.long": strings.Repeat("v", 2000)} {
		require.NoError(t, unix.Setxattr(attributes, name, []byte(value), 0))
	}
	require.NoError(t, unix.Setxattr(filepath.Join(dir, "empty"), "user.dir", []byte("1"), 0))

	for name, target := range map[string]string{"sym": "a/linked", "dangling": "/no/such\xff", "up": "../../..", "self": "self", "z/dir": "../a"} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o620))

	sparse := func(name string, size int64, at ...int64) {
		f, err := os.Create(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, f.Truncate(size))
		for _, offset := range at {
			_, err := f.WriteAt([]byte(strings.Repeat("data", 2048)), offset)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
	}
	sparse("sparse-empty", 10<<20)
	sparse("sparse-huge", 1<<40, 1<<39)
	sparse("sparse-middle", 3<<20, 0, 1<<20)
	sparse("sparse-end", 3<<20, 3<<20-8192)
	sparse("sparse-odd", 1<<20+17, 65536)

	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return setTime(p, mtime())
	}))
	for name, mode := range map[string]uint32{"sticky": 0o1777, "sgid": 0o2770, "locked": 0o500, "a": 0o711, ".": 0o750} {
		require.NoError(t, unix.Chmod(filepath.Join(dir, name), mode))
	}
	for _, d := range []string{"a/b/c", "a/b", "a", "empty", "locked", "z", "."} {
		require.NoError(t, setTime(filepath.Join(dir, d), mtime()))
	}
}

func setTime(p string, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// describe says everything about a tree that must survive, one line a name; it
// shares no code with what it judges.
func describe(t testing.TB, dir string) (lines []string) {
	groups := map[uint64]int{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%q mode %o mtime %d.%09d", rel, st.Mode, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if _, ok := groups[st.Ino]; !ok {
				groups[st.Ino] = len(groups)
			}
			line += fmt.Sprintf(" size %d links %d group %d %s", st.Size, st.Nlink, groups[st.Ino], contentOf(t, p, st.Size))
			line += xattrsOf(t, p)
		case unix.S_IFDIR:
			line += xattrsOf(t, p)
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			require.NoError(t, err)
			line += fmt.Sprintf(" -> %q", target)
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

// contentOf names the data of a file and where it is.
func contentOf(t testing.TB, p string, size int64) (s string) {
	f, err := os.Open(p)
	require.NoError(t, err)
	defer f.Close()
	for at := int64(0); at < size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if err != nil {
			return s + " hole"
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		require.NoError(t, err)
		b := make([]byte, hole-data)
		_, err = f.ReadAt(b, data)
		require.NoError(t, err)
		s += fmt.Sprintf(" %d+%d:%.8s", data, hole-data, objstore.IDOf(b))
		at = hole
	}
	return s
}

func xattrsOf(t testing.TB, p string) (s string) {
	b := make([]byte, 4096)
	n, err := unix.Llistxattr(p, b)
	require.NoError(t, err)
	names := strings.Split(string(b[:n]), "\x00")
	slices.Sort(names)
	for _, name := range names {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, name, value)
		require.NoError(t, err)
		s += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return s
}

// TestEverythingSurvives stores a tree with every kind of name and attribute and
// restores it.
func TestEverythingSurvives(t *testing.T) {
	dir := t.TempDir()
	generate(t, dir)
	want := describe(t, dir)
	require.Greater(t, len(want), 240)
	s := newStore(t)
	ref := store(t, s, nil, dir)
	require.Equal(t, want, describe(t, dir), "reading a tree leaves it as it is")
	again := restore(t, s, ref)
	require.Equal(t, want, describe(t, again))

	r, c, err := s.CommitReader(t.Context(), ref)
	require.NoError(t, err)
	require.NoError(t, r.Verify(t.Context(), c.Root))
	second := store(t, s, r, again)
	_, c2, err := s.CommitReader(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, c.Root, c2.Root, "the same tree has the same name")
	require.Subset(t, append(c.Packs, ref.Pack), c2.Packs, "and nothing of it is stored again")
}

func TestCapabilitiesAndLists(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	require.NoError(t, os.WriteFile(p, []byte("x"), 0o755))
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
	if err := unix.Setxattr(p, "security.capability", []byte(capability), 0); err != nil {
		if strings.Contains(os.Getenv("WSMESH_REQUIRE"), "root") {
			require.NoError(t, err, "required here: root")
		}
		t.Skipf("root: file capabilities cannot be set: %s", err)
	}
	acl := "\x02\x00\x00\x00" + // version, then tag, permissions and id of each entry
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
		"\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
	require.NoError(t, unix.Setxattr(p, "system.posix_acl_access", []byte(acl), 0))
	require.NoError(t, unix.Setxattr(dir, "system.posix_acl_default", []byte(acl), 0))
	s := newStore(t)
	require.Equal(t, describe(t, dir), describe(t, restore(t, s, store(t, s, nil, dir))))
}

// TestNotKept: sockets and devices are left out with a note.
func TestNotKept(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	d := openDir(t, dir)
	var notes, names []string
	d.Note = func(path, what string) { notes = append(notes, path+": "+what) }
	for it, err := range d.Items(t.Context()) {
		require.NoError(t, err)
		names = append(names, it.Path)
	}
	require.Equal(t, []string{"socket: sockets are not kept"}, notes)
	require.Equal(t, []string{".", "f"}, names)
}

// TestChangedWhileRead: a file that is written between its stat and the end of
// its content is no content of anything.
func TestChangedWhileRead(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p string) error
	}{
		{"longer", func(p string) error { return os.WriteFile(p, make([]byte, 200), 0o644) }},
		{"shorter", func(p string) error { return os.Truncate(p, 10) }},
		{"same size", func(p string) error { return os.WriteFile(p, make([]byte, 100), 0o644) }},
		{"another file", func(p string) error {
			if err := os.WriteFile(p+"2", make([]byte, 100), 0o644); err != nil {
				return err
			}
			return os.Rename(p+"2", p)
		}},
		{"a link", func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Symlink("/etc/passwd", p)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p := filepath.Join(dir, "f")
			require.NoError(t, os.WriteFile(p, []byte(strings.Repeat("x", 100)), 0o644))
			d := openDir(t, dir)
			items := func(yield func(objstore.Item, error) bool) {
				for it, err := range d.Items(t.Context()) {
					if it.Path == "f" {
						require.NoError(t, c.change(p))
					}
					if !yield(it, err) {
						return
					}
				}
			}
			_, err := newStore(t).Writer(nil).Tree(t.Context(), items)
			require.Error(t, err)
			require.Contains(t, []mesh.Code{mesh.CodeConflict, mesh.CodeDenied}, mesh.CodeOf(err), "%v", err)
			require.NotContains(t, err.Error(), dir)
		})
	}
}

// TestHostileTrees restores trees that nobody reads from a directory: nothing
// outside of the target is touched.
func TestHostileTrees(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, []byte("x"), 0o600))
	dir := func(inside ...objstore.Entry) []objstore.Item {
		all := []objstore.Item{{Path: ".", Entry: objstore.Entry{Type: objstore.TypeDir, Mode: 0o755}}}
		for _, e := range inside {
			all = append(all, objstore.Item{Path: e.Name, Entry: e})
		}
		return all
	}
	link := func(name, target string) objstore.Entry {
		return objstore.Entry{Name: name, Type: objstore.TypeLink, Target: target}
	}
	symlink := objstore.Entry{Name: "s", Type: objstore.TypeSymlink, Target: filepath.Dir(outside)}
	for _, c := range []struct {
		name  string
		items []objstore.Item
	}{
		{"link up", dir(link("x", "../outside"))},
		{"link to an absolute path", dir(link("x", outside))},
		{"link through a symbolic link", dir(symlink, link("x", "s/outside"))},
		{"link to a symbolic link", dir(symlink, link("x", "s"))},
		{"link to nothing", dir(link("x", "y"))},
		{"link to itself", dir(link("x", "x"))},
		{"link to the root", dir(link("x", "."))},
		{"attribute", dir(objstore.Entry{Name: "f", Type: objstore.TypeFIFO, Xattrs: []objstore.Xattr{{Name: "trusted.x"}}})},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			w := s.Writer(nil)
			root, err := w.Tree(t.Context(), func(yield func(objstore.Item, error) bool) {
				for _, it := range c.items {
					if !yield(it, nil) {
						return
					}
				}
			})
			require.NoError(t, err)
			packs, err := w.Flush(t.Context())
			require.NoError(t, err)
			r, err := s.Reader(t.Context(), packs...)
			require.NoError(t, err)
			require.Error(t, openDir(t, t.TempDir()).Restore(t.Context(), r, root))
			var st unix.Stat_t
			require.NoError(t, unix.Stat(outside, &st))
			require.EqualValues(t, 1, st.Nlink)
		})
	}
}
