package mesh_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wsmesh/wsmesh/mesh"
)

var update = flag.Bool("update", false, "write the golden files anew")

func goldenFrames() map[string]*mesh.Frame {
	return map[string]*mesh.Frame{
		"claim": {Kind: mesh.FrameClaim, Claim: &mesh.Claim{
			Node: "n3", Epoch: 41, Nonce: "4b7b0d3e-4d0c-4a3a-9f0e-6f6d2a1c9b10", Hash: "00ff",
			Args: []mesh.Path{"sh", "-c", "echo naïve", "\xff\x00"}, Dir: "src", Scope: "u/1", Env: []mesh.Path{"HOME", "\xfe"},
			Time: time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC), TimeoutMS: 30000,
		}},
		"output": {Kind: mesh.FrameOutput, Number: 300, Offset: 1 << 40, Chunks: []mesh.Chunk{
			{Stream: mesh.Stdout, Data: []byte("out\n")}, {Stream: mesh.Stderr, Data: []byte{0, 0xff}}, {Stream: mesh.Stdout, Data: []byte{}},
		}},
		"final": {
			Kind: mesh.FrameFinal, Number: 1,
			Final: &mesh.Final{
				Code: 137, Limit: "memory", Output: 5, Missing: 2, DurationUS: 1, UserUS: 2, SystemUS: 3, MaxRSS: 4096,
				Isolation: "bwrap", Nonce: "4b7b0d3e-4d0c-4a3a-9f0e-6f6d2a1c9b10", ErrorCode: mesh.CodeLost, ErrorText: "outcome unknown",
			},
			Chunks: []mesh.Chunk{{Stream: mesh.Stdout, Data: []byte("end")}},
		},
	}
}

// TestFrameGolden holds the bytes that stored logs have: they must stay
// readable, and written the same as long as FrameFormat does not change.
func TestFrameGolden(t *testing.T) {
	for name, frame := range goldenFrames() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "frame-"+name+".golden")
			encoded, err := frame.Encode()
			require.NoError(t, err)
			if *update {
				require.NoError(t, os.WriteFile(path, encoded, 0o644))
			}
			golden, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(golden), string(encoded))
			decoded, err := mesh.DecodeFrame(golden)
			require.NoError(t, err)
			require.Equal(t, frame, decoded)
		})
	}
}

func drawPath(r *rapid.T, label string) mesh.Path {
	return mesh.Path(rapid.SliceOf(rapid.Byte()).Draw(r, label))
}

func drawFrame(r *rapid.T) *mesh.Frame {
	f := &mesh.Frame{
		Kind:   rapid.SampledFrom([]byte{mesh.FrameClaim, mesh.FrameOutput, mesh.FrameFinal}).Draw(r, "kind"),
		Number: rapid.Uint64().Draw(r, "number"),
		Offset: rapid.Uint64().Draw(r, "offset"),
	}
	switch f.Kind {
	case mesh.FrameClaim:
		f.Claim = &mesh.Claim{
			Node: mesh.Node(drawName.Draw(r, "node")), Epoch: mesh.Epoch(rapid.Uint64().Draw(r, "epoch")),
			Nonce: rapid.String().Draw(r, "nonce"), Args: []mesh.Path{drawPath(r, "arg"), drawPath(r, "arg")},
			Dir: drawPath(r, "dir"), Scope: drawPath(r, "scope"), Time: time.Unix(0, rapid.Int64Min(0).Draw(r, "time")).UTC(),
			TimeoutMS: rapid.Int64().Draw(r, "timeout"),
		}
	case mesh.FrameFinal:
		f.Final = &mesh.Final{
			Code: rapid.Int().Draw(r, "code"), Output: rapid.Uint64().Draw(r, "output"), Missing: rapid.Uint64().Draw(r, "missing"),
			MaxRSS: rapid.Int64().Draw(r, "rss"), ErrorCode: rapid.SampledFrom(mesh.Codes).Draw(r, "error"), ErrorText: rapid.String().Draw(r, "text"),
		}
	}
	for range rapid.IntRange(0, 4).Draw(r, "chunks") {
		f.Chunks = append(f.Chunks, mesh.Chunk{
			Stream: rapid.SampledFrom([]byte{mesh.Stdout, mesh.Stderr}).Draw(r, "stream"),
			Data:   append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(r, "data")...),
		})
	}
	return f
}

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := drawFrame(r)
		encoded, err := f.Encode()
		require.NoError(r, err)
		decoded, err := mesh.DecodeFrame(encoded)
		require.NoError(r, err)
		require.Equal(r, f, decoded)

		// Cut short anywhere it is either refused or, at the end of a chunk, a
		// frame with fewer chunks; it never reads past its bytes.
		cut := rapid.IntRange(0, len(encoded)-1).Draw(r, "cut")
		if short, err := mesh.DecodeFrame(encoded[:cut:cut]); err == nil {
			require.Less(r, len(short.Chunks), len(f.Chunks))
		}
	})
}

func TestDecodeFrameRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
	}{
		{"empty", nil},
		{"format only", []byte{1}},
		{"next format", []byte{2, 'o', 0, 0, 0}},
		{"format zero", []byte{0, 'o', 0, 0, 0}},
		{"unknown kind", []byte{1, 'x', 0, 0, 0}},
		{"no number", []byte{1, 'o'}},
		{"no meta length", []byte{1, 'o', 0, 0}},
		{"number without an end", []byte{1, 'o', 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}},
		{"meta longer than the frame", []byte{1, 'c', 0, 0, 9, '{', '}'}},
		{"meta of 2^64-1 bytes", []byte{1, 'c', 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}},
		{"claim without meta", []byte{1, 'c', 0, 0, 0}},
		{"claim of null", []byte("\x01c\x00\x00\x04null")},
		{"final of null", []byte("\x01f\x01\x00\x04null")},
		{"claim of a list", []byte("\x01c\x00\x00\x02[]")},
		{"foreign stream", []byte{1, 'o', 1, 0, 0, 3, 1, 'x'}},
		{"chunk without a length", []byte{1, 'o', 1, 0, 0, 1}},
		{"chunk longer than the frame", []byte{1, 'o', 1, 0, 0, 1, 2, 'x'}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := mesh.DecodeFrame(c.in)
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			require.Nil(t, f)
		})
	}
}

func TestFrameSizeAndVerdict(t *testing.T) {
	f := goldenFrames()["output"]
	require.Equal(t, uint64(6), f.Size())
	require.NoError(t, (&mesh.Final{Code: 1}).Err(), "a failed command is no failure of the mesh")
	require.ErrorIs(t, goldenFrames()["final"].Final.Err(), &mesh.Error{Code: mesh.CodeLost})
}

func TestPackFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var frames []mesh.StoredFrame
		for range rapid.IntRange(0, 5).Draw(r, "frames") {
			frames = append(frames, mesh.StoredFrame{
				Sequence: rapid.Uint64().Draw(r, "sequence"),
				Data:     append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(r, "data")...),
			})
		}
		packed := mesh.PackFrames(frames)
		require.NotNil(r, packed, "no frames are still raw content of a reply")
		back, err := mesh.UnpackFrames(packed)
		require.NoError(r, err)
		require.Equal(r, frames, back)
	})
	for name, in := range map[string][]byte{
		"no length": {1}, "longer than the pack": {1, 2, 'x'}, "sequence without an end": {0x80}, "second broken": {1, 1, 'x', 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			frames, err := mesh.UnpackFrames(in)
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			require.Nil(t, frames)
		})
	}
}

func FuzzDecodeFrame(f *testing.F) {
	for _, frame := range goldenFrames() {
		encoded, err := frame.Encode()
		require.NoError(f, err)
		f.Add(encoded)
		f.Add(encoded[:len(encoded)-1])
	}
	f.Add([]byte{1, 'c', 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := mesh.DecodeFrame(b)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			return
		}
		require.LessOrEqual(t, frame.Size(), uint64(len(b)))
		encoded, err := frame.Encode()
		require.NoError(t, err)
		again, err := mesh.DecodeFrame(encoded)
		require.NoError(t, err)
		require.Equal(t, frame, again)
	})
}

func FuzzUnpackFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add(mesh.PackFrames([]mesh.StoredFrame{{Sequence: 7, Data: []byte("x")}, {Sequence: 1 << 60}}))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := mesh.UnpackFrames(b)
		if err != nil {
			require.Equal(t, mesh.CodeInternal, mesh.CodeOf(err))
			return
		}
		again, err := mesh.UnpackFrames(mesh.PackFrames(frames))
		require.NoError(t, err)
		require.Equal(t, frames, again)
	})
}
