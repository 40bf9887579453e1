package objstore_test

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	exec1   = mesh.ExecID("018bcfe5-6800-7abc-9def-0123456789ab")
	subject = "int.v1.journal.00.acme.repo"
)

var recordTime = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)

// oldRecord is what format 1 could say; its "ids" are read no more.
func oldRecord() *objstore.Record {
	return &objstore.Record{
		Epoch: 41, Number: 7, Prev: 1234, Root: "00ff", Open: 1200, ID: "4b7b0d3e-4d0c-4a3a-9f0e-6f6d2a1c9b10", Time: recordTime,
		Ops: []objstore.Op{
			{Kind: objstore.KindOpen, Node: "n3", Workspace: "w-id", Unfinished: []mesh.ExecID{exec1}},
			{Kind: objstore.KindExec, Exec: exec1},
			{Kind: objstore.KindExec, Exec: exec1},
			{Kind: objstore.KindDeleted, Workspace: "w-id"},
		},
	}
}

func goldenRecord() *objstore.Record {
	mode, mtime, pack := uint32(0o600), recordTime.Add(time.Hour), objstore.IDOf([]byte("pack"))
	r := oldRecord()
	r.Checkpoint = 1190
	r.Answers = []objstore.Answer{
		{ID: "a:00", Time: recordTime, Body: "{\"file\":{}}"},
		{ID: "b:01", Time: recordTime, Code: mesh.CodeExists, Body: "not \xff text"},
	}
	r.Ops = append(r.Ops,
		objstore.Op{Kind: objstore.KindPut, Path: "dir", Entry: &objstore.Entry{Type: objstore.TypeDir, Mode: 0o755, ModTime: recordTime}},
		objstore.PutFile("dir/in, line:1", objstore.Entry{Mode: 0o644, ModTime: recordTime, Size: 5}, []byte("he\x00\xff\n")),
		objstore.PutFile("dir/empty", objstore.Entry{Mode: 0o644, ModTime: recordTime}, nil),
		objstore.Op{Kind: objstore.KindPut, Path: "dir/\xff", Packs: []objstore.ID{pack}, Entry: &objstore.Entry{
			Type: objstore.TypeFile, Mode: 0o600, ModTime: recordTime, Size: 30, Holes: []objstore.Extent{{Offset: 10, Length: 10}},
			Xattrs:  []objstore.Xattr{{Name: "user.a", Value: "\xfe"}},
			Content: []objstore.Chunk{{ID: objstore.IDOf([]byte("one")), Size: 15}, {ID: objstore.IDOf([]byte("two")), Size: 5}},
		}},
		objstore.Op{Kind: objstore.KindPut, Path: "sym", Entry: &objstore.Entry{Type: objstore.TypeSymlink, Mode: 0o777, ModTime: recordTime, Target: "dir"}},
		objstore.Op{Kind: objstore.KindPut, Path: "link", Entry: &objstore.Entry{Type: objstore.TypeLink, Target: "dir/empty"}},
		objstore.Op{Kind: objstore.KindRename, Path: "sym", To: "dir/sym"},
		objstore.Op{Kind: objstore.KindAttr, Path: "dir", Mode: &mode, ModTime: &mtime},
		objstore.Op{Kind: objstore.KindRemove, Path: "link"},
		objstore.Op{Kind: objstore.KindRefused, Path: "dir", Code: mesh.CodeExists},
		objstore.Op{Kind: objstore.KindCheckpoint, Ref: &objstore.Ref{Pack: pack, Commit: objstore.IDOf([]byte("commit"))}, Sequence: 1180, Number: 5},
	)
	return r
}

