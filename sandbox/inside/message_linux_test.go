package inside

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRequests(t *testing.T) {
	for name, r := range map[string]*Request{
		"feed":     {Kind: KindFeed},
		"large":    {Kind: KindLarge},
		"signal":   {Kind: KindSignal, ID: 3, Signal: 15},
		"stop":     {Kind: KindStop, ID: 3},
		"run":      {Kind: KindRun, ID: 1 << 60, Dir: "/workspace/a b", Argv: []string{"true"}, Env: []string{}},
		"all":      {Kind: KindRun, ID: 2, Alone: true, Whole: true, Dir: "/", Argv: []string{"", "-n", "\n"}, Env: []string{"A=", "=x", ""}},
		"no words": {Kind: KindRun, Dir: "", Argv: []string{""}, Env: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeRequest(r.Encode())
			require.NoError(t, err)
			require.Equal(t, r, got)
		})
	}
	for name, text := range map[string]string{
		"empty": "", "kind": "walk\x001", "id": "feed\x00x", "no id": "feed", "signal": "signal\x001", "number": "signal\x001\x00x",
		"no argv": "run\x001\x00true\x00false\x00/\x000", "short": "run\x001\x00true\x00false\x00/\x003\x00a\x00b", "count": "run\x001\x00true\x00false\x00/\x00-1\x00a",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeRequest([]byte(text))
			require.Error(t, err)
		})
	}
}

func TestReplies(t *testing.T) {
	r := &Reply{Kind: KindEnded, ID: 9, Status: 0xff00, User: time.Second, System: time.Millisecond, MaxRSS: 5 << 20}
	got, err := DecodeReply(r.Encode())
	require.NoError(t, err)
	require.Equal(t, r, got)
}

// FuzzReply reads what a tenant may have written.
func FuzzReply(f *testing.F) {
	f.Add((&Reply{Kind: KindHello, Landlock: 7}).Encode())
	f.Add((&Reply{Kind: KindRefused, ID: 1, Stage: StageDir, Errno: 2}).Encode())
	f.Add((&Reply{Kind: KindEnded, ID: 1, Status: 137, MaxRSS: 1}).Encode())
	f.Add([]byte(strings.Repeat("\x00", 10)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReply(b)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(b), MaxReply)
		require.LessOrEqual(t, r.Status, uint32(0xffff))
		require.GreaterOrEqual(t, min(r.User, r.System), time.Duration(0))
		require.GreaterOrEqual(t, r.MaxRSS, int64(0))
		_, err = DecodeReply(r.Encode())
		require.NoError(t, err)
	})
}
