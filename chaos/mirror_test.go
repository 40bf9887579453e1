package chaos

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/objstore/s3test"
)

// mirrorSteps are those of the copy outside of the mesh, and of the readable one.
var mirrorSteps = []string{
	"mirror packs stored", "mirror commit stored", "mirror head stored", "mirror memory stored",
	"files begun", "files removed", "files stored",
}

// TestCrashInTheMirror lets a one box die behind each step of the copy while files and
// memories change. When it has ended in order, another box that has nothing gets the
// same files and memories of the copy, and the readable one has them too.
func TestCrashInTheMirror(t *testing.T) {
	at, dir := program(t, "crashpoints"), t.TempDir()
	box := &Box{Program: at, Data: t.TempDir(), Args: []string{"--s3", "file://" + dir}}
	t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(mirrorSteps))*patience)
	defer cancel()
	require.NoError(t, box.Start(ctx), box.Log())
	c, err := box.Dial(ctx)
	require.NoError(t, err)
	defer c.Close()
	enough, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-enough:
				return
			case <-time.After(20 * time.Millisecond):
				change(ctx, c, fmt.Sprint(n), n%2 == 0)
			}
		}
	}()
	require.NoError(t, box.Kill())
	steps := slices.Clone(mirrorSteps)
	if !meshtest.Long() {
		steps = slices.Concat(mirrorSteps[1:2], mirrorSteps[len(mirrorSteps)-2:])
	}
	for _, step := range steps {
		box.Env = []string{"WSMESH_CRASH=" + step + ":1"}
		require.NoError(t, box.Begin())
		require.True(t, box.Gone(ctx), "the program has never come by %s", step)
	}
	box.Env = nil
	require.NoError(t, box.Start(ctx), box.Log())
	close(enough)
	<-ended
	files, memories := held(ctx, t, c)
	require.NotEmpty(t, files)
	require.NotEmpty(t, memories)
	require.NoError(t, box.Stop())
	require.NotContains(t, box.Log(), "not all was copied")

	shown := map[string]string{}
	below := filepath.Join(dir, "tenants", "dev", "workspaces", "main", "files")
	require.NoError(t, filepath.WalkDir(below, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		shown[strings.TrimPrefix(p, below+"/")] = string(data)
		return err
	}))
	require.Equal(t, files, shown, "the readable copy")

	_, other := restored(ctx, t, box)
	defer other.Close()
	filesNow, memoriesNow := held(ctx, t, other)
	require.Equal(t, files, filesNow)
	require.Equal(t, memories, memoriesNow)
}

// change changes a few things; what it can is enough.
func change(ctx context.Context, c *client.Client, text string, flat bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // the box may die
	defer cancel()
	ws := c.Workspace("main")
	_ = ws.WriteFile(ctx, "changing", []byte(text), 0)
	_ = ws.RemoveAll(ctx, "flips")
	if flat {
		_ = ws.WriteFile(ctx, "flips", []byte(text), 0)
	} else {
		_ = ws.WriteFile(ctx, "flips/to/a/directory", []byte(text), 0)
	}
	_ = ws.WriteFile(ctx, "new/"+text, []byte(text), 0)
	_, _ = c.Memory("main").Put(ctx, "changing", []byte(text))
	_, _ = c.Memory("main").Put(ctx, text, []byte(text))
}

// held is all that the files and the memory hold.
func held(ctx context.Context, t *testing.T, c *client.Client) (files, memories map[string]string) {
	t.Helper()
	files, memories = map[string]string{}, map[string]string{}
	fsys := c.Workspace("main").FS(ctx)
	require.NoError(t, fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(fsys, p)
		files[p] = string(data)
		return err
	}))
	for e, err := range c.Memory("main").List(ctx, "") {
		require.NoError(t, err)
		got, err := c.Memory("main").Get(ctx, e.Key)
		require.NoError(t, err)
		memories[e.Key] = string(got.Value)
	}
	return files, memories
}

// restored makes a box, with nothing but the copy of another one, and restores it.
func restored(ctx context.Context, t *testing.T, lost *Box) (*Box, *client.Client) {
	t.Helper()
	box := &Box{Program: lost.Program, Data: t.TempDir(), Args: lost.Args}
	require.NoError(t, box.Start(ctx), box.Log())
	t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
	url := ""
	for i, arg := range box.Args {
		if arg == "--s3" {
			url = box.Args[i+1]
		}
	}
	out, err := box.Run(ctx, "restore", "--s3", url)
	require.NoError(t, err, out)
	c, err := box.Dial(ctx)
	require.NoError(t, err)
	return box, c
}