// TestRecordGolden holds the bytes that stored journals have: they must stay
// readable, and written the same as long as RecordFormat does not change.
func TestRecordGolden(t *testing.T) {
	path := filepath.Join("testdata", "record-2.golden")
	m, hash, err := goldenRecord().Message(subject)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, m.Data, 0o644))
	}
	golden, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(golden), string(m.Data))
	require.Equal(t, byte(objstore.RecordFormat), golden[0])
	sum := sha256.Sum256(golden)
	require.Equal(t, hex.EncodeToString(sum[:]), hash)

	got, err := objstore.DecodeRecord(1240, golden)
	require.NoError(t, err)
	require.Equal(t, &objstore.StoredRecord{Record: *goldenRecord(), Sequence: 1240, Hash: hash}, got)
	size := 0
	for _, op := range goldenRecord().Ops {
		size += op.Size()
	}
	require.Greater(t, size, len(golden))
}

// forkRecord is what the journal of a fork begins with: its owner, and the commit of
// another workspace that its files are.
func forkRecord() *objstore.Record {
	return &objstore.Record{
		Epoch: 42, Number: 1, ID: "4b7b0d3e-4d0c-4a3a-9f0e-6f6d2a1c9b11", Time: recordTime,
		Ops: []objstore.Op{
			{Kind: objstore.KindOpen, Node: "n3", Workspace: "fork-id"},
			{Kind: objstore.KindCheckpoint, Ref: &objstore.Ref{Pack: objstore.IDOf([]byte("pack")), Commit: objstore.IDOf([]byte("commit"))}},
		},
	}
}

// TestForkRecordGolden holds the bytes that the journals of forks begin with.
func TestForkRecordGolden(t *testing.T) {
	path := filepath.Join("testdata", "record-2-fork.golden")
	m, hash, err := forkRecord().Message(subject)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(path, m.Data, 0o644))
	}
	golden, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(golden), string(m.Data))
	got, err := objstore.DecodeRecord(1240, golden)
	require.NoError(t, err)
	require.Equal(t, &objstore.StoredRecord{Record: *forkRecord(), Sequence: 1240, Hash: hash}, got)
	require.EqualValues(t, 1240, got.LastCheckpoint())
}

// TestOldRecordGolden: format 1 stays readable.
func TestOldRecordGolden(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "record-1.golden"))
	require.NoError(t, err)
	sum := sha256.Sum256(golden)
	got, err := objstore.DecodeRecord(1240, golden)
	require.NoError(t, err)
	require.Equal(t, &objstore.StoredRecord{Record: *oldRecord(), Sequence: 1240, Hash: hex.EncodeToString(sum[:])}, got)
}

func TestRecordHeaders(t *testing.T) {
	m, _, err := goldenRecord().Message(subject)
	require.NoError(t, err)
	require.Equal(t, subject, m.Subject)
	require.Equal(t, nats.Header{
		mesh.HeaderEpoch: {"41"}, mesh.HeaderNumber: {"7"}, mesh.HeaderPrev: {"1234"}, mesh.HeaderRoot: {"00ff"},
		mesh.HeaderRecord: {"4b7b0d3e-4d0c-4a3a-9f0e-6f6d2a1c9b10"}, mesh.HeaderIDs: {"a,b"},
		mesh.HeaderKind:  {"open,exec,deleted,put,rename,attr,remove,refused,checkpoint"},
		mesh.HeaderPaths: {"put:dir,put:dir/in%2C%20line%3A1,put:dir/empty,put:dir/%FF,put:sym,put:link,rename:sym:dir/sym,attr:dir,remove:link"},
	}, m.Header)

	first := objstore.Record{Epoch: 1, Number: 1, ID: "x", Ops: []objstore.Op{{Kind: objstore.KindOpen}}}
	m, _, err = first.Message(subject)
	require.NoError(t, err)
	require.Equal(t, "0", m.Header.Get(mesh.HeaderPrev), "the first record says that nothing is before it")
	require.NotContains(t, m.Header, mesh.HeaderRoot)
	require.NotContains(t, m.Header, mesh.HeaderIDs)

	var many objstore.Record
	for range 10 {
		many.Ops = append(many.Ops, objstore.Op{Kind: objstore.KindRemove, Path: mesh.Path(strings.Repeat("n", 2000))})
	}
	m, _, err = many.Message(subject)
	require.NoError(t, err)
	require.LessOrEqual(t, len(m.Header.Get(mesh.HeaderPaths)), 16<<10)
	require.Equal(t, "1", m.Header.Get(mesh.HeaderMore))
}

