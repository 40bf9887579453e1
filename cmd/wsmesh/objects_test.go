package main

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/s3bucket"
	"github.com/wsmesh/wsmesh/objstore/s3test"
)

// called runs a command line in this process and returns what it printed, with the
// report of what went wrong.
func called(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&b)
	root.SetErr(&b)
	cmd, err := root.ExecuteContextC(t.Context())
	code = report(&b, cmd, err)
	return b.String(), code
}

func succeeds(t *testing.T, args ...string) string {
	t.Helper()
	out, code := called(t, args...)
	require.Zero(t, code, out)
	return out
}

// TestObjectsOfS3: workspaces are filled from what any program has put into a bucket,
// and files become objects that say what they were.
func TestObjectsOfS3(t *testing.T) {
	s3test.Setenv(t)
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	t.Setenv("WSMESH_URL", m.URL())
	t.Setenv("WSMESH_TOKEN", m.Token(t, nodetest.Tenant))
	query := "?endpoint=" + url.QueryEscape(s3test.Fake(t))
	at := func(name string) string { return "s3://bucket/" + name + query }
	s, err := s3bucket.Open(t.Context(), at(""))
	require.NoError(t, err)
	put := func(name, data string, meta map[string]string) {
		t.Helper()
		_, err := s.Put(t.Context(), name, strings.NewReader(data), int64(len(data)), objstore.PutOptions{Meta: meta})
		require.NoError(t, err)
	}
	big := strings.Repeat("0123456789abcdef", 9<<16) // more than a part
	put("p/plain näme", "text", nil)
	put("p/none", "", nil)
	put("p/sub/run", "#!/bin/sh\n", map[string]string{"mode": "0750", "mtime": "1764150000.123"})
	put("p/sub/s3fs", "x", map[string]string{"mode": "33216", "mtime": "1764150000"})
	put("p/link", "sub/run", map[string]string{"symlink": "true"})
	put("p/empty/", "", map[string]string{"mode": "0700"})
	put("p/big", big, map[string]string{"mode": "0600"})
	put("past", "not below", nil)

	filled := func(t *testing.T, w string) {
		t.Helper()
		require.Equal(t, "big\nempty\nlink\nnone\nplain näme\nsub\n", succeeds(t, "ls", "-w", w))
		require.Equal(t, "text", succeeds(t, "cat", "-w", w, "plain näme"))
		require.Equal(t, "#!/bin/sh\n", succeeds(t, "cat", "-w", w, "link"))
		require.True(t, succeeds(t, "cat", "-w", w, "big") == big)
		out := succeeds(t, "stat", "-w", w, "sub/run", "sub/s3fs", "link", "empty", "big", "none", "plain näme")
		for i, want := range []string{"file\t0750\t10\t", "file\t0700\t1\t", "symlink\t", "dir\t0700\t", "file\t0600\t", "file\t0644\t0\t", "file\t0644\t4\t"} {
			require.True(t, strings.HasPrefix(strings.Split(out, "\n")[i], want), "%s\n%s", want, out)
		}
		require.Contains(t, succeeds(t, "stat", "-w", w, "--json", "sub/run"), `"mtime":"`+time.Unix(1764150000, 123e6).UTC().Format(time.RFC3339Nano)[:23])
	}
	require.Empty(t, succeeds(t, "workspace", "create", "one", "--from", at("p")))
	filled(t, "one")
	require.Empty(t, succeeds(t, "get", "-w", "one", ".", at("out/")))
	o, err := s.Stat(t.Context(), "out/sub/run")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"mode": "0750", "mtime": "1764150000.123000000"}, o.Meta)
	require.Empty(t, succeeds(t, "put", "-w", "two", at("out/"), "."))
	filled(t, "two")

	require.Empty(t, succeeds(t, "put", "-w", "two", at("p/big"), "again"))
	require.True(t, succeeds(t, "cat", "-w", "two", "again") == big)
	require.Empty(t, succeeds(t, "get", "-w", "two", "again", at("back")))
	data, o, err := s.Get(t.Context(), "back", 0, len(big))
	require.NoError(t, err)
	require.True(t, string(data) == big)
	require.Equal(t, "0600", o.Meta["mode"])
	require.Empty(t, succeeds(t, "put", "-w", "two", at("p/link"), "link2"))
	require.Contains(t, succeeds(t, "stat", "-w", "two", "link2"), "symlink")

	// An object has one name, and none that is not text.
	var links bytes.Buffer
	w := tar.NewWriter(&links)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o640, Size: 1}))
	_, err = w.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "g", Linkname: "f"}))
	require.NoError(t, w.Close())
	ws := m.Connect(t, m.Token(t, nodetest.Tenant)).Workspace("two")
	require.NoError(t, ws.PutDir(t.Context(), "linked", &links))
	require.Empty(t, succeeds(t, "get", "-w", "two", "linked", at("linked/")))
	for _, name := range []string{"linked/f", "linked/g"} {
		data, o, err := s.Get(t.Context(), name, 0, 9)
		require.NoError(t, err, name)
		require.Equal(t, "x", string(data), name)
		require.Equal(t, "0640", o.Meta["mode"], name)
	}
	require.NoError(t, ws.WriteFile(t.Context(), "linked/b\xffd", nil, 0))
	out, exit := called(t, "get", "-w", "two", "linked", at("linked/"))
	require.Equal(t, exitMesh, exit)
	require.Contains(t, out, `wsmesh: invalid: not all of linked is stored: "b\xffd" cannot be the name of an object: it is not UTF-8`)

	refused := func(t *testing.T, from, code, says string) {
		t.Helper()
		out, exit := called(t, "workspace", "create", "three", "--from", from)
		require.Equal(t, exitMesh, exit, out)
		require.True(t, strings.HasPrefix(out, "wsmesh: "+code+": "), out)
		require.Contains(t, out, says)
		require.NotContains(t, succeeds(t, "workspace", "ls"), "three")
	}
	put("crossed/a", "", nil)
	put("crossed/a-b", "", nil)
	put("crossed/a/b", "", nil)
	put("long/"+strings.Repeat("x", 256), "", nil)
	refused(t, at("crossed"), "invalid", `object "a" cannot be a file: it is a directory of "a/b" too`)
	refused(t, at("long"), "invalid", `xxx" cannot be a file: `)
	refused(t, at("pas"), "not_found", "nothing is below s3://bucket/pas/")
	refused(t, "s3://other"+query, "invalid", "bucket other does not exist")
	refused(t, "s3://bucket/p?endpoint=h", "invalid", "endpoint is no http or https URL")

	put("broken/f", "", nil)
	put("broken/link", strings.Repeat("x", mesh.MaxPathBytes+1), map[string]string{"symlink": "true"})
	out, exit = called(t, "workspace", "create", "four", "--from", at("broken"))
	require.Equal(t, exitMesh, exit)
	require.Contains(t, out, `wsmesh: invalid: workspace four is made and not filled: `)
	require.Contains(t, out, `object "link" cannot be a symbolic link: its content is no path; go on with: wsmesh put -w four '`+at("broken/")+`' . or remove it: wsmesh workspace rm four`)
	require.NotContains(t, succeeds(t, "ls", "-w", "four"), "f\n", "a stream that broke off changes nothing")
}

