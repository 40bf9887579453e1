package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestTreeWrite(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		v := f.View(".")
		f.put("old", "old content")
		require.NoError(t, os.Chmod(f.tenant("old"), 0o750))
		require.NoError(t, os.Mkdir(f.tenant("dir"), 0o755))
		require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o644))
		f.put("target/t", "t")
		f.link("target/t", "link")
		f.link("target/new", "dangling")
		f.link("made/by/link", "dangling2")
		bin := "\x00\xff\x80\n"
		for _, c := range []struct {
			name, path string
			opt        WriteOptions
			code       mesh.Code
			at         string // where the content is then
			mode       uint32
		}{
			{name: "new", path: "new", at: "new", mode: 0o644},
			{name: "makes parents", path: "p/q/new", at: "p/q/new", mode: 0o644},
			{name: "keeps the mode", path: "old", at: "old", mode: 0o750},
			{name: "sets the mode", path: "old", opt: WriteOptions{Mode: 0o4600}, at: "old", mode: 0o600},
			{name: "create only", path: "fresh", opt: WriteOptions{CreateOnly: true, Mode: 0o700}, at: "fresh", mode: 0o700},
			{name: "create only, exists", path: "old", opt: WriteOptions{CreateOnly: true}, code: mesh.CodeExists},
			{name: "create only, directory", path: "dir", opt: WriteOptions{CreateOnly: true}, code: mesh.CodeExists},
			{name: "create only, dangling link", path: "dangling", opt: WriteOptions{CreateOnly: true}, code: mesh.CodeExists},
			{name: "through a link", path: "link", at: "target/t", mode: 0o644},
			{name: "through a dangling link", path: "dangling", at: "target/new", mode: 0o644},
			{name: "a dangling link's parents", path: "dangling2", at: "made/by/link", mode: 0o644},
			{name: "directory", path: "dir", code: mesh.CodeInvalid},
			{name: "root", path: ".", code: mesh.CodeInvalid},
			{name: "fifo", path: "fifo", code: mesh.CodeInvalid},
			{name: "below a file", path: "old/x", code: mesh.CodeInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				info, err := v.Write(c.path, []byte(bin+c.name), c.opt)
				requireCode(t, c.code, err)
				require.Empty(t, f.staged())
				if c.code != "" {
					return
				}
				require.Equal(t, bin+c.name, f.content(c.at))
				requireTenants(t, f.tenant(c.at), c.mode)
				stat, err := v.Stat(c.path, true)
				require.NoError(t, err)
				require.Equal(t, stat, info)
			})
		}
		requireTenants(t, f.tenant("p"), 0o755)
		requireTenants(t, f.tenant("p/q"), 0o755)
		target, err := os.Readlink(f.tenant("link"))
		require.NoError(t, err)
		require.Equal(t, "target/t", target, "the link is still one")
	})
}

func TestTreeReadAt(t *testing.T) {
	f := newTreeFixture(t)
	v := f.View(".")
	f.put("f", "0123456789")
	b, info, err := v.ReadAt("f", 8, 4, "")
	require.NoError(t, err)
	require.Equal(t, "89", string(b))
	require.Equal(t, int64(10), info.Size)
	b, _, err = v.ReadAt("f", 100, 4, info.Revision)
	require.NoError(t, err)
	require.Empty(t, b)
	_, _, err = v.ReadAt("f", -1, 4, "")
	requireCode(t, mesh.CodeInvalid, err)

	for name, change := range map[string]func(){
		"replaced": func() { _, err := v.Write("f", []byte("abcdefghij"), WriteOptions{}); require.NoError(t, err) },
		"mode":     func() { require.NoError(t, os.Chmod(f.tenant("f"), 0o600)) },
		"grown":    func() { f.put("f", "0123456789a") },
	} {
		t.Run(name, func(t *testing.T) {
			_, info, err := v.ReadAt("f", 0, 4, "")
			require.NoError(t, err)
			// A file system may take the time of a change from a coarse clock.
			require.Eventually(t, func() bool {
				change()
				_, _, err := v.ReadAt("f", 4, 4, info.Revision)
				return mesh.CodeOf(err) == mesh.CodeConflict
			}, 5*time.Second, time.Millisecond)
		})
	}
}