func TestRecordHas(t *testing.T) {
	r := goldenRecord()
	require.True(t, r.Has(objstore.KindDeleted))
	require.False(t, r.Has("write"))
	require.False(t, new(objstore.Record).Has(""))
}

func drawRecord(r *rapid.T) *objstore.Record {
	record := &objstore.Record{
		Epoch: mesh.Epoch(rapid.Uint64().Draw(r, "epoch")), Number: rapid.Uint64().Draw(r, "number"), Prev: rapid.Uint64().Draw(r, "prev"),
		Root: rapid.String().Draw(r, "root"), Open: rapid.Uint64().Draw(r, "open"), ID: rapid.String().Draw(r, "id"),
		Time: time.Unix(0, rapid.Int64Min(0).Draw(r, "time")).UTC(),
	}
	for range rapid.IntRange(0, 3).Draw(r, "answers") {
		at := time.Unix(rapid.Int64Range(-1e11, 1e11).Draw(r, "seconds"), 0).UTC()
		record.Answers = append(record.Answers, objstore.Answer{ID: rapid.StringN(0, 20, 60).Draw(r, "key"), Time: at, Body: rapid.String().Draw(r, "body")})
	}
	for range rapid.IntRange(0, 3).Draw(r, "ops") {
		record.Ops = append(record.Ops, objstore.Op{
			Kind:      rapid.SampledFrom([]string{objstore.KindOpen, objstore.KindExec, objstore.KindDeleted, "later"}).Draw(r, "kind"),
			Node:      mesh.Node(rapid.String().Draw(r, "node")),
			Workspace: rapid.String().Draw(r, "workspace"),
			Exec:      mesh.ExecID(rapid.String().Draw(r, "exec")),
		})
	}
	for range rapid.IntRange(0, 3).Draw(r, "files") {
		data := rapid.SliceOf(rapid.Byte()).Draw(r, "data")
		if len(data) == 0 {
			data = nil // the same in a record
		}
		e := objstore.Entry{Mode: 0o644, ModTime: time.Unix(1, 2).UTC(), Size: int64(len(data))}
		record.Ops = append(record.Ops, objstore.PutFile(rapid.StringMatching(`[a-z\x00-]?[a-z]{1,9}(/[ab:]{1,5}){0,3}`).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }).Draw(r, "path"), e, data))
	}
	return record
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		record := drawRecord(r)
		m, hash, err := record.Message(subject)
		require.NoError(r, err)
		got, err := objstore.DecodeRecord(9, m.Data)
		require.NoError(r, err)
		require.Equal(r, *record, got.Record)
		require.Equal(r, hash, got.Hash)
		require.Equal(r, uint64(9), got.Sequence)
	})
}

// TestHashChain: whatever byte of a record changes, the next one's Root no
// longer fits, or the record cannot be read at all.
func TestHashChain(t *testing.T) {
	first := goldenRecord()
	m, hash, err := first.Message(subject)
	require.NoError(t, err)
	second := objstore.Record{Epoch: 41, Number: 8, Prev: 1240, Root: hash, ID: "y"}
	next, secondHash, err := second.Message(subject)
	require.NoError(t, err)
	require.NotEqual(t, hash, secondHash)

	a, err := objstore.DecodeRecord(1240, m.Data)
	require.NoError(t, err)
	b, err := objstore.DecodeRecord(1241, next.Data)
	require.NoError(t, err)
	require.Equal(t, a.Hash, b.Root)
	require.Equal(t, a.Sequence, b.Prev)
	for i := range m.Data {
		altered := append([]byte(nil), m.Data...)
		altered[i] ^= 1
		got, err := objstore.DecodeRecord(1240, altered)
		if err == nil {
			require.NotEqual(t, b.Root, got.Hash, "byte %d", i)
		}
	}
	again, againHash, err := first.Message(subject)
	require.NoError(t, err)
	require.Equal(t, m, again, "a repeat of one publish is the same message")
	require.Equal(t, hash, againHash)
}

