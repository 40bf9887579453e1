package node_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/node/nodetest"
)

// TestForkIsReadBeforeItsTree: a fork answers from its commit while its files come to the
// disk; what it says then is what it says later.
func TestForkIsReadBeforeItsTree(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		ctx := t.Context()
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for i := range 1500 {
			data := fmt.Append(nil, i)
			require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/%d", i%30, i), Mode: 0o640, Size: int64(len(data))}))
			_, err := w.Write(data)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		require.NoError(t, m.Client.Workspace("repo").PutDir(ctx, ".", &archive))
		_, err := m.Client.Workspace("repo").CreateSnapshot(ctx, "first", "")
		require.NoError(t, err)
		// How soon a tree is there is not said: some of these are read before.
		early := false
		for i := 0; i < 20 && !early; i++ {
			fork := m.Client.Workspace(fmt.Sprint("fork-", i))
			_, err := m.Client.Fork(ctx, "repo", "first", fork.Name())
			require.NoError(t, err)
			before, err := fork.Stat(ctx, "d29/1499")
			require.NoError(t, err)
			data, err := fork.ReadFile(ctx, "d29/1499")
			require.NoError(t, err)
			require.Equal(t, "1499", string(data))
			early = strings.HasPrefix(before.Revision, "c-") // of the entry of a commit
			require.NoError(t, fork.WriteFile(ctx, "own", nil, 0), "what changes waits")
			now, err := fork.Stat(ctx, "d29/1499")
			require.NoError(t, err)
			require.False(t, strings.HasPrefix(now.Revision, "c-"))
			before.Revision = now.Revision
			require.Equal(t, before, now)
		}
		require.True(t, early, "no fork was read before its tree was there")
	})
}