func TestTreeStat(t *testing.T) {
	f := newTreeFixture(t)
	v := f.View(".")
	f.put("file", "12345")
	require.NoError(t, os.Chmod(f.tenant("file"), 0o640|os.ModeSetuid))
	at := time.Unix(1_600_000_000, 123_456_789)
	require.NoError(t, os.Chtimes(f.tenant("file"), at, at))
	require.NoError(t, os.Mkdir(f.tenant("dir"), 0o711))
	require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o600))
	makeSocket(t, f.tenant("socket"))
	f.link("file", "link")
	f.link("\xff", "dangling")

	info, err := v.Stat("file", true)
	require.NoError(t, err)
	require.Equal(t, TypeFile, info.Type)
	require.Equal(t, int64(5), info.Size)
	require.Equal(t, uint32(0o4640), info.Mode)
	require.True(t, at.Equal(info.ModTime))
	for name, c := range map[string]struct {
		follow bool
		want   string
		code   mesh.Code
	}{
		"dir":      {true, TypeDir, ""},
		"fifo":     {true, TypeFifo, ""},
		"socket":   {true, TypeSocket, ""},
		"link":     {true, TypeFile, ""},
		"dangling": {true, "", mesh.CodeNotFound},
		".":        {true, TypeDir, ""},
	} {
		t.Run(name, func(t *testing.T) {
			info, err := v.Stat(name, c.follow)
			requireCode(t, c.code, err)
			require.Equal(t, c.want, info.Type)
		})
	}
	info, err = v.Stat("dangling", false)
	require.NoError(t, err)
	require.Equal(t, mesh.Path("\xff"), info.Target)
	b, err := json.Marshal(info)
	require.NoError(t, err)
	var back Info
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, info.Target, back.Target)
	require.Contains(t, string(b), `"type":"symlink"`)
}

func makeSocket(t *testing.T, p string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	// Relative to the directory: an address holds 107 bytes.
	dir, err := os.Open(p[:strings.LastIndexByte(p, '/')])
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: again(int(dir.Fd())) + p[strings.LastIndexByte(p, '/'):]}))
}

func TestTreeList(t *testing.T) {
	f := newTreeFixture(t)
	v := f.View(".")
	require.NoError(t, os.Mkdir(f.tenant("big"), 0o755))
	f.put("one", "")
	var want []string
	for i := range 5000 {
		name := fmt.Sprintf("e%d", i)
		switch i % 5 {
		case 1:
			name += "\nnew\tline"
		case 2:
			name += "\xff\xfe"
		case 3:
			name = "." + name + " 文"
		}
		want = append(want, name)
		require.NoError(t, os.Link(f.tenant("one"), f.tenant("big", name)))
	}
	slices.Sort(want)
	f.link("big", "link")
	for _, limit := range []int{7, 999, mesh.MaxList} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			var got []string
			after := ""
			for more := true; more; {
				page, err := v.List("link", after, limit)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page.Entries), limit)
				for _, e := range page.Entries {
					after = string(e.Path)
					got = append(got, after)
				}
				more = page.More
				if limit == 7 && len(got) > 100 {
					require.Equal(t, want[:len(got)], got)
					return
				}
			}
			require.Equal(t, want, got)
		})
	}
	t.Run("exact end", func(t *testing.T) {
		page, err := v.List("big", want[4989], 10)
		require.NoError(t, err)
		require.Len(t, page.Entries, 10)
		require.False(t, page.More)
	})
	t.Run("links show their target", func(t *testing.T) {
		page, err := v.List(".", "big", 1)
		require.NoError(t, err)
		require.True(t, page.More)
		require.Len(t, page.Entries, 1)
		require.Equal(t, mesh.Path("big"), page.Entries[0].Target)
	})
	for name, c := range map[string]struct {
		path  string
		limit int
		code  mesh.Code
	}{
		"missing":   {"nope", 1, mesh.CodeNotFound},
		"file":      {"big/" + want[0], 1, mesh.CodeInvalid},
		"limit 0":   {"big", 0, mesh.CodeInvalid},
		"limit big": {"big", mesh.MaxList + 1, mesh.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.List(c.path, "", c.limit)
			requireCode(t, c.code, err)
		})
	}
}

func TestTreeMkdir(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("file", "x")
		require.NoError(t, os.Mkdir(f.tenant("dir"), 0o700))
		f.link("dir", "link")
		f.link("nowhere", "dangling")
		for _, c := range []struct {
			name, path string
			mode       uint32
			parents    bool
			code       mesh.Code
			want       uint32
		}{
			{name: "default mode", path: "d1", want: 0o755},
			{name: "mode", path: "d2", mode: 0o1777, want: 0o1777},
			{name: "no setuid", path: "d3", mode: 0o6770, want: 0o770},
			{name: "missing parent", path: "no/d", code: mesh.CodeNotFound},
			{name: "parents", path: "x/y/z", mode: 0o711, parents: true, want: 0o711},
			{name: "exists", path: "dir", code: mesh.CodeExists},
			{name: "exists, parents", path: "dir", parents: true, want: 0o700},
			{name: "link to a directory, parents", path: "link", parents: true, want: 0o777},
			{name: "link", path: "dangling", code: mesh.CodeExists},
			{name: "file", path: "file", parents: true, code: mesh.CodeExists},
			{name: "below a file", path: "file/d", parents: true, code: mesh.CodeInvalid},
			{name: "below a link", path: "link/in", want: 0o755},
			{name: "root", path: ".", parents: true, want: 0o700},
			{name: "root, no parents", path: ".", code: mesh.CodeExists},
		} {
			t.Run(c.name, func(t *testing.T) {
				requireCode(t, c.code, f.View(".").Mkdir(c.path, c.mode, c.parents))
				require.Empty(t, f.staged())
				if c.code == "" {
					st, err := os.Lstat(f.tenant(c.path))
					require.NoError(t, err)
					require.Equal(t, c.want, modeBits(st))
				}
			})
		}
		requireTenants(t, f.tenant("x/y"), 0o755)
	})
}

