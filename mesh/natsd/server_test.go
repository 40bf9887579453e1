package natsd_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/natsd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newConfig(t *testing.T) natsd.Config {
	dir := t.TempDir()
	keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	return natsd.Config{Dir: filepath.Join(dir, "nats"), Keys: keys}
}

func start(t *testing.T, cfg natsd.Config) *natsd.Server {
	s, err := natsd.Start(cfg)
	require.NoError(t, err)
	t.Cleanup(s.Kill)
	return s
}

func storeOptions(t *testing.T, cfg natsd.Config, opts ...nats.Option) []nats.Option {
	creds, err := cfg.Keys.Signer().Streams()
	require.NoError(t, err)
	return append(append(mesh.ConnOptions(creds.Name, creds.Inbox), creds.Option()), opts...)
}

func stream(t *testing.T, s *natsd.Server, cfg natsd.Config, opts ...nats.Option) (jetstream.JetStream, *nats.Conn) {
	nc, err := nats.Connect(s.URL(), storeOptions(t, cfg, opts...)...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
		Name: mesh.JournalStream(0), Subjects: []string{"int.v1.journal.00.>"},
	})
	require.NoError(t, err)
	return js, nc
}

var subject = mesh.JournalSubject(0, "acme", "repo")

func TestRestartKeepsDataAndKeys(t *testing.T) {
	for _, c := range []struct {
		name, sync string
		end        func(*natsd.Server)
	}{
		{"in order", natsd.SyncAlways, func(s *natsd.Server) { require.NoError(t, s.Shutdown(context.Background())) }},
		{"killed", natsd.SyncAlways, (*natsd.Server).Kill},
		{"sync by interval", natsd.SyncInterval, (*natsd.Server).Kill},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig(t)
			cfg.Sync = c.sync
			s := start(t, cfg)
			js, nc := stream(t, s, cfg)
			ack, err := js.Publish(t.Context(), subject, []byte("hello"))
			require.NoError(t, err)
			admin, err := cfg.Keys.Signer().Admin()
			require.NoError(t, err)
			nc.Close()
			c.end(s)
			requirePrivate(t, cfg.Dir)

			cfg.Keys, err = auth.LoadOrCreate(filepath.Join(filepath.Dir(cfg.Dir), "keys"))
			require.NoError(t, err)
			s = start(t, cfg)
			js, _ = stream(t, s, cfg)
			kept, err := js.Stream(t.Context(), mesh.JournalStream(0))
			require.NoError(t, err)
			m, err := kept.GetMsg(t.Context(), ack.Sequence)
			require.NoError(t, err)
			require.Equal(t, "hello", string(m.Data))
			nc, err = nats.Connect(s.URL(), admin.Option())
			require.NoError(t, err, "credentials from before the restart")
			nc.Close()
		})
	}
}

func requirePrivate(t *testing.T, dir string) {
	files := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if d.IsDir() {
			require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			return nil
		}
		files++
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), path)
		return nil
	}))
	require.NotZero(t, files)
}

func TestOneServerPerDirectory(t *testing.T) {
	cfg := newConfig(t)
	require.NoError(t, os.Mkdir(cfg.Dir, 0o755)) // made private by Start
	s := start(t, cfg)
	_, err := natsd.Start(cfg)
	require.Equal(t, mesh.CodeBusy, mesh.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "process "+strconv.Itoa(os.Getpid()))
	require.NoError(t, s.Shutdown(t.Context()))
	require.NoError(t, s.Shutdown(t.Context()), "again")
	s.Kill()
	require.False(t, s.Running())
	requirePrivate(t, cfg.Dir)
	start(t, cfg)
}

func TestStartIsRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		name   string
		change func(*natsd.Config)
		code   mesh.Code
		text   string
	}{
		{"port in use", func(c *natsd.Config) { c.Port = port }, mesh.CodeExists, "--nats"},
		{"cluster port in use", func(c *natsd.Config) {
			c.Cluster = &natsd.Cluster{Name: "c", Port: port, Routes: []string{taken.Addr().String()}}
		}, mesh.CodeExists, taken.Addr().String()},
		{"directory below a file", func(c *natsd.Config) {
			require.NoError(t, os.WriteFile(c.Dir, nil, 0o600))
			c.Dir = filepath.Join(c.Dir, "nats")
		}, mesh.CodeDenied, "writable"},
		{"directory is a file", func(c *natsd.Config) {
			require.NoError(t, os.WriteFile(c.Dir, nil, 0o600))
		}, mesh.CodeDenied, "writable"},
		{"every interface", func(c *natsd.Config) { c.Host = "0.0.0.0" }, mesh.CodeUnsupported, "TLS"},
		{"an address of the network", func(c *natsd.Config) { c.Host = "192.0.2.1" }, mesh.CodeUnsupported, "TLS"},
		{"a name", func(c *natsd.Config) { c.Host = "example.com" }, mesh.CodeUnsupported, "TLS"},
		{"unknown sync", func(c *natsd.Config) { c.Sync = "never" }, mesh.CodeInvalid, "always"},
		{"impossible port", func(c *natsd.Config) { c.Port = 70000 }, mesh.CodeInvalid, "65535"},
		{"no keys", func(c *natsd.Config) { c.Keys = nil }, mesh.CodeInvalid, "keys"},
		{"no directory", func(c *natsd.Config) { c.Dir = "" }, mesh.CodeInvalid, "directory"},
		{"a cluster without routes", func(c *natsd.Config) { c.Cluster = &natsd.Cluster{Name: "c", Port: 1} }, mesh.CodeInvalid, "routes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig(t)
			good := cfg
			c.change(&cfg)
			_, err := natsd.Start(cfg)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, c.text)
			var e *mesh.Error
			require.ErrorAs(t, err, &e)
			require.NotContains(t, e.Text, filepath.Dir(good.Dir), "what may cross the wire names no host path")
			if c.code != mesh.CodeDenied {
				start(t, good) // nothing was left: neither a lock nor a server
			}
		})
	}
}