// everyType makes files of every type and with odd names, below odd.
const everyType = `umask 022; mkdir odd; cd odd
printf one > file; printf two > exec; chmod 4755 exec; ln file again; mkdir -p a/b; ln file a/b/third
ln -s ../nowhere link; ln -s /workspace/odd/file absolute; mkfifo pipe; mkdir empty sticky; chmod 1777 sticky
truncate -s 5M sparse; printf end >> sparse; head -c 3000000 /dev/urandom > random
printf x > "$(printf '\377\n%%41')"; printf y > ' -spaces ä€ '; printf z > "$(printf 'n%.0s' $(seq 255))"
chmod 0 file; chmod 0640 random; touch -d '2001-02-03 04:05:06.789' a/b exec; touch -h -d '1999-01-01' link`

// looks prints all that a tree is.
const looks = `cd odd; find . -printf '%P|%y|%m|%n|%s|%T@|%l\n' | LC_ALL=C sort; chmod 600 file; find . -type f -exec sha256sum {} + | LC_ALL=C sort; chmod 0 file`

// TestWipedAndRestored loses everything but the copy on a real S3 server: what comes back
// is equal, whatever kind of file it is, with snapshots, forks and memories, and a
// workspace can be filled from the readable copy.
func TestWipedAndRestored(t *testing.T) {
	s3test.Setenv(t)
	server := s3test.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	url := "s3://" + s3test.Bucket + "/p?endpoint=" + server.URL()
	box := &Box{Program: program(t, ""), Data: t.TempDir(), Args: []string{"--isolation", "none", "--s3", url}}
	t.Cleanup(func() { box.Kill() }) //nolint:errcheck // gone already
	require.NoError(t, box.Start(ctx))
	c, err := box.Dial(ctx)
	require.NoError(t, err)
	defer c.Close()
	run := func(c *client.Client, workspace, line string) string {
		out, err := c.Workspace(workspace).Command(ctx, "sh", "-c", line).Output()
		require.NoError(t, err)
		return string(out)
	}
	ws := c.Workspace("main")
	require.NoError(t, ws.WriteFile(ctx, "plain/d/f", []byte("before"), 0o640))
	_, err = ws.CreateSnapshot(ctx, "kept", "")
	require.NoError(t, err)
	_, err = c.Fork(ctx, "main", "kept", "forked")
	require.NoError(t, err)
	require.NoError(t, c.Workspace("forked").WriteFile(ctx, "plain/g", []byte("of the fork"), 0))
	run(c, "main", everyType)
	want := run(c, "main", looks)
	require.Contains(t, want, "pipe|p|")
	require.Contains(t, want, "a/b/third|f|0|3|")
	require.NoError(t, ws.WriteFile(ctx, "plain/d/f", []byte("after"), 0o640))
	_, err = c.Memory("main").Put(ctx, "k/ä", []byte("v"))
	require.NoError(t, err)
	require.NoError(t, box.Stop())
	require.NotContains(t, box.Log(), "not all was copied")

	box, other := restored(ctx, t, box)
	defer other.Close()
	require.Equal(t, want, run(other, "main", looks))
	read := func(fsys interface {
		ReadFile(context.Context, string) ([]byte, error)
	}, p string,
	) string {
		b, err := fsys.ReadFile(ctx, p)
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "after", read(other.Workspace("main"), "plain/d/f"))
	past, err := other.Workspace("main").At(ctx, "kept")
	require.NoError(t, err)
	require.Equal(t, "before", read(past, "plain/d/f"))
	require.Equal(t, "before", read(other.Workspace("forked"), "plain/d/f"))
	require.Equal(t, "of the fork", read(other.Workspace("forked"), "plain/g"))
	e, err := other.Memory("main").Get(ctx, "k/ä")
	require.NoError(t, err)
	require.Equal(t, "v", string(e.Value))

	// The readable copy is the tree, but for what an object cannot be.
	at := "s3://" + s3test.Bucket + "/p/tenants/dev/workspaces/main/files/"
	out, err := box.Run(ctx, "workspace", "create", "whole", "--from", at+"?endpoint="+server.URL())
	require.NoError(t, err, out)
	const alike = `cd odd; find . ! -type d ! -name pipe -printf '%P|%y|%m|%s|%T@|%l\n' | sed 's/^exec|f|4/exec|f|/' | LC_ALL=C sort; find . -type d -empty -printf '%P|%y\n' | LC_ALL=C sort; chmod 600 file again a/b/third; find . -type f -exec sha256sum {} + | LC_ALL=C sort; chmod 0 file again a/b/third`
	require.Equal(t, run(other, "main", alike), run(other, "whole", alike))

	files := at + "plain/?endpoint=" + server.URL()
	out, err = box.Run(ctx, "workspace", "create", "pulled", "--from", files)
	require.NoError(t, err, out)
	require.Equal(t, "after", read(other.Workspace("pulled"), "d/f"))
	info, err := other.Workspace("pulled").Stat(ctx, "d/f")
	require.NoError(t, err)
	require.EqualValues(t, 0o640, info.Mode)
}