func TestDecodeRecordRefuses(t *testing.T) {
	for _, c := range []struct {
		name, in string
	}{
		{"empty", ""},
		{"format only", "\x01"},
		{"next format", "\x03{}"},
		{"head cut short", "\x02\x09{}"},
		{"head of no length", "\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"},
		{"rest", "\x02\x02{}x"},
		{"entry cut short", v2(`{"ops":[{"kind":"put","path":"a","entry":9}]}`, "")},
		{"entry is none", v2(`{"ops":[{"kind":"put","path":"a","entry":3}]}`, "xyz")},
		{"data without its name", v2(`{"ops":[{"kind":"put","path":"a","entry":13,"data":1}]}`, "\x00\x01\x00\x00\x00\x00\x00\x00\x00"+"xxxx"+"y")},
		{"put of nothing", v2(`{"ops":[{"kind":"put","path":"a"}]}`, "")},
		{"path leaves", v2(`{"ops":[{"kind":"remove","path":"../a"}]}`, "")},
		{"absolute path", v2(`{"ops":[{"kind":"remove","path":"/a"}]}`, "")},
		{"new path leaves", v2(`{"ops":[{"kind":"rename","path":"a","to":"a/../.."}]}`, "")},
		{"rename to nothing", v2(`{"ops":[{"kind":"rename","path":"a"}]}`, "")},
		{"remove of nothing", v2(`{"ops":[{"kind":"remove"}]}`, "")},
		{"answers that are not there", v2(`{"answers":1000000000}`, "")},
		{"format zero", "\x00{}"},
		{"no format", `{"epoch":1}`},
		{"cut short", "\x01" + `{"epoch":41,"num`},
		{"something after it", "\x01" + `{"epoch":41}{}`},
		{"list", "\x01[]"},
		{"text", "\x01" + `"x"`},
		{"negative epoch", "\x01" + `{"epoch":-1}`},
		{"wrong type", "\x01" + `{"ops":{}}`},
		{"bytes", "\x01\xff\xfe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := objstore.DecodeRecord(7, []byte(c.in))
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			require.Contains(t, err.Error(), "record 7")
			require.Nil(t, got)
		})
	}
	got, err := objstore.DecodeRecord(7, []byte("\x01"+`{"epoch":3,"later":{"x":1},"ops":[{"kind":"later","what":1}]}`))
	require.NoError(t, err, "fields of a newer program are ignored")
	require.Equal(t, mesh.Epoch(3), got.Epoch)
	require.True(t, got.Has("later"))
}

// v2 is a record of format 2 with a head of fewer than 128 bytes.
func v2(head, tail string) string { return "\x02" + string(rune(len(head))) + head + tail }

func FuzzDecodeRecord(f *testing.F) {
	m, _, err := goldenRecord().Message(subject)
	require.NoError(f, err)
	f.Add(m.Data)
	f.Add(m.Data[:len(m.Data)/2])
	f.Add([]byte("\x01null"))
	f.Add([]byte("\x02\x02{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := objstore.DecodeRecord(1, b)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			return
		}
		m, _, err := got.Message(subject)
		if err != nil {
			return // a year that JSON cannot hold
		}
		again, err := objstore.DecodeRecord(1, m.Data)
		require.NoError(t, err)
		require.Equal(t, got.Epoch, again.Epoch)
		require.Equal(t, got.Number, again.Number)
		require.Equal(t, got.Prev, again.Prev)
		require.Equal(t, got.Root, again.Root)
		require.Len(t, again.Ops, len(got.Ops))
	})
}