func TestTreeRename(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		noReplace      bool
		code           mesh.Code
		absent         string // what a refusal must not have made
	}{
		{name: "file", from: "f", to: "g"},
		{name: "into a new directory", from: "f", to: "n/m/f"},
		{name: "over a file", from: "f", to: "other"},
		{name: "no replace", from: "f", to: "other", noReplace: true, code: mesh.CodeExists},
		{name: "no replace, link", from: "f", to: "dangling", noReplace: true, code: mesh.CodeExists},
		{name: "no replace, free", from: "f", to: "g", noReplace: true},
		{name: "onto itself", from: "f", to: "f"},
		{name: "directory", from: "d", to: "e"},
		{name: "over an empty directory", from: "d", to: "empty"},
		{name: "over a full directory", from: "empty", to: "d", code: mesh.CodeExists},
		{name: "file over directory", from: "f", to: "empty", code: mesh.CodeInvalid},
		{name: "directory over file", from: "d", to: "f", code: mesh.CodeInvalid},
		{name: "the link, not its target", from: "dangling", to: "moved"},
		{name: "over a link", from: "f", to: "dangling"},
		{name: "missing", from: "nope", to: "n/m", code: mesh.CodeNotFound, absent: "n"},
		{name: "into itself", from: "d", to: "d/new/x", code: mesh.CodeInvalid, absent: "d/new"},
		{name: "into itself by a link", from: "d", to: "dlink/y", code: mesh.CodeInvalid},
		{name: "root", from: ".", to: "x", code: mesh.CodeDenied},
		{name: "onto the root", from: "d", to: ".", code: mesh.CodeDenied},
		{name: "out", from: "f", to: "out/f", code: mesh.CodeDenied},
		{name: "in", from: "out/f", to: "x", code: mesh.CodeDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWalk(t, func(t *testing.T, f *treeFixture) {
				f.put("f", "moved")
				f.put("other", "o")
				f.put("d/x", "moved")
				require.NoError(t, os.Mkdir(f.tenant("empty"), 0o755))
				f.link("nowhere", "dangling")
				f.link("d", "dlink")
				f.link(f.secret, "out")
				before, err := os.Lstat(f.tenant(c.from))
				if c.code == "" {
					require.NoError(t, err)
				}
				requireCode(t, c.code, f.View(".").Rename(c.from, c.to, c.noReplace, ""))
				if c.code == "" {
					after, err := os.Lstat(f.tenant(c.to))
					require.NoError(t, err)
					require.True(t, os.SameFile(before, after))
				}
				if c.absent != "" {
					require.NoFileExists(t, f.tenant(c.absent))
					require.NoDirExists(t, f.tenant(c.absent))
				}
			})
		})
	}
}

func TestTreeRemove(t *testing.T) {
	for _, c := range []struct {
		name, path string
		recursive  bool
		code       mesh.Code
	}{
		{name: "file", path: "f"},
		{name: "file, recursive", path: "f", recursive: true},
		{name: "fifo", path: "fifo"},
		{name: "empty directory", path: "empty"},
		{name: "full directory", path: "d", code: mesh.CodeInvalid},
		{name: "full directory, recursive", path: "d", recursive: true},
		{name: "missing", path: "nope", code: mesh.CodeNotFound},
		{name: "missing, recursive", path: "nope", recursive: true, code: mesh.CodeNotFound},
		{name: "link", path: "out"},
		{name: "link, recursive", path: "out", recursive: true},
		{name: "dangling link", path: "dangling"},
		{name: "behind a link", path: "out/token", code: mesh.CodeDenied},
		{name: "root", path: ".", recursive: true, code: mesh.CodeDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWalk(t, func(t *testing.T, f *treeFixture) {
				f.put("f", "x")
				f.put("d/sub/sub/x", "x")
				f.link(f.secret, "d/sub/out")
				f.link(f.secret+"/token", "d/sub/sub/token")
				require.NoError(t, os.Mkdir(f.tenant("empty"), 0o755))
				require.NoError(t, unix.Mkfifo(f.tenant("fifo"), 0o644))
				f.link("nowhere", "dangling")
				f.link(f.secret, "out")
				requireCode(t, c.code, f.View(".").Remove(c.path, c.recursive, ""))
				require.Empty(t, f.staged())
				if c.code == "" {
					_, err := os.Lstat(f.tenant(c.path))
					require.ErrorIs(t, err, os.ErrNotExist)
				}
			})
		})
	}
	t.Run("scope root", func(t *testing.T) {
		f := newTreeFixture(t)
		f.put("s/f", "x")
		f.link("/workspace/s", "s/me")
		requireCode(t, mesh.CodeDenied, f.View("s").Remove("s", true, ""))
		require.NoError(t, f.View("s").Remove("s/me/me", true, ""), "the link")
		require.FileExists(t, f.tenant("s/f"))
	})
}

