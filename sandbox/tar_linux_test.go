package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// testContext is for calls that no test cancels.
func (t *Tree) testContext() context.Context { return context.Background() }

// tarOf makes an archive. A file without a size holds "inside"; one with a size
// that many zeros.
func tarOf(headers ...tar.Header) *bytes.Buffer {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		body := []byte("inside")
		if h.Size > 0 {
			body = make([]byte, h.Size)
		}
		if h.Typeflag != tar.TypeReg {
			body = nil
		}
		h.Size = int64(len(body))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := w.Write(body); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return &buf
}

// treeState describes all that a round trip keeps.
func treeState(t *testing.T, dir string) map[string]string {
	t.Helper()
	all, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		if p == dir {
			return nil
		}
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(p, &st))
		rel, _ := filepath.Rel(dir, p)
		what := fmt.Sprintf("%s %o %d.%09d", typeOf(&st), st.Mode&0o7777, st.Mtim.Sec, st.Mtim.Nsec)
		switch typeOf(&st) {
		case TypeFile:
			b, err := os.ReadFile(p)
			require.NoError(t, err)
			what += fmt.Sprintf(" %q", b)
			if st.Nlink > 1 && first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			what += " same as " + first[st.Ino]
		case TypeSymlink:
			target, err := os.Readlink(p)
			require.NoError(t, err)
			what += " " + target
		}
		if os.Geteuid() == 0 {
			require.Equal(t, uint32(testUID), st.Uid, rel)
		}
		all[rel] = what
		return nil
	})
	require.NoError(t, err)
	return all
}

// makeVariety makes one of everything below src, with times of the past.
func makeVariety(t *testing.T, f *treeFixture) {
	t.Helper()
	f.put("src/a/f", "content")
	f.put("src/empty file", "")
	f.put("src/odd \xff\n\"'/x\xfe", "bytes")
	f.put("src/ro/f", "read only")
	f.put("src/exec", "#!/bin/sh\n")
	f.put("src/deep/"+strings.Repeat("0123456789/", 60)+"f", "far")
	require.NoError(t, os.Mkdir(f.tenant("src/empty dir"), 0o711))
	require.NoError(t, os.Mkdir(f.tenant("src/sticky"), 0o755))
	require.NoError(t, os.Chmod(f.tenant("src/sticky"), 0o777|os.ModeSticky))
	require.NoError(t, unix.Mkfifo(f.tenant("src/fifo"), 0o640))
	f.link("a/f", "src/link")
	f.link(strings.Repeat("far/", 100), "src/dangling")
	f.link("/etc/passwd", "src/out")
	require.NoError(t, os.Link(f.tenant("src/a/f"), f.tenant("src/hard")))
	require.NoError(t, os.Link(f.tenant("src/a/f"), f.tenant("src/z")))
	require.NoError(t, os.Chmod(f.tenant("src/exec"), 0o755))
	require.NoError(t, os.Chmod(f.tenant("src/ro/f"), 0o400))
	require.NoError(t, os.Chmod(f.tenant("src/ro"), 0o555))
	var all []string
	require.NoError(t, filepath.WalkDir(f.tenant("src"), func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	}))
	for i := len(all) - 1; i >= 0; i-- {
		if os.Geteuid() == 0 {
			require.NoError(t, os.Lchown(all[i], testUID, testUID))
		}
		ts := unix.Timespec{Sec: 1_500_000_000 + int64(i), Nsec: 123_456_789}
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, all[i], []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	t.Cleanup(func() { // or a user who is not root cannot remove it
		for _, p := range []string{"src/ro", "dst/ro"} {
			_ = os.Chmod(f.tenant(p), 0o755)
		}
	})
}

