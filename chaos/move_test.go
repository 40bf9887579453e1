package chaos

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// moveFiles moves a workspace of many files there and back while one client writes, and
// says for how long that had to wait. The next owner has a copy by then: it makes few
// files while nobody is served.
func (c *cluster) moveFiles(t *testing.T) {
	files := 2000
	if os.Getenv("WSMESH_LONG") == "1" {
		files = 10_000
	}
	line := fmt.Sprintf(`for d in $(seq 100); do mkdir -p many/d$d; done; for i in $(seq %d); do echo $i > many/d$((i%%100+1))/f$i; done`, files)
	out, err := c.workspace().Command(t.Context(), "sh", "-c", line).CombinedOutput()
	require.NoError(t, err, string(out))
	for turn := range 4 {
		to := c.Nodes[0]
		if to == c.owner(t) {
			to = c.Nodes[1]
		}
		before := len(to.log.String())
		moved := make(chan error, 1)
		began := time.Now()
		go func() {
			out, err := c.Run(t.Context(), "workspace", "move", string(clusterWorkspace), to.Name)
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			moved <- err
		}()
		var longest time.Duration
		writes := 0
		write := func() {
			start := time.Now()
			require.NoError(t, c.workspace().WriteFile(t.Context(), fmt.Sprintf("moving/f%d", writes%50), fmt.Appendf(nil, "%d %d", turn, writes), 0o644))
			longest = max(longest, time.Since(start))
			writes++
		}
		for done := false; !done; {
			select {
			case err := <-moved:
				require.NoError(t, err)
				done = true
			default:
			}
			write()
			time.Sleep(time.Millisecond)
		}
		took := time.Since(began)
		require.Same(t, to, c.owner(t))
		// What the last opening made was the difference.
		said := to.log.String()[before:]
		require.Contains(t, said, "workspace brought up to date", said)
		t.Logf("%d files moved to %s in %s; %d writes meanwhile, the longest took %s", files, to.Name, ms(took), writes, ms(longest))
		if os.Getenv("WSMESH_TRACE") != "" {
			for l := range strings.Lines(said) {
				t.Log(l)
			}
		}
		for i := range min(50, writes) {
			last := writes - 1 - (writes-1-i)%50 // the last one that wrote it
			content, err := c.workspace().ReadFile(t.Context(), fmt.Sprintf("moving/f%d", i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%d %d", turn, last), string(content))
		}
	}
	n := 0
	for e, err := range c.workspace().ReadDir(t.Context(), "many/d1") {
		require.NoError(t, err)
		content, err := c.workspace().ReadFile(t.Context(), "many/d1/"+string(e.Path))
		require.NoError(t, err)
		require.Equal(t, string(e.Path), "f"+strings.TrimSpace(string(content)))
		n++
	}
	require.Equal(t, files/100, n)
	require.NoError(t, c.workspace().RemoveAll(t.Context(), "many"))
}