// makeDeep makes a directory deeper than any path can be written, as a program
// in the sandbox does: by going down.
func makeDeep(t *testing.T, top string, depth int) {
	t.Helper()
	leaf := top + "/leaf"
	require.NoError(t, os.WriteFile(leaf, nil, 0o644))
	fd, err := unix.Open(top, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	for range depth {
		require.NoError(t, unix.Mkdirat(fd, "deep", 0o755))
		if err := unix.Linkat(unix.AT_FDCWD, leaf, fd, "leaf", 0); err != nil {
			require.ErrorIs(t, err, unix.EEXIST) // the topmost has it
		}
		next, err := unix.Openat(fd, "deep", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

func TestTreeDeep(t *testing.T) {
	f := newTreeFixture(t)
	v := f.View(".")
	makeDeep(t, f.cfg.Dir, 2500)
	page, err := v.List("deep", "", 10)
	require.NoError(t, err)
	require.Len(t, page.Entries, 2)
	deepest := strings.Repeat("deep/", 800) + "leaf"
	_, err = v.Stat(deepest, true)
	require.NoError(t, err)
	_, err = v.Stat(strings.Repeat("deep/", 1000), true)
	requireCode(t, mesh.CodeInvalid, err)
	var buf bytes.Buffer
	requireCode(t, mesh.CodeTooLarge, v.WriteTar(t.Context(), ".", &buf))
	f.link("deep/"+deepest[:700*5+4], "far")
	_, err = v.Stat("far", true)
	require.NoError(t, err)
	before := openDescriptors(t)
	require.NoError(t, v.Remove("deep", true, ""))
	require.LessOrEqual(t, openDescriptors(t), before+3)
	require.NoDirExists(t, f.tenant("deep"))
	require.Empty(t, f.staged())
}

// A process of the tenant that is still in the directory goes on making files,
// faster than they can be removed.
func TestTreeRemoveWhileFilled(t *testing.T) {
	needRoot(t)
	f := newTreeFixture(t)
	v := f.View(".")
	require.NoError(t, v.Mkdir("d/e", 0, true))
	dir, err := unix.Open(f.tenant("d/e"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	defer unix.Close(dir)
	made, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		// The thread is the tenant from here on, and ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setfsuid(testUID); err != nil {
			ended <- err
			return
		}
		for i := 0; ; i++ {
			if i == 500 {
				close(made)
			}
			if err := unix.Mkdirat(dir, fmt.Sprintf("n%d", i), 0o755); err != nil {
				ended <- err
				return
			}
		}
	}()
	<-made
	start := time.Now()
	require.NoError(t, v.Remove("d", true, ""))
	require.Less(t, time.Since(start), 10*time.Second)
	require.NoDirExists(t, f.tenant("d"))
	select {
	case err := <-ended:
		if !errors.Is(err, unix.EACCES) {
			require.ErrorIs(t, err, unix.ENOENT)
		}
	case <-time.After(10 * time.Second):
		require.Fail(t, "the tenant still makes files in a removed directory")
	}
}

// purgeAll empties the stage as the next OpenTree would.
func (f *treeFixture) purgeAll(t *testing.T) {
	t.Helper()
	names, err := os.ReadDir(again(f.trash))
	require.NoError(t, err)
	for _, n := range names {
		f.purge([]string{n.Name()})
	}
}

func modeBits(st os.FileInfo) uint32 { return st.Sys().(*syscall.Stat_t).Mode & 0o7777 }

// A directory that comes to be where a file is about to be replaced stays, and the new
// file does not.
func TestTreeReplaceMeetsDirectory(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		f.put("d/f", "old")
		there := filepath.Join(f.cfg.Dir, "d/f")
		v := f.View(".").Gated(func(Change) (func(error) error, error) {
			require.NoError(t, os.Remove(there))
			require.NoError(t, os.MkdirAll(filepath.Join(there, "kept"), 0o755))
			return func(err error) error { return err }, nil
		})
		_, err := v.Write("d/f", []byte("new"), WriteOptions{})
		require.Error(t, err)
		require.DirExists(t, filepath.Join(there, "kept"))
	})
}
