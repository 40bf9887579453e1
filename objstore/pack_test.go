package objstore

// These tests are inside of the package: the pack's codec is nobody else's.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func buildPack(s *Store, blobs ...[]byte) (ID, []byte) {
	p := packBuilder{data: []byte{PackFormat}}
	for _, b := range blobs {
		p.add(IDOf(b), s.pack(nil, b), len(b))
	}
	return p.finish()
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := New(nil, Config{})
	require.NoError(t, err)
	return s
}

// TestPackGolden holds the bytes of a pack of blobs that are not compressed: how
// far zstd compresses may differ from version to version.
func TestPackGolden(t *testing.T) {
	s := newStore(t)
	p := packBuilder{data: []byte{PackFormat}, nonce: [nonceSize]byte([]byte("sixteen of bytes"))}
	for _, b := range []string{"a", "some text"} {
		p.add(IDOf([]byte(b)), []byte(b), len(b))
	}
	id, pack := p.finish()
	path := filepath.Join("testdata", "pack-2.golden")
	if flag.Lookup("update").Value.String() == "true" {
		require.NoError(t, os.WriteFile(path, []byte(hex.Dump(pack)), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), hex.Dump(pack))
	require.Equal(t, IDOf(pack), id)
	require.NoError(t, s.CheckPack(id, pack))
}

// TestPlainPackGolden: a pack of the format before is read.
func TestPlainPackGolden(t *testing.T) {
	dump, err := os.ReadFile(filepath.Join("testdata", "pack-1.golden"))
	require.NoError(t, err)
	var pack []byte
	for line := range strings.Lines(string(dump)) {
		if len(line) > 10 {
			b, err := hex.DecodeString(strings.ReplaceAll(line[10:min(58, len(line))], " ", ""))
			require.NoError(t, err)
			pack = append(pack, b...)
		}
	}
	require.NoError(t, newStore(t).CheckPack(IDOf(pack), pack))
	blobs, _, err := decodePackEnd(pack)
	require.NoError(t, err)
	require.Len(t, blobs, 2)
}

// TestWriterLife: who took too long stores it anew; what he refers to may be gone.
func TestWriterLife(t *testing.T) {
	w := newStore(t).Writer(nil)
	w.began = w.began.Add(time.Minute - MaxWriterLife)
	_, err := w.Flush(t.Context())
	require.NoError(t, err)
	w.began = w.began.Add(-time.Minute)
	_, err = w.Flush(t.Context())
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "%v", err)
	_, err = w.Commit(t.Context(), Commit{})
	require.Equal(t, mesh.CodeUnavailable, mesh.CodeOf(err), "%v", err)
}

// TestCompressedBlobGolden: what an earlier version compressed is read.
func TestCompressedBlobGolden(t *testing.T) {
	s := newStore(t)
	data := bytes.Repeat([]byte("a"), 800)
	stored, err := hex.DecodeString("28b52ffd4000200203190061")
	require.NoError(t, err)
	blob := packedBlob{id: IDOf(data), stored: len(stored), size: len(data)}
	got, err := s.unpack(blob, stored)
	require.NoError(t, err)
	require.Equal(t, data, got)
	blob.stored--
	_, err = s.unpack(blob, stored[:blob.stored])
	require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%v", err)
}

// TestPackDamage flips each byte of a pack: checking the pack finds it, and a blob
// that is read anyway is right or an error.
func TestPackDamage(t *testing.T) {
	s := newStore(t)
	blobs := [][]byte{[]byte("a"), bytes.Repeat([]byte("text "), 100), []byte("more")}
	id, pack := buildPack(s, blobs...)
	for i := range pack {
		bad := bytes.Clone(pack)
		bad[i] ^= 0x10
		require.Equal(t, mesh.CodeInternal, mesh.CodeOf(s.CheckPack(id, bad)), "byte %d", i)
		index, _, err := decodePackEnd(bad)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			continue
		}
		for n, b := range index {
			got, err := s.unpack(b, bad[b.offset:b.end()])
			if err == nil {
				require.Equal(t, blobs[n], got)
			}
		}
	}
}

