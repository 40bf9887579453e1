package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func archiveOf(t *testing.T, headers ...*tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := "evil"
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		h.Mode |= 0o600
		require.NoError(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, content)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return &b
}

func TestUnpackStaysInside(t *testing.T) {
	reg := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }
	for name, c := range map[string][]*tar.Header{
		"parent":             {reg("../victim")},
		"parent in between":  {reg("a/../../victim")},
		"absolute":           {reg("/victim")},
		"through a link":     {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, reg("l/victim")},
		"through a deep one": {{Typeflag: tar.TypeSymlink, Name: "d/l", Linkname: "../.."}, reg("d/l/victim")},
		"absolute link":      {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/tmp"}, reg("l/victim")},
		"hard link":          {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../victim"}, reg("h/x")},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			victim := filepath.Join(dir, "victim")
			require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o644))
			require.NoError(t, os.Mkdir(filepath.Join(dir, "to"), 0o755))
			root, err := os.OpenRoot(filepath.Join(dir, "to"))
			require.NoError(t, err)
			defer root.Close()
			require.Error(t, unpack(root, archiveOf(t, c...), io.Discard))
			b, err := os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, "mine", string(b))
			require.NoFileExists(t, "/tmp/victim")
		})
	}
}

func TestUnpackReplacesALinkInsteadOfFollowingIt(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), []byte("mine"), 0o644))
	require.NoError(t, os.Symlink("other", filepath.Join(dir, "f")))
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o4755}
	require.NoError(t, unpack(root, archiveOf(t, hdr), io.Discard))
	b, err := os.ReadFile(filepath.Join(dir, "other"))
	require.NoError(t, err)
	require.Equal(t, "mine", string(b))
	info, err := os.Lstat(filepath.Join(dir, "f"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode(), "a regular file, without the set-user-id bit")
}

func TestPackAndUnpackKeepATree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(from, "d/empty"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(from, "d/run"), []byte("x"), 0o600))
	require.NoError(t, os.Chmod(filepath.Join(from, "d/run"), 0o751))
	require.NoError(t, os.WriteFile(filepath.Join(from, "b\xffd name"), nil, 0o644))
	require.NoError(t, os.Symlink("../nowhere", filepath.Join(from, "d/link")))
	when := time.Date(2020, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	require.NoError(t, os.Chtimes(filepath.Join(from, "d/run"), when, when))
	require.NoError(t, os.Chmod(filepath.Join(from, "d/empty"), 0o500))
	source, err := os.OpenRoot(from)
	require.NoError(t, err)
	defer source.Close()
	target, err := os.OpenRoot(to)
	require.NoError(t, err)
	defer target.Close()

	for range 2 { // the second time over the first
		var b bytes.Buffer
		require.NoError(t, pack(source, &b, io.Discard))
		require.NoError(t, unpack(target, &b, io.Discard))
	}
	info, err := os.Stat(filepath.Join(to, "d/run"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o751), info.Mode())
	require.True(t, info.ModTime().Equal(when), "%s", info.ModTime())
	info, err = os.Stat(filepath.Join(to, "d/empty"))
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|0o500, info.Mode())
	link, err := os.Readlink(filepath.Join(to, "d/link"))
	require.NoError(t, err)
	require.Equal(t, "../nowhere", link)
	require.FileExists(t, filepath.Join(to, "b\xffd name"))
}

func TestErrorTextSaysTheCodeOnce(t *testing.T) {
	err := local(mesh.Errorf(mesh.CodeNotFound, "no file"))
	var out bytes.Buffer
	require.Equal(t, exitMesh, report(&out, newRoot(), err))
	require.Equal(t, "wsmesh: not_found: no file\n", out.String())
}

// The names in a workspace are a stranger's: what a failing get says of them moves
// no cursor and sets no title.
func TestErrorTextIsNoTerminalCommand(t *testing.T) {
	const evil = "\x1b]0;title\a\nwsmesh: done\u202e\xff"
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, evil, "full"), 0o700))
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	err = unpack(root, archiveOf(t, &tar.Header{Typeflag: tar.TypeReg, Name: evil, Format: tar.FormatPAX}), io.Discard)
	require.Error(t, err)
	var out bytes.Buffer
	report(&out, newRoot(), local(err))
	line, rest, _ := strings.Cut(out.String(), "\n")
	require.Empty(t, rest)
	require.Contains(t, line, `\x1b]0;title\a\nwsmesh: done\u202e\xff`)
	require.NotContains(t, line, "\x1b")
	require.Equal(t, `"näher" \ 'b'`, shownText(`"näher" \ 'b'`), "what prints stays")
}
