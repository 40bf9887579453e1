package mcpgw

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

// Who holds as much as he may keeps nobody else from holding some.
func TestBudgetIsShared(t *testing.T) {
	const most = 1 << 20
	held := newBudget(4 * most)
	mine, err := held.take(t.Context(), "acme", most)
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = held.take(ended, "acme", 1)
	require.Equal(t, mesh.CodeBusy, mesh.CodeOf(err))
	other, err := held.take(t.Context(), "other", most)
	require.NoError(t, err)
	mine.give()
	other.give()
	require.Empty(t, held.shares)
	require.True(t, held.all.TryAcquire(4*most), "all is given back")
}