func TestShutdownUnderLoadLosesNothing(t *testing.T) {
	cfg := newConfig(t)
	s := start(t, cfg)
	noticed := make(chan struct{})
	js, nc := stream(t, s, cfg, nats.NoReconnect(), nats.LameDuckModeHandler(func(*nats.Conn) { close(noticed) }))

	const writers = 4
	acked := make([]map[uint64]string, writers)
	running := make(chan struct{}, writers)
	var wg sync.WaitGroup
	for w := range writers {
		acked[w] = map[uint64]string{}
		wg.Go(func() {
			for i := 0; ; i++ {
				text := fmt.Sprintf("%d/%d", w, i)
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				ack, err := js.Publish(ctx, subject, []byte(text), jetstream.WithRetryAttempts(0))
				cancel()
				if err != nil {
					return
				}
				acked[w][ack.Sequence] = text
				if i == 20 {
					running <- struct{}{}
				}
			}
		})
	}
	for range writers {
		<-running
	}
	begin := time.Now()
	require.NoError(t, s.Shutdown(t.Context()))
	require.Less(t, time.Since(begin), 5*time.Second)
	wg.Wait()
	select {
	case <-noticed:
	case <-time.After(5 * time.Second):
		require.Fail(t, "clients were not told before they were disconnected")
	}
	nc.Close()

	s = start(t, cfg)
	js, _ = stream(t, s, cfg)
	kept, err := js.Stream(t.Context(), mesh.JournalStream(0))
	require.NoError(t, err)
	total := 0
	for w := range writers {
		for seq, text := range acked[w] {
			m, err := kept.GetMsg(t.Context(), seq)
			require.NoError(t, err)
			require.Equal(t, text, string(m.Data))
			total++
		}
	}
	require.Greater(t, total, writers*20)
	t.Logf("%d acknowledged messages kept", total)
}

func TestShutdownIsBoundedByItsContext(t *testing.T) {
	cfg := newConfig(t)
	s := start(t, cfg)
	stream(t, s, cfg, nats.NoReconnect())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
	require.False(t, s.Running())
	start(t, cfg)
}

func TestInProcess(t *testing.T) {
	cfg := newConfig(t)
	s := start(t, cfg)
	token, err := cfg.Keys.Signer().Tenant(auth.TokenSpec{Tenant: "acme"})
	require.NoError(t, err)
	door, err := cfg.Keys.Signer().Door("n1")
	require.NoError(t, err)
	answering, err := s.InProcess(door.Option())
	require.NoError(t, err)
	defer answering.Close()
	_, err = answering.Subscribe(mesh.APIWildcards[0], func(m *nats.Msg) { _ = m.Respond([]byte("yes")) })
	require.NoError(t, err)
	require.NoError(t, answering.Flush())

	asking, err := s.InProcess(mesh.TokenOption(token.JWT), nats.CustomInboxPrefix(mesh.InboxPrefix("acme", string(token.ID))))
	require.NoError(t, err)
	defer asking.Close()
	m, err := asking.Request(mesh.APISubject("acme", "place", "open"), nil, 5*time.Second)
	require.NoError(t, err)
	require.Equal(t, "yes", string(m.Data))

	require.NoError(t, asking.Publish("int.v1.journal.00.acme.repo", nil))
	require.NoError(t, asking.Flush())
	require.ErrorIs(t, asking.LastError(), nats.ErrPermissionViolation, "no more rights than over TCP")
}

func TestLimits(t *testing.T) {
	cfg := newConfig(t)
	s := start(t, cfg)
	js, nc := stream(t, s, cfg)
	require.EqualValues(t, mesh.MaxPayload, nc.MaxPayload())
	_, err := js.Publish(t.Context(), subject, make([]byte, mesh.MaxMessage))
	require.NoError(t, err)
	require.ErrorIs(t, nc.Publish(subject, make([]byte, mesh.MaxPayload+1)), nats.ErrMaxPayload)
	require.True(t, s.Ready())
	require.Equal(t, natsd.DefaultName, s.Name())
	require.Equal(t, "nats://127.0.0.1:"+strconv.Itoa(s.Port()), s.URL())
}

// lines is a log target that may be read while it is written.
type lines struct {
	mu sync.Mutex
	sb strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sb.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sb.String()
}

func TestLog(t *testing.T) {
	for _, c := range []struct {
		name  string
		level slog.Level
		want  string
	}{
		{"debug shows what the server says", slog.LevelDebug, "Server is ready"},
		{"info is for what a person acts on", slog.LevelInfo, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig(t)
			var out lines
			cfg.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: c.level}))
			s := start(t, cfg)
			_, nc := stream(t, s, cfg)
			nc.Close()
			s.Kill()
			if c.want == "" {
				require.Empty(t, out.String())
				return
			}
			require.Contains(t, out.String(), c.want)
			require.NotContains(t, out.String(), cfg.Keys.RoutePassword())
		})
	}
}
