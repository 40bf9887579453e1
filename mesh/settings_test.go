package mesh_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestParseIdle(t *testing.T) {
	for text, want := range map[string]struct {
		remove bool
		keep   time.Duration
	}{
		"": {}, "close": {}, "delete": {remove: true}, "keep=7d": {true, 7 * 24 * time.Hour}, "keep=90m": {true, 90 * time.Minute},
	} {
		remove, keep, err := mesh.ParseIdle(text)
		require.NoError(t, err, text)
		require.Equal(t, want.remove, remove, text)
		require.Equal(t, want.keep, keep, text)
	}
	for _, text := range []string{"7d", "keep", "keep=", "keep=0d", "keep=-1h", "keep=d", "keep=1.5d", "keep=99999d", "remove", "Delete", "delete "} {
		_, _, err := mesh.ParseIdle(text)
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), text)
	}
}

func TestEphemeralIsARelativeDirectory(t *testing.T) {
	for dir, good := range map[string]bool{
		"build": true, "web/node_modules": true, ".tox": true, "": false, ".": false, "..": false, "../x": false, "/tmp": false, "a//b": false, "a/": false, "a/../b": false, "a\x00": false,
	} {
		s := mesh.Settings{Ephemeral: []mesh.Path{mesh.Path(dir)}}
		require.Equal(t, good, s.Check() == nil, "%q", dir)
	}
}