func TestTarRoundTrip(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		makeVariety(t, f)
		makeSocket(t, f.tenant("src/socket"))
		v := f.View(".")
		var buf bytes.Buffer
		require.NoError(t, v.WriteTar(t.Context(), "src", &buf))
		require.NoError(t, os.Remove(f.tenant("src/socket")))
		ts := unix.Timespec{Sec: 1_500_000_000, Nsec: 1}
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, f.tenant("src"), []unix.Timespec{ts, ts}, 0))

		count, err := v.ReadTar(t.Context(), "dst", bytes.NewReader(buf.Bytes()), TarLimits{})
		require.NoError(t, err)
		want := treeState(t, f.tenant("src"))
		require.Equal(t, want, treeState(t, f.tenant("dst")))
		require.Equal(t, int64(len(want)), count.Entries)

		if os.Geteuid() != 0 { // whom the mode of a directory stops
			require.NoError(t, os.Chmod(f.tenant("dst/ro"), 0o755))
		}
		_, err = v.ReadTar(t.Context(), "dst", iotest.OneByteReader(&buf), TarLimits{})
		require.NoError(t, err, "over itself")
		require.Equal(t, want, treeState(t, f.tenant("dst")))
		require.Empty(t, f.staged())
	})
}

// Files that pass a gate beside each other leave what the same archive leaves one
// entry after the other, whatever names have in common.
func TestReadTarBeside(t *testing.T) {
	f := newTreeFixture(t)
	var inGate, most atomic.Int64
	gate := func(Change) (func(error) error, error) {
		for n := inGate.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(rand.N(200 * time.Microsecond)) // as a journal answers
		inGate.Add(-1)
		return func(err error) error { return err }, nil
	}
	extracted := 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		one := func(of ...string) string { return of[r.IntN(len(of))] }
		dir := func() string { return one("a", "b", "a/b", "c/d", "l") }
		name := func() string { return dir() + "/" + one("f", "g", "h") }
		var headers []tar.Header
		for i := range 25 {
			h := tar.Header{Name: name(), Typeflag: tar.TypeReg, ModTime: time.Unix(int64(1000+i), 0)}
			switch r.IntN(32) {
			case 0, 1:
				h.Name, h.Typeflag = dir(), tar.TypeDir
			case 2:
				h.Typeflag, h.Linkname = tar.TypeSymlink, name()
			case 3:
				h.Name, h.Typeflag, h.Linkname = "l", tar.TypeSymlink, one("a", "b")
			case 4:
				h.Name = one("a", "c/d", "l") // in the way, maybe
			case 5, 6:
				if i > 0 {
					h.Typeflag, h.Linkname = tar.TypeLink, headers[r.IntN(i)].Name
				}
			}
			headers = append(headers, h)
		}
		archive := tarOf(headers...).Bytes()
		alone, beside := fmt.Sprint("alone", seed), fmt.Sprint("beside", seed)
		_, want := f.View(".").ReadTar(t.Context(), alone, bytes.NewReader(archive), TarLimits{})
		_, got := f.View(".").Gated(gate).ReadTar(t.Context(), beside, bytes.NewReader(archive), TarLimits{})
		require.Equal(t, mesh.CodeOf(want), mesh.CodeOf(got), "seed %d: %v, and not %v", seed, got, want)
		if want == nil {
			extracted++
			require.Equal(t, withoutTimes(treeState(t, f.tenant(alone))), withoutTimes(treeState(t, f.tenant(beside))), "seed %d", seed)
		}
	}
	require.Greater(t, extracted, 10, "the archives are of no use")
	require.Greater(t, most.Load(), int64(3), "nothing passed beside anything")
}

// A name that leads through a link can be another name of a file that is still on its way.
func TestReadTarThroughLinks(t *testing.T) {
	for _, names := range [][2]string{{"d/f", "l/f"}, {"l/f", "d/f"}, {"l/f", "m/f"}} {
		f := newTreeFixture(t)
		f.put("to/d/g", "")
		f.link("d", "to/l")
		f.link("d", "to/m")
		var calls atomic.Int64
		second := make(chan struct{})
		gate := func(Change) (func(error) error, error) {
			if calls.Add(1) == 2 {
				return func(err error) error { close(second); return err }, nil
			}
			select {
			case <-second:
			case <-time.After(100 * time.Millisecond):
			}
			return func(err error) error { return err }, nil
		}
		archive := tarOf(
			tar.Header{Name: names[0], Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)},
			tar.Header{Name: names[1], Typeflag: tar.TypeReg, ModTime: time.Unix(2, 0)},
		)
		_, err := f.View(".").Gated(gate).ReadTar(t.Context(), "to", archive, TarLimits{})
		require.NoError(t, err)
		info, err := os.Stat(f.tenant("to/d/f"))
		require.NoError(t, err)
		require.Equal(t, int64(2), info.ModTime().Unix(), "%q", names)
	}
}

