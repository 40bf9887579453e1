package sandbox

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// requireOrSkip skips a test whose precondition is missing, and fails it
// instead where WSMESH_REQUIRE, a comma-separated list, names the precondition.
func requireOrSkip(t *testing.T, what, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("WSMESH_REQUIRE"), ","), what) {
		t.Fatalf("WSMESH_REQUIRE names %s, which is missing: %s", what, why)
	}
	t.Skipf("SKIPPED, %s is missing: %s", what, why)
}
