package client_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// Who found no network is told which flag grants one, and whose own server did not
// answer is not.
func TestNetworkHint(t *testing.T) {
	failed := &mesh.Final{Code: 1, Net: "none"}
	for _, r := range []struct {
		stderr string
		hint   bool
	}{
		{"curl: (6) Could not resolve host: example.com", true},
		{"curl: (7) Failed to connect to 192.0.2.1 port 80 after 0 ms: Couldn't connect to server", true},
		{"fatal: unable to access 'http://192.0.2.1/x/': Failed to connect to 192.0.2.1 port 80 after 0 ms", true},
		{"curl: (7) Failed to connect to localhost port 3000 after 0 ms: Couldn't connect to server", false},
		{"curl: (7) Failed to connect to 127.0.0.1 port 3000 after 0 ms: Couldn't connect to server", false},
		{"curl: (7) Failed to connect to ::1 port 3000 after 0 ms: Couldn't connect to server", false},
		{"make: *** [all] Error 1", false},
	} {
		require.Equal(t, r.hint, client.NetworkHint(failed, []byte(r.stderr)) != "", r.stderr)
	}
	said := []byte("curl: (6) Could not resolve host: example.com")
	require.Empty(t, client.NetworkHint(&mesh.Final{Net: "none"}, said), "of a command that did not fail")
	require.Empty(t, client.NetworkHint(&mesh.Final{Code: 1, Net: "full"}, said))
	require.Contains(t, client.NetworkHint(&mesh.Final{Code: 1, Net: "allow:a.example", Refused: []string{"b.example:443"}}, nil), "--net allow:b.example:443")
}