// withoutTimes drops the times of directories, which tell when something came.
func withoutTimes(state map[string]string) map[string]string {
	for p, what := range state {
		if words := strings.Fields(what); words[0] == TypeDir {
			state[p] = strings.Join(words[:2], " ")
		}
	}
	return state
}

func TestWriteTarOneFile(t *testing.T) {
	f := newTreeFixture(t)
	f.put("a/f", "content")
	f.link("a/f", "link")
	for _, p := range []string{"a/f", "link"} {
		var buf bytes.Buffer
		require.NoError(t, f.View(".").WriteTar(t.Context(), p, &buf))
		r := tar.NewReader(&buf)
		hdr, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, "f", hdr.Name)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "content", string(b))
		_, err = r.Next()
		require.ErrorIs(t, err, io.EOF)
	}
}

// More directories than are kept open, each with something after its child.
func TestTarDeep(t *testing.T) {
	eachWalk(t, func(t *testing.T, f *treeFixture) {
		dir := "src"
		for i := range maxOpenDirs + 20 {
			dir += "/d"
			f.put(dir+fmt.Sprintf("/a%d", i), "x")
			f.put(dir+fmt.Sprintf("/z%d", i), "x")
		}
		v := f.View(".")
		var buf bytes.Buffer
		require.NoError(t, v.WriteTar(t.Context(), "src", &buf))
		count, err := v.ReadTar(t.Context(), "dst", &buf, TarLimits{})
		require.NoError(t, err)
		require.Equal(t, int64(3*(maxOpenDirs+20)), count.Entries)
	})
}

// A reader that changes the tree while it is archived.
type meddler struct {
	w    io.Writer
	once func()
}

func (m *meddler) Write(b []byte) (int, error) {
	if m.once != nil {
		m.once()
		m.once = nil
	}
	return m.w.Write(b)
}

func TestWriteTarOfWhatChanges(t *testing.T) {
	const size = 3 * copyBuffer
	for name, c := range map[string]struct {
		change func(p string) error
		want   string
	}{
		"shrinks":  {func(p string) error { return os.Truncate(p, 10) }, strings.Repeat("x", 10) + strings.Repeat("\x00", size-10)},
		"grows":    {func(p string) error { return os.Truncate(p, 2*size) }, strings.Repeat("x", size)},
		"vanishes": {os.Remove, strings.Repeat("x", size)},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTreeFixture(t)
			f.put("d/f", strings.Repeat("x", size))
			var buf bytes.Buffer
			m := &meddler{&buf, func() { require.NoError(t, c.change(f.tenant("d/f"))) }}
			require.NoError(t, f.View(".").WriteTar(t.Context(), "d", m))
			r := tar.NewReader(&buf)
			_, err := r.Next()
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, c.want == string(got), "%d bytes", len(got))
			_, err = r.Next()
			require.ErrorIs(t, err, io.EOF)
		})
	}
	t.Run("all of it vanishes", func(t *testing.T) {
		f := newTreeFixture(t)
		for i := range 300 {
			f.put(fmt.Sprintf("d/%d/f", i), "x")
		}
		m := &meddler{io.Discard, func() { require.NoError(t, os.RemoveAll(f.tenant("d"))) }}
		require.NoError(t, f.View(".").WriteTar(t.Context(), "d", m))
	})
	t.Run("the writer fails", func(t *testing.T) {
		f := newTreeFixture(t)
		f.put("d/f", "x")
		broken := errors.New("broken pipe")
		err := f.View(".").WriteTar(t.Context(), "d", writerFunc(func([]byte) (int, error) { return 0, broken }))
		require.ErrorIs(t, err, broken)
	})
	t.Run("canceled", func(t *testing.T) {
		f := newTreeFixture(t)
		f.put("d/f", "x")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		requireCode(t, mesh.CodeCanceled, f.View(".").WriteTar(ctx, "d", io.Discard))
		_, err := f.View(".").ReadTar(ctx, "e", tarOf(tar.Header{Name: "f", Typeflag: tar.TypeReg}), TarLimits{})
		requireCode(t, mesh.CodeCanceled, err)
	})
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }

