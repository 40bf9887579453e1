package chaos

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

// late is requests that lie at an owner who cannot answer them, and is overruled before
// it can: of the file "late".
type late struct {
	conn  *nats.Conn
	epoch mesh.Epoch
	ctx   context.Context
	end   context.CancelFunc
	all   sync.WaitGroup

	mu      sync.Mutex
	answers map[string][]string // by what was asked: the content, or the code
}

func (c *cluster) lateRequests(t *testing.T) *late {
	t.Helper()
	info, err := c.workspace().Info(t.Context())
	require.NoError(t, err)
	cfg, err := client.ReadFile(filepath.Join(c.Dir, "client.json"))
	require.NoError(t, err)
	claims, err := mesh.ParseToken(cfg.Token)
	require.NoError(t, err)
	inbox := mesh.InboxPrefix(string(claims.Tenant), string(claims.ID))
	l := &late{epoch: info.Epoch, answers: map[string][]string{}}
	l.conn, err = nats.Connect(cfg.URL, append(mesh.ConnOptions("chaos", inbox), mesh.TokenOption(cfg.Token))...)
	require.NoError(t, err)
	l.ctx, l.end = context.WithTimeout(t.Context(), patience)
	t.Cleanup(func() {
		l.end()
		l.all.Wait()
		l.conn.Close()
	})
	return l
}

// ask sends some of each kind to the owner in its tenure, and waits for nothing.
func (l *late) ask() {
	read := mesh.ReadRequest{Path: "late"}
	write := mesh.WriteRequest{Path: "late", Mode: 0o644}
	for range 5 {
		l.send("plain", mesh.VerbRead, read, nil)
		l.send("consistent", mesh.VerbRead, read, nil)
		l.send("write", mesh.VerbWrite, write, []byte("too late"))
	}
}

func (l *late) send(kind, verb string, args any, content []byte) {
	l.all.Go(func() {
		m, err := mesh.NewRequest(mesh.OwnerSubject(clusterTenant, clusterWorkspace, l.epoch, verb), mesh.NewID(), "", args, content)
		if err != nil {
			return
		}
		if kind == "consistent" {
			m.Header.Set(mesh.HeaderConsistent, "1")
		}
		reply, err := l.conn.RequestMsgWithContext(l.ctx, m)
		var found []byte
		if err == nil {
			found, err = mesh.DecodeReply(reply, nil)
		}
		answer := string(found)
		if err != nil {
			answer = "code " + string(mesh.CodeOf(err))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.answers[kind] = append(l.answers[kind], answer)
	})
}

// lateTime is how long an answer is waited for once the owner has stepped down: it
// answers what it was asked before it does that, or at once.
const lateTime = 10 * time.Second

// judge waits for the answers and says that the overruled owner has told nothing that
// was over to who asked for the present, and has written nothing. No answer is as good:
// a server that has waited too long for the frozen one closes its connection, and what
// lay there is gone.
func (l *late) judge(t *testing.T) {
	t.Helper()
	timer := time.AfterFunc(lateTime, l.end)
	defer timer.Stop()
	l.all.Wait()
	t.Logf("what an overruled owner was asked before: %v", l.answers)
	for _, kind := range []string{"consistent", "write"} {
		require.Len(t, l.answers[kind], 5)
		for _, answer := range l.answers[kind] {
			require.Contains(t, []string{"code stale", "code lost", "code busy", "code unavailable", "code deadline", "code canceled"}, answer, kind)
		}
	}
}