func TestDecodePackEndRefuses(t *testing.T) {
	s := newStore(t)
	blob := func(name string, stored, size int) packedBlob {
		return packedBlob{id: IDOf([]byte(name)), stored: stored, size: size}
	}
	for _, c := range []struct {
		name  string
		blobs []packedBlob
	}{
		{"none", nil},
		{"twice", []packedBlob{blob("a", 1, 1), blob("a", 1, 1)}},
		{"empty", []packedBlob{blob("a", 0, 0)}},
		{"nothing stored", []packedBlob{blob("a", 0, 1)}},
		{"longer than it is", []packedBlob{blob("a", 2, 1)}},
		{"huge", []packedBlob{blob("a", 1, MaxBlob+1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := packBuilder{data: []byte{PackFormat}, blobs: c.blobs}
			_, pack := p.finish()
			_, _, err := decodePackEnd(pack)
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%v", err)
		})
	}
	id, pack := buildPack(s, []byte("abc"), []byte("defg"))
	all, need, err := decodePackEnd(pack)
	require.NoError(t, err)
	require.Len(t, all, 2)
	for cut := range need - packFooter {
		blobs, more, err := decodePackEnd(pack[len(pack)-packFooter-cut:])
		require.NoError(t, err, "a shorter end says how much is missing")
		require.Nil(t, blobs)
		require.Equal(t, need, more)
	}
	binary.BigEndian.PutUint32(pack[len(pack)-packFooter:], 1<<31)
	require.Error(t, s.CheckPack(id, pack))
	require.Error(t, s.CheckPack(IDOf(pack), pack))
	require.Error(t, s.CheckPack(IDOf(nil), nil))
}

// TestHostileBlob: a blob that claims to be short and unpacks to much is an error
// before it takes the memory.
func TestHostileBlob(t *testing.T) {
	s := newStore(t)
	bomb := s.encoder.EncodeAll(make([]byte, 64<<20), nil)
	_, err := s.unpack(packedBlob{stored: len(bomb), size: MaxBlob}, bomb)
	require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err), "%v", err)
}

func FuzzDecodePackEnd(f *testing.F) {
	s := newStore(f)
	_, pack := buildPack(s, []byte("abc"), []byte("defg"))
	f.Add(pack)
	f.Fuzz(func(t *testing.T, b []byte) {
		blobs, need, err := decodePackEnd(b)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			return
		}
		if blobs == nil {
			require.Greater(t, need, len(b))
			return
		}
		at := blobs[len(blobs)-1].end()
		p := packBuilder{data: make([]byte, at), blobs: blobs}
		_, again := p.finish()
		require.Equal(t, b[len(b)-need:], again[at:])
	})
}

// FuzzUnpack: stored bytes of any kind are the blob or an error.
func FuzzUnpack(f *testing.F) {
	s := newStore(f)
	data := bytes.Repeat([]byte("text "), 100)
	f.Add(s.pack(nil, data), len(data))
	f.Add([]byte("plain"), 5)
	f.Fuzz(func(t *testing.T, stored []byte, size int) {
		if size < len(stored) || size > 1<<16 || len(stored) == 0 {
			return
		}
		id := IDOf(data)
		got, err := s.unpack(packedBlob{id: id, stored: len(stored), size: size}, stored)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			return
		}
		require.Equal(t, data, got)
	})
}

// TestCutGolden holds the cuts: were they to differ, everything would be stored
// again.
func TestCutGolden(t *testing.T) {
	data := make([]byte, 40<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	c := chunker{r: bytes.NewReader(data), buf: make([]byte, maxChunk)}
	var sizes []int
	for at := 0; at < len(data); {
		chunk, err := c.next()
		require.NoError(t, err)
		require.True(t, bytes.Equal(data[at:at+len(chunk)], chunk))
		sizes, at = append(sizes, len(chunk)), at+len(chunk)
	}
	require.Equal(t, cutGolden, sizes)
	for _, n := range sizes[:len(sizes)-1] {
		require.GreaterOrEqual(t, n, minChunk)
		require.LessOrEqual(t, n, maxChunk)
	}
}

// TestCutsFollowContent inserts a byte: the cuts come back after a few chunks.
func TestCutsFollowContent(t *testing.T) {
	data := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{8}).Read(data)
	known := map[ID]bool{}
	chunks := func(b []byte) (total, fresh int) {
		for len(b) > 0 {
			n := cut(b)
			if id := IDOf(b[:n]); !known[id] {
				known[id], fresh = true, fresh+n
			}
			total, b = total+1, b[n:]
		}
		return total, fresh
	}
	total, all := chunks(data)
	require.Equal(t, len(data), all)
	require.Greater(t, total, 8)
	_, fresh := chunks(append(append(bytes.Clone(data[:10<<20]), 'x'), data[10<<20:]...))
	require.Less(t, fresh, 2*maxChunk)
	require.Equal(t, maxChunk, cut(make([]byte, maxChunk+100)), "bytes without a cut are cut at the maximum")
	require.Equal(t, minChunk-1, cut(data[:minChunk-1]))
}

func BenchmarkCut(b *testing.B) {
	data := make([]byte, 64<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(data)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[cut(rest):]
		}
	}
}

// cutGolden is the sizes of the chunks of TestCutGolden.
var cutGolden = []int{
	4214008, 2519486, 2920945, 2238712, 1770811, 2147914, 1963854, 2267396, 2125981, 2189321,
	2192413, 2106409, 1185775, 2244355, 2275137, 593545, 2939636, 2310077, 1737265,
}