func TestReadTarHostile(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	symlink := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	for _, c := range []struct {
		name string
		tar  func(f *treeFixture) []tar.Header
		code mesh.Code
	}{
		{"absolute", func(*treeFixture) []tar.Header { return []tar.Header{file("/nowhere/new")} }, mesh.CodeDenied},
		{"workspace is absolute too", func(*treeFixture) []tar.Header { return []tar.Header{file("/workspace/x")} }, mesh.CodeDenied},
		{"up", func(*treeFixture) []tar.Header { return []tar.Header{file("../new")} }, mesh.CodeDenied},
		{"up in the middle", func(*treeFixture) []tar.Header { return []tar.Header{file("a/../../../secret/new")} }, mesh.CodeDenied},
		{"up at the end", func(*treeFixture) []tar.Header { return []tar.Header{{Name: "a/..", Typeflag: tar.TypeDir}} }, mesh.CodeDenied},
		{"link, then through it", func(f *treeFixture) []tar.Header {
			return []tar.Header{symlink("l", f.secret), file("l/new")}
		}, mesh.CodeDenied},
		{"relative link, then through it", func(*treeFixture) []tar.Header {
			return []tar.Header{symlink("l", "../../secret"), file("l/token")}
		}, mesh.CodeDenied},
		{"directory through a link", func(f *treeFixture) []tar.Header {
			return []tar.Header{symlink("l", f.secret), {Name: "l/d", Typeflag: tar.TypeDir}}
		}, mesh.CodeDenied},
		{"directory onto a link", func(f *treeFixture) []tar.Header {
			return []tar.Header{symlink("l", f.secret), {Name: "l", Typeflag: tar.TypeDir, Mode: 0o700}}
		}, mesh.CodeDenied},
		{"chain of links", func(*treeFixture) []tar.Header {
			return []tar.Header{symlink("a", "."), symlink("b", "a/.."), symlink("c", "b/../.."), file("c/new")}
		}, mesh.CodeDenied},
		{"the tenant's link", func(*treeFixture) []tar.Header { return []tar.Header{file("tenant/new")} }, mesh.CodeDenied},
		{"hard link out", func(*treeFixture) []tar.Header { return []tar.Header{hard("h", "/nowhere/token")} }, mesh.CodeDenied},
		{"hard link up", func(*treeFixture) []tar.Header { return []tar.Header{hard("h", "../../secret/token")} }, mesh.CodeDenied},
		{"hard link up, inside of the workspace", func(f *treeFixture) []tar.Header {
			f.put("beside", "x")
			return []tar.Header{hard("h", "../beside")}
		}, mesh.CodeDenied},
		{"hard link through a link", func(*treeFixture) []tar.Header { return []tar.Header{hard("h", "tenant/token")} }, mesh.CodeDenied},
		{"hard link to a link", func(f *treeFixture) []tar.Header {
			return []tar.Header{symlink("l", f.secret+"/token"), hard("h", "l")}
		}, mesh.CodeInvalid},
		{"hard link to nothing", func(*treeFixture) []tar.Header { return []tar.Header{hard("h", "nope")} }, mesh.CodeInvalid},
		{"hard link to a directory", func(*treeFixture) []tar.Header {
			return []tar.Header{{Name: "d", Typeflag: tar.TypeDir}, hard("h", "d")}
		}, mesh.CodeInvalid},
		{"device", func(*treeFixture) []tar.Header {
			return []tar.Header{{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}
		}, mesh.CodeDenied},
		{"block device", func(*treeFixture) []tar.Header {
			return []tar.Header{{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 7}}
		}, mesh.CodeDenied},
		{"file over a directory", func(*treeFixture) []tar.Header {
			return []tar.Header{{Name: "d", Typeflag: tar.TypeDir}, file("d")}
		}, mesh.CodeInvalid},
		{"directory over a file", func(*treeFixture) []tar.Header {
			return []tar.Header{file("d"), {Name: "d", Typeflag: tar.TypeDir}}
		}, mesh.CodeInvalid},
		{"file as the root", func(*treeFixture) []tar.Header { return []tar.Header{file(".")} }, mesh.CodeInvalid},
		{"long name", func(*treeFixture) []tar.Header { return []tar.Header{file(strings.Repeat("n", 300))} }, mesh.CodeInvalid},
		{"long path", func(*treeFixture) []tar.Header { return []tar.Header{file(strings.Repeat("nnnn/", 900) + "x")} }, mesh.CodeInvalid},
		{"too many entries", func(*treeFixture) []tar.Header {
			return []tar.Header{file("1"), file("2"), file("3"), file("4"), file("5")}
		}, mesh.CodeTooLarge},
		{"too many bytes", func(*treeFixture) []tar.Header {
			return []tar.Header{{Name: "1", Typeflag: tar.TypeReg, Size: 600}, {Name: "2", Typeflag: tar.TypeReg, Size: 600}}
		}, mesh.CodeTooLarge},
		{"a link that stays inside", func(*treeFixture) []tar.Header {
			return []tar.Header{{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755}, symlink("l", "d"), file("l/new")}
		}, ""},
		{"a link over a link", func(f *treeFixture) []tar.Header {
			return []tar.Header{symlink("l", f.secret+"/token"), file("l")}
		}, ""},
		{"hard link to itself", func(*treeFixture) []tar.Header { return []tar.Header{file("l"), hard("l", "l")} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWalk(t, func(t *testing.T, f *treeFixture) {
				f.link(f.secret, "in/tenant")
				f.put("in/keep", "x")
				for _, scope := range []string{"in", "."} {
					_, err := f.View(scope).ReadTar(t.Context(), "in", tarOf(c.tar(f)...), TarLimits{Entries: 4, Bytes: 1000})
					requireCode(t, c.code, err)
					require.Empty(t, f.staged())
					require.Equal(t, "x", f.content("in/keep"))
				}
			})
		})
	}
	t.Run("setuid is dropped", func(t *testing.T) {
		f := newTreeFixture(t)
		h, d := file("s"), tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o7777}
		h.Mode = 0o6755
		_, err := f.View(".").ReadTar(t.Context(), ".", tarOf(h, d), TarLimits{})
		require.NoError(t, err)
		requireTenants(t, f.tenant("s"), 0o755)
		requireTenants(t, f.tenant("d"), 0o1777)
	})
	t.Run("sparse bomb", func(t *testing.T) {
		f := newTreeFixture(t)
		_, err := f.View(".").ReadTar(t.Context(), "x", bytes.NewReader(sparseBomb()), TarLimits{})
		requireCode(t, mesh.CodeTooLarge, err)
		require.NoFileExists(t, f.tenant("x/bomb"))
	})
}

