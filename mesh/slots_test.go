package mesh_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
)

func TestSlotsAreShared(t *testing.T) {
	s := mesh.NewSlots(8)
	require.True(t, s.Take("a"))
	require.True(t, s.Take("a"))
	require.False(t, s.Take("a"), "a quarter is an owner's share")
	for _, owner := range []string{"b", "c", "d"} {
		require.True(t, s.Take(owner))
		require.True(t, s.Take(owner))
	}
	require.False(t, s.Take("e"), "all are taken")
	s.Give("a")
	require.True(t, s.Take("e"))
	require.False(t, s.Take("a"))
}