func TestCheckObject(t *testing.T) {
	for _, name := range []string{"a", "a/", "a/b", "...", "a b", "workspace/a", "ä"} {
		require.NoError(t, checkObject(objstore.Object{Name: name}), name)
	}
	for _, name := range []string{"/", "/a", "a//b", "a//", ".", "./a", "..", "../a", "a/../b", "a/.", "a\x00b", "/workspace", strings.Repeat("x", 256)} {
		err := checkObject(objstore.Object{Name: name})
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), "%q: %v", name, err)
	}
	require.Error(t, checkObject(objstore.Object{Name: "a/", Size: 1}))
}

func TestCrossing(t *testing.T) {
	for names, crossed := range map[string]bool{
		"a":               false,
		"a a-b ab/c b/":   false,
		"a a-b a.b a/b":   true,
		"a/ a/b a/b/c":    true,
		"a/b a/b- a/b/":   true,
		"a/ a/b/ a/b/c d": false,
	} {
		var c crossing
		var err error
		for name := range strings.FieldsSeq(names) {
			if err == nil {
				err = c.add(name)
			}
		}
		require.Equal(t, crossed, err != nil, "%s: %v", names, err)
	}
}

// TestObjectMode: modes are octal, as our readable copy, get and rclone write them, or
// decimal with the type, as s3fs does.
func TestObjectMode(t *testing.T) {
	for text, want := range map[string]fs.FileMode{
		"0644": 0o644, "0000": 0, "4755": 0o755, "1777": 0o777, "0100640": 0o640, "33188": 0o644, "16877": 0o755, "": 0o600, "x": 0o600, "-644": 0o600,
	} {
		require.Equal(t, want, objectMode(objstore.Object{Meta: map[string]string{metaMode: text}}, 0o600), text)
	}
}