// sparseBomb is an archive of one GNU sparse file of 8 GiB times 1024 without
// any data.
func sparseBomb() []byte {
	b := tarOf(tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Format: tar.FormatGNU}).Bytes()[:512]
	b[156] = 'S'
	copy(b[124:136], "00000000000\x00")                                  // the size of the data
	copy(b[386:398], "00000000000\x00")                                  // one piece: offset
	copy(b[398:410], "00000000000\x00")                                  // and length
	copy(b[483:495], "\x80\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00") // the real size
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return append(b, make([]byte, 1024)...)
}

func TestReadTarMalformed(t *testing.T) {
	good := tarOf(tar.Header{Name: "a", Typeflag: tar.TypeReg}, tar.Header{Name: "b", Typeflag: tar.TypeReg}).Bytes()
	random := make([]byte, 2048)
	for i := range random {
		random[i] = byte(rand.IntN(256))
	}
	for name, b := range map[string][]byte{
		"empty":                 nil,
		"text":                  []byte("hello"),
		"random":                random,
		"cut in a header":       good[:700],
		"cut in a body":         good[:514],
		"cut between entries":   good[:1024],
		"cut before its end":    good[:2048],
		"a bit in the checksum": append([]byte{good[0] ^ 1}, good[1:]...),
	} {
		t.Run(name, func(t *testing.T) {
			f := newTreeFixture(t)
			_, err := f.View(".").ReadTar(t.Context(), "d", bytes.NewReader(b), TarLimits{})
			requireCode(t, mesh.CodeInvalid, err)
			require.Empty(t, f.staged())
		})
	}
	t.Run("the reader fails", func(t *testing.T) {
		f := newTreeFixture(t)
		broken := errors.New("connection reset")
		r := io.MultiReader(bytes.NewReader(good[:1100]), iotest.ErrReader(broken))
		count, err := f.View(".").ReadTar(t.Context(), "d", r, TarLimits{})
		require.ErrorIs(t, err, broken)
		require.Equal(t, TarCount{Entries: 1, Bytes: 6}, count)
		require.Equal(t, "inside", f.content("d/a"))
	})
	t.Run("onto a file", func(t *testing.T) {
		f := newTreeFixture(t)
		f.put("d", "x")
		_, err := f.View(".").ReadTar(t.Context(), "d", bytes.NewReader(good), TarLimits{})
		requireCode(t, mesh.CodeInvalid, err)
	})
}

