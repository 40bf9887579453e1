package mesh_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

// TestTimesOfFiles: a file with a time that JSON cannot say would make a whole directory
// one that cannot be listed.
func TestTimesOfFiles(t *testing.T) {
	zone := time.FixedZone("", -3600)
	for _, r := range []struct{ is, want time.Time }{
		{time.Unix(1, 2), time.Unix(1, 2)},
		{time.Unix(math.MaxInt64/4, 0), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{time.Unix(math.MinInt64/4, 0), time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)},
		{time.Date(9999, 12, 31, 23, 30, 0, 0, zone), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{time.Date(-1, 12, 31, 23, 30, 0, 0, zone), time.Date(0, 1, 1, 0, 30, 0, 0, time.UTC)},
	} {
		b, err := json.Marshal(mesh.ListReply{Entries: []mesh.FileInfo{{Path: "f", ModTime: r.is}}})
		require.NoError(t, err)
		var got mesh.ListReply
		require.NoError(t, json.Unmarshal(b, &got))
		require.Equal(t, mesh.Path("f"), got.Entries[0].Path)
		require.True(t, r.want.Equal(got.Entries[0].ModTime), "%s", got.Entries[0].ModTime)
	}
}