// Closing the Tree ends what reads from a client that sends no end.
func TestReadTarEndsWithTheTree(t *testing.T) {
	f := newTreeFixture(t)
	r, w := io.Pipe()
	defer r.Close()
	go func() {
		tw := tar.NewWriter(w)
		for i := 0; tw.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg}) == nil; i++ {
			if tw.Flush() != nil {
				return
			}
		}
	}()
	done := make(chan error, 1)
	go func() {
		_, err := f.View(".").ReadTar(context.Background(), "d", r, TarLimits{})
		done <- err
	}()
	require.Eventually(t, func() bool { _, err := f.View(".").Stat("d/3", true); return err == nil }, 5*time.Second, time.Millisecond)
	require.NoError(t, f.Close())
	requireCode(t, mesh.CodeLost, <-done)
}

func FuzzReadTar(f *testing.F) {
	f.Add(tarOf(tar.Header{Name: "a/b", Typeflag: tar.TypeReg}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../secret"}).Bytes())
	f.Add(tarOf(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "l/x", Typeflag: tar.TypeDir}).Bytes())
	f.Add(tarOf(tar.Header{Name: "f", Typeflag: tar.TypeReg}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "f"}, tar.Header{Name: "p", Typeflag: tar.TypeFifo}).Bytes())
	f.Add(tarOf(tar.Header{Name: "\xff\n", Typeflag: tar.TypeReg, Format: tar.FormatPAX, ModTime: time.Unix(1, 5)}).Bytes())
	f.Add(sparseBomb())
	f.Fuzz(func(t *testing.T, b []byte) {
		tree := newTreeFixture(t)
		v := tree.View("in")
		_, err := v.ReadTar(t.Context(), "in", bytes.NewReader(b), TarLimits{Entries: 50, Bytes: 1 << 20})
		if err != nil {
			requireCode(t, mesh.CodeOf(err), err)
			require.NotEqual(t, mesh.CodeInternal, mesh.CodeOf(err), err)
		}
		names, err := os.ReadDir(tree.cfg.Dir)
		require.NoError(t, err)
		for _, n := range names {
			require.Equal(t, "in", n.Name(), "outside of the scope")
		}
		if err := v.WriteTar(t.Context(), "in", io.Discard); err != nil {
			require.NotEqual(t, mesh.CodeInternal, mesh.CodeOf(err), err)
		}
	})
}

func tarFile(name string, size int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: size}
}
